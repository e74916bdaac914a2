"""Zeros of a system: where its transfer function loses rank."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.systems.models import StateSpace
from realization.systems.reachability import checked_tol

__all__ = ["zeros"]

Array = NDArray[np.float64]


def zeros(model: StateSpace, *, tol: float | None = None) -> NDArray[np.complex128]:
    r"""Invariant zeros; of a minimal realization these are the transmission zeros.

    They are the $z$ at which the system matrix loses rank,

    $$\operatorname{rank} \begin{bmatrix} A - zI & B \\ C & D \end{bmatrix} < \text{its rank elsewhere}.$$

    Where the numbers of inputs and outputs differ, the matrix pencil is singular, and its eigenvalues say
    nothing. Orthogonal steps therefore first take off the states that must vanish with the output, then, on
    the transposed system, those that no input tells apart, until $D$ is square and invertible; what is left
    has the same finite zeros and none at infinity.

    Parameters
    ----------
    model : StateSpace
        Of an innovations model, the path from `u`; `zeros(model.noise)` are the poles of its predictor.
    tol : float, optional
        Singular values up to `tol` times the norm of the system matrix count as zero, after its inputs and
        outputs have been scaled; 1e-10 when left out.

    Returns
    -------
    ndarray of complex, shape (number of zeros,)
        Largest modulus first. Those of a realization that is not minimal include its hidden modes: reduce
        it with `minimal` for the transmission zeros alone.

    Raises
    ------
    DataError
        If `tol` is no relative tolerance.

    References
    ----------
    A. Emami-Naeini, P. Van Dooren, *Computation of zeros of linear multivariable systems*, Automatica 18
    (1982) 415-430.

    Examples
    --------
    >>> import realization as rz
    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, 0.2]], [[1.0], [1.0]], [[1.0, 0.0]])
    >>> rz.zeros(model).real.round(12)
    array([-0.8])
    """
    A, (B, C, D) = model.A, _scaled(model.B, model.C, model.D)
    limit = float(checked_tol(tol, "zeros") * np.linalg.norm(np.block([[A, B], [C, D]])))
    A, B, C, D = _reduced(A, B, C, D, limit)
    A, C, B, D = (matrix.T for matrix in _reduced(A.T, C.T, B.T, D.T, limit))
    return _finite(A, B, C, D)


def _scaled(B: Array, C: Array, D: Array) -> tuple[Array, Array, Array]:
    """Inputs and outputs in units of their own size: zeros do not depend on units."""

    def length(matrix: Array, axis: int) -> Array:
        size = np.linalg.norm(matrix, axis=axis)
        return np.where(size > 0, size, 1.0)

    columns = length(np.vstack([B, D]), 0)
    B, D = B / columns, D / columns
    rows = length(np.hstack([C, D]), 1)[:, None]
    return B, C / rows, D / rows


def _reduced(A: Array, B: Array, C: Array, D: Array, limit: float) -> tuple[Array, Array, Array, Array]:
    """The system on the states that can hold the output at zero; `D` comes out with full row rank."""
    while True:
        U, rank = _row_basis(D, limit)
        C, D = U.T @ C, (U.T @ D)[:rank]
        kept, free = C[:rank], C[rank:]
        V, seen = _row_basis(free.T, limit)
        if seen == 0:
            return A, B, kept, D
        V = np.roll(V, -seen, axis=1)  # the states that the free outputs see go last; they must be zero
        A, B, kept = V.T @ A @ V, V.T @ B, kept @ V
        n = len(A) - seen
        C, D = np.vstack([kept[:, :n], A[n:, :n]]), np.vstack([D, B[n:]])
        A, B = A[:n, :n], B[:n]


def _row_basis(matrix: Array, limit: float) -> tuple[Array, int]:
    if 0 in matrix.shape:
        return np.eye(len(matrix)), 0
    U, s, _ = scipy.linalg.svd(matrix)
    return U, int(np.sum(s > limit))


def _finite(A: Array, B: Array, C: Array, D: Array) -> NDArray[np.complex128]:
    """Eigenvalues of `A - B inv(D) C` from a pencil, without the inverse."""
    n = len(A)
    if n == 0:
        return np.zeros(0, complex)
    Q, _ = np.linalg.qr(np.hstack([C, D]).T, mode="complete")
    null = Q[:, len(D) :]
    found: NDArray[np.complex128] = np.asarray(
        scipy.linalg.eigvals(np.hstack([A, B]) @ null, null[:n]), dtype=np.complex128
    )
    return found[np.lexsort((found.imag, -np.abs(found)))]
