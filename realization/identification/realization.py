"""A realization in the units of a scaled record, and the model that it becomes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.gaps import noise_over_gaps
from realization.identification.noise import one_step_innovations, residual_covariance
from realization.signals.spans import starts_within
from realization.systems.models import InnovationsModel

__all__ = [
    "Realization",
    "errors",
    "fits",
    "longest_memory",
    "part",
    "reflect_poles",
    "spread",
    "unscaled",
]

Array = NDArray[np.float64]
STABLE_RADIUS = 0.9999
# Time constants that a record must hold for a predictor's memory to be read from it.
CONSTANTS_PER_RECORD = 5


class Realization(NamedTuple):
    """Matrices in the units of a scaled record, and how they were come by.

    `x0` holds the first state (n,), or one for each of several experiments (E, n).
    """

    A: Array
    B: Array
    C: Array
    D: Array
    K: Array
    offset: Array
    x0: Array
    feedthrough: bool
    stabilized: bool

    @property
    def radius(self) -> float:
        """Largest modulus of a pole."""
        return float(np.abs(np.linalg.eigvals(self.A)).max(initial=0.0))


def unscaled(
    scaled: Scaling, found: Realization, dt: float | None, Re: Array | None = None
) -> InnovationsModel:
    """The model in the record's own units, with its means (and the offset from them) as operating point.

    `Re` is read from the one-step errors when left out.
    """
    y, u = scaled.y_scale, scaled.u_scale
    return InnovationsModel(
        found.A,
        found.B / u,
        found.C * y[:, None],
        found.D * y[:, None] / u,
        dt,
        K=found.K / y,
        Re=(_noise(found, scaled) if Re is None else Re) * y[:, None] * y,
        u_mean=scaled.u_mean,
        y_mean=scaled.y_mean + y * found.offset,
    )


def _noise(found: Realization, scaled: Scaling) -> Array:
    """Innovation covariance in the units of the scaled record."""
    matrices, y = found[:5], scaled.y - found.offset
    if scaled.has_gaps:
        return noise_over_gaps(*matrices, scaled.u, y, scaled.starts)
    return residual_covariance(*matrices, scaled.u, y, scaled.starts)


def reflect_poles(A: Array) -> Array:
    """Poles outside the unit circle go to their mirror images, at most to a modulus of 0.9999."""
    T, Z = scipy.linalg.schur(A)
    k = 0
    while k < len(T):
        size = 2 if k + 1 < len(T) and T[k + 1, k] != 0 else 1
        block = slice(k, k + size)
        modulus = np.abs(np.linalg.eigvals(T[block, block])).max()
        if modulus >= 1:
            T[block, block] *= min(1 / modulus, STABLE_RADIUS) / modulus
        k += size
    return Z @ T @ Z.T


def longest_memory(A: Array, length: int) -> float:
    """Largest modulus of a predictor's pole that a record of this length can vouch for.

    A predictor that forgets over a good part of the record has fitted the record's beginning, and carries
    every later shift of level along (the pile-up of zeros of a moving average at the unit circle). What the
    model itself remembers, its predictor may.
    """
    own = np.abs(np.linalg.eigvals(A)).max(initial=0.0)
    return float(min(max(np.exp(-CONSTANTS_PER_RECORD / length), 1.0001 * own), 0.99999))


def part(scaled: Scaling, begin: int, stop: int) -> Scaling:
    """A stretch of a scaled record."""
    starts = starts_within(scaled.starts, begin, stop)
    return scaled._replace(u=scaled.u[begin:stop], y=scaled.y[begin:stop], starts=starts)


def fits(found: Realization, scaled: Scaling) -> tuple[Array, Array]:
    """Simulation and one-step fit per output in percent, first states estimated on the same record."""
    size = spread(scaled)
    simulation, prediction = (100 * (1 - np.linalg.norm(e, axis=0) / size) for e in errors(found, scaled))
    return simulation, prediction


def errors(found: Realization, scaled: Scaling) -> tuple[Array, Array]:
    """Errors (T, p) of the simulation and of the one-step prediction, each with its best first states.

    They are zero where an output is missing.
    """
    A, B, C, D, K = found[:5]
    y = scaled.y - found.offset
    simulated, _ = one_step_innovations(A, B, C, D, K * 0.0, scaled.u, y, scaled.starts)
    predicted, _ = one_step_innovations(A, B, C, D, K, scaled.u, y, scaled.starts)
    return simulated, predicted


def spread(scaled: Scaling) -> Array:
    """Norm of each output about its mean, shape (p,), over the samples that are there."""
    if not scaled.has_gaps:
        return np.maximum(np.linalg.norm(scaled.y - scaled.y.mean(axis=0), axis=0), 1e-12)
    about = np.nan_to_num(scaled.y - np.nanmean(scaled.y, axis=0))
    return np.maximum(np.linalg.norm(about, axis=0), 1e-12)
