"""The loop against one that is written out in a few lines, and what options change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bmojo.tasks import TASKS, Compression, make_task
from bmojo.training import ConfigurationError, Stage, TrainOptions, build_model, evaluate, fit, train_recall
from tests.bmojo.training.conftest import LONGER, TASK
from tests.bmojo_tasks import sample
from tests.tolerances import assert_close


def plain_loop(model, stages, *, seed, rate, batch, warmup):
    """Training as one would write it down: AdamW, a cosine, nothing else."""
    generator, losses = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    total = sum(stage.steps for stage in stages)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / warmup) * (0.525 + 0.475 * math.cos(math.pi * i / total)),
    )
    model.train()
    for stage in stages:
        for _ in range(stage.steps):
            tokens, queries, answers = stage.task.sample(batch, generator)
            logits = model.readout(model.hidden(tokens)[:, queries])
            loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses


STAGES = [Stage(TASK, 6), Stage(LONGER, 6)]
FEW = {"steps": 12, "batch": 4, "sequences": 8}


class TestTheLoop:
    @pytest.mark.parametrize("options", [{}, {"dropout": 0.2}, {"rule": "random"}, {"write_gate": True}])
    def test_it_is_the_plain_loop_bit_for_bit(self, make, options):
        wanted = plain_loop(make(**options), STAGES, seed=3, rate=6e-3, batch=8, warmup=5)
        found = train_recall(make(**options), STAGES, seed=3, rate=6e-3, batch=8, warmup=5)
        assert found == wanted

    def test_evaluations_on_the_way_change_no_loss(self, make):
        without = fit(make(dropout=0.1), STAGES, TrainOptions(**FEW)).losses
        seen = fit(make(dropout=0.1), STAGES, TrainOptions(**FEW, evaluate_every=2))
        assert seen.losses == without
        assert [line["step"] for line in seen.evaluations] == [2, 4, 6, 8, 10, 12]

    @pytest.mark.parametrize("kind", ["gap_recall", "in_context_recall"])
    @pytest.mark.parametrize("clip", [0.0, 1.0])
    def test_passes_of_a_step_add_up_to_one_of_all_sequences(self, make, kind, clip, monkeypatch):
        """In float64, so that only the order of summing differs; answers fall unevenly to the passes."""
        task = make_task(kind, **({"length": 20, "examples": 0} if kind != "gap_recall" else {}))
        task = task.held_out
        drawn = [sample(task, 4, seed=s) for s in range(3)]
        whole = [
            torch.cat(parts) for parts in zip(*([d.tokens, d.targets, d.mask] for d in drawn), strict=True)
        ]

        def parameters_after(batches, accumulate):
            from bmojo.tasks import Batch

            model = make(vocabulary=task.vocabulary, write_gate=True).double()
            queue = [Batch(*batch) for batch in batches]
            source = Stage(Source(task, queue), 1)
            fit(
                model,
                [source],
                TrainOptions(steps=1, accumulate=accumulate, clip=clip, sequences=0, warmup=0),
            )
            return dict(model.named_parameters())

        one = parameters_after([whole], 1)
        several = parameters_after([(d.tokens, d.targets, d.mask) for d in drawn], 3)
        start = dict(make(vocabulary=task.vocabulary, write_gate=True).double().named_parameters())
        for name, value in one.items():
            assert not torch.equal(value, start[name]), name
            assert_close(several[name], value, "iterative", what=name)

    def test_vectors_have_no_decay(self, make):
        """One step at a tiny rate moves a matrix by its decay too, a vector by the gradient alone."""
        moved = []
        for decay in (0.0, 0.5):
            model = make()
            fit(
                model,
                [Stage(TASK, 1)],
                TrainOptions(
                    steps=1, rate=1e-2, warmup=0, weight_decay=decay, sequences=0, schedule="constant"
                ),
            )
            moved.append({name: p.detach() for name, p in model.named_parameters()})
        start = dict(make().named_parameters())
        for name, without in moved[0].items():
            factor = 0.5 * 1e-2 if without.ndim >= 2 else 0.0
            assert_close(moved[1][name], without - factor * start[name].detach(), what=name)

    def test_bfloat16_passes_learn(self, make):
        task = Stage(TASK, 60)
        options = TrainOptions(steps=60, batch=16, rate=1e-2, warmup=5, precision="bfloat16", sequences=0)
        model = make()
        losses = fit(model, [task], options).losses
        assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])
        assert all(p.dtype is torch.float32 for p in model.parameters())
        exact = fit(make(), [task], TrainOptions(**options.to_dict() | {"precision": "float32"})).losses
        assert losses != exact
        assert losses[0] == pytest.approx(exact[0], rel=0.02)

    def test_a_model_is_left_ready_to_be_asked(self, make):
        model = make()
        fit(model, STAGES, TrainOptions(**FEW))
        assert not model.training

    def test_steps_have_to_add_up(self, make):
        with pytest.raises(ValueError, match=r"\[6, 6\] steps came, options say 13"):
            fit(make(), STAGES, TrainOptions(steps=13))

    def test_a_loss_that_is_not_finite_is_named(self, make):
        model = make()
        with torch.no_grad():
            model.embedding.weight.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match=r"nan at step 1; lower the rate \(0.006\)"):
            fit(model, STAGES, TrainOptions(**FEW))


class Source:
    """A task that hands out given batches."""

    def __init__(self, like, batches):
        self.vocabulary, self.length, self.chance = like.vocabulary, like.length, like.chance
        self.description, self.held_out, self.batches = "given", like, list(batches)

    def sample(self, batch, generator):
        return self.batches.pop(0)


class TestEveryTaskIsTrained:
    @pytest.mark.parametrize("kind", list(TASKS))
    def test_by_the_one_loop(self, kind):
        small = {
            "mqar": {"vocabulary": 128},
            "fuzzy_recall": {"length": 40, "examples": 30},
            "source_text": {"length": 100},
            "needle": {"length": 60},
            "linear_shocks": {"length": 50},
        }
        task = make_task(kind, **small.get(kind, {}))
        torch.manual_seed(0)
        model = build_model(task, {"d_model": 16, "heads": 2, "window": 8, "eidetic": 4, "state_size": 4})
        fitted = fit(model, [Stage(task, 3)], TrainOptions(steps=3, batch=2, sequences=4))
        assert len(fitted.losses) == 3
        assert fitted.losses[0] == pytest.approx(math.log(task.vocabulary), rel=0.5)
        assert 0 <= fitted.evaluations[-1]["accuracy"] <= 1

    def test_compression_is_told_from_the_last_state_alone(self):
        task = Compression(length=8)
        torch.manual_seed(0)
        model = build_model(task, {"d_model": 16, "heads": 2, "window": 8, "eidetic": 4, "state_size": 4})
        tokens = sample(task, 3).tokens
        last = model.encoder.hidden(tokens)[:, -1]
        last.retain_grad() if last.requires_grad else None
        logits = model(tokens)
        assert logits.shape == (3, 8, 16)
        gradient = torch.autograd.grad(logits.square().sum(), model.encoder.norm.weight)[0]
        assert float(gradient.abs().max()) > 0
        changed = tokens.clone()
        changed[:, 0] = (changed[:, 0] + 1) % 15
        assert not torch.allclose(model(changed)[:, -1], logits[:, -1]), "every position sees the whole"


class TestSchedules:
    def test_cosine_by_its_formula(self):
        options = TrainOptions(steps=50, rate=2.0, warmup=7, floor=0.1)
        for i in range(50):
            wanted = 2.0 * min(1, (i + 1) / 7) * (0.55 + 0.45 * math.cos(math.pi * i / 50))
            assert options.rate_at(i) == pytest.approx(wanted, rel=1e-12)

    def test_warm_up_stable_decay(self):
        options = TrainOptions(steps=100, rate=1.0, warmup=10, schedule="wsd", floor=0.1, decay=0.25)
        rates = [options.rate_at(i) for i in range(100)]
        assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
        assert rates[10:76] == pytest.approx([1.0] * 66)
        assert np.diff(rates[75:]) == pytest.approx(-0.9 / 25)
        assert options.rate_at(100) == pytest.approx(0.1)

    def test_constant(self):
        options = TrainOptions(steps=9, rate=0.5, warmup=0, schedule="constant")
        assert [options.rate_at(i) for i in range(9)] == [0.5] * 9

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"steps": 0}, "steps=0"),
            ({"batch": 0}, "batch=0"),
            ({"rate": -1.0}, "rate=-1.0"),
            ({"rate": math.inf}, "rate=inf"),
            ({"schedule": "linear"}, "one of cosine, wsd, constant"),
            ({"precision": "float16"}, "one of float32, bfloat16"),
            ({"floor": 2.0}, r"within \[0, 1\]"),
            ({"beta2": 1.0}, r"within \[0, 1\)"),
            ({"patience": 3}, "evaluate_every=0"),
            ({"target": 0.9}, "evaluate_every=0"),
            ({"evaluate_every": 5, "sequences": 0}, "nothing to judge on"),
            ({"metric": "perplexity"}, "one of accuracy, loss"),
        ],
    )
    def test_what_is_refused(self, wrong, message):
        with pytest.raises(ConfigurationError, match=message):
            TrainOptions(**wrong)


class TestEndingEarly:
    def judged(self, monkeypatch, values):
        """Evaluations that say given accuracies, and twice as much loss less one."""
        from bmojo.training import Evaluation, standing

        told = iter(values)
        monkeypatch.setattr(standing, "evaluate", lambda *a, **k: Evaluation(1 - (v := next(told)), v, v, 1))

    def run(self, make, **options):
        return fit(make(), [Stage(TASK, 20)], TrainOptions(steps=20, batch=2, evaluate_every=2, **options))

    def test_no_better_for_long_enough(self, make, monkeypatch):
        self.judged(monkeypatch, [0.1, 0.3, 0.3, 0.2, 0.9])
        fitted = self.run(make, patience=2)
        assert (fitted.step, fitted.ended, fitted.best, len(fitted.losses)) == (8, "patience", 0.3, 8)

    def test_good_enough(self, make, monkeypatch):
        self.judged(monkeypatch, [0.1, 0.3, 0.8, 0.2])
        fitted = self.run(make, target=0.7)
        assert (fitted.step, fitted.ended) == (6, "target")

    def test_by_loss(self, make, monkeypatch):
        self.judged(monkeypatch, [0.5, 0.6, 0.55, 0.58, 0.9])
        fitted = self.run(make, patience=2, metric="loss")
        assert (fitted.step, fitted.best) == (8, pytest.approx(0.4))


class TestEvaluation:
    @pytest.mark.parametrize("kind", ["mqar", "in_context_recall", "source_text"])
    def test_it_is_what_counting_by_hand_gives(self, make, kind):
        options = {
            "mqar": {"vocabulary": 64, "length": 32, "pairs": 4},
            "source_text": {"length": 64, "window": 8},
        }
        task = make_task(kind, **options.get(kind, {})).held_out
        model = make(vocabulary=task.vocabulary).eval()
        found = evaluate(model, task, sequences=20, seed=4, batch=8)
        generator = torch.Generator().manual_seed(4)
        losses, right, answers, places, parts = [], [], [], [], {}
        for count in (8, 8, 4):
            batch = task.sample(count, generator)
            logits = model(batch.tokens).detach()
            for b in range(count):
                for t in batch.mask[b].nonzero()[:, 0].tolist():
                    target = int(batch.targets[b, t])
                    losses.append(float(-logits[b, t].log_softmax(-1)[target]))
                    right.append(int(logits[b, t].argmax()) == target)
                    answers.append(target)
                    places.append(t)
                    for name, part in batch.parts.items():
                        if part[b, t]:
                            parts.setdefault(name, []).append((losses[-1], right[-1]))
        assert found.count == len(losses)
        assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert found.accuracy == np.mean(right)
        by_answer = [np.mean([r for r, a in zip(right, answers) if a == one]) for one in set(answers)]
        assert found.macro_accuracy == pytest.approx(np.mean(by_answer))
        for t, value in enumerate(found.position_loss):
            here = [x for x, place in zip(losses, places) if place == t]
            assert value == pytest.approx(np.mean(here), rel=1e-4) if here else math.isnan(value)
        assert set(found.parts) == set(parts)
        for name, pairs in parts.items():
            assert found.parts[name].count == len(pairs)
            assert found.parts[name].loss == pytest.approx(np.mean([x for x, _ in pairs]), rel=1e-5)
            assert found.parts[name].bits == pytest.approx(found.parts[name].loss / math.log(2))

    def test_more_places_are_the_states(self, make):
        model = make().eval()
        assert evaluate(model, LONGER, eidetic=4).to_dict() == pytest.approx(
            evaluate(model, LONGER).to_dict()
        )
        assert evaluate(model, LONGER, eidetic=12).loss != evaluate(model, LONGER).loss
