"""ERA/DC: the eigensystem realization of correlations, in which noise averages out."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import ShapeError
from realization.realize.factor import HankelFactor, HankelRealization, finish
from realization.realize.hankel import as_sequence, hankel
from realization.realize.hankel_svd import decompose, default_tolerance

__all__ = ["era_dc"]

Array = NDArray[np.float64]


def era_dc(
    h: ArrayLike,
    order: int | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
    count: int | None = None,
    lag: int = 0,
    tol: float | None = None,
    dt: float | None = None,
) -> HankelRealization:
    r"""Realization of measured Markov parameters from the correlations of their Hankel matrix.

    With $H_q = [h_{q+i+j-1}]$, r block rows and c block columns, the data correlations

    $$R_q = H_q H_0^T = \mathcal O\, A^q\, \mathcal C \mathcal C^T \mathcal O^T$$

    are Markov parameters of a system with the same $A$ and with $\mathcal O$ as its output matrix. They sum c
    products, so that independent errors of the h average out. ERA of $R_q, R_{q+1}, \dots$ from $q$ = `lag`
    on gives $A$ and $\mathcal O$; $C$ is its first block row, and $B$ the first block column of
    $\mathcal O^+ H_0$.

    At the same few block rows, lightly damped modes come out far more accurately than from `era`; an `era`
    with as many rows as columns, where its size allows it, is still more accurate, and for modes that are
    well damped there is nothing to gain. White errors of variance $\sigma^2$ leave a mean only where both
    factors hold the same entry: $c\,\sigma^2$ on the q-th block diagonal of $R_q$, which `lag` = `rows`
    avoids, at the price of modes that have died out by then.

    Parameters
    ----------
    h : array_like, shape (N, p, m), (N, p) or (N,)
        Markov parameters, `h[0] = D` first; (N, p) and (N,) are responses to one input.
    order : int, optional
        Number of states; as many as there are singular values above `tol` when left out.
    rows, cols : int, optional
        Block rows r and columns c of the Hankel matrices; an eighth of `N - 1` and what is left over when
        left out.
    count : int, optional
        Block rows and columns of the Hankel matrix of correlations; when left out, an eighth of `N - 1`, at
        most what keeps the size of that matrix below 400.
    lag : int
        First correlation used, at least 0. Modes at zero need 0.
    tol : float, optional
        Singular values up to `tol` times the largest are cut; rounding only when left out.
    dt : float, optional
        Sampling time of the model.

    Returns
    -------
    result : HankelRealization
        `.model` (StateSpace), `.order`, `.hsv` (singular values of the matrix of correlations, squares by
        size), `.residual`, `.bound`.

    Raises
    ------
    ShapeError
        If the sequence is too short for what is asked.
    RankError
        If `order` exceeds the number of singular values above `tol`.

    Warns
    -----
    OrderWarning
        If the order was left open and the model misses the sequence.

    References
    ----------
    J.-N. Juang, J. E. Cooper, J. R. Wright, *An eigensystem realization algorithm using data correlations
    (ERA/DC) for modal parameter identification*, Control Theory and Advanced Technology 4 (1988) 5-14.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> k = np.arange(1, 101)
    >>> h = np.r_[0.0, 0.9**k * np.cos(k)] + 0.01 * np.random.default_rng(0).standard_normal(101)
    >>> np.abs(rz.era_dc(h, order=2).model.poles).round(2)
    array([0.9, 0.9])
    """
    h = as_sequence(h, "era_dc")
    _, p, m = h.shape
    r, c, count = _sizes(len(h) - 1, p, rows, cols, count, lag)
    first = hankel(h[1:], r, c)
    # One tall matrix holds every H_q in rows q to q + r - 1; its product with H_0 holds every R_q.
    tall = hankel(h[1:], r + lag + 2 * count - 1, c) @ first.T
    R = np.array([tall[q * p : (q + r) * p] for q in range(lag, lag + 2 * count)])
    size = count * r * p
    svd = decompose(R[:-1], order, count, count, tol, "dense", 0, caller="era_dc")
    n, root = len(svd.s), np.sqrt(svd.s)
    later = hankel(R[1:], count, count) @ svd.V
    A = svd.U.T @ later / np.outer(root, root)
    sight = svd.U[: r * p] * root
    B = scipy.linalg.lstsq(sight, first[:, :m])[0] if n else np.zeros((0, m))
    tol = default_tolerance((size, size)) if tol is None else tol
    factor = HankelFactor(h, svd, later, tol, order is None, 1.0)
    return finish(factor, A, B, sight[:p], dt, "era_dc")


def _sizes(
    available: int, p: int, rows: int | None, cols: int | None, count: int | None, lag: int
) -> tuple[int, int, int]:
    """Block rows and columns of `H`, and of the matrix of correlations."""
    given = [x for x in (rows, cols, count, lag) if x is not None]
    whole = all(isinstance(x, int | np.integer) for x in given)
    eighth = max(available // 8, 1)
    r = eighth if rows is None else rows
    q = max(min(eighth, 400 // (max(r, 1) * p)), 1) if count is None and whole else count or 0
    c = available + 2 - r - lag - 2 * q if cols is None and whole else cols or 0
    sizes = (r, c, q)
    if not whole or min(sizes) < 1 or lag < 0 or r + c + lag + 2 * sizes[2] - 2 > available:
        raise ShapeError(
            f"era_dc: rows={r}, cols={c}, count={q} and lag={lag} for {available + 1} Markov parameters; "
            "whole numbers are needed, the first three at least 1, lag at least 0, and "
            f"rows + cols + lag + 2 count - 2 at most {available}."
        )
    return sizes
