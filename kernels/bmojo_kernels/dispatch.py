"""Which kernels a torch operator runs: Numba's on the CPU, Triton's on a GPU, loaded when first needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from bmojo_kernels.backends import interpreting

__all__ = ["register_triton", "through"]

_registered: dict[Any, tuple[Any, ...]] = {}
_asleep = ExitStack()


def register_triton(
    operator: Any,
    backward: Any,
    operation: str,
    save: Callable[..., None] | None = None,
    differentiate: Callable[..., Any] | None = None,
) -> None:
    """Let an operator and that of its gradients run `<operation>/triton_gpu.py` on a GPU.

    Parameters
    ----------
    operator, backward : CustomOpDef
        None for one that has no gradient.
    operation : str
        Folder of the module, which has `forward` and `backward` with the operators' arguments.
    save, differentiate : callable, optional
        What was given to `register_autograd`.
    """

    def kernels() -> Any:
        return import_module(f"bmojo_kernels.{operation}.triton_gpu")

    operator.register_kernel("cuda")(lambda *inputs: kernels().forward(*inputs))
    _registered[operator] = (backward, kernels, save, differentiate)
    if backward is None:
        return
    backward.register_kernel("cuda")(lambda *inputs: kernels().backward(*inputs))
    if interpreting():
        # Also on the CPU, but asleep there: until it is woken what the operator was made of runs.
        backward.register_kernel("cpu")(lambda *inputs: kernels().backward(*inputs))
        _asleep.enter_context(backward.set_kernel_enabled("cpu", False))


def through(operator: Any, backend: str, x: Tensor) -> Callable[..., Any]:
    """The operator, or with Triton chosen for tensors on the CPU what interprets its kernels there."""
    return _interpreted(operator) if backend == "triton" and x.device.type == "cpu" else operator


def _interpreted(operator: Any) -> Callable[..., Any]:
    gradient_operator, kernels, save, differentiate = _registered[operator]
    forward = kernels().forward
    if gradient_operator is None:
        return forward

    class Interpreted(torch.autograd.Function):
        setup_context = staticmethod(save)

        @staticmethod
        def forward(*inputs):
            return forward(*inputs)

        @staticmethod
        def backward(ctx, *gradients):
            with gradient_operator.set_kernel_enabled("cpu", True):
                return differentiate(ctx, *gradients)

    def call(*inputs: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return Interpreted.apply(*inputs)
        return forward(*inputs)

    return call
