"""`selective_scan` as operators that torch knows: traced, compiled and differentiated like its own."""

from __future__ import annotations

import torch
from torch import Tensor

from bmojo_kernels.backends import as_numpy, empty_like, run, task_width, thread_count
from bmojo_kernels.dispatch import register_triton
from bmojo_kernels.exponential import LOG2_E
from bmojo_kernels.selective_scan import numba_cpu
from bmojo_kernels.selective_scan.numba_cpu import STRIDE

__all__ = ["GPU_STRIDE", "selective_scan_core"]

# On a GPU states are kept less often: more steps of a chunk run beside one another.
GPU_STRIDE = 64

# A task's states, decays and rates are to fit into the second-level cache.
WIDEST = 256


@torch.library.custom_op("bmojo::selective_scan", mutates_args=(), device_types="cpu")
def selective_scan_core(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, copy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, T, d), the last state (B, d, N) and, with `copy`, the states every few steps."""
    rates, state = (A * LOG2_E).T.contiguous(), h0.mT.clone(memory_format=torch.contiguous_format)
    y, copies = empty_like(u), empty_like(state.new_empty(_copies_shape(u, A, copy)))
    arrays = [as_numpy(x) for x in (u, delta, rates, B, C, state, y, copies)]
    run(numba_cpu.forward, arrays, *_tasks(u, A))
    return y, state.mT.contiguous(), copies


@selective_scan_core.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, copy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return u.new_empty(u.shape), h0.new_empty(h0.shape), h0.new_empty(_copies_shape(u, A, copy))


@torch.library.custom_op("bmojo::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, copies: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    natural, gradient = A.T.contiguous(), dlast.mT.clone(memory_format=torch.contiguous_format)
    width, threads = _tasks(u, A)
    pieces = -(-u.shape[2] // width)
    dA = gradient.new_zeros(gradient.shape)
    shared = [gradient.new_zeros(pieces, *B.shape) for _ in range(2)]
    du, d_delta = empty_like(u), empty_like(delta)
    tensors = (u, delta, natural * LOG2_E, natural, B, C, copies, dy, gradient, du, d_delta, dA, *shared)
    run(numba_cpu.backward, [as_numpy(x) for x in tensors], width, threads)
    dB, dC = (x.sum(0).to(B.dtype) for x in shared)
    return du, d_delta, dA.sum(0).T.contiguous(), dB, dC, gradient.mT.contiguous()


@_backward.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, copies: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new = [x.new_empty(x.shape) for x in (u, delta, A, B, C, dlast)]
    return new[0], new[1], new[2], new[3], new[4], new[5]


def _copies_shape(u: Tensor, A: Tensor, copy: bool) -> tuple[int, ...]:
    if u.device.type == "cpu":
        return (u.shape[0], -(-u.shape[1] // STRIDE) if copy else 0, A.shape[1], A.shape[0])
    return (u.shape[0] * -(-u.shape[1] // GPU_STRIDE) if copy else 0, A.shape[1], A.shape[0])


def _tasks(u: Tensor, A: Tensor) -> tuple[int, int]:
    threads = thread_count(u.numel() * A.shape[1])
    return task_width(u.shape[0], u.shape[2], threads, WIDEST), threads


def _save(ctx, inputs, output) -> None:
    u, delta, A, B, C, _, copy = inputs
    if not copy:
        raise RuntimeError("bmojo::selective_scan: gradients need copy=True.")
    ctx.save_for_backward(u, delta, A, B, C, output[2])


def _differentiate(ctx, dy: Tensor, dlast: Tensor, _: Tensor):
    return *torch.ops.bmojo.selective_scan_backward(*ctx.saved_tensors, dy, dlast), None


selective_scan_core.register_autograd(_differentiate, setup_context=_save)
register_triton(selective_scan_core, _backward, "selective_scan", _save, _differentiate)
