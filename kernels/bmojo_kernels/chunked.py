"""What scans share that go through time by chunks: chunks as padded scratch matrices, decays within one.

Sums of log decays are kept in float64: a gate that is shut must not spoil the small decays after it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.bfloat16 import narrow, widen
from bmojo_kernels.exponential import LOG2_E, exp2
from bmojo_kernels.matmul import dot

__all__ = [
    "FLOOR",
    "add_scaled",
    "chunks_before",
    "decay_matrix",
    "decays",
    "decays_back",
    "inner",
    "load",
    "scale",
    "scale_rows",
    "store",
    "sum_logs",
]

FAST = {"contract", "reassoc"}

Array = NDArray[Any]

# e^-1000 is zero in float64 already; what lies below is taken for it.
FLOOR = -1000.0


@numba.njit(cache=True)
def load(source: Array, target: Array) -> None:
    """Copy `source` (n, w) into the first rows of `target`, widened; the other rows become zero."""
    count, width = source.shape
    for t in range(count):
        for j in range(width):
            target[t, j] = widen(source[t, j])
    for t in range(count, len(target)):
        target[t, :] = 0


@numba.njit(cache=True)
def store(source: Array, target: Array) -> None:
    """Copy the first rows and columns of `source` into `target` (n, w), narrowed to its dtype."""
    count, width = target.shape
    for t in range(count):
        for j in range(width):
            target[t, j] = narrow(source[t, j], target[t, j])


@numba.njit(cache=True)
def sum_logs(log_decay: Array, total: Array) -> None:
    """Running sums, in units of log 2, of a chunk's log decays (n,); float64."""
    running = 0.0
    for t in range(len(log_decay)):
        running += max(np.float64(log_decay[t]), FLOOR) * LOG2_E
        total[t] = running


@numba.njit(cache=True, fastmath={"contract"})
def decays(total: Array, since: Array, until: Array) -> None:
    """Decay from before the chunk to each step, `since`, and from each step to the chunk's end, `until`."""
    end = total[-1]
    for t in range(len(total)):
        since[t] = total[t]
        until[t] = end - total[t]
    for t in range(len(total)):
        since[t] = exp2(since[t])
        until[t] = exp2(until[t])


@numba.njit(cache=True, fastmath={"contract"})
def decay_matrix(total: Array, D: Array) -> None:
    """Decay from step s to step t, in the lower triangle of `D`; zeros beside and below it."""
    count, size = len(total), len(D)
    for t in range(count):
        row, here = D[t], total[t]
        for s in range(t + 1):
            row[s] = here - total[s]
        for s in range(t + 1):
            row[s] = exp2(row[s])
        row[t + 1 :] = 0
    for t in range(count, size):
        D[t, :] = 0


@numba.njit(cache=True, fastmath={"contract"})
def scale_rows(source: Array, factors: Array, target: Array) -> None:
    """`target[t] = factors[t] source[t]` for as many rows as there are factors; those after are zero."""
    for t in range(len(factors)):
        factor, row, out = factors[t], source[t], target[t]
        for j in range(len(out)):
            out[j] = factor * row[j]
    for t in range(len(factors), len(target)):
        target[t, :] = 0


@numba.njit(cache=True)
def chunks_before(bounds: Array, sequence: int, chunk: int) -> int:
    """Chunks of the sequences before this one."""
    count = 0
    for i in range(sequence):
        count += -(-(bounds[i + 1] - bounds[i]) // chunk)
    return count


@numba.njit(cache=True, fastmath=FAST)
def scale(factor: float, A: Array) -> None:
    """`A *= factor`."""
    for i in range(len(A)):
        row = A[i]
        for j in range(len(row)):
            row[j] *= factor


@numba.njit(cache=True, fastmath=FAST)
def inner(A: Array, B: Array) -> float:
    """Sum of all products of entries."""
    total = 0 * A[0, 0]
    for i in range(len(A)):
        total += dot(A[i], B[i])
    return total


@numba.njit(cache=True, fastmath=FAST)
def add_scaled(source: Array, factors: Array, other: Array, target: Array, sums: Array) -> None:
    """`target[t] += factors[t] source[t]`, and what is added times `other[t]`, summed, into `sums[t]`."""
    for t in range(len(factors)):
        factor, a, b, out = factors[t], source[t], other[t], target[t]
        for j in range(len(out)):
            out[j] += factor * a[j]
        sums[t] += factor * dot(a, b)


@numba.njit(cache=True)
def decays_back(gain: Array, loss: Array, before: Array, whole: float, out: Array) -> None:
    """Gradients of a chunk's log decays.

    Step t takes part in what ends at t or later (`gain`) and did not begin there (`loss`), in what began
    before t and lasts to the end (`before`), and in what goes through the whole chunk (`whole`).
    """
    rest = 0 * gain[0]
    for t in range(len(out) - 1, -1, -1):
        rest += gain[t] - loss[t]
        out[t] = rest
    begun = whole
    for t in range(len(out)):
        out[t] += begun
        begun += before[t]
