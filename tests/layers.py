"""Layers for tests: strategies of options, and parameters away from where they start."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from bmojo import BMojo, BMojoConfig, BMojoState

__all__ = [
    "configs",
    "effective",
    "in_pieces",
    "perturbed",
    "predictors_of",
    "stepped",
    "tensors_of",
    "tokens",
]

RULES = ("top", "threshold", "fifo", "random", "norm")
MIXERS = (
    "none", "lti", "lti_modal", "lti_diagonal", "mamba", "mamba2", "gated_deltanet", "gated_kalmanet",
)  # fmt: skip
PREDICTORS = ("conv", "state", "kalman", "residual")


def predictors_of(mixer: str) -> tuple[str, ...]:
    """Predictors that a layer with this mixer can have."""
    told = mixer.startswith("gated")
    return tuple(p for p in PREDICTORS if {"state": mixer != "none", "residual": told}.get(p, True))


def effective(options: dict[str, Any]) -> dict[str, Any]:
    """Options without those that would have no effect, which a configuration refuses."""
    idle: set[str] = set() if options["rule"] == "threshold" else {"false_alarm"}
    if options["eidetic"] == 0:
        idle |= {"chunk", "rule", "false_alarm", "predictor", "eidetic_norm", "write_gate"}
    if options["mixer"] == "none":
        idle |= {"state_size", "tie_projections", "fading_readout"}
    if not options["rotary"] or (options["mixer"] == "none" and options["eidetic"] == 0):
        idle.add("eidetic_position")
    return {name: value for name, value in options.items() if name not in idle}


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> BMojoConfig:
    """Options that fit together, all combinations of them, at small sizes."""
    window = fixed.get("window", draw(st.integers(1, 5)))
    options = {
        "d_model": 8,
        "heads": draw(st.sampled_from([1, 2, 4])),
        "head_dim": draw(st.sampled_from([2, 4])),
        "window": window,
        "chunk": draw(st.integers(1, window)),
        "mixer": draw(st.sampled_from(MIXERS)),
        "state_size": draw(st.integers(1, 4)),
        "eidetic": draw(st.integers(0, 5)),
        "rule": draw(st.sampled_from(RULES)),
        "false_alarm": 0.5,
        "tie_projections": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "rotary": draw(st.booleans()),
        "eidetic_position": draw(st.sampled_from(["own", "edge", "none"])),
        "eidetic_norm": draw(st.booleans()),
        "short_conv": draw(st.integers(0, 4)),
        "fading_readout": draw(st.sampled_from(["add", "none"])),
        "write_gate": draw(st.booleans()),
    }
    groups = [g for g in (1, 2, 4) if fixed.get("heads", options["heads"]) % g == 0]
    options |= {"kv_heads": draw(st.sampled_from(groups))} | fixed
    options["predictor"] = draw(st.sampled_from(predictors_of(options["mixer"])))
    return BMojoConfig(**effective(options))


def perturbed(config: BMojoConfig, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> BMojo:
    """A layer whose every parameter is random: none is at zero or one, where a mistake would not show."""
    torch.manual_seed(seed)
    layer = BMojo(config).to(dtype)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter += (0.05 if name.endswith(("rho", "dt_bias")) else 0.3) * torch.randn_like(parameter)
    return layer.eval()


def tokens(
    batch: int, length: int, width: int = 8, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """White tokens (B, T, D)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((batch, length, width))).to(dtype)


def in_pieces(
    layer: nn.Module, x: Tensor, state: Any, cuts: Sequence[int], *, detach: bool = False
) -> tuple[Tensor, Any]:
    """Outputs of a sequence cut at the given places, and the last state."""
    outputs, edges = [], [0, *sorted({cut for cut in cuts if 0 < cut < x.shape[1]}), x.shape[1]]
    for start, stop in itertools.pairwise(edges):
        output, state = layer(x[:, start:stop], state)
        outputs.append(output)
        state = state.detach() if detach else state
    return torch.cat(outputs, dim=1), state


def stepped(layer: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Outputs of one step after the other, and the last state."""
    outputs = []
    for t in range(x.shape[1]):
        output, state = layer.step(x[:, t], state)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def tensors_of(state: BMojoState) -> dict[str, Tensor]:
    """Every tensor of a state by name."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif isinstance(value, tuple):
            found |= {f"{field.name}.{i}": part for i, part in enumerate(value)}
        elif dataclasses.is_dataclass(value):
            found |= {f"{field.name}.keys": value.keys, f"{field.name}.values": value.values}
    return found
