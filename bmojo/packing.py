"""Sequences of several lengths: packed behind one another, their states side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bmojo.attention import Memories
from bmojo.eidetic.judging import Judged
from bmojo.eidetic.selection import absorbed
from bmojo.segments import Segment, attend
from bmojo.state import BMojoState, KeyValueRing, closed

__all__ = ["Piece", "edges_of", "places_of", "read_ragged", "unpacked"]


@dataclass(frozen=True, eq=False)
class Piece:
    """What a layer did along a piece, but for the reading of its memories.

    Parameters
    ----------
    fading : Tensor, shape (B, T, D), or None
    memories : Memories, or None
        None for the bare mixer.
    state : BMojoState, or None
    worth : Judged, or None
        None without places.
    updates : dict
        What changes in a state, by field; of packed sequences only what the recurrences carry.
    """

    fading: Tensor | None
    memories: Memories | None
    state: BMojoState | None
    worth: Judged | None
    updates: dict[str, Any]


def edges_of(mask: Tensor) -> Tensor:
    """Edges (B + 1,) of the sequences that a mask (B, T) of bool shows, once they lie behind one another."""
    lengths = mask.sum(1)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def places_of(cu_seqlens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Position of each of `length` packed tokens in its sequence, and which sequence that is, both (T,)."""
    edges = cu_seqlens.long()
    sequence = torch.repeat_interleave(
        torch.arange(len(edges) - 1, device=edges.device), edges.diff(), output_size=length
    )
    return torch.arange(length, device=edges.device) - edges[sequence], sequence


def unpacked(state: BMojoState, piece: Piece, cu_seqlens: Tensor, window: int) -> BMojoState:
    """States of packed sequences side by side, aligned at their ends.

    Parameters
    ----------
    state : BMojoState
        Before the first tokens, of as many sequences.
    piece : Piece
        What the layer did along them.
    cu_seqlens : Tensor, shape (S + 1,)
    window : int
    """
    edges = cu_seqlens.long()
    lengths = edges.diff()
    longest = int(lengths.max())
    lacking = longest - lengths
    updates = dict(piece.updates)

    def last(x: Tensor, count: int, filling: float = 0.0) -> Tensor:
        """The last `count` of each sequence's rows of `x` (1, T, ...), in order of time."""
        back = torch.arange(count, 0, -1, device=edges.device)
        there = (back <= lengths.unsqueeze(1)).view(len(lengths), count, *(1,) * (x.ndim - 2))
        rows = (edges[1:].unsqueeze(1) - back).clamp_min(0)
        return torch.where(there, x[0][rows], filling)

    def ring(pair: tuple[Tensor, Tensor], like: KeyValueRing) -> KeyValueRing:
        keys, values = (closed(last(x, like.keys.shape[1]), longest).to(like.keys.dtype) for x in pair)
        return KeyValueRing(keys, values)

    memories, worth = piece.memories, piece.worth
    if memories is not None:
        updates["window"] = ring(memories.window, state.window)
        if memories.fading is not None:
            updates["fading"] = ring(memories.fading, state.fading)
    if memories is not None and worth is not None:
        priority = last(worth.priority.to(torch.float64).unsqueeze(-1), longest, -torch.inf).squeeze(-1)
        recent = last(worth.priority.to(torch.float64), window, -torch.inf)
        updates["window_priority"] = closed(recent, longest)
        places, left = state.eidetic_index.shape[1], max(0, longest - window)
        index = torch.arange(-places, left, device=edges.device).clamp_min(-1).expand(len(lengths), -1)
        front = state.eidetic_priority
        rows, index, kept = absorbed(index, torch.cat([front, priority[:, :left]], dim=1), places)
        # A row of the candidates is a place, or a position as the longest sequence counts.
        rows = (edges[:-1] - lacking).unsqueeze(1) + rows - places
        empty = (index < 0)[..., None, None]
        pool = memories.window if memories.eidetic is None else memories.eidetic
        found = (torch.where(empty, 0.0, x[0][rows.clamp_min(0)]) for x in pool)
        updates["eidetic"] = KeyValueRing(*(x.to(state.eidetic.keys.dtype) for x in found))
        updates |= {"eidetic_index": index, "eidetic_priority": kept}
        if worth.log_gate is not None:
            updates["window_gate"] = closed(last(worth.log_gate, window), longest)
            gates = worth.log_gate[0][rows.clamp_min(0)]
            updates["eidetic_gate"] = torch.where(index < 0, 0.0, gates)
    ragged = None if bool((lacking == 0).all()) else lacking
    return replace(state, position=longest, lacking=ragged, **updates)


def read_ragged(
    queries: Tensor,
    window_pair: tuple[Tensor, Tensor],
    met: dict[str, Any],
    lacking: Tensor,
    *,
    position: int,
    window: int,
) -> Tensor:
    """`bmojo_kernels.memory_attention_step` for sequences that began at several positions, by the definition.

    Parameters
    ----------
    queries : Tensor, shape (B, H, d)
    window_pair : pair of Tensor, shape (B, w, G, d)
        Rings, the token's own key and value among them.
    met : dict
        The further arguments of the step.
    lacking : Tensor of int64, shape (B,)
        Where each sequence began.
    position, window : int
    """

    def segment(name: str, pair: tuple[Tensor, ...], visible: Tensor, bias: Tensor | None = None) -> Segment:
        reader = met.get(f"q_{name}")
        query = queries if reader is None else reader
        keys, values = (x.unsqueeze(1) for x in pair[:2])
        bias = None if bias is None else bias.unsqueeze(1)
        return Segment(name, query[:, None, None], keys, values, visible[:, None, None], bias)

    def positions(size: int) -> Tensor:
        rows = torch.arange(size, device=queries.device)
        return (position - (position - rows) % size).expand(len(queries), -1)

    began = lacking.unsqueeze(1)
    at = positions(window)
    segments = [segment("window", window_pair, at >= began)]
    if met.get("fading") is not None:
        at = positions(met["fading"][0].shape[1])
        segments.append(segment("fading", met["fading"], (at >= began) & (at <= position - window)))
    if met.get("eidetic") is not None:
        visible = met["eidetic_index"] >= 0
        segments.append(segment("eidetic", met["eidetic"], visible, met.get("eidetic_bias")))
    if met.get("retrieved") is not None:
        stored = met["retrieved"]
        everywhere = torch.ones(stored[0].shape[:2], dtype=torch.bool, device=queries.device)
        bias = stored[2] if len(stored) > 2 else None
        segments.append(segment("retrieved", stored, everywhere, bias))
    return attend(segments, scale=queries.shape[-1] ** -0.5)[0][:, 0, 0]
