"""The solves of `gated_kalman_scan` as operators that torch knows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, thread_count
from bmojo_kernels.checks import learning
from bmojo_kernels.dispatch import register_triton, through
from bmojo_kernels.gated_kalman_scan import numba_cpu
from bmojo_kernels.packing import chunk_rows, kept_rows, offsets
from bmojo_kernels.tasks import run_tasks

__all__ = ["STRIDE", "kalman_solve", "kalman_solve_core"]

# Copies of H are kept every so many steps: backward computes the others again.
STRIDE = 32


def kalman_solve(
    k: Tensor,
    log_decay: Tensor,
    r: Tensor,
    H0: Tensor,
    cu_seqlens: Tensor | None,
    ridge: float,
    steps: int,
    backend: str = "numba",
) -> tuple[Tensor, Tensor]:
    """Solutions (B, T, H, R, K) of `(H_t + lambda_t I) x = r`, last H (S, H, K, K); of the state's dtype."""
    keep = learning(k, log_decay, r, H0)
    solve = through(kalman_solve_core, backend, k)
    x, last, _ = solve(k, log_decay, r, H0, cu_seqlens, ridge, steps, keep)
    return x, last


@torch.library.custom_op("bmojo::kalman_solve", mutates_args=(), device_types="cpu")
def kalman_solve_core(
    k: Tensor,
    log_decay: Tensor,
    r: Tensor,
    H0: Tensor,
    cu_seqlens: Tensor | None,
    ridge: float,
    steps: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solutions, last H and, with `keep`, H before every `STRIDE` steps, counted sequence by sequence."""
    rows = chunk_rows(k.shape[0], k.shape[1], cu_seqlens, STRIDE) if keep else 0
    x, last = empty_like(H0.new_empty(r.shape)), H0.clone(memory_format=torch.contiguous_format)
    copies = kept_rows(H0, rows, cu_seqlens)
    bounds, tasks, threads = _tasks(k, cu_seqlens, steps)
    arrays = [*(_rows(m) for m in (k, log_decay, r)), as_numpy(last), _rows(x), as_numpy(copies), bounds]
    run_tasks(numba_cpu.forward, [*arrays, STRIDE, ridge, steps], tasks, threads)
    return x, last, copies


@kalman_solve_core.register_fake
def _(
    k: Tensor,
    log_decay: Tensor,
    r: Tensor,
    H0: Tensor,
    cu_seqlens: Tensor | None,
    ridge: float,
    steps: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = chunk_rows(k.shape[0], k.shape[1], cu_seqlens, STRIDE) if keep else 0
    return H0.new_empty(r.shape), H0.new_empty(H0.shape), H0.new_empty(rows, *H0.shape[1:])


@torch.library.custom_op("bmojo::kalman_solve_backward", mutates_args=(), device_types="cpu")
def _backward(
    k: Tensor,
    log_decay: Tensor,
    r: Tensor,
    x: Tensor,
    copies: Tensor,
    cu_seqlens: Tensor | None,
    ridge: float,
    steps: int,
    dx: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dk, dlog_decay, dr = empty_like(k), empty_like(log_decay), empty_like(x)
    dH = dlast.clone(memory_format=torch.contiguous_format)
    bounds, tasks, threads = _tasks(k, cu_seqlens, steps)
    arrays = [*(_rows(m) for m in (k, log_decay, x)), as_numpy(copies), _rows(dx), as_numpy(dH)]
    arrays += [*(_rows(m) for m in (dk, dlog_decay, dr)), bounds]
    run_tasks(numba_cpu.backward, [*arrays, STRIDE, ridge, steps], tasks, threads)
    return dk, dlog_decay, dr.to(r.dtype), dH


@_backward.register_fake
def _(
    k: Tensor,
    log_decay: Tensor,
    r: Tensor,
    x: Tensor,
    copies: Tensor,
    cu_seqlens: Tensor | None,
    ridge: float,
    steps: int,
    dx: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new = [m.new_empty(m.shape) for m in (k, log_decay, r, dlast)]
    return new[0], new[1], new[2], new[3]


def _rows(x: Tensor) -> np.ndarray:
    """Memory of (B, T, ...) as (B T, ...)."""
    return as_numpy(x).reshape(-1, *x.shape[2:])


def _tasks(k: Tensor, cu_seqlens: Tensor | None, steps: int) -> tuple[np.ndarray, int, int]:
    """Where sequences begin, tasks, threads."""
    bounds = offsets("gated_kalman_scan", k.shape[0], k.shape[1], cu_seqlens)
    return bounds, (len(bounds) - 1) * k.shape[2], thread_count(k.numel() * k.shape[-1] * steps)


def _save(ctx, inputs, output) -> None:
    k, log_decay, r, _, cu_seqlens, ctx.ridge, ctx.steps, keep = inputs
    if not keep:
        raise RuntimeError("bmojo::kalman_solve: gradients need keep=True.")
    ctx.save_for_backward(k, log_decay, r, output[0], output[2], cu_seqlens)


def _differentiate(ctx, dx: Tensor, dlast: Tensor, _: Tensor):
    *saved, cu_seqlens = ctx.saved_tensors
    gradients = torch.ops.bmojo.kalman_solve_backward(*saved, cu_seqlens, ctx.ridge, ctx.steps, dx, dlast)
    return *gradients, None, None, None, None


kalman_solve_core.register_autograd(_differentiate, setup_context=_save)
register_triton(kalman_solve_core, _backward, "gated_kalman_scan", _save, _differentiate)
