"""`selective_scan` on the GPU: tiles of time by channels, one of the N states after the other.

Time is cut into chunks, so that programs suffice whatever the batch. What a chunk adds to each state is a sum
over its steps, weighted by the decay from each to the chunk's end; from these the states before the chunks
follow one after the other, in float32, and are kept for the gradients; then every chunk is scanned from the
state before it. The gradient's chunks are the same with time turned round, and the states inside a chunk are
computed once more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.selective_scan.torch_op import GPU_STRIDE
from bmojo_kernels.triton_support import Chunks, architecture, ceil_div, chunked, launch, power_of_two

__all__ = ["backward", "forward"]

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _join(a0, b0, a1, b1):
    return a1 * a0, a1 * b0 + b1


@triton.jit
def _load(p, first, t, low, high, c, d):
    """A tile of steps by channels in float32, zero outside of [low, high)."""
    mask = ((t >= low) & (t < high))[:, None] & (c < d)[None, :]
    return tl.load(p + (first + t)[:, None] * d + c[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _add(
    drive, delta, A, weights, added, total, first_row, sequence, bounds, d, N, LENGTH,
    REVERSE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state at its end, or backwards to the gradient of that at its start."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, c = tl.arange(0, STEPS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    step, x = _load(delta, first, t, 0, count, c, d), _load(drive, first, t, 0, count, c, d)
    if REVERSE:
        reach = tl.cumsum(step, 0)
    else:
        # Of the steps behind each alone: their sum less the own step would lose digits.
        reach = tl.cumsum(_load(delta, first + 1, t, 0, count - 1, c, d), 0, reverse=True)
        x *= step
    place = chunk.to(tl.int64) * N * d + c
    for n in range(N):
        rate = tl.load(A + n * d + c, mask=c < d, other=0.0) * LOG2_E
        weight = tl.load(weights + (first + t) * N + n, mask=t < count, other=0.0).to(tl.float32)
        sums = tl.sum(tl.exp2(rate[None, :] * reach) * x * weight[:, None], 0)
        tl.store(added + place + n * d, sums, mask=c < d)
    tl.store(total + chunk.to(tl.int64) * d + c, tl.sum(step, 0), mask=c < d)


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
def _read(
    u, delta, A, B, C, states, y, first_row, sequence, bounds, d, N, LENGTH,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, c = tl.arange(0, STEPS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    step = _load(delta, first, t, 0, count, c, d)
    drive = step * _load(u, first, t, 0, count, c, d)
    total = tl.zeros((STEPS, CHANNELS), tl.float32)
    place = chunk.to(tl.int64) * N * d + c
    for n in range(N):
        rate = tl.load(A + n * d + c, mask=c < d, other=0.0) * LOG2_E
        start = tl.load(states + place + n * d, mask=c < d, other=0.0)
        b = tl.load(B + (first + t) * N + n, mask=t < count, other=0.0).to(tl.float32)
        read = tl.load(C + (first + t) * N + n, mask=t < count, other=0.0).to(tl.float32)
        decay, h = tl.associative_scan((tl.exp2(rate[None, :] * step), drive * b[:, None]), 0, _join)
        total += (decay * start[None, :] + h) * read[:, None]
    mask = (t < count)[:, None] & (c < d)[None, :]
    tl.store(y + (first + t)[:, None] * d + c[None, :], total.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _back(
    u, delta, A, B, C, states, later, dy, du, d_delta, dA, dB, dC, first_row, sequence, bounds, d, N, ROWS,
    LENGTH, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk; those shared by all channels, or by all chunks, for this one alone."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, c = tl.arange(0, STEPS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    step, x = _load(delta, first, t, 0, count, c, d), _load(u, first, t, 0, count, c, d)
    before = _load(delta, first - 1, t, 1, count, c, d)
    drive, drive_before = step * x, before * _load(u, first - 1, t, 1, count, c, d)
    behind = _load(delta, first + 1, t, 0, count - 1, c, d)
    seen = _load(dy, first, t, 0, count, c, d)
    d_drive, d_step = tl.zeros((STEPS, CHANNELS), tl.float32), tl.zeros((STEPS, CHANNELS), tl.float32)
    place = chunk.to(tl.int64) * N * d + c
    share = (tl.program_id(1) * ROWS + first + t) * N
    here, head = t < count, t == 0
    for n in range(N):
        natural = tl.load(A + n * d + c, mask=c < d, other=0.0)
        rate = natural * LOG2_E
        start = tl.load(states + place + n * d, mask=c < d, other=0.0)
        end = tl.load(later + place + n * d, mask=c < d, other=0.0)
        b = tl.load(B + (first + t) * N + n, mask=here, other=0.0).to(tl.float32)
        b_before = tl.load(B + (first + t - 1) * N + n, mask=here & (t > 0), other=0.0).to(tl.float32)
        read = tl.load(C + (first + t) * N + n, mask=here, other=0.0).to(tl.float32)
        # The state before each step: the scan of what came one step earlier, from the chunk's first state.
        earlier = tl.where(head[:, None], start[None, :], drive_before * b_before[:, None])
        _, h = tl.associative_scan((tl.exp2(rate[None, :] * before), earlier), 0, _join)
        decay = tl.exp2(rate[None, :] * step)
        after = decay * h + drive * b[:, None]
        tl.store(dC + share + n, tl.sum(seen * after, 1), mask=here)
        g = seen * read[:, None] + tl.where((t == count - 1)[:, None], end[None, :], 0.0)
        _, g = tl.associative_scan((tl.exp2(rate[None, :] * behind), g), 0, _join, reverse=True)
        tl.store(dB + share + n, tl.sum(g * drive, 1), mask=here)
        d_drive += g * b[:, None]
        exponent = g * decay * h
        d_step += exponent * natural[None, :]
        tl.store(dA + place + n * d, tl.sum(exponent * step, 0), mask=c < d)
    mask = here[:, None] & (c < d)[None, :]
    at = (first + t)[:, None] * d + c[None, :]
    tl.store(du + at, (d_drive * step).to(du.dtype.element_ty), mask=mask)
    tl.store(d_delta + at, (d_step + d_drive * x).to(d_delta.dtype.element_ty), mask=mask)


def _options(u: Tensor, chunks: Chunks) -> dict[str, int]:
    """Channels of a tile, and warps: what stays in registers."""
    channels = min(power_of_two(u.shape[2]), 32)
    warps = 4 if architecture(u).startswith("gfx") else 8
    return {"STEPS": power_of_two(chunks.length), "CHANNELS": channels, "num_warps": warps}


def _passed(
    drive: Tensor, delta: Tensor, A: Tensor, weights: Tensor, edge: Tensor, chunks: Chunks, reverse: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """States (chunks, N, d) before each chunk, and the last; backwards gradients after each, and first."""
    states, d = A.shape
    added, passed = (edge.new_empty(chunks.count, states, d) for _ in range(2))
    total = edge.new_empty(chunks.count, d)
    end, options = torch.empty_like(edge), _options(drive, chunks)
    launch(
        _add, (chunks.count, ceil_div(d, options["CHANNELS"])), drive, delta, A, weights, added, total,
        chunks.first, chunks.sequence, chunks.bounds, d, states, chunks.length, REVERSE=reverse, **options,
    )  # fmt: skip
    block = min(power_of_two(d), 256)
    launch(
        _pass, (chunks.sequences, states, ceil_div(d, block)), added, total, A, edge, passed, end,
        chunks.offsets, d, states, REVERSE=reverse, CHANNELS=block, STAGES=4, num_warps=2,
    )  # fmt: skip
    return passed, end


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, copy: bool,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::selective_scan` on a GPU."""
    chunks, rates = chunked(u, cu_seqlens, GPU_STRIDE), A.T.contiguous()
    u, delta, B, C = (x.contiguous() for x in (u, delta, B, C))
    states, last = _passed(u, delta, rates, B, h0.mT.contiguous(), chunks, reverse=False)
    y, options = torch.empty_like(u), _options(u, chunks)
    launch(
        _read, (chunks.count, ceil_div(u.shape[2], options["CHANNELS"])), u, delta, rates, B, C, states, y,
        chunks.first, chunks.sequence, chunks.bounds, u.shape[2], A.shape[1], chunks.length, **options,
    )  # fmt: skip
    return y, last.mT.contiguous(), states if copy else states.new_empty(0, *states.shape[1:])


def backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, copies: Tensor, dy: Tensor, dlast: Tensor,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::selective_scan_backward` on a GPU."""
    chunks, rates = chunked(u, cu_seqlens, GPU_STRIDE), A.T.contiguous()
    u, delta, B, C, dy = (x.contiguous() for x in (u, delta, B, C, dy))
    d, states = A.shape
    later, first = _passed(dy, delta, rates, C, dlast.mT.contiguous(), chunks, reverse=True)
    du, d_delta = torch.empty_like(u), torch.empty_like(delta)
    options = _options(u, chunks)
    blocks, rows = ceil_div(d, options["CHANNELS"]), u.shape[0] * u.shape[1]
    shared = [copies.new_empty(blocks, *B.shape) for _ in range(2)]
    dA = torch.zeros_like(later)
    launch(
        _back, (chunks.count, blocks), u, delta, rates, B, C, copies, later, dy, du, d_delta, dA, *shared,
        chunks.first, chunks.sequence, chunks.bounds, d, states, rows, chunks.length, **options,
    )  # fmt: skip
    dB, dC = (x.sum(0).to(B.dtype) for x in shared)
    return du, d_delta, dA.sum(0).T.contiguous(), dB, dC, first.mT.contiguous()
