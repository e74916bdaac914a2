"""How a layer goes along tokens: a sequence, a piece of one, or several packed ones at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bmojo_kernels as bk
import torch
from torch import Tensor

from bmojo.attention import Memories
from bmojo.eidetic.judging import Judged, judged
from bmojo.eidetic.selection import absorbed, chunk_rows, take
from bmojo.packing import Piece, places_of, unpacked
from bmojo.projections import Angles, Heads
from bmojo.state import BMojoState, KeyValueRing, ordered, renewed
from bmojo.storage.exchange import Pool, Reading, exchange

if TYPE_CHECKING:
    from bmojo.layer import BMojo

__all__ = ["Piece", "Stored", "piece_of"]

Stored = tuple[Tensor, ...]  # keys and values from storage, each (B, R, kv_heads, head_dim)


def piece_of(
    layer: BMojo,
    u: Tensor,
    state: BMojoState | None,
    retrieved: Stored | None,
    cu_seqlens: Tensor | None = None,
) -> Piece:
    """All tokens (B, T, D) at once, from a state where one came in.

    Parameters
    ----------
    layer : BMojo
    u : Tensor, shape (B, T, D)
    state : BMojoState, optional
        Of packed sequences that before their first tokens.
    retrieved : tuple of Tensor, shape (B, R, kv_heads, head_dim), optional
    cu_seqlens : Tensor, shape (S + 1,), optional
    """
    if cu_seqlens is not None:
        return _packed(layer, u, state, retrieved, cu_seqlens)
    start = 0 if state is None else state.position
    position = torch.arange(start, start + u.shape[1], device=u.device)
    return _piece(layer, u, state, retrieved, position)


def _packed(
    layer: BMojo, u: Tensor, state: BMojoState | None, retrieved: Stored | None, cu_seqlens: Tensor
) -> Piece:
    position, _ = places_of(cu_seqlens, u.shape[1])
    piece = _piece(layer, u, None, retrieved, position, cu_seqlens)
    if state is None:
        return piece
    return replace(piece, state=unpacked(state, piece, cu_seqlens, layer.config.window))


def _piece(
    layer: BMojo,
    u: Tensor,
    state: BMojoState | None,
    retrieved: Stored | None,
    position: Tensor,
    cu_seqlens: Tensor | None = None,
) -> Piece:
    """Tokens at `position` (T,) of their sequences."""
    config, updates = layer.config, {}
    packed: dict[str, Any] = {} if cu_seqlens is None else {"cu_seqlens": cu_seqlens}
    fading, innovations = None, None
    if layer.mixer is not None:
        past = None if state is None else state.mixer
        if layer.listens:
            fading, updates["mixer"], innovations = layer.mixer.innovations(u, past, **packed)
        else:
            fading, updates["mixer"] = layer.mixer(u, past, **packed)
    worth = None
    if config.eidetic:
        past = None if state is None else state.predictor
        seen: dict[str, Any] = {"fading": fading, "innovations": innovations, "state": past}
        worth = judged(layer, u, position, **seen, **packed)
        updates["predictor"] = worth.predictor
    memories = None
    if config.window:
        tokens = u
        if config.short_conv:
            tail = None if state is None else state.conv_tail
            tokens, updates["conv_tail"] = layer.short_conv(u, tail, **packed)
        angles = layer.angles(position, u.dtype)
        heads = layer.heads(tokens, angles)
        faded = None if fading is None else layer.fading_pair(fading, angles)
        memories = _fresh(layer, heads, tokens, faded, worth, angles, state, cu_seqlens)
        if state is not None:
            memories, rings = _continued(layer, memories, heads, worth, angles, state)
            updates |= rings
        if layer.storage is not None and worth is not None:
            reading, updates["place"] = _asked(layer, memories, worth, state)
            memories = replace(memories, stored=reading)
        if retrieved is not None:
            memories = replace(memories, retrieved=retrieved, retrieved_queries=heads.plain_queries)
    if state is not None:
        state = replace(state, position=state.position + u.shape[1], **updates)
    return Piece(fading, memories, state, worth, updates)


def _fresh(
    layer: BMojo,
    heads: Heads,
    tokens: Tensor,
    faded: tuple[Tensor, Tensor] | None,
    worth: Judged | None,
    angles: Angles,
    state: BMojoState | None,
    cu_seqlens: Tensor | None,
) -> Memories:
    """What the queries meet of their own piece."""
    near = heads.keys, heads.values
    memories = Memories(queries=heads.queries, window=near, fading=faded, cu_seqlens=cu_seqlens)
    if faded is not None:
        memories = replace(memories, fading_queries=layer.fading_queries(heads, tokens, angles))
    if worth is None:
        return memories
    places, index = layer.config.eidetic if state is None else state.eidetic_index.shape[1], None
    if state is None or state.position == 0:
        window, chunk = layer.steps.values()
        index = bk.innovation_topk(
            worth.priority, budget=places, window=window, chunk=chunk, cu_seqlens=cu_seqlens, check=False
        )
    return replace(
        memories,
        index=index,
        eidetic=None if layer.plainly_kept else (layer.eidetic_keys(heads, angles), heads.values),
        eidetic_queries=layer.eidetic_queries(heads, angles),
        gate=worth.log_gate,
    )


def _continued(
    layer: BMojo,
    memories: Memories,
    heads: Heads,
    worth: Judged | None,
    angles: Angles,
    state: BMojoState,
) -> tuple[Memories, dict[str, Any]]:
    """With the memories that the state carries in front, and what changes in the state."""
    window, start, piece = layer.config.window, state.position, (heads.keys, heads.values)
    recent = state.window.ordered(start)
    updates: dict[str, Any] = {"window": state.window.renewed(recent, piece, start)}
    # At the beginning there is nothing in front, and nothing is put together for the queries.
    met: dict[str, Any] = {"start": start, "window": _joined(recent, piece)} if start else {}
    if memories.fading is not None:
        faded = state.fading.ordered(start)
        updates["fading"] = state.fading.renewed(faded, memories.fading, start)
        met |= {"fading": _joined(faded, memories.fading)} if start else {}
    if worth is not None:
        past = torch.arange(start - window, start, device=heads.keys.device)
        kept = layer.kept_keys(recent[0], past), recent[1]
        places = state.eidetic.keys, state.eidetic.values
        pool = _joined(places, kept, memories.eidetic or piece)
        gate = None
        if worth.log_gate is not None:
            earlier = ordered(state.window_gate, start)
            gate = torch.cat([state.eidetic_gate, earlier, worth.log_gate], dim=1)
            updates["window_gate"] = renewed(state.window_gate, earlier, worth.log_gate, start)
        earlier = ordered(state.window_priority, start)
        priority = torch.cat([earlier, worth.priority.to(earlier.dtype)], dim=1)
        updates["window_priority"] = renewed(state.window_priority, earlier, worth.priority, start)
        updates |= _kept_on(layer, pool, gate, priority, state)
        if start:
            met |= _sets(layer, priority, state) | {"eidetic": pool, "gate": gate}
    return replace(memories, **met), updates


def _asked(
    layer: BMojo, memories: Memories, worth: Judged, state: BMojoState | None
) -> tuple[Reading, Tensor]:
    """What storage is asked for, once it has what leaves the set; streams and their rows after the piece."""
    assert layer.storage is not None
    queries, priority = memories.eidetic_queries, worth.priority
    queries = memories.queries if queries is None else queries
    if state is None:
        place, before = layer.storage.begin(len(priority), priority.device), layer.config.window
        index = torch.full((len(priority), layer.config.eidetic), -1, device=priority.device)
        kept, past = (priority.new_full((len(priority), n), -torch.inf) for n in (index.shape[1], before))
    else:
        place = layer.storage.begin(state.batch, priority.device) if state.place is None else state.place
        index, kept = state.eidetic_index, state.eidetic_priority
        past = ordered(state.window_priority, state.position)
    keys, values = memories.window if memories.eidetic is None else memories.eidetic
    pool = Pool(keys, values, memories.gate, index, kept, torch.cat([past, priority.to(past.dtype)], dim=1))
    return exchange(
        layer.storage,
        place,
        pool,
        queries,
        gated=pool.gate is not None,
        position=memories.start,
        **layer.steps,
    )


def _joined(*pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*pairs, strict=True)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)


def _sets(layer: BMojo, priority: Tensor, state: BMojoState) -> dict[str, Tensor]:
    """Sets of the piece's chunks: positions, and rows of the pool [places, window, piece]."""
    start, places = state.position, state.eidetic_index.shape[1]
    rows = chunk_rows(state.eidetic_priority, priority, position=start, **layer.steps)
    old = state.eidetic_index.gather(1, rows.clamp(0, places - 1).flatten(1)).view_as(rows)
    index = torch.where(rows < places, old, rows + (start - layer.config.window - places))
    return {"index": torch.where(rows < 0, rows, index), "rows": rows.clamp_min(0)}


def _kept_on(
    layer: BMojo,
    pool: tuple[Tensor, Tensor],
    gate: Tensor | None,
    priority: Tensor,
    state: BMojoState,
) -> dict[str, Any]:
    """The set of what has left the window after the piece."""
    window, start, places = layer.config.window, state.position, state.eidetic_index.shape[1]
    length = priority.shape[1] - window
    left = torch.arange(start - window, start - window + length, device=priority.device)
    index = torch.cat([state.eidetic_index, left.expand(len(priority), -1)], dim=1)
    worth = torch.cat([state.eidetic_priority, priority[:, :length]], dim=1)
    rows, index, worth = absorbed(index, worth, places)
    keys, values = (take(x, rows).to(state.eidetic.keys.dtype) for x in pool)
    updates = {
        "eidetic": KeyValueRing(keys, values), "eidetic_index": index, "eidetic_priority": worth,
    }  # fmt: skip
    if gate is not None:
        updates["eidetic_gate"] = gate.gather(1, rows)
    return updates
