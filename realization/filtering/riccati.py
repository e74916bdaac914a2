"""The filter Riccati equation, and the innovations form that it gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import ConvergenceError, DataError, RankError, ShapeError
from realization.filtering.doubling import NoisySystem, centred, descended, doubled, refined, started
from realization.systems.lyapunov import balance
from realization.systems.models import InnovationsModel

__all__ = ["DareSolution", "dare", "innovations_form"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class DareSolution:
    """Stabilizing (or, where asked for, strong) solution of the filter Riccati equation.

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
        Frobenius norm of the equation's two sides' difference, over that of its largest term, in coordinates
        in which states and outputs are of one size.
    marginal : int
        Number of poles on the unit circle, which no noise drives: 0 for a stabilizing solution.

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
    marginal: int = 0


def dare(
    A: ArrayLike,
    C: ArrayLike,
    Q: ArrayLike,
    R: ArrayLike,
    S: ArrayLike | None = None,
    *,
    strong: bool = False,
) -> DareSolution:
    r"""Stabilizing solution of the discrete-time filter Riccati equation.

    $$P = A P A^\top + Q - (A P C^\top + S) R_e^{-1} (A P C^\top + S)^\top, \quad
    R_e = C P C^\top + R, \quad K = (A P C^\top + S) R_e^{-1}$$

    Structured doubling gives $P$: step $k$ is $2^k$ steps of the filter. It starts where the innovations are
    far from singular (a singular $R$ needs no inverse), and again from its own result as long as the residual
    falls. What is returned has been checked: the residual, the poles of $A - K C$, and $P \ge 0$.

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
    strong : bool
        Where a mode on the unit circle is not driven by the noise there is no stabilizing solution. `True`
        gives the limit of the filter's gain, which comes to know that mode exactly and keeps its pole on the
        circle; `False` makes it an error.

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
        If there is no stabilizing solution (a mode on the unit circle is not driven by the noise) and
        `strong` is false; or if what was found does not pass its check.

    References
    ----------
    S. W. Chan, G. C. Goodwin, K. S. Sin, Convergence properties of the Riccati difference equation in optimal
    filtering of nonstabilizable systems, IEEE Trans. Autom. Control 29 (1984) 110-118.
    E. K.-W. Chu, H.-Y. Fan, W.-W. Lin, C.-S. Wang, Structure-preserving algorithms for periodic discrete-time
    algebraic Riccati equations, Internat. J. Control 77 (2004) 767-788.
    T. Kailath, A. H. Sayed, B. Hassibi, *Linear Estimation*, Prentice-Hall 2000, appendix E.

    Examples
    --------
    >>> from realization.filtering import dare
    >>> solution = dare([[1.0]], [[1.0]], Q=[[1.0]], R=[[1.0]])
    >>> round(float(solution.P[0, 0]), 12), round(float(solution.K[0, 0]), 12)
    (1.61803398875, 0.61803398875)

    A constant in noise: in the limit it is known, and nothing more is learned.

    >>> limit = dare([[1.0]], [[1.0]], Q=[[0.0]], R=[[1.0]], strong=True)
    >>> limit.K, limit.marginal
    (array([[0.]]), 1)
    """
    A, C, Q, R, S = _checked(A, C, Q, R, S)
    n = len(A)
    system, outputs = _factored(A, C, Q, R, S)
    states = np.ones(n)
    if n:
        states = _state_scale(system)
        system = _rescaled(system, states)
        _require_detectable(system.A, system.C)
    P, residual, marginal = _solved(system, strong=strong)
    Re, K = _gain(system, P)
    poles = np.asarray(np.linalg.eigvals(system.A - K @ system.C), dtype=np.complex128)
    poles = poles[np.lexsort((poles.imag, -np.abs(poles)))]
    _require_solution(P, poles, residual, marginal)
    P, K = P * np.outer(states, states), K * np.outer(states, 1 / outputs)
    return DareSolution(P, K, Re * np.outer(outputs, outputs), poles, residual, marginal)


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
    strong: bool = False,
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
    strong : bool
        As for `dare`: whether poles of the predictor on the unit circle are taken.

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
    solution = dare(A, C, Q, R, S, strong=strong)
    B = np.zeros((len(solution.P), 0)) if B is None else B
    A, C, B = (np.asarray(matrix, dtype=float) for matrix in (A, C, B))
    return InnovationsModel(A, B, C, None if D is None else np.asarray(D), dt, K=solution.K, Re=solution.Re)


def _checked(
    A: ArrayLike, C: ArrayLike, Q: ArrayLike, R: ArrayLike, S: ArrayLike | None
) -> tuple[Array, Array, Array, Array, Array]:
    A, C, Q, R = (as_real(x, name) for x, name in zip((A, C, Q, R), "ACQR"))
    if A.ndim != 2 or C.ndim != 2:
        raise ShapeError(
            f"dare: A {A.shape} and C {C.shape} came; two matrices (n, n) and (p, n) are needed."
        )
    n, p = len(A), len(C)
    S = np.zeros((n, p)) if S is None else as_real(S, "S")
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


def _factored(A: Array, C: Array, Q: Array, R: Array, S: Array) -> tuple[NoisySystem, Array]:
    """Both noises as combinations of one white noise, outputs in units of what moves them; those units."""
    n = len(A)
    joint = np.block([[Q, S], [S.T, R]])
    spread = np.sqrt(np.maximum(np.diag(joint), EPS**2 * np.abs(joint).max(initial=0.0)))
    spread[spread == 0] = 1.0
    values, vectors = np.linalg.eigh(joint / np.outer(spread, spread))
    held = values > 4 * len(values) * EPS * values.max(initial=0.0)
    noise = spread[:, None] * vectors[:, held] * np.sqrt(values[held])
    outputs = np.sqrt(np.square(noise[n:]).sum(axis=1))
    quiet = outputs <= 1e-6 * np.sqrt(np.square(C).sum(axis=1))
    outputs[quiet] = np.sqrt(np.square(C[quiet]).sum(axis=1))
    outputs[outputs == 0] = 1.0
    return NoisySystem(A, C / outputs[:, None], noise[:n], noise[n:] / outputs[:, None]), outputs


def _state_scale(system: NoisySystem) -> Array:
    """Powers of two that make the equation's coefficients alike in size, from balancing its pencil."""
    n = len(system.A)
    whole = np.block([[system.A.T, system.C.T @ system.C], [system.G @ system.G.T, system.A]])
    if not np.isfinite(whole).all():
        return np.ones(n)
    exponent = np.log2(balance(np.abs(whole))[1])
    exponent = np.round((exponent[n:] - exponent[:n]) / 2)
    return np.exp2(np.clip(exponent, -500, 500))


def _rescaled(system: NoisySystem, states: Array) -> NoisySystem:
    A, C, G, H = system
    return NoisySystem(A * states / states[:, None], C * states, G / states[:, None], H)


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


def _solved(system: NoisySystem, *, strong: bool) -> tuple[Array, float, int]:
    """`P`, its residual, and how many modes on the unit circle were taken as known."""
    factor, values = started(system)
    if not values[-1] > 10 * max(system.H.shape) * EPS * values[0]:
        raise RankError(
            "dare: the innovation covariance C P Cᵀ + R is singular: some combination of the outputs is "
            "determined by their past. Add a small measurement noise to R, or drop the redundant output."
        )
    if not len(system.A):
        return np.zeros((0, 0)), 0.0, 0
    start = centred(system, factor @ factor.T, factor)
    poles = np.asarray(np.linalg.eigvals(start.F), dtype=np.complex128)
    known, on_circle = _undriven(system, start.F, start.Q, poles)
    if known.shape[1]:
        if len(on_circle) and not strong:
            raise ConvergenceError(
                f"dare: no stabilizing solution: the mode at {on_circle[0]:.6g}, on the unit circle, is not "
                "driven by the noise. Add noise to it in Q, take it out of the model, or ask for the limit "
                "of the filter (strong=True)."
            )
        rest = scipy.linalg.null_space(known.T)
        reduced = NoisySystem(rest.T @ system.A @ rest, system.C @ rest, rest.T @ system.G, system.H)
        P, residual, more = _solved(reduced, strong=strong)
        return rest @ P @ rest.T, residual, more + min(known.shape[1], len(on_circle))
    P = factor @ factor.T
    try:
        # From a known state the filter might never learn an unstable mode that nothing drives.
        if np.abs(poles).max() >= 1:
            _, V, count = scipy.linalg.schur(
                start.F.T, output="real", sort=lambda re, im: np.hypot(re, im) >= 1 - 1e-9
            )
            P = descended(system, P, V[:, :count], _natural_size(system))
        else:
            P = P + doubled(start, float(np.linalg.norm(P)))[0]
        return *refined(system, (P + P.T) / 2), 0
    except (np.linalg.LinAlgError, ConvergenceError):
        return *_by_schur_form(system), 0


def _by_schur_form(system: NoisySystem) -> tuple[Array, float]:
    """The ordered generalized Schur form: another way, where rounding stops the doubling near the circle."""
    A, C, G, H = system
    try:
        P = scipy.linalg.solve_discrete_are(A.T, C.T, G @ G.T, H @ H.T, s=G @ H.T)
        return refined(system, (P + P.T) / 2)
    except (np.linalg.LinAlgError, ValueError, ConvergenceError) as error:
        raise ConvergenceError(
            f"dare: no stabilizing solution was reached ({error}). A mode of A near the unit circle is "
            "hardly driven by the noise, or hardly seen: scale the model, or take that mode out."
        ) from error


def _natural_size(system: NoisySystem) -> float:
    """Of an error covariance: what is added at each step, or what one sample leaves."""
    added = np.linalg.norm(system.G, 2) ** 2
    left = np.linalg.norm(system.H, 2) ** 2 / max(np.linalg.norm(system.C, 2) ** 2, EPS)
    return float(max(added, left, EPS))


def _undriven(
    system: NoisySystem, F: Array, Q: Array, poles: NDArray[np.complex128]
) -> tuple[Array, NDArray[np.complex128]]:
    """Basis of the combinations of the state, on the unit circle or just inside, that no noise reaches.

    They are zeros of the noises' path to the outputs, so the test is one of rank on the model as given. Also
    those of the poles that are on the circle.
    """
    A, C, G, H = system
    n, p = len(A), len(C)
    shown = np.block([[A, G], [C, H]])
    limit = 10 * (n + p) * EPS * max(np.linalg.norm(shown, 2), 1.0)
    mark = np.vstack([np.hstack([np.eye(n), np.zeros_like(G)]), np.zeros((p, n + G.shape[1]))])

    def lost(z: complex) -> bool:
        return bool(scipy.linalg.svdvals(shown - z * mark)[-1] <= limit)

    near = poles[np.abs(np.abs(poles) - 1) < 1e-5]
    on_circle = np.array([z for z in near if lost(z / abs(z))], dtype=complex)
    found = np.array([z for z in near if z in on_circle or (abs(z) < 1 and lost(z))], dtype=complex)
    if not len(found):
        return np.zeros((n, 0)), on_circle
    _, V, count = scipy.linalg.schur(
        F.T, output="real", sort=lambda re, im: np.abs(re + 1j * im - found).min() < 1e-7
    )
    if not count:
        return np.zeros((n, 0)), on_circle
    V = V[:, :count]
    step, driven = V.T @ F @ V, V.T @ Q
    reach = [driven]
    for _ in range(count - 1):
        reach.append(step @ reach[-1])
    U, s, _ = scipy.linalg.svd(np.hstack(reach))
    size = max(np.linalg.norm(G, 2) ** 2, np.linalg.norm(Q, 2), EPS)
    return V @ U[:, int(np.sum(s > 1e-13 * n * size)) :], on_circle


def _gain(system: NoisySystem, P: Array) -> tuple[Array, Array]:
    """Innovation covariance and gain."""
    if not len(P):
        Re = system.H @ system.H.T
        return Re, np.zeros((0, len(Re)))
    at = centred(system, P)
    return at.Re, at.K


def _require_solution(P: Array, poles: NDArray[np.complex128], residual: float, marginal: int) -> None:
    """Nothing leaves unchecked: the equation holds, the predictor is stable, `P` is a covariance."""
    values = np.linalg.eigvalsh(P) if len(P) else np.zeros(1)
    lowest = -1e-8 * max(values[-1], 1e-3)
    largest = float(np.abs(poles).max(initial=0.0))
    stable = largest < 1 if not marginal else largest < 1 + 1e-6
    if not (stable and residual < 1e-11 and values[0] >= lowest):
        raise ConvergenceError(
            f"dare: no stabilizing solution was reached (largest closed-loop pole {largest:.9g}, relative "
            f"residual {residual:.2g}, smallest eigenvalue of P {values[0]:.2g}). A mode of A on or near the "
            "unit circle is hardly driven by the noise: add noise to it in Q, or take it out of the model."
        )
