"""`innovation_topk`: the streaming set against sorting all that is eligible."""

from __future__ import annotations

import itertools

import bmojo_kernels as bk
import numpy as np
import pytest
import scipy.stats
import torch
from bmojo_kernels.innovation_topk.naive import innovation_topk_naive
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import assert_close

RULES = ("top", "threshold", "fifo", "random", "norm", "oracle")


@st.composite
def streams(draw):
    """Scores with many ties and some that are never kept."""
    T, rows = draw(st.integers(0, 30)), draw(st.integers(1, 3))
    values = st.sampled_from([0.0, 1.0, 2.0, 3.5, -1.0, -np.inf, np.inf])
    return np.array(draw(st.lists(values, min_size=rows * T, max_size=rows * T))).reshape(rows, T)


sizes = {"budget": st.integers(0, 6), "window": st.integers(1, 8), "chunk": st.integers(1, 8)}


@settings(max_examples=150)
@given(scores=streams(), rule=st.sampled_from(RULES), seed=st.integers(-3, 5), **sizes)
def test_numba_is_sorting(scores, rule, seed, budget, window, chunk):
    chunk = min(chunk, window)
    index = bk.innovation_topk(
        scores, budget=budget, window=window, chunk=chunk, rule=rule, threshold=1.0, seed=seed
    )
    priority = bk.selection_priority(scores, rule=rule, threshold=1.0, seed=seed)
    assert index.shape == (len(scores), -(-scores.shape[1] // chunk), budget)
    assert_close(index, innovation_topk_naive(priority, budget, window, chunk), "bitwise")


@settings(max_examples=150)
@given(scores=streams(), rule=st.sampled_from(RULES), cuts=st.lists(st.integers(0, 30), max_size=5), **sizes)
def test_any_cuts_give_the_same_sets(scores, rule, cuts, budget, window, chunk):
    chunk, T = min(chunk, window), scores.shape[1]
    whole = bk.innovation_topk(scores, budget=budget, window=window, chunk=chunk, rule=rule, threshold=1.0)
    kept, seen = bk.KeptSet.empty(len(scores), budget), {}
    edges = [0, *sorted(min(cut, T) for cut in cuts), T]
    for start, stop in itertools.pairwise(edges):
        first = max(0, start - window)  # the window before the piece comes along
        priority = bk.selection_priority(scores[:, first:stop], rule=rule, threshold=1.0, start=first)
        index, kept = kept.advance(priority, window=window, chunk=chunk)
        assert kept.position == stop
        seen |= {start // chunk + c: index[:, c] for c in range(index.shape[1] if stop > start else 0)}
        for c in set(seen) & {start // chunk}:  # a cut inside a chunk leaves its set
            assert_close(seen[c], whole[:, c], "bitwise")
    assert sorted(seen) == list(range(whole.shape[1]))
    for c, index in seen.items():
        assert_close(index, whole[:, c], "bitwise")
    if whole.shape[1]:
        assert_close(kept.index, whole[:, -1], "bitwise")
        values = bk.selection_priority(scores, rule=rule, threshold=1.0)
        held = np.where(kept.index < 0, -np.inf, np.take_along_axis(values, kept.index.clip(0), axis=1))
        assert kept.priority.tolist() == held.tolist()


class TestRules:
    scores = np.array([[5.0, 1.0, 7.0, 7.0, 0.0, 6.0, 2.0, -np.inf]])

    def final(self, rule, budget=3, **options):
        return bk.innovation_topk(self.scores, budget=budget, rule=rule, **options)[0, -1].tolist()

    def test_top_keeps_the_largest(self):
        assert self.final("top") == [2, 3, 5]
        assert self.final("norm") == self.final("oracle") == [2, 3, 5]

    def test_ties_go_to_the_older(self):
        assert bk.innovation_topk(np.ones((1, 9)), budget=3)[0, -1].tolist() == [0, 1, 2]

    def test_threshold_keeps_the_latest_that_exceed_it(self):
        assert self.final("threshold", threshold=4.0) == [2, 3, 5]
        assert self.final("threshold", threshold=4.0, budget=6) == [0, 2, 3, 5, -1, -1]
        assert self.final("threshold", threshold=7.0) == [-1, -1, -1]

    def test_fifo_keeps_the_latest(self):
        assert self.final("fifo") == [4, 5, 6]

    def test_never_kept(self):
        assert bk.innovation_topk(np.full((1, 5), -np.inf), budget=2).max() == -1

    def test_a_set_changes_at_chunk_starts_for_what_will_have_left_the_window(self):
        index = bk.innovation_topk(np.zeros((1, 10)), budget=9, window=4, chunk=3, rule="fifo")
        assert [row[row >= 0].tolist() for row in index[0]] == [[], [0, 1], [0, 1, 2, 3, 4], list(range(8))]

    def test_arguments_stay(self):
        before = self.scores.copy()
        kept = bk.KeptSet.empty(1, 2)
        kept.advance(self.scores, window=1, chunk=1)
        assert self.scores.tolist() == before.tolist()
        assert kept.index.tolist() == [[-1, -1]]
        assert kept.position == 0


class TestRandom:
    T, budget, rows = 24, 6, 4000

    def kept(self, **options):
        scores = np.zeros((self.rows, self.T + 1))
        return bk.innovation_topk(scores, budget=self.budget, rule="random", **options)[:, -1]

    def test_every_sample_of_the_past_is_as_likely(self):
        counts = np.bincount(self.kept(seed=1).ravel(), minlength=self.T)
        assert counts.sum() == self.rows * self.budget
        assert scipy.stats.chisquare(counts).pvalue > 1e-3

    def test_every_pair_is_as_likely(self):
        kept = self.kept(seed=2)
        pairs = np.zeros((self.T, self.T))
        for i in range(self.budget):
            for j in range(i + 1, self.budget):
                np.add.at(pairs, (kept[:, i], kept[:, j]), 1)
        assert scipy.stats.chisquare(pairs[np.triu_indices(self.T, 1)]).pvalue > 1e-3

    def test_every_seed_draws_anew(self):
        scores = np.zeros((1, self.T + 1))
        draws = [
            bk.innovation_topk(scores, budget=self.budget, rule="random", seed=seed)[0, -1]
            for seed in range(1500)
        ]
        counts = np.bincount(np.ravel(draws), minlength=self.T)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
        assert_close(draws[7], self.kept(seed=7)[0], "bitwise")

    def test_priorities_are_uniform(self):
        priority = bk.selection_priority(np.zeros((50, 400)), rule="random", seed=3)
        assert scipy.stats.kstest(priority.ravel(), "uniform").pvalue > 1e-3
        assert len(np.unique(priority)) == priority.size


class TestPriority:
    def test_what_each_rule_ranks_by(self):
        scores = np.array([[5.0, 1.0, 7.0]])
        for rule in ("top", "norm", "oracle"):
            assert_close(bk.selection_priority(scores, rule=rule), scores, "bitwise")
        assert_close(bk.selection_priority(scores, rule="fifo", start=4), [[4.0, 5.0, 6.0]], "bitwise")
        found = bk.selection_priority(scores, rule="threshold", threshold=4.0, start=4)
        assert found.tolist() == [[4.0, -np.inf, 6.0]]

    @pytest.mark.parametrize("rule", RULES)
    def test_it_does_not_depend_on_the_cut(self, rule):
        scores = np.random.default_rng(0).standard_normal((2, 12))
        whole = bk.selection_priority(scores, rule=rule, threshold=0.0, seed=5)
        part = bk.selection_priority(scores[:, 7:], rule=rule, threshold=0.0, seed=5, start=7)
        assert part.tolist() == whole[:, 7:].tolist()


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("rule", RULES)
    def test_they_give_what_arrays_give(self, rule, dtype):
        scores = (
            torch.from_numpy(np.random.default_rng(0).standard_normal((3, 65))).to(dtype).requires_grad_()
        )
        options = {"budget": 4, "window": 8, "chunk": 3, "rule": rule, "threshold": 0.5, "seed": 2}
        index = bk.innovation_topk(scores, **options)
        assert index.dtype == torch.int64
        assert not index.requires_grad
        expected = bk.innovation_topk(scores.detach().double().numpy(), **options)
        assert_close(index, expected, "bitwise")
        assert torch.equal(bk.innovation_topk(scores, **options, backend="naive"), index)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("backend", [None, "naive"])
    def test_packed_sequences_give_what_each_gives_alone(self, rule, backend):
        scores, edges = torch.rand(1, 40), torch.tensor([0, 1, 1, 20, 40])
        options = {"budget": 3, "window": 6, "chunk": 4, "rule": rule, "threshold": 0.5, "backend": backend}
        alone = []
        for low, high in itertools.pairwise(edges.tolist()):
            index = bk.innovation_topk(scores[:, low:high], **options)
            alone.append(torch.where(index >= 0, index + low, index))
        found = bk.innovation_topk(scores, **options, cu_seqlens=edges)
        assert torch.equal(found, torch.cat(alone, 1))
        arrays = bk.innovation_topk(scores.numpy(), **options, cu_seqlens=edges.numpy())
        assert_close(arrays, found, "bitwise")

    @pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 1000])
    def test_lengths(self, length):
        scores = torch.rand(2, length)
        index = bk.innovation_topk(scores, budget=5, window=64, chunk=64)
        assert index.shape == (2, -(-length // 64), 5)
        assert_close(index, innovation_topk_naive(scores.double().numpy(), 5, 64, 64), "bitwise")
        assert bk.innovation_topk(scores[:0], budget=5).shape == (0, length, 5)

    def test_torch_knows_the_operator(self):
        operator = torch.ops.bmojo.innovation_topk.default
        for edges in (None, torch.tensor([0, 4, 11])):
            torch.library.opcheck(operator, (torch.rand(1, 11), edges, 3, 4, 2, "top", None, 0))

    @pytest.mark.slow
    def test_compiles_as_one_graph_and_is_exported(self):
        class Model(torch.nn.Module):
            def forward(self, x):
                index = bk.innovation_topk(x.square(), budget=3, window=4, chunk=2)
                return x.gather(1, index[:, -1].clamp_min(0))

        x = torch.randn(2, 11)
        expected = Model()(x)
        assert torch.equal(torch.compile(Model(), fullgraph=True)(x), expected)
        assert torch.equal(torch.export.export(Model(), (x,)).module()(x), expected)


class TestErrors:
    @pytest.mark.parametrize(
        ("scores", "options", "message"),
        [
            (np.ones(3), {}, "scores has shape"),
            (np.ones((1, 2, 3)), {}, "scores has shape"),
            ([[1.0, np.nan]], {}, "NaN"),
            (np.ones((1, 3)), {"budget": -1}, "budget=-1"),
            (np.ones((1, 3)), {"chunk": 0}, "chunk=0"),
            (np.ones((1, 3)), {"window": 2, "chunk": 3}, "window=2, chunk=3"),
            (np.ones((1, 3)), {"window": 0}, "window=0"),
            (np.ones((1, 3)), {"rule": "best"}, "rule='best'"),
            (np.ones((1, 3)), {"rule": "threshold"}, "needs a threshold"),
            (np.ones((2, 3)), {"cu_seqlens": [0, 3]}, "a batch of 2"),
            (np.ones((1, 3)), {"cu_seqlens": [0, 2]}, "cu_seqlens"),
            (torch.ones(1, 3), {"cu_seqlens": torch.tensor([0, 4])}, "cu_seqlens"),
            (torch.full((1, 3), torch.nan), {}, "NaN"),
            (torch.ones(1, 3, dtype=torch.int64), {}, "int64"),
            (np.ones((1, 3)), {"backend": "fast"}, "backend='fast'"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, scores, options, message):
        with pytest.raises(ValueError, match=message):
            bk.innovation_topk(scores, **{"budget": 2} | options)

    @pytest.mark.parametrize("shape", [(4,), (3, 9), (2, 4), (2, 5, 1)])
    def test_priorities_that_do_not_go_on_from_a_set(self, shape):
        kept = bk.KeptSet(np.full((2, 3), -1), np.full((2, 3), -np.inf), position=5)
        with pytest.raises(ValueError, match=r"\(2, 5 \+ T\) is needed"):
            kept.advance(np.zeros(shape), window=7, chunk=2)
        with pytest.raises(ValueError, match="window=2, chunk=3"):
            kept.advance(np.zeros((2, 9)), window=2, chunk=3)

    def test_priorities_of_scores_that_are_no_matrix(self):
        with pytest.raises(ValueError, match="scores has shape"):
            bk.selection_priority(np.ones(3), rule="top")

    def test_sets_are_not_compared_by_accident(self):
        """Arrays have no truth value: equality of sets is identity."""
        first, second = (bk.KeptSet.empty(1, 2) for _ in range(2))
        assert first != second
        assert first == first
