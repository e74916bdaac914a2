"""Killed at any moment: what is on disk is whole, and going on gives the numbers of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import realization as rz
from tests.source import ROOT
from tests.tolerances import assert_close
from tests.trust.kill_loop import OPTIONS, TRAINING, ended

# One thread, and a pool of Numba's that may be forked.
ALONE = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"}


def killed(kind: str, folder: Path, kills: int) -> None:
    script, paths = ROOT / "tests" / "trust" / "kill_loop.py", [str(ROOT), str(ROOT / "kernels")]
    subprocess.run(
        [sys.executable, str(script), kind, str(folder), str(kills), "5"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | ALONE,
        check=True,
        timeout=1200,
    )


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_stream_goes_on_to_the_same_numbers(tmp_path: Path, kills: int):
    np.save(tmp_path / "z.npy", np.random.default_rng(0).standard_normal((300_000, 2)))
    killed("stream", tmp_path, kills)
    seen = rz.stream_file(tmp_path / "z.npy", checkpoint=tmp_path / "state", **OPTIONS)
    whole = rz.stream_file(tmp_path / "z.npy", **OPTIONS)
    assert_close(seen.factorization().R, whole.factorization().R, "bitwise")


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_a_whole_report(tmp_path: Path, kills: int):
    killed("report", tmp_path, kills)
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path):
    from bmojo.training import train

    killed("training", tmp_path, 200)
    train(TRAINING, folder=tmp_path / str(len(ended(tmp_path))), quiet=True)
    whole = tmp_path / "undisturbed" / "results.json"
    torn = sorted(tmp_path.glob("[0-9]*/results.json"))
    assert len(torn) == len(ended(tmp_path)) + 1
    for path in torn:
        (found,), (wanted,) = (json.loads(one.read_text())["runs"] for one in (path, whole))
        assert (found["losses"], found["evaluations"]) == (wanted["losses"], wanted["evaluations"])
        weights = [(one.parent / "model" / "model.safetensors").read_bytes() for one in (path, whole)]
        assert weights[0] == weights[1]
