"""`selective_scan` on the GPU: lanes along channels, steps and states in registers.

A tile is a few steps by all states by a warp of channels: each thread scans the states of its channel, and
what a step reads of them is a sum within the thread. Where sequences and channels do not occupy the chip,
time is cut into chunks: what each adds to the state, the states before the chunks one after the other, and
then every chunk from the state before it. States are kept every `GPU_STRIDE` steps for the gradients, which
go through time backwards, stretch by stretch, with the states inside a stretch computed once more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.selective_scan.torch_op import GPU_STRIDE
from bmojo_kernels.triton_support import (
    Chunks,
    architecture,
    ceil_div,
    chunked,
    launch,
    power_of_two,
    processors,
)

__all__ = ["backward", "forward"]

LOG2_E = tl.constexpr(1.4426950408889634)
LANES = 16  # channels of a tile
MOST_STATES = 64  # of a tile; more are taken in blocks
SHORTEST = 512  # steps of a chunk at least, where time is cut


@triton.jit
def _load(p, first, t, low, high, c, d):
    """A tile of steps by channels in float32, zero outside of [low, high)."""
    mask = ((t >= low) & (t < high))[:, None] & (c < d)[None, :]
    return tl.load(p + (first + t)[:, None] * d + c[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _load_shared(p, first, t, count, n, N):
    """A tile of steps by states, the same for all channels."""
    mask = ((t >= 0) & (t < count))[:, None] & (n < N)[None, :]
    return tl.load(p + (first + t)[:, None] * N + n[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _row(tile, which, STEPS: tl.constexpr):
    """One step of a tile of steps by states by channels; as integers, whose zeros cost nothing."""
    chosen = (tl.arange(0, STEPS) == which)[:, None, None]
    return tl.sum(tl.where(chosen, tile.to(tl.int32, bitcast=True), 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def _join(a0, b0, a1, b1):
    return a1 * a0, a1 * b0 + b1


@triton.jit
def _states(step, drive, b, rate, h, STEPS: tl.constexpr):
    """States after each step of a tile, from the one before it; the decays; the last state."""
    decay, more = tl.exp2(step[:, None, :] * rate[None, :, :]), drive[:, None, :] * b[:, :, None]
    passed, added = tl.associative_scan((decay, more), 0, _join)
    found = passed * h[None, :, :] + added
    return found, decay, _row(found, STEPS - 1, STEPS)


@triton.jit
def _earlier(found, h, STEPS: tl.constexpr):
    """The states before each step, from those after it and the one before the tile."""
    t = tl.arange(0, STEPS)[:, None, None]
    before = tl.where(t == 0, h[None, :, :], tl.zeros_like(found))
    for i in tl.static_range(1, STEPS):
        before = tl.where(t == i, _row(found, i - 1, STEPS)[None, :, :], before)
    return before


@triton.jit
def _back_through(decay, more, g, STEPS: tl.constexpr):
    """`g <- decay g + more` from the last step of a tile to the first: all of them, and the one of the first.

    Rows of a tile lie in registers, so that taking one and putting one costs nothing; a scan backwards would
    turn them round through other threads.
    """
    t, found = tl.arange(0, STEPS)[:, None, None], tl.zeros_like(more)
    for i in tl.static_range(STEPS):
        row = STEPS - 1 - i
        g = _row(decay, row, STEPS) * g + _row(more, row, STEPS)
        found = tl.where(t == row, g[None, :, :], found)
    return found, g


@triton.jit
def _follow(
    u, delta, A, B, C, edge, before, y, copies, last, total, first_row, sequence, bounds, strides, d, N,
    LENGTH, CARRIED: tl.constexpr, KEEP: tl.constexpr, READ: tl.constexpr, STRIDE: tl.constexpr,
    STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The states of a chunk: what they read, and some of them; or (not READ) what it adds to the state."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first, begin, stop = tl.load(first_row + chunk), tl.load(bounds + owner), tl.load(bounds + owner + 1)
    count = tl.minimum(LENGTH, stop - first).to(tl.int32)
    t, n = tl.arange(0, STEPS), tl.arange(0, STATES)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (n < N)[:, None] & (c < d)[None, :]
    square = n[:, None] * d + c[None, :]
    rate = tl.load(A + square, mask=inside, other=0.0) * LOG2_E
    h = tl.zeros((STATES, CHANNELS), tl.float32)
    if READ:
        opens = first == begin
        h += tl.load(edge + owner.to(tl.int64) * N * d + square, mask=inside & opens, other=0.0)
        if CARRIED:
            h += tl.load(
                before + chunk.to(tl.int64) * N * d + square, mask=inside & (first > begin), other=0.0
            )
    reach = tl.zeros((CHANNELS,), tl.float32)
    kept = (tl.load(strides + owner) + (first - begin) // STRIDE) * N * d
    # What the next tile needs is on its way while this one is computed.
    x, step = _load(u, first, t, 0, count, c, d), _load(delta, first, t, 0, count, c, d)
    b = _load_shared(B, first, t, count, n, N)
    if READ:
        read = _load_shared(C, first, t, count, n, N)
    for low in range(0, count, STEPS):
        following = low + STEPS + t
        next_x, next_step = (
            _load(u, first, following, 0, count, c, d),
            _load(delta, first, following, 0, count, c, d),
        )
        next_b = _load_shared(B, first, following, count, n, N)
        if KEEP and low % STRIDE == 0:
            tl.store(copies + kept + low // STRIDE * N * d + square, h, mask=inside)
        states, _, h = _states(step, step * x, b, rate, h, STEPS)
        if READ:
            next_read = _load_shared(C, first, following, count, n, N)
            found = tl.sum(states * read[:, :, None], 1)
            mask = (low + t < count)[:, None] & (c < d)[None, :]
            tl.store(y + (first + low + t)[:, None] * d + c[None, :], found.to(y.dtype.element_ty), mask=mask)
            read = next_read
        else:
            reach += tl.sum(step, 0)
        x, step, b = next_x, next_step, next_b
    if READ:
        ends = first + count == stop
        tl.store(last + owner.to(tl.int64) * N * d + square, h, mask=inside & ends)
    else:
        tl.store(last + chunk.to(tl.int64) * N * d + square, h, mask=inside)
        tl.store(total + chunk.to(tl.int64) * d + c, reach, mask=c < d)


@triton.jit
def _add_back(
    dy, delta, A, C, added, total, first_row, sequence, bounds, d, N, LENGTH,
    STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a chunk's outputs add to the gradient of the state before it."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, n = tl.arange(0, STEPS), tl.arange(0, STATES)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, square = (n < N)[:, None] & (c < d)[None, :], n[:, None] * d + c[None, :]
    rate = tl.load(A + square, mask=inside, other=0.0) * LOG2_E
    g, reach = tl.zeros((STATES, CHANNELS), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    tiles = tl.cdiv(count, STEPS)
    for back in range(tiles):
        low = (tiles - 1 - back) * STEPS
        step, seen = _load(delta, first, low + t, 0, count, c, d), _load(dy, first, low + t, 0, count, c, d)
        read = _load_shared(C, first, low + t, count, n, N)
        # Through the steps of the tile, the last first: g <- decay (g + read seen).
        decay = tl.exp2(step[:, None, :] * rate[None, :, :])
        more = decay * seen[:, None, :] * read[:, :, None]
        _, g = _back_through(decay, more, g, STEPS)
        reach += tl.sum(step, 0)
    tl.store(added + chunk.to(tl.int64) * N * d + square, g, mask=inside)
    tl.store(total + chunk.to(tl.int64) * d + c, reach, mask=c < d)


@triton.jit
def _pass(
    added, total, A, edge, passed, end, offsets, d, N, REVERSE: tl.constexpr, CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The state before each chunk (backwards: the gradient of that after it), and the one at the end."""
    owner, n = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    low, high = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    rate = tl.load(A + n * d + c, mask=c < d, other=0.0) * LOG2_E
    state = tl.load(edge + (owner * N + n) * d + c, mask=c < d, other=0.0)
    for i in tl.range((high - low).to(tl.int32), num_stages=STAGES):
        if REVERSE:
            row = high - 1 - i
        else:
            row = low + i
        place = (row * N + n) * d + c
        more = tl.load(added + place, mask=c < d, other=0.0)
        decay = tl.exp2(rate * tl.load(total + row * d + c, mask=c < d, other=0.0))
        tl.store(passed + place, state, mask=c < d)
        state = decay * state + more
    tl.store(end + (owner * N + n) * d + c, state, mask=c < d)


@triton.jit
def _back(
    u, delta, A, B, C, copies, edge, later, dy, inner, du, d_delta, dA, dB, dC, dh0, first_row, sequence,
    bounds, strides, d, N, ROWS, LENGTH,
    CARRIED: tl.constexpr, STRIDE: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk; those shared by all channels, or by all chunks, for this one alone."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first, begin, stop = tl.load(first_row + chunk), tl.load(bounds + owner), tl.load(bounds + owner + 1)
    count = tl.minimum(LENGTH, stop - first).to(tl.int32)
    t, n = tl.arange(0, STEPS), tl.arange(0, STATES)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, square = (n < N)[:, None] & (c < d)[None, :], n[:, None] * d + c[None, :]
    rate = tl.load(A + square, mask=inside, other=0.0) * LOG2_E
    closes = first + count == stop
    g = tl.load(edge + owner.to(tl.int64) * N * d + square, mask=inside & closes, other=0.0)
    if CARRIED:
        g += tl.load(
            later + chunk.to(tl.int64) * N * d + square, mask=inside & (first + count < stop), other=0.0
        )
    shares = tl.zeros((STATES, CHANNELS), tl.float32)
    kept = (tl.load(strides + owner) + (first - begin) // STRIDE) * N * d
    # Where this program keeps the states before the tiles of one stretch.
    own = (chunk.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * (STRIDE // STEPS) * STATES * CHANNELS
    inner += own
    place = n[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    share = (tl.program_id(1) * ROWS + first) * N
    stretches = tl.cdiv(count, STRIDE)
    for back in range(stretches):
        origin = (stretches - 1 - back) * STRIDE
        tiles = tl.cdiv(tl.minimum(count - origin, STRIDE), STEPS)
        h = tl.load(copies + kept + origin // STRIDE * N * d + square, mask=inside, other=0.0)
        tl.debug_barrier()
        for i in range(tiles):
            at = origin + i * STEPS + t
            tl.store(inner + place + i * (STATES * CHANNELS), h)
            step, x = _load(delta, first, at, 0, count, c, d), _load(u, first, at, 0, count, c, d)
            _, _, h = _states(step, step * x, _load_shared(B, first, at, count, n, N), rate, h, STEPS)
        tl.debug_barrier()
        for i in range(tiles):
            which = tiles - 1 - i
            at = origin + which * STEPS + t
            h = tl.load(inner + place + which * (STATES * CHANNELS))
            step, x = _load(delta, first, at, 0, count, c, d), _load(u, first, at, 0, count, c, d)
            seen, b = _load(dy, first, at, 0, count, c, d), _load_shared(B, first, at, count, n, N)
            read = _load_shared(C, first, at, count, n, N)
            # The decay of the step after each; 1 after the last, whose gradient comes from outside.
            after = _load(delta, first + 1, at, 0, count - 1, c, d)
            drive = step * x
            states, decay, _ = _states(step, drive, b, rate, h, STEPS)
            later_decay = tl.exp2(after[:, None, :] * rate[None, :, :])
            gradient, g = _back_through(later_decay, seen[:, None, :] * read[:, :, None], g, STEPS)
            rows = share + at[:, None] * N + n[None, :]
            mask = (at < count)[:, None] & (n < N)[None, :]
            tl.store(dC + rows, tl.sum(states * seen[:, None, :], 2), mask=mask)
            tl.store(dB + rows, tl.sum(gradient * drive[:, None, :], 2), mask=mask)
            exponent = gradient * decay * _earlier(states, h, STEPS)
            shares += tl.sum(exponent * step[:, None, :], 0)
            d_drive = tl.sum(gradient * b[:, :, None], 1)
            d_step = tl.sum(exponent * rate[None, :, :], 1) / LOG2_E + d_drive * x
            mask = (at < count)[:, None] & (c < d)[None, :]
            rows = (first + at)[:, None] * d + c[None, :]
            tl.store(du + rows, (d_drive * step).to(du.dtype.element_ty), mask=mask)
            tl.store(d_delta + rows, d_step.to(d_delta.dtype.element_ty), mask=mask)
    if count > 0:
        step = tl.load(delta + first * d + c, mask=c < d, other=0.0).to(tl.float32)
        g = g * tl.exp2(step[None, :] * rate)
    tl.store(dA + chunk.to(tl.int64) * N * d + square, shares, mask=inside)
    tl.store(dh0 + owner.to(tl.int64) * N * d + square, g, mask=inside & (first == begin))


@dataclass(frozen=True)
class Plan:
    """How the work is cut: into chunks of time and blocks of channels, one program each."""

    chunks: Chunks
    columns: int
    strides: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Of programs."""
        return self.chunks.count, self.columns


def _options(u: Tensor, states: int, back: bool) -> dict[str, int]:
    """Sides of a tile, and warps: what stays in registers."""
    padded, channels = power_of_two(states), min(power_of_two(u.shape[2]), LANES)
    steps, each = (8, 32) if back else (8, 64)
    warps = min(8, max(1, steps * padded * channels // (32 * each)))
    if architecture(u).startswith("gfx"):
        warps = max(1, warps // 2)
    return {"STEPS": steps, "STATES": padded, "CHANNELS": channels, "num_warps": warps}


def _plan(u: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """Whole sequences where their channels occupy half the chip; else chunks, which take one pass more."""
    (_, length, width), strides = u.shape, chunked(u, cu_seqlens, GPU_STRIDE)
    columns = ceil_div(width, min(power_of_two(width), LANES))
    sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if sequences * columns >= 2 * processors(u) or length <= SHORTEST:
        return Plan(chunked(u, cu_seqlens, max(length, 1)), columns, strides.offsets)
    even = ceil_div(u.shape[0] * length, ceil_div(8 * processors(u), columns))
    length = max(SHORTEST, ceil_div(even, GPU_STRIDE) * GPU_STRIDE)
    return Plan(chunked(u, cu_seqlens, length), columns, strides.offsets)


def _passed(
    added: Tensor, total: Tensor, A: Tensor, edge: Tensor, chunks: Chunks, reverse: bool
) -> tuple[Tensor, Tensor]:
    """States (chunks, N, d) before each chunk, and the last; backwards gradients after each, and first."""
    passed, end, (states, d) = torch.empty_like(added), torch.empty_like(edge), A.shape
    block = min(power_of_two(d), 256)
    launch(
        _pass, (chunks.sequences, states, ceil_div(d, block)), added, total, A, edge, passed, end,
        chunks.offsets, d, states, REVERSE=reverse, CHANNELS=block, STAGES=4, num_warps=2,
    )  # fmt: skip
    return passed, end


def _where(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    return plan.chunks.first, plan.chunks.sequence, plan.chunks.bounds


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, copy: bool,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::selective_scan` on a GPU."""
    found = [_forward(u, delta, *block, copy, cu_seqlens) for block in _blocks(A, (B, C), h0)]
    if len(found) == 1:
        y, last, copies = found[0]
        return y.to(u.dtype), last, copies
    y = torch.stack([x[0] for x in found]).sum(0)
    return y.to(u.dtype), torch.cat([x[1] for x in found], 2), torch.cat([x[2] for x in found], 1)


def _blocks(A: Tensor, shared: tuple[Tensor, ...], *edges: Tensor):
    """The states in blocks that stay in registers: A, what all channels share, and states (S, d, N)."""
    for low in range(0, A.shape[1], MOST_STATES):
        part = slice(low, low + MOST_STATES)
        yield A[:, part], *(x[..., part] for x in shared), *(x[..., part] for x in edges)


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, copy: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    plan, rates, edge = _plan(u, cu_seqlens), A.T.contiguous(), h0.mT.contiguous()
    u, delta, B, C = (x.contiguous() for x in (u, delta, B, C))
    (d, states), chunks = A.shape, plan.chunks
    options = _options(u, states, False) | {"STRIDE": GPU_STRIDE}
    y = torch.empty_like(u) if states <= MOST_STATES else edge.new_empty(u.shape)
    last = edge.clone()
    kept = chunked(u, cu_seqlens, GPU_STRIDE).count if copy else 0
    copies, before = edge.new_empty(kept, states, d), edge
    if u.numel() == 0:
        return y, last.mT.contiguous(), copies
    sizes = (*_where(plan), plan.strides, d, states, chunks.length)
    if not chunks.whole:
        added, total = edge.new_empty(chunks.count, states, d), edge.new_empty(chunks.count, d)
        launch(
            _follow, plan.grid, u, delta, rates, B, C, edge, edge, y, copies, added, total, *sizes,
            CARRIED=False, KEEP=False, READ=False, **options,
        )  # fmt: skip
        before, _ = _passed(added, total, rates, edge, chunks, reverse=False)
    launch(
        _follow, plan.grid, u, delta, rates, B, C, edge, before, y, copies, last, last, *sizes,
        CARRIED=not chunks.whole, KEEP=copy, READ=True, **options,
    )  # fmt: skip
    return y, last.mT.contiguous(), copies


def backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, copies: Tensor, dy: Tensor, dlast: Tensor,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::selective_scan_backward` on a GPU."""
    found = [
        _backward(u, delta, a, b, c, kept.mT.contiguous(), dy, end, cu_seqlens)
        for a, b, c, kept, end in _blocks(A, (B, C), copies.mT, dlast)
    ]
    du, d_delta = (
        torch.stack([x[i] for x in found]).sum(0) if len(found) > 1 else found[0][i] for i in (0, 1)
    )
    dA, dB, dC, dh0 = (
        torch.cat([x[i] for x in found], axis) if len(found) > 1 else found[0][i]
        for i, axis in ((2, 1), (3, 2), (4, 2), (5, 2))
    )
    return du.to(u.dtype), d_delta.to(delta.dtype), dA, dB, dC, dh0


def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, copies: Tensor, dy: Tensor, dlast: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    plan, rates, edge = _plan(u, cu_seqlens), A.T.contiguous(), dlast.mT.contiguous()
    u, delta, B, C, dy = (x.contiguous() for x in (u, delta, B, C, dy))
    (d, states), chunks = A.shape, plan.chunks
    options, later = _options(u, states, True), edge
    du, d_delta, dh0 = torch.empty_like(u), torch.empty_like(delta), edge.clone()
    rows = u.shape[0] * u.shape[1]
    shared = [copies.new_empty(plan.columns, *B.shape) for _ in range(2)]
    # Zeros, because there may be entries for no chunk.
    dA = copies.new_zeros(chunks.count, states, d)
    if u.numel():
        if not chunks.whole:
            added, total = edge.new_empty(chunks.count, states, d), edge.new_empty(chunks.count, d)
            launch(
                _add_back, plan.grid, dy, delta, rates, C, added, total, *_where(plan), d, states,
                chunks.length, **options,
            )  # fmt: skip
            later, _ = _passed(added, total, rates, edge, chunks, reverse=True)
        places = GPU_STRIDE // options["STEPS"] * options["STATES"] * options["CHANNELS"]
        inner = copies.new_empty(chunks.count * plan.columns, places)
        launch(
            _back, plan.grid, u, delta, rates, B, C, copies, edge, later, dy, inner, du, d_delta, dA, *shared,
            dh0, *_where(plan), plan.strides, d, states, rows, chunks.length, CARRIED=not chunks.whole,
            STRIDE=GPU_STRIDE, **options,
        )  # fmt: skip
    dB, dC = (x.sum(0).to(B.dtype) for x in shared)
    return du, d_delta, dA.sum(0).T.contiguous(), dB, dC, dh0.mT.contiguous()
