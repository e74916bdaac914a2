"""MQAR, gap recall's filler, the needle: held against their definitions, written out token by token."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo.tasks import MQAR, GapRecall, Needle
from tests.bmojo_tasks import LEVEL, answers_by_lookup, sample
from tests.strategies import seeds


@st.composite
def mqar(draw):
    pairs, passes = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    length = 2 * (pairs * (passes + 1) + draw(st.integers(0, 8)))
    vocabulary = 2 * (max(length // 2 + 1, pairs + 1) + draw(st.integers(0, 20)))
    return MQAR(
        pairs=pairs,
        length=length,
        vocabulary=vocabulary,
        passes=passes,
        power=draw(st.sampled_from([0.01, 0.5, 1.0])),
        filler=draw(st.sampled_from(["random", "zero"])),
    )


class TestMQAR:
    @given(task=mqar(), seed=seeds)
    def test_a_sequence_by_its_parts(self, task, seed):
        batch, half, context = sample(task, seed=seed), task.vocabulary // 2, 2 * task.pairs * task.passes
        for row, targets, mask in zip(*(x.tolist() for x in batch[:3]), strict=True):
            first = row[: 2 * task.pairs]
            keys, values = first[::2], first[1::2]
            assert len(set(keys)) == len(set(values)) == task.pairs
            assert all(1 <= key < half <= value < task.vocabulary for key, value in zip(keys, values))
            assert row[:context] == first * task.passes
            asked = [t for t in range(task.length) if mask[t]]
            assert len(asked) == task.pairs
            assert all(t >= context and (t - context) % 2 == 0 for t in asked)
            assert sorted(row[t] for t in asked) == sorted(keys), "every key once"
            known = dict(zip(keys, values, strict=True))
            assert [targets[t] for t in asked] == [known[row[t]] for t in asked]
            others = [row[t] for t in range(context, task.length) if not mask[t]]
            assert task.filler == "random" or set(others) <= {0}

    def test_the_defaults_are_zoologys(self):
        task = MQAR()
        assert (task.vocabulary, task.power, task.filler, task.passes) == (8192, 0.01, "random", 1)
        keys = sample(task, 2000).tokens[:, :16:2]
        values = sample(task, 2000).tokens[:, 1:16:2]
        assert int(keys.min()) >= 1
        assert int(keys.max()) < 4096 <= int(values.min())
        for drawn, lowest, count in ((keys, 1, 4095), (values, 4096, 4096)):
            bins = np.bincount((drawn.flatten().numpy() - lowest) * 16 // count, minlength=16)
            sizes = np.bincount(np.arange(count) * 16 // count)
            assert scipy.stats.chisquare(bins, bins.sum() * sizes / count).pvalue > LEVEL

    @pytest.mark.parametrize("power", [0.01, 1.0])
    def test_the_first_pairs_gap_follows_the_power_law(self, power):
        """The first key's slot is a draw from p, and the others come without replacement after it."""
        task = MQAR(pairs=3, length=46, vocabulary=64, power=power, filler="zero")
        batch = sample(task, 20_000)
        gap = self.slots(batch, task)[:, 0]
        p = np.arange(1, 21) ** (power - 1.0)
        assert scipy.stats.chisquare(np.bincount(gap, minlength=20), len(gap) * p / p.sum()).pvalue > LEVEL

    def test_two_gaps_are_successive_draws(self):
        """Joint law of the first two slots: p_i p_j / (1 - p_i)."""
        task = MQAR(pairs=2, length=16, vocabulary=32, filler="zero")
        slots = self.slots(sample(task, 40_000), task)
        p = np.arange(1, 7) ** -0.99
        p /= p.sum()
        joint = np.array([[0 if i == j else p[i] * p[j] / (1 - p[i]) for j in range(6)] for i in range(6)])
        found = np.zeros((6, 6))
        np.add.at(found, (slots[:, 0], slots[:, 1]), 1)
        off = ~np.eye(6, dtype=bool)
        assert found[~off].sum() == 0
        assert scipy.stats.chisquare(found[off], len(slots) * joint[off]).pvalue > LEVEL

    def slots(self, batch, task):
        """Slot of each pair's query, (B, K)."""
        context = 2 * task.pairs
        keys = batch.tokens[:, :context:2]
        later = batch.tokens[:, context:]
        return ((later.unsqueeze(1) == keys.unsqueeze(2)).long().argmax(dim=2) // 2).numpy()

    def test_random_filler_is_any_token(self):
        task = MQAR(pairs=1, length=40, vocabulary=42)
        batch = sample(task, 4000)
        filler = batch.tokens[:, 2:][~batch.mask[:, 2:]].numpy()
        assert scipy.stats.chisquare(np.bincount(filler, minlength=42)).pvalue > LEVEL

    def test_batches_do_not_repeat(self):
        generator, task = torch.Generator().manual_seed(0), MQAR(pairs=4, length=32, vocabulary=64)
        rows = torch.cat([task.sample(500, generator).tokens for _ in range(4)])
        assert len(rows.unique(dim=0)) == len(rows)


class TestFillerOfGapRecall:
    @pytest.mark.parametrize("fillers", [0, 1, 5])
    def test_answers_are_found_by_looking_the_key_up(self, fillers):
        task = GapRecall(pairs=4, gap=30, queries=8, vocabulary=32, fillers=fillers, spacing=1, lead=3)
        batch = sample(task, 100)
        found = answers_by_lookup(batch.tokens[:, task.lead :], 2 * task.pairs)
        assert torch.equal(found[:, batch.queries - task.lead], batch.answers)

    def test_targets_and_mask_are_the_answers(self):
        batch = sample(GapRecall(spacing=2), 7)
        assert torch.equal(batch.targets[batch.mask].view(7, -1), batch.answers)
        assert batch.mask.sum(dim=1).tolist() == [8] * 7
        assert batch.mask[0].nonzero()[:, 0].tolist() == batch.queries.tolist()

    def test_without_own_filler_no_key_comes_between(self):
        task = GapRecall(pairs=4, gap=60, queries=4, vocabulary=16, fillers=0)
        tokens = sample(task, 3000).tokens
        keys, gap = tokens[:, :8:2], tokens[:, 8:68]
        assert not bool((gap.unsqueeze(2) == keys.unsqueeze(1)).any())
        assert scipy.stats.chisquare(np.bincount(gap[gap >= 8].numpy() - 8)).pvalue > LEVEL
        counts = np.bincount(gap[gap < 8].numpy(), minlength=8)
        expected = np.array([len(keys)] + [len(keys) * (1 - 4 / 7)] * 7)
        assert scipy.stats.chisquare(counts, counts.sum() * expected / expected.sum()).pvalue > LEVEL

    def test_filler_of_its_own_vocabulary(self):
        task = GapRecall(pairs=4, gap=20, queries=4, vocabulary=32, fillers=6)
        tokens = sample(task, 1000).tokens
        assert int(tokens[:, :8:2].min()) >= 6
        counts = np.bincount(tokens[:, 8:28].flatten().numpy(), minlength=6)
        assert len(counts) == 6
        assert scipy.stats.chisquare(counts).pvalue > LEVEL


@st.composite
def needles(draw):
    count, digits = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return Needle(
        length=count * (digits + 2 + draw(st.integers(0, 9))) + digits + 1,
        needles=count,
        digits=digits,
        period=draw(st.sampled_from([0, 1, 5])),
        keys=draw(st.integers(count, 8)),
        vocabulary=30,
    )


class TestNeedle:
    @given(task=needles(), seed=seeds)
    def test_the_question_is_answered_by_the_needle(self, task, seed):
        batch, size = sample(task, seed=seed), task.digits + 2
        for row, targets, mask in zip(*(x.tolist() for x in batch[:3]), strict=True):
            whole = [*row, targets[-1]]
            body, question = whole[: task.room], whole[task.room :]
            assert targets == whole[1:]
            starts = [t for t, token in enumerate(body) if token == 0]
            facts = {body[t + 1]: body[t + 2 : t + size] for t in starts}
            assert len(facts) == len(starts) == task.needles
            assert question[0] == 0
            assert facts[question[1]] == question[2:]
            due = [t for t in range(task.length) if mask[t]]
            assert [targets[t] for t in due] == question[2:]
            filler = [t for t in range(task.room) if not any(s <= t < s + size for s in starts)]
            if task.period:
                assert all(
                    body[a] == body[b]
                    for a, b in itertools.combinations(filler, 2)
                    if (a - b) % task.period == 0
                )
            assert all(body[t] > 10 + task.keys for t in filler)

    @pytest.mark.parametrize(("depth", "start"), [(0.0, 0), (0.5, 44), (1.0, 89)])
    def test_depth(self, depth, start):
        task = Needle(length=100, depth=depth)
        tokens = sample(task).tokens
        assert [(row == 0).nonzero()[0, 0].item() for row in tokens] == [start] * 3
        assert task.room == 95

    def test_depth_is_anywhere_when_left_out(self):
        tokens = sample(Needle(length=45), 4000).tokens
        starts = (tokens == 0).long().argmax(dim=1).numpy()
        counts = np.bincount(starts, minlength=35)
        assert len(counts) == 35
        assert scipy.stats.chisquare(counts).pvalue > LEVEL
