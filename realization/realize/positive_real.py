"""Positive realness: whether covariances belong to a process, and the Riccati equations that need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import ConvergenceError, DataError, RankError, ShapeError, UnstableError

__all__ = [
    "CovarianceModel",
    "PositiveRealTest",
    "Riccati",
    "covariance_model",
    "positive_real_test",
    "riccati",
]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


class CovarianceModel(NamedTuple):
    r"""Covariances as a realization, $\Lambda_k = C A^{k-1} \bar C^T$.

    Attributes
    ----------
    A : ndarray, shape (n, n)
    C : ndarray, shape (p, n)
    Cbar : ndarray, shape (p, n)
    Lambda0 : ndarray, shape (p, p)
    """

    A: Array
    C: Array
    Cbar: Array
    Lambda0: Array


class Riccati(NamedTuple):
    r"""The smallest solutions of the two positive-real Riccati equations, and their gains.

    Attributes
    ----------
    P, K, Re : ndarray
        $P_-$ of the forward equation, gain and innovation covariance, shapes (n, n), (n, p), (p, p).
    Q, K_backward, Re_backward : ndarray
        $Q_- = P_+^{-1}$ of the backward equation, and its gain and covariance.
    """

    P: Array
    K: Array
    Re: Array
    Q: Array
    K_backward: Array
    Re_backward: Array


@dataclass(frozen=True, eq=False)
class PositiveRealTest:
    r"""Where a spectrum is smallest.

    Attributes
    ----------
    positive_real : bool
        Whether `minimum` is at least `-tol`.
    minimum : float
        Smallest eigenvalue of $\Lambda_0^{-1/2} \Phi(e^{i\omega}) \Lambda_0^{-1/2}$ over all $\omega$; 1 for
        white noise.
    omega : float
        Where it is, in radians per sample, in $[0, \pi]$.
    eigenvalues : ndarray of complex, shape (number of finite ones,)
        Of the symplectic pencil: the zeros of $\det \Phi(z)$. They come in pairs $z, 1/z$; one on the unit
        circle is a frequency at which some combination of the outputs has no power.

    Examples
    --------
    >>> from realization.realize import positive_real_test
    >>> positive_real_test([[0.0]], [[1.0]], [[0.6]], [[1.0]])  # 1 + 1.2 cos(omega) is negative at pi
    PositiveRealTest(no: smallest eigenvalue -0.2 at omega = 3.14159)
    """

    positive_real: bool
    minimum: float
    omega: float
    eigenvalues: NDArray[np.complex128]

    def __repr__(self) -> str:
        return (
            f"PositiveRealTest({'yes' if self.positive_real else 'no'}: smallest eigenvalue "
            f"{self.minimum:.6g} at omega = {self.omega:.6g})"
        )


def positive_real_test(
    A: ArrayLike, C: ArrayLike, Cbar: ArrayLike, Lambda0: ArrayLike, *, tol: float = 1e-10
) -> PositiveRealTest:
    r"""Whether $\Lambda_0$ and $\Lambda_k = C A^{k-1} \bar C^T$ are the covariances of a process.

    They are if and only if the spectrum is nowhere negative,

    $$\Phi(z) = \Lambda_0 + C (zI - A)^{-1} \bar C^T + \bar C (z^{-1} I - A^T)^{-1} C^T \ge 0,
    \qquad |z| = 1 .$$

    $\Phi - \gamma \Lambda_0$ is singular at the eigenvalues of a symplectic pencil; between two of them on
    the unit circle no eigenvalue of $\Phi$ crosses the level $\gamma$. So levels and crossings in turn find
    the minimum over all frequencies, not over a grid.

    Parameters
    ----------
    A : array_like, shape (n, n)
        Stable.
    C : array_like, shape (p, n)
    Cbar : array_like, shape (p, n)
    Lambda0 : array_like, shape (p, p)
        Covariance of the output, positive definite.
    tol : float
        By how much the spectrum may be negative, in units of $\Lambda_0$, and count as zero.

    Returns
    -------
    PositiveRealTest
        `.positive_real`, `.minimum`, `.omega`, `.eigenvalues`.

    Raises
    ------
    ShapeError, DataError
        If the matrices do not fit together or are not finite.
    RankError
        If `Lambda0` is not positive definite.
    UnstableError
        If a pole is not inside the unit circle.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, sections 6.6 and 9.

    S. Boyd, V. Balakrishnan, P. Kabamba, *A bisection method for computing the H-infinity norm of a transfer
    matrix*, Mathematics of Control, Signals, and Systems 2 (1989) 207-219.

    Examples
    --------
    >>> from realization.realize import positive_real_test
    >>> test = positive_real_test([[0.5]], [[1.0]], [[0.5]], [[1.0]])  # an autoregression
    >>> test.positive_real, round(test.minimum, 9)  # (1 - a) / (1 + a)
    (True, 0.333333333)
    """
    given = covariance_model(A, C, Cbar, Lambda0, "positive_real_test")
    if not tol >= 0:
        raise DataError(f"positive_real_test: tol={tol} came; a number, at least 0, is needed.")
    white, _ = _whitened(given)
    found = _pencil(white, 0.0)
    around = np.r_[
        np.linspace(0, np.pi, 33), np.abs(np.angle(found)), np.abs(np.angle(np.linalg.eigvals(white.A)))
    ]
    level, omega = _lowest(white, around)
    for _ in range(30):
        on_circle = _pencil(white, level)
        on_circle = on_circle[np.abs(np.abs(on_circle) - 1) < 1e-6]
        crossings = np.unique(np.r_[0.0, np.pi, np.abs(np.angle(on_circle))])
        lower, where = _lowest(white, (crossings[1:] + crossings[:-1]) / 2)
        if not lower < level - 1e-13 * max(1.0, abs(level)):
            break
        level, omega = lower, where
    return PositiveRealTest(bool(level >= -tol), level, omega, found)


def covariance_model(
    A: ArrayLike, C: ArrayLike, Cbar: ArrayLike, Lambda0: ArrayLike, caller: str
) -> CovarianceModel:
    """The four matrices, checked: shapes, finite, `A` stable, `Lambda0` symmetric and positive definite."""
    A, C = as_real(A, "A"), as_real(C, "C")
    Cbar, Lambda0 = as_real(Cbar, "Cbar"), as_real(Lambda0, "Lambda0")
    if A.ndim != 2 or C.ndim != 2:
        raise ShapeError(
            f"{caller}: A {A.shape} and C {C.shape} came; matrices (n, n) and (p, n) are needed."
        )
    n, p = len(A), len(C)
    needed = {"A": (A, (n, n)), "C": (C, (p, n)), "Cbar": (Cbar, (p, n)), "Lambda0": (Lambda0, (p, p))}
    for name, (matrix, shape) in needed.items():
        if matrix.shape != shape:
            raise ShapeError(f"{caller}: {name} has shape {matrix.shape}; here it must be {shape}.")
        if not np.isfinite(matrix).all():
            raise DataError(f"{caller}: {name} has entries that are NaN or infinite.")
    radius = np.abs(np.linalg.eigvals(A)).max(initial=0.0)
    if not radius < 1:
        raise UnstableError(
            f"{caller}: A has a pole of modulus {radius:.6g}; covariances of a stationary process die out, "
            "so every pole must lie inside the unit circle. Take off what does not (a trend, a sinusoid) "
            "first."
        )
    return CovarianceModel(A, C, Cbar, definite(Lambda0, caller))


def definite(Lambda0: Array, caller: str) -> Array:
    """A symmetric positive definite `Lambda0`, or an error that says what it is."""
    size = np.abs(Lambda0).max(initial=0.0)
    if np.abs(Lambda0 - Lambda0.T).max(initial=0.0) > 1e-8 * size:
        raise DataError(f"{caller}: Lambda0, the covariance of one sample, is not symmetric.")
    Lambda0 = (Lambda0 + Lambda0.T) / 2
    values = np.linalg.eigvalsh(Lambda0)
    if not len(values) or not values[0] > len(values) * EPS * values[-1]:
        raise RankError(
            f"{caller}: Lambda0 must be positive definite; its eigenvalues are "
            f"{np.array2string(values, precision=3)}. Some combination of the outputs has no variance: drop "
            "a redundant output."
        )
    return Lambda0


def riccati(given: CovarianceModel, caller: str) -> Riccati:
    r"""Both smallest solutions, by structured doubling.

    $$P = A P A^T + (\bar C^T - A P C^T)(\Lambda_0 - C P C^T)^{-1}(\bar C^T - A P C^T)^T$$

    and the same with $A^T, \bar C, C$ for $Q$. Step $k$ of the doubling holds what the last $2^k$ samples,
    and the next $2^k$, tell about the state; so both solutions come from below and at once.
    """
    white, root = _whitened(given)
    A, C, G = white.A, white.C, white.Cbar.T
    P, Q = _doubled(A - G @ C, C.T @ C, G @ G.T, caller)
    K, Re = _gain(A, C, G, P, caller)
    K_backward, Re_backward = _gain(A.T, G.T, C.T, Q, caller)
    inverse = np.linalg.inv(root)
    return Riccati(P, K @ inverse, root @ Re @ root.T, Q, K_backward @ inverse, root @ Re_backward @ root.T)


def _whitened(given: CovarianceModel) -> tuple[CovarianceModel, Array]:
    """The outputs in units in which `Lambda0` is the identity, and the Cholesky factor that does it."""
    root = np.linalg.cholesky(given.Lambda0).astype(float)
    C, Cbar = (scipy.linalg.solve_triangular(root, matrix, lower=True) for matrix in (given.C, given.Cbar))
    return CovarianceModel(given.A, C, Cbar, np.eye(len(root))), root


def _pencil(white: CovarianceModel, level: float) -> NDArray[np.complex128]:
    """Finite `z` at which `Phi(z) - level I` is singular."""
    A, C, Cbar, identity = white
    n, p = len(A), len(C)
    left = np.block(
        [
            [A, np.zeros((n, n)), Cbar.T],
            [np.zeros((n, n)), np.eye(n), np.zeros((n, p))],
            [C, Cbar, (1 - level) * identity],
        ]
    )
    right = scipy.linalg.block_diag(np.eye(n), np.hstack([A.T, C.T]), np.zeros((p, 0)))
    alpha, beta = scipy.linalg.eigvals(left, right, homogeneous_eigvals=True)
    finite = np.abs(beta) > 1e-13 * np.abs(alpha)
    return (alpha[finite] / beta[finite]).astype(complex)


def _lowest(white: CovarianceModel, omega: Array) -> tuple[float, float]:
    """Smallest eigenvalue of the spectrum over some frequencies, and where it is."""
    resolvent = np.exp(1j * omega)[:, None, None] * np.eye(len(white.A)) - white.A
    half = white.C @ np.linalg.solve(
        resolvent, np.broadcast_to(white.Cbar.T, (len(omega), *white.Cbar.T.shape))
    )
    spectrum = white.Lambda0 + half + half.conj().transpose(0, 2, 1)
    values = np.linalg.eigvalsh(spectrum)[:, 0]
    k = int(values.argmin())
    return float(values[k]), float(omega[k])


def _doubled(F: Array, Q: Array, P: Array, caller: str) -> tuple[Array, Array]:
    """Structured doubling of `P` (given the past) and `Q` (given the future) of white outputs."""
    n, change = len(F), 1.0
    for _ in range(60):
        if np.linalg.eigvals(P @ Q).real.max(initial=0.0) > 1 - 1e-11:
            _require_settled(change, caller)
            return P, Q
        step = np.linalg.solve(np.eye(n) - P @ Q, np.hstack([F, P @ F.T])) if n else np.zeros((0, 0))
        moved, spread = step[:, :n], step[:, n:]
        more_P, more_Q = F @ spread, F.T @ (Q @ moved)
        P, Q, F = P + (more_P + more_P.T) / 2, Q + (more_Q + more_Q.T) / 2, F @ moved
        if not (np.isfinite(P).all() and np.isfinite(Q).all()):
            break
        change = max(_share(more_P, P), _share(more_Q, Q))
        if change <= 4 * EPS:
            return P, Q
    raise ConvergenceError(
        f"{caller}: the doubling did not settle; the spectrum is zero, or nearly so, at some frequency "
        "(positive_real_test says where). Add white noise to Lambda0."
    )


def _share(more: Array, whole: Array) -> float:
    size = np.linalg.norm(whole)
    return float(np.linalg.norm(more) / size) if size > 0 else 0.0


def _require_settled(change: float, caller: str) -> None:
    """Past and future that share a direction: slowly where the spectrum touches zero, else at once."""
    if change > 1e-4:
        raise RankError(_KNOWN.format(caller))


_KNOWN = (
    "{}: the innovation covariance is singular: some combination of the outputs is determined by their past. "
    "Drop a redundant output, or add white noise to Lambda0."
)


def _gain(A: Array, C: Array, G: Array, P: Array, caller: str) -> tuple[Array, Array]:
    Re = np.eye(len(C)) - C @ P @ C.T
    Re = (Re + Re.T) / 2
    if not np.linalg.eigvalsh(Re)[0] > 10 * len(C) * EPS:
        raise RankError(_KNOWN.format(caller))
    return scipy.linalg.solve(Re, (G - A @ P @ C.T).T, assume_a="pos").T, Re
