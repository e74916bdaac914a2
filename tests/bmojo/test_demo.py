"""The main job in small: every part runs, the report holds what was measured."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import realization as rz
from bmojo.demo import CONTENDERS, Contender, compete
from bmojo.demo.__main__ import main
from bmojo.demo.contenders import CURRICULUM, GROWTH_GAPS, GROWTH_PAIRS, TASK, WINDOW, Outcome
from bmojo.demo.report import write_report
from bmojo.demo.signal import Clock, study
from tests.source import ROOT


def outcome(contender: Contender, accuracy: float) -> Outcome:
    """What a contender might have reached, without training."""
    memory = {"in_context": 10, "in_state": 20, "eidetic": 30 if contender.eidetic else 0}
    places = {m: m / 32 for m in (1, 16, 32)} if contender.eidetic else {}
    growth = (
        {(gap, pairs): accuracy for gap in GROWTH_GAPS for pairs in GROWTH_PAIRS} if contender.growth else {}
    )
    kept = {"tokens": [0] * TASK.length, "scores": [1.0] * TASK.length, "kept": [0, 3]}
    losses = np.linspace(4, 1, contender.steps).tolist()
    return Outcome(contender, 0, accuracy, memory, 99, losses, growth, places, kept)


@pytest.fixture(scope="module")
def studied():
    rng = np.random.default_rng(3)
    truth = rz.InnovationsModel([[0.9, 0.2], [-0.2, 0.9]], np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.8], [0.1]])
    record = rz.IOData(truth.simulate(e=rng.standard_normal((600, 1))))
    return study("Noise, coloured", record, Clock(2000.0, 0.5, "year"), draws=3)


def test_a_study_judges_on_what_was_held_back(studied):
    assert studied.held.length == 300
    assert studied.time[0] == 2000.0 + 0.5 * 300
    assert studied.fits["realization, one step ahead"] > studied.fits["the value before"] - 1
    assert studied.lift_error < 1e-12
    assert studied.curve.fit[-1].mean() > 99.999
    middle = len(studied.curve.budget) // 2
    assert studied.curve.error[middle] < studied.random.error[middle]


def test_a_study_with_inputs_simulates():
    rng = np.random.default_rng(4)
    truth = rz.InnovationsModel([[0.8]], [[1.0]], [[1.0]], K=[[0.3]], Re=[[0.01]])
    u = rng.standard_normal((400, 1))
    found = study(
        "driven",
        rz.IOData(truth.simulate(u, e=0.1 * rng.standard_normal((400, 1))), u),
        Clock(0, 1, "t"),
        draws=2,
    )
    assert found.fits["realization, from the input alone"] > 80
    assert found.lift_error < 1e-12


def test_the_report_holds_every_picture_and_number(tmp_path, studied):
    outcomes = [outcome(contender, 0.1 * (i + 1)) for i, contender in enumerate(CONTENDERS)]
    path = write_report(tmp_path / "new" / "demo", [studied], outcomes, seconds=12.3)
    text = path.read_text()
    pictures = sorted(file.stem for file in path.parent.glob("*.png"))
    assert pictures == [
        "budget",
        "growth",
        "kept_tokens",
        "learning",
        "noise_forecast",
        "noise_rebuilt",
        "noise_surprise",
        "recall",
    ]
    assert text.count("<img") == len(pictures)
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", text))
    assert not re.search(r'(src|href)="(https?:)?//', text)
    for each in outcomes:
        assert f"{100 * each.accuracy:.1f}" in text
    stored = json.loads((path.parent / "results.json").read_text())
    assert [entry["accuracy"] for entry in stored["recall"]] == [each.accuracy for each in outcomes]


def test_contenders_differ_in_memory_alone():
    by_name = {contender.name: contender for contender in CONTENDERS}
    small, large = by_name["stack, state 4"], by_name["stack, state 33"]
    places = by_name["B'MOJO, m = 16"]
    held = [sum(part.memory()["in_state"] for part in each.build(0).init_state(1)) for each in (small, large)]
    kept = sum(part.memory()["eidetic"] for part in places.build(0).init_state(1))
    bare = 2 * 64 * 33 * 4  # two layers, 64 channels, 33 numbers of four bytes
    assert held[0] < held[1]
    assert bare == kept  # "the same bytes as the eidetic set"
    assert CURRICULUM[0].gap > 2 * (WINDOW - 1)  # beyond the windows' reach through both layers


def test_a_contender_trains_and_is_measured():
    steps = []
    tiny = Contender("tiny", "bmojo", eidetic=4, steps=7)
    result = compete(tiny, seed=1, on_step=lambda step, loss: steps.append(step))
    assert steps == list(range(1, 8))
    assert len(result.losses) == 7
    assert 0 <= result.accuracy <= 1
    assert result.long_term == result.memory["in_state"] + result.memory["eidetic"]
    assert compete(tiny, seed=1).losses == result.losses


def test_help_and_a_folder_that_cannot_be_made(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / "demo")]) == 2
    assert capsys.readouterr().err.startswith("bmojo: error: the folder")


def test_workers_train_in_order_and_end_with_their_parent():
    script = """
import os, sys, threading
from bmojo.demo import Contender
from bmojo.demo.race import race
if __name__ == "__main__":
    tiny = [Contender(f"tiny {i}", "window", steps=steps) for i, steps in enumerate((14, 7))]
    print([(each.contender.name, len(each.losses)) for each in race(tiny, workers=2)], flush=True)
    threading.Timer(4, lambda: os.kill(os.getpid(), 9)).start()
    race([Contender("long", "window", steps=100_000)], workers=1)
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.py"
        path.write_text(script)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
        run = subprocess.Popen(
            [sys.executable, str(path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert run.stdout is not None
        # The pipe closes when every process that holds it is gone: the workers too.
        printed, _ = run.communicate(timeout=120)
    assert printed.splitlines()[-1] == "[('tiny 0', 14), ('tiny 1', 7)]"
    assert run.returncode == -signal.SIGKILL
