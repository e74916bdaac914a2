"""Companion forms by Kronecker indices, and what of them is zero or one by construction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from realization.errors import RankError
from realization.systems.models import StateSpace
from realization.systems.nilpotent import nilpotency_ranks, window_basis
from realization.systems.reachability import chains, drive

__all__ = ["Pattern", "controllable_basis", "observable_basis", "shift_basis"]

Array = NDArray[np.float64]


class Pattern(NamedTuple):
    """A change of state, and the entries that the form fixes (NaN where it leaves them free).

    Attributes
    ----------
    T : ndarray, shape (n, n)
    fixed : dict of str to ndarray
        By the name of a matrix, its entries in the form.
    blocks : tuple of int
        Sizes of the blocks.
    """

    T: Array
    fixed: dict[str, Array]
    blocks: tuple[int, ...]


def controllable_basis(model: StateSpace, tol: float) -> Pattern:
    """Luenberger's controllable form: one companion block per input that starts a chain."""
    inverse, fixed_A, fixed_B, indices = _luenberger(model.A, drive(model), tol, "controllable", "inputs")
    return Pattern(np.linalg.inv(inverse).astype(float), _split(model, fixed_A, fixed_B), _blocks(indices))


def observable_basis(model: StateSpace, tol: float) -> Pattern:
    """The dual: the controllable form of the transposed system, transposed."""
    transposed, fixed_A, fixed_C, indices = _luenberger(model.A.T, model.C.T, tol, "observable", "outputs")
    return Pattern(transposed.T, {"A": fixed_A.T, "C": fixed_C.T}, _blocks(indices))


def shift_basis(model: StateSpace, tol: float) -> Pattern:
    """Every row of `A` but the last of each input's belt is a shift; places of one age side by side."""
    B = drive(model)
    ranks = nilpotency_ranks(model.A, tol)
    if sum(ranks) == model.n_states:
        T, fixed_A, fixed_B, blocks = window_basis(model.A, B, ranks, tol)
        return Pattern(T, _split(model, fixed_A, fixed_B), blocks)
    inverse, fixed_A, fixed_B, indices = _luenberger(model.A, B, tol, "shift", "inputs")
    # Luenberger's order runs along each chain, oldest first; here places of one age stand side by side.
    age = np.concatenate([np.arange(length)[::-1] for length in indices])
    chain = np.repeat(np.arange(len(indices)), indices)
    order = np.lexsort((chain, -age))
    T = np.linalg.inv(inverse[order]).astype(float)
    return Pattern(T, _split(model, fixed_A[np.ix_(order, order)], fixed_B[order]), _blocks(indices))


def _luenberger(
    A: Array, B: Array, tol: float, form: str, who: str
) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    r"""Inverse of the change of state, what it fixes of `A` and of `B`, and the indices.

    With $M = [b_1, Ab_1, \dots, A^{\kappa_1 - 1}b_1, b_2, \dots]$ and $q_i$ the row of $M^{-1}$ that picks
    the last column of chain $i$, the rows of $T^{-1}$ are
    $q_1, q_1 A, \dots, q_1 A^{\kappa_1 - 1}, q_2, \dots$
    """
    n, m = B.shape
    found = chains(A, B, tol)
    if len(found.steps) < n:
        raise RankError(
            f"canonical_form: the {form} form needs a system whose {who} determine every state; here they "
            f"determine {len(found.steps)} of {n}. Use realization.minimal first, or form='modal' or 'schur'."
        )
    indices = np.bincount([i for i, _ in found.steps], minlength=m).astype(np.int64)
    columns = np.hstack(
        [np.zeros((n, 0))]
        + [np.linalg.matrix_power(A, k) @ B[:, [i]] for i in range(m) for k in range(indices[i])]
    )
    last = np.cumsum(indices)[indices > 0] - 1
    picks = np.linalg.solve(columns.T, np.eye(n)[:, last]).T if n else np.zeros((0, 0))
    rows = [
        pick @ np.linalg.matrix_power(A, k)
        for pick, size in zip(picks, indices[indices > 0])
        for k in range(size)
    ]
    fixed_A, fixed_B = np.eye(n, k=1), np.zeros((n, m))
    fixed_A[last] = np.nan
    for row, i in zip(last, np.flatnonzero(indices)):
        fixed_B[row, i] = 1.0
        fixed_B[row, (np.arange(m) > i) & (indices < indices[i])] = np.nan
    return np.array(rows).reshape(n, n), fixed_A, fixed_B, indices


def _split(model: StateSpace, fixed_A: Array, fixed_B: Array) -> dict[str, Array]:
    fixed = {"A": fixed_A, "B": fixed_B[:, : model.n_inputs]}
    if fixed_B.shape[1] > model.n_inputs:
        fixed["K"] = fixed_B[:, model.n_inputs :]
    return fixed


def _blocks(indices: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(size) for size in indices if size)
