"""`memory_attention` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmojo_kernels.backends import thread_count
from bmojo_kernels.dispatch import register_folding, register_triton, through
from bmojo_kernels.memory_attention import numba_backward, numba_cpu
from bmojo_kernels.memory_attention.arrays import Inputs, plain, state_dtype
from bmojo_kernels.tasks import run_tasks

__all__ = ["memory_attention_tensor"]

TASK = 16  # blocks of queries in a task of the forward pass
PARTS = 8  # tasks of the backward pass, about; not the number of threads, or sums would depend on it


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
    backend: str,
) -> tuple[Tensor, Tensor]:
    """`memory_attention` of tensors that were checked."""
    k_fading, v_fading = (None, None) if fading is None else fading
    k_eidetic, v_eidetic = (None, None) if eidetic is None else eidetic
    k_eidetic, v_eidetic = (None if x is y else x for x, y in ((k_eidetic, k), (v_eidetic, v)))
    k_retrieved, v_retrieved, bias = (None, None, None) if retrieved is None else (*retrieved, None)[:3]
    return through(_forward, backend, q)(
        q, k, v, q_fading, k_fading, v_fading, q_eidetic, k_eidetic, v_eidetic, eidetic_bias,
        q_retrieved, k_retrieved, v_retrieved, bias, eidetic_index, eidetic_rows, cu_seqlens,
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
    inputs = Inputs.of(
        (q, k, v, q_fading, k_fading, v_fading, q_eidetic, k_eidetic, v_eidetic, bias_eidetic, q_retrieved,
         k_retrieved, v_retrieved, bias_retrieved, index, rows, cu_seqlens),
        window, chunk, start, scale,
    )  # fmt: skip
    dtype = inputs.scale.dtype
    out = np.empty((*q.shape[:3], v.shape[3]), dtype)
    lse = np.empty((len(q), q.shape[2], q.shape[1]), dtype)
    tasks = len(q) * q.shape[2] * -(-len(inputs.blocks) // TASK)
    run_tasks(numba_cpu.forward, [*inputs, out, lse, TASK], tasks, thread_count(q.numel() * window))
    return torch.from_numpy(out).to(q.dtype), torch.from_numpy(lse)


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=state_dtype(q.dtype))
    return q.new_empty(*q.shape[:3], v.shape[3]), lse


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
    given = (q, k, v, q_fading, k_fading, v_fading, q_eidetic, k_eidetic, v_eidetic, bias_eidetic,
             q_retrieved, k_retrieved, v_retrieved, bias_retrieved)  # fmt: skip
    inputs = Inputs.of((*given, index, rows, cu_seqlens), window, chunk, start, scale)
    blocks, groups = len(inputs.blocks), k.shape[2]
    parts = max(1, min(PARTS // max(1, len(q) * groups), blocks // 8))

    def sums(arrays, copies: int, shared: tuple[bool, ...] = (False,) * 4):
        found = [np.zeros((copies, *x.shape), x.dtype) for x in arrays]
        return tuple(found[0] if same else x for x, same in zip(found, shared, strict=False))

    dkeys = sums(inputs.keys, parts, (False, False, k_eidetic is None, False))
    dvalues = sums(inputs.values, parts, (False, False, v_eidetic is None, False))
    dbiases = sums(inputs.biases, parts * groups)
    first = np.empty_like(inputs.readers[0])
    dreaders = (first, *(np.empty_like(first) if own else first for own in inputs.own[1:]))
    arrays: Any = (*inputs, *(plain(x) for x in (out, lse, dout, dlse)), dreaders, dkeys, dvalues, dbiases)
    width, tasks = max(1, -(-blocks // parts)), parts * len(q) * groups
    run_tasks(numba_backward.backward, [*arrays, width], tasks, thread_count(q.numel() * window))
    found = []
    for memory in range(4):
        found += [dreaders[memory], dkeys[memory], dvalues[memory]]
        found += [dbiases[memory - 2]] if memory >= 2 else []
    return [
        q.new_empty(0) if x is None else torch.from_numpy(y if y.ndim == x.ndim else y.sum(0)).to(x.dtype)
        for x, y in zip(given, found, strict=True)
    ]


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
    return *(x if there else None for x, there in zip(found, ctx.present, strict=False)), *(None,) * 7


_forward.register_autograd(_differentiate, setup_context=_save)
register_triton(_forward, _backward, "memory_attention", _save, _differentiate)
register_folding(_forward)
