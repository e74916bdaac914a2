"""Evidence as pages: pictures and tables from JSON alone; and the jobs of selection, growth, theory."""

from __future__ import annotations

import dataclasses
import importlib
import json
from typing import Any

import matplotlib

matplotlib.use("agg")

import pytest
import torch

from bmojo.tasks import GapRecall
from bmojo.training import build_model, read_configuration
from tests.source import ROOT
from tests.tolerances import assert_close


@pytest.fixture
def script(monkeypatch):
    """A module of the benchmarks, which import each other by their names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def run(model, accuracy, /, **measured):
    memory = {"in_context": 100, "in_state": 2000, "eidetic": 3000}
    config = {"train": {"rate": 0.01, "seed": 0}}
    return {
        "model": model, "config": config, "accuracy": accuracy, "loss": None, "memory": memory,
        "parameters": 7, "seconds": 60.0, "curve": [2.0, 1.0], "measured": measured,
    }  # fmt: skip


def agreement(value):
    return {"at_budget": [value, value], "shocks": [value, value], "sets": 1.0}


def curve():
    return {
        "accuracy": {"1": {"8": 1.0, "16": 0.9}, "16": {"8": 0.8, "16": 0.7}},
        "bytes": {"1": {"8": 10, "16": 20}, "16": {"8": 10, "16": 20}},
    }


OCTAVES = [
    {"from": 0, "to": 64, "bits": 4.0},
    {"from": 64, "to": 128, "bits": 3.0, "difference": 0.25, "error": 0.1},
    {"from": 128, "to": 256, "bits": 3.0, "difference": 0.5, "error": 0.1},
]
TEXT = {
    "bits": 2.125, "by_position": [3.0, 2.0],
    "parts": {"recalled": {"bits": 1.5}, "the rest": {"bits": 2.5}, "from 64": {"bits": 1.5}},
}  # fmt: skip
STORED = [
    {"pairs": pairs, "bytes": 2**20, "with": dict(side, accuracy=0.75), "without": dict(side, accuracy=0.5)}
    for side in [{"read_ms": 0.1, "step_ms": 2.0}]
    for pairs in (10, 100)
]
PROCESS = {
    "information": [0.0, 1.0, 1.5], "nothing": 1.0, "least": 0.0, "trained": [0.5, 0.1],
}  # fmt: skip
FILES = {
    "recall": {
        "recall_quick": [run("Transformer", 1.0) | {"memory": {"in_context": 9, "in_state": 0, "eidetic": 0}},
                         run("B'MOJO, m = 4", 0.625)],
    },
    "levers": {"levers_quick": [run("a task: conv", 0.625), run("a task: Transformer", 1.0)]},
    "crossing": {
        "crossing_quick": [
            run("K = 8: stack, N = 16", 0.5) | {"looks": [{"step": 60, "accuracy": 0.5}]},
            run("K = 8: B'MOJO, m = 2K", 0.96)
            | {"looks": [{"step": s, "accuracy": a} for s, a in ((60, 0.2), (120, 0.95), (180, 0.96))]},
        ],
    },
    "selection": {
        "selection_quick": [run("top", 0.625, **{"pairs in the set": [0.5, 0.25]}),
                            run("choice at query time", 0.5, cache=1000)],
    },
    "length": {
        "length_recall_quick": [run("B'MOJO, own", 1.0, accuracy={"1": 0.625, "16": 0.5})],
        "length_text_quick": [run("B'MOJO, own", 1.0, octaves=OCTAVES)],
    },
    "mad": {"mad_quick": [run("compression: B'MOJO", 0.625), run("memorization: B'MOJO", 0.5)]},
    "language": {"language_quick": [run("B'MOJO", 0.0, **TEXT)], "language_time_quick": []},
    "storage": {"storage_quick": [run("B'MOJO with a store", 1.0, stored=STORED)]},
    "growth": {
        "growth_quick": [run("B'MOJO", 1.0, raised=curve(), kept=curve()),
                         run("stack, N = 64", 1.0, **{"as it is": curve()})],
    },
    "theory": {
        "theory_quick": [run("conv", 0.0, **{"layer 0": agreement(0.625)})],
        "theory_quick_signals": {
            "signals": {"0": {"magnitude": agreement(0.5)}}, "processes": {"0": PROCESS},
        },
    },
}  # fmt: skip
SHOWN = {
    "recall": "62.5", "levers": "62.5 (62.5)", "crossing": "| 5000 | 120 |",
    "selection": "50, 25", "length": "+0.500", "mad": "62.5", "language": "2.125",
    "storage": "75.0", "growth": "90 (70)", "theory": "62.5",
}  # fmt: skip


def written(folder, key):
    (folder / "evidence").mkdir(parents=True)
    for name, content in FILES[key].items():
        (folder / "evidence" / f"{name}.json").write_text(json.dumps(content))
    told = {
        "command": f"python benchmarks/evidence_{key}.py",
        "machine": {"cpu": "a processor", "gpu": None, "versions": {"torch": "9"}},
        "rows": [
            {"case": "a goal of ours", "value": 3.5, "unit": "%", "goal": 4.0, "met": False},
            {"case": "no goal", "value": 1.0, "unit": "%", "goal": None, "met": None},
        ],
    }
    (folder / f"evidence_{key}_quick.json").write_text(json.dumps(told))


@pytest.mark.parametrize("key", list(FILES))
def test_each_question_becomes_a_page_with_its_picture(script, tmp_path, key):
    pages = script("evidence_pages")
    written(tmp_path / "results", key)
    assert pages.write_pages(tmp_path / "results", tmp_path / "pages") == [key]
    text = (tmp_path / "pages" / f"{key}.md").read_text()
    assert (tmp_path / "pages" / f"{key}_quick.png").stat().st_size > 5000
    assert f"```{{figure}} _generated/pages/{key}_quick.png" in text
    assert SHOWN[key] in text
    assert "| a goal of ours | 3.5 % | 4 | **no** |" in text
    assert "no goal" not in text
    assert f"`python benchmarks/evidence_{key}.py`" in text
    assert "a processor, no GPU, torch 9" in text


def test_what_has_not_been_run_says_so(script, tmp_path):
    pages = script("evidence_pages")
    assert pages.write_pages(tmp_path, tmp_path / "pages") == []
    for question in pages.QUESTIONS:
        text = (tmp_path / "pages" / f"{question.key}.md").read_text()
        assert f"This has not been run: `python benchmarks/evidence_{question.key}.py" in text


def test_the_page_asks_every_question_once_and_make_runs_each(script):
    keys = [question.key for question in script("evidence_pages").QUESTIONS]
    page, makefile = (ROOT / "docs" / "results.md").read_text(), (ROOT / "Makefile").read_text()
    assert [page.count(f"_generated/evidence/{key}.md") for key in keys] == [1] * len(keys)
    assert f"EVIDENCE := {' '.join(keys)}\n" in makefile
    assert all((ROOT / "benchmarks" / f"evidence_{key}.py").is_file() for key in keys)


@pytest.mark.parametrize("size", ["quick", "full"])
@pytest.mark.parametrize("name", ["levers", "crossing", "selection", "growth", "theory"])
def test_every_job_makes_its_model(script, name, size):
    module = script(f"evidence_{name}")
    jobs = module.jobs_of(module.SIZES[size])
    chosen = module.SIZES[size]
    seeds = list(chosen.seeds) * len(getattr(chosen, "rates", (1,)))
    for model in {job.model for job in jobs}:
        own = [job for job in jobs if job.model == model]
        assert [job.seed for job in own] == seeds
        config = read_configuration(own[0].config)
        with torch.device("meta"):
            build_model(config.made_task(), config.model)


def test_a_run_that_another_question_has_done_is_the_same_run(script):
    evidence, selection = script("evidence_recall"), script("evidence_selection")
    done = {
        ("recall_quick", job.model, job.rate, job.seed): job
        for job in evidence.jobs_of(evidence.SIZES["quick"])
    }
    shared = [job for job in selection.jobs_of(selection.SIZES["quick"]) if job.shared]
    assert len(shared) == 6
    for job in shared:
        other = done[(*job.shared, job.rate, job.seed)]
        assert job.folder("selection_quick") == other.folder("recall_quick")
        assert job.config["task"] == other.config["task"]
        assert job.config["train"] == other.config["train"]
        made = [read_configuration(one.config) for one in (job, other)]
        with torch.device("meta"):
            layers = [build_model(c.made_task(), c.model).options for c in made]
        assert layers[0] == layers[1]


def test_the_oracle_keeps_the_pairs(script):
    selection = script("evidence_selection")
    size = selection.SIZES["quick"]
    job = next(job for job in selection.jobs_of(size) if job.model == "oracle")
    config = read_configuration(job.config)
    found = selection.measure(build_model(config.made_task(), config.model).eval(), recall="quick")
    assert found["pairs in the set"] == [1.0, 1.0]
    assert found["pairs in the set, same vocabulary"] == [1.0, 1.0]


class TestChoiceAtQueryTime:
    def test_it_reads_its_window_and_the_best_blocks(self, script):
        layer = script("_choices").QueryBlocks(8, 2, 4, window=5, read=4, block=2)
        torch.manual_seed(0)
        q, k = torch.randn(2, 23, 2, 4), torch.randn(2, 23, 2, 4)
        chosen = layer.chosen(q, k)
        for b, h, t in [(0, 0, 22), (1, 1, 15), (0, 1, 8), (1, 0, 6), (0, 0, 5)]:
            left = [n for n in range(11) if 2 * n + 1 <= t - 5]
            worth = {n: float(q[b, t, h] @ k[b, 2 * n : 2 * n + 2, h].mean(0)) for n in left}
            best = sorted(left, key=lambda n: -worth[n])[:2]
            expected = sorted(s for n in best for s in (2 * n, 2 * n + 1))
            assert chosen[b, h, t].nonzero()[:, 0].tolist() == expected

    def test_pieces_give_what_the_whole_gives_and_the_future_is_not_seen(self, script):
        torch.manual_seed(1)
        layer = script("_choices").QueryBlocks(8, 2, 4, window=5, read=4, block=2).double()
        u = torch.randn(2, 23, 8, dtype=torch.float64)
        whole, _ = layer(u)
        first, state = layer(u[:, :10], layer.init_state(2))
        rest, _ = layer(u[:, 10:], state)
        assert_close(torch.cat([first, rest], dim=1).detach(), whole.detach(), "recurrence")


class TestGrowth:
    def test_sharpened_queries_come_back(self, script):
        growth = script("evidence_growth")
        size = growth.SIZES["quick"]
        config = read_configuration(growth.jobs_of(size)[0].config)
        model: Any = build_model(config.made_task(), config.model)
        before = [block.layer.query_norm.weight.detach().clone() for block in model.blocks]
        with growth.sharpened(model, 2.0):
            for block, weight in zip(model.blocks, before, strict=True):
                assert torch.equal(block.layer.query_norm.weight, 2 * weight)
        for block, weight in zip(model.blocks, before, strict=True):
            assert torch.equal(block.layer.query_norm.weight, weight)

    def test_it_is_asked_in_every_way(self, script):
        growth = script("evidence_growth")
        size = dataclasses.replace(growth.SIZES["quick"], asked=(8, 12), gaps=(1,), tokens=200, width=16)
        ways = {}
        for job in growth.jobs_of(size)[:2]:
            config = read_configuration(job.config)
            model = build_model(config.made_task(), config.model).eval()
            ways[job.model] = growth.measure(model, size=size)
        own = ways["B'MOJO"]
        assert set(own) == {growth.RAISED, growth.SHARP, growth.KEPT, growth.STORED}
        held = own[growth.RAISED]["bytes"]["1"]
        # A place holds a key and a value of 16 numbers, a position and a priority; four pairs take eight.
        assert held["12"] - held["8"] == 2 * 8 * (2 * 16 * 4 + 8 + 8)
        assert own[growth.KEPT]["bytes"]["1"]["12"] == own[growth.KEPT]["bytes"]["1"]["8"]
        assert set(ways["Transformer"]) == {"as it is", growth.FULL}
        full = ways["Transformer"]["as it is"]["bytes"]["1"]
        lengths = [GapRecall(k, size.gap, min(64, 2 * k)).length for k in (8, 12)]
        assert (full["12"] - full["8"]) / full["8"] == pytest.approx(lengths[1] / lengths[0] - 1, rel=0.02)


class TestTheory:
    def test_agreement_counts_what_ties_with_the_last(self, script):
        theory = script("evidence_theory")
        exact = torch.tensor([[4.0, 4.0, 1.0, 4.0, 0.0, 0.5]])
        found = theory.agreement(torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), exact, exact > 3, 2)
        assert found["sizes"] == [1, 2, 4]
        assert found["precision"] == [1.0, 1.0, 0.75]
        assert found["recall"] == pytest.approx([1 / 3, 2 / 3, 1.0])
        assert found["shocks"] == pytest.approx([1.0, 2 / 3])

    def test_losses_by_samples_and_states_of_a_process(self, script):
        theory = script("evidence_theory")
        task = script("bmojo.tasks").LinearShocks(states=2, rate=0.0, length=400)
        losses = theory._by_samples(task.model, 40)
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] == pytest.approx(0.0, abs=1e-6)  # the innovation has variance one
        y = task.signals(16, torch.Generator().manual_seed(0)).y
        assert theory._loss(task.model, y) == pytest.approx(
            0.5 * float(torch.log(task.innovations(y).square().mean())), rel=1e-9
        )

    def test_where_a_curve_saturates(self, script):
        theory = script("evidence_theory")
        assert theory.saturation([0.0, 1.0, 1.96, 2.0]) == 2
        assert theory.saturation([0.0, 2.0]) == 1


def record(script, model, accuracy, seed=0, looks=(), memory=None):
    kept = {"in_state": 100, "eidetic": 20} if memory is None else memory
    return script("_evidence").Record(model, 0.01, seed, accuracy, 1.0, kept, 7, 1.0, [1.0], {}, list(looks))


class TestLevers:
    def test_the_effect_is_the_mean_over_the_other_lever(self, script):
        levers = script("evidence_levers")
        size, task = levers.SIZES["quick"], levers.STANDARD
        worth = {"": 0.1, "read-out": 0.5, "write gate": 0.3, "read-out, write gate": 0.9}
        best = {
            f"{task}: {name}": [record(script, name, worth[name.partition(", ")[2]])]
            for name in levers.levers(size)
            if name.partition(", ")[0] in ("conv", "residual")
        }
        assert levers.effect(size, best, task, "conv", "read-out") == pytest.approx(50.0)
        assert levers.effect(size, best, task, "residual", "write gate") == pytest.approx(30.0)

    def test_levers_are_what_their_names_say(self, script):
        levers = script("evidence_levers")
        for name, layers in levers.levers(levers.SIZES["quick"]).items():
            if name != "Transformer":
                assert layers["state_size"] == (64 if name.startswith("N = 64") else 16)
                assert (layers["fading_readout"] == "add") == ("read-out" in name)
                assert layers.get("write_gate", False) == ("write gate" in name)
                assert layers["predictor"] in name.split(", ")


class TestCrossing:
    def test_steps_are_those_of_the_first_look_that_is_good_enough(self, script):
        crossing = script("evidence_crossing")
        looks = [{"step": s, "accuracy": a} for s, a in ((60, 0.3), (120, 0.96), (180, 0.9), (240, 0.99))]
        assert crossing.reached(record(script, "a", 0.99, looks=looks)) == 120
        assert crossing.reached(record(script, "a", 0.3, looks=looks[:1])) is None

    def test_the_least_memory_is_one_with_which_every_seed_learned(self, script):
        crossing = script("evidence_crossing")
        small, large = {"in_state": 10, "eidetic": 5}, {"in_state": 100, "eidetic": 0}
        best = {
            "K = 8: stack, N = 1": [record(script, "", a, s, memory=small) for s, a in enumerate((1.0, 0.9))],
            "K = 8: stack, N = 2": [record(script, "", 0.96, memory=large)],
            "K = 8: other": [record(script, "", 1.0, memory=small)],
        }
        assert crossing.least_bytes(best, "K = 8", "stack") == 100
        assert crossing.least_bytes(best, "K = 8", "other") == 15
        assert crossing.least_bytes(best, "K = 16", "stack") is None


def test_octaves_are_means_over_seeds(script):
    length = script("evidence_length")
    other = [row | {"bits": row["bits"] + 2.0} for row in OCTAVES]
    runs = [record(script, "a", 0.0), record(script, "a", 0.0, 1)]
    for run_, rows in zip(runs, (OCTAVES, other), strict=True):
        run_.measured["octaves"] = rows
    assert [row["bits"] for row in length.mean_octaves(runs)] == [5.0, 4.0, 4.0]
