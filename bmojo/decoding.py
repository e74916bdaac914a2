"""How a layer goes along one token, in time that does not depend on the past."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bmojo_kernels as bk
import torch
from torch import Tensor

from bmojo.eidetic.judging import Judged, judged
from bmojo.eidetic.selection import advanced, seen_places, take
from bmojo.packing import read_ragged
from bmojo.passes import Stored
from bmojo.projections import Angles, Heads
from bmojo.state import BMojoState, KeyValueRing, held, ordered, written
from bmojo.storage.exchange import Pool, Reading, exchange, starts_chunk

if TYPE_CHECKING:
    from bmojo.layer import BMojo

__all__ = ["step_of"]


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
    window, chunk = layer.steps.values()
    # As many as there can be, at every position: a compiled step is one graph.
    soon = torch.arange(chunk - 1, device=state.eidetic_index.device)
    found = state.window_priority[:, (state.position + 1 + soon) % window]
    left = chunk - 1 - _own(state, state.position, soon.device) % chunk
    return found.masked_fill(soon >= left, -torch.inf)


def _advance(layer: BMojo, worth: Judged, state: BMojoState) -> tuple[dict[str, Any], Tensor]:
    """The set once the oldest position has left the window, and which of it the query sees, (B, m)."""
    config, start, updates = layer.config, state.position, {}
    window = config.window
    index, priority = state.eidetic_index, state.eidetic_priority
    if start >= window:
        leaving = _own(state, start - window, index.device)
        key, value = state.window.held(start)
        key = layer.kept_keys(key, leaving)
        worth_then = held(state.window_priority, start).squeeze(1)
        rows, index, priority = advanced(index, priority, start - window, worth_then)
        ring = KeyValueRing(
            take(torch.cat([state.eidetic.keys, key], dim=1), rows),
            take(torch.cat([state.eidetic.values, value], dim=1), rows),
        )
        updates |= {"eidetic": ring, "eidetic_index": index, "eidetic_priority": priority}
        if config.write_gate:
            gates = torch.cat([state.eidetic_gate, held(state.window_gate, start)], dim=1)
            updates["eidetic_gate"] = gates.gather(1, rows)
    visible = seen_places(priority, _pending(layer, state))
    updates["window_priority"] = written(state.window_priority, worth.priority[:, 0], start)
    if worth.log_gate is not None:
        updates["window_gate"] = written(state.window_gate, worth.log_gate[:, 0], start)
    return updates, torch.where(visible, index, -1)


def _asked_by_one(
    layer: BMojo, heads: Heads, worth: Judged, angles: Angles, state: BMojoState
) -> tuple[Reading, Tensor]:
    """What storage is asked for by one query, once it has what leaves the set; streams and their rows."""
    assert layer.storage is not None
    queries, start, pool = layer.eidetic_queries(heads, angles), state.position, None
    queries = heads.queries if queries is None else queries
    gated = worth.log_gate is not None
    if starts_chunk(start, 1, layer.steps["chunk"]):
        keys, values = state.window.ordered(start)
        past = torch.arange(start - layer.config.window, start, device=keys.device)
        kept = layer.kept_keys(keys, past)
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
