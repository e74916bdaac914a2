"""`causal_conv1d` on the CPU: outputs do not wait for each other, so runs of rows are the tasks.

Rows of all sequences lie behind one another, (rows, C); `edges` says where each begins, and an input before
that is one of the sequence's initial state. A bfloat16 array comes as its bits; sums are float32.
"""

from __future__ import annotations

import numba
import numpy as np

from bmojo_kernels.bfloat16 import narrow, widen
from bmojo_kernels.exponential import LOG2_E, exp2

__all__ = ["CHANNELS", "ROWS", "backward", "backward_initial", "forward", "step"]

ROWS = 256  # of a task
CHANNELS = 512  # of a task: its sums and the rows they are made from stay in the second-level cache


@numba.njit(inline="always")
def _input(x, initial, s, begin, t):
    """Row `t` of what sequence `s` reads, before its begin the initial state's."""
    return x[t] if t >= begin else initial[s, t - begin + initial.shape[1]]


@numba.njit(inline="always")
def _taps(weight, low, high):
    """The four taps of channels [low, high), each a row of its own."""
    return weight[0, low:high], weight[1, low:high], weight[2, low:high], weight[3, low:high]


@numba.njit(fastmath={"contract"}, inline="always")
def _add_tap(w, x, total):
    for c in range(len(total)):
        total[c] += w[c] * widen(x[c])


@numba.njit(fastmath={"contract"}, inline="always")
def _four(bias, w0, w1, w2, w3, x0, x1, x2, x3, y):
    for c in range(len(y)):
        early = bias[c] + w0[c] * widen(x0[c]) + w1[c] * widen(x1[c])
        y[c] = narrow(early + w2[c] * widen(x2[c]) + w3[c] * widen(x3[c]), y[c])


@numba.njit(fastmath={"contract"}, inline="always")
def _four_silu(bias, w0, w1, w2, w3, x0, x1, x2, x3, y):
    for c in range(len(y)):
        early = bias[c] + w0[c] * widen(x0[c]) + w1[c] * widen(x1[c])
        z = early + w2[c] * widen(x2[c]) + w3[c] * widen(x3[c])
        y[c] = narrow(z * _sigmoid(z), y[c])


@numba.njit(fastmath={"contract"}, inline="always")
def _put(total, y):
    for c in range(len(total)):
        y[c] = narrow(total[c], y[c])


@numba.njit(fastmath={"contract"}, inline="always")
def _put_silu(total, y):
    for c in range(len(total)):
        z = total[c]
        y[c] = narrow(z * _sigmoid(z), y[c])


@numba.njit(fastmath={"contract"}, inline="always")
def _sigmoid(z):
    # Of the small side, so that nothing overflows; below -87, where float32 ends, it is 0 and not 2^-126.
    one, zero = type(z)(1), type(z)(0)
    e = exp2(-abs(z) * type(z)(LOG2_E))
    small = e if z > -87 else zero
    return (one if z > 0 else small) / (one + e)


@numba.njit(fastmath={"contract"}, inline="always")
def _times_silu_slope(total, dy):
    """Replace sums by the derivative of the loss with respect to them."""
    one = total.dtype.type(1)
    for c in range(len(total)):
        z = total[c]
        sigmoid = _sigmoid(z)
        total[c] = widen(dy[c]) * sigmoid * (one + z * (one - sigmoid))


@numba.njit(fastmath={"contract"}, inline="always")
def _take(dy, total):
    for c in range(len(total)):
        total[c] = widen(dy[c])


@numba.njit(fastmath={"contract"}, inline="always")
def _add_product(x, y, total):
    for c in range(len(total)):
        total[c] += widen(x[c]) * y[c]


@numba.njit(fastmath={"contract"}, inline="always")
def _add_four(x0, x1, x2, x3, slope, w0, w1, w2, w3, bias):
    """One row's part of the gradients of four taps and the bias."""
    for c in range(len(bias)):
        value = slope[c]
        w0[c] += widen(x0[c]) * value
        w1[c] += widen(x1[c]) * value
        w2[c] += widen(x2[c]) * value
        w3[c] += widen(x3[c]) * value
        bias[c] += value


@numba.njit(fastmath={"contract"}, inline="always")
def _add(x, total):
    for c in range(len(total)):
        total[c] += widen(x[c])


@numba.njit(fastmath={"contract"}, error_model="numpy")
def _sum(x, weight, bias, initial, s, begin, t, low, high, total):
    """Bias and taps of output `t`, channels [low, high); `weight` is (K, C)."""
    taps = len(weight)
    if taps == 4 and t - 3 >= begin:
        w0, w1, w2, w3 = _taps(weight, low, high)
        x0, x1, x2, x3 = x[t - 3, low:high], x[t - 2, low:high], x[t - 1, low:high], x[t, low:high]
        _four(bias[low:high], w0, w1, w2, w3, x0, x1, x2, x3, total)
        return
    total[:] = bias[low:high]
    for i in range(taps):
        _add_tap(weight[i, low:high], _input(x, initial, s, begin, t - taps + 1 + i)[low:high], total)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def forward(x, weight, bias, initial, edges, silu, y, width, first, last):
    """Fill `y` (rows, C): tasks `first ... last - 1`, run by run of rows; each has `width` channels."""
    rows, channels = x.shape
    pieces = -(-channels // width)
    for task in range(first, last):
        low = task % pieces * width
        high, begin = min(low + width, channels), task // pieces * ROWS
        added, total = bias[low:high], np.empty(high - low, weight.dtype)
        s = np.searchsorted(edges, begin, side="right") - 1
        for t in range(begin, min(begin + ROWS, rows)):
            while t >= edges[s + 1]:
                s += 1
            if len(weight) == 4:
                w0, w1, w2, w3 = _taps(weight, low, high)
                x0 = _input(x, initial, s, edges[s], t - 3)[low:high]
                x1 = _input(x, initial, s, edges[s], t - 2)[low:high]
                x2, x3 = _input(x, initial, s, edges[s], t - 1)[low:high], x[t, low:high]
                if silu:
                    _four_silu(added, w0, w1, w2, w3, x0, x1, x2, x3, y[t, low:high])
                else:
                    _four(added, w0, w1, w2, w3, x0, x1, x2, x3, y[t, low:high])
                continue
            _sum(x, weight, bias, initial, s, edges[s], t, low, high, total)
            if silu:
                _put_silu(total, y[t, low:high])
            else:
                _put(total, y[t, low:high])


@numba.njit(fastmath={"contract"}, error_model="numpy")
def _slope(x, weight, bias, initial, s, begin, t, low, high, silu, dy, found):
    """Derivative of the loss with respect to the sum of output `t`."""
    if silu:
        _sum(x, weight, bias, initial, s, begin, t, low, high, found)
        _times_silu_slope(found, dy[t, low:high])
    else:
        _take(dy[t, low:high], found)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def backward(x, weight, bias, initial, edges, silu, dy, dtail, dx, dweight, dbias, width, first, last):
    """Fill `dx`, and each run of rows' part of `dweight` (runs, K, C) and `dbias` (runs, C)."""
    rows, channels = x.shape
    taps, pieces = len(weight), -(-channels // width)
    for task in range(first, last):
        low, run = task % pieces * width, task // pieces
        high, begin = min(low + width, channels), run * ROWS
        stop = min(begin + ROWS, rows)
        # An input meets the sums of its own and the next K - 1 outputs, also of those of the next task.
        slopes = np.empty((stop - begin + taps - 1, high - low), weight.dtype)
        total, nothing = np.empty(high - low, weight.dtype), np.zeros(high - low, weight.dtype)
        s = np.searchsorted(edges, begin, side="right") - 1
        for t in range(begin, min(stop + taps - 1, rows)):
            while t >= edges[s + 1]:
                s += 1
            slope = slopes[t - begin]
            _slope(x, weight, bias, initial, s, edges[s], t, low, high, silu, dy, slope)
            if t < stop and taps == 4 and t - 3 >= edges[s]:
                x0, x1, x2, x3 = x[t - 3, low:high], x[t - 2, low:high], x[t - 1, low:high], x[t, low:high]
                d0, d1 = dweight[run, 0, low:high], dweight[run, 1, low:high]
                d2, d3 = dweight[run, 2, low:high], dweight[run, 3, low:high]
                _add_four(x0, x1, x2, x3, slope, d0, d1, d2, d3, dbias[run, low:high])
            elif t < stop:
                _add(slope, dbias[run, low:high])
                for i in range(taps):
                    row = _input(x, initial, s, edges[s], t - taps + 1 + i)
                    _add_product(row[low:high], slope, dweight[run, i, low:high])
        s = np.searchsorted(edges, begin, side="right") - 1
        for t in range(begin, stop):
            while t >= edges[s + 1]:
                s += 1
            if taps == 4 and t + 3 < edges[s + 1]:
                s0, s1, s2, s3 = (
                    slopes[t - begin], slopes[t - begin + 1], slopes[t - begin + 2], slopes[t - begin + 3]
                )  # fmt: skip
                w0, w1, w2, w3 = _taps(weight, low, high)
                _four(nothing, w3, w2, w1, w0, s0, s1, s2, s3, dx[t, low:high])
                continue
            total[:] = 0
            for i in range(taps):
                if t + i < edges[s + 1]:
                    _add_product(weight[taps - 1 - i, low:high], slopes[t + i - begin], total)
            late = t + taps - 1 - edges[s + 1]
            if late >= 0:
                _add(dtail[s, late, low:high], total)
            _put(total, dx[t, low:high])


@numba.njit(cache=True, error_model="numpy")
def backward_initial(x, weight, bias, initial, edges, silu, dy, dtail, dinitial):
    """Fill the gradient (S, K - 1, C) of the initial states."""
    taps, channels = weight.shape
    slope, total = np.empty(channels, weight.dtype), np.empty(channels, weight.dtype)
    for s in range(len(initial)):
        begin, length = edges[s], edges[s + 1] - edges[s]
        for p in range(taps - 1):
            total[:] = 0
            for i in range(p + 1):
                if p - i < length:
                    _slope(x, weight, bias, initial, s, begin, begin + p - i, 0, channels, silu, dy, slope)
                    _add_product(weight[i], slope, total)
            if p >= length:
                _add(dtail[s, p - length], total)
            _put(total, dinitial[s, p])


@numba.njit(cache=True, error_model="numpy")
def step(x, weight, bias, tail, silu, y):
    """One output of every sequence; `tail` (B, K - 1, C) moves on by one input in place."""
    taps, channels = weight.shape
    total = np.empty(channels, weight.dtype)
    for b in range(len(x)):
        if taps == 4:  # in the same operations as `forward`, so that ties of scores stay ties
            w0, w1, w2, w3 = weight[0], weight[1], weight[2], weight[3]
            if silu:
                _four_silu(bias, w0, w1, w2, w3, tail[b, 0], tail[b, 1], tail[b, 2], x[b], y[b])
            else:
                _four(bias, w0, w1, w2, w3, tail[b, 0], tail[b, 1], tail[b, 2], x[b], y[b])
        else:
            total[:] = bias
            for i in range(taps):
                _add_tap(weight[i], tail[b, i] if i < taps - 1 else x[b], total)
            if silu:
                _put_silu(total, y[b])
            else:
                _put(total, y[b])
        for i in range(taps - 2):
            tail[b, i] = tail[b, i + 1]
        if taps > 1:
            tail[b, taps - 2] = x[b]
