"""Modal form: a real block-diagonal matrix, with as few states to a block as conditioning allows."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack

from realization.errors import ConvergenceError

__all__ = ["modal_basis"]

Array = NDArray[np.float64]


def modal_basis(A: Array, continuous: bool, coupling: float) -> tuple[Array, list[Array]]:
    r"""Basis in which `A` is block diagonal, and the blocks as they are in Schur form, slowest mode first.

    A block of the real Schur form is parted from the rest by the solution $X$ of
    $A_{11} X - X A_{22} = -A_{12}$. Where an entry of $X$ would exceed `coupling`, the eigenvalue of $A_{22}$
    that is nearest joins the block, and so on.
    """
    n = len(A)
    if n == 0:
        return np.eye(0), []
    S, Z = scipy.linalg.schur(A, output="real")
    T, blocks, begin = Z, [], 0
    while begin < n:
        size = _size(S, begin)
        while begin + size < n:
            stop = begin + size
            X = (
                scipy.linalg.solve_sylvester(
                    S[begin:stop, begin:stop], -S[stop:, stop:], -S[begin:stop, stop:]
                )
                if _parted(S, begin, stop)
                else np.full((1, 1), np.inf)
            )
            if np.abs(X).max() <= coupling:
                T[:, stop:] += T[:, begin:stop] @ X
                S[begin:stop, stop:] = 0.0
                break
            S, T, size = _joined(S, T, begin, stop)
        blocks.append(slice(begin, begin + size))
        begin += size
    values = [scipy.linalg.eigvals(S[block, block]) for block in blocks]
    speed = [v.real.max() if continuous else np.abs(v).max() for v in values]
    order = sorted(range(len(blocks)), key=lambda k: (-round(speed[k], 12), blocks[k].start))
    return (
        np.hstack([_normalized(S[blocks[k], blocks[k]], T[:, blocks[k]], coupling) for k in order]),
        [S[blocks[k], blocks[k]] for k in order],
    )


def _size(S: Array, k: int) -> int:
    return 2 if k + 1 < len(S) and S[k + 1, k] != 0 else 1


def _parted(S: Array, begin: int, stop: int) -> bool:
    """Whether the two sets of eigenvalues differ at all; otherwise the equation has no solution."""
    one = scipy.linalg.eigvals(S[begin:stop, begin:stop])
    other = scipy.linalg.eigvals(S[stop:, stop:])
    gap = np.abs(one[:, None] - other).min()
    return bool(gap > 10 * np.finfo(float).eps * max(np.abs(S).max(), np.finfo(float).tiny))


def _joined(S: Array, T: Array, begin: int, stop: int) -> tuple[Array, Array, int]:
    """The nearest eigenvalue (or pair) of the rest moves up to the block and joins it."""
    centre = scipy.linalg.eigvals(S[begin:stop, begin:stop])
    starts, k = [], stop
    while k < len(S):
        starts.append(k)
        k += _size(S, k)

    def distance(k: int) -> float:
        block = slice(k, k + _size(S, k))
        return float(np.abs(scipy.linalg.eigvals(S[block, block])[:, None] - centre).min())

    nearest = min(starts, key=distance)
    # Blocks that are parted already stay as they are: only the trailing part is reordered.
    tail = np.asfortranarray(S[begin:, begin:])
    moved, Q, info = lapack.dtrexc(tail, np.eye(len(tail)), nearest - begin + 1, stop - begin + 1)
    if info < 0:
        raise ConvergenceError("canonical_form: eigenvalues of the Schur form could not be reordered.")
    S, T = S.copy(), T.copy()
    if info == 1:  # two pairs too close to change places: they all join
        return S, T, len(S) - begin
    S[begin:, begin:], T[:, begin:] = moved, T[:, begin:] @ Q
    return S, T, stop - begin + _size(S, stop)


def _normalized(block: Array, basis: Array, coupling: float) -> Array:
    """A unit eigenvector for a real mode, a rotation and scaling for a pair; larger blocks stay.

    So does a pair that is a defective real pole but for rounding: it would need too large a scale.
    """
    if block.shape == (2, 2) and block[0, 0] == block[1, 1] and block[0, 1] * block[1, 0] < 0:
        scale = np.sqrt(-block[1, 0] / block[0, 1])
        basis = basis * [1.0, scale if 1 / coupling <= scale <= coupling else 1.0]
    largest = basis[np.argmax(np.abs(basis[:, 0])), 0]
    if len(block) <= 2:
        basis = basis / np.linalg.norm(basis, axis=0).max()
    return basis * (1.0 if largest > 0 else -1.0)
