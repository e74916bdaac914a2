"""`ssd_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, thread_count
from bmojo_kernels.dispatch import register_folding, register_triton, through
from bmojo_kernels.packing import chunk_rows, kept_rows, offsets
from bmojo_kernels.ssd_scan import numba_cpu
from bmojo_kernels.tasks import run_tasks

__all__ = ["kept_dtype", "longest_chunk", "ssd_scan_core", "through"]


def longest_chunk(x: Tensor) -> int:
    """Steps of a chunk whose square stays in a GPU's registers."""
    return 32 if x.dtype is torch.float32 else 64


def kept_dtype(x: Tensor, h0: Tensor) -> torch.dtype:
    """In which a GPU keeps the states between chunks: that of its products, half of the bytes or all."""
    return x.dtype if x.dtype is torch.bfloat16 else h0.dtype


@torch.library.custom_op("bmojo::ssd_scan", mutates_args=(), device_types="cpu")
def ssd_scan_core(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    h0: Tensor,
    cu_seqlens: Tensor | None,
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, T, H, P), last states (S, H, P, N) and, with `keep`, those before each chunk.

    `B` and `C` are (B, T, G, N). Chunks are counted sequence by sequence, each sequence beginning one; there
    may be more rows than chunks.
    """
    rows = chunk_rows(x.shape[0], x.shape[1], cu_seqlens, chunk) if keep else 0
    y, last = empty_like(x), h0.clone(memory_format=torch.contiguous_format)
    states = kept_rows(h0, rows, cu_seqlens)
    bounds, width, tasks, threads = _tasks(x, B, cu_seqlens)
    arrays = [_rows(m) for m in (x, log_decay, B, C)]
    arrays += [as_numpy(last), _rows(y), as_numpy(states), bounds]
    run_tasks(numba_cpu.forward, [*arrays, chunk, width], tasks, threads)
    return y, last, states


@ssd_scan_core.register_fake
def _(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    h0: Tensor,
    cu_seqlens: Tensor | None,
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = chunk_rows(x.shape[0], x.shape[1], cu_seqlens, chunk) if keep else 0
    dtype = h0.dtype if x.device.type == "cpu" else kept_dtype(x, h0)
    states = h0.new_empty(rows, *h0.shape[1:], dtype=dtype)
    return x.new_empty(x.shape), h0.new_empty(h0.shape), states


@torch.library.custom_op("bmojo::ssd_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    states: Tensor,
    cu_seqlens: Tensor | None,
    chunk: int,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    bounds, width, tasks, threads = _tasks(x, B, cu_seqlens)
    pieces = -(-(x.shape[2] // B.shape[2]) // width)
    dx, dlog_decay = empty_like(x), empty_like(log_decay)
    dstate = dlast.clone(memory_format=torch.contiguous_format)
    dB, dC = (empty_like(dlast.new_empty(pieces, B.shape[0] * B.shape[1], *B.shape[2:])) for _ in range(2))
    arrays = [_rows(m) for m in (x, log_decay, B, C)] + [as_numpy(states), _rows(dy), as_numpy(dstate)]
    arrays += [_rows(dx), _rows(dlog_decay), as_numpy(dB), as_numpy(dC), bounds]
    run_tasks(numba_cpu.backward, [*arrays, chunk, width], tasks, threads)
    dB, dC = (m.sum(0).to(B.dtype).view(B.shape) for m in (dB, dC))
    return dx, dlog_decay, dB, dC, dstate


@_backward.register_fake
def _(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    states: Tensor,
    cu_seqlens: Tensor | None,
    chunk: int,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [m.new_empty(m.shape) for m in (x, log_decay, B, C, dlast)]
    return new[0], new[1], new[2], new[3], new[4]


def _rows(x: Tensor) -> np.ndarray:
    """Memory of (B, T, ...) as (B T, ...)."""
    return as_numpy(x).reshape(-1, *x.shape[2:])


def _tasks(x: Tensor, B: Tensor, cu_seqlens: Tensor | None) -> tuple[np.ndarray, int, int, int]:
    """Where sequences begin, heads of a task, tasks, threads."""
    bounds = offsets("ssd_scan", x.shape[0], x.shape[1], cu_seqlens)
    threads = thread_count(x.numel() * B.shape[-1])
    share, shared = x.shape[2] // B.shape[2], (len(bounds) - 1) * B.shape[2]
    width = -(-share // -(-threads // max(shared, 1)))
    return bounds, width, shared * -(-share // width), threads


def _save(ctx, inputs, output) -> None:
    x, log_decay, B, C, _, cu_seqlens, ctx.chunk, keep = inputs
    if not keep:
        raise RuntimeError("bmojo::ssd_scan: gradients need keep=True.")
    ctx.save_for_backward(x, log_decay, B, C, output[2], cu_seqlens)


def _differentiate(ctx, dy: Tensor, dlast: Tensor, _: Tensor):
    *saved, cu_seqlens = ctx.saved_tensors
    gradients = torch.ops.bmojo.ssd_scan_backward(*saved, cu_seqlens, ctx.chunk, dy, dlast)
    return *gradients, None, None, None


ssd_scan_core.register_autograd(_differentiate, setup_context=_save)
register_triton(ssd_scan_core, _backward, "ssd_scan", _save, _differentiate)
register_folding(ssd_scan_core, _backward)
