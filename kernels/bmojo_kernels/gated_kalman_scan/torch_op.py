"""The solves of `gated_kalman_scan` as operators that torch knows."""

from __future__ import annotations

import torch
from torch import Tensor

from bmojo_kernels.checks import learning
from bmojo_kernels.gated_kalman_scan import numba_cpu
from bmojo_kernels.packing import chunk_rows

__all__ = ["STRIDE", "kalman_solve", "kalman_solve_core"]

# Copies of H are kept every so many steps: backward computes the others again.
STRIDE = 32


def kalman_solve(
    k: Tensor, log_decay: Tensor, r: Tensor, H0: Tensor, cu_seqlens: Tensor | None, ridge: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Solutions (B, T, H, R, K) of `(H_t + lambda_t I) x = r` and last H (S, H, K, K), of the state's dtype."""
    keep = learning(k, log_decay, r, H0)
    x, last, _ = kalman_solve_core(k, log_decay, r, H0, cu_seqlens, ridge, steps, keep)
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
    return numba_cpu.forward(k, log_decay, r, H0, cu_seqlens, STRIDE, ridge, steps, keep)


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
    dk, dlog_decay, dr, dH0 = numba_cpu.backward(
        k, log_decay, x, copies, cu_seqlens, STRIDE, ridge, steps, dx, dlast
    )
    return dk, dlog_decay, dr.to(r.dtype), dH0


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
