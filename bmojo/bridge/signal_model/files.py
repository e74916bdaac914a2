"""A signal model as plain values and tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmojo.bridge.signal_model.loop import Loop
from bmojo.bridge.signal_model.memory import Member, MemoryCorrection
from bmojo.config import BMojoConfig
from bmojo.models.files import filled
from bmojo.tensors import read_tensors
from realization.errors import DataError
from realization.systems import InnovationsModel

__all__ = ["read_members", "written_members"]

LINEAR = ("A", "B", "C", "D", "K", "Re", "u_mean", "y_mean")
LOOP = ("A", "B", "C", "D", "W", "b", "E", "F", "low", "high")
SCALES = ("input_mean", "input_scale", "output_mean", "output_scale")
Array = NDArray[np.float64]
Scales = tuple[Array, Array, Array, Array]


def written_members(
    linear: InnovationsModel, members: Sequence[Member], scales: Scales
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a model.

    Parameters
    ----------
    linear : InnovationsModel
    members : sequence of Member
    scales : tuple of ndarray, shapes (m,), (m,), (p,), (p,)
    """
    arrays = {f"linear.{name}": getattr(linear, name) for name in LINEAR}
    arrays |= {f"scales.{name}": x for name, x in zip(SCALES, scales, strict=True)}
    about, weights = [], {}
    for i, member in enumerate(members):
        arrays |= {f"members.{i}.loop.{name}": getattr(member.loop, name) for name in LOOP}
        config = None
        if member.memory is not None:
            config = member.memory.layer.config.to_dict()
            state = member.memory.state_dict()
            weights |= {f"members.{i}.memory.{name}": x for name, x in state.items()}
        about.append({"hold": list(member.hold), "fits": list(member.fits), "memory": config})
    tensors = {name: torch.from_numpy(np.array(x, dtype=float)) for name, x in arrays.items()}
    return {"dt": linear.dt, "members": about}, tensors | weights


def read_members(
    config: dict[str, Any], path: Path
) -> tuple[InnovationsModel, list[Member], Scales]:  # fmt: skip
    """The linear model, the members and the scales of a file of tensors.

    Parameters
    ----------
    config : dict
        As `written_members` gave it.
    path : Path

    Raises
    ------
    DataError
        If the file is damaged, or its tensors do not fit each other.
    """
    tensors = read_tensors(path)[0]
    try:
        return _members(config, tensors, path)
    except DataError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{path} holds no signal model: {type(error).__name__}: {reason}.") from None


def _members(
    config: dict[str, Any], tensors: dict[str, Tensor], path: Path
) -> tuple[InnovationsModel, list[Member], Scales]:
    def arrays(prefix: str, names: Sequence[str]) -> list[Array]:
        found = [tensors[f"{prefix}.{name}"] for name in names]
        if any(x.dtype is not torch.float64 for x in found):
            raise DataError(f"{path} holds no signal model: {prefix} is not of float64.")
        return [x.numpy() for x in found]

    A, B, C, D, K, Re, u_mean, y_mean = arrays("linear", LINEAR)
    linear = InnovationsModel(A, B, C, D, config["dt"], K=K, Re=Re, u_mean=u_mean, y_mean=y_mean)
    m, p = linear.n_inputs, linear.n_outputs
    members = []
    for i, about in enumerate(config["members"]):
        loop, memory = Loop(*arrays(f"members.{i}.loop", LOOP)), None
        _check_loop(loop, m, p, path)
        if about["memory"] is not None:
            prefix = f"members.{i}.memory."
            own = {name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)}
            memory = _memory(BMojoConfig(**about["memory"]), (m, len(loop.A), p), own, path)
        start, stop = about["hold"]
        linear_fit, static, with_memory = about["fits"]
        members.append(Member(loop, memory, (start, stop), (linear_fit, static, with_memory)))
    scales = arrays("scales", SCALES)
    if [x.shape for x in scales] != [(m,), (m,), (p,), (p,)]:
        raise DataError(f"{path} holds no signal model: its scales do not fit {m} inputs, {p} outputs.")
    return linear, members, (scales[0], scales[1], scales[2], scales[3])


def _memory(
    config: BMojoConfig, sizes: tuple[int, int, int], own: dict[str, Tensor], path: Path
) -> MemoryCorrection:
    """A memory with its weights; it takes memory once they are seen to fit."""
    with torch.device("meta"):
        wanted = MemoryCorrection(config, *sizes).state_dict()
    if {name: x.shape for name, x in wanted.items()} != {name: x.shape for name, x in own.items()}:
        raise DataError(f"{path} holds no signal model: the weights of a memory do not fit its options.")
    memory = MemoryCorrection(config, *sizes)
    filled(memory, own, path).eval().requires_grad_(False)
    return memory


def _check_loop(loop: Loop, m: int, p: int, path: Path) -> None:
    """Refuse matrices that do not fit each other: compiled code looks at no shape."""
    n, k = len(loop.A), len(loop.W)
    needed = {
        "A": (n, n), "B": (n, m), "C": (p, n), "D": (p, m), "W": (k, n + m), "b": (k,), "E": (n, k),
        "F": (p, k), "low": (p,), "high": (p,),
    }  # fmt: skip
    for name, shape in needed.items():
        came = getattr(loop, name).shape
        if came != shape:
            raise DataError(f"{path} holds no signal model: {name} has shape {came}; {shape} is needed.")
