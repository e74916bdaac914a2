"""Noise model of a realization: the Kalman gain from the residuals of its state equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import NDArray

from realization.errors import ConvergenceWarning, RealizationError, UnstableError
from realization.filtering.riccati import dare
from realization.identification.factorization import Factorization
from realization.identification.gaps import innovations_over_gaps
from realization.identification.regression import FirstState, best_first_state
from realization.notes import warn
from realization.signals.spans import spans_of
from realization.systems.responses import first_states, free_response, joined, predictor_states

__all__ = [
    "Started",
    "finite_innovations",
    "first_state_prior",
    "innovation_covariance",
    "kalman_gain",
    "noise_model",
    "one_step_innovations",
    "residual_covariance",
    "started",
]

Array = NDArray[np.float64]
CHUNK = 8192
PRIOR_ROUNDS, PRIOR_CHANGE = 20, 0.02


def kalman_gain(factorization: Factorization, observability: Array, A: Array, C: Array) -> Array:
    """Kalman gain from the residuals of the state equations, shape (n, p); see `noise_model`."""
    return noise_model(factorization, observability, A, C)[0]


def noise_model(
    factorization: Factorization, observability: Array, A: Array, C: Array, *, riccati: bool = True
) -> tuple[Array, Array]:
    r"""Kalman gain (n, p) and innovation covariance (p, p) from the residuals $w, v$ of the state equations.

    Their joint covariance is positive semidefinite by construction, so the Riccati equation has a
    stabilizing solution whatever the data (forced positive realness). A floor at the size of rounding
    stands in for noise where the record has none. Without `riccati` the residuals are taken as $w = K e$,
    $v = e$, which holds for the states of a long past, unless the predictor that follows is unstable.
    """
    x, x_next, u, y = factorization.states(observability)
    equations = np.hstack([x_next - x @ A.T, y - x @ C.T])
    if u.shape[1]:
        equations = equations - u @ scipy.linalg.lstsq(u, equations)[0]
    n, count = len(A), factorization.columns
    joint = equations.T @ equations / count
    joint = (joint + joint.T) / 2
    Q, R, S = joint[:n, :n], joint[n:, n:], joint[:n, n:]
    if n == 0:
        return np.zeros((0, len(C))), R
    Q = Q + 1e-24 * np.trace(x.T @ x) / count * np.eye(n)
    R = R + (1e-8 * np.trace(R) / len(R) + 1e-24) * np.eye(len(R))
    if not riccati:
        K = np.linalg.solve(R, S.T).T
        if np.abs(np.linalg.eigvals(A - K @ C)).max() < 1:
            return K, R
    size = max(np.trace(Q) / n, np.trace(R) / len(R))
    try:
        found = dare(A, C, Q / size, R / size, S / size)
    except RealizationError as error:
        warn(
            f"no Kalman gain was found ({error}); the model predicts by simulation alone (K = 0).",
            ConvergenceWarning,
            stacklevel=3,
        )
        return np.zeros((n, len(C))), R
    return found.K, found.Re * size


def one_step_innovations(
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    K: Array,
    u: Array,
    y: Array,
    starts: Sequence[int] = (0,),
    prior: FirstState | None = None,
) -> tuple[Array, Array]:
    """Innovations of a record with the best first state of each experiment, and those states.

    States have shape (E, n), of a single experiment (n,). Where outputs are missing (NaN) the innovations
    are those of the Kalman filter, zero at the missing values. With a `prior` the first states are the most
    probable ones: many states cannot explain a short experiment by themselves.
    """
    parts = started(A, B, C, D, K, u, y, starts, prior)
    return joined([part.e for part in parts]), first_states([part.x0 for part in parts])


def finite_innovations(caller: str, A: Array, *parts: Any) -> tuple[Array, Array]:
    """`one_step_innovations`; where they overflow, an error that a caller's caller understands."""
    try:
        e, x0 = one_step_innovations(A, *parts)
    except np.linalg.LinAlgError:
        e, x0 = np.full((1, 1), np.inf), np.zeros(len(A))
    if not np.isfinite(e).all():
        raise UnstableError(
            f"{caller}: the model's predictions overflow on this record. Its predictor (A - K C) is "
            "unstable, or its units are not those of the record."
        )
    return e, x0


def first_state_prior(
    A: Array, B: Array, C: Array, D: Array, K: Array, u: Array, y: Array, starts: Sequence[int] = (0,)
) -> FirstState:
    r"""What a record tells of first states: the second moment of all states, and the size of the errors.

    From states that begin at zero, then from the most probable ones, again and again until they agree; the
    errors are corrected for what first states spend on them (for long experiments next to nothing).
    """
    there = ~np.isnan(y)
    filled = np.where(there, y, 0.0)
    states = predictor_states(A, B, C, D, K, u, filled, starts=starts)
    prior = _prior(states, np.where(there, filled - states @ C.T - u @ D.T, 0.0), there, 0.0)
    for _ in range(PRIOR_ROUNDS):
        parts = started(A, B, C, D, K, u, y, starts, prior)
        e, x0 = joined([part.e for part in parts]), first_states([part.x0 for part in parts])
        spent = sum(part.spent for part in parts)
        last, prior = prior, _prior(predictor_states(A, B, C, D, K, u, filled, x0, starts), e, there, spent)
        if np.abs(prior.noise / last.noise - 1).max() < PRIOR_CHANGE:
            break
    return prior


def _prior(states: Array, e: Array, there: NDArray[np.bool_], spent: float) -> FirstState:
    values, vectors = np.linalg.eigh(states.T @ states / len(states))
    left = max(there.sum() - spent, 1.0) / max(there.sum(), 1)
    noise = np.sqrt((e**2).sum(axis=0) / np.maximum(there.sum(axis=0), 1) / left) + 1e-10
    return FirstState(vectors * np.sqrt(np.maximum(values, 0.0)), noise)


class Started(NamedTuple):
    """Innovations (T, p) of one experiment, its first state, and how many of them that spends."""

    e: Array
    x0: Array
    spent: float


def started(
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    K: Array,
    u: Array,
    y: Array,
    starts: Sequence[int] = (0,),
    prior: FirstState | None = None,
) -> list[Started]:
    """Each experiment from its best first state, or with a `prior` from the most probable one.

    Raises
    ------
    numpy.linalg.LinAlgError
        If they overflow.
    """
    if not np.isnan(y).any():
        return [_started(A, B, C, D, K, u[rows], y[rows], prior) for rows in spans_of(starts, len(y))]
    return [
        Started(*innovations_over_gaps(A, B, C, D, K, u[rows], y[rows], prior))
        for rows in spans_of(starts, len(y))
    ]


def _started(
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    K: Array,
    u: Array,
    y: Array,
    prior: FirstState | None,
) -> Started:
    transition, entry = A - K @ C, np.hstack([B - K @ D, K])
    e, state = np.empty_like(y), np.zeros(len(A))
    for begin in range(0, len(y), CHUNK):
        part = slice(begin, min(begin + CHUNK, len(y)))
        states, state = lti_scan(transition, entry, np.hstack([u[part], y[part]]), state)
        e[part] = y[part] - states @ C.T - u[part] @ D.T
    if len(A) == 0:
        return Started(e, np.zeros(0), 0.0)
    length = _memory(transition, len(y))
    basis = free_response(transition, C, length)
    x0, spent = best_first_state(basis, e[:length], prior)
    e[:length] -= (basis.reshape(-1, len(A)) @ x0).reshape(length, -1)
    return Started(e, x0, spent)


def _memory(A: Array, longest: int) -> int:
    """Samples after which a first state is below all rounding, at most `longest`."""
    power, length, size = A, 1, np.linalg.norm(A)
    while length < longest and 1e-20 < size < 1e100:
        power, length = power @ power, 2 * length
        size = np.linalg.norm(power)
    return min(length, longest) if size <= 1e-20 else longest


def residual_covariance(
    A: Array, B: Array, C: Array, D: Array, K: Array, u: Array, y: Array, starts: Sequence[int] = (0,)
) -> Array:
    """Covariance of the innovations of a record; of several experiments, with the most probable first states.

    Free ones would explain short experiments by themselves, and leave no innovations.
    """
    if len(starts) == 1:
        return innovation_covariance(one_step_innovations(A, B, C, D, K, u, y)[0])
    prior = first_state_prior(A, B, C, D, K, u, y, starts)
    parts = started(A, B, C, D, K, u, y, starts, prior)
    e, spent = joined([part.e for part in parts]), sum(part.spent for part in parts)
    left = max(e.size - spent, 1.0) / e.size
    return innovation_covariance(e / np.sqrt(left))


def innovation_covariance(e: Array) -> Array:
    """Sample covariance, never singular: with a floor at the rounding of unit-variance outputs."""
    covariance = e.T @ e / len(e)
    return (covariance + covariance.T) / 2 + 1e-28 * np.eye(e.shape[1])
