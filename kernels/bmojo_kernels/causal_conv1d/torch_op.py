"""`causal_conv1d` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["causal_conv1d_core"]


@torch.library.custom_op("bmojo::causal_conv1d", mutates_args=(), device_types="cpu")
def causal_conv1d_core(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, C) and tails (sequences, K - 1, C)."""
    raise NotImplementedError


@causal_conv1d_core.register_fake
def _(x, weight, bias, initial, cu_seqlens, silu) -> tuple[Tensor, Tensor]:
    entries = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_empty(x.shape), x.new_empty(entries, weight.shape[1] - 1, x.shape[2])


@torch.library.custom_op("bmojo::causal_conv1d_backward", mutates_args=(), device_types="cpu")
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
    dy: Tensor,
    dtail: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `x`, `weight`, `bias` (C,) and the initial state, the last two also where they are None."""
    raise NotImplementedError


@_backward.register_fake
def _(x, weight, bias, initial, cu_seqlens, silu, dy, dtail) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        weight.new_empty(weight.shape),
        x.new_empty(x.shape[2]),
        dtail.new_empty(dtail.shape),
    )


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor, dtail: Tensor):
    x, weight, bias, initial, cu_seqlens = ctx.saved_tensors
    dx, dweight, dbias, dinitial = torch.ops.bmojo.causal_conv1d_backward(
        x, weight, bias, initial, cu_seqlens, ctx.silu, dy, dtail
    )
    return dx, dweight, None if bias is None else dbias, None if initial is None else dinitial, None, None


causal_conv1d_core.register_autograd(_differentiate, setup_context=_save)
