"""Killed at any moment: what is on disk is whole, and going on gives the numbers of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import realization as rz
from tests.source import ROOT
from tests.tolerances import assert_close
from tests.trust.stream_loop import OPTIONS


def killed(kind: str, folder: Path, kills: int) -> None:
    script, paths = ROOT / "tests" / "trust" / "stream_loop.py", [str(ROOT), str(ROOT / "kernels")]
    subprocess.run(
        [sys.executable, str(script), kind, str(folder), str(kills), "5"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        timeout=600,
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
