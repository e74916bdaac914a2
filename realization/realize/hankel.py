"""The block Hankel matrix: past in its columns, future in its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError

__all__ = ["as_sequence", "hankel"]

Array = NDArray[np.float64]


def hankel(h: ArrayLike, rows: int, cols: int) -> Array:
    r"""Block Hankel matrix of a sequence of matrices or of a signal.

    $$H = \begin{bmatrix} h_0 & h_1 & \cdots & h_{c-1} \\ h_1 & h_2 & & \vdots \\ \vdots & & \ddots & \\
    h_{r-1} & \cdots & & h_{r+c-2} \end{bmatrix}$$

    Block $(i, j)$ is `h[i + j]`, from the first entry given. Markov parameters begin with the direct term
    `h[0] = D`, which belongs to no state: the matrix whose rank is the order is `hankel(h[1:], rows, cols)`.

    Parameters
    ----------
    h : array_like, shape (N, p, m), (N, p) or (N,)
        Blocks of p rows and m columns; a signal of shape (N, p) or (N,) gives blocks of one column, so that
        column j of the result holds the samples j to j + rows - 1 below one another.
    rows, cols : int
        Numbers of block rows r and block columns c; `rows + cols - 1` entries of `h` are used.

    Returns
    -------
    H : ndarray, shape (rows * p, cols * m)

    Raises
    ------
    ShapeError
        If `h` has fewer than `rows + cols - 1` entries, or none of these shapes.
    DataError
        If `h` is not real, or has entries that are NaN or infinite.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 5.1.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rz.hankel([0.0, 1.0, 2.0, 3.0], rows=2, cols=3)
    array([[0., 1., 2.],
           [1., 2., 3.]])
    >>> rz.hankel(np.ones((9, 2, 3)), rows=4, cols=5).shape
    (8, 15)
    """
    h = as_sequence(h, "hankel")
    for name, count in (("rows", rows), ("cols", cols)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise ShapeError(f"hankel: {name}={count!r} came; a number of blocks, at least 1, is needed.")
    needed = rows + cols - 1
    if len(h) < needed:
        raise ShapeError(
            f"hankel: h has {len(h)} entries; {rows} block rows and {cols} block columns need "
            f"rows + cols - 1 = {needed}. Ask for a smaller matrix or give a longer sequence."
        )
    _, p, m = h.shape
    windows = np.lib.stride_tricks.sliding_window_view(h[:needed], cols, axis=0)  # (rows, p, m, cols)
    return windows.transpose(0, 1, 3, 2).copy().reshape(rows * p, cols * m)


def as_sequence(h: ArrayLike, caller: str) -> Array:
    """A finite float64 sequence of matrices, shape (N, p, m); vectors become blocks of one column."""
    try:
        array = None if np.iscomplexobj(h) else np.array(h, dtype=float)
    except (TypeError, ValueError):
        array = None
    if array is None:
        raise DataError(
            f"{caller}: h is not an array of real numbers (for a record, pass its signal: data.y)."
        )
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise ShapeError(
            f"{caller}: h has shape {array.shape}; (N, p, m), (N, p) or (N,), none of them 0, is needed."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        raise DataError(f"{caller}: h[{np.argwhere(bad)[0][0]}] has entries that are NaN or infinite.")
    return array


def rows_and_cols(
    available: int, rows: int | None, cols: int | None, *, caller: str, given: str, limit: str
) -> tuple[int, int]:
    """Block rows and columns of a Hankel matrix: as asked, else what is left, else one half each."""
    if rows is None:
        rows = available - (available // 2 if cols is None else cols)
    if cols is None:
        cols = available - rows
    if rows < 1 or cols < 1 or rows + cols > available:
        raise ShapeError(
            f"{caller}: rows={rows} and cols={cols} for {given}; both must be at least 1, and rows + cols at "
            f"most {limit}."
        )
    return rows, cols
