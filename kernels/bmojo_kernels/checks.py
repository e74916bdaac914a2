"""What every operation on tensors asks of them: shapes, dtypes, devices that fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo_kernels.backends import is_tensor

if TYPE_CHECKING:
    from torch import Tensor, dtype

__all__ = [
    "alike",
    "as_real",
    "check_count",
    "check_shapes",
    "check_tensors",
    "compiled_step",
    "learning",
    "need_tensors",
    "state_dtype",
]


def check_shapes(operation: str, needed: Mapping[str, tuple[Tensor | None, tuple[int, ...]]]) -> None:
    """Refuse tensors of another shape than needed, by name; those left out pass."""
    for name, (x, shape) in needed.items():
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f"{operation}: {name} has shape {tuple(x.shape)}; here it must be {shape}.")


def as_real(operation: str, name: str, x: ArrayLike) -> NDArray[np.float64]:
    """An array of float64; an imaginary part is refused, not dropped."""
    array = np.asarray(x)
    if array.dtype.kind == "c":
        raise ValueError(f"{operation}: {name} is complex; real numbers are needed.")
    return array.astype(np.float64, copy=False)


def check_count(operation: str, name: str, value: object, least: int) -> None:
    """Refuse a count that is no whole number or too small."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"{operation}: {name}={value!r} came; a whole number, at least {least}, is needed.")


def need_tensors(operation: str, **given: object) -> None:
    """Refuse by its name what is no tensor, where an operation takes nothing else; what is left out passes.

    Parameters
    ----------
    operation : str
    **given : Tensor, or a tuple or list of them
    """
    for name, x in given.items():
        parts = enumerate(x) if isinstance(x, tuple | list) else ((None, x),)
        for number, part in parts:
            if part is not None and not is_tensor(part):
                place = name if number is None else f"{name}[{number}]"
                raise ValueError(
                    f"{operation}: {place} of type {type(part).__name__} came; a tensor is needed, such as "
                    f"torch.as_tensor({place})."
                )


def check_tensors(
    operation: str, one_dtype: Mapping[str, Tensor], others: Mapping[str, Tensor | None]
) -> None:
    """Refuse tensors of several dtypes or devices; `others` are computed with in the state's dtype."""
    kinds = {str(x.dtype).removeprefix("torch.") for x in one_dtype.values()}
    names = ", ".join(one_dtype)
    if len(kinds) > 1 or not kinds <= {"float32", "float64", "bfloat16"}:
        raise ValueError(
            f"{operation}: {names} of {', '.join(sorted(kinds))} came; one dtype of float32, float64, "
            "bfloat16 is needed."
        )
    places = {str(x.device) for x in (*one_dtype.values(), *others.values()) if x is not None}
    if len(places) > 1:
        raise ValueError(f"{operation}: tensors on {', '.join(sorted(places))} came; one device is needed.")


def state_dtype(x: Tensor) -> dtype:
    """What a recurrence is carried in: float32 for bfloat16, else the dtype of its inputs."""
    import torch

    return torch.float32 if x.dtype is torch.bfloat16 else x.dtype


def alike(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Under autocast the others in the dtype of `x`; elsewhere as they came, to be checked."""
    import torch

    if torch.is_autocast_enabled(x.device.type):
        return tuple(other.to(x.dtype) for other in others)
    return others


def learning(*tensors: Tensor) -> bool:
    """Whether a gradient will be asked for, so that what it needs is worth keeping."""
    import torch

    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def compiled_step(*tensors: Tensor) -> bool:
    """Whether a single step may go straight to compiled code: on the CPU, unseen by torch."""
    import torch

    return not (tensors[0].device.type != "cpu" or learning(*tensors) or torch.compiler.is_compiling())
