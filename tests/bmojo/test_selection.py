"""Selection on tensors: the rules of signals, sets of any piece, one token at a time."""

from __future__ import annotations

import bmojo_kernels as bk
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo.eidetic.selection import absorbed, advanced, chunk_rows, hashed, priorities, seen_places
from tests.strategies import seeds
from tests.tolerances import assert_close


def worths(batch, length, *, seed):
    """Priorities with ties, and some that are never kept."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 12, (batch, length)).astype(float)
    values[rng.random((batch, length)) < 0.2] = -np.inf
    return torch.from_numpy(values)


def carried(priority, position, window, places):
    """Places and the window's priorities after `position` tokens, by sorting all of the past."""
    index = torch.full((len(priority), places), -1)
    kept = torch.full((len(priority), places), -torch.inf, dtype=torch.float64)
    for row, values in enumerate(priority.tolist()):
        left = [j for j in range(max(0, position - window)) if values[j] > -np.inf]
        best = sorted(sorted(left, key=lambda j: (-values[j], j))[:places])
        for place, j in enumerate(best, start=places - len(best)):
            index[row, place], kept[row, place] = j, values[j]
    padded = torch.cat(
        [torch.full((len(priority), window), -torch.inf, dtype=torch.float64), priority], dim=1
    )
    return index, kept, padded[:, position : position + window]


class TestRules:
    @given(length=st.integers(1, 40), start=st.integers(0, 10**6), seed=st.integers(0, 2**31 - 1))
    def test_random_is_the_hash_of_signals(self, length, start, seed):
        found = hashed(torch.arange(start, start + length), torch.tensor(seed))
        expected = bk.selection_priority(np.zeros((1, length)), rule="random", seed=seed, start=start)[0]
        assert_close(found, expected, "bitwise")

    @pytest.mark.parametrize("rule", ["top", "threshold", "fifo", "norm"])
    @given(length=st.integers(1, 40), start=st.integers(0, 100), seed=seeds)
    def test_the_others_too(self, rule, length, start, seed):
        scores, norms = (
            torch.from_numpy(np.random.default_rng(seed + i).random((2, length))) for i in (0, 1)
        )
        position = torch.arange(start, start + length)
        found = priorities(scores, norms, position, rule=rule, threshold=0.5, seed=None)
        given_scores = (norms if rule == "norm" else scores).numpy()
        expected = bk.selection_priority(given_scores, rule=rule, threshold=0.5, start=start)
        assert_close(found.nan_to_num(neginf=-1.0), np.where(np.isinf(expected), -1.0, expected), "bitwise")


sizes = {"window": st.integers(1, 9), "places": st.integers(1, 6), "position": st.integers(0, 40)}


class TestSets:
    @given(**sizes, length=st.integers(1, 30), data=st.data(), seed=seeds)
    def test_chunks_of_a_piece_are_those_of_the_whole(self, window, places, position, length, data, seed):
        chunk = data.draw(st.integers(1, window))
        priority = worths(2, position + length, seed=seed)
        index, kept, recent = carried(priority, position, window, places)
        piece = torch.cat([recent, priority[:, position:]], dim=1)
        rows = chunk_rows(kept, piece, position=position, window=window, chunk=chunk)
        positions = torch.cat(
            [index, torch.arange(position - window, position + length).expand(2, -1)], dim=1
        )
        found = torch.where(rows < 0, -1, positions.gather(1, rows.clamp_min(0).flatten(1)).view_as(rows))
        whole = bk.innovation_topk(priority.numpy(), budget=places, window=window, chunk=chunk)
        assert found.tolist() == whole[:, position // chunk :].tolist()

    @given(**sizes, length=st.integers(1, 30), seed=seeds)
    def test_what_has_left_the_window_is_absorbed(self, window, places, position, length, seed):
        priority = worths(2, position + length, seed=seed)
        index, kept, recent = carried(priority, position, window, places)
        left = torch.arange(position - window, position - window + length).expand(2, -1)
        worth = torch.cat([recent, priority[:, position:]], dim=1)[:, :length]
        _, found, values = absorbed(torch.cat([index, left], 1), torch.cat([kept, worth], 1), places)
        expected, best, _ = carried(priority, position + length, window, places)
        assert found.tolist() == expected.tolist()
        assert_close(values.nan_to_num(neginf=-1.0), best.nan_to_num(neginf=-1.0), "bitwise")

    @given(**sizes, data=st.data(), seed=seeds)
    def test_a_token_at_a_time(self, window, places, position, data, seed):
        chunk = data.draw(st.integers(1, window))
        priority = worths(2, position + window + 1, seed=seed)
        start = position + window  # the first position that pushes one out of a full window
        index, kept, recent = carried(priority, start, window, places)
        rows, index, kept = advanced(index, kept, start - window, recent[:, 0])
        expected, best, _ = carried(priority, start + 1, window, places)
        assert index.tolist() == expected.tolist()
        assert_close(kept.nan_to_num(neginf=-1.0), best.nan_to_num(neginf=-1.0), "bitwise")
        assert rows.shape == index.shape
        pending = recent[:, 1 : chunk - start % chunk]
        seen = torch.where(seen_places(kept, pending), index, -1)
        whole = bk.innovation_topk(priority.numpy(), budget=places, window=window, chunk=chunk)
        for row in range(2):
            visible = [j for j in whole[row, start // chunk].tolist() if 0 <= j <= start - window]
            assert [j for j in seen[row].tolist() if j >= 0] == visible
