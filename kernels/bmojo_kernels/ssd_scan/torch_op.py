"""`ssd_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import torch
from torch import Tensor

from bmojo_kernels.packing import chunk_rows
from bmojo_kernels.ssd_scan import numba_cpu

__all__ = ["ssd_scan_core"]


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
    return numba_cpu.forward(x, log_decay, B, C, h0, cu_seqlens, chunk, keep)


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
    return x.new_empty(x.shape), h0.new_empty(h0.shape), h0.new_empty(rows, *h0.shape[1:])


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
    return numba_cpu.backward(x, log_decay, B, C, states, cu_seqlens, chunk, dy, dlast)


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
