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
    """
    from safetensors.torch import load_file

    tensors = load_file(path)

    def arrays(prefix: str, names: Sequence[str]) -> list[Array]:
        return [tensors[f"{prefix}.{name}"].numpy() for name in names]

    A, B, C, D, K, Re, u_mean, y_mean = arrays("linear", LINEAR)
    linear = InnovationsModel(A, B, C, D, config["dt"], K=K, Re=Re, u_mean=u_mean, y_mean=y_mean)
    members = []
    for i, about in enumerate(config["members"]):
        loop, memory = Loop(*arrays(f"members.{i}.loop", LOOP)), None
        if about["memory"] is not None:
            sizes = loop.B.shape[1], len(loop.A), len(loop.C)
            memory = MemoryCorrection(BMojoConfig(**about["memory"]), *sizes)
            prefix = f"members.{i}.memory."
            own = {name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)}
            memory.load_state_dict(own)
            memory.eval().requires_grad_(False)
        start, stop = about["hold"]
        linear_fit, static, with_memory = about["fits"]
        members.append(Member(loop, memory, (start, stop), (linear_fit, static, with_memory)))
    scales = arrays("scales", SCALES)
    return linear, members, (scales[0], scales[1], scales[2], scales[3])
