r"""Compress: balanced truncation of a layer's mixer into a smaller layer of the same kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from bmojo.bridge.compress.empirical import recurrence_of, weights_of
from bmojo.bridge.compress.mixers import REDUCTIONS, Reduced, spectrum, states_of
from bmojo.bridge.lift.model import LiftedModel
from bmojo.fading import LTI
from bmojo.layer import BMojo
from bmojo.models.language_model import BMojoLM
from realization.errors import RealizationError

__all__ = ["Compression", "MixerReport", "compress"]

LINEAR = (LTI, LiftedModel)


@dataclass(frozen=True, eq=False)
class MixerReport:
    r"""What became of one mixer, and what that costs along the tokens that were given.

    Errors are relative: the root mean square of the difference over that of what the mixer puts out, weighted
    as asked.

    Attributes
    ----------
    name : str
        Where the mixer is, such as `"blocks.0.layer.mixer"`; empty for the one that was given.
    kind : str
        Its class.
    states, order : int
        States of a head before and after.
    hsv : Tensor, shape (G, states)
        Singular values, largest first: of an LTI mixer its Hankel singular values; otherwise the roots of the
        eigenvalues of the product of both empirical gramians, per head.
    error : float, optional
        Of the mixer's output.
    read_error : float, optional
        Of what is read out of the recurrence, as it enters the output: with gates and norms held as they are.
    predicted : float, optional
        What `read_error` would be if states and queries were uncorrelated and keys erased nothing: the root
        of the sum of the squared `hsv` that were cut (of `mamba`: what the kept states leave).
    bound : float, optional
        Upper bound on `read_error`; none is known for `gated_kalmanet`.
    gain_bound : float, optional
        Of an LTI mixer: $\lVert G - G_r \rVert_\infty$ is at most this, twice the sum of the `hsv` cut.

    Examples
    --------
    >>> import torch
    >>> from bmojo import compress
    >>> from bmojo.fading import Mamba2
    >>> report = compress(Mamba2(16, 2, 8), torch.randn(3, 20, 16), order=4).reports[0]
    >>> report.kind, report.states, report.order, report.read_error <= report.bound
    ('Mamba2', 8, 4, True)
    """

    name: str
    kind: str
    states: int
    order: int
    hsv: Tensor
    error: float | None = None
    read_error: float | None = None
    predicted: float | None = None
    bound: float | None = None
    gain_bound: float | None = None

    @property
    def tail(self) -> float:
        """Root of the share of the squared singular values, over all heads, that was cut."""
        squares = self.hsv.square()
        return float((squares[:, self.order :].sum() / squares.sum().clamp_min(1e-300)).sqrt())

    def __str__(self) -> str:
        parts = [f"{self.name or 'mixer'} ({self.kind}): {self.states} -> {self.order} states"]
        for name in ("error", "read_error", "predicted", "bound", "gain_bound"):
            if getattr(self, name) is not None:
                parts.append(f"{name.replace('_', ' ')} {getattr(self, name):.3g}")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Compression:
    """A smaller layer or model, and what it costs.

    Attributes
    ----------
    model : torch.nn.Module
        Of the kind that came.
    reports : list of MixerReport
        One for each mixer that was reduced.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig, compress
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=2, state_size=8))
    >>> small = compress(layer, torch.randn(3, 20, 16), order=4)
    >>> small.model.config.state_size, len(small.reports)
    (4, 1)
    """

    model: Any
    reports: list[MixerReport]

    def __str__(self) -> str:
        return "\n".join(map(str, self.reports))


@torch.no_grad()
def compress(
    layer: nn.Module,
    u: Tensor | None = None,
    *,
    order: int | None = None,
    tol: float | None = None,
    weight: Tensor | None = None,
) -> Compression:
    r"""Reduce the states of a layer's mixer, of every mixer of a model, by balanced truncation.

    - `lti` and lifted models: balanced truncation of $(A, B, C, D)$ itself, with its bound
      $\lVert G - G_r \rVert_\infty \le 2 \sum_{i > r} \sigma_i$, for all inputs;
    - `mamba2`: its decays are scalars per head, so that a change of basis of the keys passes through the
      recurrence. $B_t$ and $C_t$ are mapped to `r` numbers by the projection that is balanced for the
      empirical gramians $G = \sum_t S_t^\top S_t$ and $O = \sum_t C_t C_t^\top$ along `u`;
    - `gated_deltanet`, `gated_kalmanet`: keys are projected orthogonally, since what writes also erases (or
      is solved for), and the queries by the map that fits the smaller recurrence best. What the projection
      leaves out of $I - \beta k k^\top$ is an error of the state, which adds up until it fades;
    - `mamba`: each state of a channel decays at its own rate, so none can be mixed; `r` of them are kept, and
      read so that they stand in for the others.

    Maps stand behind the short convolution, SiLU and the unit norm of keys, which no change of basis passes:
    the smaller mixer has `mixer_options["features"]`, and runs on the same kernels with a smaller state. Of
    `mamba` the map is folded into the projection.

    Parameters
    ----------
    layer : BMojo, BMojoLM, LiftedModel, or a mixer of `bmojo.fading`
        Not changed. What stands around the mixers is copied; a store that is attached is not.
    u : Tensor, shape (B, T, D), optional
        Tokens like those that the layer will meet; of a model token numbers (B, T). An LTI mixer needs none.
    order : int, optional
        States `r` of each head, of each channel (`mamba`), of the whole (`lti`).
    tol : float, optional
        In the place of `order`: the fewest states of each mixer at which `MixerReport.tail` is at most this.
    weight : Tensor, shape (T,) or (B, T), optional
        How much each token's output counts, for the gramians and the errors; all alike when left out.

    Returns
    -------
    Compression
        `.model` and `.reports`.

    Raises
    ------
    RealizationError
        If not exactly one of `order` and `tol` came, `order` is not between 1 and the states that are there,
        or tokens are missing where they are needed.
    TypeError
        If there is nothing to reduce, or a mixer is of another kind.

    References
    ----------
    B. C. Moore, Principal component analysis in linear systems, IEEE Trans. Automatic Control 26 (1981)
    17-32.
    S. Lall, J. E. Marsden, S. Glavaški, A subspace approach to balanced truncation for model reduction of
    nonlinear control systems, Int. J. Robust Nonlinear Control 12 (2002) 519-535.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM, compress
    >>> model = BMojoLM(50, [BMojoConfig(d_model=32, window=8, eidetic=4, state_size=8)] * 2)
    >>> small = compress(model, torch.randint(50, (3, 20)), order=4)
    >>> [report.order for report in small.reports], small.model(torch.randint(50, (3, 20))).shape
    ([4, 4], torch.Size([3, 20, 50]))
    """
    if (order is None) == (tol is None):
        raise RealizationError(f"compress: order={order} and tol={tol} came; give one of them.")
    asked = _Asked(order, tol, weight)
    if isinstance(layer, BMojoLM):
        return _model(layer, u, asked)
    if isinstance(layer, BMojo):
        smaller, report = _layer(layer, u, asked, "mixer")
        return Compression(smaller, [report])
    reduced, report = _mixer(layer, u, asked, "")
    return Compression(reduced.mixer.train(layer.training), [report])


@dataclass(frozen=True, eq=False)
class _Asked:
    order: int | None
    tol: float | None
    weight: Tensor | None


def _model(model: BMojoLM, tokens: Tensor | None, asked: _Asked) -> Compression:
    if tokens is None:
        raise RealizationError("compress: a model is reduced along tokens; give u, token numbers (B, T).")
    blocks = model._blocks()
    met: list[Tensor] = []
    hooks = [b.layer.register_forward_pre_hook(lambda _, given: met.append(given[0])) for b in blocks]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    reports, layers = [], []
    for i, (block, u) in enumerate(zip(blocks, met, strict=True)):
        layers.append(block.layer)
        if block.layer.mixer is not None:
            layers[i], report = _layer(block.layer, u, asked, f"blocks.{i}.layer.mixer")
            reports.append(report)
    if not reports:
        raise TypeError("compress: no layer of the model has a mixer; there is no state to reduce.")
    options: dict[str, Any] = {**model.options, "layers": [layer.config for layer in layers]}
    like = model.embedding.weight
    smaller = BMojoLM(options["vocabulary"], options["layers"], mlp_ratio=options["mlp_ratio"])
    smaller = smaller.to(like.device, like.dtype)
    kept = {name: x for name, x in model.state_dict().items() if ".layer." not in name}
    for i, layer in enumerate(layers):
        kept |= {f"blocks.{i}.layer.{name}": x for name, x in layer.state_dict().items()}
    smaller.load_state_dict(copy.deepcopy(kept), assign=True)
    return Compression(smaller.train(model.training), reports)


def _layer(layer: BMojo, u: Tensor | None, asked: _Asked, name: str) -> tuple[BMojo, MixerReport]:
    if layer.mixer is None:
        raise TypeError("compress: the layer has no mixer (mixer='none'); there is no state to reduce.")
    reduced, report = _mixer(layer.mixer, u, asked, name)
    options = layer.config.mixer_options | reduced.options
    config = replace(layer.config, state_size=reduced.order, mixer_options=options)
    like = next(layer.parameters())
    smaller = BMojo(config).to(like.device, like.dtype)
    kept = {name: x for name, x in layer.state_dict().items() if not name.startswith("mixer.")}
    kept |= {f"mixer.{name}": x for name, x in reduced.mixer.state_dict().items()}
    smaller.load_state_dict(copy.deepcopy(kept), assign=True)
    return smaller.train(layer.training), report


def _mixer(mixer: nn.Module, u: Tensor | None, asked: _Asked, name: str) -> tuple[Reduced, MixerReport]:
    reduction = REDUCTIONS.get(type(mixer))
    if reduction is None:
        names = ", ".join(kind.__name__ for kind in REDUCTIONS)
        raise TypeError(
            f"compress: a {type(mixer).__name__} came; {names}, BMojo and BMojoLM can be reduced."
        )
    if u is None and not isinstance(mixer, LINEAR):
        raise RealizationError(
            f"compress: the gramians of a {type(mixer).__name__} depend on its tokens; give u, (B, T, D)."
        )
    weight = None if u is None else weights_of(asked.weight, u)
    states, order = states_of(mixer), asked.order
    if order is None:
        order = _enough(spectrum(mixer, u, weight), cast(float, asked.tol))
    if not 1 <= order <= states:
        raise RealizationError(
            f"compress: order={order} came; {name or 'the mixer'} has {states} states a head, and from 1 to "
            f"{states} can be kept."
        )
    if order == states:  # nothing goes: the mixer as it is
        reduced = Reduced(copy.deepcopy(mixer), states, spectrum(mixer, u, weight))
    else:
        reduced = reduction(mixer, u, order, weight)
    report = MixerReport(name, type(mixer).__name__, states, reduced.order, reduced.hsv)
    return reduced, _measured(report, mixer, reduced, u, weight)


def _enough(hsv: Tensor, tol: float) -> int:
    """Fewest states at which the share that is cut is at most `tol`."""
    squares = hsv.square().sum(0)
    left = (squares.flip(0).cumsum(0).flip(0) / squares.sum().clamp_min(1e-300)).sqrt()
    return max(1, int((left > tol).sum()))


def _measured(
    report: MixerReport, mixer: nn.Module, reduced: Reduced, u: Tensor | None, weight: Tensor | None
) -> MixerReport:
    report = replace(report, gain_bound=reduced.gain_bound)
    if u is None or weight is None:
        return report
    mean = cast(Tensor, mixer.output_mean) if isinstance(mixer, LiftedModel) else 0.0
    full, small = (_output(module, u) - mean for module in (mixer, reduced.mixer))
    size, error = (_mean_square(x, weight) for x in (full, full - small))
    report = replace(report, error=_ratio(error, size))
    if isinstance(mixer, LINEAR):
        return replace(report, read_error=report.error)
    recurrence = recurrence_of(mixer, u)
    full, small = (found.read_outs() for found in (recurrence, recurrence_of(reduced.mixer, u)))
    size, error = (_mean_square(recurrence.gain * x, weight) for x in (full, full - small))
    known = {
        name: None if square is None else _ratio(square, size)
        for name, square in (("predicted", reduced.predicted), ("bound", reduced.bound))
    }
    return replace(report, read_error=_ratio(error, size), **known)


def _output(mixer: nn.Module, u: Tensor) -> Tensor:
    found = mixer(u)
    return (found[0] if isinstance(found, tuple) else found).double()


def _mean_square(x: Tensor, weight: Tensor) -> float:
    return float((weight * x.double().flatten(2).square().sum(-1)).sum())


def _ratio(square: float, of: float) -> float:
    return (max(square, 0.0) / of) ** 0.5 if of > 0 else 0.0
