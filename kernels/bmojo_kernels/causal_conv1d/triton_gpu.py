"""`causal_conv1d` on the GPU: a program is one warp, its lanes neighbouring channels, 16 bytes for each.

It takes some rows of a chunk at a time, which lie in registers with all that their taps reach. Tiles inside a
sequence have no masks; at its edges it goes row by row, and looks at the initial state and at the end.
Backward writes the derivatives of the sums before the activation once, and takes from them in a second pass
those of the inputs, the taps and the bias; these last are summed chunk by chunk, and the chunks in order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.triton_support import architecture, ceil_div, chunked, launch, power_of_two, processors

__all__ = ["backward", "forward"]

LENGTH, SHORTEST = 128, 16  # steps of a chunk, at most and at least
STEPS, BACK_STEPS = 8, 4  # of a tile; a lane of the second pass backwards has its sums to hold beside it
BYTES = 16  # of a lane in a row, where rows are aligned


@triton.jit
def _chunk(first_row, sequence, bounds, T, CHUNKS, COLUMNS, LENGTH, PACKED: tl.constexpr):
    """Of a program: its chunk, column and sequence (-1: none), that one's first row and end, its own rows."""
    chunk, column = tl.program_id(0) // COLUMNS, tl.program_id(0) % COLUMNS
    if PACKED:
        owner = tl.load(sequence + chunk)
        known = tl.maximum(owner, 0)
        first, begin, stop = tl.load(first_row + chunk), tl.load(bounds + known), tl.load(bounds + known + 1)
    else:
        owner = chunk // CHUNKS
        begin = owner.to(tl.int64) * T
        first, stop = begin + chunk % CHUNKS * LENGTH, begin + T
    return chunk, column, owner, first, begin, stop, tl.minimum(LENGTH, stop - first).to(tl.int32)


@triton.jit
def _sequence(bounds, T, COLUMNS, PACKED: tl.constexpr):
    """Of a program that belongs to a sequence: which, which column, its first row and its end."""
    owner, column = tl.program_id(0) // COLUMNS, tl.program_id(0) % COLUMNS
    if PACKED:
        begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    else:
        begin = owner.to(tl.int64) * T
        stop = begin + T
    return owner, column, begin, stop


@triton.jit
def _taps(weight, c, C, K: tl.constexpr, PLACES: tl.constexpr):
    """The taps of some channels, (taps, channels), as they lie in `weight` (K, C)."""
    i = tl.arange(0, PLACES)[:, None]
    return tl.load(weight + i * C + c[None, :], mask=(i < K) & (c < C)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _row(tile, i, ROWS: tl.constexpr):
    """Row `i` of a tile."""
    return tl.sum(tl.where(tl.arange(0, ROWS)[:, None] == i, tile, 0.0), 0)


@triton.jit
def _rows(p, r, c, C, there, INSIDE: tl.constexpr, EVEN: tl.constexpr):
    """Rows of a tile, where they are `there` (rows); `p` points at row 0."""
    place = r[:, None] * C + c[None, :]
    if INSIDE and EVEN:
        found = tl.load(p + place)
    elif INSIDE:
        found = tl.load(p + place, mask=(c < C)[None, :], other=0.0)
    else:
        found = tl.load(p + place, mask=there[:, None] & (c < C)[None, :], other=0.0)
    return found.to(tl.float32)


@triton.jit
def _put(p, r, c, C, there, tile, INSIDE: tl.constexpr, EVEN: tl.constexpr):
    """Write what `_rows` reads."""
    place, tile = r[:, None] * C + c[None, :], tile.to(p.dtype.element_ty)
    if INSIDE and EVEN:
        tl.store(p + place, tile)
    elif INSIDE:
        tl.store(p + place, tile, mask=(c < C)[None, :])
    else:
        tl.store(p + place, tile, mask=there[:, None] & (c < C)[None, :])


@triton.jit
def _gate(z):
    """The sigmoid; a root's reciprocal twice takes fewer instructions than a quotient."""
    root = tl.rsqrt(1.0 + tl.exp2(z * -1.4426950408889634))
    return root * root


@triton.jit
def _run(
    x, initial, dy, y, taps, added, start, before, count, c, C, STEPS: tl.constexpr, K: tl.constexpr,
    PLACES: tl.constexpr, INITIAL: tl.constexpr, SILU: tl.constexpr, BACK: tl.constexpr,
    INSIDE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Outputs of some rows, or (BACK) the derivatives of their sums.

    Arrays point at row 0; `before` rows of the sequence lie in front of it, then those of the initial state.
    """
    r = start + tl.arange(0, STEPS)
    total = tl.zeros((STEPS, 1), tl.float32) + added[None, :]
    for i in tl.static_range(K):
        row = r + (i - K + 1)
        found = _rows(x, row, c, C, (row >= -before) & (row < count), INSIDE, EVEN)
        if INITIAL and not INSIDE:
            old = (row < -before) & (row + before > -K)
            found += _rows(initial, row + before, c, C, old, False, EVEN)
        total += _row(taps, i, PLACES)[None, :] * found
    if BACK:
        gate = _gate(total)
        total = _rows(dy, r, c, C, r < count, INSIDE, EVEN) * gate * (1.0 + total * (1.0 - gate))
    elif SILU:
        total *= _gate(total)
    _put(y, r, c, C, r < count, total, INSIDE, EVEN)


@triton.jit
def _outputs(
    x, weight, bias, initial, dy, y, first_row, sequence, bounds, T, C, CHUNKS, COLUMNS, LENGTH,
    PACKED: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr,
    BIAS: tl.constexpr, INITIAL: tl.constexpr, SILU: tl.constexpr, BACK: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk, or (BACK) the derivatives of their sums before the activation."""
    _, column, owner, first, begin, _, count = _chunk(
        first_row, sequence, bounds, T, CHUNKS, COLUMNS, LENGTH, PACKED
    )
    if owner < 0:
        return
    c, before = column * CHANNELS + tl.arange(0, CHANNELS), (first - begin).to(tl.int32)
    taps, added = _taps(weight, c, C, K, PLACES), tl.zeros((CHANNELS,), tl.float32)
    if BIAS:
        added += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    x, dy, y = x + first * C, dy + first * C, y + first * C
    initial += (owner + 1).to(tl.int64) * (K - 1) * C
    for start in range(0, count, STEPS):
        if (start - (K - 1) >= -before) & (start + STEPS <= count):
            _run(
                x, initial, dy, y, taps, added, start, before, count, c, C, STEPS, K, PLACES, INITIAL, SILU,
                BACK, True, EVEN,
            )  # fmt: skip
        else:
            for row in range(start, tl.minimum(start + STEPS, count)):
                _run(
                    x, initial, dy, y, taps, added, row, before, count, c, C, 1, K, PLACES, INITIAL, SILU,
                    BACK, False, EVEN,
                )  # fmt: skip


@triton.jit
def _tails(
    x, initial, tail, bounds, T, C, COLUMNS, PACKED: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr,
    PLACES: tl.constexpr, INITIAL: tl.constexpr,
):  # fmt: skip
    """The last inputs of a sequence."""
    owner, column, begin, stop = _sequence(bounds, T, COLUMNS, PACKED)
    c, r = column * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, PLACES) - (K - 1)
    length, edge = (stop - begin).to(tl.int32), (owner + 1).to(tl.int64) * (K - 1) * C
    found = _rows(x + stop * C, r, c, C, (r >= -length) & (r < 0), False, False)
    if INITIAL:
        row = r + length
        old = (row < 0) & (row > -K) & (r < 0)
        found += _rows(initial + edge, row, c, C, old, False, False)
    _put(tail + edge, r, c, C, r < 0, found, False, False)


@triton.jit
def _run_back(
    x, dz, dtail, dx, taps, sums, added, start, count, after, c, C, STEPS: tl.constexpr, K: tl.constexpr,
    PLACES: tl.constexpr, SUMS: tl.constexpr, INSIDE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Gradients of some inputs, those before row `count`; what they add to the taps' and the bias's.

    Arrays point at row 0, `dtail` at that behind its last; the sequence ends `after` rows from there.
    """
    r = start + tl.arange(0, STEPS)
    total = tl.zeros((STEPS, 1), tl.float32) + tl.zeros_like(added)[None, :]
    if not INSIDE:
        late = (r - after >= 1 - K) & (r < after) & (r < count)
        total += _rows(dtail, r - after, c, C, late, False, EVEN)
    if SUMS:
        here = _rows(x, r, c, C, r < count, INSIDE, EVEN)
    for i in tl.static_range(K):
        row = r + (K - 1 - i)
        through = _rows(dz, row, c, C, (row >= 0) & (row < after), INSIDE, EVEN)
        total += _row(taps, i, PLACES)[None, :] * through
        if SUMS:
            more = sums + tl.sum(here * through, 0)[None, :]
            sums = tl.where(tl.arange(0, PLACES)[:, None] == i, more, sums)
    if SUMS:
        if not INSIDE:
            through = tl.where((r < count)[:, None], through, 0.0)
        added += tl.sum(through, 0)
    _put(dx, r, c, C, r < count, total, INSIDE, EVEN)
    return sums, added


@triton.jit
def _put_sums(parts, chunk, sums, added, c, C, K: tl.constexpr, PLACES: tl.constexpr):
    """A chunk's part of the gradients of the taps and, behind them, of the bias."""
    i, part = tl.arange(0, PLACES)[:, None], parts + chunk.to(tl.int64) * (K + 1) * C
    tl.store(part + i * C + c[None, :], sums, mask=(i < K) & (c < C)[None, :])
    tl.store(part + K * C + c, added, mask=c < C)


@triton.jit
def _back(
    x, weight, dz, dtail, dx, parts, first_row, sequence, bounds, T, C, CHUNKS, COLUMNS, LENGTH,
    PACKED: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's inputs, and its part of those of the taps and the bias."""
    chunk, column, owner, first, _, stop, count = _chunk(
        first_row, sequence, bounds, T, CHUNKS, COLUMNS, LENGTH, PACKED
    )
    if owner < 0:
        return
    c, after = column * CHANNELS + tl.arange(0, CHANNELS), (stop - first).to(tl.int32)
    taps = _taps(weight, c, C, K, PLACES)
    sums, added = tl.zeros((PLACES, CHANNELS), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    x, dz, dx = x + first * C, dz + first * C, dx + first * C
    dtail += (owner + 1).to(tl.int64) * (K - 1) * C
    for start in range(0, count, STEPS):
        if (start + STEPS <= count) & (start + STEPS + K - 1 <= after):
            sums, added = _run_back(
                x, dz, dtail, dx, taps, sums, added, start, count, after, c, C, STEPS, K, PLACES, True, True,
                EVEN,
            )  # fmt: skip
        else:
            for row in range(start, tl.minimum(start + STEPS, count)):
                sums, added = _run_back(
                    x, dz, dtail, dx, taps, sums, added, row, count, after, c, C, 1, K, PLACES, True, False,
                    EVEN,
                )  # fmt: skip
    _put_sums(parts, chunk, sums, added, c, C, K, PLACES)


@triton.jit
def _initial_back(
    initial, weight, dz, dtail, dinitial, parts, bounds, T, C, COLUMNS, PACKED: tl.constexpr,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, PLACES: tl.constexpr,
    INITIAL: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Gradients of what came before a sequence, and its part of those of the taps."""
    owner, column, begin, stop = _sequence(bounds, T, COLUMNS, PACKED)
    c, after = column * CHANNELS + tl.arange(0, CHANNELS), (stop - begin).to(tl.int32)
    taps, edge = _taps(weight, c, C, K, PLACES), (owner + 1).to(tl.int64) * (K - 1) * C
    sums, added = tl.zeros((PLACES, CHANNELS), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    sums, added = _run_back(
        initial + edge, dz + begin * C, dtail + edge, dinitial + edge, taps, sums, added, 1 - K, 0, after, c,
        C, STEPS, K, PLACES, INITIAL, False, EVEN,
    )  # fmt: skip
    if INITIAL:
        _put_sums(parts, owner, sums, added, c, C, K, PLACES)


class _Plan:
    """How a call is cut into programs: chunks by columns of channels."""

    def __init__(self, x: Tensor, weight: Tensor, cu_seqlens: Tensor | None) -> None:
        (batch, steps, channels), self.taps = x.shape, weight.shape[1]
        lanes = 64 if architecture(x).startswith("gfx") else 32
        each = BYTES // x.element_size() if channels % 16 == 0 else 2
        width = min(lanes * each, power_of_two(channels))
        self.columns = ceil_div(channels, width)
        even = ceil_div(batch * steps * self.columns, 8 * processors(x))
        length = max(min(SHORTEST, LENGTH), min(LENGTH, power_of_two(even)))
        per_sequence = ceil_div(steps, length)
        self.count, self.sequences, tables = batch * per_sequence, batch, (x, x, x)
        if cu_seqlens is not None:
            parts = chunked(x, cu_seqlens, length)
            self.count, self.sequences = parts.count, parts.sequences
            tables = parts.first, parts.sequence, parts.bounds
        self.chunks = (*tables, steps, channels, max(per_sequence, 1), self.columns, length)
        self.edges = (tables[2], steps, channels, self.columns)
        self.options: dict[str, Any] = {
            "PACKED": cu_seqlens is not None, "CHANNELS": width, "K": self.taps, "num_warps": 1,
        }  # fmt: skip
        self.tile = {
            **self.options, "PLACES": power_of_two(self.taps), "EVEN": channels % width == 0,
        }  # fmt: skip

    def rows(self, kernel: Any, *arrays: Tensor, **options: Any) -> None:
        """Launch a kernel over the chunks."""
        launch(kernel, (self.count * self.columns,), *arrays, *self.chunks, **self.tile, **options)


def _inputs(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None
) -> tuple[list[Tensor], dict[str, bool]]:
    """Arrays, the taps as rows, something in place of those that are not there, and whether they are."""
    given = (x, weight.T, weight if bias is None else bias, weight if initial is None else initial)
    return [y.contiguous() for y in given], {"BIAS": bias is not None, "INITIAL": initial is not None}


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::causal_conv1d` on a GPU."""
    plan = _Plan(x, weight, cu_seqlens)
    arrays, there = _inputs(x, weight, bias, initial)
    y, tail = torch.empty_like(arrays[0]), x.new_empty(plan.sequences, plan.taps - 1, x.shape[2])
    plan.rows(_outputs, *arrays, y, y, STEPS=STEPS, SILU=silu, BACK=False, **there)
    if plan.taps > 1:
        launch(
            _tails, (plan.sequences * plan.columns,), arrays[0], arrays[3], tail, *plan.edges,
            PLACES=power_of_two(plan.taps - 1), INITIAL=there["INITIAL"], **plan.options,
        )  # fmt: skip
    return y, tail


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, cu_seqlens: Tensor | None,
    silu: bool, dy: Tensor, dtail: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::causal_conv1d_backward` on a GPU."""
    plan = _Plan(x, weight, cu_seqlens)
    arrays, there = _inputs(x, weight, bias, initial)
    dy, dtail = dy.contiguous(), dtail.contiguous()
    dx, dinitial, dz = torch.empty_like(arrays[0]), torch.empty_like(dtail), dy
    if silu:
        dz = torch.empty_like(arrays[0])
        plan.rows(_outputs, *arrays, dy, dz, STEPS=STEPS, SILU=True, BACK=True, **there)
    fronts = plan.sequences if plan.taps > 1 and initial is not None else 0
    # Zeros where there may be entries for no chunk.
    room = torch.empty if cu_seqlens is None else torch.zeros
    parts = room(plan.count + fronts, plan.taps + 1, x.shape[2], device=x.device, dtype=torch.float32)
    plan.rows(_back, arrays[0], arrays[1], dz, dtail, dx, parts, STEPS=BACK_STEPS)
    if plan.taps > 1:
        launch(
            _initial_back, (plan.sequences * plan.columns,), arrays[3], arrays[1], dz, dtail, dinitial,
            parts[plan.count :], *plan.edges, STEPS=power_of_two(plan.taps - 1), INITIAL=there["INITIAL"],
            **plan.tile,
        )  # fmt: skip
    total = parts.sum(0)
    return dx, total[:-1].T.to(weight.dtype).contiguous(), total[-1].to(x.dtype), dinitial
