"""When a filter's covariance is large, has vanished or stands still, in whatever units."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError
from realization.filtering.finite_gramian import finite_gramian
from realization.systems.models import InnovationsModel

__all__ = ["has_vanished", "refuse_spread", "sight_of", "spread", "stands_still"]

Array = NDArray[np.float64]
VANISHED = 1e-18
EPS = float(np.finfo(float).eps)
SPREAD = 1e4
"""Beyond this the covariance form loses more than four digits, and roots are carried."""
LOST = 1e10
"""Beyond this a form that cannot carry roots keeps fewer than six digits."""


def sight_of(model: InnovationsModel, F: Array, T: int) -> Array:
    r"""What `T` outputs tell about the state before them, $\sum_{t<T} (F^t)^\top C^\top R_e^{-1} C F^t$."""
    W = model.C.T @ np.linalg.solve(model.Re, model.C)
    return np.ascontiguousarray(finite_gramian(F, (W + W.T) / 2, T)[0])


def spread(model: InnovationsModel, P: Array, T: int) -> float:
    r"""$\operatorname{tr}(O_k P)$ over $k \le n$ samples: variance to be learnt, over noise."""
    steps = max(min(len(P), T), 1)
    return float(np.vdot(sight_of(model, model.A - model.K @ model.C, steps), P))


def refuse_spread(model: InnovationsModel, P0: Array, T: int, caller: str, remedy: str) -> None:
    """An error where the first state is so uncertain that a covariance does not hold what is learnt of it."""
    ratio = spread(model, P0, T)
    if ratio > LOST:
        raise DataError(
            f"{caller}: the variance in P0 is {ratio:.1e} times the noise that it is seen through, so that "
            f"differences of covariances keep no more than {-np.log10(ratio * EPS):.0f} digits. {remedy}"
        )


@numba.njit(cache=True)
def has_vanished(P: Array, largest: Array, sight: Array) -> bool:
    r"""Whether what is left of `P` cannot be told from zero.

    $\operatorname{tr}(O P)$, with $O$ what all outputs to come say about the state, bounds what putting
    `P` to zero changes in the likelihood, in nats and in any basis. Besides, no state may hold more than a
    share of the largest variance that it had (kept in `largest`): outputs do not show every state.
    """
    told, small = 0.0, True
    for i in range(len(P)):
        largest[i] = max(largest[i], P[i, i])
        small = small and P[i, i] <= VANISHED * largest[i]
        for k in range(len(P)):
            told += sight[i, k] * P[k, i]
    return small and told <= VANISHED


@numba.njit(cache=True)
def stands_still(P: Array, before: Array) -> bool:
    """Whether each entry is what it was, to the rounding of the two standard deviations in it."""
    for i in range(len(P)):
        for k in range(i + 1):
            if abs(P[i, k] - before[i, k]) > EPS * np.sqrt(P[i, i]) * np.sqrt(P[k, k]):
                return False
    return True
