"""Products of matrices so small that a call into BLAS costs more than the arithmetic."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["cholesky", "invert", "multiply", "multiply_transposed", "transposed_multiply"]

Array = NDArray[np.float64]


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def multiply(a: Array, b: Array, out: Array) -> None:
    """`out = a b`."""
    for i in range(len(a)):
        for j in range(b.shape[1]):
            out[i, j] = 0.0
        for k in range(a.shape[1]):
            left = a[i, k]
            for j in range(b.shape[1]):
                out[i, j] += left * b[k, j]


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def multiply_transposed(a: Array, b: Array, out: Array) -> None:
    """`out = a bᵀ`."""
    for i in range(len(a)):
        for j in range(len(b)):
            total = 0.0
            for k in range(a.shape[1]):
                total += a[i, k] * b[j, k]
            out[i, j] = total


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def transposed_multiply(a: Array, b: Array, out: Array) -> None:
    """`out = aᵀ b`."""
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            out[i, j] = 0.0
    for k in range(len(a)):
        for i in range(a.shape[1]):
            left = a[k, i]
            for j in range(b.shape[1]):
                out[i, j] += left * b[k, j]


@numba.njit(cache=True)
def cholesky(matrix: Array, factor: Array) -> bool:
    """Lower factor of a positive definite matrix; False where it is not definite."""
    for i in range(len(matrix)):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = total / factor[j, j]
                factor[j, i] = 0.0
            elif total > 0.0:
                factor[i, i] = math.sqrt(total)
            else:
                return False
    return True


@numba.njit(cache=True)
def invert(factor: Array, inverse: Array) -> None:
    """`inverse = (factor factorᵀ)⁻¹` for a lower triangular factor."""
    p = len(factor)
    for column in range(p):
        for i in range(p):
            total = 1.0 if i == column else 0.0
            for k in range(i):
                total -= factor[i, k] * inverse[k, column]
            inverse[i, column] = total / factor[i, i]
        for i in range(p - 1, -1, -1):
            total = inverse[i, column]
            for k in range(i + 1, p):
                total -= factor[k, i] * inverse[k, column]
            inverse[i, column] = total / factor[i, i]
