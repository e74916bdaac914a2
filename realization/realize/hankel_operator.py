"""Products with a block Hankel matrix that is never formed: correlations by fast Fourier transform."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from realization.errors import ShapeError
from realization.realize.hankel import as_sequence

__all__ = ["HankelOperator"]

Array = NDArray[np.float64]


class HankelOperator:
    r"""The matrix `hankel(h, rows, cols)`, known by what it does to vectors.

    $$(H x)_i = \sum_{j=0}^{c-1} h_{i+j}\, x_j, \qquad (H^T y)_j = \sum_{i=0}^{r-1} h_{i+j}^T\, y_i$$

    are correlations with the sequence. A Fourier transform of $L \ge r + c - 1$ points turns them into
    products, so that k vectors cost $O(k (p + m) L \log L + k\,p\,m\,L)$ operations instead of
    $2\,k\,p\,m\,r\,c$, and the matrix is stored as the transform of its sequence.

    Parameters
    ----------
    h : array_like, shape (N, p, m), (N, p) or (N,)
        Blocks, from the first one of the matrix: Markov parameters from `h[1]` on.
    rows, cols : int
        Numbers of block rows and block columns; `rows + cols - 1` entries of `h` are used.

    Raises
    ------
    ShapeError
        If `h` has fewer entries, or a factor of a product the wrong number of rows.
    DataError
        If `h` is not real, or not finite.

    References
    ----------
    G. H. Golub, C. F. Van Loan, *Matrix Computations*, Johns Hopkins 2013, section 4.8.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> h = np.arange(9.0)
    >>> H = rz.HankelOperator(h, 4, 5)
    >>> (H @ np.ones(5)).round(9)
    array([10., 15., 20., 25.])
    >>> bool(np.allclose(H.T @ np.eye(4), rz.hankel(h, 4, 5).T))
    True
    """

    def __init__(self, h: ArrayLike, rows: int, cols: int) -> None:
        h = as_sequence(h, "HankelOperator")
        counts = all(isinstance(count, int | np.integer) and count >= 1 for count in (rows, cols))
        if not counts or len(h) < rows + cols - 1:
            raise ShapeError(
                f"HankelOperator: rows={rows!r} and cols={cols!r} for {len(h)} entries; both must be whole "
                "numbers, at least 1, and rows + cols - 1 at most the number of entries."
            )
        h = h[: rows + cols - 1]
        self._length = scipy.fft.next_fast_len(len(h), real=True)
        self._spectrum = scipy.fft.rfft(np.ascontiguousarray(h.transpose(1, 2, 0)), self._length)
        self._blocks = (int(rows), int(cols))
        counts = np.minimum(np.arange(1, len(h) + 1), np.arange(len(h), 0, -1)).clip(max=min(rows, cols))
        self._frobenius = float(np.sqrt(counts @ np.einsum("kpm,kpm->k", h, h)))

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of scalar rows and columns."""
        p, m, _ = self._spectrum.shape
        return self._blocks[0] * p, self._blocks[1] * m

    @property
    def frobenius(self) -> float:
        """Frobenius norm, from the sequence: each entry counts as often as it stands in the matrix."""
        return self._frobenius

    @property
    def rounding(self) -> float:
        """Size of the rounding errors of a product with unit vectors: `eps` log2(L) Frobenius norms."""
        return float(np.finfo(float).eps * max(np.log2(self._length), 1.0) * self._frobenius)

    @property
    def T(self) -> HankelOperator:
        """The transposed operator."""
        other = object.__new__(HankelOperator)
        other._length, other._frobenius = self._length, self._frobenius
        other._spectrum, other._blocks = self._spectrum.transpose(1, 0, 2), self._blocks[::-1]
        return other

    def __matmul__(self, X: ArrayLike) -> Array:
        """Product with a vector (cols * m,) or with k of them, (cols * m, k)."""
        X = np.asarray(X, dtype=float)
        if X.ndim not in (1, 2) or len(X) != self.shape[1]:
            raise ShapeError(
                f"HankelOperator: a factor of shape {X.shape} for a matrix of shape {self.shape}; "
                f"({self.shape[1]},) or ({self.shape[1]}, k) is needed."
            )
        p, m, points = self._spectrum.shape
        rows, cols = self._blocks
        k = X.size // len(X)
        time_last = np.ascontiguousarray(X.reshape(cols, m * k).T).reshape(m, k, cols)
        moved = scipy.fft.rfft(time_last, self._length)
        np.conjugate(moved, out=moved)
        product = np.empty((p, k, points), dtype=complex)
        for i, row in enumerate(self._spectrum):
            np.multiply(row[0], moved[0], out=product[i])
            for j in range(1, m):
                product[i] += row[j] * moved[j]
        result = scipy.fft.irfft(product, self._length, overwrite_x=True)[:, :, :rows]
        return np.ascontiguousarray(result.transpose(2, 0, 1)).reshape(rows * p, *X.shape[1:])

    def __repr__(self) -> str:
        p, m, _ = self._spectrum.shape
        return f"HankelOperator({self._blocks[0]} x {self._blocks[1]} blocks of {p} x {m})"
