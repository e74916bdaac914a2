"""The time-varying Kalman filter of an innovations model, and the exact Gaussian likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, RankError, ShapeError, UnstableError
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["KalmanResult", "kalman_filter", "stationary_covariance"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class KalmanResult:
    r"""What the Kalman filter says about a record of `T` samples.

    Attributes
    ----------
    states : ndarray, shape (T, n)
        Predicted states $\hat x_{t|t-1}$.
    innovations : ndarray, shape (T, p)
        $e_t = y_t - \hat y_{t|t-1}$.
    normalized_squared : ndarray, shape (T,)
        $e_t^\top R_{e,t}^{-1} e_t$, chi-squared with `p` degrees of freedom if the model is right.
    log_likelihood : float
        Natural logarithm of the Gaussian density of the outputs.
    last_state : ndarray, shape (n,)
        $\hat x_{T|T-1}$, from which the next record goes on.
    transient : int
        Samples until the covariance stood still to rounding; from there on the gain is constant.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import kalman_filter
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> result = kalman_filter(model, np.ones(20))
    >>> result.states.shape, result.covariances.shape
    ((20, 1), (20, 1, 1))
    """

    states: Array
    innovations: Array
    normalized_squared: Array
    log_likelihood: float
    last_state: Array
    transient: int
    _covariances: Array
    _innovation_covariances: Array

    @property
    def covariances(self) -> Array:
        r"""Covariances of $x_t - \hat x_{t|t-1}$, shape (T, n, n)."""
        return self._spread(self._covariances)

    @property
    def innovation_covariances(self) -> Array:
        r"""Covariances $R_{e,t}$ of the innovations, shape (T, p, p)."""
        return self._spread(self._innovation_covariances)

    def _spread(self, head: Array) -> Array:
        """All `T` matrices: those of the transient, then the last one again and again."""
        full = np.empty((len(self.states), *head.shape[1:]))
        full[: len(head)] = head
        full[len(head) :] = head[-1]
        return full


def kalman_filter(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    x0: ArrayLike | None = None,
    P0: ArrayLike | None = None,
) -> KalmanResult:
    r"""Kalman filter with its exact transient, for process noise $K e$ and measurement noise $e$.

    $$\hat x_{t+1} = A \hat x_t + B u_t + K_t e_t, \quad R_{e,t} = C P_t C^\top + R_e, \quad
    K_t = K + F P_t C^\top R_{e,t}^{-1}, \quad
    P_{t+1} = F (P_t - P_t C^\top R_{e,t}^{-1} C P_t) F^\top, \quad F = A - K C$$

    Once $P_t$ stands still to rounding the gain is constant, and the rest is one linear recurrence.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
    x0 : array_like, shape (n,), optional
        Mean of the state at the first sample; zero when left out.
    P0 : array_like, shape (n, n), optional
        Its covariance. When left out, that of the stationary noise path, $P = A P A^\top + K R_e K^\top$: the
        likelihood of an output-only record is then exact. Zeros mean that the state is known.

    Returns
    -------
    KalmanResult

    Raises
    ------
    UnstableError
        If `P0` is left out and the model is not stable.
    RankError
        If the innovation covariance is singular.
    ShapeError, DataError
        If `x0`, `P0` or the record does not fit, or `P0` is not positive semidefinite.

    References
    ----------
    B. D. O. Anderson, J. B. Moore, *Optimal Filtering*, Prentice-Hall 1979, sections 4.1 and 5.5.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import kalman_filter
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> result = kalman_filter(model, rz.IOData([1.0, 1.0]))
    >>> result.innovation_covariances[:, 0, 0].round(4)
    array([1.3333, 1.    ])
    """
    model._require_discrete("kalman_filter")
    record = model._record(data)
    start = model._state(x0)
    P = stationary_covariance(model) if P0 is None else _covariance(P0, model.n_states)
    cholesky_of(model.Re, "kalman_filter")
    u, y = record.inputs - model.u_mean, record.y - model.y_mean
    drive = u @ model.B.T
    direct = y - u @ model.D.T
    head = _transient(model.A, model.K, model.C, model.Re, P, start, drive, direct)
    states, innovations, covariances, innovation_covariances, gain, following = head
    done = len(states)
    if done < record.length:
        F = model.A - gain @ model.C
        rest, following = lti_scan(
            F, np.hstack([np.eye(model.n_states), gain]), np.hstack([drive[done:], direct[done:]]), following
        )
        states = np.vstack([states, rest])
        innovations = np.vstack([innovations, direct[done:] - rest @ model.C.T])
    squared, log_det = _normalized(innovations, innovation_covariances)
    constant = model.n_outputs * np.log(2 * np.pi)
    return KalmanResult(
        states=states,
        innovations=innovations,
        normalized_squared=squared,
        log_likelihood=float(-0.5 * (record.length * constant + log_det + squared.sum())),
        last_state=following,
        transient=done,
        _covariances=covariances,
        _innovation_covariances=innovation_covariances,
    )


def stationary_covariance(model: InnovationsModel) -> Array:
    r"""Stationary covariance of the state that the innovations drive: $P = A P A^\top + K R_e K^\top$.

    Parameters
    ----------
    model : InnovationsModel
        Stable.

    Returns
    -------
    P : ndarray, shape (n, n)

    Raises
    ------
    UnstableError
        If the model is not stable.

    References
    ----------
    B. D. O. Anderson, J. B. Moore, *Optimal Filtering*, Prentice-Hall 1979, section 4.2.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import stationary_covariance
    >>> stationary_covariance(rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])).round(4)
    array([[0.3333]])
    """
    if not model.is_stable:
        raise UnstableError(
            f"stationary_covariance: the model has a pole of modulus {abs(model.poles[0]):.6g}, so its "
            "state has no stationary covariance. Give P0 (zeros where the first state is known)."
        )
    if model.n_states == 0:
        return np.zeros((0, 0))
    P = scipy.linalg.solve_discrete_lyapunov(model.A, model.K @ model.Re @ model.K.T)
    return (P + P.T) / 2


def cholesky_of(Re: Array, caller: str) -> Array:
    """Lower Cholesky factor of an innovation covariance, or an error that says what to do."""
    values = np.linalg.eigvalsh(Re)
    if len(values) and not values[0] > len(values) * EPS * values[-1]:
        raise RankError(
            f"{caller}: the innovation covariance Re is singular (eigenvalues {values[0]:.3g} to "
            f"{values[-1]:.3g}), so innovations have no density. Drop redundant outputs, or give the model a "
            "small Re."
        )
    return np.linalg.cholesky(Re).astype(float)


def _covariance(P0: ArrayLike, n: int) -> Array:
    P = np.asarray(P0, dtype=float)
    if P.shape != (n, n):
        raise ShapeError(f"kalman_filter: P0 has shape {P.shape}; it must be {(n, n)}.")
    if not np.isfinite(P).all():
        raise DataError("kalman_filter: P0 has entries that are NaN or infinite.")
    scale = np.abs(P).max(initial=0.0)
    if np.abs(P - P.T).max(initial=0.0) > 1e-10 * scale:
        raise DataError("kalman_filter: P0 is not symmetric.")
    if n and np.linalg.eigvalsh(P)[0] < -1e-10 * scale:
        raise DataError("kalman_filter: P0 is not positive semidefinite.")
    return (P + P.T) / 2


def _normalized(innovations: Array, covariances: Array) -> tuple[Array, float]:
    """Normalized squares, and the sum of log determinants over the record."""
    head, rest = innovations[: len(covariances)], innovations[len(covariances) :]
    factors = np.linalg.cholesky(covariances)
    white = np.linalg.solve(factors, head[:, :, None])[:, :, 0]
    log_dets = 2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    steady = scipy.linalg.solve_triangular(factors[-1], rest.T, lower=True).T
    squared = (np.vstack([white, steady]) ** 2).sum(axis=1)
    return squared, float(log_dets.sum() + len(rest) * log_dets[-1])


def _transient(
    A: Array, K: Array, C: Array, R: Array, P: Array, x: Array, drive: Array, direct: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Filter until the covariance stands still, in blocks so that memory follows the transient's length."""
    parts = []
    size, begin, initial, settled = 64, 0, float(np.trace(P)), False
    while True:
        stop = min(begin + size, len(direct))
        *part, x, P, gain, settled, finished = _filter_block(
            A,
            K,
            C,
            R,
            P,
            x,
            np.ascontiguousarray(drive[begin:stop]),
            np.ascontiguousarray(direct[begin:stop]),
            initial,
            settled,
        )
        parts.append(part)
        begin += len(part[0])
        size *= 2
        if finished or begin >= len(direct):
            break
    states, innovations, covariances, innovation_covariances = (
        np.concatenate(column) for column in zip(*parts)
    )
    return states, innovations, covariances, innovation_covariances, gain, x


@numba.njit(cache=True)
def _filter_block(
    A: Array,
    K: Array,
    C: Array,
    R: Array,
    P: Array,
    x: Array,
    drive: Array,
    direct: Array,
    initial: float,
    settled: bool,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, bool, bool]:
    length, n = drive.shape
    p = len(C)
    F = A - K @ C
    states, innovations = np.empty((length, n)), np.empty((length, p))
    covariances, innovation_covariances = np.empty((length, n, n)), np.empty((length, p, p))
    gain = K.copy()
    finished = False
    done = length
    transposed = np.ascontiguousarray(C.T)
    F_transposed = np.ascontiguousarray(F.T)
    for t in range(length):
        states[t] = x
        e = direct[t] - C @ x
        innovations[t] = e
        covariances[t] = P
        PC = P @ transposed
        Re = C @ PC + R
        innovation_covariances[t] = Re
        L = np.ascontiguousarray(np.linalg.solve(Re, np.ascontiguousarray(PC.T)).T)
        gain = K + F @ L
        x = A @ x + drive[t] + gain @ e
        # Joseph's form keeps P symmetric and positive semidefinite under rounding.
        kept = -(L @ C)
        for i in range(n):
            kept[i, i] += 1.0
        inner = kept @ P @ np.ascontiguousarray(kept.T) + L @ R @ np.ascontiguousarray(L.T)
        following = F @ inner @ F_transposed
        following = 0.5 * (following + following.T)
        if settled:
            finished = True
            done = t + 1
            break
        change = np.abs(following - P).max() if n else 0.0
        size = np.abs(following).max() if n else 0.0
        P = following
        # The gain that stays is the one that the settled covariance gives, at the next sample.
        settled = np.trace(P) <= 1e-18 * initial or change <= 1e-16 * size
    return (
        states[:done],
        innovations[:done],
        covariances[:done],
        innovation_covariances[:done],
        x,
        P,
        gain,
        settled,
        finished,
    )
