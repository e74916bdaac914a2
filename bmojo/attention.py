"""In context: one softmax over all memories, by the kernel or, memory by memory, by its definition."""

from __future__ import annotations

from dataclasses import dataclass

import bmojo_kernels as bk
import torch
from torch import Tensor

from bmojo.backends import backend_of
from bmojo.chunks import Chunks
from bmojo.segments import Segment, attend, consecutive, everywhere, placed
from bmojo.storage.exchange import Reading

__all__ = ["Memories"]

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class Memories:
    """What the queries of a piece meet; keys and queries as they are read, turned and normed.

    Parameters
    ----------
    queries : Tensor, shape (B, T, H, d)
        Of the positions `start` to `start + T - 1`.
    window : pair of Tensor, shape (B, S, G, d)
        Keys and values of the last `S >= T` positions.
    fading : pair of Tensor, shape (B, S_f, G, d), optional
    fading_queries, eidetic_queries, retrieved_queries : Tensor, shape (B, T, H, d), optional
        In place of `queries`.
    index : Tensor of int64, shape (B, chunks, m), optional
        Positions in the set of each chunk; -1 is an empty place.
    rows : Tensor of int64, shape (B, chunks, m), optional
        Their rows in `eidetic`.
    eidetic : pair of Tensor, shape (B, P, G, d), optional
        Those of the window when left out.
    gate : Tensor, shape (B, P), optional
        Added to the logits of `eidetic`.
    retrieved : tuple of Tensor, shape (B, R, G, d) twice, and (B, R) where logits are added to, optional
    stored : Reading, optional
        What storage is being asked for.
    start : int
    cu_seqlens : Tensor, shape (S + 1,), optional
    """

    queries: Tensor
    window: Pair
    fading: Pair | None = None
    fading_queries: Tensor | None = None
    index: Tensor | None = None
    rows: Tensor | None = None
    eidetic: Pair | None = None
    eidetic_queries: Tensor | None = None
    gate: Tensor | None = None
    retrieved: tuple[Tensor, ...] | None = None
    retrieved_queries: Tensor | None = None
    stored: Reading | None = None
    start: int = 0
    cu_seqlens: Tensor | None = None

    def read(self, *, window: int, chunk: int) -> Tensor:
        """What the queries read, (B, T, H, d), by the kernel; where it has none, by the definition."""
        if backend_of(self.queries) == "naive" and self.cu_seqlens is None and self.stored is None:
            return self.read_by_segment(window=window, chunk=chunk)[0]
        return self._read(window, chunk)[0]

    def _read(self, window: int, chunk: int) -> tuple[Tensor, Tensor | None]:
        """The same, and the mass (B, T, H) of storage where it is asked."""
        out, lse = bk.memory_attention(
            self.queries,
            *self.window,
            window=window,
            chunk=chunk,
            fading=self.fading,
            q_fading=self.fading_queries,
            eidetic_index=self.index,
            eidetic=self.eidetic,
            eidetic_rows=self.rows,
            q_eidetic=self.eidetic_queries,
            eidetic_bias=self.gate,
            retrieved=self.retrieved,  # pyright: ignore[reportArgumentType]
            q_retrieved=self.retrieved_queries,
            start=self.start,
            cu_seqlens=self.cu_seqlens,
            backend=backend_of(self.queries),
        )
        return (out, None) if self.stored is None else self.stored.joined(out, lse.transpose(1, 2))

    def segments(self, *, window: int, chunk: int) -> tuple[Chunks, list[Segment]]:
        """The memories one by one, storage apart, and how their queries are cut."""
        chunks = Chunks.of(
            position=self.start, length=self.queries.shape[1], chunk=chunk, device=self.queries.device
        )

        def cut(queries: Tensor | None) -> Tensor:
            return chunks.cut(self.queries if queries is None else queries)

        near, far = (window - 1, 0), (2 * window - 1, window)
        segments: list[Segment] = [consecutive("window", chunks, cut(None), self.window, ends=near)]
        if self.fading is not None:
            segments.append(consecutive("fading", chunks, cut(self.fading_queries), self.fading, ends=far))
        if self.index is not None:
            pool = self.window if self.eidetic is None else self.eidetic
            first = self.start + self.queries.shape[1] - self.window[0].shape[1]
            rows = self.index - first if self.rows is None else self.rows
            queries = cut(self.eidetic_queries)
            segments.append(placed(chunks, queries, pool, self.index, rows, self.gate, window=window))
        if self.retrieved is not None:
            segments.append(everywhere(chunks, cut(self.retrieved_queries), self.retrieved))
        return chunks, segments

    def read_by_segment(self, *, window: int, chunk: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """The same by the definition, with the mass (B, T, H, segments) of each memory, and their names."""
        chunks, segments = self.segments(window=window, chunk=chunk)
        out, mass = attend(segments, scale=self.queries.shape[-1] ** -0.5)
        out, mass = chunks.join(out), chunks.join(mass)
        names = tuple(segment.name for segment in segments)
        if self.stored is None:
            return out, mass, names
        out, stored = self._read(window, chunk)
        assert stored is not None
        stored = stored.unsqueeze(-1).to(mass.dtype)
        return out, torch.cat([mass * (1 - stored), stored], dim=-1), (*names, "stored")
