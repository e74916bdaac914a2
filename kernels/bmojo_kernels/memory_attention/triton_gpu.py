"""`memory_attention` on the GPU: one pass of tiles of queries over the keys of every memory.

Forward and the queries' gradients walk alike: a tile of queries of one head meets the tiles of its window, of
the fading keys one window further back, of the set of each chunk that it touches, gathered by index from
where they lie, and of the retrieved keys. The keys' gradients walk the other way, a tile of keys meeting the
queries that see it. What a set's keys get in each chunk is kept and then added up in the order of the chunks,
key by key: no atomics, the same bits each time.

Logits are in units of log 2. Positions count along the axis that the keys lie on, rows along (batch, time).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.triton_support import (
    Chunks,
    architecture,
    ceil_div,
    chunked,
    launch,
    load_rows,
    load_tile,
    power_of_two,
    precision,
    product_dtype,
    store_tile,
    tables,
)

__all__ = ["backward", "forward"]

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def _tile(p, rows, there, head, HEADS, width, PADDED: tl.constexpr):
    return load_tile(p, rows, there, head, HEADS, width, 0, PADDED)


@triton.jit
def _put(p, x, rows, there, head, HEADS, width, PADDED: tl.constexpr):
    store_tile(p, x, rows, there, head, HEADS, width, 0, PADDED)


@triton.jit
def _meet(
    q, k, v, seen, bias, x, y, acc, dout, scale,
    KIND: tl.constexpr, PRECISION: tl.constexpr, FORWARD: tl.constexpr, MASKED: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    """A tile of queries meets a tile of keys; where none of them is hidden, without a mask.

    Forward, `x` and `y` are the running maximum and sum, `acc` the outputs; else they are the logarithm of
    the whole sum and the part of the gradient common to a row, and `acc` the queries' gradient.
    """
    logits = tl.dot(q.to(KIND), tl.trans(k.to(KIND)), input_precision=PRECISION)
    unit = scale * LOG2_E
    if BIAS:
        logits += (bias / scale)[None, :]
    if MASKED:
        logits = tl.where(seen, logits, NEVER)
    if FORWARD:
        top = tl.maximum(x, tl.max(logits, 1) * unit)
        shift = top
        if MASKED or BIAS:
            shift = tl.where(top == NEVER, 0.0, top)
        weights = tl.exp2(logits * unit - shift[:, None])
        fade = tl.exp2(x - shift)
        y = y * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(KIND), v.to(KIND), input_precision=PRECISION)
        x = top
    else:
        weights = tl.exp2(logits * unit - x[:, None])
        dweights = tl.dot(dout.to(KIND), tl.trans(v.to(KIND)), input_precision=PRECISION)
        dlogits = weights * (dweights - y[:, None])
        acc += tl.dot(dlogits.to(KIND), k.to(KIND), input_precision=PRECISION)
    return x, y, acc


@triton.jit
def _meet_back(
    q, k, v, seen, bias, lse, common, dk, dv, dbias, dout, scale,
    KIND: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """A tile of keys meets a tile of queries that see it; everything transposed."""
    logits = tl.dot(k.to(KIND), tl.trans(q.to(KIND)), input_precision=PRECISION)
    if BIAS:
        logits += (bias / scale)[:, None]
    if MASKED:
        logits = tl.where(seen, logits, NEVER)
    weights = tl.exp2(logits * (scale * LOG2_E) - lse[None, :])
    dv += tl.dot(weights.to(KIND), dout.to(KIND), input_precision=PRECISION)
    dweights = tl.dot(v.to(KIND), tl.trans(dout.to(KIND)), input_precision=PRECISION)
    dlogits = weights * (dweights - common[None, :])
    if BIAS:
        dbias += tl.sum(dlogits, 1)
    dk += tl.dot(dlogits.to(KIND), q.to(KIND), input_precision=PRECISION)
    return dk, dv, dbias


@triton.jit
def _parts(low, high, full_low, full_high, SIZE: tl.constexpr):
    """Tiles of [low, high): how many hold what is hidden, how many of them come first, how many are whole."""
    left = tl.cdiv(tl.maximum(tl.minimum(full_low, high) - low, 0), SIZE)
    inner = low + left * SIZE
    count = tl.maximum(tl.minimum(full_high, high) - inner, 0) // SIZE
    right = tl.cdiv(tl.maximum(high - inner - count * SIZE, 0), SIZE)
    return left + right, left, count


@triton.jit
def _near(
    q, kp, vp, t, first_t, last_t, begin, base, group, GK, GV, D, DV, window, back, x, y, acc, dout, scale,
    KIND: tl.constexpr, PRECISION: tl.constexpr, FORWARD: tl.constexpr, KEYS: tl.constexpr,
    DP: tl.constexpr, DVP: tl.constexpr,
):  # fmt: skip
    """Keys at (t - back - window, t - back]: the window itself, or the fading keys behind it."""
    low, high = tl.maximum(first_t - back - window + 1, begin), last_t - back + 1
    i, none = tl.arange(0, KEYS), tl.zeros((KEYS,), tl.float32)
    edges, left, count = _parts(low, high, last_t - back - window + 1, first_t - back + 1, KEYS)
    for tile in range(edges):
        start = low + (tile + tl.where(tile >= left, count, 0)) * KEYS
        j = start + i
        there = j < high
        k = load_rows(kp, base + start, i, there, group, GK, D, 0, DP)
        v = load_rows(vp, base + start, i, there, group, GV, DV, 0, DVP)
        age = t[:, None] - back - j[None, :]
        seen = there[None, :] & (age >= 0) & (age < window)
        x, y, acc = _meet(q, k, v, seen, none, x, y, acc, dout, scale, KIND, PRECISION, FORWARD, True, False)
    for tile in range(left, left + count):
        start = low + tile * KEYS
        k = load_rows(kp, base + start, i, i >= 0, group, GK, D, 0, DP)
        v = load_rows(vp, base + start, i, i >= 0, group, GV, DV, 0, DVP)
        x, y, acc = _meet(q, k, v, none, none, x, y, acc, dout, scale, KIND, PRECISION, FORWARD, False, False)
    return x, y, acc


@triton.jit
def _kept(
    q, kp, vp, index, rows, bias, t, chunk_of, first_chunk, last_chunk, begin, batch, first_key, POOL, group,
    GK, GV, D, DV, window, BUDGET, x, y, acc, dout, scale,
    KIND: tl.constexpr, PRECISION: tl.constexpr, FORWARD: tl.constexpr, KEYS: tl.constexpr,
    DP: tl.constexpr, DVP: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Keys of the set of every chunk that the tile touches, each seen by that chunk's queries."""
    for chunk in range(first_chunk, last_chunk + 1):
        for start in range(0, BUDGET, KEYS):
            j, row, there, added = _members(
                index, rows, bias, chunk, start, begin, batch, first_key, POOL, BUDGET, KEYS, ROWS, BIAS
            )
            k = _tile(kp, row, there, group, GK, D, DP)
            v = _tile(vp, row, there, group, GV, DV, DVP)
            seen = there[None, :] & (j[None, :] <= t[:, None] - window) & (chunk_of[:, None] == chunk)
            x, y, acc = _meet(
                q, k, v, seen, added, x, y, acc, dout, scale, KIND, PRECISION, FORWARD, True, BIAS
            )
    return x, y, acc


@triton.jit
def _members(
    index, rows, bias, chunk, start, begin, batch, first_key, POOL, BUDGET, KEYS: tl.constexpr,
    ROWS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Positions of a set, the rows that hold them, which are there, and what their logits get."""
    i = start + tl.arange(0, KEYS)
    place = (tl.zeros((KEYS,), tl.int64) + chunk) * BUDGET + i
    j = tl.load(index + place, mask=i < BUDGET, other=-1)
    if ROWS:
        row = tl.load(rows + place, mask=i < BUDGET, other=-1)
    else:
        row = j - first_key
    there = (j >= begin) & (row >= 0) & (row < POOL)
    row = batch.to(tl.int64) * POOL + row
    if BIAS:
        added = tl.load(bias + row, mask=there, other=0.0).to(tl.float32)
    else:
        added = tl.zeros((KEYS,), tl.float32)
    return j, row, there, added


@triton.jit
def _fetched(
    q, kp, vp, bias, entry, RETRIEVED, group, G, D, DV, live, x, y, acc, dout, scale,
    KIND: tl.constexpr, PRECISION: tl.constexpr, FORWARD: tl.constexpr, KEYS: tl.constexpr,
    DP: tl.constexpr, DVP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Retrieved keys, seen by every query."""
    for start in range(0, RETRIEVED, KEYS):
        i = start + tl.arange(0, KEYS)
        there = i < RETRIEVED
        row = entry.to(tl.int64) * RETRIEVED + i
        if BIAS:
            added = tl.load(bias + row, mask=there, other=0.0).to(tl.float32)
        else:
            added = tl.zeros((KEYS,), tl.float32)
        k = _tile(kp, row, there, group, G, D, DP)
        v = _tile(vp, row, there, group, G, DV, DVP)
        seen = live[:, None] & there[None, :]
        x, y, acc = _meet(q, k, v, seen, added, x, y, acc, dout, scale, KIND, PRECISION, FORWARD, True, BIAS)
    return x, y, acc


@triton.jit
def _walk(
    q, k, v, qf, kf, vf, qe, ke, ve, qr, kr, vr, bias_e, bias_r, index, rows, out, lse, dout, dlse, common,
    dq, dqf, dqe, dqr, first_row, sequence, bounds, chunk_base,
    T, S, SF, POOL, NC, H, G, HQ, GK, GV, GKF, GVF, GKE, GVE, D, DV, window, chunk, start, BUDGET, RETRIEVED,
    scale, FORWARD: tl.constexpr, PACKED: tl.constexpr, FADING: tl.constexpr, KEPT: tl.constexpr,
    FETCHED: tl.constexpr, OWN_F: tl.constexpr, OWN_E: tl.constexpr, OWN_R: tl.constexpr,
    ROWS: tl.constexpr, BIAS_E: tl.constexpr, BIAS_R: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one head over all memories: outputs, or the queries' gradients."""
    owner, head = tl.load(sequence + tl.program_id(0)), tl.program_id(1)
    if owner < 0:
        return
    group = head // (H // G)
    first, stop = tl.load(first_row + tl.program_id(0)), tl.load(bounds + owner + 1)
    row = first + tl.arange(0, QUERIES)
    live = row < stop
    # Where positions begin for this sequence, and what turns them into rows of keys.
    if PACKED:
        begin, batch, shift = tl.load(bounds + owner).to(tl.int32), owner * 0, first * 0
    else:
        begin, batch, shift = owner * 0, owner, tl.load(bounds + owner) - start
    t = (row - shift).to(tl.int32)
    first_t = (first - shift).to(tl.int32)
    last_t = (tl.minimum(first + QUERIES, stop) - 1 - shift).to(tl.int32)
    first_key, first_fading = start + T - S, start + T - SF
    key_base, fading_base = batch.to(tl.int64) * S - first_key, batch.to(tl.int64) * SF - first_fading
    at = (batch.to(tl.int64) * H + head) * T + (t - start)
    if FORWARD:
        x, y = tl.full((QUERIES,), NEVER, tl.float32), tl.zeros((QUERIES,), tl.float32)
        acc = tl.zeros((QUERIES, DVP), tl.float32)
        do = acc
    else:
        x = tl.load(lse + at, mask=live, other=0.0) * LOG2_E
        x = tl.where(x == NEVER, 0.0, x)
        do = _tile(dout, row, live, head, H, DV, DVP)
        o = _tile(out, row, live, head, H, DV, DVP)
        y = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1) - tl.load(dlse + at, mask=live, other=0.0)
        tl.store(common + at, y, mask=live)
        acc = tl.zeros((QUERIES, DP), tl.float32)
    here = _tile(q, row, live, head, HQ, D, DP)
    x, y, acc = _near(
        here, k, v, t, first_t, last_t, tl.maximum(begin, first_key), key_base, group, GK, GV, D, DV,
        window, 0, x, y, acc, do, scale, KIND, PRECISION, FORWARD, KEYS, DP, DVP,
    )  # fmt: skip
    if FADING:
        if OWN_F:
            query = _tile(qf, row, live, head, H, D, DP)
        else:
            query = here
        # With queries of their own, a memory's part of the gradient is theirs.
        if OWN_F and not FORWARD:
            part = tl.zeros_like(acc)
        else:
            part = acc
        x, y, part = _near(
            query, kf, vf, t, first_t, last_t, tl.maximum(begin, first_fading), fading_base, group, GKF, GVF,
            D, DV, window, window, x, y, part, do, scale, KIND, PRECISION, FORWARD, KEYS, DP, DVP,
        )  # fmt: skip
        if OWN_F and not FORWARD:
            _put(dqf, part * scale, row, live, head, H, D, DP)
        else:
            acc = part
    if KEPT:
        base = tl.load(chunk_base + owner)
        chunk_of = (t - begin) // chunk + base
        if OWN_E:
            query = _tile(qe, row, live, head, H, D, DP)
        else:
            query = here
        if OWN_E and not FORWARD:
            part = tl.zeros_like(acc)
        else:
            part = acc
        x, y, part = _kept(
            query, ke, ve, index, rows, bias_e, t, chunk_of, (first_t - begin) // chunk + base,
            (last_t - begin) // chunk + base, begin, batch, first_key, POOL, group, GKE, GVE, D, DV, window,
            BUDGET, x, y, part, do, scale, KIND, PRECISION, FORWARD, KEYS, DP, DVP, ROWS, BIAS_E,
        )  # fmt: skip
        if OWN_E and not FORWARD:
            _put(dqe, part * scale, row, live, head, H, D, DP)
        else:
            acc = part
    if FETCHED:
        if OWN_R:
            query = _tile(qr, row, live, head, H, D, DP)
        else:
            query = here
        if OWN_R and not FORWARD:
            part = tl.zeros_like(acc)
        else:
            part = acc
        x, y, part = _fetched(
            query, kr, vr, bias_r, owner, RETRIEVED, group, G, D, DV, live, x, y, part, do, scale, KIND,
            PRECISION, FORWARD, KEYS, DP, DVP, BIAS_R,
        )  # fmt: skip
        if OWN_R and not FORWARD:
            _put(dqr, part * scale, row, live, head, H, D, DP)
        else:
            acc = part
    if FORWARD:
        y = tl.where(y > 0, y, 1.0)  # nothing seen: acc is 0 and x is -inf
        _put(out, acc / y[:, None], row, live, head, H, DV, DVP)
        tl.store(lse + at, (x + tl.log2(y)) / LOG2_E, mask=live)
    else:
        _put(dq, acc * scale, row, live, head, H, D, DP)


@triton.jit
def _queries(
    q, lse, common, dout, from_t, there, shift, batch, head, T, H, HQ, D, DV, start,
    QUERIES: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr,
):  # fmt: skip
    """What a tile of keys needs of the queries that it meets, those from `from_t` on."""
    row, i = shift + from_t, tl.arange(0, QUERIES)
    at = (batch.to(tl.int64) * H + head) * T + (from_t - start) + i
    total = tl.load(lse + at, mask=there, other=0.0) * LOG2_E
    return (
        load_rows(q, row, i, there, head, HQ, D, 0, DP),
        load_rows(dout, row, i, there, head, H, DV, 0, DVP),
        tl.where(total == NEVER, 0.0, total),
        tl.load(common + at, mask=there, other=0.0),
    )


@triton.jit
def _near_back(
    q, k, v, lse, common, dout, more_k, more_v, dk, dv, first_row, sequence, bounds, query_bounds,
    T, S, H, G, HQ, GK, GV, D, DV, window, back, start, scale,
    PACKED: tl.constexpr, MORE_K: tl.constexpr, MORE_V: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of the window's keys, or of the fading ones, and what their use in sets adds."""
    owner, group = tl.load(sequence + tl.program_id(0)), tl.program_id(1)
    if owner < 0:
        return
    first, stop = tl.load(first_row + tl.program_id(0)), tl.load(bounds + owner + 1)
    row = first + tl.arange(0, KEYS)
    live = row < stop
    low_row, high_row = tl.load(query_bounds + owner), tl.load(query_bounds + owner + 1)
    if PACKED:
        batch, base, shift = owner * 0, first * 0, first * 0
    else:
        batch, base, shift = owner, owner.to(tl.int64) * S - (start + T - S), low_row - start
    j = (row - base).to(tl.int32)
    low = tl.maximum((first - base).to(tl.int32) + back, (low_row - shift).to(tl.int32))
    last = (tl.minimum(first + KEYS, stop) - 1 - base).to(tl.int32)
    high = tl.minimum(last + back + window, (high_row - shift).to(tl.int32))
    x, y = _tile(k, row, live, group, GK, D, DP), _tile(v, row, live, group, GV, DV, DVP)
    dx, dy = tl.zeros((KEYS, DP), tl.float32), tl.zeros((KEYS, DVP), tl.float32)
    i, none = tl.arange(0, QUERIES), tl.zeros((KEYS,), tl.float32)
    full_high = (first - base).to(tl.int32) + back + window
    edges, left, count = _parts(low, high, last + back, full_high, QUERIES)
    for member in range(H // G):
        head = group * (H // G) + member
        for tile in range(edges):
            from_t = low + (tile + tl.where(tile >= left, count, 0)) * QUERIES
            t = from_t + i
            there = t < high
            query, do, total, shared = _queries(
                q, lse, common, dout, from_t, there, shift, batch, head, T, H, HQ, D, DV, start, QUERIES, DP,
                DVP,
            )  # fmt: skip
            age = t[None, :] - back - j[:, None]
            seen = live[:, None] & there[None, :] & (age >= 0) & (age < window)
            dx, dy, _ = _meet_back(
                query, x, y, seen, none, total, shared, dx, dy, none, do, scale, KIND, PRECISION, True, False
            )
        for tile in range(left, left + count):
            from_t = low + tile * QUERIES
            query, do, total, shared = _queries(
                q, lse, common, dout, from_t, i >= 0, shift, batch, head, T, H, HQ, D, DV, start, QUERIES, DP,
                DVP,
            )  # fmt: skip
            dx, dy, _ = _meet_back(
                query, x, y, none, none, total, shared, dx, dy, none, do, scale, KIND, PRECISION, False, False
            )
    dx *= scale
    if MORE_K:
        dx += _tile(more_k, row, live, group, G, D, DP)
    if MORE_V:
        dy += _tile(more_v, row, live, group, G, DV, DVP)
    _put(dk, dx, row, live, group, G, D, DP)
    _put(dv, dy, row, live, group, G, DV, DVP)


@triton.jit
def _kept_back(
    q, k, v, index, rows, bias, lse, common, dout, dk, dv, dbias, owners, lows, highs, bounds,
    T, S, POOL, H, G, HQ, GK, GV, D, DV, window, start, BUDGET, scale,
    PACKED: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    DP: tl.constexpr, DVP: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the keys of one chunk's set get from that chunk's queries."""
    chunk, owner = tl.program_id(0), tl.load(owners + tl.program_id(0))
    first, group = tl.program_id(1) * KEYS, tl.program_id(2)
    if owner < 0:
        return
    low, high = tl.load(lows + chunk), tl.load(highs + chunk)
    if PACKED:
        begin, batch, shift = tl.load(bounds + owner).to(tl.int32), owner * 0, (owner * 0).to(tl.int64)
    else:
        begin, batch, shift = owner * 0, owner, owner.to(tl.int64) * T - start
    j, row, there, added = _members(
        index, rows, bias, chunk, first, begin, batch, start + T - S, POOL, BUDGET, KEYS, ROWS, BIAS
    )
    x, y = _tile(k, row, there, group, GK, D, DP), _tile(v, row, there, group, GV, DV, DVP)
    dx, dy = tl.zeros((KEYS, DP), tl.float32), tl.zeros((KEYS, DVP), tl.float32)
    db = tl.zeros((KEYS,), tl.float32)
    for member in range(H // G):
        head = group * (H // G) + member
        for from_t in range(low, high, QUERIES):
            t = from_t + tl.arange(0, QUERIES)
            inside = t < high
            query, do, total, shared = _queries(
                q, lse, common, dout, from_t, inside, shift, batch, head, T, H, HQ, D, DV, start, QUERIES, DP,
                DVP,
            )  # fmt: skip
            seen = there[:, None] & inside[None, :] & (j[:, None] <= t[None, :] - window)
            dx, dy, db = _meet_back(
                query, x, y, seen, added, total, shared, dx, dy, db, do, scale, KIND, PRECISION, True, BIAS
            )
    slot = first + tl.arange(0, KEYS)
    place = chunk.to(tl.int64) * BUDGET + slot
    _put(dk, dx * scale, place, slot < BUDGET, group, G, D, DP)
    _put(dv, dy, place, slot < BUDGET, group, G, DV, DVP)
    if BIAS:
        tl.store(dbias + place * G + group, db, mask=slot < BUDGET)


@triton.jit
def _fetched_back(
    q, k, v, bias, lse, common, dout, dk, dv, dbias, bounds, ENTRIES, RETRIEVED, PIECES, PIECE,
    T, H, G, HQ, D, DV, start, scale,
    PACKED: tl.constexpr, BIAS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, DP: tl.constexpr,
    DVP: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What retrieved keys get from one piece of their sequence's queries."""
    entry, piece = tl.program_id(0) // PIECES, tl.program_id(0) % PIECES
    first, group = tl.program_id(1) * KEYS, tl.program_id(2)
    low_row, high_row = tl.load(bounds + entry), tl.load(bounds + entry + 1)
    if PACKED:
        batch, shift = entry * 0, low_row * 0
    else:
        batch, shift = entry, low_row - start
    low = (low_row - shift).to(tl.int32) + piece * PIECE
    high = tl.minimum(low + PIECE, (high_row - shift).to(tl.int32))
    i = first + tl.arange(0, KEYS)
    there = i < RETRIEVED
    row = entry.to(tl.int64) * RETRIEVED + i
    if BIAS:
        added = tl.load(bias + row, mask=there, other=0.0).to(tl.float32)
    else:
        added = tl.zeros((KEYS,), tl.float32)
    x, y = _tile(k, row, there, group, G, D, DP), _tile(v, row, there, group, G, DV, DVP)
    dx, dy = tl.zeros((KEYS, DP), tl.float32), tl.zeros((KEYS, DVP), tl.float32)
    db = tl.zeros((KEYS,), tl.float32)
    for member in range(H // G):
        head = group * (H // G) + member
        for from_t in range(low, high, QUERIES):
            t = from_t + tl.arange(0, QUERIES)
            inside = t < high
            query, do, total, shared = _queries(
                q, lse, common, dout, from_t, inside, shift, batch, head, T, H, HQ, D, DV, start, QUERIES, DP,
                DVP,
            )  # fmt: skip
            seen = there[:, None] & inside[None, :]
            dx, dy, db = _meet_back(
                query, x, y, seen, added, total, shared, dx, dy, db, do, scale, KIND, PRECISION, True, BIAS
            )
    place = piece.to(tl.int64) * ENTRIES * RETRIEVED + row
    _put(dk, dx * scale, place, there, group, G, D, DP)
    _put(dv, dy, place, there, group, G, DV, DVP)
    if BIAS:
        tl.store(dbias + place * G + group, db, mask=there)


@triton.jit
def _add_up(parts, order, ends, out, WIDTH, TOGETHER: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum of the rows of `parts` that belong to each row of the pool, in their order."""
    row, c = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    low, high = tl.load(ends + row), tl.load(ends + row + 1)
    total = tl.zeros((COLUMNS,), tl.float32)
    for at in range(low, high, TOGETHER):
        i = at + tl.arange(0, TOGETHER)
        which = tl.load(order + i, mask=i < high, other=0)
        mask = (i < high)[:, None] & (c < WIDTH)[None, :]
        total += tl.sum(tl.load(parts + which[:, None] * WIDTH + c[None, :], mask=mask, other=0.0), 0)
    tl.store(out + row.to(tl.int64) * WIDTH + c, total.to(out.dtype.element_ty), mask=c < WIDTH)


# What is read where it lies: as it comes from one projection, it is a part of that one's rows.
SLICED = ("q", "k", "v", "k_fading", "v_fading", "k_eidetic", "v_eidetic")


def _is_slice(x: Tensor) -> bool:
    """Whether x (B, T, H, d) is some heads of a contiguous array of more of them."""
    (batch, length, heads, width), (of_batch, of_row, of_head, of_entry) = x.shape, x.stride()
    if x.numel() == 0 or of_entry != 1 or (heads > 1 and of_head != width):
        return False
    row = of_row if length > 1 else of_batch
    return row % width == 0 and (min(batch, length) == 1 or of_batch == length * row)


def _row_heads(x: Tensor) -> int:
    """How many heads a row of the array holds that x (B, T, H, d) is a part of."""
    batch, length, heads, width = x.shape
    if length > 1:
        return x.stride(1) // width
    return x.stride(0) // width if batch > 1 else heads


class Inputs(NamedTuple):
    """The operator's arguments: heads of queries, keys and values may be some of those of wider rows."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_fading: Tensor | None
    k_fading: Tensor | None
    v_fading: Tensor | None
    q_eidetic: Tensor | None
    k_eidetic: Tensor | None
    v_eidetic: Tensor | None
    bias_eidetic: Tensor | None
    q_retrieved: Tensor | None
    k_retrieved: Tensor | None
    v_retrieved: Tensor | None
    bias_retrieved: Tensor | None
    index: Tensor | None
    rows: Tensor | None
    cu_seqlens: Tensor | None
    window: int
    chunk: int
    start: int
    scale: float

    @classmethod
    def of(cls, *arguments) -> Inputs:
        """Of the operator's arguments."""
        inputs = cls(*arguments)
        return cls(
            *(
                x.contiguous() if isinstance(x, Tensor) and not (name in SLICED and _is_slice(x)) else x
                for name, x in inputs._asdict().items()
            )
        )

    @property
    def has_set(self) -> bool:
        """Whether there is an eidetic set with places in it."""
        return self.index is not None and self.index.numel() > 0

    @property
    def has_retrieved(self) -> bool:
        """Whether anything was retrieved."""
        return self.k_retrieved is not None and self.k_retrieved.shape[1] > 0


# Queries and keys of a tile, warps, tiles in flight, by chip, dtype and width; of queries forward, of queries
# for their gradients, of keys for theirs. Those of `sm_90` in bfloat16 and 64 wide are the fastest on an
# H200, although the last spills a little; elsewhere the largest that stay in registers.
SIZES = {
    ("sm_80", "bfloat16", 64): ((128, 32, 8, 2), (64, 32, 4, 1), (64, 32, 4, 1)),
    ("sm_80", "bfloat16", 128): ((64, 32, 8, 2), (64, 64, 8, 1), (64, 32, 8, 1)),
    ("sm_80", "bfloat16", 256): ((32, 32, 8, 1), (32, 32, 8, 1), (32, 16, 8, 1)),
    ("sm_80", "float32", 64): ((32, 32, 4, 2), (16, 32, 4, 1), (32, 32, 8, 1)),
    ("sm_80", "float32", 128): ((16, 32, 4, 1), (16, 32, 8, 1), (16, 16, 8, 1)),
    ("sm_90", "bfloat16", 64): ((64, 64, 4, 3), (64, 64, 4, 3), (64, 64, 4, 3)),
    ("sm_90", "bfloat16", 128): ((128, 64, 8, 3), (64, 32, 4, 3), (32, 128, 8, 1)),
    ("sm_90", "bfloat16", 256): ((32, 32, 8, 1), (32, 32, 8, 1), (32, 32, 8, 1)),
    ("sm_90", "float32", 64): ((32, 32, 4, 2), (16, 32, 8, 1), (32, 32, 8, 1)),
    ("sm_90", "float32", 128): ((16, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 1)),
    ("gfx942", "bfloat16", 64): ((64, 32, 4, 1), (64, 32, 4, 1), (64, 32, 4, 1)),
    ("gfx942", "bfloat16", 128): ((64, 32, 4, 1), (64, 32, 4, 1), (64, 32, 4, 1)),
    ("gfx942", "bfloat16", 256): ((64, 32, 4, 1), (32, 32, 4, 1), (32, 16, 4, 1)),
    ("gfx942", "float32", 64): ((64, 32, 4, 1), (64, 32, 4, 1), (64, 32, 4, 1)),
    ("gfx942", "float32", 128): ((64, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1)),
}
FORWARD, QUERIES_BACK, KEYS_BACK = range(3)


def _sizes(x: Inputs, walk: int) -> dict[str, int]:
    width, dtype = max(64, *_padded(x)), str(x.q.dtype).removeprefix("torch.")
    found = SIZES.get((architecture(x.q), dtype, width))
    if found is None:
        raise ValueError(
            f"memory_attention: heads of {max(x.q.shape[3], x.v.shape[3])} in {dtype} came; on a GPU at most "
            "256, in float32 128, fit. Use bfloat16, or split the heads."
        )
    queries, keys, warps, stages = found[walk]
    if x.has_set and x.chunk < 16 and walk != KEYS_BACK:
        # Most of a larger tile would be masked in each of its sets.
        queries, keys, warps = 16, 16 if walk == QUERIES_BACK else min(keys, 32), 4
    return {"QUERIES": queries, "KEYS": keys, "num_warps": warps, "num_stages": stages}


def _padded(x: Inputs) -> tuple[int, int]:
    return power_of_two(x.q.shape[3], 16), power_of_two(x.v.shape[3], 16)


def _shared(x: Inputs, walk: int) -> dict[str, object]:
    padded, padded_value = _padded(x)
    return {
        "PACKED": x.cu_seqlens is not None, "DP": padded, "DVP": padded_value, "KIND": product_dtype(x.q),
        "PRECISION": precision(x.q), **_sizes(x, walk),
    }  # fmt: skip


def _chunk_bases(x: Inputs, tiles: Chunks) -> Tensor:
    """What turns the number of a chunk within its sequence into its row of the index."""
    if x.cu_seqlens is None:
        return _even_bases(
            x.q.shape[0], 1 if x.index is None else x.index.shape[1], x.start // x.chunk, x.q.device
        )
    sizes = (tiles.bounds.diff() + (x.chunk - 1)) // x.chunk
    return (sizes.cumsum(0) - sizes).int()


@tables
def _even_bases(batch: int, count: int, first: int, device: torch.device) -> Tensor:
    return torch.arange(batch, device=device, dtype=torch.int32) * count - first


def _walk_all(x: Inputs, out: Tensor, lse: Tensor, grads: tuple[Tensor, ...] | None) -> None:
    """Outputs, or with `grads` = (dout, dlse, common, dq, ...) the queries' gradients."""
    options = _shared(x, FORWARD if grads is None else QUERIES_BACK)
    tiles = chunked(x.q, x.cu_seqlens, options["QUERIES"])
    q, k, v = x.q, x.k, x.v
    _, length, heads, width = q.shape
    pool_k, pool_v = _or(x.k_eidetic, k), _or(x.v_eidetic, v)
    fading = x.k_fading is not None
    dout, dlse, common, dq, dqf, dqe, dqr = grads or (out, lse, lse, q, q, q, q)
    launch(
        _walk, (tiles.count, heads), q, k, v, _or(x.q_fading, q), _or(x.k_fading, k), _or(x.v_fading, v),
        _or(x.q_eidetic, q), pool_k, pool_v, _or(x.q_retrieved, q), _or(x.k_retrieved, k),
        _or(x.v_retrieved, v), _or(x.bias_eidetic, q), _or(x.bias_retrieved, q), _or(x.index, tiles.first),
        _or(x.rows, tiles.first), out, lse, dout, dlse, common, dq, dqf, dqe, dqr, tiles.first,
        tiles.sequence, tiles.bounds, _chunk_bases(x, tiles), length, k.shape[1],
        x.k_fading.shape[1] if x.k_fading is not None else length, pool_k.shape[1],
        1 if x.index is None else x.index.shape[1], heads, k.shape[2],
        *(_row_heads(y) for y in (q, k, v, _or(x.k_fading, k), _or(x.v_fading, v), pool_k, pool_v)), width,
        v.shape[3], x.window, x.chunk, x.start, 1 if x.index is None else x.index.shape[2],
        1 if x.k_retrieved is None else x.k_retrieved.shape[1], x.scale, FORWARD=grads is None,
        FADING=fading, KEPT=x.has_set, FETCHED=x.has_retrieved, OWN_F=x.q_fading is not None,
        OWN_E=x.q_eidetic is not None, OWN_R=x.q_retrieved is not None, ROWS=x.rows is not None,
        BIAS_E=x.bias_eidetic is not None, BIAS_R=x.bias_retrieved is not None, **options,
    )  # fmt: skip


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    """A pointer has to point somewhere, used or not."""
    return other if x is None else x


def forward(*arguments) -> tuple[Tensor, Tensor]:
    """The operator `bmojo::memory_attention` on a GPU."""
    x = Inputs.of(*arguments)
    out = x.q.new_empty(*x.q.shape[:3], x.v.shape[3])
    lse = x.q.new_empty(x.q.shape[0], x.q.shape[2], x.q.shape[1], dtype=torch.float32)
    if lse.numel():
        _walk_all(x, out, lse, None)
    return out, lse


def backward(*arguments) -> list[Tensor]:
    """The operator `bmojo::memory_attention_backward` on a GPU."""
    x = Inputs.of(*arguments[:21])
    out, lse, dout, dlse = (y.contiguous() for y in arguments[21:])
    found = [
        x.q.new_empty(0) if y is None else torch.empty_like(y, memory_format=torch.contiguous_format)
        for y in x[:14]
    ]
    if lse.numel() == 0:
        return [y.zero_() for y in found]
    common = torch.empty_like(lse)
    queries = [x.q.new_empty(x.q.shape) if found[i].numel() == 0 else found[i] for i in (0, 3, 6, 10)]
    for own, used in zip(queries[1:], (x.k_fading is not None, x.has_set, x.has_retrieved), strict=True):
        if not used:
            own.zero_()
    _walk_all(x, out, lse, (dout, dlse, common, *queries))
    known = (lse, common, dout)
    more_k, more_v = _kept_gradients(x, known, found)
    _near_gradients(x, x.q, x.k, x.v, 0, known, more_k, more_v, found[1], found[2])
    if x.k_fading is not None and x.v_fading is not None:
        q = x.q if x.q_fading is None else x.q_fading
        _near_gradients(x, q, x.k_fading, x.v_fading, x.window, known, None, None, found[4], found[5])
    if x.k_retrieved is not None:
        _fetched_gradients(x, known, found)
    return found


def _near_gradients(
    x: Inputs, q: Tensor, k: Tensor, v: Tensor, back: int, known: tuple[Tensor, ...], more_k: Tensor | None,
    more_v: Tensor | None, dk: Tensor, dv: Tensor,
) -> None:  # fmt: skip
    options = _shared(x, KEYS_BACK)
    tiles = chunked(k, x.cu_seqlens, options["KEYS"])
    length, heads, width = x.q.shape[1:]
    asked = tiles.bounds if x.cu_seqlens is not None else chunked(x.q, None, 1 << 30).bounds
    launch(
        _near_back, (tiles.count, k.shape[2]), q, k, v, *known, _or(more_k, k), _or(more_v, v), dk, dv,
        tiles.first, tiles.sequence, tiles.bounds, asked, length, k.shape[1], heads, k.shape[2],
        *map(_row_heads, (q, k, v)), width, v.shape[3], x.window, back, x.start, x.scale,
        MORE_K=more_k is not None, MORE_V=more_v is not None,
        **options,
    )  # fmt: skip


def _kept_gradients(
    x: Inputs, known: tuple[Tensor, ...], found: list[Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the pool; where it is `k, v` themselves, what their own gradients are still to get."""
    pool_k, pool_v = _or(x.k_eidetic, x.k), _or(x.v_eidetic, x.v)
    if not x.has_set or x.index is None:
        for i in (7, 8, 9):
            found[i].zero_()
        return None, None
    length, heads, width = x.q.shape[1:]
    groups, rows, budget = x.k.shape[2], pool_k.shape[1], x.index.shape[2]
    owners, lows, highs = _chunk_table(x)
    count = owners.shape[0]
    dk = x.q.new_empty(count, budget, groups, width, dtype=torch.float32)
    dv = x.q.new_empty(count, budget, groups, x.v.shape[3], dtype=torch.float32)
    dbias = x.q.new_empty(count, budget, groups, dtype=torch.float32)
    options = _shared(x, KEYS_BACK)
    bounds = chunked(x.q, x.cu_seqlens, 1 << 30).bounds
    launch(
        _kept_back, (count, ceil_div(budget, options["KEYS"]), groups), _or(x.q_eidetic, x.q), pool_k, pool_v,
        x.index, _or(x.rows, x.index), _or(x.bias_eidetic, x.q), *known, dk, dv, dbias, owners, lows, highs,
        bounds, length, x.k.shape[1], rows, heads, groups,
        *map(_row_heads, (_or(x.q_eidetic, x.q), pool_k, pool_v)), width, x.v.shape[3], x.window, x.start,
        budget, x.scale, ROWS=x.rows is not None, BIAS=x.bias_eidetic is not None, **options,
    )  # fmt: skip
    order, ends = _uses(x, owners, rows)
    more_k = _summed(dk, order, ends, None if x.k_eidetic is None else found[7])
    more_v = _summed(dv, order, ends, None if x.v_eidetic is None else found[8])
    if x.bias_eidetic is not None:
        _summed(dbias.sum(-1, keepdim=True), order, ends, found[9])
    return (more_k if x.k_eidetic is None else None), (more_v if x.v_eidetic is None else None)


def _chunk_table(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of the index: its sequence (-1 for none), and the positions of its queries, [low, high)."""
    assert x.index is not None
    device, count = x.q.device, x.index.shape[1]
    batch, length = x.q.shape[:2]
    if x.cu_seqlens is None:
        return _even_table(batch, length, count, x.start, x.chunk, device)
    bounds = x.cu_seqlens.to(device=device, dtype=torch.int64)
    sizes = (bounds.diff() + (x.chunk - 1)) // x.chunk
    ends = sizes.cumsum(0)
    number = torch.arange(count, device=device)
    owner = torch.searchsorted(ends, number, right=True)
    known = owner.clamp(max=max(len(bounds) - 2, 0))
    low = bounds[known] + (number - ends[known] + sizes[known]) * x.chunk
    high = torch.minimum(low + x.chunk, bounds[known + 1])
    return torch.where(owner < len(bounds) - 1, owner, -1).int(), low.int(), high.int()


@tables
def _even_table(
    batch: int, length: int, count: int, start: int, chunk: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    first = (torch.arange(count, device=device) + start // chunk) * chunk
    low, high = first.clamp(min=start), (first + chunk).clamp(max=start + length)
    owner = torch.arange(batch, device=device).repeat_interleave(count)
    return owner.int(), low.repeat(batch).int(), high.repeat(batch).int()


def _uses(x: Inputs, owners: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """Places of the sets in the order of the pool's rows that they hold, and where each row's end."""
    assert x.index is not None
    batch, count, _ = x.index.shape
    first_key = x.start + x.q.shape[1] - x.k.shape[1]
    held = x.index - first_key if x.rows is None else x.rows
    there = (x.index >= 0) & (held >= 0) & (held < pool) & (owners.view(batch, count, 1) >= 0)
    offset = torch.arange(batch, device=held.device).view(-1, 1, 1) * pool
    key = torch.where(there, held + offset, batch * pool).flatten()
    in_order, order = torch.sort(key, stable=True)
    ends = torch.searchsorted(in_order, torch.arange(batch * pool + 1, device=key.device))
    return order, ends


def _summed(parts: Tensor, order: Tensor, ends: Tensor, out: Tensor | None) -> Tensor:
    rows, width = ends.shape[0] - 1, parts[0, 0].numel()
    out = parts.new_empty(rows, width) if out is None else out
    columns = min(power_of_two(width), 512)
    launch(
        _add_up, (rows, ceil_div(width, columns)), parts, order, ends, out, width, TOGETHER=8,
        COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return out


def _fetched_gradients(x: Inputs, known: tuple[Tensor, ...], found: list[Tensor]) -> None:
    """Each piece of time on its own, so that there are programs enough; the pieces are added up in order."""
    assert x.k_retrieved is not None
    if not x.has_retrieved:
        return
    entries, count, groups, width = x.k_retrieved.shape
    length, heads = x.q.shape[1:3]
    piece = max(512, power_of_two(ceil_div(length, 64)))
    pieces = ceil_div(length, piece)
    options = _shared(x, KEYS_BACK)
    real = torch.float32
    dk = x.q.new_empty(pieces, entries, count, groups, width, dtype=real)
    dv = x.q.new_empty(pieces, entries, count, groups, x.v.shape[3], dtype=real)
    dbias = x.q.new_empty(pieces, entries, count, groups, dtype=real)
    bounds = chunked(x.q, x.cu_seqlens, 1 << 30).bounds
    launch(
        _fetched_back, (entries * pieces, ceil_div(count, options["KEYS"]), groups), _or(x.q_retrieved, x.q),
        x.k_retrieved, x.v_retrieved, _or(x.bias_retrieved, x.q), *known, dk, dv, dbias, bounds, entries,
        count, pieces, piece, length, heads, groups, _row_heads(_or(x.q_retrieved, x.q)), width,
        x.v.shape[3], x.start, x.scale, BIAS=x.bias_retrieved is not None, **options,
    )  # fmt: skip
    found[11].copy_(dk.sum(0))
    found[12].copy_(dv.sum(0))
    if x.bias_retrieved is not None:
        found[13].copy_(dbias.sum((0, -1)))
