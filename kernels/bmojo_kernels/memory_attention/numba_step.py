"""One query of `memory_attention` against rings: products of a matrix and a vector."""

from __future__ import annotations

import numba
import numpy as np

from bmojo_kernels.bfloat16 import narrow, widen
from bmojo_kernels.exponential import LOG2_E, exp2

__all__ = ["step"]


@numba.njit(fastmath={"contract", "reassoc"}, inline="always")
def _inner(x, y, scale):
    total = scale * 0
    for i in range(len(x)):
        total += widen(x[i]) * widen(y[i])
    return total * scale


@numba.njit(fastmath={"contract"}, inline="always")
def _add(weight, x, total):
    for i in range(len(total)):
        total[i] += weight * widen(x[i])


@numba.njit(fastmath={"contract"}, inline="always")
def _put(total, scale, y):
    for i in range(len(total)):
        y[i] = narrow(total[i] * scale, y[i])


@numba.njit(cache=True)
def _visible(keys, index, bias_eidetic, bias_retrieved, b, window, position, memory, row, bias):
    """Fill memory, row and bias of every key that the query sees; return their number."""
    n = 0
    for source in range(2):
        rows = keys[source].shape[1]
        newest = position - source * window
        for p in range(max(0, newest - window + 1), newest + 1 if rows > 0 else 0):
            memory[n], row[n], bias[n] = source, p % rows, 0
            n += 1
    for i in range(index.shape[1]):
        added = bias_eidetic[b, i] if bias_eidetic.shape[1] > 0 else bias.dtype.type(0)
        if 0 <= index[b, i] <= position - window and added > -np.inf:
            memory[n], row[n], bias[n] = 2, i, added
            n += 1
    for i in range(keys[3].shape[1]):
        added = bias_retrieved[b, i] if bias_retrieved.shape[1] > 0 else bias.dtype.type(0)
        if added > -np.inf:
            memory[n], row[n], bias[n] = 3, i, added
            n += 1
    return n


@numba.njit(cache=True)
def step(readers, keys, values, index, bias_eidetic, bias_retrieved, window, position, scale, out, lse):
    """Fill `out` (B, H, d_v) and `lse` (B, H); rings of keys are (B, rows, G, d), readers (B, H, d)."""
    batch, heads, _ = readers[0].shape
    groups = keys[0].shape[2]
    most = 2 * window + index.shape[1] + keys[3].shape[1]
    memory, row = np.empty(most, np.int64), np.empty(most, np.int64)
    bias, logits, total = (
        np.empty(most, lse.dtype),
        np.empty(most, lse.dtype),
        np.empty(out.shape[2], lse.dtype),
    )
    for b in range(batch):
        n = _visible(keys, index, bias_eidetic, bias_retrieved, b, window, position, memory, row, bias)
        for h in range(heads):
            g, top, weight = h // (heads // groups), -np.inf, scale * 0
            for i in range(n):
                source = memory[i]
                logits[i] = _inner(readers[source][b, h], keys[source][b, row[i], g], scale) + bias[i]
                top = max(top, logits[i])
            total[:] = 0
            for i in range(n):
                share = exp2((logits[i] - lse.dtype.type(top)) * lse.dtype.type(LOG2_E))
                weight += share
                _add(share, values[memory[i]][b, row[i], g], total)
            _put(total, 1 / weight if n > 0 else scale * 0, out[b, h])
            lse[b, h] = top + np.log(weight) if n > 0 else -np.inf
