"""`lti_scan` on the CPU: one pass, each next state written where it is to stay."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["add_product", "scan"]

Array = NDArray[np.float64]


@numba.njit(cache=True, fastmath={"contract", "reassoc"}, inline="always")
def add_product(rows: Array, x: Array, total: Array) -> None:
    """`total += xᵀ rows`, four rows at a time: no reduction, and `total` is read a quarter as often."""
    by_four = len(rows) - len(rows) % 4
    for j in range(0, by_four, 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        r0, r1, r2, r3 = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        for i in range(len(total)):
            total[i] += (r0[i] * x0 + r1[i] * x1) + (r2[i] * x2 + r3[i] * x3)
    for j in range(by_four, len(rows)):
        for i in range(len(total)):
            total[i] += rows[j, i] * x[j]


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def scan(A_transposed: Array, B_transposed: Array, u: Array, start: Array) -> Array:
    """States (T + 1, n), the first and the last included, for inputs (T, m); all arrays contiguous."""
    length = len(u)
    states = np.zeros((length + 1, len(start)))
    states[0] = start
    for t in range(length):
        add_product(B_transposed, u[t], states[t + 1])
        add_product(A_transposed, states[t], states[t + 1])
    return states
