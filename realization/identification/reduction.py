"""Balanced truncation of an identified realization, as far as its fits allow."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.realization import Realization, fits, longest_memory
from realization.systems.responses import predictor_states

__all__ = ["Balanced", "shortest"]

Array = NDArray[np.float64]
TRIED = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 50, 60, 80, 100)


class Balanced:
    r"""Truncations balanced between what the record reaches and what the outputs show.

    The reachability gramian is the covariance of the predictor's states over the record, so that
    frequencies count as much as the inputs excite them, $P = \frac1T \sum_t \hat x_t \hat x_t^\top$; the
    observability gramian is the model's own.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, section 7.1.
    """

    def __init__(self, found: Realization, scaled: Scaling) -> None:
        A, B, C, D, K = found[:5]
        target = np.nan_to_num(scaled.y - found.offset)
        states = predictor_states(A, B, C, D, K, scaled.u, target, starts=scaled.starts)
        self.found = found
        self.reach = _factor(states.T @ states / len(states))
        self.sight = _factor(scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C))
        self.left, self.hankel, self.right = scipy.linalg.svd(self.sight.T @ self.reach)

    def truncated(self, order: int) -> Realization:
        """The first `order` balanced states."""
        scale = np.sqrt(np.maximum(self.hankel[:order], 1e-300))
        T = self.reach @ self.right[:order].T / scale
        inverse = (self.left[:, :order] / scale).T @ self.sight.T
        found = self.found
        return found._replace(
            A=inverse @ found.A @ T,
            B=inverse @ found.B,
            C=found.C @ T,
            K=inverse @ found.K,
            x0=found.x0 @ inverse.T,
        )


def shortest(found: Realization, scaled: Scaling, *, loss: float, max_order: int | None) -> Realization:
    """Lowest order, up to `max_order`, whose simulation and one-step fits lose at most `loss` percent.

    Fits are corrected for the states that are fitted to the record, so that many states are no advantage.
    """
    n = len(found.A)
    limit = n if max_order is None else min(n, max_order)
    if n < 2 or found.radius >= 1:
        return found
    wanted = _corrected(found, scaled) - loss
    balanced = Balanced(found, scaled)
    memory = max(longest_memory(found.A, max(scaled.lengths)), _forgetting(found))
    least, most = None, -np.inf
    for order in (*(k for k in TRIED if k < limit), limit):
        candidate = balanced.truncated(order)
        if not _usable(candidate, memory):
            continue
        fit = _corrected(candidate, scaled)
        if (fit >= wanted).all():
            return candidate
        if fit.sum() > most:
            least, most = candidate, fit.sum()
    return found if n <= limit or least is None else least


def _usable(candidate: Realization, memory: float) -> bool:
    if not all(np.isfinite(matrix).all() for matrix in candidate[:5]):
        return False
    return bool(candidate.radius < 1 and _forgetting(candidate) < min(memory, 1.0))


def _forgetting(found: Realization) -> float:
    """Largest modulus of a pole of the predictor."""
    return float(np.abs(np.linalg.eigvals(found.A - found.K @ found.C)).max(initial=0.0))


def _corrected(found: Realization, scaled: Scaling) -> Array:
    """Mean simulation and one-step fits; the simulation of a record without inputs counts as nothing."""
    count = int((~np.isnan(scaled.y)).sum())
    freedom = np.sqrt(count / max(count - len(found.A) * len(scaled.starts), 1.0))
    simulation, prediction = (100 - freedom * (100 - fit.mean()) for fit in fits(found, scaled))
    return np.array([simulation if scaled.u.shape[1] else 0.0, prediction])


def _factor(gramian: NDArray[np.floating]) -> Array:
    values, vectors = np.linalg.eigh((gramian + gramian.T) / 2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), dtype=float)
