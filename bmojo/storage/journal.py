"""Rows on their way to a store elsewhere: whole files in a folder, until the other side has them."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bmojo.storage.errors import StorageError, from_os
from bmojo.storage.locking import held
from bmojo.storage.protocol import Rows, Stream
from realization.errors import DataError
from realization.files import write_atomically

__all__ = ["Journal", "Segment"]

MAGIC = b"bmojoSG1"
LAYOUT = struct.Struct("<8s?7xqqqqqqq")  # magic, cut, layer, entry, first, rows, heads, widths
SEGMENT = re.compile(r"(\d{20})\.rows")
DIGESTS = re.compile(r"(\d{4})-(\d{7})\.digests")
UNFINISHED = re.compile(r"\.\d{20}\.rows\.[0-9a-f]{32}\.tmp")
DIGEST = 8  # bytes for each row
LARGEST = 1 << 31  # bytes of a segment
FARTHEST = 1 << 27  # rows elsewhere that a crash may leave without digests
HEADER = struct.Struct("<8sqqq")  # of the digests: magic, heads, widths


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows of a stream that were appended together.

    Parameters
    ----------
    stream : Stream
    rows : Rows
    cut : bool
        What the stream had from their first ordinal on is forgotten before they come.
    """

    stream: Stream
    rows: Rows
    cut: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes in a file."""
        return LAYOUT.size + self.rows.nbytes + 4

    def packed(self) -> bytes:
        """As bytes, a checksum behind."""
        rows = self.rows
        header = LAYOUT.pack(MAGIC, self.cut, *self.stream, rows.first, len(rows), *rows.shape)
        content = header + rows.keys.tobytes() + rows.values.tobytes() + rows.positions.tobytes()
        return content + zlib.crc32(content).to_bytes(4, "little")

    @classmethod
    def unpacked(cls, content: bytes, name: object) -> Segment:
        """From bytes; `name` is said in the error.

        Parameters
        ----------
        content : bytes
        name : object

        Raises
        ------
        StorageError
            If they are not a whole segment.
        """
        header, body = content[: LAYOUT.size], content[LAYOUT.size : -4]
        checksum = int.from_bytes(content[-4:], "little")
        if len(content) < LAYOUT.size + 4 or zlib.crc32(content[:-4]) != checksum or header[:8] != MAGIC:
            raise StorageError(f"cannot read {name}: wrong checksum; remove it, and its rows are lost.")
        _, cut, layer, entry, first, count, heads, key_width, value_width = LAYOUT.unpack(header)
        sizes = [2 * count * heads * key_width, 2 * count * heads * value_width, 8 * count]
        if min(layer, entry, first, count, heads, key_width, value_width) < 0 or sum(sizes) != len(body):
            raise StorageError(f"cannot read {name}: its size is not what it says; remove it.")
        keys = np.frombuffer(body, "<f2", count * heads * key_width)
        values = np.frombuffer(body, "<f2", count * heads * value_width, sizes[0])
        positions = np.frombuffer(body, "<i8", count, sizes[0] + sizes[1])
        rows = Rows(
            first,
            keys.reshape(count, heads, key_width).astype(np.float16),
            values.reshape(count, heads, value_width).astype(np.float16),
            positions.astype(np.int64),
        )
        return cls(Stream(layer, entry), rows, cut)


@dataclass
class _Passed:
    """What is known of a stream: its shape, and a digest of each of its rows."""

    shape: tuple[int, int, int]
    digests: bytearray

    def __len__(self) -> int:
        return len(self.digests) // DIGEST

    def packed(self) -> bytes:
        return HEADER.pack(MAGIC, *self.shape) + bytes(self.digests)

    @classmethod
    def unpacked(cls, content: bytes, name: object) -> _Passed:
        if len(content) < HEADER.size or content[:8] != MAGIC:
            raise StorageError(
                f"cannot read {name}: it is no list of digests; restore it, or remove the journal."
            )
        _, *shape = HEADER.unpack(content[: HEADER.size])
        whole = (len(content) - HEADER.size) // DIGEST * DIGEST
        return cls((shape[0], shape[1], shape[2]), bytearray(content[HEADER.size : HEADER.size + whole]))


class Journal:
    """Folder of segments that wait, in order, and of eight bytes for each row that ever passed.

    A segment is written whole or not at all, and removed once the other side has its rows. The digests tell
    how many rows each stream has, also while the other side is away, and whether rows that come again are the
    same.

    Parameters
    ----------
    folder : Path
        Made where it is not there.

    Raises
    ------
    StorageError
        If the folder cannot be read or written, or a segment is not whole.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from bmojo.storage.journal import Journal, Segment
    >>> from bmojo.storage.protocol import Stream, checked_rows
    >>> rows = checked_rows(Stream(0, 0), torch.ones(3, 1, 2), torch.ones(3, 1, 2), torch.arange(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = Journal(Path(folder))
    ...     journal.add(Segment(Stream(0, 0), rows))
    ...     journal.close()
    ...     again = Journal(Path(folder))
    ...     print(again.rows(Stream(0, 0)), len(again.next(10)))
    ...     again.close()
    3 1
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._passed: dict[Stream, _Passed] = {}
        self._waiting: dict[int, int] = {}
        self._held = held(folder)
        try:
            for path in sorted(folder.iterdir()):
                self._open(path)
            for number in sorted(self._waiting):  # a crash may have come before their digests were written
                segment = self._read(number)
                if segment.rows.first > len(self._passed.get(segment.stream, ())) + FARTHEST:
                    raise StorageError(
                        f"cannot read {self.folder / f'{number:020d}.rows'}: it begins at row "
                        f"{segment.rows.first}, and the rows before are not known; remove it."
                    )
                if not self._known(segment.stream, segment.rows):
                    self._note(segment)
        except OSError as error:
            self.close()
            raise from_os("read", folder, error) from None
        except StorageError:
            self.close()
            raise
        self._number = max(self._waiting, default=0)

    @property
    def nbytes(self) -> int:
        """Bytes of the segments that wait."""
        with self._lock:
            return sum(self._waiting.values())

    @property
    def waiting(self) -> int:
        """Segments that wait."""
        with self._lock:
            return len(self._waiting)

    @property
    def streams(self) -> list[Stream]:
        """Streams that are known, in order."""
        with self._lock:
            return sorted(self._passed)

    def rows(self, stream: Stream) -> int | None:
        """Rows of a stream that ever passed and still count; `None` for one that is not known."""
        with self._lock:
            return len(self._passed[stream]) if stream in self._passed else None

    def shape(self, stream: Stream) -> tuple[int, int, int] | None:
        """Heads, key width and value width of a stream; `None` for one that is not known."""
        with self._lock:
            return self._passed[stream].shape if stream in self._passed else None

    def knows(self, stream: Stream, rows: Rows) -> bool:
        """Whether all of the rows passed before, the same at the same ordinals."""
        with self._lock:
            return self._known(stream, rows)

    def start(self, stream: Stream, shape: tuple[int, int, int], count: int) -> None:
        """Take note of a stream that has `count` rows elsewhere."""
        with self._lock:
            self._passed.setdefault(stream, _Passed(shape, bytearray(count * DIGEST)))

    def add(self, segment: Segment) -> None:
        """Write a segment; when this returns, it outlives the process."""
        with self._lock:
            content, number = segment.packed(), self._number + 1
            path = self.folder / f"{number:020d}.rows"
            try:
                write_atomically(path, content)
            except DataError as error:
                raise StorageError(str(error)) from None
            self._number, self._waiting[number] = number, len(content)
            self._note(segment)

    def next(self, count: int) -> list[tuple[int, Segment]]:
        """The oldest segments with their numbers, at most `count`; only the first of them may cut."""
        with self._lock:
            numbers = sorted(self._waiting)[:count]
        found: list[tuple[int, Segment]] = []
        for number in numbers:
            segment = self._read(number)
            if found and segment.cut:
                break
            found.append((number, segment))
        return found

    def remove(self, numbers: list[int]) -> None:
        """Forget segments whose rows the other side has."""
        for number in numbers:
            path = self.folder / f"{number:020d}.rows"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise from_os("remove", path, error) from None
            with self._lock:
                self._waiting.pop(number, None)

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()

    def _open(self, path: Path) -> None:
        """Take note of a file of the folder; what a crash left unfinished goes."""
        if UNFINISHED.fullmatch(path.name):
            path.unlink()
        digests, segment = DIGESTS.fullmatch(path.name), SEGMENT.fullmatch(path.name)
        if (digests or segment) and (path.is_symlink() or not path.is_file()):
            raise StorageError(f"cannot read {path}: it is a link or no file, and a journal has none.")
        if digests:
            stream = Stream(int(digests[1]), int(digests[2]))
            self._passed[stream] = _Passed.unpacked(path.read_bytes(), path)
        elif segment:
            self._waiting[int(segment[1])] = path.stat().st_size

    def _read(self, number: int) -> Segment:
        path = self.folder / f"{number:020d}.rows"
        try:
            if path.stat().st_size > LARGEST:
                raise StorageError(f"cannot read {path}: a segment has at most {LARGEST} bytes; remove it.")
            return Segment.unpacked(path.read_bytes(), path)
        except OSError as error:
            raise from_os("read", path, error) from None

    def _known(self, stream: Stream, rows: Rows) -> bool:
        passed = self._passed.get(stream)
        if passed is None or (len(rows) and passed.shape != rows.shape):
            return False
        return bytes(passed.digests[rows.first * DIGEST : rows.end * DIGEST]) == _digest(rows)

    def _note(self, segment: Segment) -> None:
        """Put the digests of a segment's rows where they belong, in memory and on disk."""
        rows, stream = segment.rows, segment.stream
        passed = self._passed.get(stream)
        if passed is None or passed.shape != rows.shape:
            passed = self._passed[stream] = _Passed(rows.shape, bytearray())
        del passed.digests[rows.first * DIGEST :]
        passed.digests.extend(bytes(rows.first * DIGEST - len(passed.digests)))
        new, place = _digest(rows), HEADER.size + rows.first * DIGEST
        passed.digests.extend(new)
        path = self.folder / f"{stream.layer:04d}-{stream.entry:07d}.digests"
        try:
            with path.open("r+b" if path.exists() else "xb") as file:
                if rows.first == 0 or file.seek(0, os.SEEK_END) < place:
                    new, place = passed.packed(), 0
                file.seek(place)
                file.write(new)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise from_os("write", path, error) from None


def _digest(rows: Rows) -> bytes:
    return b"".join(
        hashlib.blake2b(keys.tobytes() + values.tobytes() + position.tobytes(), digest_size=DIGEST).digest()
        for keys, values, position in zip(rows.keys, rows.values, rows.positions, strict=True)
    )
