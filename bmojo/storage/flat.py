"""`FlatStore`: rows in memory-mapped files, written in the background, searched exactly."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from uuid import uuid4

from torch import Tensor

from bmojo.storage.errors import StorageError, from_os
from bmojo.storage.exact import exact_top, found_rows
from bmojo.storage.files import StreamFiles
from bmojo.storage.locking import held
from bmojo.storage.protocol import Found, Rows, Stream, checked_place, checked_queries, checked_rows, joined
from bmojo.storage.writer import BackgroundWriter
from realization.errors import DataError
from realization.files import file_within, read_small, write_atomically

__all__ = ["FlatStore", "Job"]

ABOUT = {"format": "bmojo store", "version": 1}
FOLDER = re.compile(r"(\d{1,4})-(\d{1,7})")


@dataclass(frozen=True, eq=False)
class Job:
    """Rows on their way to a stream's files; none where only what follows a write is asked for."""

    stream: Stream
    rows: Rows | None

    @property
    def nbytes(self) -> int:
        """Bytes that wait."""
        return 0 if self.rows is None else self.rows.nbytes


class FlatStore:
    r"""Store in a folder of this machine: float16 rows in memory-mapped files, exact search.

    A row is one token with the keys and values of all `G` heads. Each stream has three files of rows and a
    record of how many count, with their checksums; a background thread writes rows, waits for the disk,
    and only then publishes the new count. So a process may be killed at any moment: what was committed is
    there when the folder is opened again, and what was not is as if it had never been.

    Search finds rows as soon as they are appended, before they reach the disk. It is exact:

    $$\operatorname*{arg\,top\,r}_{j < \text{limit}} \; q^\top k_j$$

    Parameters
    ----------
    folder : str or path
        Made where it is not there (its parent must be).
    mode : {"a", "r"}
        Append and read, by one process at a time; or read only.
    durable : bool
        Wait for the disk before rows count. Without, they outlive the process but perhaps not a power cut.
    verify : bool
        Read every row on opening and compare checksums.
    capacity : int
        Bytes of rows that may wait to be written; `append` then waits for room.
    patience : float
        Seconds that it waits.

    Raises
    ------
    StorageError
        If the folder cannot be made, read or written, another process writes to it, or its files are not
        what was committed.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.storage import FlatStore, Stream
    >>> with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
    ...     keys = torch.eye(4).unsqueeze(1)  # four tokens, one head of width 4
    ...     first = store.append(Stream(0, 0), keys, 10 * keys, torch.arange(4))
    ...     found = store.search(Stream(0, 0), torch.tensor([[[0.0, 0.5, 2.0, 0.0]]]), count=2)
    >>> found.scores.tolist(), found.positions.tolist()
    ([[[2.0, 0.5]]], [[[2, 1]]])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        mode: str = "a",
        durable: bool = True,
        verify: bool = True,
        capacity: int = 1 << 28,
        patience: float = 30.0,
    ) -> None:
        if mode not in ("a", "r"):
            raise StorageError(f"mode={mode!r} came; 'a' (append and read) or 'r' (read) is needed.")
        self.folder, self.mode = Path(folder), mode
        self._options: dict[str, Any] = {"writable": mode == "a", "durable": durable}
        self._lock, self._appending = threading.Lock(), threading.Lock()
        self._pending: dict[Stream, list[Rows]] = {}
        self._end: dict[Stream, int] = {}
        self._held: IO[bytes] | None = None
        self._files: dict[Stream, StreamFiles] = {}
        self._writer: BackgroundWriter[Job] | None = None
        if mode == "a":
            self._make()
        self._read(verify)
        if mode == "a":
            self._writer = BackgroundWriter(
                self._write, name=f"store {self.folder}", capacity=capacity, patience=patience
            )
        atexit.register(self.close)

    def append(
        self, stream: Stream, keys: Tensor, values: Tensor, positions: Tensor, *, first: int | None = None
    ) -> int:
        """Hand rows over, to be written in the background.

        Parameters
        ----------
        stream : Stream
        keys : Tensor, shape (n, G, d)
        values : Tensor, shape (n, G, d_v)
        positions : Tensor of int64, shape (n,)
        first : int, optional
            Ordinal of the first row, at most the number of rows; behind them when left out. Rows that were
            there from `first` on are kept where they are the same, else replaced, with all after them.

        Returns
        -------
        first : int

        Raises
        ------
        StorageError
            If the rows do not fit the stream or float16, or the writer met an error since the last call.
        StoreAway
            If more rows wait than `capacity` allows, for longer than `patience`.
        """
        stream = Stream(*stream)
        self._check_open()
        rows = checked_rows(stream, keys, values, positions)
        with self._appending:
            end, shape = self.rows(stream), self.shape(stream)
            place = checked_place(stream, rows, first, end, shape)
            self._put(stream, self._news(stream, rows.at(place), end), end)
        return place

    def search(self, stream: Stream, queries: Tensor, count: int, *, limit: int | None = None) -> Found:
        """The rows of largest inner product with each query, best first; equal ones by age.

        Parameters
        ----------
        stream : Stream
        queries : Tensor, shape (n, H, d)
            Query head `h` meets key head `h // (H / G)`.
        count : int
            Rows `r` per query and head.
        limit : int, optional
            Only rows with ordinals below it.

        Returns
        -------
        Found

        Raises
        ------
        StorageError
            If the queries do not fit the stream.
        """
        stream = Stream(*stream)
        pieces = self._view(stream, limit)
        shape = pieces[0].shape if pieces else self.shape(stream)
        asked = checked_queries(queries, count, limit, shape)
        if shape is None:
            shape = (1, asked.shape[2], asked.shape[2])
        scores, ordinals = self._top(stream, pieces, asked, count)
        return found_rows(pieces, scores, ordinals, shape)

    def rows(self, stream: Stream) -> int:
        """Rows that were appended, committed or not."""
        with self._lock:
            return self._end.get(Stream(*stream), 0)

    def committed(self, stream: Stream) -> int:
        """Rows that outlive this process, whatever happens to it."""
        files = self._files.get(Stream(*stream))
        return 0 if files is None else files.committed

    def shape(self, stream: Stream) -> tuple[int, int, int] | None:
        """Heads, key width and value width of a stream's rows; `None` before the first."""
        with self._lock:
            waiting = self._pending.get(Stream(*stream))
            if waiting:
                return waiting[0].shape
        files = self._files.get(Stream(*stream))
        return None if files is None or not files.committed else files.shape

    def streams(self) -> list[Stream]:
        """Every stream that has rows, in order."""
        with self._lock:
            return sorted(stream for stream, end in self._end.items() if end)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(
            (2 * shape[0] * (shape[1] + shape[2]) + 8) * self.rows(stream)
            for stream in self.streams()
            if (shape := self.shape(stream)) is not None
        )

    def flush(self, timeout: float | None = None) -> None:
        """Return once all that was appended is committed.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        StorageError
            If the disk is full or refuses; what was appended waits in memory for the next `flush`.
        StoreAway
            If it takes longer than `timeout`.
        """
        if self._writer is not None:
            self._writer.flush(timeout)

    def snapshot(self, folder: str | os.PathLike[str]) -> None:
        """Write a whole copy, of what is committed now, that opens as a store.

        Parameters
        ----------
        folder : str or path
            Not there yet. It takes its name once it is complete.

        Raises
        ------
        StorageError
            If it is there, or cannot be written.
        """
        target = Path(folder)
        if target.exists():
            raise StorageError(f"snapshot: {target} is there already; name a new folder.")
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
        try:
            temporary.mkdir()
            write_atomically(temporary / "store.json", json.dumps(ABOUT))
            for stream, files in list(self._files.items()):
                files.copy(temporary / _name(stream))
            os.replace(temporary, target)
        except OSError as error:
            raise from_os("write", target, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # where it could not be finished

    def truncate(self, stream: Stream, count: int) -> None:
        """Commit what was appended, then forget the rows of a stream from the ordinal `count` on."""
        stream = Stream(*stream)
        self._check_open()
        self.flush()
        if stream in self._files:
            self._files[stream].truncate(count)
        with self._lock:
            self._end[stream] = min(self._end.get(stream, 0), count)

    def close(self) -> None:
        """Commit what was appended, and let go of the folder; a second call does nothing."""
        atexit.unregister(self.close)
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
                for files in self._files.values():
                    files.trim()
        finally:
            if self._held is not None:
                self._held.close()
                self._held = None

    def __enter__(self) -> FlatStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._writer is None:
            what = "was opened to read" if self.mode == "r" else "is closed"
            raise StorageError(f'{self.folder} {what}; open it with mode="a" to change it.')

    def _news(self, stream: Stream, rows: Rows, end: int) -> Rows:
        """Those of the rows that are not there already."""
        if rows.first < end and len(rows):
            there = [piece.between(rows.first, min(rows.end, end)) for piece in self._view(stream, None)]
            if all(piece.same(rows.between(piece.first, piece.end)) for piece in there if len(piece)):
                return rows.between(end, rows.end)
        return rows

    def _put(self, stream: Stream, rows: Rows, end: int) -> None:
        """Queue rows that begin at `end`, or replace what is there from their first on."""
        if not len(rows):
            return
        assert self._writer is not None
        with self._lock:
            self._pending.setdefault(stream, []).append(rows)
            self._end[stream] = rows.end
        try:
            self._writer.put(Job(stream, rows))
        except StorageError:
            with self._lock:
                self._pending[stream] = [other for other in self._pending[stream] if other is not rows]
                self._end[stream] = end
            raise

    def _top(
        self, stream: Stream, pieces: Sequence[Rows], queries: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Scores and ordinals (n, H, r) of the best rows."""
        return exact_top(pieces, queries, count)

    def _view(self, stream: Stream, limit: int | None) -> list[Rows]:
        """What was appended to a stream: the rows in its files, then those on their way there."""
        with self._lock:
            waiting = list(self._pending.get(stream, ()))
        files = self._files.get(stream)  # after the line before: what was waiting then is not missed
        written = None if files is None else files.read()
        pieces = [] if written is None else [written]
        for rows in waiting:
            pieces = [piece.between(0, rows.first) for piece in pieces]
            pieces.append(rows)
        if limit is not None:
            pieces = [piece.between(0, limit) for piece in pieces]
        return _joined([piece for piece in pieces if len(piece)])

    def _write(self, jobs: list[Job]) -> None:
        """Write jobs into their streams' files: the work of the background thread."""
        for stream in dict.fromkeys(job.stream for job in jobs):
            if stream not in self._files:
                folder = self.folder / _name(stream)
                try:
                    folder.mkdir(exist_ok=True)
                except OSError as error:
                    raise from_os("write", folder, error) from None
                self._files[stream] = StreamFiles(folder, **self._options)
            done = [job.rows for job in jobs if job.stream == stream and job.rows is not None]
            for rows in _runs(done):
                self._files[stream].write(rows)
            with self._lock:
                gone = set(map(id, done))
                left = [rows for rows in self._pending.get(stream, ()) if id(rows) not in gone]
                self._pending[stream] = left

    def _make(self) -> None:
        """Make the folder and lock it against other writers."""
        self._held, about = held(self.folder), self.folder / "store.json"
        try:
            if not about.exists():
                if any(FOLDER.fullmatch(path.name) for path in self.folder.iterdir()):
                    raise StorageError(f"cannot read {about}: it is missing, and streams are there.")
                write_atomically(about, json.dumps(ABOUT))
        except DataError as error:
            self._held.close()
            raise StorageError(str(error)) from None

    def _read(self, verify: bool) -> None:
        """Open the streams that are there."""
        about = self.folder / "store.json"
        try:
            content = json.loads(read_small(file_within(self.folder, "store.json"), 4096))
        except DataError as error:
            raise StorageError(str(error)) from None
        except FileNotFoundError:
            raise StorageError(f"cannot read {self.folder}: there is no store; mode='a' makes one.") from None
        except OSError as error:
            raise from_os("read", about, error) from None
        except (ValueError, RecursionError):
            content = None
        if content != ABOUT:
            raise StorageError(f"cannot read {about}: it does not describe a store of version 1.")
        try:
            for path in sorted(self.folder.iterdir()):
                found = FOLDER.fullmatch(path.name)
                if found is not None:
                    stream = Stream(int(found[1]), int(found[2]))
                    self._files[stream] = StreamFiles(path, verify=verify, **self._options)
                    self._end[stream] = self._files[stream].committed
        except StorageError:
            if self._held is not None:
                self._held.close()
            raise


def _name(stream: Stream) -> str:
    return f"{stream.layer:04d}-{stream.entry:07d}"


def _runs(jobs: list[Rows]) -> list[Rows]:
    """Jobs that follow each other without a gap, joined."""
    groups: list[list[Rows]] = []
    for rows in jobs:
        if groups and groups[-1][-1].end == rows.first:
            groups[-1].append(rows)
        else:
            groups.append([rows])
    return [joined(group) for group in groups]


def _joined(pieces: list[Rows]) -> list[Rows]:
    """The files' rows as they lie, the many small pieces behind them in one."""
    return pieces if len(pieces) < 3 else [pieces[0], joined(pieces[1:])]
