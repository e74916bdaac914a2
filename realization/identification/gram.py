r"""Gram matrix of a block Hankel matrix from lagged products, without the Hankel matrix.

Window `t` of a record `z` holds `z[t], ..., z[t + r - 1]`. The Gram matrix of all windows is almost block
Toeplitz: from one block to the next down a diagonal one window leaves and one enters,

$$G_{jk} = \sum_{t=0}^{N-1} w^{N-1-t} z_{t+j} z_{t+k}^\top, \qquad
G_{j+1,k+1} = w\,G_{jk} + z_{N+j} z_{N+k}^\top - w^N z_j z_k^\top .$$

So the first block row (products at `r` lags) and two rank-one terms give it all: $T q^2 r$ multiplications
in place of $T q^2 r^2 / 2$.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["displaced_gram", "lagged_products", "standardized", "time_last"]

Array = NDArray[np.float64]
TILE = 4


def time_last(*parts: Array) -> Array:
    """Columns of all parts as contiguous rows, with rows of zeros up to a multiple of four."""
    width = sum(part.shape[1] for part in parts)
    rows = np.zeros((-(-width // TILE) * TILE, len(parts[0])))
    begin = 0
    for part in parts:
        rows[begin : begin + part.shape[1]] = part.T
        begin += part.shape[1]
    return rows


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def lagged_products(left: Array, right: Array, count: int, lags: int) -> Array:
    """`sum_t left[:, t] right[:, t + lag]ᵀ` over `t < count`, shape (lags, q, q), `q` a multiple of four.

    Sixteen sums at a time stay in registers, 512 samples in the first cache; sums of blocks are added, so
    that rounding grows with the number of blocks.
    """
    q = len(left)
    out = np.zeros((lags, q, q))
    for begin in range(0, count, 512):
        stop = min(begin + 512, count)
        for i in range(0, q, 4):
            a0, a1 = left[i, begin:stop], left[i + 1, begin:stop]
            a2, a3 = left[i + 2, begin:stop], left[i + 3, begin:stop]
            for lag in range(lags):
                for j in range(0, q, 4):
                    b0, b1 = right[j, begin + lag : stop + lag], right[j + 1, begin + lag : stop + lag]
                    b2, b3 = right[j + 2, begin + lag : stop + lag], right[j + 3, begin + lag : stop + lag]
                    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = 0.0
                    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = 0.0
                    for t in range(stop - begin):
                        x0, x1, x2, x3 = a0[t], a1[t], a2[t], a3[t]
                        y0, y1, y2, y3 = b0[t], b1[t], b2[t], b3[t]
                        s00 += x0 * y0
                        s01 += x0 * y1
                        s02 += x0 * y2
                        s03 += x0 * y3
                        s10 += x1 * y0
                        s11 += x1 * y1
                        s12 += x1 * y2
                        s13 += x1 * y3
                        s20 += x2 * y0
                        s21 += x2 * y1
                        s22 += x2 * y2
                        s23 += x2 * y3
                        s30 += x3 * y0
                        s31 += x3 * y1
                        s32 += x3 * y2
                        s33 += x3 * y3
                    block = out[lag, i : i + 4, j : j + 4]
                    block[0] += np.array((s00, s01, s02, s03))
                    block[1] += np.array((s10, s11, s12, s13))
                    block[2] += np.array((s20, s21, s22, s23))
                    block[3] += np.array((s30, s31, s32, s33))
    return out


@numba.njit(cache=True)
def displaced_gram(products: Array, head: Array, tail: Array, weight: float, faded: float) -> Array:
    r"""Gram matrix of all windows, shape (r q, r q), from the lagged products (r, q, q).

    `head` (r - 1, q) are the first samples $z_0, \dots$, `tail` the samples $z_N, \dots$; `weight` is $w$
    and `faded` $w^N$.
    """
    rows, q = len(products), products.shape[1]
    gram = np.empty((rows, q, rows, q))
    for lag in range(rows):
        for a in range(q):
            for b in range(q):
                value = products[lag, a, b]
                gram[0, a, lag, b] = value
                gram[lag, b, 0, a] = value
                for j in range(rows - 1 - lag):
                    k = j + lag
                    value = weight * value + tail[j, a] * tail[k, b] - faded * head[j, a] * head[k, b]
                    gram[j + 1, a, k + 1, b] = value
                    gram[k + 1, b, j + 1, a] = value
    return gram.reshape(rows * q, rows * q)


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def standardized(values: Array) -> tuple[Array, Array, Array]:
    """Columns without mean and with unit variance, the means, and the standard deviations (0 stays 0).

    64 samples at a time, so that a loop runs along memory whatever the number of columns.
    """
    length, width = values.shape
    flat, out = values.reshape(-1), np.empty_like(values)
    moved, period = out.reshape(-1), 64 * width
    sums = np.zeros(period)
    for begin in range(0, length * width, max(period, 1)):
        part = flat[begin : begin + period]
        for i in range(len(part)):
            sums[i] += part[i]
    mean = sums.reshape(64, width).sum(axis=0) / length
    shift = np.repeat(mean, 64).reshape(width, 64).T.copy().reshape(-1)
    sums[:] = 0.0
    for begin in range(0, length * width, max(period, 1)):
        part, to = flat[begin : begin + period], moved[begin : begin + period]
        for i in range(len(part)):
            to[i] = part[i] - shift[i]
            sums[i] += to[i] * to[i]
    deviation = np.sqrt(sums.reshape(64, width).sum(axis=0) / length)
    inverse = np.where(deviation > 0, 1.0 / np.where(deviation > 0, deviation, 1.0), 0.0)
    factor = np.repeat(inverse, 64).reshape(width, 64).T.copy().reshape(-1)
    for begin in range(0, length * width, max(period, 1)):
        to = moved[begin : begin + period]
        for i in range(len(to)):
            to[i] *= factor[i]
    return out, mean, deviation
