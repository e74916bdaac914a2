"""`StoredMemory`: what a layer keeps in a store, and what its queries find there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bmojo.storage.errors import StorageError, StorageWarning, StoreAway
from bmojo.storage.protocol import EideticStore, Stream
from bmojo.storage.retrieved import Retrieved, assembled, best_of_all

__all__ = ["Question", "StoredMemory"]


@dataclass(eq=False)
class Ahead:
    """What has been asked for the chunks to come.

    Parameters
    ----------
    position : int
        Of the token that goes on from here.
    queries : list of pair of Tensor, shapes (B,) and (B, n, H, d)
        Of the chunk that is under way, each with the streams of its sequences.
    questions : dict
        By chunk, each with the streams that it was asked for.
    """

    position: int = 0
    queries: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    questions: dict[int, tuple[Question, Tensor]] = field(default_factory=dict)


class Question:
    """An answer that is being looked for in the background."""

    def __init__(self, memory: StoredMemory, answer: Future[Retrieved | None]) -> None:
        self._memory, self._answer = memory, answer

    def result(self) -> Retrieved | None:
        """The answer, once it is there; `None` where the store is away or nothing was stored."""
        found = self._answer.result()
        self._memory.say()
        return found


class StoredMemory:
    r"""The fourth memory of a layer: a store, its streams, and a thread between the two.

    What leaves the eidetic set at a chunk's start is handed over with `keep`, the chunk's queries with `ask`;
    both return at once. A background thread moves rows off the device, appends them, and searches, chunk by
    chunk, while the layer computes its other memories; `Question.result` waits for what is left. The answer
    joins the layer's one softmax (`bmojo.storage.retrieved.joint_softmax`).

    Each sequence of a batch has a stream of its own. Which one, and how many rows it counts, belongs to the
    sequence's state (`begin` tells them first), and a query sees no more rows than that: going on from an
    older state, or computing a piece once more, gives what it gave before, whatever was stored since. Two
    sequences cannot go on in one stream. Gradients stop at the store.

    While the store is away the layer goes on without it; that is said once, by a `StorageWarning`, and so is
    its return. Rows that a store does not take meanwhile are counted in `lost`.

    Parameters
    ----------
    store : EideticStore
        May serve several layers.
    layer : int
        Number of the layer in the model.
    read : int
        Rows `r` that each query finds, per head.
    entries : sequence of int, optional
        Number of the stream of each sequence of the batch; 0, 1, 2, ... when left out.
    anew : bool
        A sequence that begins writes its stream from the first row on. `False`: it finds what the stream has,
        and goes on behind it, a memory over many sequences.
    floor : float
        Priority below which what leaves the set is not stored.
    ahead : bool
        The queries of a chunk do not search for themselves: all of them read the `r` rows that the queries of
        the chunk before found best, of what had left the set then. One search a chunk in place of one a
        token, which runs from the end of one chunk to the start of the next, through all other layers; for
        stores that are far away. What a sequence has asked is not part of its state: going on from an older
        one, or with sequences in another order, the first chunk reads nothing.

    Raises
    ------
    StorageError
        If a number is out of range.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.storage import FlatStore, StoredMemory
    >>> keys = torch.eye(4).view(1, 4, 1, 4)  # four rows of one head
    >>> with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
    ...     memory = StoredMemory(store, read=1)
    ...     place = memory.begin(1)
    ...     place = memory.keep(place, torch.tensor([[0, -1, 2]]), keys, 5 * keys, torch.arange(4)[None])
    ...     found = memory.ask(place, keys[:, 2:3], place[:, 1:], torch.tensor([[9]])).result()
    ...     memory.close()
    >>> place.tolist(), found.keys.flatten().tolist(), found.values.flatten().tolist()
    ([[0, 2]], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 5.0, 0.0])
    """

    def __init__(
        self,
        store: EideticStore,
        *,
        layer: int = 0,
        read: int = 8,
        entries: Sequence[int] | None = None,
        anew: bool = True,
        floor: float = -torch.inf,
        ahead: bool = False,
    ) -> None:
        if read < 1 or layer < 0:
            raise StorageError(f"StoredMemory: read={read}, layer={layer} came; at least 1 and 0 are needed.")
        self.store, self.layer, self.read, self.anew, self.floor = store, layer, read, anew, floor
        self.entries = None if entries is None else list(entries)
        self.ahead, self.asked = ahead, Ahead()
        self.lost = 0
        self._missing: dict[Stream, list[tuple[int, int]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"storage of layer {layer}")
        self._kept: list[Future[None]] = []
        self._away: dict[str, str] = {}  # what the store does not do now, and why
        self._said: set[str] = set()

    def begin(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Stream of each sequence, and rows that it counts at its beginning.

        Parameters
        ----------
        batch : int
        device : torch.device, optional

        Returns
        -------
        place : Tensor of int64, shape (B, 2)

        Raises
        ------
        StorageError
            If `entries` names another number of streams.
        StoreAway
            If a sequence is to go on in a store that does not answer.
        """
        entries = list(range(batch)) if self.entries is None else self.entries
        if len(entries) != batch:
            raise StorageError(
                f"StoredMemory: a batch of {batch} came; entries= names the streams of {len(entries)}."
            )
        if self.anew:
            counts = [0] * batch
        else:
            counts = [self.store.rows(Stream(self.layer, entry)) for entry in entries]
        return torch.tensor([entries, counts], dtype=torch.int64, device=device).T.contiguous()

    def keep(self, place: Tensor, rows: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
        """Store rows of a pool, in the background.

        Parameters
        ----------
        place : Tensor of int64, shape (B, 2)
            Stream, and rows that it counted before.
        rows : Tensor of int64, shape (B, N)
            Which rows of the pool, in the order in which they are stored; -1 is none.
        keys : Tensor, shape (B, P, G, d)
        values : Tensor, shape (B, P, G, d_v)
        positions : Tensor of int64, shape (B, P)
            Of the pool's tokens.

        Returns
        -------
        place : Tensor of int64, shape (B, 2)
            Stream, and rows that it counts now.

        Raises
        ------
        StorageError
            What went wrong in the background since the last call.
        """
        self._check()
        if rows.shape[1]:
            x = [part.detach() for part in (place, rows, keys, values, positions)]
            self._kept.append(self._thread.submit(self._append, _ready(keys), *x))
        return torch.stack([place[:, 0], place[:, 1] + (rows >= 0).sum(1)], dim=1)

    def ask(self, place: Tensor, queries: Tensor, limit: Tensor, newest: Tensor) -> Question:
        """Look for the best rows of each query, in the background.

        Parameters
        ----------
        place : Tensor of int64, shape (B, 2)
            Of which the streams are taken.
        queries : Tensor, shape (B, T, H, d)
        limit : Tensor of int64, shape (B, T)
            How many rows of its stream each query sees; neighbours with the same number are asked together.
        newest : Tensor of int64, shape (B, T)
            Position up to which it sees them: what is younger stands in the window.

        Returns
        -------
        Question

        Raises
        ------
        StorageError
            What went wrong in the background since the last call.
        """
        self._check()
        x = [part.detach() for part in (place, queries, limit, newest)]
        return Question(self, self._thread.submit(self._search, _ready(queries), *x))

    def ask_for_all(self, place: Tensor, queries: Tensor, limit: Tensor) -> Question:
        """Look for the rows that are best for any of the queries, in the background.

        Parameters
        ----------
        place : Tensor of int64, shape (B, 2)
            Of which the streams are taken.
        queries : Tensor, shape (B, T, H, d)
        limit : Tensor of int64, shape (B,)
            How many rows of its stream each sequence sees.

        Returns
        -------
        Question
            Its answer is one for all queries.
        """
        self._check()
        x = [part.detach() for part in (place, queries, limit)]
        return Question(self, self._thread.submit(self._search_for_all, _ready(queries), *x))

    def flush(self, timeout: float | None = None) -> None:
        """Return once all that was kept is committed by the store.

        Parameters
        ----------
        timeout : float, optional
            Seconds.
        """
        while self._kept:
            self._kept.pop(0).result(timeout)
        self.store.flush(timeout)

    def close(self) -> None:
        """Hand over what waits and end the thread; the store stays open."""
        self._thread.shutdown()
        self._check()

    def say(self) -> None:
        """Warn once that the store is away, and once that it is back."""
        for what, done in (("search", "retrieval"), ("append", "storing")):
            reason = self._away.get(what)
            if (reason is None) == (what not in self._said):
                continue
            if reason is not None:
                self._said.add(what)
                text = f"goes on without {done}: {reason}"
            else:
                self._said.discard(what)
                text = f"goes on with {done}, the store is back"
                text += f"; {self.lost} rows were not stored." if what == "append" else "."
            warnings.warn(f"layer {self.layer} {text}", StorageWarning, stacklevel=3)

    def _streams(self, place: Tensor) -> list[Stream]:
        return [Stream(self.layer, entry) for entry in place[:, 0].tolist()]

    def _check(self) -> None:
        """Raise what went wrong in the background."""
        while self._kept and self._kept[0].done():
            self._kept.pop(0).result()

    def _append(self, ready: Any, *tensors: Tensor) -> None:
        """Append the rows of each sequence: in the background thread."""
        if ready is not None:
            ready.synchronize()
        place, rows, keys, values, positions = tensors
        place, rows = place.cpu(), rows.cpu()
        streams = self._streams(place)
        if len(set(streams)) < len(streams):
            raise StorageError(
                f"layer {self.layer}: two sequences came that go on in one stream, {streams}; a store cannot "
                "follow beams. Begin each sequence by init_state, or detach the storage."
            )
        for entry, stream in enumerate(streams):
            chosen = rows[entry][rows[entry] >= 0]
            first, there = int(place[entry, 1]), chosen.to(keys.device)
            self._forget(stream, first)
            if not len(chosen):
                continue
            try:
                self.store.append(
                    stream,
                    keys[entry].index_select(0, there),
                    values[entry].index_select(0, there),
                    positions[entry].index_select(0, there),
                    first=self._place(stream, first),
                )
                self._away.pop("append", None)
            except StoreAway as error:
                self._away["append"] = str(error)
                self._missing.setdefault(stream, []).append((first, first + len(chosen)))
                self.lost += len(chosen)

    def _search(self, ready: Any, *tensors: Tensor) -> Retrieved | None:
        """Search for each run of queries with one limit: in the background thread."""
        if ready is not None:
            ready.synchronize()
        place, queries, limits, newest = (x.cpu() for x in tensors)
        found: list[list[Any]] = []
        try:
            for entry, stream in enumerate(self._streams(place)):
                found.append([])
                values, lengths = limits[entry].unique_consecutive(return_counts=True)
                parts = queries[entry].split(lengths.tolist())
                for part, limit in zip(parts, values.tolist(), strict=True):
                    limit = self._place(stream, limit)
                    answer = None
                    if limit:
                        answer = self.store.search(stream, part, self.read, limit=limit)
                        self._away.pop("search", None)
                    found[-1].append((len(part), answer))
        except StoreAway as error:
            self._away["search"] = str(error)
            return None
        return assembled(found, queries.shape[2], self.read, newest, tensors[1])

    def _search_for_all(self, ready: Any, *tensors: Tensor) -> Retrieved | None:
        """Search for all queries of a sequence together: in the background thread."""
        if ready is not None:
            ready.synchronize()
        place, queries, limits = (x.cpu() for x in tensors)
        found: list[list[Any]] = []
        try:
            for entry, stream in enumerate(self._streams(place)):
                limit, answer = self._place(stream, int(limits[entry])), None
                if limit:
                    answer = best_of_all(self.store.search(stream, queries[entry], self.read, limit=limit))
                    self._away.pop("search", None)
                found.append([(1, answer)])
        except StoreAway as error:
            self._away["search"] = str(error)
            return None
        newest = torch.full((len(found), 1), torch.iinfo(torch.int64).max)
        return assembled(found, queries.shape[2], self.read, newest, tensors[1])

    def _place(self, stream: Stream, ordinal: int) -> int:
        """Where the store has what would be at `ordinal` had it taken every row."""
        gaps = self._missing.get(stream, ())
        return ordinal - sum(max(0, min(end, ordinal) - first) for first, end in gaps)

    def _forget(self, stream: Stream, first: int) -> None:
        """A sequence that goes on from an older state has not lost yet what it lost later."""
        gaps = self._missing.get(stream)
        if gaps:
            self._missing[stream] = [(low, min(high, first)) for low, high in gaps if low < first]


def _ready(x: Tensor) -> Any:
    """An event after which another thread may read what the device computes now; `None` on the CPU."""
    if x.device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event
