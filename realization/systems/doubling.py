"""Stabilizing solutions of Riccati equations by structured doubling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.errors import ConvergenceError
from realization.systems.lyapunov import EPS

__all__ = ["doubled", "stabilizing_solutions"]

Array = NDArray[np.float64]
STEPS = 60
SHIFTS = np.array([1.0, 0.43, 3.1])  # others follow where the first lies near an eigenvalue of F


def stabilizing_solutions(F: Array, G: Array, H: Array, caller: str) -> tuple[Array, Array]:
    r"""Symmetric $X, Y$ for which $F - G X$ and $F^\top - H Y$ are stable.

    $$F^\top X + X F - X G X + H = 0, \qquad F Y + Y F^\top - Y H Y + G = 0$$

    A Cayley transform takes the Hamiltonian matrix of the equation to a symplectic pencil; each step squares
    the pencil's eigenvalues and keeps its form, so that what is stable dies out quadratically. A step is
    three products and one factorization of order `n`, where a Schur form of order `2 n` costs some fifty
    times as much.

    Parameters
    ----------
    F : ndarray, shape (n, n)
    G : ndarray, shape (n, n)
        Symmetric, of either sign.
    H : ndarray, shape (n, n)
        Symmetric.
    caller : str
        Whose name errors carry.

    Returns
    -------
    X, Y : ndarray, shape (n, n)

    Raises
    ------
    ConvergenceError
        If there is no stabilizing solution: the Hamiltonian matrix has eigenvalues on the imaginary axis.

    References
    ----------
    E. K.-W. Chu, H.-Y. Fan, W.-W. Lin, A structure-preserving doubling algorithm for continuous-time
    algebraic Riccati equations, Linear Algebra and its Applications 396 (2005) 55-80.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.systems.doubling import stabilizing_solutions
    >>> one = np.ones((1, 1))
    >>> X, Y = stabilizing_solutions(-one, one, 3 * one, "example")
    >>> X.round(12), Y.round(12)
    (array([[1.]]), array([[0.33333333]]))
    """
    n = len(F)
    if n == 0:
        return F, F
    sizes = np.linalg.norm(G), np.linalg.norm(H)
    share = np.sqrt(sizes[0] / sizes[1]) if min(sizes) > 0 else 1.0
    X, Y, misfit = F, F, np.inf
    with np.errstate(all="ignore"):
        for shift in _scale(F) * SHIFTS:
            found = _doubled(F, G / share, H * share, shift)
            missed = max(
                _misfit(F, G / share, H * share, found[0]), _misfit(F.T, H * share, G / share, found[1])
            )
            if missed < misfit:
                X, Y, misfit = found[0] / share, found[1] * share, missed
            if misfit <= 1e-12 * max(n, 10):
                break
    if not misfit <= 1e-7:
        raise ConvergenceError(
            f"{caller}: the Riccati equation has no stabilizing solution that can be found (it is missed by "
            f"{misfit:.2g} of its largest term). A spectrum vanishes at some frequency, or nearly so: a zero "
            "of the model lies on the stability limit."
        )
    return X, Y


def _misfit(F: Array, G: Array, H: Array, X: Array) -> float:
    if not np.isfinite(X).all():
        return float("inf")
    terms = F.T @ X, X @ G @ X, H
    largest = max(float(np.linalg.norm(term)) for term in terms)
    left = terms[0] + terms[0].T - terms[1] + terms[2]
    return float(np.linalg.norm(left)) / largest if largest > 0 else 0.0


def _doubled(F: Array, G: Array, H: Array, shift: float) -> tuple[Array, Array]:
    identity = np.eye(len(F))
    try:
        moved = F - shift * identity
        inverse = np.linalg.inv(moved)
        across = np.linalg.inv(moved.T + H @ inverse @ G)
    except np.linalg.LinAlgError:
        return np.full(F.shape, np.nan), np.full(F.shape, np.nan)
    E = identity + 2 * shift * across.T
    return doubled(
        E, _symmetric(2 * shift * inverse @ G @ across), _symmetric(2 * shift * across @ H @ inverse)
    )


def doubled(E: Array, G: Array, H: Array) -> tuple[Array, Array]:
    r"""Stabilizing solutions of a discrete-time Riccati equation and of its dual.

    $$X = E^\top X (I + G X)^{-1} E + H, \qquad Y = E\, Y (I + H Y)^{-1} E^\top + G$$

    What does not exist comes back as NaN.
    """
    identity = np.eye(len(E))
    try:
        for _ in range(STEPS):
            W = np.linalg.solve(identity + G @ H, np.hstack([E, G]))
            WE, WG = W[:, : len(E)], W[:, len(E) :]
            step = _symmetric(E.T @ H @ WE)
            E, G, H = E @ WE, _symmetric(G + E @ WG @ E.T), H + step
            if not np.linalg.norm(step) > EPS * np.linalg.norm(H):
                break
    except np.linalg.LinAlgError:
        return np.full(E.shape, np.nan), np.full(E.shape, np.nan)
    return H, G


def _scale(F: Array) -> float:
    """Geometric mean of the least and the largest rate of `F`, roughly."""
    largest = float(np.linalg.norm(F, 1)) or 1.0
    try:
        least = 1 / float(np.linalg.norm(np.linalg.inv(F), 1))
    except np.linalg.LinAlgError:
        least = 0.0
    return float(np.sqrt(largest * max(least, 1e-10 * largest)))


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2
