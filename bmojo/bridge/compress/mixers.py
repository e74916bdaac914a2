"""How each mixer is reduced: which map, or which of its states, and what that costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import realization as rz
from bmojo.bridge.compress.empirical import Recurrence, factor, gramians_of, moment, recurrence_of
from bmojo.bridge.lift.model import LiftedModel
from bmojo.bridge.lift.parametrizations import Parametrization, core_of
from bmojo.fading import LTI, DiagonalLTI, GatedDeltaNet, GatedKalmaNet, Mamba, Mamba2, ModalLTI
from bmojo.fading.key_map import KeyMap
from realization.systems import StateSpace

__all__ = ["REDUCTIONS", "Reduced", "spectrum", "states_of"]


@dataclass(frozen=True, eq=False)
class Reduced:
    """A smaller mixer of the same kind, and what is known of it.

    Parameters
    ----------
    mixer : torch.nn.Module
    order : int
        States that it has.
    hsv : Tensor, shape (G, n)
    options : dict
        Those of `BMojoConfig.mixer_options` from which such a mixer is made.
    predicted, bound : float, optional
        Mean squares of the error of what is read out, as `MixerReport` explains them.
    gain_bound : float, optional
    """

    mixer: nn.Module
    order: int
    hsv: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    predicted: float | None = None
    bound: float | None = None
    gain_bound: float | None = None


def states_of(mixer: nn.Module) -> int:
    """States of a head (of a channel, of the whole where it is linear) that `order` counts."""
    if isinstance(mixer, LiftedModel):
        return len(mixer.core.B)
    if isinstance(mixer, LTI):
        return len(mixer.B)
    found: Any = mixer
    return found.key_dim if isinstance(mixer, GatedDeltaNet | GatedKalmaNet) else found.state_size


def spectrum(mixer: nn.Module, u: Tensor | None, weight: Tensor | None) -> Tensor:
    """Singular values (G, n) of a mixer along tokens (of a linear one, its Hankel singular values)."""
    if isinstance(mixer, LiftedModel | LTI):
        core = mixer.core if isinstance(mixer, LiftedModel) else mixer
        return torch.from_numpy(rz.hankel_singular_values(_model_of(core)))[None]
    assert u is not None
    assert weight is not None
    return gramians_of(recurrence_of(mixer, u), weight).hsv


def _lti(mixer: LTI, u: Tensor | None, order: int, weight: Tensor | None) -> Reduced:
    """Balanced truncation of its matrices, in the coordinates that it has."""
    core, options, result, _ = _truncated(mixer, order)
    return Reduced(core, result.order, torch.from_numpy(result.hsv)[None], options, gain_bound=result.bound)


def _lifted(layer: LiftedModel, u: Tensor | None, order: int, weight: Tensor | None) -> Reduced:
    core, options, result, found = _truncated(layer.core, order)
    basis, inverse = (torch.tensor(np.array(x)).to(layer.basis) for x in (found.basis, found.inverse))
    means = layer.input_mean.clone(), layer.output_mean.clone()
    small = LiftedModel(core, basis, inverse, *means, delayed=layer.delayed)
    return Reduced(small, result.order, torch.from_numpy(result.hsv)[None], options, gain_bound=result.bound)


def _model_of(mixer: LTI) -> StateSpace:
    A, B, C, D = (x.detach().cpu().double().numpy() for x in (mixer.A(), mixer.B, mixer.C, mixer.D))
    return StateSpace(A, B, C, D)


def _truncated(mixer: LTI, order: int) -> tuple[LTI, dict[str, Any], Any, Any]:
    result = rz.balanced_truncation(_model_of(mixer), order)
    kinds: dict[type[LTI], Parametrization] = {ModalLTI: "modal", DiagonalLTI: "diagonal"}
    core, found = core_of(result.model, kinds.get(type(mixer), "schur"), 1e8)
    options: dict[str, Any] = {"blocks": [two for _, two in core.blocks]}
    if isinstance(core, ModalLTI):
        options["groups"] = core.groups
    return core.to(mixer.B), options, result, found


def _mamba2(mixer: Mamba2, u: Tensor, order: int, weight: Tensor) -> Reduced:
    """Projection of `B` and `C` per head: the state follows without error, so the best one is known."""
    recurrence = recurrence_of(mixer, u)
    found = gramians_of(recurrence, weight)
    write = written(found.reach, found.sight, order)
    read = fitted(found.reach @ write, write.mT @ found.reach @ write)
    options = {"conv": mixer.conv.weight.shape[1], "features": mixer.features, "map_groups": mixer.heads}
    small = Mamba2(mixer.out_proj.out_features, mixer.heads, order, **options)
    _take(small, mixer, write, read)
    tail = found.hsv[:, order:].square().sum(1)
    known = {"predicted": float(tail.sum()), "bound": float((found.peak * tail).sum())}
    return Reduced(small, order, found.hsv, options, **known)


def _delta(mixer: GatedDeltaNet, u: Tensor, order: int, weight: Tensor) -> Reduced:
    """Orthogonal projection of the keys, which erase what they write, and a read-out fitted to it."""
    recurrence = recurrence_of(mixer, u)
    found = gramians_of(recurrence, weight)
    write, read = _projection(recurrence, found.reach, found.sight, order, weight)
    bound = _delta_bound(recurrence, write, read, weight)
    read = read * (order / mixer.key_dim) ** 0.5  # the mixer divides by the root of its own width
    small, options = _associative(mixer, order, write, read)
    return Reduced(small, order, found.hsv, options, _tail(found.hsv, order), bound)


def _kalman(mixer: GatedKalmaNet, u: Tensor, order: int, weight: Tensor) -> Reduced:
    """The same, on directions that keys and queries both use: the regression is solved in them."""
    recurrence = recurrence_of(mixer, u)
    found = gramians_of(recurrence, weight)
    keys = torch.einsum("bthi,bthj->hij", recurrence.keys, recurrence.keys)
    sight = _unit(found.sight) + _unit(keys)
    small, options = _associative(mixer, order, *_projection(recurrence, found.reach, sight, order, weight))
    return Reduced(small, order, found.hsv, options, _tail(found.hsv, order))


def _mamba(mixer: Mamba, u: Tensor, order: int, weight: Tensor) -> Reduced:
    """Some of the states, the same ones in all channels, and read-outs that stand in for the others."""
    found = gramians_of(recurrence_of(mixer, u), weight)
    reach, sight = found.reach[0], found.sight[0]
    kept = selected(reach, sight, order)
    read = fitted(reach[:, kept], reach[kept][:, kept])
    inner, width = mixer.in_proj.out_features // 2, mixer.out_proj.out_features
    options = {"conv": mixer.conv.weight.shape[1], "expand": inner // width}
    small = Mamba(width, order, **options)
    low, B, C = mixer.x_proj.weight.split([mixer.rank, mixer.state_size, mixer.state_size])
    rows = torch.cat([low, B[kept], read.mT.to(C) @ C]).detach()
    changed = {"x_proj.weight": rows, "A_log": mixer.A_log[:, kept].detach()}
    small.load_state_dict(copy.deepcopy({**mixer.state_dict(), **changed}), assign=True)
    lost = torch.eye(len(reach), dtype=reach.dtype, device=reach.device)
    lost[kept] -= read.mT
    left = float(torch.trace(lost.mT @ reach @ lost @ sight))
    return Reduced(small, order, found.hsv, options, left, float(found.peak[0]) * left)


REDUCTIONS: dict[type[nn.Module], Callable[[Any, Any, int, Any], Reduced]] = {
    LiftedModel: _lifted,
    LTI: _lti,
    ModalLTI: _lti,
    DiagonalLTI: _lti,
    Mamba: _mamba,
    Mamba2: _mamba2,
    GatedDeltaNet: _delta,
    GatedKalmaNet: _kalman,
}


def written(reach: Tensor, sight: Tensor, order: int) -> Tensor:
    """Orthonormal basis (G, F, r) of the directions in which balanced truncation looks at what is written."""
    left = factor(sight)
    directions = torch.linalg.svd(factor(reach).mT @ left).Vh.mT[..., :order]
    return torch.linalg.qr(left @ directions).Q


def _projection(
    recurrence: Recurrence, reach: Tensor, sight: Tensor, order: int, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Write map (H, F, r) with orthonormal columns, and the read map that fits it.

    Balanced truncation has two subspaces, that which it looks at and that which it keeps to. An orthogonal
    projection has one: for each head it is the one whose small recurrence errs less along the tokens.
    """
    density, truth, tried = recurrence.density(weight), recurrence.read_outs(), []
    for write in (written(reach, sight, order), written(sight, reach, order)):
        read = refitted(recurrence, write, weight)
        queries = torch.einsum("bthf,hfn->bthn", recurrence.queries, read)
        small = replace(recurrence.mapped(write), queries=queries)
        tried.append((write, read, (density * (truth - small.read_outs()).square()).sum((0, 1, 3))))
    (one, its, error), (other, others, another) = tried
    first = (error <= another)[:, None, None]
    return torch.where(first, one, other), torch.where(first, its, others)


def fitted(cross: Tensor, own: Tensor) -> Tensor:
    """Map (G, F, r) whose transpose reads best: regression with moments (G, F, r) and (G, r, r)."""
    return cross @ torch.linalg.pinv(own, rtol=1e-12, hermitian=True)


def refitted(recurrence: Recurrence, write: Tensor, weight: Tensor) -> Tensor:
    """The read map (H, F, r) that fits the operators of the small recurrence to those of the large one."""
    small, density = recurrence.mapped(write), recurrence.density(weight)
    return fitted(moment(recurrence, small, density), moment(small, small, density))


def selected(reach: Tensor, sight: Tensor, order: int) -> Tensor:
    r"""States to keep: one after the other the one that leaves least of $\operatorname{tr}((G - G_S) O)$.

    $G_S = G_{:S} G_{SS}^{-1} G_{S:}$ is what the kept ones tell of all.
    """
    left, kept = reach.clone(), []
    floor = 1e-12 * reach.diagonal().max()
    for _ in range(order):
        gains = torch.einsum("ni,nm,mi->i", left, sight, left) / left.diagonal().clamp_min(floor)
        gains[kept] = -1.0
        best = int(gains.argmax())
        kept.append(best)
        column = left[:, best] / left[best, best].clamp_min(floor).sqrt()
        left = left - torch.outer(column, column)
    return torch.tensor(sorted(kept), device=reach.device)


def _delta_bound(recurrence: Recurrence, write: Tensor, read: Tensor, weight: Tensor) -> float:
    r"""Upper bound on the mean square of the read-out's error, from the full state alone.

    $E_t = S_t Q - \hat S_t$ obeys $E_t = \alpha_t \big(E_{t-1} (I - \beta_t \hat k_t \hat k_t^\top) - \beta_t
    S_{t-1} (I - Q Q^\top) k_t \hat k_t^\top\big)$, whose first factor is a contraction.
    """
    strength, total, S = recurrence.strength, 0.0, None
    assert strength is not None
    drift = torch.zeros_like(strength[:, 0])
    for t, now in enumerate(recurrence.operators()):
        k, c, decay = recurrence.keys[:, t], recurrence.queries[:, t], recurrence.decay[:, t, :, 0, 0]
        if S is not None:
            small = _through(k, write)
            missed = (S @ (k - (write @ small.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)).squeeze(-1)
            drift = decay * (drift + strength[:, t] * missed.norm(dim=-1) * small.norm(dim=-1))
        seen = _through(c, read)
        direct = (now @ (c - (write @ seen.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)).squeeze(-1)
        gain = recurrence.gain[:, t]
        error = (gain * direct).norm(dim=-1) + gain.abs().amax(-1) * drift * seen.norm(dim=-1)
        total += float((weight[:, t].unsqueeze(-1) * error.square()).sum())
        S = now
    return total


def _through(x: Tensor, maps: Tensor) -> Tensor:
    return torch.einsum("bhf,hfn->bhn", x, maps)


def _associative(mixer: Any, order: int, write: Tensor, read: Tensor) -> tuple[nn.Module, dict[str, Any]]:
    options = {"conv": mixer.conv.weight.shape[1], "features": mixer.features}
    if isinstance(mixer, GatedKalmaNet):
        options["steps"] = mixer.steps
    small = type(mixer)(mixer.out_proj.out_features, mixer.heads, order, **options)
    _take(small, mixer, write, read)
    return small, options


def _take(small: nn.Module, mixer: Any, write: Tensor, read: Tensor) -> None:
    """The parameters of the mixer, and the maps behind those that it has."""
    own: KeyMap | None = mixer.key_map
    like = mixer.out_proj.weight
    if own is not None:
        write, read = own.write.double() @ write, own.read.double() @ read
    maps = {"key_map.write": write.to(like).contiguous(), "key_map.read": read.to(like).contiguous()}
    small.load_state_dict(copy.deepcopy({**mixer.state_dict(), **maps}), assign=True)


def _unit(gramian: Tensor) -> Tensor:
    """Scaled to the trace 1."""
    return gramian / gramian.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-300)[:, None, None]


def _tail(hsv: Tensor, order: int) -> float:
    return float(hsv[:, order:].square().sum())
