"""What Ho-Kalman and ERA share: the Hankel matrix, its singular value decomposition, and its rank."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, OrderWarning, RankError, ShapeError
from realization.realize.hankel import as_sequence, hankel, rows_and_cols
from realization.systems import StateSpace

__all__ = ["HankelFactor", "HankelRealization", "factorize", "finish"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HankelRealization:
    r"""A realization found from a block Hankel matrix.

    Attributes
    ----------
    model : StateSpace
        The realization, of the order chosen.
    hsv : ndarray, shape (min(rows * p, cols * m),)
        Singular values of the Hankel matrix, largest first, those that were left out too.
    order : int
        Number of states.
    residual : float
        $\max_k |h_k - \hat h_k| / \max_k |h_k|$ over every entry of the sequence given, the part that the
        Hankel matrix did not use included.

    Examples
    --------
    >>> import realization as rz
    >>> result = rz.ho_kalman([0.0, 1.0, 0.5, 0.25, 0.125])
    >>> result.order, result.hsv.round(9), result.residual < 1e-14
    (1, array([1.25, 0.  ]), True)
    """

    model: StateSpace
    hsv: Array
    order: int
    residual: float

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3g}" for value in self.hsv[: self.order + 2])
        more = ", ..." if len(self.hsv) > self.order + 2 else ""
        return f"HankelRealization(order {self.order}, residual {self.residual:.1e}, hsv {shown}{more})"


@dataclass(frozen=True, eq=False)
class HankelFactor:
    r"""Truncated factors $H \approx U \operatorname{diag}(s) V^T$, and the Hankel matrix one step later.

    Attributes
    ----------
    h : ndarray, shape (N, p, m)
    U : ndarray, shape (rows * p, n)
    s : ndarray, shape (n,)
    V : ndarray, shape (cols * m, n)
    later : ndarray, shape (rows * p, cols * m)
    hsv : ndarray, shape (min(rows * p, cols * m),)
    tol : float
    chosen : bool
        Whether the order was chosen from the singular values.
    weight : float
        The factors are those of $w^{-k} h_k$.
    """

    h: Array
    U: Array
    s: Array
    V: Array
    later: Array
    hsv: Array
    tol: float
    chosen: bool
    weight: float


def factorize(
    h: ArrayLike,
    order: int | None,
    rows: int | None,
    cols: int | None,
    tol: float | None,
    *,
    caller: str,
    weigh_growth: bool = False,
) -> HankelFactor:
    """Hankel matrix of the Markov parameters `h[1:]`, of shape (N, p, m), cut at `order` or at its rank."""
    h = as_sequence(h, caller)
    rows, cols = _split(len(h), rows, cols, caller)
    weight = _growth(h[1:]) if weigh_growth else 1.0
    weighted = h * weight ** -np.arange(len(h))[:, None, None]
    H = hankel(weighted[1:], rows, cols)
    U, hsv, Vt = scipy.linalg.svd(H, full_matrices=False)
    tol = _tolerance(tol, H.shape, caller)
    rank = int(np.sum(hsv > tol * hsv[0]))
    n = rank if order is None else _order(order, rank, len(hsv), tol, caller)
    if order is None and n == len(hsv):
        warnings.warn(
            f"{caller}: each of the {n} singular values of the {H.shape[0]} x {H.shape[1]} Hankel matrix "
            f"exceeds {tol:.1e} of the largest: the order is at the limit of what this sequence shows. "
            "Give a longer sequence, or order or tol if it is noisy.",
            OrderWarning,
            stacklevel=3,
        )
    later = hankel(weighted[2:], rows, cols)
    chosen = order is None and n < len(hsv)
    return HankelFactor(h, U[:, :n], hsv[:n], Vt[:n].T, later, hsv, tol, chosen, weight)


def finish(
    factor: HankelFactor, A: Array, B: Array, C: Array, dt: float | None, caller: str
) -> HankelRealization:
    """The result for given matrices, with its residual; warns where the chosen order does not explain `h`."""
    model = StateSpace(factor.weight * A, factor.weight * B, C, factor.h[0], dt)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.abs(_powers(model, len(factor.h)) - factor.h).max()
    residual = float(difference / (np.abs(factor.h).max() or 1.0)) if np.isfinite(difference) else np.inf
    # A finite sequence fixes the system only if its Hankel matrices of the next size have the same rank.
    if factor.chosen and residual > max(1e-8, 100 * factor.tol):
        warnings.warn(
            f"{caller}: the Hankel matrix has rank {len(A)}, but a model of that order misses the sequence "
            f"by {residual:.1e} of its largest entry: it is not finished, or too noisy for "
            f"tol={factor.tol:.1e}. Give a longer sequence, or another order, rows, cols or tol.",
            OrderWarning,
            stacklevel=3,
        )
    return HankelRealization(model, factor.hsv, len(A), residual)


def _powers(model: StateSpace, count: int) -> Array:
    h = np.empty((count, model.n_outputs, model.n_inputs))
    h[0], reached = model.D, model.B
    for k in range(1, count):
        h[k], reached = model.C @ reached, model.A @ reached
    return h


def _growth(h: Array) -> float:
    """Growth per step of a sequence that grows about a thousandfold or more, else 1."""
    size = np.abs(h).max(axis=(1, 2))
    half = len(h) // 2
    early, late = size[:half].max(), size[half:].max()
    return float((late / early) ** (1 / half)) if 0 < 30 * early < late else 1.0


def _split(length: int, rows: int | None, cols: int | None, caller: str) -> tuple[int, int]:
    available = length - 1  # h[0] = D belongs to no block; the shifted matrix takes one more than H
    if available < 2:
        raise ShapeError(
            f"{caller}: {length} Markov parameters came; at least h[0], h[1] and h[2] are needed, "
            "and 2 n + 1 to determine order n."
        )
    limit = f"{available} (h[0] is not used, the shifted matrix takes one more)"
    return rows_and_cols(
        available, rows, cols, caller=caller, given=f"{length} Markov parameters", limit=limit
    )


def _tolerance(tol: float | None, shape: tuple[int, ...], caller: str) -> float:
    if tol is None:
        return 4 * max(shape) * float(np.finfo(float).eps)
    if not 0 <= tol < 1:
        raise DataError(
            f"{caller}: tol={tol} came; a share of the largest singular value, 0 <= tol < 1, is needed."
        )
    return float(tol)


def _order(order: int, rank: int, largest: int, tol: float, caller: str) -> int:
    if not isinstance(order, int | np.integer) or order < 0:
        raise ShapeError(f"{caller}: order={order!r} came; a whole number, at least 0, or None is needed.")
    if order > rank:
        raise RankError(
            f"{caller}: order {order} is asked, but only {rank} of the Hankel matrix's {largest} singular "
            f"values exceed {tol:.1e} of the largest. Ask for order <= {rank}, lower tol, or give a longer "
            "sequence."
        )
    return int(order)
