"""`lti_scan` on the CPU: the input's part comes in as one matrix product, the loop is the state's alone."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["scan"]


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def scan(
    A_transposed: NDArray[np.float64], drive: NDArray[np.float64], start: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States for `drive = u Bᵀ` of shape (T, n), both contiguous; `A` comes transposed.

    Columns of `A` are then contiguous rows: the inner loop adds a multiple of one to the next state,
    which vectorizes without a reduction.
    """
    length, n = drive.shape
    states = np.empty((length, n))
    x = start.copy()
    following = np.empty(n)
    for t in range(length):
        for i in range(n):
            states[t, i] = x[i]
            following[i] = drive[t, i]
        for j in range(n):
            xj = x[j]
            for i in range(n):
                following[i] += A_transposed[j, i] * xj
        x, following = following, x
    return states, x
