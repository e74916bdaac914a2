"""What Ho-Kalman and ERA share: the Hankel matrix's truncated decomposition, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, OrderWarning, ShapeError
from realization.notes import warn
from realization.realize.hankel import as_sequence, hankel, rows_and_cols
from realization.realize.hankel_operator import HankelOperator
from realization.realize.hankel_svd import HankelSvd, decompose, default_tolerance
from realization.realize.order import noise_norm
from realization.systems import StateSpace
from realization.systems.responses import free_response

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
        Singular values of the Hankel matrix, largest first, those that were left out too. After a randomized
        decomposition only those of the sketch, the order and some more, of which the last are estimates.
    order : int
        Number of states.
    residual : float
        $\max_k |h_k - \hat h_k| / \max_k |h_k|$ over every entry of the sequence given, the part that the
        Hankel matrix did not use included.
    bound : float
        Bound on the spectral norm of what was cut from the Hankel matrix: the first singular value left out
        where the decomposition was dense; else it holds but for one draw in a million (`hankel_svd`).
    certain_bound : float
        Bound on the same that depends on no chance, but on the Frobenius norm.

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
    bound: float
    certain_bound: float

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
    svd : HankelSvd
    later : ndarray, shape (rows * p, n)
        $H^\uparrow V$, where $H^\uparrow$ begins one step later.
    tol : float
    chosen : bool
        Whether the order was chosen from the singular values.
    weight : float
        The factors are those of $w^{-k} h_k$.
    """

    h: Array
    svd: HankelSvd
    later: Array
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
    method: str = "dense",
    seed: int | np.random.Generator = 0,
    noise: float | None = None,
) -> HankelFactor:
    """Hankel matrix of the Markov parameters `h[1:]`, of shape (N, p, m), cut at `order` or at its rank."""
    h = as_sequence(h, caller)
    rows, cols = _split(len(h), rows, cols, caller)
    weight = _growth(h[1:]) if weigh_growth else 1.0
    weighted = h * weight ** -np.arange(len(h))[:, None, None]
    floor = 0.0
    if noise is not None:
        if order is not None:
            raise DataError(
                f"{caller}: order={order} and noise={noise} came; noise finds the order. Give one."
            )
        floor = noise_norm(noise, (rows, cols), h.shape[1:], caller=caller)
    svd = decompose(weighted[1:], order, rows, cols, tol, method, seed, caller=caller, floor=floor)
    shape = rows * h.shape[1], cols * h.shape[2]
    n, largest = len(svd.s), min(shape)
    tol = default_tolerance(shape) if tol is None else float(tol)
    tol = max(tol, (noise or 0.0) / (np.abs(h).max() or 1.0))
    if order is None and n == largest:
        warn(
            f"{caller}: each of the {n} singular values of the {shape[0]} x {shape[1]} Hankel matrix "
            f"exceeds {tol:.1e} of the largest: the order is at the limit of what this sequence shows. "
            "Give a longer sequence, or order or tol if it is noisy.",
            OrderWarning,
            stacklevel=3,
        )
    build = hankel if svd.method == "dense" else HankelOperator
    later = build(weighted[2:], rows, cols) @ svd.V
    return HankelFactor(h, svd, later, tol, order is None and n < largest, weight)


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
        warn(
            f"{caller}: the Hankel matrix has rank {len(A)}, but a model of that order misses the sequence "
            f"by {residual:.1e} of its largest entry: it is not finished, or too noisy for "
            f"tol={factor.tol:.1e}. Give a longer sequence, or another order, rows, cols or tol.",
            OrderWarning,
            stacklevel=3,
        )
    svd = factor.svd
    return HankelRealization(model, svd.values, len(A), residual, svd.bound, svd.certain_bound)


def _powers(model: StateSpace, count: int) -> Array:
    later = free_response(model.A, model.C, count - 1) @ model.B
    return np.concatenate([model.D[None], later])


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
