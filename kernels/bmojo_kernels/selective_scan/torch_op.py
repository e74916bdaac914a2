"""`selective_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, task_width, thread_count
from bmojo_kernels.dispatch import register_triton
from bmojo_kernels.exponential import LOG2_E
from bmojo_kernels.packing import chunk_rows, kept_rows, offsets
from bmojo_kernels.selective_scan import numba_cpu
from bmojo_kernels.selective_scan.numba_cpu import STRIDE
from bmojo_kernels.tasks import run_tasks, task_count

__all__ = ["GPU_STRIDE", "selective_scan_core"]

# On a GPU states are kept less often: more steps of a chunk run beside one another.
GPU_STRIDE = 64

# A task's states, decays and rates are to fit into the second-level cache.
WIDEST = 256


@torch.library.custom_op("bmojo::selective_scan", mutates_args=(), device_types="cpu")
def selective_scan_core(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h0: Tensor,
    copy: bool,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, T, d), last states (S, d, N) and, with `copy`, the states every few steps (R, N, d).

    They are counted sequence by sequence, each beginning with one; there may be more rows than states.
    """
    rates, state = (A * LOG2_E).T.contiguous(), h0.mT.clone(memory_format=torch.contiguous_format)
    y, copies = empty_like(u), kept_rows(state, _copies_shape(u, A, copy, cu_seqlens)[0], cu_seqlens)
    bounds, width, threads = _tasks(u, A, cu_seqlens)
    arrays = [_rows(u), _rows(delta), as_numpy(rates), _rows(B), _rows(C)]
    arrays += [as_numpy(state), _rows(y), as_numpy(copies)]
    tasks = task_count(len(bounds) - 1, u.shape[2], width)
    run_tasks(numba_cpu.forward, [*arrays, bounds, width], tasks, threads)
    return y, state.mT.contiguous(), copies


@selective_scan_core.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h0: Tensor,
    copy: bool,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return u.new_empty(u.shape), h0.new_empty(h0.shape), h0.new_empty(_copies_shape(u, A, copy, cu_seqlens))


@torch.library.custom_op("bmojo::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    copies: Tensor,
    dy: Tensor,
    dlast: Tensor,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    natural, gradient = A.T.contiguous(), dlast.mT.clone(memory_format=torch.contiguous_format)
    bounds, width, threads = _tasks(u, A, cu_seqlens)
    pieces = -(-u.shape[2] // width)
    dA = gradient.new_zeros(gradient.shape)
    shared = [gradient.new_zeros(pieces, B.shape[0] * B.shape[1], B.shape[2]) for _ in range(2)]
    du, d_delta = empty_like(u), empty_like(delta)
    arrays = [_rows(u), _rows(delta), as_numpy(natural * LOG2_E), as_numpy(natural), _rows(B), _rows(C)]
    arrays += [as_numpy(copies), _rows(dy), as_numpy(gradient), _rows(du), _rows(d_delta), as_numpy(dA)]
    arrays += [as_numpy(x) for x in shared]
    run_tasks(numba_cpu.backward, [*arrays, bounds, width], (len(bounds) - 1) * pieces, threads)
    dB, dC = (x.sum(0).to(B.dtype).view(B.shape) for x in shared)
    return du, d_delta, dA.sum(0).T.contiguous(), dB, dC, gradient.mT.contiguous()


@_backward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    copies: Tensor,
    dy: Tensor,
    dlast: Tensor,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [x.new_empty(x.shape) for x in (u, delta, A, B, C, dlast)]
    return new[0], new[1], new[2], new[3], new[4], new[5]


def _copies_shape(u: Tensor, A: Tensor, copy: bool, cu_seqlens: Tensor | None) -> tuple[int, int, int]:
    stride = STRIDE if u.device.type == "cpu" else GPU_STRIDE
    rows = chunk_rows(u.shape[0], u.shape[1], cu_seqlens, stride) if copy else 0
    return rows, A.shape[1], A.shape[0]


def _rows(x: Tensor) -> np.ndarray:
    """Memory of (B, T, ...) as (B T, ...)."""
    return as_numpy(x).reshape(math.prod(x.shape[:2]), *x.shape[2:])


def _tasks(u: Tensor, A: Tensor, cu_seqlens: Tensor | None) -> tuple[np.ndarray, int, int]:
    """Where sequences begin, channels of a task, threads."""
    bounds = offsets("selective_scan", u.shape[0], u.shape[1], cu_seqlens)
    threads = thread_count(u.numel() * A.shape[1])
    return bounds, task_width(len(bounds) - 1, u.shape[2], threads, WIDEST), threads


def _save(ctx, inputs, output) -> None:
    u, delta, A, B, C, _, copy, cu_seqlens = inputs
    if not copy:
        raise RuntimeError("bmojo::selective_scan: gradients need copy=True.")
    ctx.save_for_backward(u, delta, A, B, C, output[2], cu_seqlens)


def _differentiate(ctx, dy: Tensor, dlast: Tensor, _: Tensor):
    *saved, cu_seqlens = ctx.saved_tensors
    return *torch.ops.bmojo.selective_scan_backward(*saved, dy, dlast, cu_seqlens), None, None


selective_scan_core.register_autograd(_differentiate, setup_context=_save)
register_triton(selective_scan_core, _backward, "selective_scan", _save, _differentiate)
