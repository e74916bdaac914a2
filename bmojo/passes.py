"""How a layer goes along tokens: a sequence or a piece of one at once, or one token in constant time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bmojo_kernels as bk
import torch
from torch import Tensor

from bmojo.attention import Memories
from bmojo.eidetic.judging import Judged, judged
from bmojo.eidetic.selection import absorbed, advanced, chunk_rows, seen_places, take
from bmojo.packing import Piece, places_of, read_ragged, unpacked
from bmojo.projections import Angles, Heads
from bmojo.state import BMojoState, KeyValueRing, ordered, renewed, written
from bmojo.storage.exchange import Pool, Reading, exchange, starts_chunk

if TYPE_CHECKING:
    from bmojo.layer import BMojo

__all__ = ["Piece", "Stored", "piece_of", "step_of"]

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
    met: dict[str, Any] = {"start": start, "window": _joined(recent, piece)}
    if memories.fading is not None:
        faded = state.fading.ordered(start)
        updates["fading"] = state.fading.renewed(faded, memories.fading, start)
        met["fading"] = _joined(faded, memories.fading)
    if worth is not None:
        past = torch.arange(start - window, start, device=heads.keys.device)
        kept = layer.kept_keys(recent[0], layer.angles(past, recent[0].dtype)), recent[1]
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
    return (replace(memories, **met) if start else memories), updates


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


def _asked_by_one(
    layer: BMojo, heads: Heads, worth: Judged, angles: Angles, state: BMojoState
) -> tuple[Reading, Tensor]:
    """The same for one query."""
    assert layer.storage is not None
    queries, start, pool = layer.eidetic_queries(heads, angles), state.position, None
    queries = heads.queries if queries is None else queries
    gated = worth.log_gate is not None
    if starts_chunk(start, 1, layer.steps["chunk"]):
        keys, values = state.window.ordered(start)
        past = torch.arange(start - layer.config.window, start, device=keys.device)
        kept = layer.kept_keys(keys, layer.angles(past, keys.dtype))
        gate = None
        if worth.log_gate is not None:
            gate = torch.cat([state.eidetic_gate, ordered(state.window_gate, start), worth.log_gate], dim=1)
        earlier = ordered(state.window_priority, start)
        pool = Pool(
            torch.cat([state.eidetic.keys, kept, layer.eidetic_keys(heads, angles)], dim=1),
            torch.cat([state.eidetic.values, values, heads.values], dim=1),
            gate,
            state.eidetic_index,
            state.eidetic_priority,
            torch.cat([earlier, worth.priority.to(earlier.dtype)], dim=1),
        )
    place = layer.storage.begin(state.batch, queries.device) if state.place is None else state.place
    return exchange(layer.storage, place, pool, queries, gated=gated, position=start, **layer.steps)


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


def step_of(
    layer: BMojo, u: Tensor, state: BMojoState, retrieved: Stored | None
) -> tuple[Tensor, BMojoState]:
    """One token (B, D): its output (B, D) and the state after it, in time that does not depend on the past.

    Parameters
    ----------
    layer : BMojo
    u : Tensor, shape (B, D)
    state : BMojoState
    retrieved : tuple of Tensor, shape (B, R, kv_heads, head_dim), optional
    """
    config, start, updates = layer.config, state.position, {}
    position = _own(state, start, u.device)
    fading, innovations, worth, read = None, None, None, None
    if layer.mixer is not None:
        fading, updates["mixer"], innovations = _mixed(layer, u, state.mixer)
    if config.eidetic:
        worth = judged(
            layer,
            u.unsqueeze(1),
            position,
            fading=None if fading is None else fading.unsqueeze(1),
            innovations=innovations,
            state=state.predictor,
        )
        updates["predictor"] = worth.predictor
    if config.window:
        read, rings = _read_one(layer, u, fading, worth, position, state, retrieved)
        updates |= rings
    output = layer.finished(read, fading, None if worth is None else worth.loss)
    return output, replace(state, position=start + 1, **updates)


def _mixed(
    layer: BMojo, u: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """Fading token (B, D), the mixer's state, and its innovations (B, 1, H, V) where they are asked for."""
    mixer = layer.mixer
    if layer.listens and hasattr(mixer, "innovations_step"):
        fading, state, innovations = mixer.innovations_step(u, state)
        return fading, state, innovations.unsqueeze(1)
    if layer.listens:
        fading, state, innovations = mixer.innovations(u.unsqueeze(1), state)
        return fading.squeeze(1), state, innovations
    if hasattr(mixer, "step"):
        return *mixer.step(u, state), None
    fading, state = mixer(u.unsqueeze(1), state)
    return fading.squeeze(1), state, None


def _read_one(
    layer: BMojo,
    u: Tensor,
    fading: Tensor | None,
    worth: Judged | None,
    position: Tensor,
    state: BMojoState,
    retrieved: Stored | None,
) -> tuple[Tensor, dict[str, Any]]:
    """What one query reads, (B, H, d), and what changes in the state."""
    config, start, tokens, updates = layer.config, state.position, u, {}
    if config.short_conv:
        tokens, updates["conv_tail"] = layer.short_conv.step(u, state.conv_tail)
    angles = layer.angles(position, u.dtype)
    heads = layer.heads(tokens.unsqueeze(1), angles)
    met: dict[str, Any] = {}
    reading = None
    if layer.storage is not None and worth is not None:
        reading, updates["place"] = _asked_by_one(layer, heads, worth, angles, state)
    if worth is not None:
        kept, index = _advance(layer, worth, state)
        updates |= kept
        ring: KeyValueRing = kept.get("eidetic", state.eidetic)
        met |= {"eidetic_index": index, "eidetic": (ring.keys, ring.values)}
        met["eidetic_bias"] = kept.get("eidetic_gate", state.eidetic_gate) if config.write_gate else None
        met["q_eidetic"] = layer.eidetic_queries(heads, angles)
    window = state.window.written(heads.keys[:, 0], heads.values[:, 0], start)
    updates["window"] = window
    if fading is not None:
        keys, values = layer.fading_pair(fading.unsqueeze(1), angles)
        updates["fading"] = state.fading.written(keys[:, 0], values[:, 0], start)
        met["fading"] = updates["fading"].keys, updates["fading"].values
        met["q_fading"] = layer.fading_queries(heads, tokens.unsqueeze(1), angles)
    if retrieved is not None:
        met |= {"retrieved": retrieved, "q_retrieved": heads.plain_queries}
    met = {name: x.squeeze(1) if name.startswith("q_") and x is not None else x for name, x in met.items()}
    queries = heads.queries.squeeze(1)
    met, queries = _of_one_dtype(met, queries, window.keys.dtype)
    if state.lacking is not None:
        pair = window.keys, window.values
        return read_ragged(queries, pair, met, state.lacking, position=start, window=config.window), updates
    out, lse = bk.memory_attention_step(
        queries, window.keys, window.values, window=config.window, position=start, **met
    )
    if reading is not None:
        out = reading.joined(out.unsqueeze(1), lse.unsqueeze(1))[0].squeeze(1)
    return out, updates


def _of_one_dtype(met: dict[str, Any], queries: Tensor, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
    """Queries in the dtype of the rings: under autocast they are narrower."""
    if queries.dtype is dtype:
        return met, queries
    cast = {name: x.to(dtype) if name.startswith("q_") and x is not None else x for name, x in met.items()}
    return cast, queries.to(dtype)


def _own(state: BMojoState, position: int, device: torch.device) -> Tensor:
    """A position as each sequence counts, (1,) or (B, 1)."""
    common = torch.full((1,), position, device=device)
    return common if state.lacking is None else common - state.lacking.unsqueeze(1)


def _pending(layer: BMojo, state: BMojoState) -> Tensor:
    """Priorities of those that leave the window before the chunk of the next token ends, (B, r)."""
    start, window, chunk = state.position, layer.config.window, layer.steps["chunk"]
    device = state.eidetic_index.device
    count = (chunk - 1 - start % chunk) if state.lacking is None else chunk - 1
    soon = torch.arange(count, device=device)
    found = state.window_priority[:, (start + 1 + soon) % window]
    if state.lacking is None:
        return found
    left = chunk - 1 - (start - state.lacking) % chunk
    return found.masked_fill(soon >= left.unsqueeze(1), -torch.inf)


def _advance(layer: BMojo, worth: Judged, state: BMojoState) -> tuple[dict[str, Any], Tensor]:
    """The set once the oldest position has left the window, and which of it the query sees, (B, m)."""
    config, start, updates = layer.config, state.position, {}
    window, row = config.window, start % config.window
    index, priority = state.eidetic_index, state.eidetic_priority
    if start >= window:
        leaving = _own(state, start - window, index.device)
        key, value = (x.unsqueeze(1) for x in state.window.at(start))
        key = layer.kept_keys(key, layer.angles(leaving, key.dtype))
        rows, index, priority = advanced(index, priority, start - window, state.window_priority[:, row])
        ring = KeyValueRing(
            take(torch.cat([state.eidetic.keys, key], dim=1), rows),
            take(torch.cat([state.eidetic.values, value], dim=1), rows),
        )
        updates |= {"eidetic": ring, "eidetic_index": index, "eidetic_priority": priority}
        if config.write_gate:
            gates = torch.cat([state.eidetic_gate, state.window_gate[:, row : row + 1]], dim=1)
            updates["eidetic_gate"] = gates.gather(1, rows)
    visible = seen_places(priority, _pending(layer, state))
    updates["window_priority"] = written(state.window_priority, worth.priority[:, 0], start)
    if worth.log_gate is not None:
        updates["window_gate"] = written(state.window_gate, worth.log_gate[:, 0], start)
    return updates, torch.where(visible, index, -1)
