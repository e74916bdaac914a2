"""Tables of chunks, made where all sequences are of one length and where they are packed."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="Triton is there on Linux only")

from bmojo_kernels.triton_support import chunked


@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("steps", [0, 1, 5, 16, 17, 64])
@pytest.mark.parametrize("length", [1, 4, 16, 17, 100])
def test_chunks_of_sequences_of_one_length(batch, steps, length):
    found = chunked(torch.zeros(batch, steps, 2), None, length)
    each = [range(0, steps, length) for _ in range(batch)]
    assert found.first.tolist() == [s * steps + i for s, rows in enumerate(each) for i in rows]
    assert found.sequence.tolist() == [s for s, rows in enumerate(each) for _ in rows]
    assert found.bounds.tolist() == [s * steps for s in range(batch + 1)]
    assert found.offsets.tolist() == [s * len(range(0, steps, length)) for s in range(batch + 1)]
    assert found.whole == (length >= steps)


@pytest.mark.parametrize("length", [1, 4, 16, 100])
def test_chunks_of_packed_sequences(length):
    edges = [0, 5, 5, 6, 21]
    found = chunked(torch.zeros(1, 21, 2), torch.tensor(edges), length)
    rows = [(s, i) for s, (low, high) in enumerate(itertools.pairwise(edges))
            for i in range(low, high, length)]  # fmt: skip
    assert found.first.tolist()[: len(rows)] == [i for _, i in rows]
    assert found.sequence.tolist() == [s for s, _ in rows] + [-1] * (found.count - len(rows))
