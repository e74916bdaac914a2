"""The filter's recursion in square-root form: orthogonal transformations of an array, and no covariance."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from realization.filtering.settling import has_vanished, stands_still
from realization.filtering.small_matrices import multiply, multiply_transposed

__all__ = ["square_root_steps"]

Array = NDArray[np.float64]


@numba.njit(cache=True)
def triangularize(array: Array) -> None:
    """Householder reflections from the left until the array is upper triangular with a positive diagonal."""
    rows, columns = array.shape
    for c in range(min(columns, rows)):
        largest = 0.0
        for i in range(c, rows):
            largest = max(largest, abs(array[i, c]))
        if largest == 0.0:
            continue
        total = 0.0
        for i in range(c, rows):
            total += (array[i, c] / largest) ** 2
        length = largest * np.sqrt(total)
        first = array[c, c]
        pivot = first + length if first >= 0 else first - length
        diagonal = -length if first >= 0 else length
        # The reflector is (1, a[c+1:] / pivot), and its weight is -pivot / diagonal.
        weight = -pivot / diagonal
        for i in range(c + 1, rows):
            array[i, c] /= pivot
        for k in range(c + 1, columns):
            dot = array[c, k]
            for i in range(c + 1, rows):
                dot += array[i, c] * array[i, k]
            dot *= weight
            array[c, k] -= dot
            for i in range(c + 1, rows):
                array[i, k] -= dot * array[i, c]
        array[c, c] = diagonal
        for i in range(c + 1, rows):
            array[i, c] = 0.0
        if diagonal < 0:
            for k in range(c, columns):
                array[c, k] = -array[c, k]


@numba.njit(cache=True)
def square_root_steps(
    A: Array,
    C: Array,
    G: Array,
    Q_root: Array,
    R_root: Array,
    pattern: NDArray[np.int64],
    drive: Array,
    direct: Array,
    x: Array,
    Z: Array,
    largest: Array,
    sight: Array,
    vanishing: bool,
    complete_from: int,
    settled: bool,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array, int, bool, int]:
    r"""Some samples of the filter, with $P_t = Z_t Z_t^\top$.

    $$\begin{bmatrix} C Z & R^{1/2} & 0 \\ F Z & 0 & Q^{1/2} \end{bmatrix} \Theta =
    \begin{bmatrix} R_{e,t}^{1/2} & 0 & 0 \\ \bar L & Z_{t+1} & 0 \end{bmatrix}, \quad
    \Gamma = G + \bar L R_{e,t}^{-1/2}$$

    `Θ` is orthogonal. Takes and returns what `covariance_steps` does, with roots in the place of covariances.
    """
    length, n = drive.shape
    p = direct.shape[1]
    states, innovations = np.empty((length, n)), np.empty((length, p))
    squared, log_dets = np.empty(length), np.empty(length)
    roots, gains = np.empty((length, n, n)), np.empty((length, n, p))
    x, Z = x.copy(), Z.copy()
    F, FZ, CZ, GC = np.empty((n, n)), np.empty((n, n)), np.empty((p, n)), np.empty((n, n))
    array = np.zeros((n + 2 * p, p + n))
    P, following, root = np.empty((n, n)), np.empty((n, n)), np.zeros((n, n))
    white, after = np.empty(p), np.empty(n)
    multiply_transposed(Z, Z, P)
    finished, done = 0, length
    for t in range(length):
        j = pattern[t]
        states[t] = x
        roots[t] = Z
        multiply(G[j], C[j], GC)
        F[:] = A - GC
        multiply(C[j], Z, CZ)
        multiply(F, Z, FZ)
        array[:] = 0.0
        for i in range(p):
            array[:n, i] = CZ[i]
            array[n : n + p, i] = R_root[j, i]
        for i in range(n):
            array[:n, p + i] = FZ[i]
            array[n + p :, p + i] = Q_root[j, i]
        triangularize(array)
        log_dets[t], squared[t] = 0.0, 0.0
        for i in range(p):
            e = direct[t, i]
            for k in range(n):
                e -= C[j, i, k] * x[k]
            innovations[t, i] = e
            for k in range(i):
                e -= array[k, i] * white[k]
            if not array[i, i] > 0.0:
                finished, done = -1, t
                break
            white[i] = e / array[i, i]
            squared[t] += white[i] ** 2
            log_dets[t] += 2 * np.log(array[i, i])
        if finished < 0:
            break
        for i in range(n):
            total = drive[t, i]
            for k in range(n):
                total += A[i, k] * x[k]
            for k in range(p):
                total += G[j, i, k] * innovations[t, k] + array[k, p + i] * white[k]
            after[i] = total
            # Γ = G + L̄ R_e^{-1/2}: back substitution along a row.
            for k in range(p - 1, -1, -1):
                value = array[k, p + i]
                for other in range(k + 1, p):
                    value -= (gains[t, i, other] - G[j, i, other]) * array[k, other]
                gains[t, i, k] = G[j, i, k] + value / array[k, k]
        x[:] = after
        for i in range(n):
            for k in range(n):
                root[i, k] = array[p + k, p + i] if k <= i else 0.0
        multiply_transposed(root, root, following)
        if settled and t >= complete_from:
            finished, done = 1, t + 1
            break
        gone = vanishing and has_vanished(following, largest, sight)
        settled = gone or stands_still(following, P)
        if gone:
            P[:], Z[:] = 0.0, 0.0
        else:
            P[:], Z[:] = following, root
    return (
        states[:done],
        innovations[:done],
        squared[:done],
        log_dets[:done],
        roots[:done],
        gains[:done],
        x,
        Z,
        done,
        settled,
        finished,
    )
