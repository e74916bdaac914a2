"""`gated_delta_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, thread_count
from bmojo_kernels.dispatch import register_folding, register_triton
from bmojo_kernels.gated_delta_scan import numba_cpu
from bmojo_kernels.packing import chunk_rows, kept_rows, offsets
from bmojo_kernels.tasks import run_tasks

__all__ = ["CHUNK", "GPU_CHUNK", "gated_delta_scan_core", "kept_dtype"]

CHUNK = 64

# Not 64 on a GPU, where products of 64 rows go to other units: on an H200 (Triton 3.6 and 3.7.1) the inverse
# of a chunk's system in bfloat16 then lacks its diagonal from some row on, for a cause not found yet.
GPU_CHUNK = 32


def kept_dtype(q: Tensor, h0: Tensor) -> torch.dtype:
    """In which a GPU keeps what only goes into products: that of the products."""
    return q.dtype if q.dtype is torch.bfloat16 else h0.dtype


@torch.library.custom_op("bmojo::gated_delta_scan", mutates_args=(), device_types="cpu")
def gated_delta_scan_core(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    h0: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs and errors (B, T, H, V), last states (S, H, V, K), with `keep` those before each chunk.

    The errors `v_t - e^{g_t} S_{t-1} k_t` are of the state's dtype; times `beta` they are the innovations.
    Chunks of `CHUNK` steps are counted sequence by sequence, each sequence beginning one; there may be more
    rows than chunks.
    """
    rows = chunk_rows(q.shape[0], q.shape[1], cu_seqlens, CHUNK) if keep else 0
    o, last = empty_like(v), h0.clone(memory_format=torch.contiguous_format)
    errors, states = empty_like(h0.new_empty(v.shape)), kept_rows(h0, rows, cu_seqlens)
    bounds, tasks, threads = _tasks(q, v, cu_seqlens)
    arrays = [_rows(m) for m in (q, k, v, log_decay, beta)]
    arrays += [as_numpy(last), _rows(o), _rows(errors), as_numpy(states), bounds]
    run_tasks(numba_cpu.forward, [*arrays, CHUNK, scale], tasks, threads)
    return o, errors, last, states


@gated_delta_scan_core.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    h0: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chunk, dtype = (CHUNK, h0.dtype) if q.device.type == "cpu" else (GPU_CHUNK, kept_dtype(q, h0))
    rows = chunk_rows(q.shape[0], q.shape[1], cu_seqlens, chunk) if keep else 0
    states = h0.new_empty(rows, *h0.shape[1:], dtype=dtype)
    return v.new_empty(v.shape), h0.new_empty(v.shape), h0.new_empty(h0.shape), states


@torch.library.custom_op("bmojo::gated_delta_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    errors: Tensor,
    states: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    do: Tensor,
    derrors: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [empty_like(m) for m in (q, k, v, log_decay, beta)]
    dstate = dlast.clone(memory_format=torch.contiguous_format)
    bounds, tasks, threads = _tasks(q, v, cu_seqlens)
    arrays = [_rows(m) for m in (q, k, v, log_decay, beta, errors)] + [as_numpy(states)]
    arrays += [_rows(do), _rows(derrors), as_numpy(dstate), *(_rows(m) for m in new), bounds]
    run_tasks(numba_cpu.backward, [*arrays, CHUNK, scale], tasks, threads)
    return new[0], new[1], new[2], new[3], new[4], dstate


@_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    errors: Tensor,
    states: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    do: Tensor,
    derrors: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [m.new_empty(m.shape) for m in (q, k, v, log_decay, beta, dlast)]
    return new[0], new[1], new[2], new[3], new[4], new[5]


def _rows(x: Tensor) -> np.ndarray:
    """Memory of (B, T, ...) as (B T, ...)."""
    return as_numpy(x).reshape(-1, *x.shape[2:])


def _tasks(q: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> tuple[np.ndarray, int, int]:
    """Where sequences begin, tasks, threads."""
    bounds = offsets("gated_delta_scan", q.shape[0], q.shape[1], cu_seqlens)
    return bounds, (len(bounds) - 1) * q.shape[2], thread_count(q.numel() * v.shape[-1])


def _save(ctx, inputs, output) -> None:
    q, k, v, log_decay, beta, _, cu_seqlens, ctx.scale, keep = inputs
    if not keep:
        raise RuntimeError("bmojo::gated_delta_scan: gradients need keep=True.")
    ctx.save_for_backward(q, k, v, log_decay, beta, output[1], output[3], cu_seqlens)


def _differentiate(ctx, do: Tensor, derrors: Tensor, dlast: Tensor, _: Tensor):
    *saved, cu_seqlens = ctx.saved_tensors
    gradients = torch.ops.bmojo.gated_delta_scan_backward(*saved, cu_seqlens, ctx.scale, do, derrors, dlast)
    return *gradients, None, None, None


gated_delta_scan_core.register_autograd(_differentiate, setup_context=_save)
register_triton(gated_delta_scan_core, _backward, "gated_delta_scan", _save, _differentiate)
register_folding(gated_delta_scan_core, _backward)
