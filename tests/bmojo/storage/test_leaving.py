"""What leaves the set: each position is in the set, or has left it once, however the tokens came."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from bmojo_kernels.innovation_topk.naive import innovation_topk_naive
from hypothesis import given
from hypothesis import strategies as st

from bmojo.storage.leaving import leaving


def by_definition(priority, places, window, chunk, floor):
    """For each chunk: what is in the set before it or newly eligible, and not in the set of the chunk."""
    length = len(priority)
    sets = innovation_topk_naive(priority[None], places, window, chunk)[0]
    before, newest, found = set(), -1, []
    for c, row in enumerate(sets):
        end = min(c * chunk - (window - chunk + 1), length - 1)
        now = {int(j) for j in row if j >= 0}
        judged = before | set(range(newest + 1, end + 1))
        found.append(sorted(j for j in judged - now if priority[j] > -np.inf and priority[j] >= floor))
        before, newest = now, max(newest, end)
    return found


def set_after(priority, places, window):
    """Positions in the set of what has left the window after these tokens, in order of time, -1 in front."""
    left = [j for j in range(len(priority) - window) if priority[j] > -np.inf]
    best = sorted(sorted(left, key=lambda j: (-priority[j], j))[:places])
    return [-1] * (places - len(best)) + best


@given(
    length=st.integers(1, 40),
    window=st.integers(1, 6),
    chunk=st.integers(1, 6),
    places=st.integers(1, 5),
    cuts=st.lists(st.integers(1, 39), max_size=4),
    seed=st.integers(0, 1000),
    floor=st.sampled_from([-np.inf, 3.0]),
)
def test_it_is_the_definition_however_the_tokens_come(length, window, chunk, places, cuts, seed, floor):
    chunk = min(chunk, window)
    draw = np.random.default_rng(seed)
    priority = draw.integers(0, 8, length).astype(float)  # with ties
    priority[draw.random(length) < 0.1] = -np.inf
    expected = by_definition(priority, places, window, chunk, floor)
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    found: list[list[int]] = []
    for start, end in itertools.pairwise(edges):
        index = set_after(priority[:start], places, window)
        kept = torch.tensor([[priority[j] if j >= 0 else -np.inf for j in index]])
        ring = np.concatenate([np.full(window, -np.inf), priority[:start]])[-window:]
        stream = torch.from_numpy(np.concatenate([ring, priority[start:end]]))[None]
        left = leaving(kept, stream, position=start, window=window, chunk=chunk, floor=floor)
        where = index + list(range(start - window, end))
        before = sum(map(len, found))
        for rows in left.rows[0].tolist():
            found.append([where[row] for row in rows if row >= 0])
        touched = range(start // chunk, (end - 1) // chunk + 1)
        counts = [sum(len(rows) for rows in expected[: c + 1]) - before for c in touched]
        assert left.limit[0].tolist() == counts
    assert found == expected


def test_sequences_do_not_mix():
    priority = torch.randn(3, 4 + 20, generator=torch.Generator().manual_seed(0)).double()
    priority[:, :4] = -torch.inf
    kept = torch.full((3, 2), -torch.inf, dtype=torch.float64)
    whole = leaving(kept, priority, position=0, window=4, chunk=2)
    for row in range(3):
        alone = leaving(kept[:1], priority[row : row + 1], position=0, window=4, chunk=2)
        assert torch.equal(whole.rows[row : row + 1], alone.rows)
        assert torch.equal(whole.limit[row : row + 1], alone.limit)


@pytest.mark.parametrize("position", [1, 3])
def test_a_piece_inside_a_chunk_lets_nothing_leave(position):
    kept, priority = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 4 + 1, dtype=torch.float64)
    found = leaving(kept, priority, position=position, window=4, chunk=4)
    assert found.rows.shape == (1, 0, 6)
    assert found.limit.tolist() == [[0]]
