"""Products of few queries with many keys in float16, which are widened in registers and read once."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["FEW", "few_products"]

FEW = 2  # queries of one head up to which this is faster than to widen a block and multiply matrices


@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def few_products(keys: NDArray[np.uint16], queries: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    r"""$q^\top k$ of every query of a head with every key of it.

    A float16 number is its exponent and digits at the place that they have in float32, times $2^{112}$: the
    two formats count exponents from 15 and from 127.

    Parameters
    ----------
    keys : ndarray of uint16, shape (n, G, d)
        The bits of float16 numbers, all of them finite.
    queries : ndarray of float32, shape (G, m, d)
    out : ndarray of float32, shape (G, m, n)
        Written.
    """
    rows, groups, width = keys.shape
    bits = np.empty(width, np.uint32)
    wide = bits.view(np.float32)
    scale = np.float32(2.0**112)
    for row in range(rows):
        for group in range(groups):
            for i in range(width):
                half = np.uint32(keys[row, group, i])
                bits[i] = ((half & np.uint32(0x7FFF)) << np.uint32(13)) | (
                    (half & np.uint32(0x8000)) << np.uint32(16)
                )
            for i in range(width):
                wide[i] *= scale
            for query in range(queries.shape[1]):
                total = np.float32(0.0)
                for i in range(width):
                    total += wide[i] * queries[group, query, i]
                out[group, query, row] = total
