"""`causal_conv1d` on the GPU: a tile of steps by channels reads its rows once for each tap, from the cache.

Backward computes the outputs before the activation once more, also of the steps behind that each input
reaches; the taps' gradients are summed chunk by chunk, and the chunks in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.triton_support import ceil_div, chunked, launch, power_of_two

__all__ = ["backward", "forward"]

LENGTH, STEPS, CHANNELS, WARPS = 128, 32, 64, 4


@triton.jit
def _input(x, initial, row, begin, stop, owner, c, C, K: tl.constexpr, INITIAL: tl.constexpr):
    """Inputs of some rows; before the sequence begins those of its initial state."""
    inside = (row >= begin) & (row < stop)
    found = tl.load(x + row[:, None] * C + c[None, :], mask=inside[:, None] & (c < C)[None, :], other=0.0)
    found = found.to(tl.float32)
    if INITIAL:
        back = begin - row
        place = (owner.to(tl.int64) * (K - 1) + (K - 1) - back)[:, None] * C + c[None, :]
        before = ((back > 0) & (back < K))[:, None] & (c < C)[None, :]
        found += tl.load(initial + place, mask=before, other=0.0).to(tl.float32)
    return found


@triton.jit
def _linear(
    x, weight, bias, initial, row, begin, stop, owner, c, C, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
    K: tl.constexpr, BIAS: tl.constexpr, INITIAL: tl.constexpr,
):  # fmt: skip
    """Outputs of some rows before the activation."""
    total = tl.zeros((STEPS, CHANNELS), tl.float32)
    if BIAS:
        total += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    for i in range(K):
        tap = tl.load(weight + c * K + i, mask=c < C, other=0.0).to(tl.float32)
        total += tap[None, :] * _input(x, initial, row + (i - K + 1), begin, stop, owner, c, C, K, INITIAL)
    return total


@triton.jit
def _outputs(
    x, weight, bias, initial, y, first_row, sequence, bounds, C, LENGTH, STEPS: tl.constexpr,
    CHANNELS: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr, INITIAL: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk."""
    owner = tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first, begin = tl.load(first_row + tl.program_id(0)), tl.load(bounds + owner)
    stop = tl.load(bounds + owner + 1)
    end = tl.minimum(first + LENGTH, stop)
    for start in range(0, (end - first).to(tl.int32), STEPS):
        row = first + start + tl.arange(0, STEPS)
        total = _linear(
            x, weight, bias, initial, row, begin, stop, owner, c, C, STEPS, CHANNELS, K, BIAS, INITIAL
        )
        if SILU:
            total *= tl.sigmoid(total)
        mask = (row < end)[:, None] & (c < C)[None, :]
        tl.store(y + row[:, None] * C + c[None, :], total.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _tails(x, initial, tail, bounds, C, CHANNELS: tl.constexpr, K: tl.constexpr, INITIAL: tl.constexpr,
           PLACES: tl.constexpr):  # fmt: skip
    """The last inputs of a sequence."""
    owner, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    i = tl.arange(0, PLACES)
    found = _input(x, initial, stop - (K - 1) + i, begin, stop, owner, c, C, K, INITIAL)
    place = (owner.to(tl.int64) * (K - 1) + i)[:, None] * C + c[None, :]
    tl.store(tail + place, found.to(tail.dtype.element_ty), mask=(i < K - 1)[:, None] & (c < C)[None, :])


@triton.jit
def _through(
    x, weight, bias, initial, dy, row, begin, stop, owner, c, C, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
    K: tl.constexpr, BIAS: tl.constexpr, INITIAL: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Gradients of the outputs of some rows before the activation."""
    mask = ((row >= begin) & (row < stop))[:, None] & (c < C)[None, :]
    found = tl.load(dy + row[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if SILU:
        z = _linear(
            x, weight, bias, initial, row, begin, stop, owner, c, C, STEPS, CHANNELS, K, BIAS, INITIAL
        )
        gate = tl.sigmoid(z)
        found *= gate * (1 + z * (1 - gate))
    return found


@triton.jit
def _inputs_from(
    x, weight, bias, initial, dy, dtail, row, begin, stop, owner, c, C, STEPS: tl.constexpr,
    CHANNELS: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr, INITIAL: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Gradients of some inputs: of the outputs that they reach, and of the tail where they are in it."""
    place = row - (stop - (K - 1))
    inside = ((place >= 0) & (place < K - 1))[:, None] & (c < C)[None, :]
    at = (owner.to(tl.int64) * (K - 1) + place)[:, None] * C + c[None, :]
    total = tl.load(dtail + at, mask=inside, other=0.0).to(tl.float32)
    for i in range(K):
        tap = tl.load(weight + c * K + i, mask=c < C, other=0.0).to(tl.float32)
        reached = row + (K - 1 - i)
        total += tap[None, :] * _through(
            x, weight, bias, initial, dy, reached, begin, stop, owner, c, C, STEPS, CHANNELS, K, BIAS,
            INITIAL, SILU,
        )  # fmt: skip
    return total


@triton.jit
def _back(
    x, weight, bias, initial, dy, dtail, dx, dweight, dbias, first_row, sequence, bounds, C, LENGTH,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr, INITIAL: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's inputs, and its part of the taps' and the bias's."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first, begin, stop = tl.load(first_row + chunk), tl.load(bounds + owner), tl.load(bounds + owner + 1)
    end = tl.minimum(first + LENGTH, stop)
    for start in range(0, (end - first).to(tl.int32), STEPS):
        row = first + start + tl.arange(0, STEPS)
        found = _inputs_from(
            x, weight, bias, initial, dy, dtail, row, begin, stop, owner, c, C, STEPS, CHANNELS, K, BIAS,
            INITIAL, SILU,
        )  # fmt: skip
        mask = (row < end)[:, None] & (c < C)[None, :]
        tl.store(dx + row[:, None] * C + c[None, :], found.to(dx.dtype.element_ty), mask=mask)
    for i in range(K + 1):
        total = tl.zeros((CHANNELS,), tl.float32)
        for start in range(0, (end - first).to(tl.int32), STEPS):
            row = first + start + tl.arange(0, STEPS)
            through = _through(
                x, weight, bias, initial, dy, row, begin, end, owner, c, C, STEPS, CHANNELS, K, BIAS,
                INITIAL, SILU,
            )  # fmt: skip
            if i < K:
                through *= _input(x, initial, row + (i - K + 1), begin, stop, owner, c, C, K, INITIAL)
            total += tl.sum(through, 0)
        if i < K:
            tl.store(dweight + (chunk.to(tl.int64) * K + i) * C + c, total, mask=c < C)
        else:
            tl.store(dbias + chunk.to(tl.int64) * C + c, total, mask=c < C)


@triton.jit
def _initial_back(
    x, weight, bias, initial, dy, dtail, dinitial, bounds, C, CHANNELS: tl.constexpr, K: tl.constexpr,
    BIAS: tl.constexpr, INITIAL: tl.constexpr, SILU: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Gradients of what came before a sequence."""
    owner, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    i = tl.arange(0, PLACES)
    found = _inputs_from(
        x, weight, bias, initial, dy, dtail, begin - (K - 1) + i, begin, stop, owner, c, C, PLACES, CHANNELS,
        K, BIAS, INITIAL, SILU,
    )  # fmt: skip
    place = (owner.to(tl.int64) * (K - 1) + i)[:, None] * C + c[None, :]
    mask = (i < K - 1)[:, None] & (c < C)[None, :]
    tl.store(dinitial + place, found.to(dinitial.dtype.element_ty), mask=mask)


def _pointers(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None
) -> tuple[tuple[Tensor, ...], dict[str, int | bool]]:
    """Arrays, something in place of those that are not there, and what they are."""
    weight = weight.contiguous()
    options = {
        "CHANNELS": min(CHANNELS, power_of_two(x.shape[2])), "K": weight.shape[1], "BIAS": bias is not None,
        "INITIAL": initial is not None, "num_warps": WARPS,
    }  # fmt: skip
    arrays = [weight, weight if bias is None else bias, weight if initial is None else initial]
    return (x.contiguous(), *(y.contiguous() for y in arrays)), options


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::causal_conv1d` on a GPU."""
    chunks = chunked(x, cu_seqlens, LENGTH)
    arrays, options = _pointers(x, weight, bias, initial)
    (channels, taps), columns = weight.shape, ceil_div(x.shape[2], options["CHANNELS"])
    y = torch.empty_like(arrays[0])
    tail = x.new_empty(chunks.sequences, taps - 1, channels)
    launch(
        _outputs, (chunks.count, columns), *arrays, y, chunks.first, chunks.sequence, chunks.bounds, channels,
        LENGTH, STEPS=STEPS, SILU=silu, **options,
    )  # fmt: skip
    if taps > 1:
        options.pop("BIAS")
        launch(
            _tails, (chunks.sequences, columns), arrays[0], arrays[3], tail, chunks.bounds, channels,
            PLACES=power_of_two(taps - 1), **options,
        )  # fmt: skip
    return y, tail


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor | None, cu_seqlens: Tensor | None,
    silu: bool, dy: Tensor, dtail: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::causal_conv1d_backward` on a GPU."""
    chunks = chunked(x, cu_seqlens, LENGTH)
    arrays, options = _pointers(x, weight, bias, initial)
    (channels, taps), columns = weight.shape, ceil_div(x.shape[2], options["CHANNELS"])
    dy, dtail = dy.contiguous(), dtail.contiguous()
    dx, dinitial = torch.empty_like(arrays[0]), torch.empty_like(dtail)
    # Zeros, because there may be entries for no chunk.
    dweight = torch.zeros(chunks.count, taps, channels, device=x.device)
    dbias = torch.zeros(chunks.count, channels, device=x.device)
    launch(
        _back, (chunks.count, columns), *arrays, dy, dtail, dx, dweight, dbias, chunks.first, chunks.sequence,
        chunks.bounds, channels, LENGTH, STEPS=STEPS, SILU=silu, **options,
    )  # fmt: skip
    if taps > 1:
        launch(
            _initial_back, (chunks.sequences, columns), *arrays, dy, dtail, dinitial, chunks.bounds, channels,
            SILU=silu, PLACES=power_of_two(taps - 1), **options,
        )  # fmt: skip
    return dx, dweight.sum(0).T.to(weight.dtype).contiguous(), dbias.sum(0).to(x.dtype), dinitial
