"""`causal_conv1d` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, task_width, thread_count
from bmojo_kernels.causal_conv1d import numba_cpu
from bmojo_kernels.checks import state_dtype
from bmojo_kernels.dispatch import register_triton
from bmojo_kernels.packing import offsets
from bmojo_kernels.tasks import run_tasks, task_count

__all__ = ["causal_conv1d_core", "weights"]


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
    initial, edges = _initial(x, weight, initial, cu_seqlens)
    y = empty_like(x)
    arrays: Any = (_rows(x), *weights(x, weight, bias), as_numpy(initial), edges, silu, _rows(y))
    _run(numba_cpu.forward, arrays)
    return y, _tails(x, initial, edges)


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
    """Gradients of `x`, `weight`, `bias` and the initial state, the last two also where they are None."""
    initial, edges = _initial(x, weight, initial, cu_seqlens)
    taps, added = weights(x, weight, bias)
    runs = -(-x.shape[0] * x.shape[1] // numba_cpu.ROWS)
    dweight, dbias = np.zeros((runs, *taps.shape), taps.dtype), np.zeros((runs, x.shape[2]), taps.dtype)
    dx, dinitial = empty_like(x), empty_like(initial)
    given = (_rows(x), taps, added, as_numpy(initial), edges, silu, _rows(dy), as_numpy(dtail))
    arrays: Any = (*given, _rows(dx), dweight, dbias)
    _run(numba_cpu.backward, arrays)
    numba_cpu.backward_initial(*given, as_numpy(dinitial))
    summed = torch.from_numpy(dweight.sum(0)).T.to(weight.dtype, memory_format=torch.contiguous_format)
    return dx, summed.contiguous(), torch.from_numpy(dbias.sum(0)).to(weight.dtype), dinitial


@_backward.register_fake
def _(x, weight, bias, initial, cu_seqlens, silu, dy, dtail) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new = [z.new_empty(shape) for z, shape in ((x, x.shape), (weight, weight.shape), (dtail, dtail.shape))]
    return new[0], new[1], x.new_empty(x.shape[2]), new[2]


def weights(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Taps (K, C) and bias (C,) in the dtype of the sums."""
    kind = state_dtype(x)
    added = weight.new_zeros(len(weight)) if bias is None else bias
    return as_numpy(weight.T.to(kind)), as_numpy(added.to(kind))


def _rows(x: Tensor) -> np.ndarray:
    """The rows of all sequences, (B T, C), in the tensor's memory where it is contiguous."""
    return as_numpy(x).reshape(x.shape[0] * x.shape[1], x.shape[2])


def _initial(
    x: Tensor, weight: Tensor, initial: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, np.ndarray]:
    edges = offsets("causal_conv1d", x.shape[0], x.shape[1], cu_seqlens)
    if initial is None:
        initial = x.new_zeros(len(edges) - 1, weight.shape[1] - 1, x.shape[2])
    return initial, edges


def _tails(x: Tensor, initial: Tensor, edges: np.ndarray) -> Tensor:
    """The last K - 1 inputs of each sequence, the initial state's where it is shorter."""
    late, device = initial.shape[1], x.device
    begin, end = (torch.from_numpy(edges[part])[:, None] for part in (slice(None, -1), slice(1, None)))
    row = end - late + torch.arange(late, device=device)
    rows = x.flatten(0, 1)
    if not len(rows):
        return initial.clone(memory_format=torch.contiguous_format)
    found = rows[row.clamp(0, len(rows) - 1)]
    before = initial.gather(1, (row - begin + late).clamp(0, max(late - 1, 0))[..., None].expand_as(initial))
    return torch.where((row >= begin)[..., None], found, before)


def _run(kernel: Callable[..., None], arrays: Sequence[Any]) -> None:
    rows, channels = arrays[0].shape
    runs, threads = -(-rows // numba_cpu.ROWS), thread_count(rows * channels)
    width = task_width(runs, channels, threads, numba_cpu.CHANNELS)
    run_tasks(kernel, [*arrays, width], task_count(runs, channels, width), threads)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dy: Tensor, dtail: Tensor) -> Any:
    x, weight, bias, initial, cu_seqlens = ctx.saved_tensors
    dx, dweight, dbias, dinitial = torch.ops.bmojo.causal_conv1d_backward(
        x, weight, bias, initial, cu_seqlens, ctx.silu, dy, dtail
    )
    return dx, dweight, None if bias is None else dbias, None if initial is None else dinitial, None, None


causal_conv1d_core.register_autograd(_differentiate, setup_context=_save)
register_triton(causal_conv1d_core, _backward, "causal_conv1d", _save, _differentiate)
