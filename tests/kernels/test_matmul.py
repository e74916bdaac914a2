"""Products inside kernels: tiles against NumPy, for whole tiles and for what is left beside them."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from bmojo_kernels import matmul

from tests.tolerances import assert_close

DTYPES = ["float32", "float64"]
SIZES = [(16, 16, 16), (64, 64, 64), (32, 48, 80), (16, 80, 144)]


def matrix(rows, columns, dtype, seed=0):
    A = matmul.scratch(1, rows, columns, np.zeros(1, dtype))[0]
    A[:] = np.random.default_rng(seed).standard_normal(A.shape)
    return A


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_products(size, dtype):
    rows, depth, columns = size
    A, B, C = matrix(rows, depth, dtype), matrix(depth, columns, dtype, 1), matrix(rows, columns, dtype, 2)
    before = C.copy()
    matmul.multiply(A, B, C, True)
    assert_close(C, before + A @ B)
    matmul.multiply(A, B, C, False)
    assert_close(C, A @ B)
    turned = np.ascontiguousarray(A.T)
    matmul.multiply(turned.T, B, C, False)
    assert_close(C, A @ B)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(16, 16), (64, 80), (80, 48)])
def test_triangular_products_and_solutions(size, dtype):
    rows, columns = size
    L, X = np.tril(matrix(rows, rows, dtype) / rows), matrix(rows, columns, dtype, 1)
    C = matrix(rows, columns, dtype, 2)
    matmul.multiply_lower(L, X, C, False)
    assert_close(C, L @ X)
    matmul.multiply_upper(L.T, X, C, False)
    assert_close(C, L.T @ X)
    A, turned = matrix(rows, columns, dtype, 3), matrix(columns, rows, dtype)
    matmul.transpose(A, turned)
    assert_close(turned, A.T, "bitwise")
    part = matrix(rows, rows, dtype)
    matmul.multiply_lower_part(A, turned, part)
    assert_close(np.tril(part), np.tril(A @ A.T))
    strict = np.tril(L, -1)
    for solve, S in ((matmul.solve_lower, strict), (matmul.solve_upper, strict.T)):
        C[:] = X
        solve(S, C)
        assert_close(C - S @ C, X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 5, 16, 63, 64, 65, 300])
def test_inner_products_of_any_length(size, dtype):
    @numba.njit
    def inner(a, b):
        return matmul.dot(a, b)

    a, b = np.random.default_rng(0).standard_normal((2, size)).astype(dtype)
    assert_close(inner(a, b), a.astype(float) @ b.astype(float), dtype=dtype, scale=max(size, 1))
