"""What is committed outlives killed writers, torn writes, full disks and damaged files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmojo.storage import FlatStore, StorageError, StorageWarning, Stream, files
from bmojo.storage.files import StreamFiles
from bmojo.storage.protocol import checked_rows
from tests.source import ROOT

HERE = Stream(0, 0)
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def crash_loop(kind, folder, kills, seed):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    script = Path(__file__).with_name("crash_loop.py")
    result = subprocess.run(
        [sys.executable, str(script), kind, str(folder), str(kills), str(seed)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the loop forks")
@pytest.mark.parametrize("kind", ["store", "journal"])
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path, kind, kills):
    crash_loop(kind, tmp_path / "store", kills, seed=kills)


class Crash(BaseException):
    """The process ends here."""


class Failing:
    """Stands in for `os` in the module that writes: calls from the given number on fail, half done."""

    def __init__(self, at, error=None):
        self.at, self.error, self.calls = at, error, 0

    def __getattr__(self, name):
        return getattr(os, name)

    def _count(self):
        self.calls += 1
        if self.calls > self.at:
            raise Crash if self.error is None else OSError(self.error, os.strerror(self.error))

    def pwrite(self, handle, part, offset):
        try:
            self._count()
        except BaseException:
            os.pwrite(handle, bytes(part)[: len(part) // 2], offset)
            raise
        return os.pwrite(handle, part, offset)

    def truncate(self, path, size):
        self._count()
        os.truncate(path, size)

    def fsync(self, handle):
        self._count()
        os.fsync(handle)


def stored(folder, rows):
    """How many rows a folder's stream has, each held against what was appended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StorageWarning)
        found = StreamFiles(folder, writable=False).read()
    count = 0 if found is None else len(found)
    if found is not None:
        assert found.same(checked_rows(HERE, *rows(0, count)))
    return count


def test_a_crash_at_any_call_leaves_the_rows_before_it(tmp_path, rows, monkeypatch):
    """Every write is torn in the middle in turn, those of the commit record too."""
    at, finished = 0, False
    while not finished:
        folder = tmp_path / str(at)
        folder.mkdir()
        written = StreamFiles(folder, writable=True)
        written.write(checked_rows(HERE, *rows(0, 5)))
        monkeypatch.setattr(files, "os", Failing(at))
        try:
            written.write(checked_rows(HERE, *rows(5, 9)).at(5))
            finished = True
        except Crash:
            pass
        monkeypatch.setattr(files, "os", os)
        there = stored(folder, rows)
        assert there == 9 if finished else there in (5, 9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StorageWarning)
            again = StreamFiles(folder, writable=True)
        again.write(checked_rows(HERE, *rows(there, 12)).at(there))
        assert stored(folder, rows) == 12
        at += 1
    assert at > 8


def test_a_crash_while_rows_are_replaced_leaves_the_old_or_the_new(tmp_path, rows, monkeypatch):
    at, finished = 0, False
    while not finished:
        folder = tmp_path / str(at)
        folder.mkdir()
        written = StreamFiles(folder, writable=True)
        written.write(checked_rows(HERE, *rows(0, 5)))
        monkeypatch.setattr(files, "os", Failing(at))
        try:
            written.write(checked_rows(HERE, *rows(3, 9, seed=1)).at(3))
            finished = True
        except Crash:
            pass
        monkeypatch.setattr(files, "os", os)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StorageWarning)
            found = StreamFiles(folder, writable=False).read()
        assert found is not None
        new = checked_rows(HERE, *rows(3, 9, seed=1)).at(3)
        assert found.between(0, 3).same(checked_rows(HERE, *rows(0, 3)))
        rest = found.between(3, 9)
        assert len(rest) == 0 or rest.same(checked_rows(HERE, *rows(3, 5))) or rest.same(new)
        at += 1


def test_a_torn_record_is_named(tmp_path, rows):
    written = StreamFiles(tmp_path, writable=True)
    written.write(checked_rows(HERE, *rows(0, 5)))
    written.write(checked_rows(HERE, *rows(5, 7)).at(5))
    assert written.record is not None
    with (tmp_path / "committed").open("r+b") as file:
        file.seek(written.record.number % 2 * 4096 + 20)
        file.write(b"\xff")
    with pytest.warns(StorageWarning, match="one of its two records is unreadable, .* with 5 rows"):
        assert StreamFiles(tmp_path, writable=False).committed == 5


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, rows, monkeypatch, error):
    with FlatStore(tmp_path / "store") as store:
        store.append(HERE, *rows(0, 5))
        store.flush()
        for at in range(6):
            low = store.rows(HERE)
            monkeypatch.setattr(files, "os", Failing(at, error))
            store.append(HERE, *rows(low, low + 4))
            with pytest.raises(StorageError, match=f"cannot write .*: {os.strerror(error).lower()}") as said:
                store.flush()
            assert "\n" not in str(said.value)
            with pytest.raises(StorageError, match="cannot write"):
                store.append(HERE, *rows(low + 4, low + 5))
            assert store.rows(HERE) == low + 4
            assert store.search(HERE, torch.ones(1, 2, 4), low + 4).ordinals.min() == 0
            monkeypatch.setattr(files, "os", os)
            store.flush()
            assert store.committed(HERE) == low + 4
            assert stored(tmp_path / "store" / "0000-0000000", rows) == low + 4
    assert stored(tmp_path / "store" / "0000-0000000", rows) == 29


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    with pytest.raises(StorageError, match=r"cannot make .*nowhere is not there; make it first\."):
        FlatStore(tmp_path / "nowhere" / "store")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        FlatStore(tmp_path / "file")
    with pytest.raises(StorageError, match="there is no store"):
        FlatStore(tmp_path, mode="r")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_a_read_only_folder_is_one_line(tmp_path, rows):
    FlatStore(tmp_path / "store").close()
    (tmp_path / "store").chmod(0o500)
    with pytest.raises(StorageError, match="permission denied; give this user permission"):
        FlatStore(tmp_path / "store")
    FlatStore(tmp_path / "store", mode="r").close()


def test_a_snapshot_that_fails_leaves_nothing(tmp_path, rows, monkeypatch):
    with FlatStore(tmp_path / "store") as store:
        store.append(HERE, *rows(0, 5))
        store.flush()
        for at in range(4):
            monkeypatch.setattr(files, "os", Failing(at, errno.ENOSPC))
            with pytest.raises(StorageError, match="no space left on device"):
                store.snapshot(tmp_path / "copy")
            monkeypatch.setattr(files, "os", os)
            assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small store on disk, to be damaged in copies."""
    from tests.bmojo.storage.conftest import rows_of

    folder = tmp_path_factory.mktemp("whole") / "store"
    with FlatStore(folder) as store:
        store.append(HERE, *rows_of(0, 6))
        store.flush()
        store.append(HERE, *rows_of(6, 8))
    return folder


NAMES = ["committed", "keys.f16", "values.f16", "positions.i64", "../store.json"]


@one_folder
@given(
    name=st.sampled_from(NAMES),
    start=st.integers(0, 8191),
    junk=st.binary(max_size=40),
    cut=st.one_of(st.none(), st.integers(0, 300)),
)
def test_a_damaged_file_is_never_taken_for_rows(whole, tmp_path_factory, rows, name, start, junk, cut):
    """Whatever is changed: an error of one line, or the rows that were committed, and nothing else."""
    folder = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(whole, folder)
    path = folder / "0000-0000000" / name
    content = path.read_bytes()
    start = start % max(1, len(content))
    changed = (content[:start] + junk + content[start + len(junk) :])[:cut]
    path.write_bytes(changed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StorageWarning)
        try:
            with FlatStore(folder, mode="r") as store:
                count, found, said = store.rows(HERE), store._view(HERE, None), ""
        except StorageError as error:
            count, found, said = 0, [], str(error)
    assert "\n" not in said
    if said:
        assert changed != content
        return
    assert count in (0, 6, 8)
    if name != "committed":
        assert count == 8
    for piece in found:
        assert piece.same(checked_rows(HERE, *rows(0, count)))


def test_a_record_that_promises_more_than_is_there_takes_no_memory(whole, tmp_path):
    from bmojo.storage.record import Record

    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    for claimed in (Record(9, 1 << 60, 2, 4, 3), Record(9, 10, 65536, 65536, 65536)):
        content = bytes(4096) + claimed.packed()
        (folder / "0000-0000000" / "committed").write_bytes(content)
        with pytest.raises(StorageError, match="were committed; restore a snapshot"):
            FlatStore(folder, mode="r")


@pytest.mark.parametrize("name", ["committed", "keys.f16"])
def test_a_link_out_of_the_folder_is_not_followed(whole, tmp_path, name):
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    path = folder / "0000-0000000" / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="cannot read"):
        FlatStore(folder, mode="r")
    stream = folder / "0000-0000000"
    stream.rename(tmp_path / "elsewhere")
    stream.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="not a folder"):
        FlatStore(folder, mode="r")
