"""`FaissStore`: the rows of a `FlatStore`, found through an approximate index instead of one by one."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bmojo.storage.errors import StorageError
from bmojo.storage.exact import exact_top, found_rows
from bmojo.storage.flat import FlatStore, Job
from bmojo.storage.protocol import Rows, Stream

__all__ = ["FaissStore"]

BATCH = 4096  # rows added to an index at a time: a search waits no longer than that takes


class FaissStore(FlatStore):
    r"""Store with an index of Faiss for each head, for streams too long to be searched row by row.

    Rows, files and what survives a crash are those of `FlatStore`, and a folder opens as either. The indices
    live in memory and are made from the rows when the store is opened; nothing of them is read from a file.
    Rows that the index has not taken in yet are searched exactly, so that none is missed for being new; which
    rows these are depends on timing, and with an approximate index so may an answer. So is a search with a
    `limit` below half of the index.

    Parameters
    ----------
    folder : str or path
    factory : str
        Kind of index, in Faiss's notation: `"HNSW32"` (a graph), `"IVF256,Flat"` (cells; it is trained once
        there are `train` rows), `"Flat"` (exact).
    breadth : int
        How many candidates (graph) or cells an answer is chosen from; more finds more and takes longer.
    candidates : int
        Rows taken from the index for each row asked for; the best are chosen by their exact products.
    train : int
        Rows that an index that learns its cells learns them from.
    **options
        As for `FlatStore`: `mode`, `durable`, `verify`, `capacity`, `patience`.

    Raises
    ------
    ImportError
        If Faiss is not installed.
    StorageError
        If the factory is unknown to Faiss, or as for `FlatStore`.

    References
    ----------
    J. Johnson, M. Douze, H. Jégou, *Billion-scale similarity search with GPUs*, IEEE Transactions on Big Data
    7 (2021).
    Y. Malkov, D. Yashunin, *Efficient and robust approximate nearest neighbor search using hierarchical
    navigable small world graphs*, IEEE TPAMI 42 (2020).

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.storage import FaissStore, Stream
    >>> keys = torch.eye(8).unsqueeze(1)
    >>> with tempfile.TemporaryDirectory() as folder, FaissStore(f"{folder}/memory") as store:
    ...     first = store.append(Stream(0, 0), keys, keys, torch.arange(8))
    ...     store.flush()
    ...     found = store.search(Stream(0, 0), 3 * keys[5:6], count=1)
    >>> found.scores.item(), found.positions.item()
    (3.0, 5)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        factory: str = "HNSW32",
        breadth: int = 64,
        candidates: int = 2,
        train: int = 10_000,
        **options: Any,
    ) -> None:
        try:
            self._faiss: Any = importlib.import_module("faiss")
        except ModuleNotFoundError:
            raise ImportError("FaissStore needs Faiss: pip install 'realization[faiss]'") from None
        if breadth < 1 or candidates < 1 or train < 1:
            raise StorageError(
                f"FaissStore: breadth={breadth}, candidates={candidates}, train={train} came; each must be "
                "at least 1."
            )
        self.factory, self.breadth, self.candidates, self.train = factory, breadth, candidates, train
        self._indices: dict[Stream, _StreamIndex] = {}
        _made(self._faiss, factory, 8)
        super().__init__(folder, **options)
        for stream in self.streams():
            self._request(stream)

    def indexed(self, stream: Stream) -> int:
        """Rows that the index holds; those behind them are searched one by one."""
        index = self._indices.get(Stream(*stream))
        return 0 if index is None else index.rows

    def _request(self, stream: Stream) -> None:
        """Have the background thread index what a stream holds; without one, do it here."""
        if self._writer is None:
            self._take(stream)
        else:
            self._writer.put(Job(stream, None))

    def _write(self, jobs: list[Job]) -> None:
        super()._write(jobs)
        for stream in dict.fromkeys(job.stream for job in jobs):
            self._take(stream)

    def _take(self, stream: Stream) -> None:
        """Take committed rows of a stream into its index."""
        files = self._files.get(stream)
        rows = None if files is None else files.read()
        if files is None or rows is None:
            return
        index = self._indices.get(stream)
        if index is None or index.epoch != files.epoch:
            index = self._indices[stream] = _StreamIndex(self, rows.shape, files.epoch)
        index.take(rows.between(0, files.committed))

    def _top(
        self, stream: Stream, pieces: Sequence[Rows], queries: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        index, files = self._indices.get(stream), self._files.get(stream)
        if index is None or files is None or index.epoch != files.epoch or not pieces or not len(queries):
            return exact_top(pieces, queries, count)
        # Rows that are being replaced lie in several pieces; the index knows the first one alone.
        limit = min(index.rows, pieces[0].end)
        if 2 * limit < index.rows:  # an index of which most may not be used finds little
            return exact_top(pieces, queries, count)
        rest = [piece.between(limit, piece.end) for piece in pieces]
        scores, ordinals = exact_top([piece for piece in rest if len(piece)], queries, count)
        near = index.search(queries, count * self.candidates, limit)
        if bool(((near >= 0).sum(-1) < min(count, limit)).any()):
            return exact_top(pieces, queries, count)
        exact = found_rows(pieces, near, near, pieces[0].shape).keys.float()
        product = (exact @ queries.unsqueeze(-1)).squeeze(-1).masked_fill(near < 0, -torch.inf)
        scores, place = torch.cat([product, scores], dim=-1).topk(count)
        return scores, torch.cat([near, ordinals], dim=-1).gather(-1, place)


class _StreamIndex:
    """One index for each head of a stream."""

    def __init__(self, store: FaissStore, shape: tuple[int, int, int], epoch: int) -> None:
        self.store, self.epoch, self.rows = store, epoch, 0
        self.heads = [_made(store._faiss, store.factory, shape[1]) for _ in range(shape[0])]
        self.lock = threading.Lock()

    def take(self, rows: Rows) -> None:
        if not self.heads[0].is_trained:
            if len(rows) < self.store.train:
                return
            for head, index in enumerate(self.heads):
                index.train(rows.keys[: self.store.train, head].astype("float32"))
        for low in range(self.rows, rows.end, BATCH):
            block = rows.between(low, low + BATCH)
            with self.lock:
                for head, index in enumerate(self.heads):
                    index.add(block.keys[:, head].astype("float32"))
                self.rows = block.end

    def search(self, queries: Tensor, count: int, limit: int) -> Tensor:
        """Ordinals (n, H, r) below `limit`, -1 where fewer were found."""
        group = queries.shape[1] // len(self.heads)
        found = torch.full((*queries.shape[:2], count), -1)
        if limit == 0:
            return found
        with self.lock:
            parameters = self._parameters(limit if limit < self.rows else None)
            for head, index in enumerate(self.heads):
                part = slice(head * group, (head + 1) * group)
                asked = queries[:, part].flatten(0, 1).contiguous().numpy()
                _, ordinals = index.search(asked, count, params=parameters)
                found[:, part] = torch.from_numpy(ordinals).view(len(queries), group, count)
        return found

    def _parameters(self, limit: int | None) -> Any:
        faiss, index = self.store._faiss, faiss_kind(self.store._faiss, self.heads[0])
        options: dict[str, Any] = {} if limit is None else {"sel": faiss.IDSelectorRange(0, limit)}
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=self.store.breadth, **options)
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.store.breadth, **options)
        return faiss.SearchParameters(**options)


def faiss_kind(faiss: Any, index: Any) -> Any:
    """The index by its own class, as Faiss needs it to choose parameters."""
    return faiss.downcast_index(index)


def _made(faiss: Any, factory: str, width: int) -> Any:
    try:
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise StorageError(
            f"FaissStore: factory={factory!r} came, of which Faiss says: {reason}; such as 'HNSW32', "
            "'IVF256,Flat' or 'Flat' is needed."
        ) from None
