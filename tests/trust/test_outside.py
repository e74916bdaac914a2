"""No reader of a folder opens anything outside of it, whatever its links and names say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="folders are watched by inotify")
def test_no_reader_opens_anything_outside_its_folder(tmp_path: Path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.trust.watched", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
