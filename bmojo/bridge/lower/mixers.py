r"""Each mixer along one input, as matrices: what `lower` knows about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bmojo_kernels.gated_kalman_scan.torch_op import kalman_solve
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.bridge.lift.model import LiftedModel
from bmojo.bridge.lower.output_map import OutputMap
from bmojo.bridge.lower.time_varying import TimeVaryingRealization
from bmojo.fading.associative import GatedDeltaNet, GatedKalmaNet
from bmojo.fading.lti import LTI
from bmojo.fading.mamba import Mamba
from bmojo.fading.mamba2 import Mamba2
from bmojo.fading.protocol import MixerState

__all__ = ["LOWERINGS", "Lowering", "matrices_of", "register_lowering"]

Array = NDArray[np.float64]
RIDGE = 0.02  # the scan's own, which the mixer leaves as it is
Lowering = Callable[[Any, Tensor, MixerState], TimeVaryingRealization]


def matrices_of(mixer: nn.Module) -> tuple[Array, Array, Array, Array]:
    """`A`, `B`, `C`, `D` of a time-invariant mixer."""
    found: Any = mixer
    return tuple(_numpy(x) for x in found._matrices())  # pyright: ignore[reportReturnType]


def _lti(mixer: Any, u: Tensor, state: MixerState) -> TimeVaryingRealization:
    A, B, C, D = (np.broadcast_to(M, (len(u), 1, *M.shape)) for M in matrices_of(mixer))
    return TimeVaryingRealization(
        A=A,
        B=B,
        C=C,
        D=D,
        x0=_numpy(state[0][0])[None, :, None],
        inputs=_numpy(u),
        output_map=OutputMap(),
        name="lti",
    )


def _lifted(layer: LiftedModel, u: Tensor, state: MixerState) -> TimeVaryingRealization:
    core = _lti(layer.core, u - layer.input_mean, state)
    return TimeVaryingRealization(
        **{name: getattr(core, name) for name in ("A", "B", "C", "D", "x0", "inputs", "name")},
        output_map=OutputMap(offset=_numpy(layer.output_mean)),
    )


def _mamba(mixer: Mamba, u: Tensor, state: MixerState) -> TimeVaryingRealization:
    x, z = mixer.in_proj(u).chunk(2, dim=-1)
    x = mixer.conv(x[None], state[0])[0][0]
    low, B, C = mixer.x_proj(x).split([mixer.rank, mixer.state_size, mixer.state_size], dim=-1)
    step = F.softplus(mixer.dt_proj(low)).unsqueeze(-1)
    A = torch.exp(step * -torch.exp(mixer.A_log))
    drive, read = step * B.unsqueeze(1), C.unsqueeze(1).expand_as(A)
    skip = mixer.D.expand_as(x)[..., None, None]
    return _read_after(
        A,
        drive,
        read,
        skip,
        x0=state[1][0].unsqueeze(-1),
        inputs=x,
        output_map=OutputMap(weight=_numpy(mixer.out_proj.weight), gate=_numpy(F.silu(z))),
        name="mamba",
    )


def _mamba2(mixer: Mamba2, u: Tensor, state: MixerState) -> TimeVaryingRealization:
    z, xBC, dt = mixer.in_proj(u).split(mixer.widths, dim=-1)
    xBC = mixer.conv(xBC[None], state[0])[0][0]
    x, _, log_decay, B, C = mixer._inputs(xBC, dt)
    B, C = (part if part.ndim == 3 else part.unsqueeze(1) for part in (B, C))  # of each head, or of all
    step = F.softplus(dt + mixer.dt_bias).unsqueeze(-1)
    A = torch.exp(log_decay).unsqueeze(-1).expand(-1, -1, mixer.state_size)
    skip = mixer.D.expand(len(u), -1)[..., None, None]
    return _read_after(
        A,
        step * B,
        C.expand_as(A),
        skip,
        x0=state[1][0].mT,
        inputs=x.flatten(1),
        output_map=OutputMap(
            weight=_numpy(mixer.out_proj.weight),
            gate=_numpy(F.silu(z)),
            norm=_numpy(mixer.norm.weight),
            width=len(mixer.norm.weight),
            eps=float(mixer.norm.eps or 0.0),
            gate_first=True,
        ),
        name="mamba2",
    )


def _delta(mixer: GatedDeltaNet, u: Tensor, state: MixerState) -> TimeVaryingRealization:
    q, k, v, (beta, decay), output_map = _associated(mixer, u, state)
    beta, kept = beta.unsqueeze(-1), torch.exp(decay)[..., None, None]
    identity = torch.eye(mixer.key_dim, dtype=k.dtype)
    return _read_after(
        kept * (identity - (beta * k).unsqueeze(-1) * k.unsqueeze(-2)),
        beta * k,
        q * mixer.key_dim**-0.5,
        k.new_zeros(*beta.shape, 1),
        x0=state[1][0].mT,
        inputs=v.flatten(1),
        output_map=output_map,
        name="gated_deltanet",
    )


def _kalman(mixer: GatedKalmaNet, u: Tensor, state: MixerState) -> TimeVaryingRealization:
    q, k, v, (beta, decay, alpha), output_map = _associated(mixer, u, state)
    beta, alpha = beta.unsqueeze(-1), alpha.unsqueeze(-1)
    keys, right, H0 = (beta * k)[None], q[None].unsqueeze(3), state[1]
    x = kalman_solve(keys, decay[None], right, H0, None, RIDGE, mixer.steps, "numba")[0][0, :, :, 0]
    return _read_after(
        torch.exp(decay).unsqueeze(-1).expand_as(k),
        beta.square() * k,
        torch.lerp(q, x, alpha),
        k.new_zeros(*beta.shape, 1),
        x0=state[2][0].mT,
        inputs=v.flatten(1),
        output_map=output_map,
        name="gated_kalmanet",
    )


def _associated(mixer: Any, u: Tensor, state: MixerState) -> tuple[Any, ...]:
    """Queries, keys, values, gates and output map of the two mixers that associate."""
    mixed, z, gates = mixer._parts(mixer.in_proj(u))
    mixed = mixer.conv(mixed[None], state[0])[0][0]
    output_map = OutputMap(
        weight=_numpy(mixer.out_proj.weight),
        gate=_numpy(F.silu(z)),
        norm=_numpy(mixer.norm.weight.repeat(mixer.heads)),
        width=mixer.value_dim,
        eps=float(mixer.norm.eps or 0.0),
    )
    return *mixer._heads(mixed), mixer._numbers(gates), output_map


def _read_after(
    A: Tensor, drive: Tensor, read: Tensor, skip: Tensor, *, x0: Tensor, inputs: Tensor, **kept: Any
) -> TimeVaryingRealization:
    """Of a state read after the write.

    `drive` and `read` are (T, G, n), `skip` is (T, G, 1, 1).
    """
    C = (read * A if A.ndim == 3 else (read.unsqueeze(-2) @ A).squeeze(-2)).unsqueeze(-2)
    D = (read * drive).sum(-1)[..., None, None] + skip
    arrays = {"A": A, "B": drive.unsqueeze(-1), "C": C, "D": D, "x0": x0, "inputs": inputs}
    return TimeVaryingRealization(**{name: _numpy(x) for name, x in arrays.items()}, **kept)


def _numpy(x: Tensor) -> Array:
    return x.detach().cpu().numpy().astype(np.float64)


LOWERINGS: dict[type[nn.Module], Lowering] = {
    LTI: _lti,
    LiftedModel: _lifted,
    Mamba: _mamba,
    Mamba2: _mamba2,
    GatedDeltaNet: _delta,
    GatedKalmaNet: _kalman,
}


def register_lowering(kind: type[nn.Module], lowering: Lowering) -> None:
    """Tell `lower` how a mixer of one's own is written as matrices.

    Parameters
    ----------
    kind : type
        The mixer's class.
    lowering : callable
        Makes a `TimeVaryingRealization` of the mixer in float64 on the CPU, tokens (T, D) and the mixer's
        state of a batch of one.

    Examples
    --------
    A mixer that does nothing but pass its tokens on:

    >>> import numpy as np, torch
    >>> from bmojo import OutputMap, TimeVaryingRealization, lower
    >>> from bmojo.bridge import register_lowering
    >>> class Passing(torch.nn.Module):
    ...     def init_state(self, batch):
    ...         return ()
    ...
    ...     def forward(self, u, state=None):
    ...         return u, ()
    >>> def lowered(mixer, u, state):
    ...     (T, width), shape = u.shape, (len(u), u.shape[1], 1)
    ...     return TimeVaryingRealization(
    ...         A=np.zeros(shape), B=np.zeros((*shape, 1)), C=np.zeros((*shape, 1)), D=np.ones((*shape, 1)),
    ...         x0=np.zeros((width, 1, 1)), inputs=u.numpy(), output_map=OutputMap(), name="passing",
    ...     )
    >>> register_lowering(Passing, lowered)
    >>> lower(Passing(), torch.tensor([[1.0, 2.0]])).simulate()
    array([[1., 2.]])
    """
    LOWERINGS[kind] = lowering
