"""`linear_scan` on the CPU: channels lie side by side, so a step is one vector operation on a row.

Time is one axis for all sequences: (rows, C), and `bounds` (S + 1,) says where each begins. Forward reads two
arrays and writes one, backward reads three and writes two: both run at the speed of memory.
A bfloat16 array comes as its bits; the state that is carried is float32.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.bfloat16 import narrow, widen

__all__ = ["backward", "forward"]

Array = NDArray[Any]


@numba.njit(fastmath={"contract"}, inline="always")
def _step(a: Array, b: Array, state: Array, h: Array) -> None:
    for c in range(len(h)):
        value = widen(a[c]) * state[c] + widen(b[c])
        state[c] = value
        h[c] = narrow(value, h[c])


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def forward(
    a: Array, b: Array, state: Array, h: Array, bounds: Array, width: int, first: int, last: int
) -> None:
    """Fill `h` (rows, C) and carry `state` (S, C) from first step to last.

    Tasks `first ... last - 1` of all, sequence by sequence; each has `width` channels.
    """
    channels = a.shape[1]
    pieces = -(-channels // width)
    for task in range(first, last):
        i, low = task // pieces, task % pieces * width
        high = min(low + width, channels)
        carried = state[i, low:high]
        for t in range(bounds[i], bounds[i + 1]):
            _step(a[t, low:high], b[t, low:high], carried, h[t, low:high])


@numba.njit(fastmath={"contract"}, inline="always")
def _step_back(a: Array, before: Array, dh: Array, gradient: Array, da: Array, db: Array) -> None:
    # Channels too from the last to the first: memory is fetched ahead along one direction only, and rows that
    # come backward with channels that go forward take twice as long.
    for c in range(len(dh) - 1, -1, -1):
        x, y, value = np.conj(widen(before[c])), np.conj(widen(a[c])), gradient[c] + widen(dh[c])
        gradient[c] = value * y
        da[c] = narrow(value * x, da[c])
        db[c] = narrow(value, db[c])


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def backward(
    a: Array,
    h: Array,
    h0: Array,
    dh: Array,
    gradient: Array,
    da: Array,
    db: Array,
    bounds: Array,
    width: int,
    first: int,
    last: int,
) -> None:
    """Fill `da`, `db` and carry `gradient` (S, C) from that of the last states back to that of `h0`."""
    channels = a.shape[1]
    pieces = -(-channels // width)
    for task in range(first, last):
        i, low = task // pieces, task % pieces * width
        high = min(low + width, channels)
        carried, begin, end = gradient[i, low:high], bounds[i], bounds[i + 1]
        for t in range(end - 1, begin, -1):
            _step_back(
                a[t, low:high],
                h[t - 1, low:high],
                dh[t, low:high],
                carried,
                da[t, low:high],
                db[t, low:high],
            )
        if end > begin:
            _step_back(
                a[begin, low:high],
                h0[i, low:high],
                dh[begin, low:high],
                carried,
                da[begin, low:high],
                db[begin, low:high],
            )
