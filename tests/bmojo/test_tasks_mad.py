"""The six MAD tasks against their definitions, written out token by token, and the statistics of draws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo.tasks import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorization,
    NoisyRecall,
    SelectiveCopying,
)
from tests.bmojo_tasks import LEVEL, sample
from tests.strategies import seeds

FRESH = {"examples": 0, "answers_only": True}


class TestInContextRecall:
    @given(
        seed=seeds,
        pairs=st.integers(1, 30),
        vocabulary=st.integers(2, 20),
        noise=st.sampled_from([0.0, 0.3, 0.8]),
    )
    def test_a_sequence_by_its_parts(self, seed, pairs, vocabulary, noise):
        options = {"length": 2 * pairs + 2, "vocabulary": vocabulary, **FRESH}
        task = InContextRecall(**options)
        if noise:
            task = NoisyRecall(**options | {"vocabulary": vocabulary + 4}, noise_vocabulary=4, noise=noise)
        batch = sample(task, seed=seed)
        for row, targets, mask in zip(*(x.tolist() for x in batch[:3]), strict=True):
            whole = [*row, targets[-1]]
            assert targets == whole[1:]
            assert len(whole) == task.length
            known: dict[int, int] = {}
            for t in range(0, task.length, 2):
                key, value = whole[t : t + 2]
                if key >= vocabulary:  # noise
                    assert noise
                    assert value >= vocabulary
                    assert not mask[t]
                    continue
                assert key < vocabulary // 2 <= value < vocabulary
                assert mask[t] == (key in known)
                assert known.setdefault(key, value) == value
            assert mask[-1], "the last pair was shown before"
            assert not any(mask[1::2])

    def test_the_baselines_are_those_of_mad(self):
        for task, options in {
            InContextRecall(): (16, 128, 12_800),
            FuzzyRecall(): (16, 128, 12_800),
            NoisyRecall(): (32, 128, 12_800),
            SelectiveCopying(): (16, 256, 12_800),
            Compression(): (16, 32, 12_800),
            Memorization(): (256, 32, 256),
        }.items():
            assert (task.vocabulary, task.length, task.examples) == options
        assert (NoisyRecall().noise_vocabulary, NoisyRecall().noise) == (16, 0.2)
        assert (FuzzyRecall().key_size, FuzzyRecall().value_size) == (3, 3)
        assert SelectiveCopying().tokens == 16

    def test_keys_values_and_noise_are_as_likely(self):
        task = NoisyRecall(length=32, noise=0.4, **FRESH)
        batch = sample(task, 3000)
        pairs = batch.tokens[:, :30].reshape(-1, 2).numpy()
        noisy = pairs[:, 0] >= 16
        assert scipy.stats.chisquare(np.bincount(pairs[~noisy, 0], minlength=8)).pvalue > LEVEL
        for column in pairs[noisy].T:
            assert scipy.stats.chisquare(np.bincount(column - 16, minlength=16)).pvalue > LEVEL
        # One pair of 15 is never noise.
        expected = 0.4 * 14 / 15
        assert scipy.stats.binomtest(int(noisy.sum()), len(noisy), expected).pvalue > LEVEL
        first = pairs.reshape(3000, 15, 2)[:, 0]
        values = first[first[:, 0] < 16, 1] - 8
        assert scipy.stats.chisquare(np.bincount(values, minlength=8)).pvalue > LEVEL

    def test_the_last_key_is_any_that_was_shown(self):
        task = InContextRecall(length=8, **FRESH)
        batch = sample(task, 6000)
        shown, last = batch.tokens[:, 0:6:2], batch.tokens[:, 6]
        different = [len(set(row)) == 3 for row in shown.tolist()]
        place = (shown == last.unsqueeze(1)).long().argmax(dim=1)[different].numpy()
        assert scipy.stats.chisquare(np.bincount(place, minlength=3)).pvalue > LEVEL


class TestFuzzyRecall:
    @given(
        seed=seeds,
        length=st.integers(19, 60),
        vocabulary=st.integers(8, 20),
        held=st.booleans(),
        sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    )
    def test_a_sequence_by_its_parts(self, seed, length, vocabulary, held, sizes):
        task = FuzzyRecall(
            length=length,
            vocabulary=vocabulary,
            examples=0,
            answers_only=held,
            key_size=sizes[0],
            value_size=sizes[1],
        )
        batch = sample(task, seed=seed)
        half, pad = (vocabulary - 1) // 2, vocabulary - 1
        for row, targets, mask in zip(*(x.tolist() for x in batch[:3]), strict=True):
            whole = [*([] if row[0] == pad else [pad]), *row, targets[-1]]
            assert targets == [*row[1:], targets[-1]]
            body = [token for token in whole if token != pad]
            assert whole[len(whole) - len(body) :] == body, "padding stands in front"
            pairs = self.pairs(body, half)
            due = []
            known: dict[tuple[int, ...], tuple[int, ...]] = {}
            for key, value in pairs:
                assert 1 <= len(key) <= sizes[0]
                assert 1 <= len(value) <= sizes[1]
                assert len(set(key)) == len(key)
                assert len(set(value)) == len(value)
                assert not held or len(key) == sizes[0]
                due += [False] * len(key) + [key in known] * len(value)
                assert known.setdefault(key, value) == value
            assert due[-1], "the pair that is asked for was shown"
            if held:
                assert mask[len(mask) - len(due) + 1 :] == due[1:] or mask[-len(due) :] == due
            else:
                assert all(mask)

    def pairs(self, body, half):
        """Keys and values, parted where a token of a key follows one of a value."""
        found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        key: list[int] = []
        value: list[int] = []
        for token in body:
            if token < half and value:
                found.append((tuple(key), tuple(value)))
                key, value = [], []
            (key if token < half else value).append(token)
        return [*found, (tuple(key), tuple(value))]

    def test_sizes_and_tokens_are_as_likely(self):
        batch = sample(FuzzyRecall(length=64, examples=0), 2000)
        keys, values = [], []
        for row in batch.tokens.tolist():
            pairs = self.pairs([token for token in row if token != 15], 7)
            # The probe's key may stand again, the pair that is cut at the end is left out.
            keys.append(pairs[0][0])
            values.append(pairs[0][1])
        for motifs, lowest, count in ((keys, 0, 7), (values, 7, 8)):
            sizes = np.bincount([len(motif) for motif in motifs], minlength=4)[1:]
            assert scipy.stats.chisquare(sizes).pvalue > LEVEL
            firsts = np.bincount([motif[0] - lowest for motif in motifs], minlength=count)
            assert scipy.stats.chisquare(firsts).pvalue > LEVEL


class TestSelectiveCopying:
    @given(seed=seeds, count=st.integers(1, 6), blanks=st.integers(1, 12), vocabulary=st.integers(3, 12))
    def test_a_sequence_by_its_parts(self, seed, count, blanks, vocabulary):
        task = SelectiveCopying(length=2 * count + 1 + blanks, tokens=count, vocabulary=vocabulary, **FRESH)
        batch = sample(task, seed=seed)
        blank, copy = vocabulary - 2, vocabulary - 1
        for row, targets, mask in zip(*(x.tolist() for x in batch[:3]), strict=True):
            told, rest = row[: -count - 1], row[-count - 1 :]
            assert rest == [copy] + [blank] * count
            assert [token for token in told if token != blank] == targets[-count:]
            assert told[-1] != blank
            assert mask == [False] * (len(row) - count) + [True] * count

    def test_blanks_fall_alike_before_each_token(self):
        task = SelectiveCopying(length=40, tokens=5, **FRESH)
        found = np.zeros(5)
        for row in sample(task, 1000).tokens.tolist():
            at = 0
            for token in row[:34]:
                found[min(at, 4)] += token == 14
                at += token != 14
        assert found.sum() == 1000 * 29
        assert scipy.stats.chisquare(found).pvalue > LEVEL


def test_compression_asks_for_the_whole_sequence():
    task = Compression(length=10, **FRESH)
    batch = sample(task, 2000)
    assert torch.equal(batch.tokens, batch.targets)
    assert bool(batch.mask.all())
    assert bool((batch.tokens[:, -1] == 15).all())
    counts = np.bincount(batch.tokens[:, :-1].flatten().numpy(), minlength=15)
    assert len(counts) == 15
    assert scipy.stats.chisquare(counts).pvalue > LEVEL
    assert task.pooled


class TestMemorization:
    def test_the_map_is_fixed_and_one_to_one(self):
        task = Memorization()
        batch, held = sample(task, 100), sample(task.held_out, 100, seed=9)
        known: dict[int, int] = {}
        for drawn in (batch, held):
            for row, targets in zip(drawn.tokens.tolist(), drawn.targets.tolist(), strict=True):
                assert set(row[1::2]) == {255}
                for key, value in zip(row[::2], targets[1::2], strict=True):
                    assert known.setdefault(key, value) == value
        assert len(set(known.values())) == len(known) == 127
        assert not set(known) & set(known.values())
        assert not torch.equal(Memorization(seed=1).values, task.values)


class TestTrainingSets:
    """A fixed set to learn from, and sequences to be judged on that are not of it."""

    @pytest.mark.parametrize("kind", [InContextRecall, FuzzyRecall, NoisyRecall, SelectiveCopying])
    def test_training_sees_examples_and_no_more_and_judging_none_of_them(self, kind):
        task = kind(length=64, examples=20)
        seen = sample(task, 2000).tokens.unique(dim=0)
        assert len(seen) == 20
        assert torch.equal(seen, sample(task, 2000, seed=1).tokens.unique(dim=0))
        new = sample(task.held_out, 500).tokens.unique(dim=0)
        assert len(new) == 500
        both = torch.cat([seen, new])
        assert len(both.unique(dim=0)) == 520

    def test_each_example_is_as_likely(self):
        task = InContextRecall(length=64, examples=20)
        _, counts = sample(task, 4000).tokens.unique(dim=0, return_counts=True)
        assert scipy.stats.chisquare(counts.numpy()).pvalue > LEVEL

    def test_another_seed_is_another_set(self):
        one, two = (sample(InContextRecall(length=64, examples=20, seed=s), 500).tokens for s in (0, 1))
        assert len(torch.cat([one.unique(dim=0), two.unique(dim=0)]).unique(dim=0)) == 40

    def test_training_predicts_every_token_and_judging_answers(self):
        task = InContextRecall(length=64, examples=20)
        assert bool(sample(task).mask.all())
        assert 0 < float(sample(task.held_out, 50).mask.double().mean()) < 0.5
