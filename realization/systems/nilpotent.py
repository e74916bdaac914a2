r"""Nilpotent matrices, $A^w = 0$: how long they remember, and the basis in which they only shift."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["nilpotency_ranks", "window_basis"]

Array = NDArray[np.float64]


def nilpotency_ranks(A: Array, tol: float) -> list[int]:
    r"""How many dimensions each further power of `A` sends to zero, as far as that goes.

    Their sum is the order where `A` is nilpotent, and their number then the least $w$ with $A^w = 0$. Powers
    are not formed: the null space is taken off by an orthogonal change of basis, and what remains is looked
    at in its turn.
    """
    _, ranks = _kernel_staircase(A, tol)
    return ranks


def window_basis(
    A: Array, B: Array, ranks: list[int], tol: float
) -> tuple[Array, Array, Array, tuple[int, ...]]:
    """Basis in which the nilpotent `A` is a shift, what that fixes of `A` and `B`, and the belts' lengths.

    If the belts of the inputs fill the state, they are the belts, and the state holds the last inputs;
    otherwise belts begin where the state space has room for one.
    """
    Q, _ = _kernel_staircase(A, tol)
    level = np.repeat(np.arange(len(ranks)), ranks)
    exact = np.where(level[:, None] < level, Q.T @ A @ Q, 0.0)
    of_inputs = _input_belts(exact, Q.T @ B, tol)
    belts = _belts(exact, ranks) if of_inputs is None else of_inputs
    lengths = [belt.shape[1] for belt in belts]
    order = [
        (age, i)
        for age in range(max(lengths, default=0))[::-1]
        for i, size in enumerate(lengths)
        if size > age
    ]
    place = {entry: k for k, entry in enumerate(order)}
    T = np.column_stack([np.zeros((len(A), 0))] + [Q @ belts[i][:, age] for age, i in order])
    fixed_A = np.zeros(A.shape)
    for (age, i), k in place.items():
        if (age + 1, i) in place:
            fixed_A[place[age + 1, i], k] = 1.0
    fixed_B = np.full(B.shape, np.nan if of_inputs is None else 0.0)
    for i, size in enumerate(lengths):
        if of_inputs is not None and size:
            fixed_B[place[0, i], i] = 1.0
    return T, fixed_A, fixed_B, tuple(size for size in lengths if size)


def _kernel_staircase(A: Array, tol: float) -> tuple[Array, list[int]]:
    """Orthogonal basis: first the null space of `A`, then what `A` sends into it, and so on."""
    n = len(A)
    Q, ranks, done = np.eye(n), [], 0
    limit = tol * np.linalg.norm(A, 2) if n else 0.0
    while done < n:
        _, s, Vt = scipy.linalg.svd(Q[:, done:].T @ A @ Q[:, done:])
        nullity = int(np.sum(s <= limit))
        if nullity == 0:
            break
        Q[:, done:] = Q[:, done:] @ Vt[::-1].T
        ranks.append(nullity)
        done += nullity
    return Q, ranks


def _input_belts(A: Array, B: Array, tol: float) -> list[Array] | None:
    """For each input `b, A b, ...` until nothing is left, where these together are a basis."""
    size = np.linalg.norm(A, 2) if len(A) else 0.0
    belts = []
    for column in B.T:
        start, belt = np.linalg.norm(column), []
        while len(belt) < len(A) and np.linalg.norm(column) > tol * start * size ** len(belt):
            belt.append(column)
            column = A @ column
        belts.append(np.column_stack([np.zeros((len(A), 0)), *belt]))
    together = np.hstack([np.zeros((len(A), 0)), *belts])
    if together.shape[1] != len(A):
        return None
    length = np.linalg.norm(together, axis=0)
    return (
        belts if not len(A) or np.linalg.cond(together / length) < 1 / np.sqrt(np.finfo(float).eps) else None
    )


def _belts(A: Array, ranks: list[int]) -> list[Array]:
    """Jordan chains of a strictly block upper triangular matrix, the longest first.

    A chain of length k begins in the null space of the k-th power, outside that of the power before and
    outside what longer chains have there already.
    """
    ends = np.cumsum([0, *ranks])
    belts: list[Array] = []
    for k in range(len(ranks), 0, -1):
        rows = slice(ends[k - 1], ends[k])
        taken = np.column_stack(
            [np.zeros((ranks[k - 1], 0))] + [belt[rows, belt.shape[1] - k] for belt in belts]
        )
        free, _ = np.linalg.qr(taken, mode="complete")
        for start in free[:, taken.shape[1] :].T:
            column = np.zeros(len(A))
            column[rows] = start
            belt = [column]
            for _ in range(k - 1):
                belt.append(A @ belt[-1])
            belts.append(np.column_stack(belt))
    return belts
