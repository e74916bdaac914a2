"""Gauss-Newton with a trust region on the determinant of the errors' covariance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.coordinates import Coordinates
from realization.identification.factorization import Scaling
from realization.identification.likelihood_search import likelihood_search
from realization.identification.sensitivities import Blocks, Point, Run, errors_of, normal_equations
from realization.signals.spans import complete_rows

__all__ = ["Found", "admissible", "run_of", "search", "whitener_of"]

Array = NDArray[np.float64]
RADIUS = 0.99999
# Rounding against errors of unit size: records without noise end there.
ROUNDING = 1e-13
TRIES = 12
# Steps of a search that learns the curvature on its way, for one of Gauss and Newton.
GAP_STEPS = 4


class Found(NamedTuple):
    """Where the search ended; `Re` where it is not the covariance of the errors, as with missing outputs."""

    point: Point
    loss: float
    iterations: int
    converged: bool
    Re: Array | None = None


class _Model(NamedTuple):
    """The quadratic that stands in for the loss near a point, by its principal axes."""

    slope: Array
    scale: Array
    values: Array
    vectors: Array
    gradient: Array

    def step(self, damping: float) -> tuple[Array, float]:
        """Damped step and the decrease that it promises."""
        usable = self.values > 1e-13 * self.values.max(initial=0.0)
        along = np.where(usable, self.gradient / np.where(usable, self.values + damping, 1.0), 0.0)
        promised = float(self.gradient @ along - 0.5 * (self.values * along) @ along)
        return (self.vectors @ along) / self.scale, promised

    @property
    def decrement(self) -> float:
        r"""$\sqrt{g^\top H^{-1} g / d}$: how far the minimum is, in standard deviations per parameter."""
        usable = self.values > 1e-10 * self.values.max(initial=0.0)
        squares = (self.gradient[usable] ** 2 / self.values[usable]).sum()
        return float(np.sqrt(squares / max(usable.sum(), 1)))


def search(
    point: Point,
    coordinates: Coordinates,
    scaled: Scaling,
    *,
    blocks: Blocks,
    stable: bool,
    iterations: int,
    tolerance: float,
    memory: float = RADIUS,
) -> Found:
    r"""Minimize $\frac T2 \log\det \frac1T \sum_t e_t e_t^\top$ from a point on.

    A sample with missing outputs says nothing about the simulation. One-step errors that depend on it go
    through the likelihood of what was measured (`likelihood_search`).

    Parameters
    ----------
    point : Point
    coordinates : Coordinates
    scaled : Scaling
    blocks : Blocks
        Entries that the coordinates can move at all.
    stable : bool
        Refuse steps that take a pole of the model out of the unit circle (those of the predictor never may).
    iterations : int
        Most steps.
    tolerance : float
        Stop when the minimum is nearer than this many standard deviations per parameter.
    memory : float
        Largest modulus of a predictor's pole.
    """
    if scaled.has_gaps and blocks.gain:
        ended = likelihood_search(
            point,
            coordinates,
            scaled,
            blocks=blocks,
            admissible=lambda trial: admissible(trial, stable, memory),
            iterations=GAP_STEPS * iterations,
            tolerance=tolerance,
        )
        return Found(ended.point, ended.loss, ended.iterations, ended.converged, ended.Re)
    damping, growth, converged = 1e-4, 2.0, False
    run = run_of(point, scaled)
    count = 0
    for count in range(iterations + 1):
        floor = _floor(run)
        loss = _loss(run, floor)
        model = _quadratic(point, coordinates, run, blocks, floor)
        converged = bool(model.decrement < tolerance or np.sqrt((run.e**2).mean()) < ROUNDING)
        if converged or count == iterations or not len(model.values):
            break
        better = None
        for _ in range(TRIES):
            step, promised = model.step(damping)
            trial = coordinates.moved(point, step)
            if admissible(trial, stable, memory):
                ahead = run_of(trial, scaled)
                gained = loss - _loss(ahead, floor)
                if gained > 0:
                    ratio = gained / max(promised, 1e-300)
                    damping = max(damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 1e-12)
                    growth, better = 2.0, (trial, ahead)
                    break
            damping, growth = damping * growth, growth * 2
        if better is None:
            break
        point, run = better
    return Found(point, _loss(run, _floor(run)), count, converged)


def run_of(point: Point, scaled: Scaling) -> Run:
    """Errors of a point on a record; those of a sample with missing outputs are zero and count nothing."""
    if not scaled.has_gaps:
        return Run(scaled.u, *errors_of(point, scaled.u, scaled.y, scaled.starts), scaled.starts)
    kept = complete_rows(scaled.y)
    e, states = errors_of(point, scaled.u, np.where(kept[:, None], scaled.y, 0.0), scaled.starts)
    return Run(scaled.u, np.where(kept[:, None], e, 0.0), states, scaled.starts, kept)


def admissible(point: Point, stable: bool, memory: float = RADIUS) -> bool:
    """Whether the entries are finite, the predictor is stable and, where asked for, the model too."""
    if not all(bool(np.isfinite(block).all()) for block in point):
        return False
    if point.K.any() and stable and np.abs(np.linalg.eigvals(point.A)).max(initial=0.0) >= RADIUS:
        return False
    return np.abs(np.linalg.eigvals(point.A - point.K @ point.C)).max(initial=0.0) < memory


def whitener_of(run: Run) -> Array:
    r"""Lower triangular $W$ with $W^\top W$ the inverse of the errors' covariance."""
    return _whitener(run, _floor(run))


def _whitener(run: Run, floor: float) -> Array:
    root = np.linalg.cholesky(run.e.T @ run.e / run.samples + floor * np.eye(run.e.shape[1]))
    return scipy.linalg.solve_triangular(root, np.eye(len(root)), lower=True)


def _floor(run: Run) -> float:
    """Outputs may be combinations of each other: no direction's variance counts as less than this."""
    return float(1e-8 * (run.e**2).mean() + 1e-30)


def _loss(run: Run, floor: float) -> float:
    e, count = run.e, run.samples
    if not np.isfinite(e).all() or np.abs(e).max(initial=0.0) > 1e100:
        return np.inf
    covariance = e.T @ e / count + floor * np.eye(e.shape[1])
    return 0.5 * count * float(np.linalg.slogdet(covariance)[1])


def _quadratic(point: Point, coordinates: Coordinates, run: Run, blocks: Blocks, floor: float) -> _Model:
    H, g = normal_equations(point, run, _whitener(run, floor), blocks)
    slope = coordinates.slope(point)[blocks.chosen(point)]
    H, g = slope.T @ H @ slope, slope.T @ g
    diagonal = np.diag(H)
    scale = np.sqrt(np.maximum(diagonal, 1e-14 * diagonal.max(initial=1e-300)))
    values, vectors = np.linalg.eigh(H / scale / scale[:, None])
    return _Model(slope, scale, values, vectors, vectors.T @ (g / scale))
