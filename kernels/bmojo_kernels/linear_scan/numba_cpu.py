"""`linear_scan` on the CPU: channels lie side by side, so a step is one vector operation on a row.

Forward reads two arrays and writes one, backward reads three and writes two: both run at the speed of memory.
A bfloat16 array comes as its bits; the state that is carried is float32.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from bmojo_kernels.bfloat16 import narrow, widen

__all__ = ["backward", "forward"]

Array = NDArray[np.generic]


@numba.njit(fastmath={"contract"}, inline="always")
def _step(a: Array, b: Array, state: Array, h: Array) -> None:
    for c in range(len(h)):
        value = widen(a[c]) * state[c] + widen(b[c])
        state[c] = value
        h[c] = narrow(value, h[c])


@numba.njit(cache=True, parallel=True, fastmath={"contract"})
def forward(a: Array, b: Array, state: Array, h: Array, width: int) -> None:
    """Fill `h` (B, T, C) and carry `state` (B, C) from first step to last; a task has `width` channels."""
    batch, length, channels = a.shape
    pieces = -(-channels // width)
    for task in prange(batch * pieces):
        i, low = task // pieces, task % pieces * width
        high = min(low + width, channels)
        carried = state[i, low:high]
        for t in range(length):
            _step(a[i, t, low:high], b[i, t, low:high], carried, h[i, t, low:high])


@numba.njit(fastmath={"contract"}, inline="always")
def _step_back(a: Array, before: Array, dh: Array, gradient: Array, da: Array, db: Array) -> None:
    for c in range(len(dh)):
        x, y, value = np.conj(widen(before[c])), np.conj(widen(a[c])), gradient[c] + widen(dh[c])
        gradient[c] = value * y
        da[c] = narrow(value * x, da[c])
        db[c] = narrow(value, db[c])


@numba.njit(cache=True, parallel=True, fastmath={"contract"})
def backward(
    a: Array, h: Array, h0: Array, dh: Array, gradient: Array, da: Array, db: Array, width: int
) -> None:
    """Fill `da`, `db` and carry `gradient` (B, C) from that of the last state back to that of `h0`."""
    batch, length, channels = a.shape
    pieces = -(-channels // width)
    for task in prange(batch * pieces):
        i, low = task // pieces, task % pieces * width
        high = min(low + width, channels)
        carried = gradient[i, low:high]
        for t in range(length - 1, 0, -1):
            _step_back(
                a[i, t, low:high],
                h[i, t - 1, low:high],
                dh[i, t, low:high],
                carried,
                da[i, t, low:high],
                db[i, t, low:high],
            )
        if length > 0:
            _step_back(
                a[i, 0, low:high],
                h0[i, low:high],
                dh[i, 0, low:high],
                carried,
                da[i, 0, low:high],
                db[i, 0, low:high],
            )
