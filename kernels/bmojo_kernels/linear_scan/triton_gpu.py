"""`linear_scan` on the GPU: tiles of time by channels, scanned in registers, the state carried between them.

Where batch and channels alone do not fill the chip, time is cut into chunks. Of each chunk its product of
decays and the state that it adds are computed, these are scanned themselves, and then every chunk runs from
the state before it: that reads `a` and `b` twice, but from every multiprocessor at once. The gradient is the
same scan backwards, with the decay of the step after.

Complex numbers are pairs of float32, two real tiles each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.triton_support import Chunks, ceil_div, chunked, launch, power_of_two, processors

__all__ = ["backward", "forward", "scan"]

# A program is one warp: each thread holds all steps of its channels, so that a scan needs no exchange.
STEPS, WARPS, STAGES = 8, 1, 4
SHORTEST = 256  # steps of a chunk at least: what it adds is written and read too


@triton.jit
def _join(a0, b0, a1, b1):
    return a1 * a0, a1 * b0 + b1


@triton.jit
def _join_complex(ar0, ai0, br0, bi0, ar1, ai1, br1, bi1):
    return (
        ar1 * ar0 - ai1 * ai0,
        ar1 * ai0 + ai1 * ar0,
        ar1 * br0 - ai1 * bi0 + br1,
        ar1 * bi0 + ai1 * br0 + bi1,
    )


@triton.jit
def _scan_tile(ar, ai, br, bi, COMPLEX: tl.constexpr):
    if COMPLEX:
        ar, ai, br, bi = tl.associative_scan((ar, ai, br, bi), 0, _join_complex)
    else:
        ar, br = tl.associative_scan((ar, br), 0, _join)
    return ar, ai, br, bi


@triton.jit
def _steps_of(i, tiles, REVERSE: tl.constexpr, STEPS: tl.constexpr):
    """Steps of the i-th tile in the order of the scan: backwards, its rows the other way round."""
    if REVERSE:
        return (tiles - i) * STEPS - 1 - tl.arange(0, STEPS)[:, None]
    return i * STEPS + tl.arange(0, STEPS)[:, None]


@triton.jit
def _continue(ar, ai, br, bi, hr, hi, COMPLEX: tl.constexpr):
    """States of a scanned tile, from the state before it."""
    if COMPLEX:
        return ar * hr - ai * hi + br, ar * hi + ai * hr + bi
    return ar * hr + br, bi


@triton.jit
def _load(p, place, mask, other, COMPLEX: tl.constexpr):
    if COMPLEX:
        real = tl.load(p + 2 * place, mask=mask, other=other)
        return real, tl.load(p + 2 * place + 1, mask=mask, other=0.0)
    x = tl.load(p + place, mask=mask, other=other).to(tl.float32)
    return x, tl.zeros_like(x)


@triton.jit
def _store(p, place, real, imaginary, mask, COMPLEX: tl.constexpr):
    if COMPLEX:
        tl.store(p + 2 * place, real, mask=mask)
        tl.store(p + 2 * place + 1, imaginary, mask=mask)
    else:
        tl.store(p + place, real.to(p.dtype.element_ty), mask=mask)


@triton.jit
def _last(tile, ROWS: tl.constexpr):
    """The last row of a tile."""
    return tl.sum(tl.where(tl.arange(0, ROWS)[:, None] == ROWS - 1, tile, 0.0), 0)


@triton.jit
def _sum_up(
    a, b, decay, added, first_row, sequence, bounds, C, LENGTH,
    REVERSE: tl.constexpr, COMPLEX: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Of each chunk: the product of its decays (that of the step after, backwards) and what it adds."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first, stop = tl.load(first_row + chunk), tl.load(bounds + owner + 1)
    count = tl.minimum(LENGTH, stop - first)
    hr, hi, pi = (
        tl.zeros((CHANNELS,), tl.float32),
        tl.zeros((CHANNELS,), tl.float32),
        tl.zeros((CHANNELS,), tl.float32),
    )
    pr = pi + 1.0
    tiles = tl.cdiv(count, STEPS)
    for i in tl.range(tiles, num_stages=STAGES):
        t = _steps_of(i, tiles, REVERSE, STEPS)
        here = (t < count) & (c[None, :] < C)
        place = (first + t) * C + c[None, :]
        if REVERSE:
            ar, ai = _load(a, place + C, here & (first + t + 1 < stop), 1.0, COMPLEX)
            ai = -ai
        else:
            ar, ai = _load(a, place, here, 1.0, COMPLEX)
        br, bi = _load(b, place, here, 0.0, COMPLEX)
        ar, ai, br, bi = _scan_tile(ar, ai, br, bi, COMPLEX)
        ar, ai, br, bi = _last(ar, STEPS), _last(ai, STEPS), _last(br, STEPS), _last(bi, STEPS)
        hr, hi = _continue(ar, ai, br, bi, hr, hi, COMPLEX)
        pr, pi = _continue(ar, ai, tl.zeros_like(br), tl.zeros_like(bi), pr, pi, COMPLEX)
    place = chunk.to(tl.int64) * C + c
    _store(decay, place, pr, pi, c < C, COMPLEX)
    _store(added, place, hr, hi, c < C, COMPLEX)


@triton.jit
def _run(
    a, b, h, h0, before, last, first_row, sequence, bounds, C, LENGTH,
    CARRIED: tl.constexpr, REVERSE: tl.constexpr, COMPLEX: tl.constexpr, STEPS: tl.constexpr,
    CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """States of each chunk, from that of the chunk before it (`before`, where CARRIED) or the first one."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first, begin, stop = tl.load(first_row + chunk), tl.load(bounds + owner), tl.load(bounds + owner + 1)
    count = tl.minimum(LENGTH, stop - first)
    if REVERSE:
        outer, ends = first + count == stop, first == begin
    else:
        outer, ends = first == begin, first + count == stop
    edge = owner.to(tl.int64) * C + c
    hr, hi = _load(h0, edge, c < tl.where(outer, C, 0), 0.0, COMPLEX)
    if CARRIED:
        neighbour = chunk.to(tl.int64) + (1 if REVERSE else -1)
        xr, xi = _load(before, neighbour * C + c, c < tl.where(outer, 0, C), 0.0, COMPLEX)
        hr += xr
        hi += xi
    tiles = tl.cdiv(count, STEPS)
    for i in tl.range(tiles, num_stages=STAGES):
        t = _steps_of(i, tiles, REVERSE, STEPS)
        here = (t < count) & (c[None, :] < C)
        place = (first + t) * C + c[None, :]
        ar, ai = _load(a, place, here, 1.0, COMPLEX)
        br, bi = _load(b, place, here, 0.0, COMPLEX)
        ar, ai, br, bi = _scan_tile(ar, ai, br, bi, COMPLEX)
        br, bi = _continue(ar, ai, br, bi, hr[None, :], hi[None, :], COMPLEX)
        _store(h, place, br, bi, here, COMPLEX)
        hr, hi = _last(br, STEPS), _last(bi, STEPS)
    _store(last, edge, hr, hi, c < tl.where(ends, C, 0), COMPLEX)


@triton.jit
def _run_back(
    a, h, h0, dh, dlast, before, da, db, dh0, first_row, sequence, bounds, C, LENGTH,
    CARRIED: tl.constexpr, COMPLEX: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of each chunk, from that of the state after it."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first, begin, stop = tl.load(first_row + chunk), tl.load(bounds + owner), tl.load(bounds + owner + 1)
    count = tl.minimum(LENGTH, stop - first)
    outer = first + count == stop
    edge = owner.to(tl.int64) * C + c
    gr, gi = _load(dlast, edge, c < tl.where(outer, C, 0), 0.0, COMPLEX)
    if CARRIED:
        nr, ni = _load(before, (chunk.to(tl.int64) + 1) * C + c, c < tl.where(outer, 0, C), 0.0, COMPLEX)
        gr += nr
        gi += ni
    h0r, h0i = _load(h0, edge, c < C, 0.0, COMPLEX)
    tiles = tl.cdiv(count, STEPS)
    for i in tl.range(tiles, num_stages=STAGES):
        t = _steps_of(i, tiles, True, STEPS)
        here = (t < count) & (c[None, :] < C)
        place = (first + t) * C + c[None, :]
        ar, ai = _load(a, place + C, here & (first + t + 1 < stop), 1.0, COMPLEX)
        br, bi = _load(dh, place, here, 0.0, COMPLEX)
        ar, ai, br, bi = _scan_tile(ar, -ai, br, bi, COMPLEX)
        br, bi = _continue(ar, ai, br, bi, gr[None, :], gi[None, :], COMPLEX)
        _store(db, place, br, bi, here, COMPLEX)
        xr, xi = _load(h, place - C, here & (first + t > begin), 0.0, COMPLEX)
        if i == tiles - 1:
            starts = first + t == begin
            xr, xi = tl.where(starts, h0r[None, :], xr), tl.where(starts, h0i[None, :], xi)
        if COMPLEX:
            _store(da, place, br * xr + bi * xi, bi * xr - br * xi, here, COMPLEX)
        else:
            _store(da, place, br * xr, bi, here, COMPLEX)
        gr, gi = _last(br, STEPS), _last(bi, STEPS)
    if first == begin:
        ar, ai = _load(a, first * C + c, c < C, 0.0, COMPLEX)
        gr, gi = _continue(ar, -ai, tl.zeros_like(gr), tl.zeros_like(gi), gr, gi, COMPLEX)
        _store(dh0, edge, gr, gi, c < C, COMPLEX)


@dataclass(frozen=True)
class Plan:
    """How the work is cut: into chunks of time and blocks of channels, one program each."""

    chunks: Chunks
    channels: int
    columns: int

    @property
    def grid(self) -> tuple[int, int]:
        """Of programs."""
        return self.chunks.count, self.columns


def _options(x: Tensor, channels: int, back: bool = False) -> dict[str, int | bool]:
    steps, stages = STEPS, STAGES
    if x.dtype is torch.bfloat16 and channels <= 64:  # rows of half the bytes: more of them on their way
        steps, stages = 2 * STEPS, STAGES if back else 6
    return {
        "COMPLEX": x.is_complex(), "STEPS": steps, "CHANNELS": channels, "STAGES": stages, "num_warps": WARPS,
    }  # fmt: skip


def _widest(x: Tensor) -> int:
    """Channels of a program: four for a thread; of complex numbers, whose halves are apart, one."""
    return min(32 if x.is_complex() else 128, power_of_two(x.shape[-1]))


def _real(x: Tensor) -> Tensor:
    x = x.resolve_conj().contiguous()
    return torch.view_as_real(x) if x.is_complex() else x


def _plan(a: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """Whole sequences where their channels occupy the chip, in narrower blocks if need be; else chunks.

    A whole sequence is read once, a chunk twice. One warp for each multiprocessor, with its tiles in flight,
    nearly fills the memory's pipe; eight of them do where time is cut.
    """
    (_, length, width), channels = a.shape, _widest(a)
    sequences = a.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    while channels > 64 and sequences * ceil_div(width, channels) < 2 * processors(a):
        channels //= 2
    programs = sequences * ceil_div(width, channels)
    if 4 * programs >= 3 * processors(a) or length <= SHORTEST:
        return Plan(chunked(a, cu_seqlens, max(length, 1)), channels, ceil_div(width, channels))
    channels = _widest(a)
    columns = ceil_div(width, channels)
    even = ceil_div(a.shape[0] * length, ceil_div(8 * processors(a), columns))
    chunks = chunked(a, cu_seqlens, max(SHORTEST, ceil_div(even, STEPS) * STEPS))
    return Plan(chunks, channels, columns)


def _carry(a: Tensor, b: Tensor, edge: Tensor, plan: Plan, reverse: bool) -> Tensor | None:
    """The state after each chunk (before it, backwards); None where sequences were not cut."""
    chunks = plan.chunks
    if chunks.whole:
        return None
    width = a.shape[-1]
    decay, added, states = (edge.new_empty(chunks.count, width) for _ in range(3))
    launch(
        _sum_up, plan.grid, _real(a), _real(b), _real(decay), _real(added), chunks.first, chunks.sequence,
        chunks.bounds, width, chunks.length, REVERSE=reverse, **_options(a, plan.channels),
    )  # fmt: skip
    numbers = torch.arange(chunks.sequences, device=a.device, dtype=torch.int32)
    start, channels = _real(edge), _widest(states)
    launch(
        _run, (chunks.sequences, ceil_div(width, channels)), _real(decay), _real(added), _real(states), start,
        start, torch.empty_like(start), chunks.offsets[:-1], numbers, chunks.offsets, width, chunks.count,
        CARRIED=False, REVERSE=reverse, **_options(states, channels),
    )  # fmt: skip
    return states


def scan(
    a: Tensor, b: Tensor, h0: Tensor, cu_seqlens: Tensor | None = None, out: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """States of `h[t] = a[t] h[t-1] + b[t]` (B, T, C) and the last of each sequence (S, C)."""
    h, last = a.new_empty(a.shape, dtype=out), h0.clone(memory_format=torch.contiguous_format)
    if a.numel() == 0:
        return h, last
    plan, (a, b) = _plan(a, cu_seqlens), (a.contiguous(), b.contiguous())
    before, chunks = _carry(a, b, h0, plan, reverse=False), plan.chunks
    x, y, start = (_real(x) for x in (a, b, h0))
    launch(
        _run, plan.grid, x, y, _real(h), start, start if before is None else _real(before), _real(last),
        chunks.first, chunks.sequence, chunks.bounds, a.shape[2], chunks.length, CARRIED=before is not None,
        REVERSE=False, **_options(a, plan.channels),
    )  # fmt: skip
    return h, last


def forward(a: Tensor, b: Tensor, h0: Tensor, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The operator `bmojo::linear_scan` on a GPU."""
    return scan(a, b, h0, cu_seqlens)


def backward(
    a: Tensor, h: Tensor, h0: Tensor, dh: Tensor, dlast: Tensor, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `bmojo::linear_scan_backward` on a GPU."""
    da, db = (torch.empty_like(a, memory_format=torch.contiguous_format) for _ in range(2))
    dh0 = dlast.clone(memory_format=torch.contiguous_format)
    if a.numel() == 0:
        return da, db, dh0
    plan, (a, dh) = _plan(a, cu_seqlens), (a.contiguous(), dh.contiguous())
    before, chunks = _carry(a, dh, dlast, plan, reverse=True), plan.chunks
    x, states, start, y, end = (_real(x) for x in (a, h, h0, dh, dlast))
    launch(
        _run_back, plan.grid, x, states, start, y, end, end if before is None else _real(before), _real(da),
        _real(db), _real(dh0), chunks.first, chunks.sequence, chunks.bounds, a.shape[2], chunks.length,
        CARRIED=before is not None, **_options(a, plan.channels, back=True),
    )  # fmt: skip
    return da, db, dh0
