"""The filter Riccati equation, and the innovations form that it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import ConvergenceError, DataError, RankError, ShapeError
from realization.systems.models import InnovationsModel

__all__ = ["DareSolution", "dare", "innovations_form"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class DareSolution:
    """Stabilizing solution of the filter Riccati equation.

    Attributes
    ----------
    P : ndarray, shape (n, n)
        Covariance of the state's one-step prediction error.
    K : ndarray, shape (n, p)
        Kalman gain of the one-step predictor.
    Re : ndarray, shape (p, p)
        Innovation covariance.
    poles : ndarray, shape (n,)
        Eigenvalues of `A - K C`, largest modulus first.
    residual : float
        Frobenius norm of the equation's two sides' difference, over that of its largest term.

    Examples
    --------
    >>> from realization.filtering import dare
    >>> solution = dare([[0.5]], [[1.0]], Q=[[0.75]], R=[[0.0]])
    >>> solution.K.round(6), bool(solution.residual < 1e-12)
    (array([[0.5]]), True)
    """

    P: Array
    K: Array
    Re: Array
    poles: NDArray[np.complex128]
    residual: float


def dare(A: ArrayLike, C: ArrayLike, Q: ArrayLike, R: ArrayLike, S: ArrayLike | None = None) -> DareSolution:
    r"""Stabilizing solution of the discrete-time filter Riccati equation.

    $$P = A P A^\top + Q - (A P C^\top + S) R_e^{-1} (A P C^\top + S)^\top, \quad
    R_e = C P C^\top + R, \quad K = (A P C^\top + S) R_e^{-1}$$

    The ordered generalized Schur form gives $P$; Newton steps follow while they reduce the residual.

    Parameters
    ----------
    A : array_like, shape (n, n)
    C : array_like, shape (p, n)
    Q : array_like, shape (n, n)
        Process noise covariance, positive semidefinite.
    R : array_like, shape (p, p)
        Measurement noise covariance, positive semidefinite; $R_e$ must come out positive definite.
    S : array_like, shape (n, p), optional
        Cross covariance $E[w v^\top]$; zero when left out.

    Returns
    -------
    DareSolution

    Raises
    ------
    ShapeError
        If the matrices do not fit together.
    DataError
        If an entry is not finite, or `[[Q, S], [Sᵀ, R]]` is not positive semidefinite.
    RankError
        If an eigenvalue on or outside the unit circle cannot be seen in the outputs, or $R_e$ is singular.
    ConvergenceError
        If there is no stabilizing solution: a mode on the unit circle is not driven by the process noise.

    References
    ----------
    T. Kailath, A. H. Sayed, B. Hassibi, *Linear Estimation*, Prentice-Hall 2000, appendix E.
    P. Van Dooren, A generalized eigenvalue approach for solving Riccati equations, SIAM J. Sci. Stat.
    Comput. 2 (1981) 121-135.

    Examples
    --------
    >>> from realization.filtering import dare
    >>> solution = dare([[1.0]], [[1.0]], Q=[[1.0]], R=[[1.0]])
    >>> round(float(solution.P[0, 0]), 12), round(float(solution.K[0, 0]), 12)
    (1.61803398875, 0.61803398875)
    """
    A, C, Q, R, S = _checked(A, C, Q, R, S)
    if len(A) == 0:
        _positive_definite(R)
        return DareSolution(np.zeros((0, 0)), np.zeros((0, len(C))), R, np.zeros(0, complex), 0.0)
    _require_detectable(A, C)
    P = _newton(A, C, Q, R, S, _initial_solution(A, C, Q, R, S))
    Re = C @ P @ C.T + R
    K = _gain(A, C, S, P, Re)
    poles = np.asarray(np.linalg.eigvals(A - K @ C), dtype=np.complex128)
    poles = poles[np.lexsort((poles.imag, -np.abs(poles)))]
    residual = _residual(A, C, Q, R, S, P)
    if not abs(poles[0]) < 1 or residual > 1e-6:
        raise ConvergenceError(
            f"dare: no stabilizing solution was reached (largest closed-loop pole {abs(poles[0]):.6g}, "
            f"relative residual {residual:.2g}). A mode of A on or near the unit circle is not driven by "
            "the process noise: add noise to it in Q, or take it out of the model."
        )
    return DareSolution(P, K, (Re + Re.T) / 2, poles, residual)


def innovations_form(
    A: ArrayLike,
    C: ArrayLike,
    Q: ArrayLike,
    R: ArrayLike,
    S: ArrayLike | None = None,
    *,
    B: ArrayLike | None = None,
    D: ArrayLike | None = None,
    dt: float | None = None,
) -> InnovationsModel:
    r"""Innovations form of a model with process and measurement noise.

    $$x_{t+1} = A x_t + B u_t + w_t,\ y_t = C x_t + D u_t + v_t \quad\longrightarrow\quad
    \hat x_{t+1} = A \hat x_t + B u_t + K e_t,\ y_t = C \hat x_t + D u_t + e_t$$

    Parameters
    ----------
    A, C, Q, R, S : array_like
        As for `dare`: shapes (n, n), (p, n), (n, n), (p, p), (n, p).
    B : array_like, shape (n, m), optional
        No input when left out.
    D : array_like, shape (p, m), optional
        Zero when left out.
    dt : float, optional
        Seconds between samples.

    Returns
    -------
    InnovationsModel

    Raises
    ------
    ShapeError, DataError, RankError, ConvergenceError
        As `dare`.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 6.9.

    Examples
    --------
    >>> from realization.filtering import innovations_form
    >>> model = innovations_form([[0.5]], [[1.0]], Q=[[0.75]], R=[[0.0]])
    >>> model.K.round(6), model.Re.round(6)
    (array([[0.5]]), array([[0.75]]))
    """
    solution = dare(A, C, Q, R, S)
    B = np.zeros((len(solution.P), 0)) if B is None else B
    A, C, B = (np.asarray(matrix, dtype=float) for matrix in (A, C, B))
    return InnovationsModel(A, B, C, None if D is None else np.asarray(D), dt, K=solution.K, Re=solution.Re)


def _checked(
    A: ArrayLike, C: ArrayLike, Q: ArrayLike, R: ArrayLike, S: ArrayLike | None
) -> tuple[Array, Array, Array, Array, Array]:
    A, C, Q, R = (np.asarray(matrix, dtype=float) for matrix in (A, C, Q, R))
    if A.ndim != 2 or C.ndim != 2:
        raise ShapeError(
            f"dare: A {A.shape} and C {C.shape} came; two matrices (n, n) and (p, n) are needed."
        )
    n, p = len(A), len(C)
    S = np.zeros((n, p)) if S is None else np.asarray(S, dtype=float)
    needed = {"A": (A, (n, n)), "C": (C, (p, n)), "Q": (Q, (n, n)), "R": (R, (p, p)), "S": (S, (n, p))}
    for name, (matrix, shape) in needed.items():
        if matrix.shape != shape:
            raise ShapeError(f"dare: {name} has shape {matrix.shape}; here it must be {shape}.")
        if not np.isfinite(matrix).all():
            raise DataError(f"dare: {name} has entries that are NaN or infinite.")
    joint = np.block([[Q, S], [S.T, R]])
    scale = np.abs(joint).max(initial=0.0)
    if np.abs(joint - joint.T).max(initial=0.0) > 1e-10 * scale:
        raise DataError("dare: Q and R must be symmetric.")
    lowest = np.linalg.eigvalsh(joint)[0] if len(joint) else 0.0
    if lowest < -1e-10 * scale:
        raise DataError(
            f"dare: [[Q, S], [Sᵀ, R]] has the eigenvalue {lowest:.3g}; the joint covariance of the noises "
            "must be positive semidefinite."
        )
    return A, C, (Q + Q.T) / 2, (R + R.T) / 2, S


def _require_detectable(A: Array, C: Array) -> None:
    """Hautus test at the eigenvalues on and outside the unit circle."""
    scale = max(np.linalg.norm(A, 2), np.linalg.norm(C, 2), 1.0)
    for pole in np.linalg.eigvals(A):
        if abs(pole) < 1 - 1e-12:
            continue
        smallest = np.linalg.svd(np.vstack([pole * np.eye(len(A)) - A, C]), compute_uv=False)[-1]
        if smallest <= len(A) * EPS * scale * 10:
            raise RankError(
                f"dare: (A, C) is not detectable: the mode at {pole:.6g} does not decay and does not "
                "reach the outputs. Measure it, or take it out of the model (realization.systems: "
                "minimal realization)."
            )


def _initial_solution(A: Array, C: Array, Q: Array, R: Array, S: Array) -> Array:
    try:
        P = scipy.linalg.solve_discrete_are(A.T, C.T, Q, R, s=S)
    except (np.linalg.LinAlgError, ValueError):
        return _doubling(A, C, Q, R, S)
    return (P + P.T) / 2


def _doubling(A: Array, C: Array, Q: Array, R: Array, S: Array) -> Array:
    """Structured doubling: `2^k` steps of the Riccati recursion in `k`, from P = 0.

    It needs no spectral separation, and so still converges (slowly) where the Schur form gives up.
    """
    _positive_definite(R, "R (the Schur form failed, and the doubling that takes its place needs it)")
    F = (A - S @ np.linalg.solve(R, C)).T
    G, H = C.T @ np.linalg.solve(R, C), Q - S @ np.linalg.solve(R, S.T)
    identity = np.eye(len(A))
    for _ in range(60):
        W = np.linalg.solve(identity + G @ H, np.hstack([F, G]))
        WF, WG = W[:, : len(A)], W[:, len(A) :]
        step = F.T @ H @ WF
        F, G, H = F @ WF, G + F @ WG @ F.T, H + step
        if not np.isfinite(H).all():
            break
        if np.linalg.norm(step) <= EPS * np.linalg.norm(H):
            return (H + H.T) / 2
    raise ConvergenceError(
        "dare: neither the Schur form nor the doubling iteration found a stabilizing solution. A mode of "
        "A on the unit circle is not driven by the process noise: add noise to it in Q, or take it out "
        "of the model."
    )


def _newton(A: Array, C: Array, Q: Array, R: Array, S: Array, P: Array) -> Array:
    """Newton steps (Hewer), each one Lyapunov equation, as long as the residual falls."""
    best = _residual(A, C, Q, R, S, P)
    for _ in range(3):
        K = _gain(A, C, S, P, C @ P @ C.T + R)
        F = A - K @ C
        if np.abs(np.linalg.eigvals(F)).max() >= 1 - 1e-13:
            break
        drive = Q - K @ S.T - S @ K.T + K @ R @ K.T
        refined = scipy.linalg.solve_discrete_lyapunov(F, (drive + drive.T) / 2)
        refined = (refined + refined.T) / 2
        residual = _residual(A, C, Q, R, S, refined)
        if not residual < best:
            break
        P, best = refined, residual
    return P


def _gain(A: Array, C: Array, S: Array, P: Array, Re: Array) -> Array:
    factor = _positive_definite(Re, "the innovation covariance C P Cᵀ + R")
    return scipy.linalg.cho_solve(factor, (A @ P @ C.T + S).T).T


def _positive_definite(matrix: Array, name: str = "R") -> tuple[Array, bool]:
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    if len(values) and values[0] <= len(values) * EPS * values[-1]:
        raise RankError(
            f"dare: {name} is singular (eigenvalues {values[0]:.3g} to {values[-1]:.3g}): some "
            "combination of the outputs is free of noise. Add a small measurement noise to R, or drop "
            "the redundant output."
        )
    return scipy.linalg.cho_factor((matrix + matrix.T) / 2, lower=True)


def _residual(A: Array, C: Array, Q: Array, R: Array, S: Array, P: Array) -> float:
    cross = A @ P @ C.T + S
    Re = C @ P @ C.T + R
    moved = A @ P @ A.T
    factor = _positive_definite(Re, "the innovation covariance C P Cᵀ + R")
    correction = cross @ scipy.linalg.cho_solve(factor, cross.T)
    scale = max(np.linalg.norm(x) for x in (P, moved, Q, correction))
    return float(np.linalg.norm(moved + Q - correction - P) / scale) if scale > 0 else 0.0
