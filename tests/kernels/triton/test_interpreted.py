"""The cases of `parity.py`, where Triton interprets its kernels on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is there on Linux only")


def test_interpreted_kernels_are_their_oracles():
    cases = Path(__file__).with_name("parity.py")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", str(cases)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    folder = Path(__file__).parents[3]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert " passed" in found.stdout
