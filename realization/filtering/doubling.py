"""The filter Riccati equation by structured doubling: from any start, again and again from where it ended."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ConvergenceError

__all__ = [
    "Centred",
    "NoisySystem",
    "centred",
    "descended",
    "doubled",
    "refined",
    "relative_residual",
    "started",
]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


class NoisySystem(NamedTuple):
    """State and output equations driven by one unit white noise: `x⁺ = A x + G w`, `y = C x + H w`."""

    A: Array
    C: Array
    G: Array
    H: Array


class Centred(NamedTuple):
    """The equation for `X = P - P1`: closed loop, `C` in units of the innovations, residual and gain at `P1`.

    It has unit measurement noise and no cross term, `X = F X Fᵀ + Q - F X Cᵀ (I + C X Cᵀ)⁻¹ C X Fᵀ`, whatever
    `P1` is, as long as the innovation covariance there can be inverted.
    """

    F: Array
    C: Array
    Q: Array
    K: Array
    Re: Array


def started(system: NoisySystem) -> tuple[Array, Array]:
    """Steps of the filter from a known state until its innovations are as far from singular as they get.

    Factor of the error covariance reached, and the singular values of the innovations' factor (rows of unit
    size). Each step is a projection of the noises, `N (I - M⁺ M)`, so a singular measurement noise needs no
    inverse.
    """
    A, C, G, H = system
    n, p = len(A), len(C)
    factor, values = np.zeros((n, 0)), np.zeros(p)
    size = np.sqrt(np.square(H).sum(axis=1) + np.square(C).sum(axis=1))
    size[size == 0] = 1.0
    best, kept = -1.0, factor
    for _ in range(n + 1):
        M = np.hstack([C @ factor, H]) / size[:, None]
        _, s, Vt = scipy.linalg.svd(M, full_matrices=False)
        s = np.r_[s, np.zeros(p - len(s))]
        if s[-1] > 2 * best:
            best, kept, values = s[-1], factor, s
        if best > 0.1:
            break
        rank = int(np.sum(s > 10 * max(M.shape) * EPS * s[0]))
        N = np.hstack([A @ factor, G])
        moved = N - (N @ Vt[:rank].T) @ Vt[:rank]
        factor = np.asarray(np.linalg.qr(moved.T, mode="r")).T if moved.shape[1] > n else moved
    return kept, values


def centred(system: NoisySystem, P: Array, factor: Array | None = None) -> Centred:
    """The equation around `P` (around `factor factorᵀ`, where that is given: then no difference is taken)."""
    A, C, G, H = system
    if factor is not None:
        M, N = np.hstack([C @ factor, H]), np.hstack([A @ factor, G])
    else:
        M, N = H, G
    spread = np.zeros((len(C), len(C))) if factor is not None else C @ P @ C.T
    Re = M @ M.T + spread
    moved = N @ N.T if factor is not None else A @ P @ A.T + N @ N.T
    cross = N @ M.T if factor is not None else A @ P @ C.T + N @ M.T
    root = np.linalg.cholesky((Re + Re.T) / 2)
    half = scipy.linalg.solve_triangular(root, cross.T, lower=True).T
    K = scipy.linalg.solve_triangular(root.T, half.T, lower=False).T
    Q = moved - half @ half.T - P
    seen = scipy.linalg.solve_triangular(root, C, lower=True)
    return Centred(A - K @ C, seen, (Q + Q.T) / 2, K, (Re + Re.T) / 2)


def doubled(start: Centred, size: float, floor: tuple[Array, Array] | None = None) -> tuple[Array, bool]:
    """`X` after `2^k` steps from `X = 0`, and whether it stands still to the rounding of `size`.

    Coming down from a `floor` (directions `V`, and a factor of `Vᵀ P1 V`), it stops where little of `P1` is
    left in one of them: there `P1 + X` has lost digits, and the caller starts anew from it.
    """
    F, G, X = start.F.T, start.C.T @ start.C, start.Q
    n = len(F)
    for _ in range(70):
        W = np.linalg.solve(np.eye(n) + G @ X, np.hstack([F, G]))
        WF, WG = W[:, :n], W[:, n:]
        step, more = F.T @ X @ WF, F @ WG @ F.T
        F, G, X = F @ WF, G + (more + more.T) / 2, X + (step + step.T) / 2
        if not (np.isfinite(X).all() and np.isfinite(G).all() and np.isfinite(F).all()):
            break
        if np.linalg.norm(step) <= EPS * (np.linalg.norm(X) + 0.1 * size):
            return X, True
        if floor is not None and _share_left(*floor, X) < 1e-3:
            return X, False
    raise ConvergenceError("the doubling did not settle")


def _share_left(V: Array, root: Array, X: Array) -> float:
    half = scipy.linalg.solve_triangular(root, V.T @ X @ V, lower=True)
    return 1 + float(np.linalg.eigvalsh(scipy.linalg.solve_triangular(root, half.T, lower=True))[0])


def descended(system: NoisySystem, P: Array, V: Array, size: float) -> Array:
    """The limit of the filter from `P + size V Vᵀ`, in stages that keep their digits."""
    P = P + size * (V @ V.T)
    for _ in range(30):
        floor = np.linalg.cholesky(V.T @ P @ V).astype(float)
        X, settled = doubled(centred(system, P), float(np.linalg.norm(P)), (V, floor))
        P = P + (X + X.T) / 2
        if settled:
            return P
    raise ConvergenceError("the filter's covariance keeps falling")


def refined(system: NoisySystem, P: Array) -> tuple[Array, float]:
    """Start again from the solution as long as its residual falls: what rounding left is solved for."""
    best = relative_residual(centred(system, P), system, P)
    for _ in range(4):
        try:
            moved = P + doubled(centred(system, P), float(np.linalg.norm(P)))[0]
            moved = (moved + moved.T) / 2
            residual = relative_residual(centred(system, moved), system, moved)
        except (np.linalg.LinAlgError, ConvergenceError):
            break
        if not residual < best:
            break
        P, best = moved, residual
        if best < EPS:
            break
    return P, best


def relative_residual(at: Centred, system: NoisySystem, P: Array) -> float:
    """Difference of the equation's two sides over its largest term."""
    terms = (P, system.A @ P @ system.A.T, system.G @ system.G.T)
    scale = max(float(np.linalg.norm(term)) for term in terms)
    return float(np.linalg.norm(at.Q)) / scale if scale > 0 else 0.0
