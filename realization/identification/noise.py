"""Noise model of a realization: the Kalman gain from the residuals of its state equations."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ConvergenceWarning, RealizationError
from realization.filtering.riccati import dare
from realization.identification.factorization import Factorization
from realization.identification.regression import scaled_least_squares
from realization.systems.responses import free_response, predictor_states

__all__ = ["innovation_covariance", "kalman_gain", "one_step_innovations"]

Array = NDArray[np.float64]


def kalman_gain(factorization: Factorization, observability: Array, A: Array, C: Array) -> Array:
    r"""Kalman gain from the residuals $w, v$ of the state equations, shape (n, p).

    Their joint covariance is positive semidefinite by construction, so the Riccati equation has a stabilizing
    solution whatever the data (forced positive realness). A floor at the size of rounding stands in for noise
    where the record has none.
    """
    x, x_next, u, y = factorization.states(observability)
    equations = np.hstack([x_next - x @ A.T, y - x @ C.T])
    if u.shape[1]:
        equations = equations - u @ scipy.linalg.lstsq(u, equations)[0]
    n, count = len(A), factorization.columns
    joint = equations.T @ equations / count
    joint = (joint + joint.T) / 2
    Q, R, S = joint[:n, :n], joint[n:, n:], joint[:n, n:]
    Q = Q + 1e-24 * np.trace(x.T @ x) / count * np.eye(n)
    R = R + (1e-8 * np.trace(R) / len(R) + 1e-24) * np.eye(len(R))
    size = max(np.trace(Q) / n, np.trace(R) / len(R))
    try:
        return dare(A, C, Q / size, R / size, S / size).K
    except RealizationError as error:
        warnings.warn(
            f"no Kalman gain was found ({error}); the model predicts by simulation alone (K = 0).",
            ConvergenceWarning,
            stacklevel=2,
        )
        return np.zeros((n, len(C)))


def one_step_innovations(
    A: Array, B: Array, C: Array, D: Array, K: Array, u: Array, y: Array
) -> tuple[Array, Array]:
    """Innovations of a record with the best first state for them, and that state."""
    states = predictor_states(A, B, C, D, K, u, y)
    e = y - states @ C.T - u @ D.T
    if len(A) == 0:
        return e, np.zeros(0)
    basis = free_response(A - K @ C, C, len(u)).reshape(-1, len(A))
    x0 = scaled_least_squares(basis, e.reshape(-1))
    return e - (basis @ x0).reshape(e.shape), x0


def innovation_covariance(e: Array) -> Array:
    """Sample covariance, never singular: with a floor at the rounding of unit-variance outputs."""
    covariance = e.T @ e / len(e)
    return (covariance + covariance.T) / 2 + 1e-28 * np.eye(e.shape[1])
