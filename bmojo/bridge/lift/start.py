"""Where a mixer starts: from a realization of the sequence that it is going to see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.bridge.lift.parametrizations import Parametrization, core_of
from bmojo.fading import LTI, DiagonalLTI, GatedDeltaNet, GatedKalmaNet, Mamba, Mamba2, ModalLTI
from bmojo.layer import BMojo
from bmojo.models.language_model import BMojoLM
from realization.errors import DataError, RealizationError, UnstableError
from realization.identification.subspace import n4sid
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace

__all__ = ["MixerStart", "initialize_from"]

Array = NDArray[np.float64]
RATES = (Mamba2, Mamba, GatedDeltaNet, GatedKalmaNet)

# A start need not be exact: eigenvectors may cost half of the digits before a diagonal one is refused.
MAX_CONDITION = 1e8
# Components of less of the largest one's variance are left out: to scale them up is to scale up noise.
SMALLEST = 1e-3
# A squared mean of less of the variance is let be; so is one along which more of the variance lies.
SMALL_MEAN, ALONG_MEAN = 1e-2, 0.25


@dataclass(frozen=True, eq=False)
class MixerStart:
    r"""What one mixer was started from.

    Attributes
    ----------
    model : InnovationsModel
        Identified on the principal components.
    components : ndarray, shape (D, k)
        Of the hidden sequence: unit variance each is `hidden @ components`, up to the mean.
    captured : float
        Share of the hidden sequence's variance in them.
    explained : float
        Share of the target's variance that the mixer's output explains on the sample; NaN where only decay
        rates were set.
    time_constants : ndarray, shape (n,)
        $-1 / \log |\lambda|$ of the system that runs, in tokens, longest first.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig, initialize_from
    >>> layer = BMojo(BMojoConfig(d_model=4, heads=1, window=2, eidetic=0, mixer="lti", state_size=2))
    >>> hidden = torch.sin(0.3 * torch.arange(200.0)).reshape(1, -1, 1) * torch.ones(4)
    >>> hidden = hidden + 0.01 * torch.randn(1, 200, 4)
    >>> (start,) = initialize_from(layer, hidden)
    >>> start.model.n_states, start.explained > 0.9
    (2, True)
    """

    model: InnovationsModel
    components: Array
    captured: float
    explained: float
    time_constants: Array


def initialize_from(
    module: nn.Module,
    sample: Tensor,
    target: Tensor | None = None,
    *,
    order: int | None = None,
    components: int = 16,
) -> list[MixerStart]:
    r"""Start mixers from the realization that a sample of their hidden sequence has.

    The hidden sequence's principal components $z_t = W (h_t - \bar h)$ are identified as a process in
    innovations form (`realization.n4sid`), sequences of the batch as experiments of their own, and a linear
    mixer starts as its Kalman predictor, read out as the next hidden token:

    $$x_{t+1} = (A - K C)\, x_t + K z_t, \qquad f_t = W^{+} C x_{t+1} .$$

    With a `target` it starts as the identified path from the hidden sequence to the target. Mixers whose
    recurrence depends on the input get time constants alone: the decay rates at rest become those of the
    identified poles.

    Parameters
    ----------
    module : torch.nn.Module
        A `BMojo` layer, or a model with such layers in it: each is started, in the order in which they run,
        from what reaches it once those before it are.
    sample : Tensor, shape (B, T, D)
        Hidden tokens of the layer; of a model what it is called with. A few thousand tokens are enough.
    target : Tensor, shape (B, T, D), optional
        What the mixer's output is to be; of a single layer only.
    order : int, optional
        States of the identified model, at most those of the mixer; estimated when left out. What is left of a
        linear mixer's state has modes as at random, which put out nothing at first.
    components : int
        Principal components that are identified, at most.

    Returns
    -------
    starts : list of MixerStart
        One for each layer that has a mixer, in order.

    Raises
    ------
    DataError
        If there is no mixer to start, or the sample does not vary.
    RealizationError
        If the mixer is of a kind without poles to set; from identification, if the sample is too short.

    Notes
    -----
    The parameters of a linear mixer are replaced: make the optimizer afterwards. Its blocks are those of the
    identified poles, and stand in the layer's configuration (`mixer_options`), from which a layer is made
    that takes its stored parameters.

    References
    ----------
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996, chapters 3 and 4.
    A. Gu et al., *How to Train Your HiPPO*, ICLR 2023 (why the start of a state-space layer matters).

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM, initialize_from
    >>> config = BMojoConfig(d_model=8, heads=2, window=4, eidetic=2, mixer="lti", state_size=3)
    >>> model = BMojoLM(20, [config] * 2)
    >>> [start.model.n_states for start in initialize_from(model, torch.randint(20, (2, 300)), order=3)]
    [3, 3]
    """
    found: list[MixerStart] = []
    if isinstance(module, BMojo):
        found.append(_start(module, sample, target, order, components))
        return found
    layers = [layer for layer in module.modules() if isinstance(layer, BMojo) and layer.mixer is not None]
    if not layers:
        raise DataError(f"initialize_from: a {type(module).__name__} came without a B'MOJO layer's mixer.")
    if target is not None:
        raise DataError("initialize_from: a target came with a model; it is that of a single layer.")

    def reached(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(_start(cast(BMojo, layer), arguments[0], None, order, components))

    hooks = [layer.register_forward_pre_hook(reached) for layer in layers]
    try:
        with torch.no_grad():
            module(sample)
    finally:
        for hook in hooks:
            hook.remove()
    if isinstance(module, BMojoLM):  # what is written beside its parameters
        configs = [cast(BMojo, block.get_submodule("layer")).config for block in module.blocks]
        module.options["layers"] = [config.to_dict() for config in configs]
    return found


@torch.no_grad()
def _start(
    layer: BMojo, hidden: Tensor, target: Tensor | None, order: int | None, components: int
) -> MixerStart:
    mixer = layer.mixer
    if mixer is None:
        raise DataError("initialize_from: the layer has mixer='none': there is no state to start.")
    if not isinstance(mixer, (LTI, *RATES)):
        raise RealizationError(
            f"initialize_from: a mixer {type(mixer).__name__} came; linear mixers ('lti', 'lti_modal', "
            "'lti_diagonal') are started from a realization, 'mamba2', 'mamba', 'gated_deltanet' and "
            "'gated_kalmanet' from its time constants."
        )
    if target is not None and (target.shape[:2] != hidden.shape[:2] or not isinstance(mixer, LTI)):
        raise DataError(
            f"initialize_from: a target {tuple(target.shape)} came with hidden tokens {tuple(hidden.shape)} "
            f"and a mixer {type(mixer).__name__}; targets are those of a linear mixer, one for each token."
        )
    h = hidden.detach().double().cpu().numpy()
    into, out, captured = _principal(h.reshape(-1, h.shape[-1]), components, blind=True)
    z = h @ into
    room = len(mixer.B) if isinstance(mixer, LTI) else layer.config.state_size
    if target is None:
        model = _identified(_record(z), order, room)
        system = _predictor(model)
        system = StateSpace(system.A, system.B, out @ model.C @ system.A, out @ model.C @ system.B)
        wanted = hidden[:, 1:]
    else:
        t = target.detach().double().cpu().numpy()
        into_target, back, _ = _principal(t.reshape(-1, t.shape[-1]), components)
        model = _identified(_record(t @ into_target, z), order, room)
        system, wanted = model.deterministic, target
        system = StateSpace(system.A, system.B, back @ system.C, back @ system.D)
    if isinstance(mixer, LTI):
        system = _unit_states(system, z)
        layer.mixer = mixer = _filled(
            StateSpace(system.A, system.B @ into.T, system.C, system.D @ into.T), mixer
        )
        options = layer.config.mixer_options | mixer.layout()
        layer.config = replace(layer.config, mixer_options=options)
        explained = _explained(mixer(hidden)[0][:, : wanted.shape[1]], wanted)
    else:
        _set_rates(mixer, system.A)
        explained = math.nan
    return MixerStart(model, into, captured, explained, _time_constants(system.A))


def _principal(rows: Array, count: int, *, blind: bool = False) -> tuple[Array, Array, float]:
    """Maps to at most `count` components of unit variance (D, k) and back (D, k), and their share.

    The mixer has no offset to take a mean off, and slow modes would add it up: `blind` components are
    orthogonal to a mean that is not small, unless too much of the variance lies along it.
    """
    covariance, mean = np.cov(rows.T).reshape(rows.shape[1], -1), rows.mean(axis=0)
    total = float(np.trace(covariance))
    if not total > 0:
        raise DataError("initialize_from: the sample does not vary; give hidden tokens of real sequences.")
    seen, level = np.eye(len(mean)), float(mean @ mean)
    if blind and level > SMALL_MEAN * total and mean @ covariance @ mean <= ALONG_MEAN * total * level:
        seen = seen - np.outer(mean, mean) / level
    variance, vectors = np.linalg.eigh(seen @ covariance @ seen)
    kept = [k for k in np.argsort(-variance)[:count] if variance[k] > SMALLEST * variance.max()]
    deviation = np.sqrt(variance[kept])
    return vectors[:, kept] / deviation, vectors[:, kept] * deviation, float(variance[kept].sum() / total)


def _record(y: Array, u: Array | None = None) -> IOData:
    """Sequences (B, T, p), each an experiment."""
    starts = range(0, y.shape[0] * y.shape[1], y.shape[1])
    flat = None if u is None else u.reshape(-1, u.shape[-1])
    return IOData(y.reshape(-1, y.shape[-1]), flat, starts=tuple(starts))


def _identified(record: IOData, order: int | None, room: int) -> InnovationsModel:
    if order is not None and not 1 <= order <= room:
        raise DataError(f"initialize_from: order={order} came; the state has room for 1 to {room}.")
    found = n4sid(record, order, max_order=room).model
    return found if found.n_states else n4sid(record, 1).model


def _predictor(model: InnovationsModel) -> StateSpace:
    """From the components to the state: `A - K C` and `K`."""
    predictor = model.predictor
    if not predictor.is_stable:
        raise UnstableError(
            f"initialize_from: the predictor identified has a pole of modulus {abs(predictor.poles[0]):.6g}; "
            "give a longer sample, or a smaller order."
        )
    return StateSpace(predictor.A, model.K, model.C)


def _unit_states(system: StateSpace, z: Array) -> StateSpace:
    """In coordinates where the states of the sample are uncorrelated and of unit variance."""
    reads = StateSpace(system.A, system.B, np.eye(system.n_states))
    x = np.concatenate([reads.simulate(row) for row in z - z.mean(axis=(0, 1))])
    variance, axes = np.linalg.eigh(x.T @ x / len(x))
    # States that hardly move stay small: making them large would leave their rows of C to rounding.
    deviation = np.sqrt(np.maximum(variance, 1e-6 * variance.max()))
    return system.similarity_transform(axes * deviation)


def _filled(system: StateSpace, mixer: LTI) -> LTI:
    """The mixer of a system; where its state has room, modes as at random that put out nothing yet."""
    kind, (outputs, inputs), rest = type(mixer), mixer.D.shape, len(mixer.B) - system.n_states
    more = kind(inputs, outputs, rest)
    A, B = (M.detach().double().numpy() for M in (more.A(), more.B))
    C = np.hstack([system.C, np.zeros((outputs, rest))])
    whole = StateSpace(block_diag(system.A, A), np.vstack([system.B, B]), C, system.D)
    form = {ModalLTI: "modal", DiagonalLTI: "diagonal"}.get(kind, "schur")
    return core_of(whole, cast(Parametrization, form), MAX_CONDITION)[0].to(mixer.B).train(mixer.training)


def _explained(output: Tensor, wanted: Tensor) -> float:
    centred = wanted - wanted.mean(dim=(0, 1))
    error = output - wanted
    error = error - error.mean(dim=(0, 1))
    return 1 - float(error.square().sum() / centred.square().sum())


def _time_constants(A: Array) -> Array:
    modulus = np.sort(np.abs(np.linalg.eigvals(A)))[::-1]
    return -1 / np.log(np.clip(modulus, 1e-12, 1 - 1e-12))


def _set_rates(mixer: nn.Module, A: Array) -> None:
    """Decay rates at rest, step times rate = 1 / time constant, spread as the poles are."""
    any_mixer: Any = mixer
    bias = any_mixer.dt_proj.bias if isinstance(mixer, Mamba) else any_mixer.dt_bias
    rates = any_mixer.A_log
    count = rates.shape[-1]
    at = (np.arange(count) + 0.5) / count
    spread: Callable[..., Array] = np.quantile
    tau = np.exp(spread(np.log(_time_constants(A)), 1 - at))
    step = F.softplus(bias.double()) if rates.ndim == 1 else F.softplus(bias.double()).unsqueeze(-1)
    wanted = -torch.log(torch.as_tensor(tau, device=rates.device)) - torch.log(step)
    rates.copy_(wanted.expand_as(rates))
