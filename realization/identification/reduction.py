"""Balanced truncation of an identified realization, as far as its fits allow."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.likely_start import errors_on
from realization.identification.realization import Realization, longest_memory
from realization.systems.lyapunov import discrete_lyapunov
from realization.systems.responses import predictor_states

__all__ = ["TRIED", "Balanced", "forgetting", "likely_fits", "shortest"]

Array = NDArray[np.float64]
TOLD = 1e-6
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
        self.memory = max(longest_memory(found.A, max(scaled.lengths)), forgetting(found))
        self.reach = _factor(states.T @ states / len(states))
        self.sight = _factor(discrete_lyapunov(A.T, C.T @ C))
        self.left, self.hankel, self.right = scipy.linalg.svd(self.sight.T @ self.reach)

    def usable(self, order: int) -> Realization | None:
        """The truncation, unless it overflows, is not stable or remembers longer than it can vouch for."""
        candidate = self.truncated(order)
        if not all(np.isfinite(matrix).all() for matrix in candidate[:5]):
            return None
        usable = candidate.radius < 1 and forgetting(candidate) < min(self.memory, 1.0)
        return candidate if usable else None

    def told(self) -> Realization | None:
        """The states that the record tells from rounding, if they are fewer: a mean of models has copies.

        First states along directions that are hardly reached would be estimated from rounding, and what such
        a model fits would depend on it.
        """
        count = int((self.hankel > TOLD * self.hankel[0]).sum())
        return self.usable(count) if count < len(self.hankel) else None

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


def shortest(
    found: Realization, scaled: Scaling, *, loss: float, max_order: int | None, copies: bool = False
) -> Realization:
    """Lowest order, up to `max_order`, whose simulation and one-step fits lose at most `loss` percent.

    The first states are the most probable ones and not the best, so that many states are no advantage. Where
    `found` has `copies` of the same states, its fit is that of the states which the record tells apart.
    """
    n = len(found.A)
    limit = n if max_order is None else min(n, max_order)
    if n < 2 or found.radius >= 1:
        return found
    balanced = Balanced(found, scaled)
    wanted = likely_fits((copies and balanced.told()) or found, scaled) - loss
    least, most = None, -np.inf
    for order in (*(k for k in TRIED if k < limit), limit):
        candidate = balanced.usable(order)
        if candidate is None:
            continue
        fit = likely_fits(candidate, scaled)
        if (fit >= wanted).all():
            return candidate
        if fit.sum() > most:
            least, most = candidate, fit.sum()
    return found if n <= limit or least is None else least


def forgetting(found: Realization) -> float:
    """Largest modulus of a pole of the predictor."""
    return float(np.abs(np.linalg.eigvals(found.A - found.K @ found.C)).max(initial=0.0))


def likely_fits(found: Realization, scaled: Scaling) -> Array:
    """Mean simulation and one-step fits with the most probable first states, so that states do not count.

    The simulation of a record without inputs counts as nothing.
    """
    size = np.sqrt((scaled.y**2).mean(axis=0)) + 1e-12
    simulation, prediction = (
        100 * (1 - np.sqrt((e**2).mean(axis=0)) / size).mean() for e in errors_on(found, scaled, scaled)
    )
    return np.array([simulation if scaled.u.shape[1] else 0.0, prediction])


def _factor(gramian: NDArray[np.floating]) -> Array:
    values, vectors = np.linalg.eigh((gramian + gramian.T) / 2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), dtype=float)
