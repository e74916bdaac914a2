"""Scripts of evidence: every job can be done, the best rate is taken alike, runs go on where they were."""

from __future__ import annotations

import json

import pytest

from bmojo.training import read_configuration
from bmojo.training.models import layer_configs
from tests.source import ROOT


@pytest.fixture
def scripts(monkeypatch):
    """The modules, which import each other by their names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _evidence
    import evidence_recall

    return _evidence, evidence_recall


@pytest.mark.parametrize("size", ["quick", "full"])
def test_every_model_is_tried_alike(scripts, size):
    _, recall = scripts
    chosen = recall.SIZES[size]
    jobs = recall.jobs_of(chosen)
    models = list(dict.fromkeys(job.model for job in jobs))
    tried = {model: {(job.rate, job.seed) for job in jobs if job.model == model} for model in models}
    assert len(chosen.rates) >= 2
    assert len(chosen.seeds) >= 3
    assert set(map(frozenset, tried.values())) == {
        frozenset((rate, seed) for rate in chosen.rates for seed in chosen.seeds)
    }
    tasks = set()
    for job in jobs:
        config = read_configuration(job.config)
        layers = layer_configs(config.made_task(), config.model)
        assert {layer.d_model for layer in layers} == {chosen.width}
        tasks.add(str(config.stages()))
    assert len(tasks) == 1
    kept = [m for m in models if m.startswith("B'MOJO, m = ")]
    assert [int(m.rpartition(" ")[2]) for m in kept] == [k * chosen.pairs // 2 for k in (0, 1, 2, 4, 6)], (
        "m from 0 to 3 K"
    )
    for part in ("Transformer", "window", "Mamba-2", "gated delta", "stack", "B'MOJO-F"):
        assert any(part in model for model in models)


def record(evidence, model, rate, seed, accuracy, loss=1.0):
    memory = {"in_context": 100, "in_state": 20, "eidetic": 3}
    return evidence.Record(model, rate, seed, accuracy, loss, memory, 7, 1.0, [2.0, 1.0])


def test_the_best_rate_of_each_model(scripts):
    evidence, recall = scripts
    records = [
        record(evidence, "a", 0.1, 0, 0.9), record(evidence, "a", 0.1, 1, 0.1),
        record(evidence, "a", 0.2, 0, 0.6), record(evidence, "a", 0.2, 1, 0.5),
        record(evidence, "b", 0.1, 0, 0.5, 2.0), record(evidence, "b", 0.2, 0, 0.5, 1.5),
    ]  # fmt: skip
    best = evidence.best_of(records)
    assert [(r.rate, r.seed) for r in best["a"]] == [(0.2, 0), (0.2, 1)]
    assert [r.rate for r in best["b"]] == [0.2], "a tie: the smaller loss"
    rows = {row.case: row.value for row in recall.rows(recall.SIZES["quick"], records)}
    assert rows["a: mean (rate 0.2, 2 seeds)"] == pytest.approx(55.0)
    assert rows["a: worst"] == 50.0
    assert rows["a: bytes of state and places"] == 23
    assert rows["a: bytes of all memory"] == 123


@pytest.mark.slow
def test_jobs_go_on_where_they_were(scripts, tmp_path, monkeypatch):
    evidence, _ = scripts
    monkeypatch.setattr(evidence, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "results")
    config = {
        "task": {"kind": "gap_recall", "pairs": 2, "gap": 4, "vocabulary": 8},
        "model": {"d_model": 16, "heads": 2, "window": 4, "eidetic": 4, "state_size": 4},
        "train": {"steps": 3, "batch": 4, "rate": 1e-2, "seed": 0, "sequences": 8},
    }
    jobs = [evidence.Job("one", config), evidence.Job("B'MOJO, m = 2", config)]
    first = evidence.run_jobs("small", jobs, workers=2)
    again = evidence.run_jobs("small", jobs, workers=1)
    assert first == again, "seconds too: nothing was trained again"
    assert first[0].losses == first[1].losses
    assert set(first[0].memory) == {"in_context", "in_state", "eidetic"}
    rows = json.loads(evidence.write_records("small", jobs, first).read_text())
    assert [row["model"] for row in rows] == ["one", "B'MOJO, m = 2"]
    assert rows[0]["config"] == config
    assert rows[0]["accuracy"] == first[0].accuracy
