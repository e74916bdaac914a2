"""Smoothing: states and missing outputs given the whole record, with no state covariance inverted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numba
import numpy as np
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, UnstableError
from realization.filtering.covariance import root_of
from realization.filtering.finite_gramian import finite_gramian
from realization.filtering.kalman import first_state
from realization.filtering.observations import Observations, observations
from realization.filtering.parallel import parallel_filter, stretches, suffixes
from realization.filtering.recursion import Transient, transient
from realization.filtering.settling import SPREAD, refuse_spread, spread
from realization.filtering.small_matrices import (
    cholesky,
    invert,
    multiply,
    multiply_transposed,
    transposed_multiply,
)
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["SmootherResult", "kalman_smoother"]

Array = NDArray[np.float64]
SmootherForm = Literal["covariance", "parallel"]


@dataclass(frozen=True, eq=False)
class SmootherResult:
    r"""What a whole record of `T` samples says about its states and its missing outputs.

    Attributes
    ----------
    states : ndarray, shape (T, n)
        $\hat x_{t|T}$.
    outputs : ndarray, shape (T, p)
        The outputs in the units of the record; those that are missing at their conditional mean.
    innovations : ndarray, shape (T, p)
        $\hat e_{t|T} = \hat y_{t|T} - C \hat x_{t|T} - D u_t$, with which the model gives `outputs` back.
    log_likelihood : float
        As `kalman_filter` gives it.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import kalman_smoother
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    >>> result = kalman_smoother(model, rz.IOData([1.0, np.nan, 1.0], missing=True))
    >>> result.outputs[:, 0].round(3), result.output_covariances[:, 0, 0].round(3)
    (array([1.   , 0.994, 1.   ]), array([0.   , 0.552, 0.   ]))
    """

    states: Array
    outputs: Array
    innovations: Array
    log_likelihood: float
    _covariances: Array
    _cross: Array
    _gaps: NDArray[np.int64]
    _gap_covariances: Array

    @property
    def covariances(self) -> Array:
        r"""Covariances of $x_t$ given the record, shape (T, n, n)."""
        full = np.zeros((len(self.states), *self._covariances.shape[1:]))
        full[: len(self._covariances)] = self._covariances
        return full

    @property
    def cross_covariances(self) -> Array:
        r"""Covariances of $x_{t+1}$ with $x_t$ given the record, shape (T - 1, n, n)."""
        full = np.zeros((len(self.states) - 1, *self._cross.shape[1:]))
        full[: len(self._cross)] = self._cross
        return full

    @property
    def output_covariances(self) -> Array:
        """Covariances of the outputs given the record, shape (T, p, p); zero where an output was measured."""
        full = np.zeros((len(self.outputs), *self._gap_covariances.shape[1:]))
        full[self._gaps] = self._gap_covariances
        return full


def kalman_smoother(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    x0: ArrayLike | None = None,
    P0: ArrayLike | None = None,
    steady: bool = False,
    form: SmootherForm = "covariance",
) -> SmootherResult:
    r"""Fixed-interval smoother (Bryson-Frazier form) for process noise $K e$ and measurement noise $e$.

    $$\lambda_t = F_t^\top \lambda_{t+1} + C^\top R_{e,t}^{-1} e_t, \quad
    \Lambda_t = F_t^\top \Lambda_{t+1} F_t + C^\top R_{e,t}^{-1} C, \quad F_t = A - K_t C$$

    $$\hat x_{t|T} = \hat x_t + P_t \lambda_t, \quad P_{t|T} = P_t - P_t \Lambda_t P_t, \quad
    \operatorname{cov}(x_{t+1}, x_t \mid T) = (I - P_{t+1} \Lambda_{t+1}) F_t P_t$$

    In an innovations model the state becomes known once the transient is over: there the smoother adds
    nothing, except after missing outputs.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
        Outputs may be missing: `IOData(y, u, missing=True)` with NaN in their places.
    x0 : array_like, shape (n,), optional
        Mean of the state at the first sample; zero when left out.
    P0 : array_like, shape (n, n), optional
        Its covariance; the stationary one when left out.
    steady : bool
        Take the first state as known: `P0` of zeros.
    form : {"covariance", "parallel"}
        `parallel` joins pieces of the record in a tree; same numbers.

    Returns
    -------
    SmootherResult

    Raises
    ------
    UnstableError, RankError, ShapeError, DataError
        As `kalman_filter`.

    References
    ----------
    G. J. Bierman, Fixed interval smoothing with discrete measurements, Int. J. Control 18 (1973) 65-75.
    P. de Jong, Smoothing and interpolation with the state-space model, J. Amer. Statist. Assoc. 84 (1989)
    1085-1088.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import kalman_smoother
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> kalman_smoother(model, rz.IOData([2.0, np.nan, 0.0], missing=True), steady=True).outputs[:, 0]
    array([2. , 0.8, 0. ])
    """
    if form not in get_args(SmootherForm):
        raise DataError(
            f"kalman_smoother: form={form!r} came; one of {', '.join(get_args(SmootherForm))} is needed."
        )
    seen = observations(model, data, "kalman_smoother")
    start, P = first_state(model, x0, P0, steady, "kalman_smoother")
    T = seen.record.length
    if P0 is not None:
        refuse_spread(model, P, T, "kalman_smoother", "Give a smaller P0.")
    if form == "parallel":
        head = parallel_filter(model, seen, start, P)
        return _result(model, seen, head, by_suffixes=True)
    wide = spread(model, P, T) > SPREAD
    head = transient(model, seen, start, P, square_root=False, caller="kalman_smoother")
    if len(head.states) < T and (wide or head.covariances[-1].any()):
        # The gain settled and the state stays uncertain: every sample is smoothed.
        whole = seen._replace(complete_from=T)
        head = transient(model, whole, start, P, square_root=False, caller="kalman_smoother")
    return _result(model, seen, head, by_suffixes=wide)


def _result(
    model: InnovationsModel, seen: Observations, head: Transient, *, by_suffixes: bool
) -> SmootherResult:
    done, T, noises = len(head.states), seen.record.length, seen.noises
    F, W = noises.F[0], np.linalg.inv(model.Re)
    signals = np.hstack([seen.u[done:], seen.y[done:]])
    later, last = lti_scan(F, np.hstack([model.B - model.K @ model.D, model.K]), signals, head.following)
    states = np.vstack([head.states, later])
    if not (np.isfinite(states).all() and np.isfinite(last).all()):
        raise UnstableError("kalman_smoother: the states overflow over this record; use a shorter one.")
    e = seen.y[done:] - later @ model.C.T - seen.u[done:] @ model.D.T
    squared = head.squared.sum() + np.vdot(e @ W, e)
    log_det = head.log_dets.sum() + (T - done) * np.linalg.slogdet(model.Re)[1]
    count = int(seen.record.observed.sum())
    P = head.covariances
    if by_suffixes:
        lam, Lam, moved, covariances = _future_by_suffixes(model, seen, head)
    else:
        lam, Lam = _future(model, seen, head, e @ W)
        moved, covariances = np.einsum("tij,tj->ti", P, lam[:-1]), P - P @ Lam[:-1] @ P
    states[:done] += moved
    closed = model.A - head.gains @ noises.C[seen.pattern[:done]]
    P_next = np.concatenate([P[1:], np.zeros((1, *P.shape[1:]))])
    cross = (np.eye(model.n_states) - P_next @ Lam[1:]) @ closed @ P
    outputs, gaps, gap_covariances = _gaps(model, seen, head, closed, lam, Lam)
    fed = seen.u @ model.D.T + model.y_mean
    return SmootherResult(
        states=states,
        outputs=outputs,
        innovations=outputs - fed - states @ model.C.T,
        log_likelihood=float(-0.5 * (count * np.log(2 * np.pi) + log_det + squared)),
        _covariances=(covariances + covariances.transpose(0, 2, 1)) / 2,
        _cross=cross[: T - 1],
        _gaps=gaps,
        _gap_covariances=gap_covariances,
    )


def _future(model: InnovationsModel, seen: Observations, head: Transient, g: Array) -> tuple[Array, Array]:
    r"""$\lambda$ and $\Lambda$ at the samples of the transient and at the one that follows it."""
    n, rest = model.n_states, len(g)
    F, C = seen.noises.F[0], model.C
    lam, Lam = np.zeros(n), np.zeros((n, n))
    if rest:
        # The rest of the record has a constant gain: a scan, and a Gramian by doubling.
        lam = lti_scan(F.T, C.T, g[::-1])[1]
        W = C.T @ np.linalg.solve(model.Re, C)
        Lam = finite_gramian(F, (W + W.T) / 2, rest)[0]
    return backward(
        model.A,
        seen.noises.C,
        seen.noises.R,
        seen.pattern,
        head.covariances,
        head.gains,
        head.innovations,
        np.ascontiguousarray(lam),
        np.ascontiguousarray(Lam),
    )


def _future_by_suffixes(
    model: InnovationsModel, seen: Observations, head: Transient
) -> tuple[Array, Array, Array, Array]:
    r"""The same from what each suffix says, $(\eta, J)$: $\lambda = (I + J P)^{-1} (\eta - J \hat x)$.

    With $P = Z Z^\top$ the smoothed covariance is $Z (I + Z^\top J Z)^{-1} Z^\top$, a sum and no difference,
    and it takes $\eta - J \hat x$ to what smoothing adds to the state.
    """
    n = model.n_states
    told = suffixes(stretches(model, seen))
    surprise = told.eta - np.einsum("tij,tj->ti", told.J, head.states)
    Z = np.array([root_of(P) for P in head.covariances]).reshape(head.covariances.shape)
    factor = np.linalg.cholesky(np.eye(n) + Z.transpose(0, 2, 1) @ told.J @ Z)
    half = np.linalg.solve(factor, Z.transpose(0, 2, 1)) if n else Z
    covariances = half.transpose(0, 2, 1) @ half
    both = np.concatenate([surprise[..., None], told.J], axis=2)
    solved = np.linalg.solve(np.eye(n) + told.J @ head.covariances, both).astype(float) if n else both
    end = np.zeros((1, n, n + 1))
    solved = np.concatenate([solved, end])
    moved = np.einsum("tij,tj->ti", covariances, surprise)
    return solved[..., 0], solved[..., 1:], moved, covariances


def _gaps(
    model: InnovationsModel, seen: Observations, head: Transient, closed: Array, lam: Array, Lam: Array
) -> tuple[Array, NDArray[np.int64], Array]:
    """Outputs with the missing ones filled in, the rows where some are missing, and their covariances."""
    rows = np.flatnonzero(seen.pattern)
    outputs = seen.record.y.copy()
    p = model.n_outputs
    if not len(rows):
        return outputs, rows, np.zeros((0, p, p))
    which = seen.pattern[rows]
    P, Gamma, C = head.covariances[rows], head.gains[rows], seen.noises.C[which]
    there = seen.noises.present[which]
    inverse = np.linalg.inv(C @ P @ C.transpose(0, 2, 1) + seen.noises.R[which])
    inverse *= there[:, :, None] & there[:, None, :]
    v = np.einsum("tij,tj->ti", inverse, head.innovations[rows])
    full = model.C @ P @ model.C.T + model.Re
    # Covariance of the next state's error with the error of the predicted output, missing entries included.
    H = closed[rows] @ P @ model.C.T + (model.K - Gamma) @ model.Re
    predicted = head.states[rows] @ model.C.T + seen.u[rows] @ model.D.T + model.y_mean
    mean = predicted + np.einsum("tij,tj->ti", full, v) + np.einsum("tji,tj->ti", H, lam[rows + 1])
    covariance = full - full @ inverse @ full - H.transpose(0, 2, 1) @ Lam[rows + 1] @ H
    covariance *= ~there[:, :, None] & ~there[:, None, :]
    outputs[rows] = np.where(there, outputs[rows], mean)
    return outputs, rows, (covariance + covariance.transpose(0, 2, 1)) / 2


@numba.njit(cache=True)
def backward(
    A: Array,
    C: Array,
    R: Array,
    pattern: NDArray[np.int64],
    covariances: Array,
    gains: Array,
    innovations: Array,
    last: Array,
    Last: Array,
) -> tuple[Array, Array]:
    """The smoother's recursion from what follows the last sample, shapes (H + 1, n) and (H + 1, n, n)."""
    T, n, _ = covariances.shape
    p = innovations.shape[1]
    lam, Lam = np.zeros((T + 1, n)), np.zeros((T + 1, n, n))
    lam[T], Lam[T] = last, Last
    PC, CPC, SC = np.empty((n, p)), np.empty((p, p)), np.empty((p, n))
    factor, inverse = np.zeros((p, p)), np.zeros((p, p))
    F, LF, moved, told = np.empty((n, n)), np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    for t in range(T - 1, -1, -1):
        j = pattern[t]
        multiply_transposed(covariances[t], C[j], PC)
        multiply(C[j], PC, CPC)
        for i in range(p):
            for k in range(p):
                CPC[i, k] += R[j, i, k]
        cholesky(CPC, factor)
        invert(factor, inverse)
        multiply(gains[t], C[j], F)
        for i in range(n):
            for k in range(n):
                F[i, k] = A[i, k] - F[i, k]
        multiply(inverse, C[j], SC)
        for i in range(n):
            for k in range(p):
                lam[t, i] += SC[k, i] * innovations[t, k]
            for k in range(n):
                lam[t, i] += F[k, i] * lam[t + 1, k]
        multiply(Lam[t + 1], F, LF)
        transposed_multiply(F, LF, moved)
        transposed_multiply(C[j], SC, told)
        for i in range(n):
            for k in range(i + 1):
                value = 0.5 * (moved[i, k] + moved[k, i] + told[i, k] + told[k, i])
                Lam[t, i, k] = Lam[t, k, i] = value
    return lam, Lam
