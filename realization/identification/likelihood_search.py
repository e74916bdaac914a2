r"""Maximum likelihood of what was measured, where outputs are missing.

With gaps the innovations' covariance varies, and no sum of squares stands for the likelihood. Its value and
gradient come from the Kalman filter and its adjoint; the innovation covariance is sought with the entries,
$R_e = L T T^\top L^\top$ with $T$ lower triangular, logarithms on its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ConvergenceWarning, RealizationError
from realization.filtering.likelihood import log_likelihood
from realization.filtering.smoother import kalman_smoother
from realization.identification.coordinates import Along, Coordinates
from realization.identification.factorization import Scaling
from realization.identification.gaps import noise_over_gaps
from realization.identification.sensitivities import Blocks, Point, Run, errors_of, normal_equations
from realization.notes import warn
from realization.signals.data import IOData
from realization.signals.spans import spans_of
from realization.systems.models import InnovationsModel

__all__ = ["Ended", "likelihood_search", "observed_information", "smoothed_outputs"]

Array = NDArray[np.float64]
# Steps with one preconditioner and one set of local coordinates.
STEPS = 20
HALVINGS = 12
# Deviation of the innovations of a record without noise, in units of the outputs.
ROUNDING = 1e-9
STEP = 1e-4
Admissible = Callable[[Point], bool]


class Ended(NamedTuple):
    """Where the search ended, and the value of minus the log-likelihood there."""

    point: Point
    Re: Array
    loss: float
    iterations: int
    converged: bool


class _Here(NamedTuple):
    """A place: coordinates measured from the base, point, covariance, loss and its gradient."""

    z: Array
    point: Point
    Re: Array
    loss: float
    gradient: Array


class _Problem:
    """Minus the log-likelihood about a base, in variables of unit information."""

    def __init__(self, base: Point, Re: Array, coordinates: Coordinates, scaled: Scaling, blocks: Blocks):
        self.base, self.coordinates, self.scaled = base, coordinates.frozen(base), scaled
        self.root = np.linalg.cholesky(Re)
        self.records = _records(scaled)
        self.unit = self._unit(Re, blocks)
        self.free = self.unit.shape[0]

    def _unit(self, Re: Array, blocks: Blocks) -> Array:
        """Map from unit variables to coordinates, by the information of the record with its gaps filled."""
        scaled, base = self.scaled, self.base
        filled = smoothed_outputs(base, Re, scaled)
        e, states = errors_of(base, scaled.u, filled, scaled.starts)
        whitener = scipy.linalg.solve_triangular(self.root, np.eye(len(Re)), lower=True)
        H, _ = normal_equations(base, Run(scaled.u, e, states, scaled.starts), whitener, blocks)
        slope = self.coordinates.slope(base)[blocks.chosen(base)]
        H = slope.T @ H @ slope
        sizes = np.sqrt(np.maximum(np.diag(H), 1e-14 * np.diag(H).max(initial=1e-300)))
        values, vectors = np.linalg.eigh(H / sizes / sizes[:, None])
        values = np.maximum(values, 1e-8 * values.max(initial=1e-300))
        return vectors / np.sqrt(values) / sizes[:, None]

    def at(self, z: Array, admissible: Admissible) -> _Here | None:
        """A place with its gradient; `None` where there is no likelihood."""
        point = self.coordinates.moved(self.base, self.unit @ z[: self.free])
        L, T = self._root(z[self.free :])
        if not (admissible(point) and np.isfinite(L).all()):
            return None
        try:
            loss, by_entries, by_Re = _likelihood(point, L @ L.T, self.scaled, self.records)
        except (RealizationError, np.linalg.LinAlgError):
            return None
        by_T = self.root.T @ (2 * by_Re @ L)
        by_T[np.diag_indices(len(T))] *= np.diag(T)
        rows, columns = np.tril_indices(len(T))
        slope = self.coordinates.slope(point)
        gradient = np.concatenate([
            self.unit.T @ (slope.T @ by_entries), by_T[rows, columns] / self._sizes()
        ])  # fmt: skip
        return _Here(z, point, L @ L.T, loss, gradient) if np.isfinite(loss) else None

    def _sizes(self) -> Array:
        """Square roots of the information about the entries of `T`."""
        rows, columns = np.tril_indices(len(self.root))
        count = (~np.isnan(self.scaled.y)).sum() / len(self.root)
        return np.sqrt(np.where(rows == columns, 2.0, 1.0) * count)

    def _root(self, z: Array) -> tuple[Array, Array]:
        T = np.zeros(self.root.shape)
        T[np.tril_indices(len(T))] = z / self._sizes()
        diagonal = np.diag_indices(len(T))
        T[diagonal] = np.exp(np.clip(T[diagonal], -50.0, 50.0))
        return np.asarray(self.root @ T, dtype=float), T

    @property
    def origin(self) -> Array:
        """The base."""
        return np.zeros(self.free + len(self._sizes()))


def _anywhere(point: Point) -> bool:
    return True


def likelihood_search(
    point: Point,
    coordinates: Coordinates,
    scaled: Scaling,
    *,
    blocks: Blocks,
    admissible: Admissible,
    iterations: int,
    tolerance: float,
) -> Ended:
    r"""Minimize minus the log-likelihood of the measured outputs from a point on, by BFGS.

    Parameters
    ----------
    point : Point
    coordinates : Coordinates
    scaled : Scaling
        With missing outputs.
    blocks : Blocks
    admissible : callable
        Says which points may be visited.
    iterations : int
        Most steps.
    tolerance : float
        Stop when the minimum is nearer than this many standard deviations per parameter.
    """
    Re = noise_over_gaps(*point[:5], scaled.u, scaled.y - point.offset, scaled.starts)
    used, loss = 0, np.inf
    while True:
        problem = _Problem(point, Re, coordinates, scaled, blocks)
        here = problem.at(problem.origin, admissible)
        if here is None:
            return Ended(point, Re, loss, used, False)
        near = float(np.linalg.norm(here.gradient) / np.sqrt(max(here.gradient.size, 1)))
        exact = float(np.sqrt(np.trace(Re) / len(Re))) < ROUNDING
        if near < tolerance or exact or used >= iterations:
            return Ended(here.point, here.Re, here.loss, used, near < tolerance or exact)
        moved, steps = _descend(problem, here, admissible, min(STEPS, iterations - used), tolerance)
        used += max(steps, 1)
        if not here.loss - moved.loss > _worth(here, tolerance):
            return Ended(moved.point, moved.Re, moved.loss, used, False)
        point, Re, loss = moved.point, moved.Re, moved.loss


def _descend(
    problem: _Problem, here: _Here, admissible: Admissible, steps: int, tolerance: float
) -> tuple[_Here, int]:
    """Some steps of BFGS with halving, from unit curvature on."""
    inverse, done = np.eye(len(here.z)), 0
    while done < steps:
        if np.linalg.norm(here.gradient) < tolerance * np.sqrt(len(here.z)) / 2:
            break
        direction = -inverse @ here.gradient
        promised = float(direction @ here.gradient)
        size, there = 1.0, None
        for _ in range(HALVINGS):
            there = problem.at(here.z + size * direction, admissible)
            if there is not None and there.loss <= here.loss + 1e-4 * size * promised:
                break
            size, there = size / 2, None
        if there is None:
            break
        s, y = there.z - here.z, there.gradient - here.gradient
        curvature = float(s @ y)
        if curvature > 1e-10 * float(np.linalg.norm(s) * np.linalg.norm(y)):
            turn = np.eye(len(s)) - np.outer(s, y) / curvature
            inverse = turn @ inverse @ turn.T + np.outer(s, s) / curvature
        gained, here, done = here.loss - there.loss, there, done + 1
        if gained < _worth(here, tolerance):
            break
    return here, done


def _worth(here: _Here, tolerance: float) -> float:
    """Gain in log-likelihood below which a step leads nowhere: a tenth of what ends the search."""
    return 0.05 * tolerance**2 * len(here.z)


def observed_information(point: Point, slope: Array, Re: Array, scaled: Scaling, blocks: Blocks) -> Array:
    """Covariance of coordinates and `Re` by the curvature of the log-likelihood; that of the coordinates."""
    problem = _Problem(point, Re, Along(slope), scaled, blocks)
    size = len(problem.origin)
    curvature = np.empty((size, size))
    for k in range(size):
        shift = STEP * np.eye(1, size, k)[0]
        ahead, behind = problem.at(shift, _anywhere), problem.at(-shift, _anywhere)
        if ahead is None or behind is None:
            warn(
                "the likelihood has no curvature at this model; the covariance is that of the record with "
                "its gaps filled, and too small. Begin with another model or take a lower order.",
                ConvergenceWarning,
                stacklevel=2,
            )
            return problem.unit @ problem.unit.T
        curvature[k] = (ahead.gradient - behind.gradient) / (2 * STEP)
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    # Short of a minimum some are negative; what nothing is known about counts as known, as without gaps.
    values = np.abs(values)
    held = values > 1e-8 * values.max()
    covariance = (vectors[:, held] / values[held]) @ vectors[:, held].T
    return problem.unit @ covariance[: problem.free, : problem.free] @ problem.unit.T


def smoothed_outputs(point: Point, Re: Array, scaled: Scaling) -> Array:
    """The outputs, with what the model makes of the missing ones in their places."""
    model, records = _model(point, Re), _records(scaled)
    starts = np.atleast_2d(point.start)
    return np.concatenate([
        kalman_smoother(model, record, x0=x0, steady=True).outputs for record, x0 in zip(records, starts)
    ])  # fmt: skip


def _records(scaled: Scaling) -> list[IOData]:
    with_inputs = scaled.u.shape[1] > 0
    return [
        IOData(scaled.y[rows], scaled.u[rows] if with_inputs else None, missing=True)
        for rows in spans_of(scaled.starts, len(scaled.y))
    ]


def _model(point: Point, Re: Array) -> InnovationsModel:
    A, B, C, D, K, level, _ = point
    return InnovationsModel(A, B, C, D, K=K, Re=Re, y_mean=level)


def _likelihood(
    point: Point, Re: Array, scaled: Scaling, records: Sequence[IOData]
) -> tuple[float, Array, Array]:
    """Minus the log-likelihood, and its derivatives with respect to the entries and to `Re`."""
    model, value = _model(point, Re), 0.0
    shared, firsts, by_Re = [np.zeros(block.shape) for block in point[:6]], [], np.zeros_like(Re)
    for record, x0 in zip(records, np.atleast_2d(point.start)):
        found = log_likelihood(model, record, x0=x0, steady=True, gradient=True)
        g = found.gradient
        assert g is not None
        value -= found.value
        for total, part in zip(shared, (g.A, g.B, g.C, g.D, g.K, g.y_mean)):
            total -= part
        firsts.append(-g.x0)
        by_Re -= g.Re
    return value, np.concatenate([*(block.ravel() for block in shared), *firsts]), by_Re
