"""What inputs reach and outputs see: matrices, indices, and the orthogonal staircase behind both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import DataError, ShapeError, UnstableError
from realization.systems.models import InnovationsModel, StateSpace

__all__ = [
    "TOL",
    "Chains",
    "chains",
    "checked_tol",
    "controllability_indices",
    "controllability_matrix",
    "drive",
    "observability_indices",
    "observability_matrix",
    "staircase",
    "unit_columns",
]

Array = NDArray[np.float64]
TOL = 1e-10


class Chains(NamedTuple):
    r"""An orthonormal basis of what `B` reaches, built column by column of $B, AB, A^2B, \dots$.

    Attributes
    ----------
    basis : ndarray, shape (n, r)
    steps : list of (input, power)
        The column $A^k b_i$ that each basis vector came from.
    recurrence : ndarray, shape (r, m + r)
        The upper trapezoidal factor: what was orthogonalized is `basis @ recurrence`.
    sources : list of int
        Of each basis vector the place in `[B, A basis]` of the column that was orthogonalized.
    """

    basis: Array
    steps: list[tuple[int, int]]
    recurrence: Array
    sources: list[int]


def drive(model: StateSpace) -> Array:
    """What drives the state: `B`, and the gain `K` beside it where there is one."""
    return np.hstack([model.B, model.K]) if isinstance(model, InnovationsModel) else model.B


def checked_tol(tol: float | None, caller: str) -> float:
    """The tolerance given, or `TOL`."""
    if tol is None:
        return TOL
    if not 0 <= tol < 1:
        raise DataError(f"{caller}: tol={tol} came; a relative tolerance, 0 <= tol < 1, is needed.")
    return float(tol)


def unit_columns(B: Array) -> Array:
    """Columns of length one (or zero): what is reached does not depend on the units of the inputs."""
    length = np.linalg.norm(B, axis=0)
    return B / np.where(length > 0, length, 1.0)


def staircase(A: Array, B: Array, tol: float, size: float) -> tuple[Array, list[int]]:
    r"""Orthogonal basis whose first columns span what `B` reaches, and the ranks of the steps.

    $Q^T A Q$ is block Hessenberg and $Q^T B$ is zero below its first block. In the first step singular values
    count that exceed `tol`, in the others those that exceed `tol * size`.
    """
    n = len(A)
    Q, ranks, reached = np.eye(n), [], 0
    entry, scale = B, 1.0
    while reached < n and entry.size:
        U, s, _ = scipy.linalg.svd(entry)
        rank = int(np.sum(s > tol * scale))
        if rank == 0:
            break
        Q[:, reached:] = Q[:, reached:] @ U
        ranks.append(rank)
        latest = Q[:, reached : reached + rank]
        reached += rank
        entry, scale = Q[:, reached:].T @ A @ latest, size
    return Q, ranks


def chains(A: Array, B: Array, tol: float) -> Chains:
    """The independent columns of `[B, A B, ...]` in that order, orthonormalized (block Arnoldi)."""
    n, m = B.shape
    basis, steps, sources, columns = np.zeros((n, 0)), [], [], []
    size = np.linalg.norm(A, 2) if n else 0.0
    front = [(B[:, i], i, 0, i, np.linalg.norm(B[:, i])) for i in range(m)]
    while front and basis.shape[1] < n:
        nearest = []
        for vector, i, power, source, scale in front:
            coefficients = basis.T @ vector
            rest = vector - basis @ coefficients
            again = basis.T @ rest  # once is not enough where the rest is small
            rest, coefficients = rest - basis @ again, coefficients + again
            length = np.linalg.norm(rest)
            if length <= tol * scale or basis.shape[1] == n:
                continue
            columns.append(np.append(coefficients, length))
            basis = np.column_stack([basis, rest / length])
            steps.append((i, power))
            sources.append(source)
            nearest.append((A @ basis[:, -1], i, power + 1, m + len(steps) - 1, size))
        front = nearest
    recurrence = np.zeros((len(steps), len(steps)))
    for j, column in enumerate(columns):
        recurrence[: j + 1, j] = column
    return Chains(basis, steps, recurrence, sources)


def controllability_matrix(model: StateSpace, count: int | None = None) -> Array:
    r"""Controllability matrix $[B,\ AB,\ \dots,\ A^{N-1}B]$.

    Its rank tells whether inputs reach every state, but its columns soon lie close together: to decide, use
    `controllability_indices` or `kalman_decomposition`, which never form it.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        The latter is driven by its innovations too: `[B, K]` takes the place of `B`.
    count : int, optional
        Number of blocks N; the order n when left out.

    Returns
    -------
    ndarray, shape (n, count * m)

    Raises
    ------
    ShapeError
        If `count` is not a whole number, at least 0.
    UnstableError
        If a power overflows.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.3.

    Examples
    --------
    >>> import realization as rz
    >>> rz.controllability_matrix(rz.StateSpace([[0.0, 1.0], [2.0, 3.0]], [[0.0], [1.0]], [[1.0, 0.0]]))
    array([[0., 1.],
           [1., 3.]])
    """
    return _powers(model.A, drive(model), count, "controllability_matrix")


def observability_matrix(model: StateSpace, count: int | None = None) -> Array:
    r"""Observability matrix, $C, CA, \dots, CA^{N-1}$ below one another.

    Parameters
    ----------
    model : StateSpace
    count : int, optional
        Number of blocks N; the order n when left out.

    Returns
    -------
    ndarray, shape (count * p, n)

    Raises
    ------
    ShapeError
        If `count` is not a whole number, at least 0.
    UnstableError
        If a power overflows.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.3.

    Examples
    --------
    >>> import realization as rz
    >>> rz.observability_matrix(rz.StateSpace([[0.0, 1.0], [2.0, 3.0]], [[0.0], [1.0]], [[1.0, 0.0]]), 3)
    array([[1., 0.],
           [0., 1.],
           [2., 3.]])
    """
    return _powers(model.A.T, model.C.T, count, "observability_matrix").T


def controllability_indices(model: StateSpace, *, tol: float | None = None) -> NDArray[np.int64]:
    r"""Controllability (Kronecker) indices: how long the chain of each input is.

    Of $b_1, \dots, b_m, Ab_1, \dots, Ab_m, A^2b_1, \dots$ those columns are kept that do not depend on the
    ones before them; $\kappa_i$ is the number of $A^k b_i$ among them. Their sum is the dimension of what the
    inputs reach, and the system is controllable where that is the order. Feedback and a change of state
    leave them as they are (up to their order).

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        The latter is driven by its innovations too: `[B, K]` takes the place of `B`.
    tol : float, optional
        A column depends on those before it where the rest of it, orthogonalized step by step, is up to `tol`
        times its length (of the first step) or times the norm of `A` (of the others); 1e-10 when left out.

    Returns
    -------
    ndarray of int, shape (m,)

    Raises
    ------
    DataError
        If `tol` is no relative tolerance.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 6.4.6.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rz.controllability_indices(rz.StateSpace(np.eye(3, k=1), np.eye(3)[:, 1:], np.eye(3)))
    array([2, 1])
    """
    return _indices(model.A, drive(model), tol, "controllability_indices")


def observability_indices(model: StateSpace, *, tol: float | None = None) -> NDArray[np.int64]:
    r"""Observability (Kronecker) indices: how long the chain of each output is.

    Those of `controllability_indices` for $(A^T, C^T)$; the largest is the lag of the system, the number of
    past samples that determine its state.

    Parameters
    ----------
    model : StateSpace
    tol : float, optional
        As for `controllability_indices`.

    Returns
    -------
    ndarray of int, shape (p,)

    Raises
    ------
    DataError
        If `tol` is no relative tolerance.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 6.4.6.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rz.observability_indices(rz.StateSpace(np.eye(3, k=1), np.eye(3)[:, 2:], np.eye(3)[:1]))
    array([3])
    """
    return _indices(model.A.T, model.C.T, tol, "observability_indices")


def _indices(A: Array, B: Array, tol: float | None, caller: str) -> NDArray[np.int64]:
    found = chains(A, B, checked_tol(tol, caller))
    return np.bincount([i for i, _ in found.steps], minlength=B.shape[1]).astype(np.int64)


def _powers(A: Array, B: Array, count: int | None, caller: str) -> Array:
    count = len(A) if count is None else count
    if not isinstance(count, int | np.integer) or count < 0:
        raise ShapeError(f"{caller}: count={count!r} came; a whole number of blocks, at least 0, is needed.")
    blocks, block = [np.zeros((len(A), 0))], B
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(count):
            blocks.append(block)
            block = A @ block
    powers = np.hstack(blocks)
    if not np.isfinite(powers).all():
        raise UnstableError(f"{caller}: a power of A overflows before block {count}; ask for fewer blocks.")
    return powers
