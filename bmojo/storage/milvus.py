"""`MilvusStore`: rows in Milvus, a local file or a cluster, through a journal that bears its absence."""

from __future__ import annotations

import atexit
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from bmojo.storage.errors import StorageError, StorageWarning, StoreAway, from_os
from bmojo.storage.flat import FlatStore
from bmojo.storage.journal import Journal, Segment
from bmojo.storage.line import Line
from bmojo.storage.protocol import Found, Rows, Stream, checked_place, checked_queries, checked_rows
from bmojo.storage.sender import Sender, merged
from bmojo.storage.writer import BackgroundWriter

__all__ = ["MilvusStore"]

BATCH = 1 << 22  # bytes of a segment, where appends are smaller
EXACT = {"index_type": "FLAT", "metric_type": "IP"}


class MilvusStore:
    r"""Store in Milvus: a local file, or by its address a cluster that many machines share.

    What is appended is written to a journal on this machine's disk, and counts as committed there; a second
    thread sends it on, in batches, and removes it from the journal once Milvus has it. While Milvus is away
    the journal grows, up to `capacity`; then `append` waits, and after `patience` raises `StoreAway`. When
    Milvus is back, or the process has been started again, the journal is sent from where it stopped. A row
    is sent under the same primary key each time, so one whose answer was lost on the way is not there twice.

    Search asks Milvus, for no longer than `timeout` for each head, and finds what has been sent (`drain`
    waits for that). After a failure it raises `StoreAway` at once, without asking, until `retry` seconds have
    passed, twice as many after each further failure, up to `longest_retry`.

    A stream has one writer.

    Parameters
    ----------
    uri : str or path
        A path is a local file of Milvus Lite; else such as `"http://host:19530"`.
    journal : str or path, optional
        Folder for what waits; `uri` with `.journal` behind where that is a path.
    collection : str
        Beginning of the names of the collections.
    token : str
        Of a server that asks for one.
    index : dict, optional
        Index of the keys, as Milvus names it, such as `{"index_type": "HNSW", "metric_type": "IP",
        "params": {"M": 16, "efConstruction": 200}}`; exact when left out.
    half : bool, optional
        float16 in Milvus. When left out: for a cluster yes, for a local file, which knows only float32, no.
    timeout : float
        Seconds for each call.
    retry, longest_retry : float
        Seconds.
    batch : int
        Entities (heads of rows) in one call.
    capacity : int
        Bytes that the journal, and again as many that the memory in front of it, may hold.
    patience : float
        Seconds that `append` waits for room, and `close` for the journal to be sent.
    consistency : str
        Of searches, as Milvus names it.
    client : MilvusClient, optional
        One that was made already.

    Raises
    ------
    ImportError
        If the client is not installed.
    StorageError
        If the journal cannot be read or written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.storage import MilvusStore, Stream
    >>> keys = torch.eye(4).unsqueeze(1)
    >>> with tempfile.TemporaryDirectory() as folder, MilvusStore(f"{folder}/memory.db") as store:
    ...     first = store.append(Stream(0, 0), keys, 10 * keys, torch.arange(4))
    ...     store.drain()
    ...     found = store.search(Stream(0, 0), torch.tensor([[[0.0, 0.5, 2.0, 0.0]]]), count=2)
    >>> found.scores.tolist(), found.positions.tolist()
    ([[[2.0, 0.5]]], [[[2, 1]]])
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        journal: str | os.PathLike[str] | None = None,
        collection: str = "bmojo",
        token: str = "",
        index: dict[str, Any] | None = None,
        half: bool | None = None,
        timeout: float = 5.0,
        retry: float = 0.5,
        longest_retry: float = 30.0,
        batch: int = 1000,
        capacity: int = 1 << 28,
        patience: float = 30.0,
        consistency: str = "Strong",
        client: Any = None,
    ) -> None:
        self.uri = os.fspath(uri)
        local = "://" not in self.uri
        if journal is None and not local:
            raise StorageError(
                f"MilvusStore: {self.uri} came without journal=, a folder of this machine for what waits."
            )
        if min(timeout, retry, longest_retry, batch, capacity) <= 0 or patience < 0:
            raise StorageError(
                f"MilvusStore: timeout={timeout}, retry={retry}, longest_retry={longest_retry}, "
                f"batch={batch}, capacity={capacity}, patience={patience} came; they must be positive."
            )
        self.batch, self.capacity, self.patience = batch, capacity, patience
        self._line = Line(
            self.uri,
            token=token,
            prefix=collection,
            retry=retry,
            longest_retry=longest_retry,
            client=client,
            timeout=timeout,
            half=not local if half is None else half,
            index=EXACT if index is None else index,
            consistency=consistency,
        )
        self._shapes: dict[Stream, tuple[int, int, int]] = {}
        self._end: dict[Stream, int] = {}
        self._appending = threading.Lock()
        self._journal = Journal(Path(f"{self.uri}.journal" if journal is None else journal))
        self._sender = Sender(self._journal, self._line, batch=batch)
        self._writer: BackgroundWriter[Segment] | None = BackgroundWriter(
            self._keep,
            name=f"store {self.uri}",
            capacity=capacity,
            patience=patience,
            batch=min(capacity // 4, BATCH),
        )
        atexit.register(self.close)

    def append(
        self, stream: Stream, keys: Tensor, values: Tensor, positions: Tensor, *, first: int | None = None
    ) -> int:
        """Hand rows over, to be written to the journal in the background and sent from there.

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
            If the rows do not fit the stream or float16, or something went wrong in the background.
        StoreAway
            If the journal is full, or Milvus must be asked how many rows there are and does not answer.
        """
        stream = Stream(*stream)
        rows = checked_rows(stream, keys, values, positions)
        with self._appending:
            writer = self._open_writer()
            end, shape = self.rows(stream), self._shape(stream)
            place = checked_place(stream, rows, first, end, shape)
            rows, cut = rows.at(place), False
            if place < end and len(rows):
                writer.flush(self.patience)  # what is compared must have reached the journal
                if self._journal.knows(stream, rows.between(place, end)):
                    rows = rows.between(end, rows.end)
                else:
                    cut = True
            if len(rows):
                writer.put(Segment(stream, rows, cut))
                self._end[stream], self._shapes[stream] = rows.end, rows.shape
        return place

    def search(self, stream: Stream, queries: Tensor, count: int, *, limit: int | None = None) -> Found:
        """The rows of largest inner product with each query, of those that Milvus has.

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
        StoreAway
            If Milvus does not answer in time, or did not shortly before.
        """
        stream = Stream(*stream)
        end, shape = self.rows(stream), self._shape(stream)
        asked = checked_queries(queries, count, limit, shape)
        limit = end if limit is None else min(limit, end)
        if shape is None or not limit:
            _, width, value_width = shape or (1, asked.shape[2], asked.shape[2])
            none = torch.full((*asked.shape[:2], count), -1)
            empty = torch.zeros(*none.shape, width + value_width, dtype=torch.float16)
            return Found(
                torch.full(none.shape, -torch.inf), none, none, *empty.split([width, value_width], dim=-1)
            )
        return self._line.call(lambda: self._line.collection(shape).search(stream, asked, count, limit))

    def rows(self, stream: Stream) -> int:
        """Rows that were appended, sent or not; Milvus is asked about a stream that the journal never saw."""
        stream = Stream(*stream)
        if stream not in self._end:
            count = self._journal.rows(stream)
            if count is None:
                shape, count = self._line.call(lambda: self._line.discover(stream))
                if shape is not None:
                    self._journal.start(stream, shape, count)
            self._end.setdefault(stream, count)
        return self._end[stream]

    def committed(self, stream: Stream) -> int:
        """Rows that outlive this process: in the journal, or in Milvus."""
        return self._journal.rows(Stream(*stream)) or 0

    @property
    def waiting(self) -> int:
        """Segments in the journal that Milvus does not have yet."""
        return self._journal.waiting

    def flush(self, timeout: float | None = None) -> None:
        """Return once all that was appended is in the journal or in Milvus.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        StorageError
            If the disk is full or refuses; what was appended waits in memory for the next `flush`.
        StoreAway
            If it takes longer than `timeout`, as where the journal is full.
        """
        if self._writer is not None:
            self._writer.flush(timeout)

    def drain(self, timeout: float | None = None) -> None:
        """Return once Milvus has all that was appended, so that a search finds it.

        Parameters
        ----------
        timeout : float, optional
            Seconds, for the journal and again for Milvus.

        Raises
        ------
        StoreAway
            If it takes longer than `timeout`.
        """
        self.flush(timeout)
        if not self._sender.drain(timeout):
            raise StoreAway(
                f"{self.uri}: {self._journal.waiting} segments still wait in {self._journal.folder} after "
                f"{timeout:g} s" + (f" ({self._line.reason})." if self._line.reason else ".")
            )

    def snapshot(self, folder: str | os.PathLike[str]) -> None:
        """Write a whole copy, of all streams that this journal knows, that opens as a `FlatStore`.

        Parameters
        ----------
        folder : str or path
            Not there yet. It takes its name once it is complete.

        Raises
        ------
        StorageError
            If it is there, or cannot be written.
        StoreAway
            If Milvus does not answer.
        """
        self.drain(self.patience)
        target = Path(folder)
        if target.exists():
            raise StorageError(f"snapshot: {target} is there already; name a new folder.")
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
        try:
            with FlatStore(temporary) as copy:
                for stream in self._journal.streams:
                    for rows in self._fetched(stream):
                        parts = (torch.from_numpy(x) for x in (rows.keys, rows.values, rows.positions))
                        copy.append(stream, *parts)
            os.replace(temporary, target)
        except OSError as error:
            raise from_os("write", target, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def close(self) -> None:
        """Write what was appended to the journal, send it for up to `patience` seconds, let go of all.

        Warns
        -----
        StorageWarning
            If some of it could not be sent; the next store with this journal sends it.
        """
        atexit.unregister(self.close)
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        finally:
            self._sender.close(self.patience)
            self._line.close()
            self._journal.close()
        if self._journal.waiting:
            warnings.warn(
                f"{self.uri} is away: {self._journal.waiting} segments wait in {self._journal.folder}, to be "
                f"sent when the store is opened again ({self._line.reason or self._sender.broken}).",
                StorageWarning,
                stacklevel=2,
            )

    def __enter__(self) -> MilvusStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_writer(self) -> BackgroundWriter[Segment]:
        if self._writer is None:
            raise StorageError(f"store {self.uri} is closed; open it again to append.")
        if self._sender.broken is not None:
            raise self._sender.broken
        return self._writer

    def _shape(self, stream: Stream) -> tuple[int, int, int] | None:
        return self._shapes.get(stream) or self._journal.shape(stream)

    def _keep(self, segments: list[Segment]) -> None:
        """Write segments to the journal: the work of the background thread."""
        for segment in merged(segments):
            known = not segment.cut and self._journal.knows(segment.stream, segment.rows)
            if not known:  # else it was written before the error after which it comes again
                self._sender.add(segment, self.capacity, self.patience)

    def _fetched(self, stream: Stream) -> Iterator[Rows]:
        shape = self._shape(stream)
        if shape is not None:
            step = max(1, self.batch // shape[0])
            for low in range(0, self.rows(stream), step):
                high = min(low + step, self.rows(stream))
                yield self._line.call(
                    lambda low=low, high=high: self._line.collection(shape).fetch(stream, low, high)
                )
