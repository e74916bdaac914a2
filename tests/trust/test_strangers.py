"""Models, states, configurations, records, stores and checkpoints of strangers, torn and forged.

What comes out is a right answer or an error of the family, in one line, in a bounded time, and no memory is
taken on a promise.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import realization as rz
from bmojo.storage import StorageWarning
from bmojo.training import CheckpointWarning
from tests.trust.spoiling import within
from tests.trust.strangers import KINDS, forge, made, read
from tests.trust.test_files import TEARS, torn

CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
FEW = settings(max_examples=8, suppress_health_check=CHECKS, deadline=None)
MANY = settings(max_examples=300, suppress_health_check=CHECKS, deadline=None)
SPARED = 400_000  # kB that a case may take


@pytest.fixture(scope="module", params=KINDS)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    kind = request.param
    folder = tmp_path_factory.mktemp("whole") / "example"
    files = made(kind, folder)
    read(kind, folder)  # whole, it is read; and what is loaded or compiled on the way is there
    return kind, files


def refusal(kind: str, folder: Path) -> str | None:
    """What is said of a folder that is not read."""
    try:
        read(kind, folder)
    except (rz.RealizationError, FileNotFoundError) as error:
        return str(error)
    return None


def tried(kind: str, files: dict[str, bytes]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as root, within(60), warnings.catch_warnings():
        warnings.simplefilter("ignore", StorageWarning)
        warnings.simplefilter("ignore", CheckpointWarning)
        for name, raw in files.items():
            path = Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
        said = refusal(kind, Path(root))
    assert said is None or (len(said) > 10 and "\n" not in said)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < SPARED


def forged(files: dict[str, bytes], seed: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    return forge(files, rng.choice(sorted(files)), rng)


@FEW
@given(seed=st.integers(0, 2**32))
def test_a_forged_folder_is_one_line(example, seed: int):
    kind, files = example
    tried(kind, forged(files, seed))


@pytest.mark.slow
@MANY
@given(seed=st.integers(0, 2**32))
def test_many_forged_folders(example, seed: int):
    kind, files = example
    tried(kind, forged(files, seed))


@pytest.mark.slow
@MANY
@given(which=st.integers(0, 99), **TEARS)
def test_many_torn_folders(example, which: int, cut: float, at: float, junk: bytes):
    kind, files = example
    name = sorted(files)[which % len(files)]
    tried(kind, files | {name: torn(files[name], cut, at, junk)})


@pytest.mark.filterwarnings("ignore:Object at")  # of Zarr
def test_a_missing_file_is_one_line(example):
    kind, files = example
    for name in files:
        tried(kind, {other: raw for other, raw in files.items() if other != name})


def test_a_pipe_is_no_file_and_nobody_waits_for_it(example, tmp_path: Path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes there")
    kind, files = example
    for name in files:
        folder = tmp_path / "piped"
        for other, raw in files.items():
            path = folder / other
            path.parent.mkdir(parents=True, exist_ok=True)
            if other == name:
                os.mkfifo(path)
            else:
                path.write_bytes(raw)
        with within(30), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "\n" not in (refusal(kind, folder) or "")
        shutil.rmtree(folder)
