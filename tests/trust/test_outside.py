"""No reader of a folder opens anything outside of it, whatever its links and names say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import realization as rz
from bmojo import BMojoLM
from tests.source import ROOT
from tests.trust.strangers import language_model


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


def test_the_hubs_cache_is_followed_within_the_model(tmp_path: Path):
    """There a revision is a folder of links into the folder of the model's files."""
    revision, files = tmp_path / "models--a" / "snapshots" / "0", tmp_path / "models--a" / "blobs"
    revision.mkdir(parents=True)
    language_model().save(files)
    for name in ("config.json", "model.safetensors"):
        (revision / name).symlink_to(Path("..", "..", "blobs", name))
    assert BMojoLM.load(revision).options == BMojoLM.load(files).options
    files.rename(tmp_path / "elsewhere")
    files.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(rz.DataError, match="it lies outside of"):
        BMojoLM.load(revision)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_whose_file_is_a_link_out_of_its_folder_is_refused(tmp_path: Path, name: str):
    language_model().save(tmp_path / "model")
    (tmp_path / "model" / name).rename(tmp_path / name)
    (tmp_path / "model" / name).symlink_to(tmp_path / name)
    with pytest.raises(rz.DataError, match=f"{name}: it lies outside of .*; copy it there"):
        BMojoLM.load(tmp_path / "model")
