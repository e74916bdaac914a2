"""`selective_scan` on the CPU: a block of channels with its whole state stays in the cache.

Each of the N states is one row over the channels of the block, so that every operation is a vector one; what
limits is the exponential of each state at each step. Backward computes the states once more, from copies
that the forward pass leaves every `STRIDE` steps: memory is linear in T, and the copies are small beside `u`.
Time is one axis for all sequences: (rows, d), and `bounds` (S + 1,) says where each begins.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.bfloat16 import narrow, widen
from bmojo_kernels.chunked import chunks_before
from bmojo_kernels.exponential import exp2
from bmojo_kernels.matmul import dot

__all__ = ["STRIDE", "backward", "forward", "step"]

STRIDE = 16
FAST = {"contract", "reassoc"}

Array = NDArray[Any]


@numba.njit(fastmath=FAST, inline="always")
def _step(A: Array, delta: Array, drive: Array, b: float, c: float, h: Array, y: Array) -> None:
    for k in range(len(y)):
        state = exp2(delta[k] * A[k]) * h[k] + drive[k] * b
        h[k] = state
        y[k] += state * c


@numba.njit(fastmath=FAST, inline="always")
def _load(u: Array, delta: Array, step: Array, drive: Array) -> None:
    for k in range(len(step)):
        step[k] = widen(delta[k])
        drive[k] = step[k] * widen(u[k])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def forward(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    state: Array,
    y: Array,
    copies: Array,
    bounds: Array,
    width: int,
    first: int,
    last: int,
) -> None:
    """Fill `y` (rows, d), carry `state` (S, N, d), and keep its `copies` (R, N, d), sequence by sequence.

    `A` is (N, d), in units of log 2. Where `copies` has no rows none are kept.
    Tasks `first ... last - 1` of all, sequence by sequence; each has `width` channels.
    """
    channels = u.shape[1]
    pieces = -(-channels // width)
    for task in range(first, last):
        i, low = task // pieces, task % pieces * width
        high, begin, row = min(low + width, channels), bounds[i], chunks_before(bounds, i, STRIDE)
        rates, h = A[:, low:high].copy(), state[i, :, low:high].copy()
        step, drive, total = np.empty_like(h[0]), np.empty_like(h[0]), np.empty_like(h[0])
        for t in range(begin, bounds[i + 1]):
            if (t - begin) % STRIDE == 0 and len(copies) > 0:
                copies[row + (t - begin) // STRIDE, :, low:high] = h
            _load(u[t, low:high], delta[t, low:high], step, drive)
            total[:] = 0
            for n in range(len(rates)):
                _step(rates[n], step, drive, widen(B[t, n]), widen(C[t, n]), h[n], total)
            for k in range(high - low):
                y[t, low + k] = narrow(total[k], y[t, low + k])
        state[i, :, low:high] = h


@numba.njit(fastmath=FAST, inline="always")
def _replay(A: Array, delta: Array, drive: Array, b: float, before: Array, decay: Array, h: Array) -> None:
    for k in range(len(h)):
        decay[k] = exp2(delta[k] * A[k])
        h[k] = decay[k] * before[k] + drive[k] * b


@numba.njit(fastmath=FAST, inline="always")
def _state_back(dy: Array, c: float, b: float, g: Array, d_drive: Array) -> None:
    """Through `y = C h` to the gradient `g` of `h`, and through `drive B` to that of `drive`."""
    for k in range(len(g)):
        value = g[k] + dy[k] * c
        g[k] = value
        d_drive[k] += value * b


@numba.njit(fastmath=FAST, inline="always")
def _decay_back(
    A: Array, delta: Array, before: Array, decay: Array, g: Array, d_delta: Array, dA: Array
) -> None:
    """Through `exp(delta A) h`: the gradients of `delta`, `A` and of the state before."""
    for k in range(len(g)):
        carried = g[k] * decay[k]
        exponent = carried * before[k]
        d_delta[k] += exponent * A[k]
        dA[k] += exponent * delta[k]
        g[k] = carried


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def backward(
    u: Array,
    delta: Array,
    A: Array,
    A_natural: Array,
    B: Array,
    C: Array,
    copies: Array,
    dy: Array,
    dstate: Array,
    du: Array,
    d_delta: Array,
    dA: Array,
    dB: Array,
    dC: Array,
    bounds: Array,
    width: int,
    first: int,
    last: int,
) -> None:
    """Fill the gradients and carry `dstate` (S, N, d) back to that of the first states.

    `dA` is (S, N, d); `dB` and `dC` are (pieces, rows, N), one for each block of channels: the sums over both
    are left to the caller.
    """
    channels = u.shape[1]
    states, pieces = len(A), -(-channels // width)
    for task in range(first, last):
        i, piece = task // pieces, task % pieces
        low, high = piece * width, min(piece * width + width, channels)
        begin, length, row = bounds[i], bounds[i + 1] - bounds[i], chunks_before(bounds, i, STRIDE)
        rates, natural = A[:, low:high].copy(), A_natural[:, low:high].copy()
        g, own = dstate[i, :, low:high].copy(), np.zeros_like(rates)
        h = np.empty((STRIDE + 1, *rates.shape), rates.dtype)
        decay = np.empty((STRIDE, *rates.shape), rates.dtype)
        step, drive = np.empty((STRIDE, high - low), rates.dtype), np.empty((STRIDE, high - low), rates.dtype)
        seen, d_drive, d_step = np.empty_like(step[0]), np.empty_like(step[0]), np.empty_like(step[0])
        for block in range(-(-length // STRIDE) - 1, -1, -1):
            start = begin + block * STRIDE
            count = min(STRIDE, begin + length - start)
            h[0] = copies[row + block, :, low:high]
            for s in range(count):
                t = start + s
                _load(u[t, low:high], delta[t, low:high], step[s], drive[s])
                for n in range(states):
                    _replay(rates[n], step[s], drive[s], widen(B[t, n]), h[s, n], decay[s, n], h[s + 1, n])
            for s in range(count - 1, -1, -1):
                t = start + s
                for k in range(high - low):
                    seen[k] = widen(dy[t, low + k])
                d_drive[:] = 0
                d_step[:] = 0
                for n in range(states):
                    dC[piece, t, n] = dot(seen, h[s + 1, n])
                    _state_back(seen, widen(C[t, n]), widen(B[t, n]), g[n], d_drive)
                    dB[piece, t, n] = dot(g[n], drive[s])
                    _decay_back(natural[n], step[s], h[s, n], decay[s, n], g[n], d_step, own[n])
                for k in range(high - low):
                    place = low + k
                    du[t, place] = narrow(d_drive[k] * step[s, k], du[t, place])
                    d_step[k] += d_drive[k] * widen(u[t, place])
                    d_delta[t, place] = narrow(d_step[k], d_delta[t, place])
        dstate[i, :, low:high] = g
        dA[i, :, low:high] = own


@numba.njit(cache=True, fastmath=FAST)
def step(u: Array, delta: Array, A: Array, B: Array, C: Array, state: Array, y: Array) -> None:
    """One step: fill `y` (S, d) and bring `state` (S, d, N) forward; `A` is (d, N), in units of log 2."""
    for i in range(len(u)):
        for c in range(u.shape[1]):
            row, rates, number = state[i, c], A[c], type(state[0, 0, 0])
            length, total = number(widen(delta[i, c])), number(0)
            drive = length * number(widen(u[i, c]))
            for n in range(len(row)):
                row[n] = exp2(length * rates[n]) * row[n] + drive * number(widen(B[i, n]))
                total += row[n] * number(widen(C[i, n]))
            y[i, c] = narrow(total, y[i, c])
