"""Kalman's four parts of a system, and the one of them that its input and output know of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.reachability import checked_tol, drive, staircase, unit_columns

__all__ = ["KalmanDecomposition", "Parts", "kalman_decomposition", "minimal"]

Array = NDArray[np.float64]


class Parts(NamedTuple):
    """Dimensions of the four parts of a state space, in the order of the Kalman form.

    Attributes
    ----------
    co : int
        Controllable and observable.
    c : int
        Controllable, not observable.
    o : int
        Observable, not controllable.
    neither : int
        Neither.

    Examples
    --------
    >>> import realization as rz
    >>> rz.kalman_decomposition(rz.StateSpace([[0.5]], [[0.0]], [[1.0]])).dimensions
    Parts(co=0, c=0, o=1, neither=0)
    """

    co: int
    c: int
    o: int
    neither: int


@dataclass(frozen=True, eq=False)
class KalmanDecomposition:
    r"""A system in Kalman form.

    Attributes
    ----------
    model : StateSpace or InnovationsModel
        In Kalman form; what the form says is zero is zero exactly.
    T : ndarray, shape (n, n)
        `similarity_transform(T)` of the given model is `model`, up to `residual`. Orthogonal where every
        state is controllable or every state is observable.
    dimensions : Parts
        Of the parts `co, c, o, neither`, in this order.
    residual : float
        Largest entry that was set to zero, relative to the norm of `A`, or of the column of `B` or row of `C`
        that it stood in.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.5, 0.2]), [[1.0], [0.0]], [[1.0, 1.0]])
    >>> rz.kalman_decomposition(model).residual
    0.0
    """

    model: StateSpace
    T: Array
    dimensions: Parts
    residual: float


def kalman_decomposition(model: StateSpace, *, tol: float | None = None) -> KalmanDecomposition:
    r"""Kalman's decomposition into what inputs reach and outputs see.

    $$T^{-1} A T = \begin{bmatrix} A_{co} & 0 & A_{13} & 0 \\ A_{21} & A_c & A_{23} & A_{24} \\
    0 & 0 & A_o & 0 \\ 0 & 0 & A_{43} & A_n \end{bmatrix}, \quad
    T^{-1} B = \begin{bmatrix} B_{co} \\ B_c \\ 0 \\ 0 \end{bmatrix}, \quad
    C T = \begin{bmatrix} C_{co} & 0 & C_o & 0 \end{bmatrix}$$

    The transfer function is that of $(A_{co}, B_{co}, C_{co}, D)$. Three orthogonal staircases find the
    parts: of $(A, B)$; of $(A^T, C^T)$ within what is reached; and of $(A^T, C^T)$ once what is reached and
    unseen has been taken off. Only where there are states that are neither can $T$ fail to be orthogonal,
    since the unseen states need not be perpendicular to those that are both.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        The latter is driven by its innovations too: `[B, K]` takes the place of `B`.
    tol : float, optional
        A singular value counts as zero up to `tol` times the norm of `A` (of the first step: up to `tol`, the
        columns of `B` and rows of `C` having length one); 1e-10 when left out. A system that came from data
        or from an ill-conditioned change of basis needs a larger one.

    Returns
    -------
    KalmanDecomposition
        `.model`, `.T`, `.dimensions`, `.residual`.

    Raises
    ------
    DataError
        If `tol` is no relative tolerance.

    References
    ----------
    R. E. Kalman, *Mathematical description of linear dynamical systems*, SIAM Journal on Control 1 (1963)
    152-192.

    P. Van Dooren, *The generalized eigenstructure problem in linear system theory*, IEEE Transactions on
    Automatic Control 26 (1981) 111-129, section 3.

    Examples
    --------
    A mode that is not driven, and one that is not seen.

    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.9, 0.5, 0.2]), [[1.0], [1.0], [0.0]], [[1.0, 0.0, 1.0]])
    >>> parts = rz.kalman_decomposition(model)
    >>> parts.dimensions
    Parts(co=1, c=1, o=1, neither=0)
    >>> parts.model.A[0, 0].round(12)
    np.float64(0.9)
    """
    tol = checked_tol(tol, "kalman_decomposition")
    n = model.n_states
    size = float(np.linalg.norm(model.A, 2)) if n else 0.0
    sight = unit_columns(model.C.T).T
    Q, ranks = staircase(model.A, unit_columns(drive(model)), tol, size)
    reached = sum(ranks)
    A, C = Q.T @ model.A @ Q, sight @ Q
    inner, seen = _seen_first(A[:reached, :reached], C[:, :reached], tol, size)
    Q = Q @ scipy.linalg.block_diag(inner, np.eye(n - reached))
    # Without the states that are reached and unseen, an unseen state is one that is not reached either.
    kept = np.r_[:seen, reached:n]
    A, C = (Q.T @ model.A @ Q)[np.ix_(kept, kept)], (sight @ Q)[:, kept]
    outer, observable = _seen_first(A, C, tol, size)
    unseen = outer[:, observable:]
    quiet, _ = np.linalg.qr(unseen[seen:], mode="complete")
    T = np.eye(n)
    T[np.ix_(kept, range(reached + observable - seen, n))] = unseen
    T[reached:, reached : reached + observable - seen] = quiet[:, unseen.shape[1] :]
    parts = Parts(seen, reached - seen, observable - seen, len(kept) - observable)
    return _cleaned(model, Q @ T, parts)


def minimal(model: StateSpace, *, tol: float | None = None) -> StateSpace:
    r"""Minimal realization: the controllable and observable part.

    It has the same Markov parameters in the fewest states. Of an innovations model it is the part that
    inputs or innovations reach; noise path and predictor stay what they were.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
    tol : float, optional
        As for `kalman_decomposition`: what is reached or seen by less than this share is left out.

    Returns
    -------
    StateSpace or InnovationsModel
        Of the same kind, in an orthonormal basis of part of the state space.

    Raises
    ------
    DataError
        If `tol` is no relative tolerance.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.4.

    Examples
    --------
    The transfer function $(z - 0.5) / ((z - 0.5)(z - 0.9))$ has one pole too many.

    >>> import realization as rz
    >>> model = rz.StateSpace([[1.4, -0.45], [1.0, 0.0]], [[1.0], [0.0]], [[1.0, -0.5]])
    >>> rz.minimal(model).poles.real.round(12)
    array([0.9])
    """
    found = kalman_decomposition(model, tol=checked_tol(tol, "minimal"))
    form, n = found.model, found.dimensions.co
    changed = {"A": form.A[:n, :n], "B": form.B[:n], "C": form.C[:, :n]}
    if isinstance(form, InnovationsModel):
        changed["K"] = form.K[:n]
    return replace(form, **changed)


def _seen_first(A: Array, C: Array, tol: float, size: float) -> tuple[Array, int]:
    """Orthogonal basis whose last columns span what `C` never sees, and the number of the others."""
    Q, ranks = staircase(A.T, C.T, tol, size)
    return Q, sum(ranks)


def _cleaned(model: StateSpace, T: Array, parts: Parts) -> KalmanDecomposition:
    form = model.similarity_transform(T)
    part = np.repeat(np.arange(4), parts)
    # Entry (i, j): may the state j of one part act on the state i of another?
    acts = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)
    driven, visible = part < 2, part % 2 == 0
    mask = acts[np.ix_(part, part)]
    changed = {
        "A": np.where(mask, form.A, 0.0),
        "B": np.where(driven[:, None], form.B, 0.0),
        "C": np.where(visible, form.C, 0.0),
    }
    if isinstance(form, InnovationsModel):
        changed["K"] = np.where(driven[:, None], form.K, 0.0)
    residual = 0.0
    for name, clean in changed.items():
        axis = {"A": None, "C": 1}.get(name, 0)
        matrix = getattr(form, name)
        size = np.linalg.norm(matrix, axis=axis, keepdims=axis is not None)
        off = np.abs(matrix - clean) / np.where(size > 0, size, 1.0)
        residual = max(residual, float(off.max(initial=0.0)))
    return KalmanDecomposition(replace(form, **changed), T, parts, residual)
