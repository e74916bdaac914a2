"""Coordinates in which a model becomes a layer that stays stable, and how well they are conditioned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from bmojo.fading.lti import LTI
from bmojo.fading.lti_diagonal import DiagonalLTI
from bmojo.fading.lti_modal import ModalLTI
from realization.errors import DataError, RankError
from realization.systems.modal import modal_basis
from realization.systems.models import StateSpace

__all__ = ["MAX_CONDITION", "Coordinates", "Parametrization", "coordinates", "core_of"]

Array = NDArray[np.float64]
Parametrization = Literal["schur", "modal", "diagonal"]

# A change of state of condition k turns rounding of 2e-16 into an error of about k times that: 7e-13.
MAX_CONDITION = 3e3


@dataclass(frozen=True, eq=False)
class Coordinates:
    r"""A change of state $x = T z$, and what `A` becomes.

    Attributes
    ----------
    A : ndarray, shape (n, n)
        $T^{-1} A T$ in the parametrization's form, with exact zeros.
    basis, inverse : ndarray, shape (n, n)
        $T$ and $T^{-1}$.
    groups : list of int
        Rows of each block.
    condition : float
        Of the change of state, once the scales of the states and of the blocks are taken off.

    Examples
    --------
    >>> import numpy as np
    >>> from bmojo.bridge.lift.parametrizations import coordinates
    >>> found = coordinates(np.array([[0.5, 1.0], [0.0, 0.2]]), "diagonal")
    >>> found.A.diagonal(), round(found.condition, 2)
    (array([0.5, 0.2]), 2.14)
    """

    A: Array
    basis: Array
    inverse: Array
    groups: list[int]
    condition: float


def coordinates(
    A: Array, parametrization: Parametrization, max_condition: float = MAX_CONDITION
) -> Coordinates:
    r"""Coordinates for a stable `A`.

    `"schur"` is orthogonal. The other two balance the scales of the states first (by powers of two, exactly).
    `"modal"` then splits the ordered Schur form by Sylvester equations $A_{11} X - X A_{22} = -A_{12}$, each
    block with an orthonormal basis, which is nearly the best scaling; where an `X` is large the nearest pole
    joins the block, more of them until the condition is at most `max_condition`. `"diagonal"` has to take the
    eigenvectors as they are.

    Parameters
    ----------
    A : ndarray, shape (n, n)
    parametrization : {"schur", "modal", "diagonal"}
    max_condition : float
        At least 1.

    Raises
    ------
    DataError
        If there is no such parametrization, or `max_condition` is below 1.
    RankError
        If eigenvectors are worse conditioned than that.

    References
    ----------
    C. A. Bavely, G. W. Stewart, An algorithm for computing reducing subspaces by block diagonalization, SIAM
    J. Numer. Anal. 16 (1979) 359-367.
    J. W. Demmel, The condition number of equivalence transformations that block diagonalize matrix pencils,
    SIAM J. Numer. Anal. 20 (1983) 599-610.

    Examples
    --------
    >>> import numpy as np
    >>> from bmojo.bridge.lift.parametrizations import coordinates
    >>> coordinates(np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, -0.2]]), "modal").groups
    [2, 1]
    """
    if parametrization not in get_args(Parametrization):
        raise DataError(
            f"lift: parametrization={parametrization!r} came; 'schur', 'modal' or 'diagonal' are there."
        )
    if not max_condition >= 1:
        raise DataError(f"lift: max_condition={max_condition} came; a condition number is at least 1.")
    if len(A) == 0 or parametrization == "schur":
        S, Z = scipy.linalg.schur(A, output="real")[:2] if len(A) else (A, A)
        return Coordinates(S, Z, Z.T, [len(A)] if len(A) else [], 1.0)
    scale = np.asarray(scipy.linalg.matrix_balance(A, permute=False, separate=True)[1][0], dtype=float)
    find = _modal if parametrization == "modal" else _diagonal
    form, T, groups, condition = find(A * scale / scale[:, None], max_condition)
    return Coordinates(form, scale[:, None] * T, np.linalg.inv(T) / scale, groups, condition)


def _modal(A: Array, max_condition: float) -> tuple[Array, Array, list[int], float]:
    """The finest blocks within the condition: what is allowed to one `X` is lowered until all fit."""
    allowed = max_condition
    while True:
        T, blocks = modal_basis(A, False, allowed)
        groups = [len(block) for block in blocks]
        form, edge = np.zeros_like(A), 0
        for size in groups:
            rows = slice(edge, edge + size)
            Q = scipy.linalg.orth(T[:, rows]) if size > 1 else T[:, rows] / np.linalg.norm(T[:, rows])
            if Q.shape[1] < size:  # a block that is not a basis to rounding: no split as fine as this
                break
            S, W = scipy.linalg.schur(Q.T @ A @ Q, output="real")[:2]
            form[rows, rows], T[:, rows], edge = S, Q @ W, edge + size
        condition = float(np.linalg.cond(T)) if edge == len(A) else np.inf
        if condition <= max_condition * (1 + 1e-6):
            return form, T, groups, condition
        allowed /= 10


def _diagonal(A: Array, max_condition: float) -> tuple[Array, Array, list[int], float]:
    poles, V = np.linalg.eig(A)
    condition = float(np.linalg.cond(V))
    if not condition <= max_condition:
        gaps = np.abs(poles[:, None] - poles) + np.diag(np.full(len(A), np.inf))
        near = np.unravel_index(np.argmin(gaps), gaps.shape)
        one, other = poles[list(near)]
        raise RankError(
            f"lift: parametrization='diagonal' needs eigenvectors of condition at most {max_condition:.3g}, "
            f"and they have {condition:.3g}: the model is defective or close to it (its nearest poles are "
            f"{one:.6g} and {other:.6g}). Take parametrization='schur', a form that every stable model has, "
            "or 'modal', which keeps such poles together; a larger max_condition costs as many digits."
        )
    form, columns, groups = np.zeros_like(A), [], []
    order = sorted(range(len(A)), key=lambda k: (-round(abs(poles[k]), 12), k))
    for k in (k for k in order if poles[k].imag >= 0):
        edge, pole, v = sum(groups), poles[k], V[:, k]
        v = v * (np.abs(v).max() / v[np.argmax(np.abs(v))])  # eigenvectors have no phase of their own
        if pole.imag > 0:
            # A (p + iq) = (a + ib)(p + iq): on p, q this is [[a, b], [-b, a]].
            columns += [v.real, v.imag]
            form[edge : edge + 2, edge : edge + 2] = [[pole.real, pole.imag], [-pole.imag, pole.real]]
        else:
            columns.append(v.real)
            form[edge, edge] = pole.real
        groups.append(2 if pole.imag > 0 else 1)
    return form, np.column_stack(columns), groups, condition


def core_of(
    system: StateSpace, parametrization: Parametrization, max_condition: float = MAX_CONDITION
) -> tuple[LTI, Coordinates]:
    r"""The layer of a stable model, and the change of state from the model's to the layer's.

    Blocks of the modal and of the diagonal form are scaled, by powers of two, such that $\lVert B_j \rVert$
    and $\lVert C_j \rVert$ are equal within a factor of two: both then learn at the same rate.

    Parameters
    ----------
    system : StateSpace
    parametrization : {"schur", "modal", "diagonal"}
    max_condition : float

    Raises
    ------
    RankError
        If there are no such coordinates.

    Examples
    --------
    >>> import realization as rz
    >>> from bmojo.bridge.lift.parametrizations import core_of
    >>> core, found = core_of(rz.StateSpace([[0.5]], [[64.0]], [[1.0]]), "diagonal")
    >>> core.B.item(), core.C.item(), found.basis.item()
    (8.0, 8.0, 8.0)
    """
    found = coordinates(system.A, parametrization, max_condition)
    B, C = found.inverse @ system.B, system.C @ found.basis
    if parametrization != "schur" and system.n_states:
        factor = np.concatenate([np.full(k, _even(B[e : e + k], C[:, e : e + k])) for e, k in _edges(found)])
        form = found.A * (factor / factor[:, None])  # equal within a block
        found = Coordinates(
            form, found.basis * factor, found.inverse / factor[:, None], found.groups, found.condition
        )
        B, C = B / factor[:, None], C * factor
    A, B, C, D = (torch.tensor(np.array(M), dtype=torch.float64) for M in (found.A, B, C, system.D))
    if parametrization == "modal":
        return ModalLTI.from_modal(A, B, C, D, groups=found.groups), found
    kind = LTI.from_schur if parametrization == "schur" else DiagonalLTI.from_diagonal
    return kind(A, B, C, D), found


def _edges(found: Coordinates) -> list[tuple[int, int]]:
    return [(sum(found.groups[:j]), size) for j, size in enumerate(found.groups)]


def _even(B: Array, C: Array) -> float:
    """The power of two next to the square root of |B| / |C|."""
    b, c = np.linalg.norm(B), np.linalg.norm(C)
    if not (b > 0 and c > 0):
        return 1.0
    return float(2.0 ** np.clip(np.round(0.5 * (np.log2(b) - np.log2(c))), -200, 200))
