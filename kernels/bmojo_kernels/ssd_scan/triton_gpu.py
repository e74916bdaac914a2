"""`ssd_scan` on the GPU: a chunk is a few products of matrices, and the states between chunks are scanned.

Two passes: the states before each chunk, one chunk after the other, in float32; and every chunk's outputs,
from its own steps and from the state before it. The gradient is the same two passes with time turned round.
States are kept in the format that they are multiplied in. Where products are taken in float32, sums of
logarithms are over just the steps between two, so that a gate that closes (a large negative logarithm) takes
no digits from the steps behind it.

No product has a transposed result of another one on its left: compilers up to Triton 3.7.0 take its rows
wrongly on Hopper. What is needed transposed is computed so.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.ssd_scan.torch_op import kept_dtype, longest_chunk
from bmojo_kernels.triton_support import (
    Chunks,
    architecture,
    ceil_div,
    chunk_decays,
    chunk_logs,
    chunked,
    launch,
    load_rows,
    power_of_two,
    precision,
    processors,
    product_dtype,
    store_rows,
)

__all__ = ["backward", "forward", "pass_states", "states_between"]

HEADS = 8  # heads of one group that one program takes, one after the other
LOGS = 8  # heads whose logarithms one program adds up


@triton.jit
def _load_state(p, row, head, H, P, N, low, start, PARTS: tl.constexpr, STATES: tl.constexpr):
    i, n = low + tl.arange(0, PARTS), start + tl.arange(0, STATES)
    state = p + (row.to(tl.int64) * H + head) * P * N
    return tl.load(state + i[:, None] * N + n[None, :], mask=(i < P)[:, None] & (n < N)[None, :], other=0.0)


@triton.jit
def _weigh(
    log_decay, weights, decay, first_row, sequence, bounds, H, ROWS, LENGTH, REVERSE: tl.constexpr,
    STEPS: tl.constexpr, LOGS: tl.constexpr,
):  # fmt: skip
    """Decay of each step to the end of its chunk, or backwards from its start to each step; of all of it."""
    chunk, owner = tl.program_id(0).to(tl.int64), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, h = tl.arange(0, STEPS), (tl.program_id(1) * LOGS + tl.arange(0, LOGS)).to(tl.int64)
    place = (first + t)[:, None] * H + h[None, :]
    here = (t < count)[:, None] & (h < H)[None, :]
    a = tl.load(log_decay + place, mask=here, other=0.0).to(tl.float32)
    if REVERSE:
        sums = tl.cumsum(a, 0)
    else:
        after = (t + 1 < count)[:, None] & (h < H)[None, :]
        later = tl.load(log_decay + place + H, mask=after, other=0.0).to(tl.float32)
        sums = tl.cumsum(later, 0, reverse=True)
    tl.store(weights + h[None, :] * ROWS + (first + t)[:, None], tl.exp(sums), mask=here)
    tl.store(decay + chunk * H + h, tl.exp(tl.sum(a, 0)), mask=h < H)


@triton.jit
def _walk(
    left, right, weights, decay, edge, passed, end, offsets, bounds, H, G, P, N, ROWS, LENGTH,
    REVERSE: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr,
    KIND: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The state before each chunk (backwards: the gradient of that after it), and the one at the end."""
    owner, head, columns = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.cdiv(N, STATES)
    low, start = tl.program_id(2) // columns * PARTS, tl.program_id(2) % columns * STATES
    i, n, t = low + tl.arange(0, PARTS), start + tl.arange(0, STATES), tl.arange(0, STEPS)
    inside = (i < P)[:, None] & (n < N)[None, :]
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    lowest, highest = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    place = ((owner * H + head) * P + i[:, None]) * N + n[None, :]
    state = tl.load(edge + place, mask=inside, other=0.0)
    for step in tl.range((highest - lowest).to(tl.int32), num_stages=STAGES):
        if REVERSE:
            chunk = highest - 1 - step
        else:
            chunk = lowest + step
        first, row = begin + (chunk - lowest) * LENGTH, chunk * H + head
        here = t < tl.minimum(LENGTH, stop - first).to(tl.int32)
        weight = tl.load(weights + head.to(tl.int64) * ROWS + first + t, mask=here, other=0.0)
        x = load_rows(left, first, t, here, head, H, P, low, PARTS)
        b = load_rows(right, first, t, here, head // (H // G), G, N, start, STATES)
        # A vector of one number: it is loaded ahead, as tiles are.
        whole = tl.load(decay + row + tl.zeros((STATES,), tl.int32))
        kept = passed + row * P * N
        tl.store(kept + i[:, None] * N + n[None, :], state.to(passed.dtype.element_ty), mask=inside)
        x, weighted = tl.trans(x.to(KIND)), b.to(tl.float32) * weight[:, None]
        state *= whole[None, :]
        high = weighted.to(KIND)
        state += tl.dot(x, high, input_precision=PRECISION)
        if tl.float32 != KIND:
            # In two halves: the last state keeps the digits of float32.
            state += tl.dot(x, (weighted - high.to(tl.float32)).to(KIND), input_precision=PRECISION)
    tl.store(end + place, state, mask=inside)


@triton.jit
def _pass(
    added, decay, edge, passed, end, offsets, H, SIZE, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """What `_walk` passes on, where what each chunk adds is there already."""
    owner, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    low, high = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    state = tl.load(edge + (owner * H + head) * SIZE + i, mask=i < SIZE, other=0.0)
    for step in tl.range((high - low).to(tl.int32), num_stages=STAGES):
        if REVERSE:
            row = high - 1 - step
        else:
            row = low + step
        place = (row * H + head) * SIZE + i
        more = tl.load(added + place, mask=i < SIZE, other=0.0)
        tl.store(passed + place, state, mask=i < SIZE)
        state = tl.load(decay + row * H + head) * state + more
    tl.store(end + (owner * H + head) * SIZE + i, state, mask=i < SIZE)


@triton.jit
def _read(
    x, log_decay, other, own, states, y, first_row, sequence, bounds, H, G, P, N, LENGTH, PIECES,
    TURNED: tl.constexpr, HEADS: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr,
    STATES: tl.constexpr, PP: tl.constexpr, NP: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk, of a few heads; turned the gradients of its inputs, from those of its outputs."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    group, piece = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, low = tl.arange(0, STEPS), tl.program_id(2) * PARTS
    here = t < count
    product = tl.zeros((STEPS, STEPS), tl.float32)
    for start in range(0, NP, STATES):
        c = load_rows(own, first, t, here, group, G, N, start, STATES).to(KIND)
        b = load_rows(other, first, t, here, group, G, N, start, STATES).to(KIND)
        product += tl.dot(c, tl.trans(b), input_precision=PRECISION)
    for member in range(piece * HEADS, tl.minimum(piece * HEADS + HEADS, H // G)):
        head = group * (H // G) + member
        old = tl.zeros((STEPS, PARTS), tl.float32)
        for start in range(0, NP, STATES):
            c = load_rows(own, first, t, here, group, G, N, start, STATES).to(KIND)
            state = _load_state(states, chunk, head, H, P, N, low, start, PARTS, STATES).to(KIND)
            old += tl.dot(c, tl.trans(state), input_precision=PRECISION)
        a, before, after = chunk_logs(log_decay, first, t, count, head, H)
        inputs = load_rows(x, first, t, here, head, H, P, low, PARTS).to(KIND)
        weights = (product * chunk_decays(a, t, count, KIND, TURNED)).to(KIND)
        old *= tl.exp(after if TURNED else before)[:, None]
        found = tl.dot(weights, inputs, old, input_precision=PRECISION)
        store_rows(y, found, first, t, here, head, H, P, low, PARTS)


@triton.jit
def _projections_back(
    left, right, log_decay, own, other, states, met, d_own, pairs, edges, through, first_row, sequence,
    bounds, H, G, P, N, LENGTH, PIECES, TURNED: tl.constexpr, HEADS: tl.constexpr, STEPS: tl.constexpr,
    PARTS: tl.constexpr, STATES: tl.constexpr, PP: tl.constexpr, NP: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What a few heads give to the gradient of a chunk's C (turned: of B), for some of the state's columns.

    And for each step what its row of that gradient has in common with its row of C: of the pairs that it is
    the later (turned: the earlier) step of, and of the state at the chunk's edge; turned also of both edges.
    """
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    group, piece = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES
    tile, start = tl.program_id(2), tl.program_id(2) * STATES
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t = tl.arange(0, STEPS)
    here = t < count
    mine = load_rows(own, first, t, here, group, G, N, start, STATES).to(tl.float32)
    others = load_rows(other, first, t, here, group, G, N, start, STATES).to(KIND)
    total = tl.zeros((STEPS, STATES), tl.float32)
    for member in range(piece * HEADS, tl.minimum(piece * HEADS + HEADS, H // G)):
        head = group * (H // G) + member
        a, before, after = chunk_logs(log_decay, first, t, count, head, H)
        fade = tl.exp(after if TURNED else before)
        shares, found = tl.zeros((STEPS, STEPS), tl.float32), tl.zeros((STEPS, STATES), tl.float32)
        common = 0.0
        for low in range(0, PP, PARTS):
            x = load_rows(left, first, t, here, head, H, P, low, PARTS)
            y = load_rows(right, first, t, here, head, H, P, low, PARTS).to(KIND)
            state = _load_state(states, chunk, head, H, P, N, low, start, PARTS, STATES)
            if TURNED:
                old = _load_state(met, chunk, head, H, P, N, low, start, PARTS, STATES)
                common += tl.sum(old.to(tl.float32) * state.to(tl.float32))
            shares += tl.dot(x.to(KIND), tl.trans(y), input_precision=PRECISION)
            faded = (x.to(tl.float32) * fade[:, None]).to(KIND)
            found += tl.dot(faded, state.to(KIND), input_precision=PRECISION)
        place = ((first + t) * tl.num_programs(2) + tile) * H + head
        tl.store(edges + place, tl.sum(found * mine, 1), mask=here)
        total += found
        shares = (shares * chunk_decays(a, t, count, KIND, TURNED)).to(KIND)
        found = tl.dot(shares, others, input_precision=PRECISION)
        tl.store(pairs + place, tl.sum(found * mine, 1), mask=here)
        total += found
        if TURNED:
            tl.store(through + (chunk.to(tl.int64) * tl.num_programs(2) + tile) * H + head, common)
    store_rows(d_own, total, first, t, here, tl.program_id(1), G * PIECES, N, start, STATES)


@triton.jit
def _logs_back(
    log_decay, later_pairs, read, earlier_pairs, written, through, dlog_decay, first_row, sequence, bounds,
    H, LENGTH, TILES, STEPS: tl.constexpr, LOGS: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's logarithms, from what each step has in common with what it reads and writes.

    A logarithm counts for all pairs of steps that it lies between: those that end at or after it, less those
    that also begin there; for the outputs after it, from the state before the chunk; for the inputs before
    it, in the state after the chunk; and for that state itself.
    """
    chunk, owner = tl.program_id(0).to(tl.int64), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, h = tl.arange(0, STEPS), tl.program_id(1) * LOGS + tl.arange(0, LOGS)
    here = (t < count)[:, None] & (h < H)[None, :]
    place = (first + t)[:, None] * H + h[None, :]
    a = tl.load(log_decay + place, mask=here, other=0.0).to(tl.float32)
    ended, begun = tl.zeros((STEPS, LOGS), tl.float32), tl.zeros((STEPS, LOGS), tl.float32)
    common = tl.zeros((LOGS,), tl.float32)
    for tile in range(TILES):
        at = ((first + t) * TILES + tile)[:, None] * H + h[None, :]
        ended += tl.load(later_pairs + at, mask=here, other=0.0) + tl.load(read + at, mask=here, other=0.0)
        ended -= tl.load(earlier_pairs + at, mask=here, other=0.0)
        begun += tl.load(written + at, mask=here, other=0.0)
        common += tl.load(through + (chunk * TILES + tile) * H + h, mask=h < H, other=0.0)
    common *= tl.exp(tl.sum(a, 0))
    total = tl.cumsum(ended, 0, reverse=True) + tl.cumsum(begun, 0) - begun + common[None, :]
    tl.store(dlog_decay + place, total, mask=here)


def _options(x: Tensor, chunks: Chunks, states: int, back: bool) -> dict[str, object]:
    """Sides of a product: what stays in registers."""
    chip, single = architecture(x), x.dtype is torch.float32
    amd = chip.startswith("gfx")
    widest = 16 if single and back and not amd else 32 if single or amd or (back and chip == "sm_80") else 64
    parts, size = power_of_two(x.shape[3], 16), power_of_two(states, 16)
    return {
        "STEPS": power_of_two(chunks.length, 16), "PARTS": min(32 if back else widest, widest, parts),
        "STATES": min(widest, size), "PP": parts, "NP": size, "KIND": product_dtype(x),
        "PRECISION": precision(x), "HEADS": HEADS, "num_warps": 8 if single and back else 4,
        "num_stages": 1 if single or amd else 2,
    }  # fmt: skip


def _cut(x: Tensor, cu_seqlens: Tensor | None, chunk: int) -> Chunks:
    if chunk > longest_chunk(x):
        raise ValueError(f"ssd_scan: chunk={chunk} came; on a GPU it is at most {longest_chunk(x)}.")
    return chunked(x, cu_seqlens, chunk)


def states_between(
    left: Tensor, log_decay: Tensor, right: Tensor, edge: Tensor, chunks: Chunks, reverse: bool,
    kept: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The state before each chunk, kept in a dtype, and the last one; backwards the gradients after each.

    Steps write `left right^T`, (B, T, H, P) and (B, T, G, N).
    """
    (heads, width), (groups, states) = left.shape[2:], right.shape[2:]
    rows, steps = left.shape[0] * left.shape[1], power_of_two(chunks.length, 16)
    weights, decay = edge.new_empty(heads, rows), edge.new_empty(chunks.count, heads)
    passed, end = edge.new_empty(chunks.count, *edge.shape[1:], dtype=kept), torch.empty_like(edge)
    launch(
        _weigh, (chunks.count, ceil_div(heads, LOGS)), log_decay, weights, decay, chunks.first,
        chunks.sequence, chunks.bounds, heads, rows, chunks.length, REVERSE=reverse, STEPS=steps, LOGS=LOGS,
        num_warps=4,
    )  # fmt: skip
    options = _walk_options(left, chunks, width, states)
    tiles = ceil_div(width, options["PARTS"]) * ceil_div(states, options["STATES"])
    launch(
        _walk, (chunks.sequences, heads, tiles), left, right, weights, decay, edge, passed, end,
        chunks.offsets, chunks.bounds, heads, groups, width, states, rows, chunks.length, REVERSE=reverse,
        STEPS=steps, KIND=product_dtype(left), PRECISION=precision(left), **options,
    )  # fmt: skip
    return passed, end


def _walk_options(x: Tensor, chunks: Chunks, width: int, states: int) -> dict[str, Any]:
    """Tiles of the state: large, but one and more for every multiprocessor."""
    amd, single = architecture(x).startswith("gfx"), x.dtype is torch.float32
    side = 32 if single or amd else 64
    while side > 16:
        parts, size = min(side, power_of_two(width, 16)), min(side, power_of_two(states, 16))
        if chunks.sequences * x.shape[2] * ceil_div(width, parts) * ceil_div(states, size) >= processors(x):
            break
        side //= 2
    parts, size = min(side, power_of_two(width, 16)), min(side, power_of_two(states, 16))
    return {"PARTS": parts, "STATES": size, "STAGES": 1 if amd else 3, "num_warps": 4}


def pass_states(
    added: Tensor, decay: Tensor, edge: Tensor, chunks: Chunks, reverse: bool
) -> tuple[Tensor, Tensor]:
    """As `states_between`, from what each chunk adds and how much it leaves."""
    passed, end = torch.empty_like(added), torch.empty_like(edge)
    heads, size = added.shape[1], added.shape[2] * added.shape[3]
    block = min(power_of_two(size), 512)
    launch(
        _pass, (chunks.sequences, heads, ceil_div(size, block)), added, decay, edge, passed, end,
        chunks.offsets, heads, size, REVERSE=reverse, BLOCK=block, STAGES=4, num_warps=4,
    )  # fmt: skip
    return passed, end


def forward(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, h0: Tensor, cu_seqlens: Tensor | None, chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::ssd_scan` on a GPU."""
    chunks = _cut(x, cu_seqlens, chunk)
    x, log_decay, B, C, h0 = (y.contiguous() for y in (x, log_decay, B, C, h0))
    states, last = states_between(x, log_decay, B, h0, chunks, False, kept_dtype(x, h0))
    y = torch.empty_like(x)
    _read_all(x, log_decay, B, C, states, y, chunks, False)
    return y, last, states if keep else states.new_empty(0, *states.shape[1:])


def backward(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, states: Tensor, cu_seqlens: Tensor | None, chunk: int,
    dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::ssd_scan_backward` on a GPU."""
    chunks = _cut(x, cu_seqlens, chunk)
    x, log_decay, B, C, dy, dlast = (y.contiguous() for y in (x, log_decay, B, C, dy, dlast))
    later, dh0 = states_between(dy, log_decay, C, dlast, chunks, True, states.dtype)
    dx, dlog_decay = torch.empty_like(x), torch.empty_like(log_decay)
    _read_all(dy, log_decay, C, B, later, dx, chunks, True)
    (heads, width), (groups, size), rows = x.shape[2:], B.shape[2:], x.shape[0] * x.shape[1]
    options, pieces = _options(x, chunks, size, True), ceil_div(heads // groups, HEADS)
    tiles = ceil_div(size, options["STATES"])
    dB, dC = (log_decay.new_empty(*x.shape[:2], groups, pieces, size) for _ in range(2))
    read, written, ended, begun = (log_decay.new_empty(rows, tiles, heads) for _ in range(4))
    through = log_decay.new_empty(chunks.count, tiles, heads)
    where = (chunks.first, chunks.sequence, chunks.bounds)
    sizes = (heads, groups, width, size, chunks.length, pieces)
    grid = (chunks.count, groups * pieces, tiles)
    launch(
        _projections_back, grid, dy, x, log_decay, C, B, states, states, dC, ended, read, through, *where,
        *sizes, TURNED=False, **options,
    )  # fmt: skip
    launch(
        _projections_back, grid, x, dy, log_decay, B, C, later, states, dB, begun, written, through, *where,
        *sizes, TURNED=True, **options,
    )  # fmt: skip
    launch(
        _logs_back, (chunks.count, ceil_div(heads, LOGS)), log_decay, ended, read, begun, written, through,
        dlog_decay, *where, heads, chunks.length, tiles, STEPS=options["STEPS"], LOGS=LOGS, num_warps=4,
    )  # fmt: skip
    dB, dC = (part.sum(3).to(B.dtype) for part in (dB, dC))
    return dx, dlog_decay, dB, dC, dh0


def _read_all(
    x: Tensor, log_decay: Tensor, other: Tensor, own: Tensor, states: Tensor, y: Tensor, chunks: Chunks,
    turned: bool,
) -> None:  # fmt: skip
    (heads, width), (groups, size) = x.shape[2:], own.shape[2:]
    options, pieces = _options(x, chunks, size, False), ceil_div(heads // groups, HEADS)
    launch(
        _read, (chunks.count, groups * pieces, ceil_div(width, options["PARTS"])), x, log_decay, other, own,
        states, y, chunks.first, chunks.sequence, chunks.bounds, heads, groups, width, size, chunks.length,
        pieces, TURNED=turned, **options,
    )  # fmt: skip
