"""`linear_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, task_width, thread_count
from bmojo_kernels.checks import state_dtype
from bmojo_kernels.dispatch import register_folding, register_triton, through
from bmojo_kernels.linear_scan import numba_cpu
from bmojo_kernels.packing import offsets, sequence_count
from bmojo_kernels.tasks import run_tasks, task_count

__all__ = ["linear_scan_tensor"]


def linear_scan_tensor(
    a: Tensor, b: Tensor, h0: Tensor | None, cu_seqlens: Tensor | None = None, backend: str = "numba"
) -> tuple[Tensor, Tensor]:
    """`linear_scan` of tensors: states (B, T, C) and the last ones (S, C)."""
    state, count = state_dtype(a), sequence_count(a.shape[0], cu_seqlens)
    start = a.new_zeros(count, a.shape[2], dtype=state) if h0 is None else h0.to(state)
    return through(_forward, backend, a)(a, b, start, cu_seqlens)


@torch.library.custom_op("bmojo::linear_scan", mutates_args=(), device_types="cpu")
def _forward(a: Tensor, b: Tensor, h0: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    h, last = empty_like(a), h0.clone(memory_format=torch.contiguous_format)
    _run(numba_cpu.forward, cu_seqlens, a, b, last, h)
    return h, last


@_forward.register_fake
def _(a: Tensor, b: Tensor, h0: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    return _blank(a), _blank(h0)


@torch.library.custom_op("bmojo::linear_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    a: Tensor, h: Tensor, h0: Tensor, dh: Tensor, dlast: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    da, db, dh0 = empty_like(a), empty_like(a), dlast.clone(memory_format=torch.contiguous_format)
    _run(numba_cpu.backward, cu_seqlens, a, h, h0, dh, dh0, da, db)
    return da, db, dh0


@_backward.register_fake
def _(
    a: Tensor, h: Tensor, h0: Tensor, dh: Tensor, dlast: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return _blank(a), _blank(a), _blank(h0)


def _blank(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _run(kernel: Callable[..., None], cu_seqlens: Tensor | None, *tensors: Tensor) -> None:
    batch, length, channels = tensors[0].shape
    threads = thread_count(tensors[0].numel())
    bounds = offsets("linear_scan", batch, length, cu_seqlens)
    arrays = [as_numpy(x).reshape(math.prod(x.shape[:-1]), channels) for x in tensors]
    width = task_width(len(bounds) - 1, channels, threads)
    run_tasks(kernel, [*arrays, bounds, width], task_count(len(bounds) - 1, channels, width), threads)


def _save(ctx, inputs, output) -> None:
    a, _, h0, cu_seqlens = inputs
    ctx.save_for_backward(a, output[0], h0, cu_seqlens)


def _differentiate(ctx, dh: Tensor, dlast: Tensor):
    a, h, h0, cu_seqlens = ctx.saved_tensors
    return *torch.ops.bmojo.linear_scan_backward(a, h, h0, dh, dlast, cu_seqlens), None


_forward.register_autograd(_differentiate, setup_context=_save)
register_triton(_forward, _backward, "linear_scan", _save, _differentiate)
register_folding(_forward, _backward)
