"""The solves of `gated_kalman_scan` on the CPU: the matrix of one head stays in the first-level cache.

Each step updates `H`, takes its norm in the same pass, and multiplies it by the iterate so many times.
Backward solves once more with the same matrix, which it computes again from copies that forward keeps.
Time is one axis for all sequences: (rows, H, K), and `bounds` (S + 1,) says where each begins.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.bfloat16 import narrow
from bmojo_kernels.chunked import FLOOR, chunks_before, load
from bmojo_kernels.exponential import LOG2_E
from bmojo_kernels.gated_kalman_scan.naive import SMALLEST
from bmojo_kernels.matmul import ACROSS, BYTES, dot, padded, scratch, tile, transpose

__all__ = ["backward", "forward"]

FAST = {"contract", "reassoc"}

Array = NDArray[Any]

_one, _one_narrow, _two, _two_narrow = tile(1, ACROSS, 2), tile(1, 1, 4), tile(2, ACROSS), tile(2, 1, 4)


@numba.njit(cache=True)
def _times(x: Array, H: Array, out: Array) -> None:
    """`out = x H` for the rows of `x`, in pairs."""
    lanes, size = BYTES // H.itemsize, len(H)
    whole = size - size % (ACROSS * lanes)
    i = 0
    while i < len(x):
        if i + 1 < len(x):
            for j in range(0, whole, ACROSS * lanes):
                _two(x[i : i + 2], H[:, j:], out[i : i + 2, j:], size, False)
            for j in range(whole, size, lanes):
                _two_narrow(x[i : i + 2], H[:, j:], out[i : i + 2, j:], size, False)
        else:
            for j in range(0, whole, ACROSS * lanes):
                _one(x[i : i + 1], H[:, j:], out[i : i + 1, j:], size, False)
            for j in range(whole, size, lanes):
                _one_narrow(x[i : i + 1], H[:, j:], out[i : i + 1, j:], size, False)
        i += 2


@numba.njit(cache=True, fastmath=FAST)
def _solve(
    H: Array, norm: float, small: float, b: Array, x: Array, before: Array, product: Array, steps: int
) -> None:
    """`x = (H + small I)⁻¹ b`, rows of `b` being right sides, by Chebyshev iteration."""
    number = type(norm)
    mean = number(0.5) * norm + small
    rho = norm / (number(2) * mean)
    omega, inverse = number(2), number(1) / mean
    for r in range(len(b)):
        for j in range(b.shape[1]):
            x[r, j] = b[r, j] * inverse
            before[r, j] = 0
    for _ in range(steps):
        omega = number(4) / (number(4) - rho * rho * omega)
        _times(x, H, product)
        rate, momentum = omega * inverse, omega - number(1)
        for r in range(len(b)):
            right, here, last, image = b[r], x[r], before[r], product[r]
            for j in range(len(right)):
                now = here[j]
                step = image[j] + small * now - right[j]
                here[j] = now - rate * step + momentum * (now - last[j])
                last[j] = now


@numba.njit(cache=True, fastmath=FAST)
def _update(H: Array, decay: float, k: Array, out: Array) -> float:
    """`out = decay H + k kᵀ`, and the sum of its squares."""
    total = 0 * decay
    for i in range(len(H)):
        before, row, weight = H[i], out[i], k[i]
        for j in range(len(row)):
            row[j] = decay * before[j] + weight * k[j]
        total += dot(row, row)
    return total


@numba.njit(cache=True)
def _forward_task(
    k: Array,
    log_decay: Array,
    r: Array,
    state: Array,
    x: Array,
    copies: Array,
    row: int,
    stride: int,
    ridge: float,
    steps: int,
) -> None:
    """One head (T, K) of one sequence; `r` and `x` are (T, R, K), `state` (K, K) is carried."""
    (length, sides, keys), size = r.shape, padded(r.shape[2])
    H = scratch(1, size, size, state)[0]
    b, solution, before, product = scratch(4, sides, size, state)
    key, number = scratch(1, 1, size, state)[0], type(state[0, 0])
    load(state, H)
    for t in range(length):
        if t % stride == 0 and row < len(copies):
            copies[row] = H[:keys, :keys]
            row += 1
        load(k[t : t + 1], key)
        load(r[t], b)
        decay = number(np.exp2(max(np.float64(log_decay[t]), FLOOR) * LOG2_E))
        norm = number(np.sqrt(_update(H, decay, key[0], H)))
        small = number(max(ridge * norm, SMALLEST))
        _solve(H, norm, small, b, solution, before, product, steps)
        x[t] = solution[:, :keys]
    state[:] = H[:keys, :keys]


@numba.njit(cache=True, nogil=True)
def forward(
    k: Array,
    log_decay: Array,
    r: Array,
    state: Array,
    x: Array,
    copies: Array,
    bounds: Array,
    stride: int,
    ridge: float,
    steps: int,
    first: int,
    last: int,
) -> None:
    """Fill `x` (rows, H, R, K), carry `state` (S, H, K, K), keep it every `stride` steps in `copies`.

    A task is one head of one sequence. Where `copies` has no rows none are kept.
    """
    heads = k.shape[1]
    for task in range(first, last):
        sequence, h = task // heads, task % heads
        begin, end = bounds[sequence], bounds[sequence + 1]
        _forward_task(
            k[begin:end, h],
            log_decay[begin:end, h],
            r[begin:end, h],
            state[sequence, h],
            x[begin:end, h],
            copies[:, h],
            chunks_before(bounds, sequence, stride),
            stride,
            ridge,
            steps,
        )


@numba.njit(cache=True, fastmath=FAST)
def _step_back(
    G: Array, H: Array, before: Array, pull: float, z: Array, x: Array, k: Array, decay: float, dk: Array
) -> float:
    """Through one step: to the gradient `G` of `H` comes `pull H - (z xᵀ + x zᵀ) / 2`.

    Fills `dk`, returns the gradient of the log decay, and leaves in `G` the gradient of `H` one step earlier.
    """
    half, exponent = type(decay)(0.5), 0 * decay
    for i in range(len(G)):
        g, h, past = G[i], H[i], before[i]
        for j in range(len(g)):
            g[j] += pull * h[j]
        for r in range(len(z)):
            left, right, one, other = z[r], x[r], half * z[r, i], half * x[r, i]
            for j in range(len(g)):
                g[j] -= one * right[j] + other * left[j]
        along = dot(g, k)
        dk[i] = along + along
        exponent += dot(g, past)
        for j in range(len(g)):
            g[j] *= decay
    return decay * exponent


@numba.njit(cache=True)
def _backward_task(
    k: Array,
    log_decay: Array,
    x: Array,
    copies: Array,
    dx: Array,
    dstate: Array,
    dk: Array,
    dlog_decay: Array,
    dr: Array,
    row: int,
    stride: int,
    ridge: float,
    steps: int,
) -> None:
    """The way back of one head (T, K) of one sequence; `dstate` (K, K) is carried."""
    (length, sides, keys), size = x.shape, padded(x.shape[2])
    span = min(stride, length)
    H, G, turned = (
        scratch(span + 1, size, size, dstate),
        scratch(1, size, size, dstate)[0],
        np.empty((size, size), dstate.dtype),
    )
    b, z, before, product, solution = scratch(5, sides, size, dstate)
    key, d_key = scratch(span, 1, size, dstate), scratch(1, 1, size, dstate)[0]
    number = type(dstate[0, 0])
    decay, norm = np.empty(span, dstate.dtype), np.empty(span, dstate.dtype)
    load(dstate, G)
    transpose(G, turned)
    for i in range(size):
        for j in range(size):
            G[i, j] = number(0.5) * (G[i, j] + turned[i, j])
    for index in range(-(-length // stride) - 1, -1, -1):
        start = index * stride
        count = min(stride, length - start)
        load(copies[row + index], H[0])
        for s in range(count):
            load(k[start + s : start + s + 1], key[s])
            decay[s] = np.exp2(max(np.float64(log_decay[start + s]), FLOOR) * LOG2_E)
            norm[s] = np.sqrt(_update(H[s], decay[s], key[s, 0], H[s + 1]))
        for s in range(count - 1, -1, -1):
            t = start + s
            small = number(max(ridge * norm[s], SMALLEST))
            load(dx[t], b)
            load(x[t], solution)
            _solve(H[s + 1], norm[s], small, b, z, before, product, steps)
            dr[t] = z[:, :keys]
            pull = 0 * small
            if ridge * norm[s] > SMALLEST:
                for i in range(sides):
                    pull -= dot(z[i], solution[i])
                pull = number(ridge) * pull / norm[s]
            dlog_decay[t] = _step_back(G, H[s + 1], H[s], pull, z, solution, key[s, 0], decay[s], d_key[0])
            for j in range(keys):
                dk[t, j] = narrow(d_key[0, j], dk[t, j])
    dstate[:] = G[:keys, :keys]


@numba.njit(cache=True, nogil=True)
def backward(
    k: Array,
    log_decay: Array,
    x: Array,
    copies: Array,
    dx: Array,
    dstate: Array,
    dk: Array,
    dlog_decay: Array,
    dr: Array,
    bounds: Array,
    stride: int,
    ridge: float,
    steps: int,
    first: int,
    last: int,
) -> None:
    """Fill the gradients and carry `dstate` (S, H, K, K), made symmetric, back to the first states."""
    heads = k.shape[1]
    for task in range(first, last):
        sequence, h = task // heads, task % heads
        begin, end = bounds[sequence], bounds[sequence + 1]
        _backward_task(
            k[begin:end, h],
            log_decay[begin:end, h],
            x[begin:end, h],
            copies[:, h],
            dx[begin:end, h],
            dstate[sequence, h],
            dk[begin:end, h],
            dlog_decay[begin:end, h],
            dr[begin:end, h],
            chunks_before(bounds, sequence, stride),
            stride,
            ridge,
            steps,
        )
