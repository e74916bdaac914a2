"""Balanced truncation of an identified realization, as far as its fits allow."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.noise import innovation_covariance, one_step_innovations
from realization.identification.realization import Realization, fits

__all__ = ["Balanced", "shortest"]

Array = NDArray[np.float64]


class Balanced:
    r"""Balanced truncations of the path from inputs and innovations together to the outputs.

    Inputs count with unit variance (the record is scaled), innovations with their covariance.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, section 7.1.
    """

    def __init__(self, found: Realization, scaled: Scaling) -> None:
        e, _ = one_step_innovations(
            found.A, found.B, found.C, found.D, found.K, scaled.u, scaled.y - found.offset
        )
        colourer = np.linalg.cholesky(innovation_covariance(e) + 1e-14 * np.eye(len(found.C)))
        self.found = found
        self.left, self.hankel, self.right, self.reach, self.sight = _balancing(
            found.A, np.hstack([found.B, found.K @ colourer]), found.C
        )

    def truncated(self, order: int) -> Realization:
        """The first `order` balanced states."""
        scale = np.sqrt(np.maximum(self.hankel[:order], 1e-300))
        T = self.reach @ self.right[:order].T / scale
        inverse = (self.left[:, :order] / scale).T @ self.sight.T
        found = self.found
        return found._replace(
            A=inverse @ found.A @ T, B=inverse @ found.B, C=found.C @ T, K=inverse @ found.K, x0=inverse @ found.x0
        )


def shortest(found: Realization, scaled: Scaling, *, loss: float, max_order: int | None) -> Realization:
    """Lowest order whose simulation and one-step fits lose at most `loss` percent, at most `max_order` states.

    Fits are corrected for the states that are fitted to the record, so that many states are no advantage.
    """
    n = len(found.A)
    limit = n if max_order is None else min(n, max_order)
    if n < 2 or found.radius >= 1:
        return found
    wanted = _corrected(found, scaled) - loss
    balanced = Balanced(found, scaled)
    least, most = None, -np.inf
    for order in (k for k in range(1, limit + 1) if k <= 16 or k % 2 == 0 or k == limit):
        candidate = balanced.truncated(order)
        if not _usable(candidate):
            continue
        fit = _corrected(candidate, scaled)
        if (fit >= wanted).all():
            return candidate
        if fit.sum() > most:
            least, most = candidate, fit.sum()
    return found if n <= limit or least is None else least


def _usable(candidate: Realization) -> bool:
    if not all(np.isfinite(matrix).all() for matrix in candidate[:5]):
        return False
    predictor = np.abs(np.linalg.eigvals(candidate.A - candidate.K @ candidate.C)).max(initial=0.0)
    return bool(candidate.radius < 1 and predictor < 1)


def _corrected(found: Realization, scaled: Scaling) -> Array:
    """Mean simulation and one-step fits; the simulation of a record without inputs counts as nothing."""
    count = scaled.y.size
    freedom = np.sqrt(count / max(count - len(found.A), 1.0))
    simulation, prediction = (100 - freedom * (100 - fit.mean()) for fit in fits(found, scaled))
    return np.array([simulation if scaled.u.shape[1] else 0.0, prediction])


def _balancing(A: Array, B: Array, C: Array) -> tuple[Array, Array, Array, Array, Array]:
    """SVD of the product of the gramians' factors: `left, hankel, right, reach, sight`."""
    reach = _factor(scipy.linalg.solve_discrete_lyapunov(A, B @ B.T))
    sight = _factor(scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C))
    left, hankel, right = scipy.linalg.svd(sight.T @ reach)
    return left, hankel, right, reach, sight


def _factor(gramian: Array) -> Array:
    values, vectors = np.linalg.eigh((gramian + gramian.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0))
