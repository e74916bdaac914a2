"""Gap recall: what the generator draws, and how an answer is counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo import BMojoConfig, BMojoLM
from bmojo.tasks import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall
from tests.strategies import seeds
from tests.tolerances import assert_close


@st.composite
def tasks(draw):
    pairs = draw(st.integers(1, 9))
    return GapRecall(
        pairs=pairs,
        gap=draw(st.integers(0, 7)),
        queries=draw(st.integers(1, 20)),
        vocabulary=2 * draw(st.integers(pairs + 1, 20)),
        lead=draw(st.integers(0, 3)),
        spacing=draw(st.integers(0, 3)),
    )


def sample(task, batch=3, seed=0):
    return task.sample(batch, torch.Generator().manual_seed(seed))


class TestGenerator:
    @given(task=tasks(), seed=seeds)
    def test_a_sequence_by_its_parts(self, task, seed):
        batch, half, K = sample(task, seed=seed), task.vocabulary // 2, task.pairs
        assert batch.tokens.shape == (3, task.length)
        assert batch.answers.shape == (3, task.queries)
        first = task.lead + 2 * K + task.gap
        assert batch.queries.tolist() == list(range(first, task.length, 1 + task.spacing))
        for row, answers in zip(batch.tokens.tolist(), batch.answers.tolist(), strict=True):
            keys, values = row[task.lead : task.lead + 2 * K : 2], row[task.lead + 1 : task.lead + 2 * K : 2]
            assert len(set(keys)) == len(set(values)) == K
            assert all(1 <= key < half for key in keys)
            assert all(half <= value < task.vocabulary for value in values)
            asked = [row[t] for t in batch.queries]
            assert answers == [dict(zip(keys, values, strict=True))[key] for key in asked]
            told = {*range(task.lead, task.lead + 2 * K), *batch.queries.tolist()}
            assert all(row[t] == 0 for t in range(task.length) if t not in told)

    @given(task=tasks(), seed=seeds)
    def test_no_key_is_asked_again_before_all_were(self, task, seed):
        batch = sample(task, seed=seed)
        for row in batch.tokens[:, batch.queries].tolist():
            for start in range(0, task.queries, task.pairs):
                asked = row[start : start + task.pairs]
                assert len(set(asked)) == len(asked)

    def test_everything_is_as_likely(self):
        task = GapRecall(pairs=4, gap=2, queries=3, vocabulary=20)
        batch = sample(task, 6000)
        keys, values = batch.tokens[:, 0:8:2], batch.tokens[:, 1:8:2]
        place = (keys.unsqueeze(1) == batch.tokens[:, batch.queries].unsqueeze(2)).long().argmax(-1)
        for drawn, lowest, count in ((keys, 1, 9), (values, 10, 10), (batch.answers, 10, 10), (place, 0, 4)):
            for column in drawn.T.numpy():
                counts = np.bincount(column - lowest, minlength=count)
                assert len(counts) == count
                assert scipy.stats.chisquare(counts).pvalue > 1e-4

    def test_the_seed_decides(self):
        task = GapRecall()
        assert torch.equal(sample(task, seed=4).tokens, sample(task, seed=4).tokens)
        assert not torch.equal(sample(task, seed=4).tokens, sample(task, seed=5).tokens)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"vocabulary": 63}, "vocabulary=63"),
            ({"pairs": 0}, "pairs=0"),
            ({"pairs": 32}, "pairs=32 came with vocabulary=64"),
            ({"gap": -1}, "at least 0"),
            ({"lead": -1}, "at least 0"),
            ({"spacing": -1}, "at least 0"),
            ({"queries": 0}, "at least 1"),
        ],
    )
    def test_what_cannot_be_drawn(self, options, message):
        with pytest.raises(ValueError, match=message):
            GapRecall(**options)


class Lookup(BMojoLM):
    """Answers by looking the key up, `wrong` of the queries on purpose: what a perfect memory does."""

    def __init__(self, vocabulary, wrong=0):
        super().__init__(vocabulary, [BMojoConfig(d_model=2, heads=1, window=2, eidetic=1, state_size=1)])
        self.vocabulary, self.wrong, self.budgets, self.batches = vocabulary, wrong, [], []

    def init_state(self, batch, *, eidetic=None):
        self.budgets.append(eidetic)
        return super().init_state(batch, eidetic=eidetic)

    def hidden(self, tokens, state):
        assert not self.training
        self.batches.append(tokens)
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        for b, row in enumerate(tokens.tolist()):
            known = {}
            for t, token in enumerate(row):
                logits[b, t, known.get(token, 0)] = 1.0
                known.setdefault(row[t - 1] if t else None, token)
        last = logits[:, logits.shape[1] - self.wrong :]
        last.zero_()[..., 0] = 1.0
        return logits, state

    def readout(self, hidden):
        return hidden


class TestAccuracy:
    task = GapRecall(pairs=5, gap=4, queries=5, vocabulary=24, spacing=0)

    def test_a_perfect_memory(self):
        assert recall_accuracy(Lookup(24), self.task) == 1.0

    def test_errors_are_counted(self):
        assert recall_accuracy(Lookup(24, wrong=2), self.task) == pytest.approx(3 / 5)

    def test_sequences_seed_and_budget(self):
        model = Lookup(24).train()
        recall_accuracy(model, self.task, sequences=70, seed=3, eidetic=7)
        assert model.training
        assert model.budgets == [7, 7]
        assert torch.equal(torch.cat(model.batches), sample(self.task, 70, seed=3).tokens)

    def test_chance(self):
        assert self.task.chance == pytest.approx(1 / 12)
        torch.manual_seed(1)
        untrained = BMojoLM(24, [BMojoConfig(d_model=8, heads=2, window=2, eidetic=2, state_size=2)])
        assert recall_accuracy(untrained, self.task, sequences=100) < 0.3


class TestTraining:
    task = GapRecall(pairs=2, gap=4, queries=4, vocabulary=8)

    def model(self, seed=0, **options):
        torch.manual_seed(seed)
        config = BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=4, **options)
        return BMojoLM(8, [config] * 2, mlp_ratio=0.0)

    def test_the_loss_falls(self):
        model, steps = self.model(), []
        losses = train_recall(
            model, [Stage(self.task, 60)], seed=0, rate=1e-2, batch=16, warmup=5,
            on_step=lambda step, loss: steps.append((step, loss)),
        )  # fmt: skip
        assert steps == list(enumerate(losses, start=1))
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
        assert not model.training
        assert all(float(block.layer.predictor.weight.detach().abs().max()) > 0 for block in model.blocks)

    def test_the_seed_decides(self):
        runs = [train_recall(self.model(), [Stage(self.task, 4)], seed=seed, batch=4) for seed in (1, 1, 2)]
        assert runs[0] == runs[1] != runs[2]

    def test_stages_follow_each_other(self):
        longer = GapRecall(pairs=2, gap=30, queries=4, vocabulary=8)
        losses = train_recall(
            self.model(), [Stage(self.task, 3), Stage(longer, 2)], seed=0, batch=2, warmup=0
        )
        assert len(losses) == 5

    def test_a_loss_that_is_not_finite_stops(self):
        model = self.model()
        with torch.no_grad():
            model.embedding.weight.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="at step 1; lower the rate"):
            train_recall(model, [Stage(self.task, 2)], seed=0, batch=2)


class TestLanguageModel:
    def model(self, *, vocabulary=11, dtype=torch.float64):
        torch.manual_seed(0)
        mixed = [
            BMojoConfig(d_model=12, heads=2, window=4, eidetic=3, state_size=3, write_gate=True),
            BMojoConfig(d_model=12, window=0, eidetic=0, state_size=2),
            BMojoConfig(d_model=12, heads=2, window=5, mixer="none", eidetic=0),
            BMojoConfig(d_model=12, heads=2, window=4, mixer="lti", eidetic=2, chunk=1, rule="norm"),
        ]
        return BMojoLM(vocabulary, mixed).to(dtype).eval()

    def test_pieces_and_steps_are_the_full_pass(self):
        model = self.model()
        sequence = torch.randint(11, (2, 40))
        full = model(sequence)
        assert full.shape == (2, 40, 11)
        for edges in ([0, 7, 8, 30, 40], list(range(41))):
            state, outputs = model.init_state(2), []
            for start, stop in itertools.pairwise(edges):
                logits, state = model(sequence[:, start:stop], state)
                outputs.append(logits)
            assert_close(torch.cat(outputs, dim=1), full, "recurrence")

    def test_a_budget_is_for_the_layers_that_have_one(self):
        states = self.model().init_state(2, eidetic=9)
        assert [state.eidetic_index.shape[1] for state in states] == [9, 0, 0, 9]
        assert [state.eidetic_index.shape[1] for state in self.model().init_state(2)] == [3, 0, 0, 2]

    def test_parameters_are_stored_and_read(self, tmp_path):
        model, other = self.model(), self.model()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.1)
        torch.save(model.state_dict(), tmp_path / "model.pt")
        other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        sequence = torch.randint(11, (1, 30))
        assert_close(other(sequence), model(sequence), "bitwise")

    def test_hidden_states_are_read_out(self):
        model, sequence = self.model(), torch.randint(11, (1, 9))
        hidden, _ = model.hidden(sequence, model.init_state(1))
        assert_close(model.readout(hidden), model(sequence), "bitwise")

    def test_a_trace_for_every_layer(self):
        model, sequence = self.model(), torch.randint(11, (2, 20))
        traces = model.trace(sequence)
        first = model.blocks[0]
        assert [len(trace.segments) for trace in traces] == [3, 0, 1, 3]
        assert_close(traces[0].output, first.layer(first.norm(model.embedding(sequence))))

    def test_layers_of_one_width(self):
        layers = [BMojoConfig(d_model=8), BMojoConfig(d_model=16)]
        with pytest.raises(ValueError, match=r"widths \[8, 16\]"):
            BMojoLM(5, layers)
        with pytest.raises(ValueError, match="widths"):
            BMojoLM(5, [])
