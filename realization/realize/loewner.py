"""The Loewner framework: a realization that interpolates a measured frequency response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, OrderWarning, RankError, ShapeError
from realization.notes import warn
from realization.systems import StateSpace

__all__ = ["LoewnerRealization", "loewner"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class LoewnerRealization:
    r"""A realization found from a frequency response.

    Attributes
    ----------
    model : StateSpace
    singular_values : ndarray
        Of the Loewner matrix, largest first: they drop to rounding, or noise, at the order.
    order : int
    residual : float
        Largest error over the samples given, relative to the largest sample.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> omega = np.linspace(0.1, 3.0, 12)
    >>> found = rz.loewner(omega, 1 / (1j * omega + 2), dt=0.0)
    >>> found.order, found.model.poles.real.round(9)
    (1, array([-2.]))
    """

    model: StateSpace
    singular_values: Array
    order: int
    residual: float


class _Pencil(NamedTuple):
    """Real Loewner and shifted Loewner matrices, and the data they interpolate on the left and the right."""

    L: Array
    shifted: Array
    V: Array
    W: Array


def loewner(
    omega: ArrayLike,
    response: ArrayLike,
    order: int | None = None,
    *,
    dt: float | None = None,
    feedthrough: bool = True,
    tol: float = 1e-9,
) -> LoewnerRealization:
    r"""Realization of a measured frequency response.

    Half of the points $\mu_i$ are read from the left along $\ell_i$, $v_i = \ell_i G(\mu_i)$, the others
    $\lambda_j$ from the right along $r_j$, $w_j = G(\lambda_j) r_j$. The Loewner matrices of divided
    differences

    $$\mathbb L_{ij} = \frac{v_i r_j - \ell_i w_j}{\mu_i - \lambda_j}, \qquad
    \mathbb L^\sigma_{ij} = \frac{\mu_i v_i r_j - \lambda_j \ell_i w_j}{\mu_i - \lambda_j}$$

    are to a frequency response what the Hankel matrix and its shift are to an impulse response: the rank of
    $\mathbb L$ is the order, and $(-\mathbb L, -\mathbb L^\sigma, V, W)$, cut by singular vectors, a
    descriptor realization. Its infinite part is the direct term; it is taken out, and $B$ and $D$ are then
    fitted to all samples. Points and their conjugates are combined so that everything is real.

    Parameters
    ----------
    omega : array_like, shape (N,)
        Angular frequencies in rad/s, distinct, at least 0 (and below $\pi / dt$ in discrete time).
    response : array_like of complex, shape (N, p, m) or (N,)
        Frequency response $G$ at these.
    order : int, optional
        Number of states; the numerical rank of $\mathbb L$ when left out.
    dt : float, optional
        `0.0` for continuous time ($z = i\omega$); else $z = e^{i \omega\, dt}$, with a unit step for `None`.
    feedthrough : bool
        Whether there is a direct term $D$.
    tol : float
        Singular values up to `tol` times the largest are cut; as large as the noise of the measurement.

    Returns
    -------
    LoewnerRealization
        `.model` (real, no descriptor matrix), `.singular_values`, `.order`, `.residual`.

    Raises
    ------
    ShapeError, DataError
        If the data are not what is said above.
    RankError
        If `order` exceeds the rank of the Loewner matrix.

    Warns
    -----
    OrderWarning
        If the order was left open and the rank is full: there are too few samples, or `tol` is too small for
        their noise.

    References
    ----------
    A. J. Mayo, A. C. Antoulas, *A framework for the solution of the generalized realization problem*, Linear
    Algebra and its Applications 425 (2007) 634-662.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, 0.8]], [[0.0], [1.0]], [[1.0, 0.0]], [[2.0]])
    >>> omega = np.linspace(0.1, 3.0, 20)
    >>> found = rz.loewner(omega, model.frequency_response(omega))
    >>> found.order, found.model.poles.real.round(9), found.model.D.round(9)
    (2, array([0.8, 0.5]), array([[2.]]))
    """
    omega, G = _checked(omega, response, dt, tol)
    z: Complex = (1j * omega if dt == 0 else np.exp(1j * omega * (1.0 if dt is None else dt))).astype(complex)
    pencil = _pencil(z, G)
    s = scipy.linalg.svdvals(pencil.L)
    n = _order(order, s, tol)
    A, C = _cut(pencil, n, feedthrough, tol)
    B, D = _input_side(A, C, z, G, feedthrough)
    model = StateSpace(A, B, C, D, dt)
    error = np.abs(model.frequency_response(omega) - G).max()
    return LoewnerRealization(model, s, n, float(error / (np.abs(G).max() or 1.0)))


def _checked(omega: ArrayLike, response: ArrayLike, dt: float | None, tol: float) -> tuple[Array, Complex]:
    omega, G = as_real(omega, "omega"), np.asarray(response, dtype=complex)
    if G.ndim == 1:
        G = G[:, None, None]
    if omega.ndim != 1 or G.ndim != 3 or len(G) != len(omega) or len(omega) < 2 or 0 in G.shape:
        raise ShapeError(
            f"loewner: omega {omega.shape} and response {np.shape(response)} came; (N,) and (N, p, m) are "
            "needed, with at least two frequencies."
        )
    if not (np.isfinite(omega).all() and np.isfinite(G).all()):
        raise DataError("loewner: omega or the response has entries that are NaN or infinite.")
    if dt is not None and not (np.isfinite(dt) and dt >= 0):
        raise DataError(f"loewner: dt={dt} came; it must be positive, 0.0 (continuous time) or None.")
    highest = np.inf if dt == 0 else np.pi / (1.0 if dt is None else dt) * (1 + 1e-12)
    if omega.min() < 0 or omega.max() > highest or len(np.unique(omega)) < len(omega):
        raise DataError(
            f"loewner: frequencies must be distinct and lie between 0 and {highest:.6g} rad/s; they run from "
            f"{omega.min():.6g} to {omega.max():.6g}."
        )
    if not 0 < tol < 1:
        raise DataError(
            f"loewner: tol={tol} came; a share of the largest singular value, 0 < tol < 1, is needed."
        )
    return omega, G


def _pencil(z: Complex, G: Complex) -> _Pencil:
    """Points alternate between left and right; unit vectors are the directions, in turn."""
    _, p, m = G.shape
    left, right = np.arange(0, len(z), 2), np.arange(1, len(z), 2)
    toward = np.eye(p)[np.arange(len(left)) % p]
    along = np.eye(m)[np.arange(len(right)) % m]
    v = np.einsum("kp,kpm->km", toward, G[left])
    w = np.einsum("kpm,km->kp", G[right], along)
    mu, v, toward, left_basis = _with_conjugates(z[left], v, toward)
    lam, w, along, right_basis = _with_conjugates(z[right], w, along)
    difference = mu[:, None] - lam
    vr, lw = v @ along.T, toward @ w.T
    L, shifted = (vr - lw) / difference, (mu[:, None] * vr - lw * lam) / difference
    right_basis = right_basis.conj()
    return _Pencil(
        (left_basis @ L @ right_basis.T).real,
        (left_basis @ shifted @ right_basis.T).real,
        (left_basis @ v).real,
        (right_basis @ w).real.T,
    )


def _with_conjugates(z: Complex, data: Complex, direction: Array) -> tuple[Complex, Complex, Array, Complex]:
    """Points, data and directions, each with its conjugate, and the unitary matrix that makes them real."""
    real = np.abs(z.imag) <= 1e-14 * np.maximum(np.abs(z), 1.0)
    repeat = np.where(real, 1, 2)
    second = np.concatenate([np.arange(count) for count in repeat]) == 1
    points, values = np.repeat(z, repeat), np.repeat(data, repeat, axis=0)
    points, values = np.where(second, points.conj(), points), np.where(second[:, None], values.conj(), values)
    pair = np.array([[1, 1], [1j, -1j]]) / np.sqrt(2)
    basis = scipy.linalg.block_diag(*(np.eye(1) if count == 1 else pair for count in repeat)).astype(complex)
    return points, values, np.repeat(direction, repeat, axis=0), basis


def _order(order: int | None, s: Array, tol: float) -> int:
    rank = int(np.sum(s > tol * s[0]))
    if order is None:
        if rank == len(s) and rank:
            warn(
                f"loewner: each of the {rank} singular values of the Loewner matrix exceeds {tol:.1e} of the "
                "largest: give more frequencies, or an order or a larger tol if they are measured.",
                OrderWarning,
                stacklevel=3,
            )
        return rank
    if not isinstance(order, int | np.integer) or order < 0:
        raise ShapeError(f"loewner: order={order!r} came; a whole number, at least 0, or None is needed.")
    if order > rank:
        raise RankError(
            f"loewner: order {order} is asked, but only {rank} of {len(s)} singular values exceed {tol:.1e} "
            f"of the largest. Ask for order <= {rank}, lower tol, or give more frequencies."
        )
    return int(order)


def _cut(pencil: _Pencil, n: int, feedthrough: bool, tol: float) -> tuple[Array, Array]:
    """`A` and `C` of the finite part of the descriptor realization."""
    L, shifted, V, W = pencil
    Y, s, _ = scipy.linalg.svd(np.hstack([L, shifted]), full_matrices=False)
    _, _, Xt = scipy.linalg.svd(np.vstack([L, shifted]), full_matrices=False)
    rank = int(np.sum(s > tol * max(s[0], np.finfo(float).tiny)))
    k = max(n, min(n + (min(V.shape[1], len(W)) if feedthrough else 0), rank))
    Y, X = Y[:, :k], Xt[:k].T
    E, F, C = -Y.T @ L @ X, -Y.T @ shifted @ X, W @ X
    U, size, Rt = scipy.linalg.svd(E)
    F, C = U.T @ F @ Rt.T, C @ Rt.T
    slow, fast = slice(0, n), slice(n, k)
    # E is zero in the fast part, which therefore is an algebraic equation for its states.
    solved = scipy.linalg.lstsq(F[fast, fast], F[fast, slow])[0] if k > n > 0 else np.zeros((k - n, n))
    A = (F[slow, slow] - F[slow, fast] @ solved) / size[:n, None]
    return A, C[:, slow] - C[:, fast] @ solved


def _input_side(A: Array, C: Array, z: Complex, G: Complex, feedthrough: bool) -> tuple[Array, Array]:
    """Least-squares `B` and `D` over all samples, for given `A` and `C`."""
    n, (_, p, m) = len(A), G.shape
    resolvent = np.linalg.solve(
        (z[:, None, None] * np.eye(n) - A).transpose(0, 2, 1), np.broadcast_to(C.T, (len(z), n, p))
    )
    columns = [resolvent.transpose(0, 2, 1)]
    if feedthrough:
        columns.append(np.broadcast_to(np.eye(p), (len(z), p, p)).astype(complex))
    basis = np.concatenate(columns, axis=2).reshape(len(z) * p, -1)
    target = G.reshape(len(z) * p, m)
    if not basis.shape[1]:
        return np.zeros((0, m)), np.zeros((p, m))
    both = scipy.linalg.lstsq(np.vstack([basis.real, basis.imag]), np.vstack([target.real, target.imag]))[0]
    return both[:n], both[n:] if feedthrough else np.zeros((p, m))
