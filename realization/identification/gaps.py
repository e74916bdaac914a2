"""What a model does not predict where outputs are missing: the Kalman filter from the best first state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from realization.errors import RealizationError
from realization.filtering.observations import observations
from realization.filtering.recursion import Transient, transient
from realization.identification.regression import FirstState, best_first_state
from realization.signals.data import IOData
from realization.signals.spans import complete_rows, spans_of
from realization.systems.models import InnovationsModel

__all__ = [
    "Passed",
    "covariance_of",
    "filtered_over_gaps",
    "innovations_over_gaps",
    "like_without_gaps",
    "noise_over_gaps",
]

Array = NDArray[np.float64]
ROUNDS = 4


class Passed(NamedTuple):
    """Innovations (T, p) of one experiment, zero where an output is missing, and their covariances.

    `spent` is how many of them the first state explains by itself.
    """

    e: Array
    x0: Array
    covariances: Array
    spent: float = 0.0


def filtered_over_gaps(
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    K: Array,
    Re: Array,
    u: Array,
    y: Array,
    prior: FirstState | None = None,
) -> Passed:
    r"""Kalman filter of one experiment from the first state that least squares prefers.

    The innovations are linear in the first state, $e_t(x_0) = \bar e_t - C_J \Phi_t x_0$ with
    $\Phi_{t+1} = (A - \Gamma_t C_J) \Phi_t$ and the gains $\Gamma_t$ of the filter, which do not depend on
    it. They are infinite where the filter overflows.
    """
    there, n = ~np.isnan(y), len(A)
    overflown = Passed(np.where(there, np.inf, 0.0), np.zeros(n), np.broadcast_to(Re, (len(y), *Re.shape)))
    try:
        passed = _passed(InnovationsModel(A, B, C, D, K=K, Re=Re), u, y)
    except RealizationError:
        return overflown
    e, x0, spent = np.where(there, passed.innovations, 0.0), np.zeros(n), 0.0
    if n:
        basis = _sensed(A, C, passed.gains, there)
        if not (np.isfinite(e).all() and np.isfinite(basis).all()):
            return overflown
        x0, spent = best_first_state(basis, e, prior)
        e = e - basis @ x0
    return Passed(e, x0, C @ passed.covariances @ C.T + Re, spent)


def _passed(model: InnovationsModel, u: Array, y: Array) -> Transient:
    """The filter at every sample, from a first state that is known to be zero."""
    seen = observations(model, IOData(y, u if u.shape[1] else None, missing=True), "identify")
    # A first sample that is said to be incomplete keeps the recursion from stopping at a settled gain.
    whole = seen._replace(complete_from=len(y))
    n = model.n_states
    return transient(model, whole, np.zeros(n), np.zeros((n, n)), square_root=False, caller="identify")


@numba.njit(cache=True)
def _sensed(A: Array, C: Array, gains: Array, there: NDArray[np.bool_]) -> Array:
    """What each first state puts into the innovations, shape (T, p, n)."""
    (T, p), n = there.shape, len(A)
    out, Phi, moved, sight = np.zeros((T, p, n)), np.eye(n), np.empty((n, n)), np.empty((p, n))
    for t in range(T):
        for k in range(p):
            for j in range(n):
                total = 0.0
                for i in range(n):
                    total += C[k, i] * Phi[i, j]
                sight[k, j] = total
                if there[t, k]:
                    out[t, k, j] = total
        for i in range(n):
            for j in range(n):
                total = 0.0
                for k in range(n):
                    total += A[i, k] * Phi[k, j]
                for k in range(p):
                    total -= gains[t, i, k] * sight[k, j]
                moved[i, j] = total
        Phi, moved = moved, Phi
    return out


def innovations_over_gaps(
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    K: Array,
    u: Array,
    y: Array,
    prior: FirstState | None = None,
) -> tuple[Array, Array, float]:
    """Innovations of one experiment, zero where an output is missing, its best first state, what that spends.

    What is missing of several outputs is guessed from the others by the innovations' covariance, which is
    read from the innovations themselves.
    """
    Re = np.eye(len(C))
    if len(C) > 1 and K.any():
        Re = covariance_of([filtered_over_gaps(A, B, C, D, K, Re, u, y)], [y], Re)
    passed = filtered_over_gaps(A, B, C, D, K, Re, u, y, prior)
    return passed.e, passed.x0, passed.spent


def like_without_gaps(
    A: Array, B: Array, C: Array, D: Array, K: Array, Re: Array, u: Array, y: Array
) -> Array:
    """Innovations of one experiment, whitened by their own covariance and coloured by `Re`."""
    passed = filtered_over_gaps(A, B, C, D, K, Re, u, y)
    white = np.linalg.solve(np.linalg.cholesky(passed.covariances), passed.e[..., None])[..., 0]
    return white @ np.linalg.cholesky(Re).T


def noise_over_gaps(
    A: Array, B: Array, C: Array, D: Array, K: Array, u: Array, y: Array, starts: Sequence[int]
) -> Array:
    """Innovation covariance that a record with missing outputs and its filter agree on."""
    spans = spans_of(starts, len(y))
    # Of one output only the scale is unknown, which the filter's gains do not depend on.
    Re = np.eye(len(C))
    for _ in range(ROUNDS if len(C) > 1 else 1):
        passed = [filtered_over_gaps(A, B, C, D, K, Re, u[rows], y[rows]) for rows in spans]
        Re = covariance_of(passed, [y[rows] for rows in spans], Re)
    return Re


def covariance_of(passed: list[Passed], y: list[Array], Re: Array) -> Array:
    r"""Innovation covariance by what the samples with all outputs show.

    After a gap the state is uncertain, and innovations are larger: $S_t = C P_t C^\top + R_e$. Whitened by
    $S_t$ and coloured by $R_e$ they count alike.
    """
    squares, count = np.zeros_like(Re), 0
    root = np.linalg.cholesky(Re)
    for run, outputs in zip(passed, y):
        complete = complete_rows(outputs)
        white = np.linalg.solve(np.linalg.cholesky(run.covariances[complete]), run.e[complete][..., None])
        like = white[..., 0] @ root.T
        squares += like.T @ like
        count += len(like)
    if count <= len(Re):
        return Re
    scale = float(np.trace(squares)) / count / len(Re)
    return squares / count + (1e-8 * scale + 1e-28) * np.eye(len(Re))
