r"""Frequency responses: Bode plots, with bands for what is uncertain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError
from realization.identification import FrequencyBands
from realization.plot.style import COLOURS, DASHED, LINES, finite, legend, named, pyplot, style
from realization.systems import StateSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bode"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
Edges = tuple[tuple[Array, Array], tuple[Array, Array]]
Bands = FrequencyBands | ArrayLike | Sequence[StateSpace]


def bode(
    models: StateSpace | Mapping[str, StateSpace],
    omega: ArrayLike | None = None,
    *,
    bands: Bands | Mapping[str, Bands] | None = None,
    level: float = 0.95,
    input: int = 0,
    output: int = 0,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    r"""Bode plot of one entry of the transfer function: magnitude above, phase below.

    $$20 \log_{10} |G(e^{i \omega\, dt})|\ \text{dB}, \qquad \arg G(e^{i \omega\, dt})$$

    A band of a covariance is linearized in the logarithm, $\delta \log G = \delta G / G$: its real part moves
    the magnitude, its imaginary part the phase, and no magnitude is below zero. A band of models spans their
    quantiles, whatever their distribution.

    Parameters
    ----------
    models : StateSpace, or a mapping from labels to such
        At most four.
    omega : array_like, shape (N,), optional
        Angular frequencies in rad/s (rad per step where `dt` is `None`), positive. When left out, three
        decades below half the fastest sampling, or around the poles in continuous time.
    bands : FrequencyBands, array_like, sequence of StateSpace, or a mapping from labels to such, optional
        What is uncertain of a model: what `fit.uncertainty.frequency_response()` gave, drawn at its own
        frequencies; the covariance of $(\operatorname{Re} G, \operatorname{Im} G)$ at each
        `omega`, shape (N, 2, 2), or (N, p, m, 2, 2) for all entries; or models drawn from a distribution
        (bootstrap, posterior, repeated records), at least two.
    level : float
        Probability of the band at each frequency, strictly between 0 and 1.
    input, output : int
        Which entry.
    axes : sequence of two matplotlib.axes.Axes, optional
        Where to draw magnitude and phase; a new figure when left out.

    Returns
    -------
    magnitude, phase : matplotlib.axes.Axes

    Raises
    ------
    DataError
        If a frequency is not positive, there is no such input or output, or a label of `bands` is no model's.
    ShapeError
        If a covariance or `axes` has another shape.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 2.3 and 9.4.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization as rz
    >>> magnitude, phase = rz.plot.bode(rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0), [0.1, 1.0])
    >>> magnitude.lines[0].get_ydata().round(2), phase.lines[0].get_ydata().round(2)
    (array([-0.04, -3.01]), array([ -5.71, -45.  ]))
    """
    drawn = named(models, "bode")
    for name, model in drawn.items():
        if not (0 <= input < model.n_inputs and 0 <= output < model.n_outputs):
            raise DataError(
                f"bode: input {input} to output {output} was asked for; {name!r} has {model.n_inputs} inputs "
                f"and {model.n_outputs} outputs, counted from 0."
            )
    if not 0 < level < 1:
        raise DataError(f"bode: level={level} came; a probability strictly between 0 and 1 is needed.")
    uncertain = bands if isinstance(bands, Mapping) else {} if bands is None else {next(iter(drawn)): bands}
    if set(uncertain) - set(drawn):
        raise DataError(
            f"bode: bands came for {sorted(set(uncertain) - set(drawn))}, which no model is called."
        )
    grid = _frequencies(drawn, omega)
    with style():
        if axes is None:
            _, axes = pyplot().subplots(2, 1, figsize=(7.0, 4.6), sharex=True, height_ratios=[3, 2])
        if axes is None or len(axes) != 2:
            raise ShapeError("bode: axes must be two, for magnitude and phase.")
        magnitude, phase = axes
        for (name, model), (meaning, dashes) in zip(drawn.items(), LINES):
            G = model.frequency_response(grid)[:, output, input]
            decibels, degrees = _logarithm(G)
            if name in uncertain:
                at, edges = _edges(uncertain[name], G, grid, (output, input), level)
                for ax, (low, high) in zip((magnitude, phase), edges):
                    ax.fill_between(at, low, high, color=COLOURS[meaning], alpha=0.18, linewidth=0)
            magnitude.semilogx(grid, decibels, color=COLOURS[meaning], linestyle=dashes, label=name)
            phase.semilogx(grid, degrees, color=COLOURS[meaning], linestyle=dashes)
        _finish(magnitude, phase, drawn, grid, isinstance(models, Mapping))
    return magnitude, phase


def _finish(
    magnitude: Axes, phase: Axes, drawn: Mapping[str, StateSpace], grid: Array, labelled: bool
) -> None:
    from matplotlib.ticker import MultipleLocator

    unnamed = all(model.dt is None for model in drawn.values())
    magnitude.set(ylabel="magnitude, dB", xlim=(grid[0], grid[-1]) if len(grid) > 1 else None)
    phase.set(ylabel="phase, degrees", xlabel=f"frequency, {'rad per step' if unnamed else 'rad/s'}")
    low, high = phase.get_ylim()
    phase.yaxis.set_major_locator(
        MultipleLocator(next(s for s in (45, 90, 180, 360, 1e9) if (high - low) / s < 6))
    )
    for ax in (magnitude, phase):
        ax.grid(color="#e3e6ea", linewidth=0.8)
        for model in drawn.values():
            if model.dt != 0 and grid[-1] >= np.pi / (model.dt or 1.0):
                ax.axvline(
                    np.pi / (model.dt or 1.0), color=COLOURS["baseline"], linewidth=1, linestyle=DASHED
                )
    if labelled:
        legend(magnitude)


def _frequencies(drawn: Mapping[str, StateSpace], omega: ArrayLike | None) -> Array:
    if omega is not None:
        grid = np.atleast_1d(finite(omega, "omega"))
        if grid.ndim != 1 or not grid.size or grid.min() <= 0:
            raise DataError("bode: omega must hold positive frequencies; they stand on a logarithmic axis.")
        return grid
    highest = [np.pi / (model.dt or 1.0) for model in drawn.values() if model.dt != 0]
    if highest:
        return np.geomspace(1e-3 * max(highest), max(highest), 600)
    sizes = np.concatenate([np.abs(model.poles) for model in drawn.values()])
    sizes = sizes[sizes > 0] if np.any(sizes > 0) else np.ones(1)
    return np.geomspace(sizes.min() / 30, sizes.max() * 30, 600)


def _logarithm(G: Complex) -> tuple[Array, Array]:
    """Decibels (a zero is not drawn), and the phase in degrees, continuous along the first axis."""
    size = np.abs(G)
    with np.errstate(divide="ignore"):
        decibels = np.where(size > 0, 20 * np.log10(size), np.nan)
    return decibels, np.degrees(np.unwrap(np.angle(G), axis=0))


def _edges(band: Bands, G: Complex, grid: Array, entry: tuple[int, int], level: float) -> tuple[Array, Edges]:
    """Frequencies, and there the lower and upper edge of the magnitude's and of the phase's band."""
    if isinstance(band, FrequencyBands):
        there = band.omega > 0
        G, own = band.response[there][:, entry[0], entry[1]], band.omega[there]
        return own, _of_covariance(band.covariance[there][:, entry[0], entry[1]], G, level)
    if isinstance(band, Sequence) and len(band) and isinstance(band[0], StateSpace):
        if len(band) < 2:
            raise DataError("bode: one model is no distribution; bands need at least two.")
        samples: Any = band
        drawn = np.array([model.frequency_response(grid)[:, entry[0], entry[1]] for model in samples])
        return grid, _of_samples(drawn, G, level)
    values: Any = band
    covariance = finite(values, "bands")
    if covariance.ndim == 5:
        covariance = covariance[:, entry[0], entry[1]]
    if covariance.shape != (len(grid), 2, 2):
        raise ShapeError(
            f"bode: the covariance has shape {covariance.shape}; ({len(grid)}, 2, 2) is needed, one for each "
            "omega (give omega too), or models drawn from a distribution."
        )
    return grid, _of_covariance(covariance, G, level)


def _of_samples(drawn: Complex, G: Complex, level: float) -> Edges:
    decibels, degrees = _logarithm(G)
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    # Relative to the model itself, so that no sample's phase lies a turn away.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = drawn / G
        low, high = np.quantile(20 * np.log10(np.abs(ratio)), tail, axis=0)
    left, right = np.quantile(np.degrees(np.angle(ratio)), tail, axis=0)
    return (decibels + low, decibels + high), (degrees + left, degrees + right)


def _of_covariance(covariance: Array, G: Complex, level: float) -> Edges:
    decibels, degrees = _logarithm(G)
    # Rotated into the direction of G and across it, over its modulus: log-magnitude and angle.
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.stack([G.real, G.imag], axis=1) / (np.abs(G) ** 2)[:, None]
        across = np.stack([-G.imag, G.real], axis=1) / (np.abs(G) ** 2)[:, None]
        z = NormalDist().inv_cdf((1 + level) / 2)
        spread = [z * np.sqrt(np.einsum("ni,nij,nj->n", v, covariance, v)) for v in (along, across)]
    half = 20 / np.log(10) * spread[0]
    turn = np.minimum(np.degrees(spread[1]), 180.0)
    return (decibels - half, decibels + half), (degrees - turn, degrees + turn)
