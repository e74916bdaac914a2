"""`memory_attention` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["memory_attention_tensor"]


def memory_attention_tensor(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    fading: tuple[Tensor, Tensor] | None,
    q_fading: Tensor | None,
    eidetic_index: Tensor | None,
    chunk: int,
    eidetic: tuple[Tensor, Tensor] | None,
    q_eidetic: Tensor | None,
    eidetic_rows: Tensor | None,
    eidetic_bias: Tensor | None,
    retrieved: tuple[Tensor, ...] | None,
    q_retrieved: Tensor | None,
    scale: float | None,
    start: int,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`memory_attention` of tensors that were checked."""
    k_fading, v_fading = (None, None) if fading is None else fading
    k_eidetic, v_eidetic = (None, None) if eidetic is None else eidetic
    if v_eidetic is v:  # one gradient for both uses, and one copy
        v_eidetic = None
    k_retrieved, v_retrieved, bias_retrieved = (
        (None, None, None) if retrieved is None else (*retrieved, None)[:3]
    )
    return _forward(
        q, k, v, q_fading, k_fading, v_fading, q_eidetic, k_eidetic, v_eidetic, eidetic_bias,
        q_retrieved, k_retrieved, v_retrieved, bias_retrieved, eidetic_index, eidetic_rows, cu_seqlens,
        window, chunk, start, q.shape[-1] ** -0.5 if scale is None else scale,
    )  # fmt: skip


@torch.library.custom_op("bmojo::memory_attention", mutates_args=(), device_types="cpu")
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_fading: Tensor | None,
    k_fading: Tensor | None,
    v_fading: Tensor | None,
    q_eidetic: Tensor | None,
    k_eidetic: Tensor | None,
    v_eidetic: Tensor | None,
    bias_eidetic: Tensor | None,
    q_retrieved: Tensor | None,
    k_retrieved: Tensor | None,
    v_retrieved: Tensor | None,
    bias_retrieved: Tensor | None,
    index: Tensor | None,
    rows: Tensor | None,
    cu_seqlens: Tensor | None,
    window: int,
    chunk: int,
    start: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=_state(q.dtype))
    return q.new_empty(*q.shape[:3], v.shape[3]), lse


def _state(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


@torch.library.custom_op("bmojo::memory_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_fading: Tensor | None,
    k_fading: Tensor | None,
    v_fading: Tensor | None,
    q_eidetic: Tensor | None,
    k_eidetic: Tensor | None,
    v_eidetic: Tensor | None,
    bias_eidetic: Tensor | None,
    q_retrieved: Tensor | None,
    k_retrieved: Tensor | None,
    v_retrieved: Tensor | None,
    bias_retrieved: Tensor | None,
    index: Tensor | None,
    rows: Tensor | None,
    cu_seqlens: Tensor | None,
    window: int,
    chunk: int,
    start: int,
    scale: float,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor,
) -> list[Tensor]:
    """Gradients of the first fourteen arguments, in their shapes; an empty tensor for what is None."""
    raise NotImplementedError


@_backward.register_fake
def _(*arguments) -> list[Tensor]:
    q = arguments[0]
    return [q.new_empty(0) if x is None else x.new_empty(x.shape) for x in arguments[:14]]


def _save(ctx, inputs, output) -> None:
    ctx.options, ctx.present = inputs[17:], [x is not None for x in inputs[:17]]
    ctx.save_for_backward(*inputs[:17], *output)


def _differentiate(ctx, dout: Tensor, dlse: Tensor):
    *inputs, out, lse = ctx.saved_tensors
    found = torch.ops.bmojo.memory_attention_backward(*inputs, *ctx.options, out, lse, dout, dlse)
    return *(x if there else None for x, there in zip(found, ctx.present[:14], strict=True)), *(None,) * 7


_forward.register_autograd(_differentiate, setup_context=_save)
