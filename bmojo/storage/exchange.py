"""What one pass of a layer hands to its storage, and how what comes back joins its attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bmojo.storage.leaving import leaving
from bmojo.storage.memory import Question, StoredMemory
from bmojo.storage.retrieved import joint_softmax

__all__ = ["Part", "Pool", "Reading", "exchange", "starts_chunk"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Keys and values that the set is chosen from: its places, the window, the piece.

    Parameters
    ----------
    keys : Tensor, shape (B, P, G, d)
        As they are read once they are kept.
    values : Tensor, shape (B, P, G, d_v)
    gate : Tensor, shape (B, P), or None
        Added to their logits.
    index : Tensor of int64, shape (B, m)
        Positions of the places; -1 is an empty one.
    kept : Tensor, shape (B, m)
        Priorities of the places.
    priority : Tensor, shape (B, window + T)
        Of the window's positions and of the piece's.
    """

    keys: Tensor
    values: Tensor
    gate: Tensor | None
    index: Tensor
    kept: Tensor
    priority: Tensor

    def positions(self, start: int, window: int) -> Tensor:
        """Position of each row, shape (B, P), where the piece begins at `start`."""
        count = self.priority.shape[1]
        recent = torch.arange(start - window, start - window + count, device=self.index.device)
        whole = torch.cat([self.index, recent.expand(len(self.index), -1)], dim=1)
        return whole[:, self.missing :]

    def stored(self, scale: float) -> Tensor:
        """Keys, with the gate as one more number of each, which every query meets with one."""
        if self.gate is None:
            return self.keys
        gate = (self.gate / scale).to(self.keys.dtype)[:, :, None, None].clamp_min(-60_000.0)
        return torch.cat([self.keys, gate.expand(*self.keys.shape[:3], 1)], dim=-1)

    @property
    def missing(self) -> int:
        """Rows of places and window that the keys leave out, because the sequence has just begun."""
        return max(0, self.index.shape[1] + self.priority.shape[1] - self.keys.shape[1])


@dataclass(frozen=True, eq=False)
class Part:
    """Queries that follow each other, and the question whose answer they read.

    Parameters
    ----------
    length : int
        How many queries.
    question : Question, or None
        `None` where they read nothing.
    streams : Tensor of int64, shape (B,), or None
        Of the sequences that the question was asked for, where they may be others by now.
    """

    length: int
    question: Question | None
    streams: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Reading:
    """Questions to storage that the attention of a pass does not wait for until it is done.

    Parameters
    ----------
    parts : list of Part
    queries : Tensor, shape (B, T, H, d)
        As they meet stored keys; they carry gradient.
    place : Tensor of int64, shape (B, 2)
    scale : float
    """

    parts: list[Part]
    queries: Tensor
    place: Tensor
    scale: float

    def joined(self, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Attention's output (B, T, H, d) and normalizers (B, T, H) with what was found.

        Returns
        -------
        out : Tensor, shape (B, T, H, d)
        mass : Tensor, shape (B, T, H)
            Of storage.
        """
        lengths = [part.length for part in self.parts]
        pieces = zip(*(x.split(lengths, dim=1) for x in (out, lse, self.queries)), strict=True)
        joined = [self._joined(part, *piece) for part, piece in zip(self.parts, pieces, strict=True)]
        outs, masses = zip(*joined, strict=True)
        return torch.cat(outs, dim=1), torch.cat(masses, dim=1)

    def _joined(self, part: Part, out: Tensor, lse: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        found = None if part.question is None else part.question.result()
        if found is None:
            return out, torch.zeros_like(lse)
        found = found.to(out.device)
        if part.streams is not None:
            others = (part.streams != self.place[:, 0]).view(-1, 1, 1, 1)
            found = replace(found, bias=found.bias.masked_fill(others, -torch.inf))
        return joint_softmax(out, lse, queries, found, scale=self.scale)


def starts_chunk(position: int, length: int, chunk: int) -> bool:
    """Whether a chunk starts among `length` tokens from `position` on."""
    return -position % chunk < length


def exchange(
    memory: StoredMemory,
    place: Tensor,
    pool: Pool | None,
    queries: Tensor,
    *,
    gated: bool,
    position: int,
    window: int,
    chunk: int,
) -> tuple[Reading, Tensor]:
    r"""Hand over what leaves the set at the chunk starts of a piece, and ask for what its queries need.

    A query `t` of chunk `c` sees the rows that have left the set up to the start of `c`, of those the
    positions up to $t - w$. So each position of the past that is worth storing is in one memory: window, set
    or store.

    Parameters
    ----------
    memory : StoredMemory
    place : Tensor of int64, shape (B, 2)
        Stream of each sequence, and rows that it counts.
    pool : Pool, optional
        Not needed where no chunk starts in the piece.
    queries : Tensor, shape (B, T, H, d)
        As they meet kept keys.
    gated : bool
        Whether the pool has a gate.
    position : int
        Of the piece's first token.
    window, chunk : int

    Returns
    -------
    reading : Reading
    place : Tensor of int64, shape (B, 2)
        After the piece.
    """
    length, scale = queries.shape[1], queries.shape[-1] ** -0.5
    asked = queries
    if gated:
        asked = torch.cat([queries, queries.new_ones(*queries.shape[:3], 1)], dim=-1)
    time = torch.arange(position, position + length, device=queries.device)
    before = place[:, 1:]
    limit = before.expand(-1, length)
    if pool is not None and starts_chunk(position, length, chunk):
        left = leaving(
            pool.kept,
            pool.priority,
            position=position,
            window=window,
            chunk=chunk,
            floor=memory.floor,
        )
        rows = torch.where(left.rows >= 0, left.rows - pool.missing, -1).flatten(1)
        place = memory.keep(place, rows, pool.stored(scale), pool.values, pool.positions(position, window))
        limit = before + left.limit[:, time // chunk - position // chunk]
    if memory.ahead:
        parts = _parts_ahead(memory, place, asked, limit, position, chunk)
    else:
        newest = (time - window).expand(len(queries), -1)
        parts = [Part(length, memory.ask(place, asked, limit, newest))]
    return Reading(parts, asked, place, scale), place


def _parts_ahead(
    memory: StoredMemory, place: Tensor, queries: Tensor, limit: Tensor, position: int, chunk: int
) -> list[Part]:
    """What each chunk reads: the answer to the queries of the chunk before. Whole chunks ask for the next."""
    asked, begin, end = memory.asked, position, position + queries.shape[1]
    if position != asked.position or position == 0 or any(len(x) != len(place) for x, _ in asked.queries):
        asked.queries.clear()
        asked.questions.clear()
    asked.position, parts, streams = end, [], place[:, 0]
    while position < end:
        number, stop = position // chunk, min((position // chunk + 1) * chunk, end)
        question, earlier = asked.questions.get(number, (None, None))
        if earlier is not None and len(earlier) != len(place):
            question, earlier = None, None
        parts.append(Part(stop - position, question, earlier))
        asked.queries.append((streams, queries[:, position - begin : stop - begin].detach()))
        if stop % chunk == 0:
            whole = torch.cat([part for _, part in asked.queries], dim=1)
            same = torch.stack([of == streams for of, _ in asked.queries]).all(0)
            asked.queries.clear()
            asked.questions.pop(number - 1, None)
            if whole.shape[1] == chunk:  # else the sequence was taken up inside of it
                seen = limit[:, position - begin] * same
                asked.questions[number + 1] = memory.ask_for_all(place, whole, seen), streams
        position = stop
    return parts
