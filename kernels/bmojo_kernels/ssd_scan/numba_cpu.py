"""`ssd_scan` on the CPU: a chunk of one head, its weights and the state stay in the cache.

Time is one axis for all sequences: (rows, H, P), and `bounds` (S + 1,) says where each begins. A task is one
sequence and some heads of a group, which share the product of what is read and what is written. Backward goes
through the chunks from the last to the first, from the states that forward kept before each.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.bfloat16 import narrow, widen
from bmojo_kernels.chunked import (
    FLOOR,
    add_scaled,
    chunks_before,
    decay_matrix,
    decays,
    decays_back,
    inner,
    load,
    scale,
    scale_rows,
    store,
    sum_logs,
)
from bmojo_kernels.matmul import (
    dot,
    multiply,
    multiply_lower,
    multiply_lower_part,
    multiply_upper,
    padded,
    scratch,
    transpose,
)

__all__ = ["backward", "forward", "step"]

FAST = {"contract", "reassoc"}

Array = NDArray[Any]


@numba.njit(cache=True, fastmath=FAST)
def _weigh(M: Array, D: Array, W: Array) -> None:
    """`W = M * D` in the lower triangle; `D` is zero above it."""
    for t in range(len(W)):
        m, d, w = M[t], D[t], W[t]
        for s in range(-(-(t + 1) // 16) * 16):
            w[s] = m[s] * d[s]


@numba.njit(cache=True)
def _forward_task(
    x: Array,
    log_decay: Array,
    B: Array,
    C: Array,
    state: Array,
    y: Array,
    states: Array,
    row: int,
    chunk: int,
) -> None:
    """One sequence, and heads that share `B` and `C` (T, N); `state` (H, P, N) is carried."""
    length, heads, width = x.shape
    count = B.shape[1]
    steps, P, N = padded(min(chunk, length)), padded(width), padded(count)
    Bs, Cs, read = scratch(3, steps, N, state)
    X, Y, late = scratch(3, steps, P, state)
    M, D, W = scratch(3, steps, steps, state)
    turned, natural = scratch(1, N, steps, state)[0], scratch(1, P, N, state)[0]
    carried = scratch(heads, N, P, state)
    total, since, until = np.empty(steps), np.empty(steps, state.dtype), np.empty(steps, state.dtype)
    for h in range(heads):
        load(state[h], natural)
        transpose(natural, carried[h])
    for start in range(0, length, chunk):
        n = min(chunk, length - start)
        m, stop = padded(n), start + n
        load(B[start:stop], Bs[:m])
        load(C[start:stop], Cs[:m])
        transpose(Bs[:m], turned[:, :m])
        multiply_lower_part(Cs[:m], turned[:, :m], M[:m, :m])
        for h in range(heads):
            if row < len(states):
                transpose(carried[h], natural)
                store(natural, states[row, h])
            load(x[start:stop, h], X[:m])
            sum_logs(log_decay[start:stop, h], total[:n])
            decays(total[:n], since, until)
            decay_matrix(total[:n], D[:m, :m])
            _weigh(M[:m, :m], D[:m, :m], W[:m, :m])
            scale_rows(Cs, since[:n], read[:m])
            scale_rows(X, until[:n], late[:m])
            multiply_lower(W[:m, :m], X[:m], Y[:m], False)
            multiply(read[:m], carried[h], Y[:m], True)
            store(Y, y[start:stop, h])
            scale(since[n - 1], carried[h])
            multiply(Bs[:m].T, late[:m], carried[h], True)
        row += 1
    for h in range(heads):
        transpose(carried[h], natural)
        store(natural, state[h])


@numba.njit(cache=True)
def _place(x: Array, B: Array, width: int, task: int) -> tuple[int, int, int, int, int]:
    """Sequence, group, piece of the group, and its heads, of a task."""
    groups = B.shape[1]
    share = x.shape[1] // groups
    pieces = -(-share // width)
    g, piece = task // pieces % groups, task % pieces
    low = g * share + piece * width
    return task // (groups * pieces), g, piece, low, min(low + width, (g + 1) * share)


@numba.njit(cache=True)
def _forward_part(
    x: Array,
    log_decay: Array,
    B: Array,
    C: Array,
    state: Array,
    y: Array,
    states: Array,
    bounds: Array,
    chunk: int,
    width: int,
    task: int,
) -> None:
    sequence, g, _, low, high = _place(x, B, width, task)
    begin, end = bounds[sequence], bounds[sequence + 1]
    _forward_task(
        x[begin:end, low:high],
        log_decay[begin:end, low:high],
        B[begin:end, g],
        C[begin:end, g],
        state[sequence, low:high],
        y[begin:end, low:high],
        states[:, low:high],
        chunks_before(bounds, sequence, chunk),
        chunk,
    )


@numba.njit(cache=True, nogil=True)
def forward(
    x: Array,
    log_decay: Array,
    B: Array,
    C: Array,
    state: Array,
    y: Array,
    states: Array,
    bounds: Array,
    chunk: int,
    width: int,
    first: int,
    last: int,
) -> None:
    """Fill `y` (rows, H, P), carry `state` (S, H, P, N) and keep it before each chunk in `states`.

    `B` and `C` are (rows, G, N); a task has at most `width` heads of a group. Where `states` has no rows none
    are kept.
    """
    for task in range(first, last):
        _forward_part(x, log_decay, B, C, state, y, states, bounds, chunk, width, task)


@numba.njit(cache=True, fastmath=FAST)
def _weights_back(M: Array, D: Array, dW: Array, dM: Array, gain: Array, loss: Array, ones: Array) -> None:
    """Through `W = M * D`: add to the gradient of `M`, and to what each step's decays gain and lose.

    `dW` is used up.
    An entry (t, s) holds the decays of the steps s + 1 ... t: it counts from t on, and no more from s on.
    """
    for t in range(len(gain)):
        m, d, w, out = M[t], D[t], dW[t], dM[t]
        for s in range(t):
            change = w[s] * d[s]
            out[s] += change
            w[s] = change * m[s]
        for s in range(t):
            loss[s] += w[s]
        out[t] += w[t]
        gain[t] += dot(w[:t], ones)


@numba.njit(cache=True)
def _backward_task(
    x: Array,
    log_decay: Array,
    B: Array,
    C: Array,
    states: Array,
    dy: Array,
    dstate: Array,
    dx: Array,
    dlog_decay: Array,
    dB: Array,
    dC: Array,
    row: int,
    chunk: int,
) -> None:
    """The way back of one sequence, and heads that share `B` and `C`; `dstate` (H, P, N) is carried."""
    length, heads, width = x.shape
    count = B.shape[1]
    steps, P, N = padded(min(chunk, length)), padded(width), padded(count)
    Bs, Cs, dBs, dCs, read = scratch(5, steps, N, dstate)
    X, dY, dX, late, early = scratch(5, steps, P, dstate)
    M, D, W, dW, dM = scratch(5, steps, steps, dstate)
    turned, x_turned = scratch(1, N, steps, dstate)[0], scratch(1, P, steps, dstate)[0]
    state, g_turned, carried = (
        scratch(1, P, N, dstate)[0],
        scratch(1, N, P, dstate)[0],
        scratch(heads, P, N, dstate),
    )
    total, since, until = np.empty(steps), np.empty(steps, dstate.dtype), np.empty(steps, dstate.dtype)
    gain, loss, before = scratch(1, 3, steps, dstate)[0]
    ones = np.ones(steps, dstate.dtype)
    for h in range(heads):
        load(dstate[h], carried[h])
    for index in range(-(-length // chunk) - 1, -1, -1):
        start = index * chunk
        n = min(chunk, length - start)
        m, stop = padded(n), start + n
        load(B[start:stop], Bs[:m])
        load(C[start:stop], Cs[:m])
        transpose(Bs[:m], turned[:, :m])
        multiply_lower_part(Cs[:m], turned[:, :m], M[:m, :m])
        dM[:m] = 0
        dBs[:m] = 0
        dCs[:m] = 0
        for h in range(heads):
            G = carried[h]
            load(states[row + index, h], state)
            load(x[start:stop, h], X[:m])
            load(dy[start:stop, h], dY[:m])
            sum_logs(log_decay[start:stop, h], total[:n])
            decays(total[:n], since, until)
            decay_matrix(total[:n], D[:m, :m])
            _weigh(M[:m, :m], D[:m, :m], W[:m, :m])
            gain[:n] = 0
            loss[:n] = 0
            before[:n] = 0
            multiply_upper(W[:m, :m].T, dY[:m], dX[:m], False)
            transpose(G, g_turned)
            multiply(Bs[:m], g_turned, late[:m], False)
            add_scaled(late, until[:n], X, dX, before)
            store(dX, dx[start:stop, h])
            transpose(X[:m], x_turned[:, :m])
            multiply_lower_part(dY[:m], x_turned[:, :m], dW[:m, :m])
            _weights_back(M, D, dW, dM, gain[:n], loss, ones)
            multiply(dY[:m], state, read[:m], False)
            add_scaled(read, since[:n], Cs, dCs, gain)
            scale_rows(X, until[:n], late[:m])
            multiply(late[:m], G, dBs[:m], True)
            whole = since[n - 1] * inner(G, state)
            decays_back(gain, loss, before, whole, dlog_decay[start:stop, h])
            scale_rows(dY, since[:n], early[:m])
            scale(since[n - 1], G)
            multiply(early[:m].T, Cs[:m], G, True)
        multiply_lower(dM[:m, :m], Bs[:m], dCs[:m], True)
        multiply_upper(dM[:m, :m].T, Cs[:m], dBs[:m], True)
        store(dBs, dB[start:stop])
        store(dCs, dC[start:stop])
    for h in range(heads):
        store(carried[h], dstate[h])


@numba.njit(cache=True)
def _backward_part(
    x: Array,
    log_decay: Array,
    B: Array,
    C: Array,
    states: Array,
    dy: Array,
    dstate: Array,
    dx: Array,
    dlog_decay: Array,
    dB: Array,
    dC: Array,
    bounds: Array,
    chunk: int,
    width: int,
    task: int,
) -> None:
    sequence, g, piece, low, high = _place(x, B, width, task)
    begin, end = bounds[sequence], bounds[sequence + 1]
    _backward_task(
        x[begin:end, low:high],
        log_decay[begin:end, low:high],
        B[begin:end, g],
        C[begin:end, g],
        states[:, low:high],
        dy[begin:end, low:high],
        dstate[sequence, low:high],
        dx[begin:end, low:high],
        dlog_decay[begin:end, low:high],
        dB[piece, begin:end, g],
        dC[piece, begin:end, g],
        chunks_before(bounds, sequence, chunk),
        chunk,
    )


@numba.njit(cache=True, nogil=True)
def backward(
    x: Array,
    log_decay: Array,
    B: Array,
    C: Array,
    states: Array,
    dy: Array,
    dstate: Array,
    dx: Array,
    dlog_decay: Array,
    dB: Array,
    dC: Array,
    bounds: Array,
    chunk: int,
    width: int,
    first: int,
    last: int,
) -> None:
    """Fill the gradients and carry `dstate` (S, H, P, N) back to that of the first states.

    `dB` and `dC` are (pieces, rows, G, N), one for each task of a group: their sum is left to the caller.
    """
    for task in range(first, last):
        _backward_part(
            x, log_decay, B, C, states, dy, dstate, dx, dlog_decay, dB, dC, bounds, chunk, width, task
        )


@numba.njit(cache=True, fastmath=FAST)
def step(x: Array, log_decay: Array, B: Array, C: Array, state: Array, y: Array) -> None:
    """One step: fill `y` (S, H, P) and bring `state` (S, H, P, N) forward; `B` and `C` are (S, G, N)."""
    share = x.shape[1] // B.shape[1]
    for i in range(len(x)):
        for h in range(x.shape[1]):
            write, read, number = B[i, h // share], C[i, h // share], type(state[0, 0, 0, 0])
            decay = number(np.exp(max(np.float64(log_decay[i, h]), FLOOR)))
            for p in range(x.shape[2]):
                row, value, total = state[i, h, p], number(widen(x[i, h, p])), number(0)
                for n in range(len(row)):
                    row[n] = decay * row[n] + value * widen(write[n])
                    total += row[n] * widen(read[n])
                y[i, h, p] = narrow(total, y[i, h, p])
