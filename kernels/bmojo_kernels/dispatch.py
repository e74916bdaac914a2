"""Which kernels a torch operator runs: Numba's on the CPU, Triton's on a GPU, loaded when first needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from bmojo_kernels.backends import interpreting

__all__ = ["register_folding", "register_triton", "through"]

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


def register_folding(*operators: Any) -> None:
    """Let `torch.vmap` map operators whose tensors all begin with the batch: what is mapped joins it.

    Parameters
    ----------
    *operators : CustomOpDef
        With several results, each of which begins with the batch too.
    """
    for operator in operators:
        operator.register_vmap(_folding(operator))


def _folding(operator: Any) -> Callable[..., Any]:
    def mapped(info: Any, axes: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        if any(isinstance(x, Tensor) and x.ndim == 1 and not x.is_floating_point() for x in inputs):
            raise ValueError(
                f"{operator._qualname}: vmap came to packed sequences, which lie in a batch of 1; map "
                "sequences of one length, or pack all of them and leave vmap out."
            )
        count = info.batch_size

        def fold(x: Any, axis: int | None) -> Any:
            if not isinstance(x, Tensor):
                return x
            x = x.expand(count, *x.shape) if axis is None else x.movedim(axis, 0)
            return x.flatten(0, 1)

        def unfold(x: Tensor) -> Tensor:
            return x.unflatten(0, (count, len(x) // count))

        found = operator(*(fold(x, axis) for x, axis in zip(inputs, axes, strict=True)))
        return tuple(unfold(x) for x in found), (0,) * len(found)

    return mapped
