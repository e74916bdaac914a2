"""Files from strangers and disks that fail: one line each, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import realization as rz
from realization.files import write_atomically
from tests.source import ROOT
from tests.trust.calls import model_of
from tests.trust.spoiling import within

MANY = settings(
    max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip


def seeds_of(folder: Path) -> dict[str, bytes]:
    """One whole file of each kind."""
    model = model_of()
    rz.save_model(model, folder / "model.json")
    rz.save_model(model, folder / "model.npz")
    rz.interop.write_mat(folder / "data.mat", rz.IOData(np.arange(20.0), np.ones(20)))
    np.savez(folder / "data.npz", u=np.ones(9), y=np.arange(9.0))
    np.save(folder / "data.npy", np.ones((9, 2)))
    (folder / "data.csv").write_text("u,y\n" + "".join(f"{k},{k * k}\n" for k in range(9)))
    rz.stream_file(np.ones((9, 1)), outputs=0, block_rows=2, checkpoint=folder / "state")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


READERS: dict[str, Callable[[Path], Any]] = {
    "model.json": rz.load_model,
    "model.npz": rz.load_model,
    "data.mat": lambda path: rz.read_data(path, outputs="y", inputs="u"),
    "data.npz": lambda path: rz.read_data(path, outputs="y", inputs="u"),
    "data.npy": lambda path: (
        rz.read_data(path, outputs=1, inputs=0), rz.stream_file(path, outputs=1, inputs=0, block_rows=2)
    ),
    "data.csv": lambda path: (
        rz.read_csv(path, outputs="y", inputs="u"),
        rz.stream_file(path, outputs="y", inputs="u", block_rows=2),
    ),
    "state": lambda path: rz.stream_file(np.ones((9, 1)), outputs=0, block_rows=2, checkpoint=path),
}  # fmt: skip


def tried(kind: str, raw: bytes) -> None:
    """Read bytes as a file of some kind: a result, or an error of the family."""
    with tempfile.TemporaryDirectory() as folder, within(20):
        path = Path(folder, kind)
        path.write_bytes(raw)
        with suppress(rz.RealizationError):
            READERS[kind](path)
        assert {entry.name for entry in Path(folder).iterdir()} == {kind}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return seeds_of(tmp_path_factory.mktemp("whole"))


def torn(raw: bytes, cut: float, at: float, junk: bytes) -> bytes:
    start = int(at * len(raw))
    changed = raw[:start] + junk + raw[start + len(junk) :]
    return changed[: int(cut * len(changed))]


TEARS = {
    "cut": st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.1]) | st.floats(0, 1),
    "at": st.floats(0, 1),
    "junk": st.binary(max_size=40),
}


@pytest.mark.parametrize("kind", READERS)
@given(**TEARS)
def test_a_damaged_file_is_one_line(whole: dict[str, bytes], kind: str, cut: float, at: float, junk: bytes):
    tried(kind, torn(whole[kind], cut, at, junk))


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@MANY
@given(**TEARS)
def test_many_damaged_files(whole: dict[str, bytes], kind: str, cut: float, at: float, junk: bytes):
    tried(kind, torn(whole[kind], cut, at, junk))


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@MANY
@given(raw=st.binary(max_size=400))
def test_any_bytes_are_no_crash(kind: str, raw: bytes):
    tried(kind, raw)


@given(
    text=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    field=st.sampled_from(["format", "version", "kind", "dt", "arrays"]),
)
def test_a_model_with_another_content_is_refused(whole: dict[str, bytes], text: Any, field: str):
    content = json.loads(whole["model.json"]) | {field: text}
    tried("model.json", json.dumps(content).encode())


@pytest.mark.parametrize("kind", ["model.npz", "data.npz", "data.npy"])
def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, kind: str):
    """A header of a few bytes that promises 8 TB."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
    path = tmp_path / kind
    if kind.endswith(".npz"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("y.npy", raw)
            archive.writestr("u.npy", raw)
    else:
        path.write_bytes(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(rz.DataError):
        READERS[kind](path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_full_disk_is_one_line_and_nothing_is_half_written(tmp_path: Path):
    (tmp_path / "report.html").write_text("the old one")
    code = f"""
import resource, signal, numpy as np
import realization as rz
from realization.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
z = np.random.default_rng(0).standard_normal((900, 1))
large = rz.StateSpace(np.eye(40), np.ones((40, 1)), np.ones((1, 40)))
for work in (
    lambda: write_atomically({str(tmp_path / "report.html")!r}, "x" * 5000),
    lambda: rz.stream_file(z, outputs=0, checkpoint={str(tmp_path / "state")!r}),
    lambda: rz.save_model(large, {str(tmp_path / "m.json")!r}),
):
    try:
        work()
    except rz.DataError as error:
        print(str(error))
"""
    lines = run(code).stdout.splitlines()
    assert len(lines) == 3
    assert all("cannot write" in line and "too large" in line for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "the old one"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(rz.DataError, match="cannot write"):
        write_atomically(tmp_path / "none" / "a.txt", "x")
    (tmp_path / "a.txt").write_text("old")

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(rz.DataError, match=r"permission denied") as caught:
        write_atomically(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_data_set_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = rz.describe_data("dryer").file
    (tmp_path / name).write_text("u,y\n1,2\n3,4\n")
    monkeypatch.setenv("REALIZATION_DATA", str(tmp_path))
    with pytest.raises(rz.DataError, match="SHA-256"):
        rz.load_data("dryer")


def test_an_interrupted_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import pooch

    def interrupted(url: str, output_file: Any, pooch_: Any, **_: Any) -> None:
        Path(output_file).write_bytes(b"half")
        raise ConnectionError("the line is down")

    monkeypatch.delenv("REALIZATION_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path)
    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: interrupted)
    with pytest.raises(rz.DataError, match="cannot be downloaded"):
        rz.load_data("dryer")
    assert list(tmp_path.iterdir()) == []
