"""`gated_delta_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import torch
from torch import Tensor

from bmojo_kernels.gated_delta_scan import numba_cpu
from bmojo_kernels.packing import chunk_rows

__all__ = ["CHUNK", "gated_delta_scan_core"]

CHUNK = 64


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
    """Outputs and innovations (B, T, H, V), last states (S, H, V, K), with `keep` those before each chunk.

    Innovations are of the state's dtype. Chunks of `CHUNK` steps are counted sequence by sequence, each
    sequence beginning one; there may be more rows than chunks.
    """
    return numba_cpu.forward(q, k, v, log_decay, beta, h0, cu_seqlens, CHUNK, scale, keep)


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
    rows = chunk_rows(q.shape[0], q.shape[1], cu_seqlens, CHUNK) if keep else 0
    states = h0.new_empty(rows, *h0.shape[1:])
    return v.new_empty(v.shape), h0.new_empty(v.shape), h0.new_empty(h0.shape), states


@torch.library.custom_op("bmojo::gated_delta_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    e: Tensor,
    states: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    do: Tensor,
    de: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return numba_cpu.backward(q, k, v, log_decay, beta, e, states, cu_seqlens, CHUNK, scale, do, de, dlast)


@_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    e: Tensor,
    states: Tensor,
    cu_seqlens: Tensor | None,
    scale: float,
    do: Tensor,
    de: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [m.new_empty(m.shape) for m in (q, k, v, log_decay, beta, dlast)]
    return new[0], new[1], new[2], new[3], new[4], new[5]


def _save(ctx, inputs, output) -> None:
    q, k, v, log_decay, beta, _, cu_seqlens, ctx.scale, keep = inputs
    if not keep:
        raise RuntimeError("bmojo::gated_delta_scan: gradients need keep=True.")
    ctx.save_for_backward(q, k, v, log_decay, beta, output[1], output[3], cu_seqlens)


def _differentiate(ctx, do: Tensor, de: Tensor, dlast: Tensor, _: Tensor):
    *saved, cu_seqlens = ctx.saved_tensors
    gradients = torch.ops.bmojo.gated_delta_scan_backward(*saved, cu_seqlens, ctx.scale, do, de, dlast)
    return *gradients, None, None, None


gated_delta_scan_core.register_autograd(_differentiate, setup_context=_save)
