"""The files of one stream: rows behind one another, and a record of how many of them count."""

from __future__ import annotations

import os
import threading
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.storage.errors import StorageError, StorageWarning, from_os
from bmojo.storage.protocol import Rows
from bmojo.storage.record import BYTES, SECOND, Record, newest, place

__all__ = ["StreamFiles"]

NAMES = ("keys.f16", "values.f16", "positions.i64")
KINDS = (np.dtype("<f2"), np.dtype("<f2"), np.dtype("<i8"))
COMMITTED = "committed"
STEP = 1 << 20  # bytes that are read or copied at a time
GROWTH = 1 << 16  # rows by which files grow at most


class StreamFiles:
    """One stream on disk. One thread writes; any thread reads.

    Parameters
    ----------
    folder : Path
    writable : bool
    durable : bool
        Wait until the disk has the bytes before they count, so that they outlive a loss of power too, not
        only the process.
    verify : bool
        Read all rows once and compare their checksums.

    Raises
    ------
    StorageError
        If the files are not what was committed, or cannot be read.
    """

    def __init__(self, folder: Path, *, writable: bool, durable: bool = True, verify: bool = True) -> None:
        self.folder, self.writable, self.durable = folder, writable, durable
        self._lock = threading.Lock()
        self._maps: tuple[Any, ...] | None = None
        self._capacity = 0
        self.epoch = 0  # counts how often rows were forgotten
        self.visible = 0  # rows that a reader may see: written, perhaps not committed yet
        self.record: Record | None = None
        if folder.is_symlink() or not folder.is_dir():
            raise StorageError(f"cannot read {folder}: it is not a folder; restore a snapshot.")
        content = self._read_whole(COMMITTED)
        self.record = newest(content)
        if self.record is None and (any(content) or any(self._size(name) for name in NAMES)):
            raise StorageError(
                f"cannot read {folder / COMMITTED}: wrong checksum in its records; restore a snapshot."
            )
        if self.record is not None:
            self._check(self.record, content, verify)
            self.visible = self.record.rows

    @property
    def committed(self) -> int:
        """Rows that count."""
        return 0 if self.record is None else self.record.rows

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Heads, key width, value width; `None` before the first row."""
        record = self.record
        return None if record is None else (record.heads, record.key_width, record.value_width)

    def read(self) -> Rows | None:
        """The rows that were written, as views of the files; `None` if there are none."""
        with self._lock:
            if self.visible == 0 or self.record is None:
                return None
            if self._maps is None or self._capacity < self.visible:
                self._map()
            keys, values, positions = (x[: self.visible] for x in self._maps or ())
            return Rows(0, keys, values, positions)

    def write(self, rows: Rows) -> None:
        """Write rows at their ordinals, and commit them; the same rows again change nothing.

        Parameters
        ----------
        rows : Rows
            `rows.first` at most the number of committed rows.

        Raises
        ------
        StorageError
            If the disk is full or refuses; what was committed stays so.
        """
        self._begin(rows.shape)
        assert self.record is not None
        old = self.read()
        if rows.first < self.committed and old is not None:
            seen = old.between(rows.first, min(rows.end, self.committed))
            if seen.same(rows.between(rows.first, seen.end)):
                rows = rows.between(seen.end, rows.end)
            else:
                self.truncate(rows.first)
        if not len(rows):
            return
        record = self.record
        parts = [
            np.ascontiguousarray(x, dtype=kind).data.cast("B")
            for x, kind in zip((rows.keys, rows.values, rows.positions), KINDS, strict=True)
        ]
        self._grow(record.rows + len(rows))
        for name, part, size in zip(NAMES, parts, record.row_bytes, strict=True):
            self._write(name, part, record.rows * size)
        with self._lock:
            self.visible = record.rows + len(rows)
        sums = tuple(zlib.crc32(part, old) for part, old in zip(parts, record.sums, strict=True))
        self._publish(record.then(record.rows + len(rows), (sums[0], sums[1], sums[2])))

    def truncate(self, count: int) -> None:
        """Forget the rows from the ordinal `count` on."""
        record = self.record
        if record is None or count >= record.rows:
            return
        with self._lock:
            self.visible, self.epoch = count, self.epoch + 1
        self._publish(record.then(count, self._sums(record, count)))

    def copy(self, folder: Path) -> None:
        """A copy of what is committed now, in a folder that is not there yet."""
        record = self.record
        try:
            folder.mkdir()
            if record is None:
                return
            for name, size in zip(NAMES, record.row_bytes, strict=True):
                self._copy(name, folder / name, record.rows * size)
            with (folder / COMMITTED).open("xb") as file:
                file.write(bytes(place(1)) + replace(record, number=1).packed())
                file.truncate(BYTES)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise from_os("write", folder, error) from None
        copied = StreamFiles(folder, writable=False, verify=False)
        if copied.record is None or copied._sums(record, record.rows) != record.sums:
            raise StorageError(f"cannot copy {self.folder}: its rows have the wrong checksum.")

    def trim(self) -> None:
        """Give back the room that files were grown by in advance."""
        with self._lock:
            self._maps, self._capacity = None, 0
        if self.writable and self.record is not None:
            for name, size in zip(NAMES, self.record.row_bytes, strict=True):
                if self._size(name) > self.record.rows * size:
                    os.truncate(self.folder / name, self.record.rows * size)

    def _begin(self, shape: tuple[int, int, int]) -> None:
        if self.shape is not None and self.committed and self.shape != shape:
            raise StorageError(
                f"append: rows of (G, d, d_v) = {shape} came; those of {self.folder} are {self.shape}."
            )
        if self.record is None or self.shape != shape:
            number = 0 if self.record is None else self.record.number
            with self._lock:
                self._maps, self._capacity, self.visible = None, 0, 0
            for name in NAMES:
                self._write(name, memoryview(b""), 0)
            self._publish(Record(number + 1, 0, *shape))

    def _publish(self, record: Record) -> None:
        if self.durable:
            for name in NAMES:
                self._sync(self.folder / name)
        self._write(COMMITTED, memoryview(record.packed()), place(record.number))
        if self.durable:
            self._sync(self.folder / COMMITTED)
            if record.number == 1:
                self._sync(self.folder)
                self._sync(self.folder.parent)
        self.record = record

    def _sync(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise from_os("write", path, error) from None

    def _write(self, name: str, part: memoryview, offset: int) -> None:
        path = self.folder / name
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                while part:
                    count = os.pwrite(handle, part, offset)
                    part, offset = part[count:], offset + count
            finally:
                os.close(handle)
        except OSError as error:
            raise from_os("write", path, error) from None

    def _grow(self, rows: int) -> None:
        """Let the files reach beyond what is needed, so that they need not be mapped anew each time."""
        assert self.record is not None
        try:
            for name, size in zip(NAMES, self.record.row_bytes, strict=True):
                if self._size(name) < rows * size:
                    os.truncate(self.folder / name, (rows + min(max(rows, 64), GROWTH)) * size)
        except OSError as error:
            raise from_os("write", self.folder, error) from None

    def _map(self) -> None:
        record = self.record
        assert record is not None
        sizes = zip(NAMES, record.row_bytes, strict=True)
        rows = min(self._size(name) // size for name, size in sizes)
        shapes = ((rows, record.heads, record.key_width), (rows, record.heads, record.value_width), (rows,))
        # Mapped as writable because tensors share the memory; nothing is written through the map.
        mode = "r+" if self.writable else "c"
        try:
            self._maps = tuple(
                np.memmap(self.folder / name, dtype=kind, mode=mode, shape=shape)
                for name, kind, shape in zip(NAMES, KINDS, shapes, strict=True)
            )
        except OSError as error:
            raise from_os("read", self.folder, error) from None
        self._capacity = rows

    def _check(self, record: Record, content: bytes, verify: bool) -> None:
        for name, size in zip(NAMES, record.row_bytes, strict=True):
            there = self._size(name)
            if there < record.rows * size:
                raise StorageError(
                    f"cannot read {self.folder / name}: {there} bytes are there, {record.rows * size} were "
                    "committed; restore a snapshot."
                )
        other = content[place(record.number + 1) :][:SECOND]
        if record.number > 1 and newest(other) is None:
            warnings.warn(
                f"{self.folder / COMMITTED}: one of its two records is unreadable, as an interrupted commit "
                f"leaves it; the other one counts, with {record.rows} rows.",
                StorageWarning,
                stacklevel=2,
            )
        if verify:
            for name, found, committed in zip(
                NAMES, self._sums(record, record.rows), record.sums, strict=True
            ):
                if found != committed:
                    raise StorageError(
                        f"cannot read {self.folder / name}: wrong checksum; restore a snapshot."
                    )

    def _size(self, name: str) -> int:
        """Bytes of a file; none of a link, which may lead out of the folder."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() and not path.is_symlink() else 0

    def _sums(self, record: Record, rows: int) -> tuple[int, int, int]:
        """Checksums of the first `rows` rows, read from the files."""
        found = []
        try:
            for name, size in zip(NAMES, record.row_bytes, strict=True):
                left, checksum = rows * size, 0
                with (self.folder / name).open("rb") as file:
                    while left and (part := file.read(min(left, STEP))):
                        checksum, left = zlib.crc32(part, checksum), left - len(part)
                found.append(checksum)
        except OSError as error:
            raise from_os("read", self.folder, error) from None
        return found[0], found[1], found[2]

    def _copy(self, name: str, target: Path, size: int) -> None:
        with (self.folder / name).open("rb") as source, target.open("xb") as file:
            while size and (part := source.read(min(size, STEP))):
                file.write(part)
                size -= len(part)
            file.flush()
            os.fsync(file.fileno())

    def _read_whole(self, name: str) -> bytes:
        path = self.folder / name
        try:
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise StorageError(f"cannot read {path}: it is a link or no file, and a store has none.")
            with path.open("rb") as file:
                return file.read(BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise from_os("read", path, error) from None
