"""`gated_delta_scan` on the CPU: a chunk of one head and the state stay in the cache.

In a chunk that begins with the state S the errors `r_t = v_t - e^{g_t} S_{t-1} k_t` solve one triangular
system `(I + A) r = v - decay * (k Sᵀ)`, where `A[t, s] = D[t, s] (k_t . k_s) beta_s` for s < t and `D` is the
decay from s to t; what is written at step s is `beta_s r_s`. Outputs and the next state are products then.
Time is one axis for all sequences: (rows, H, K), and `bounds` (S + 1,) says where each begins.
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
    solve_lower,
    solve_upper,
    transpose,
)

__all__ = ["backward", "forward", "step"]

FAST = {"contract", "reassoc"}

Array = NDArray[Any]


@numba.njit(cache=True, fastmath=FAST)
def _weigh(D: Array, beta: Array, A: Array, P: Array) -> None:
    """From `A = K Kᵀ` and `P = Q Kᵀ`: the negated matrix of the system, and the weights of what is read."""
    for t in range(len(A)):
        d, a, p = D[t], A[t], P[t]
        width = -(-(t + 1) // 16) * 16
        for s in range(width):
            p[s] *= d[s]
            a[s] *= -(d[s] * beta[s])
        a[t] = 0


@numba.njit(cache=True)
def _forward_task(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    state: Array,
    o: Array,
    errors: Array,
    states: Array,
    row: int,
    chunk: int,
    factor: float,
) -> None:
    """One head (T, K) of one sequence; `state` (V, K) is carried."""
    length, keys = k.shape
    values = v.shape[1]
    steps, K, V = padded(min(chunk, length)), padded(keys), padded(values)
    Qs, Ks, read = scratch(3, steps, K, state)
    R, E, O = scratch(3, steps, V, state)
    A, P, D = scratch(3, steps, steps, state)
    turned, natural, carried = (
        scratch(1, K, steps, state)[0],
        scratch(1, V, K, state)[0],
        scratch(1, K, V, state)[0],
    )
    since, until, minus, weight = scratch(1, 4, steps, state)[0]
    total = np.empty(steps)
    load(state, natural)
    transpose(natural, carried)
    for start in range(0, length, chunk):
        n = min(chunk, length - start)
        m, stop = padded(n), start + n
        if row < len(states):
            transpose(carried, natural)
            store(natural, states[row])
        load(k[start:stop], Ks[:m])
        load(q[start:stop], Qs[:m])
        scale(factor, Qs[:m])
        load(v[start:stop], R[:m])
        weight[:n] = beta[start:stop]
        weight[n:] = 0
        sum_logs(log_decay[start:stop], total[:n])
        decays(total[:n], since, until)
        decay_matrix(total[:n], D[:m, :m])
        transpose(Ks[:m], turned[:, :m])
        multiply_lower_part(Ks[:m], turned[:, :m], A[:m, :m])
        multiply_lower_part(Qs[:m], turned[:, :m], P[:m, :m])
        _weigh(D[:m, :m], weight, A[:m, :m], P[:m, :m])
        for t in range(n):
            minus[t] = -since[t]
        scale_rows(Ks, minus[:n], read[:m])
        multiply(read[:m], carried, R[:m], True)
        solve_lower(A[:m, :m], R[:m])
        store(R, errors[start:stop])
        scale_rows(R, weight[:n], E[:m])
        scale_rows(Qs, since[:n], read[:m])
        multiply_lower(P[:m, :m], E[:m], O[:m], False)
        multiply(read[:m], carried, O[:m], True)
        store(O, o[start:stop])
        scale_rows(Ks, until[:n], read[:m])
        scale(since[n - 1], carried)
        multiply(read[:m].T, E[:m], carried, True)
        row += 1
    transpose(carried, natural)
    store(natural, state)


@numba.njit(cache=True, nogil=True)
def forward(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    state: Array,
    o: Array,
    errors: Array,
    states: Array,
    bounds: Array,
    chunk: int,
    factor: float,
    first: int,
    last: int,
) -> None:
    """Fill `o` and `errors` (rows, H, V), carry `state` (S, H, V, K), keep it before each chunk in `states`.

    A task is one head of one sequence. Where `states` has no rows none are kept.
    """
    heads = k.shape[1]
    for task in range(first, last):
        sequence, h = task // heads, task % heads
        begin, end = bounds[sequence], bounds[sequence + 1]
        _forward_task(
            q[begin:end, h],
            k[begin:end, h],
            v[begin:end, h],
            log_decay[begin:end, h],
            beta[begin:end, h],
            state[sequence, h],
            o[begin:end, h],
            errors[begin:end, h],
            states[:, h],
            chunks_before(bounds, sequence, chunk),
            chunk,
            factor,
        )


@numba.njit(cache=True, fastmath=FAST)
def _weights_back(
    D: Array,
    A: Array,
    P: Array,
    beta: Array,
    dA: Array,
    dP: Array,
    gain: Array,
    loss: Array,
    dbeta: Array,
    ones: Array,
) -> None:
    """Through `_system`, in place: `dA` and `dP` become the gradients of `K Kᵀ` and `Q Kᵀ`.

    They come as products with the errors: `dA[t, s]` lacks its sign and `dP[t, s]` the factor `beta_s`. `A`
    is `K Kᵀ` here, `P` the weights of what is read; `A` and `D` are used up.
    """
    for t in range(len(gain)):
        d, a, p, da, dp = D[t], A[t], P[t], dA[t], dP[t]
        for s in range(t):
            change, weight, fade = -da[s], beta[s], d[s]
            overlap, shown = fade * a[s], dp[s] * weight
            a[s] = change * overlap
            d[s] = change * weight * overlap + shown * p[s]
            da[s] = change * weight * fade
            dp[s] = shown * fade
        for s in range(t):
            dbeta[s] += a[s]
            loss[s] += d[s]
        gain[t] += dot(d[:t], ones)
        dp[t] *= beta[t]
        width = -(-(t + 1) // 16) * 16
        da[t:width] = 0
        dp[t + 1 : width] = 0
    for t in range(len(gain), len(dA)):
        dA[t] = 0
        dP[t] = 0


@numba.njit(cache=True, fastmath=FAST)
def _system(D: Array, beta: Array, A: Array, negated: Array, P: Array) -> None:
    """Like `_weigh`, but `A = K Kᵀ` stays: its negated system matrix goes elsewhere."""
    for t in range(len(A)):
        d, a, p, out = D[t], A[t], P[t], negated[t]
        width = -(-(t + 1) // 16) * 16
        for s in range(width):
            p[s] *= d[s]
            out[s] = -(d[s] * beta[s]) * a[s]
        out[t] = 0


@numba.njit(cache=True, fastmath=FAST)
def _written_back(dE: Array, beta: Array, R: Array, dR: Array, dbeta: Array) -> None:
    """Through `E = beta R`."""
    for t in range(len(beta)):
        e, r, out, weight = dE[t], R[t], dR[t], beta[t]
        for j in range(len(out)):
            out[j] += weight * e[j]
        dbeta[t] += dot(e, r)


@numba.njit(cache=True)
def _backward_task(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    errors: Array,
    states: Array,
    do: Array,
    derrors: Array,
    dstate: Array,
    dq: Array,
    dk: Array,
    dv: Array,
    dlog_decay: Array,
    dbeta: Array,
    row: int,
    chunk: int,
    factor: float,
) -> None:
    """The way back of one head (T, K) of one sequence; `dstate` (V, K) is carried."""
    length, keys = k.shape
    values = v.shape[1]
    steps, K, V = padded(min(chunk, length)), padded(keys), padded(values)
    Qs, Ks, dQ, dK, read = scratch(5, steps, K, dstate)
    R, E, dO, dE, dR, shown = scratch(6, steps, V, dstate)
    A, negated, P, D, dA, dP = scratch(6, steps, steps, dstate)
    k_turned, r_turned = scratch(1, K, steps, dstate)[0], scratch(1, V, steps, dstate)[0]
    S, G = scratch(2, V, K, dstate)
    carried = scratch(1, K, V, dstate)[0]
    since, until, minus, weight, gain, loss, before, spare, d_weight = scratch(1, 9, steps, dstate)[0]
    total, ones = np.empty(steps), np.ones(steps, dstate.dtype)
    load(dstate, G)
    transpose(G, carried)
    for index in range(-(-length // chunk) - 1, -1, -1):
        start = index * chunk
        n = min(chunk, length - start)
        m, stop = padded(n), start + n
        transpose(carried, G)
        load(states[row + index], S)
        load(k[start:stop], Ks[:m])
        load(q[start:stop], Qs[:m])
        scale(factor, Qs[:m])
        load(errors[start:stop], R[:m])
        load(do[start:stop], dO[:m])
        load(derrors[start:stop], dR[:m])
        weight[:n] = beta[start:stop]
        weight[n:] = 0
        sum_logs(log_decay[start:stop], total[:n])
        decays(total[:n], since, until)
        decay_matrix(total[:n], D[:m, :m])
        transpose(Ks[:m], k_turned[:, :m])
        transpose(R[:m], r_turned[:, :m])
        multiply_lower_part(Ks[:m], k_turned[:, :m], A[:m, :m])
        multiply_lower_part(Qs[:m], k_turned[:, :m], P[:m, :m])
        _system(D[:m, :m], weight, A[:m, :m], negated[:m, :m], P[:m, :m])
        scale_rows(R, weight[:n], E[:m])
        for vector in (gain, loss, before, d_weight):
            vector[:] = 0
        for t in range(n):
            minus[t] = -since[t]

        # What is written: read in this chunk, and left at its end.
        multiply_upper(P[:m, :m].T, dO[:m], dE[:m], False)
        whole = since[n - 1] * inner(G, S)
        multiply(Ks[:m], carried, shown[:m], False)
        add_scaled(shown, until[:n], E, dE, before)
        _written_back(dE, weight[:n], R, dR, d_weight)
        solve_upper(negated[:m, :m].T, dR[:m])
        store(dR, dv[start:stop])

        multiply_lower_part(dR[:m], r_turned[:, :m], dA[:m, :m])
        multiply_lower_part(dO[:m], r_turned[:, :m], dP[:m, :m])
        _weights_back(D, A, P, weight, dA[:m, :m], dP[:m, :m], gain[:n], loss, d_weight, ones)
        multiply_lower(dP[:m, :m], Ks[:m], dQ[:m], False)
        multiply(dO[:m], S, read[:m], False)
        add_scaled(read, since[:n], Qs, dQ, gain)
        scale(factor, dQ[:m])
        store(dQ, dq[start:stop])

        multiply_upper(dP[:m, :m].T, Qs[:m], dK[:m], False)
        multiply_lower(dA[:m, :m], Ks[:m], dK[:m], True)
        multiply_upper(dA[:m, :m].T, Ks[:m], dK[:m], True)
        multiply(dR[:m], S, read[:m], False)
        add_scaled(read, minus[:n], Ks, dK, gain)
        multiply(E[:m], G, read[:m], False)
        add_scaled(read, until[:n], Ks, dK, spare)
        store(dK, dk[start:stop])

        decays_back(gain, loss, before, whole, dlog_decay[start:stop])
        dbeta[start:stop] = d_weight[:n]
        scale(since[n - 1], carried)
        scale_rows(Qs, since[:n], read[:m])
        multiply(read[:m].T, dO[:m], carried, True)
        scale_rows(Ks, minus[:n], read[:m])
        multiply(read[:m].T, dR[:m], carried, True)
    transpose(carried, G)
    store(G, dstate)


@numba.njit(cache=True, nogil=True)
def backward(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    errors: Array,
    states: Array,
    do: Array,
    derrors: Array,
    dstate: Array,
    dq: Array,
    dk: Array,
    dv: Array,
    dlog_decay: Array,
    dbeta: Array,
    bounds: Array,
    chunk: int,
    factor: float,
    first: int,
    last: int,
) -> None:
    """Fill the gradients and carry `dstate` (S, H, V, K) back to that of the first states."""
    heads = k.shape[1]
    for task in range(first, last):
        sequence, h = task // heads, task % heads
        begin, end = bounds[sequence], bounds[sequence + 1]
        _backward_task(
            q[begin:end, h],
            k[begin:end, h],
            v[begin:end, h],
            log_decay[begin:end, h],
            beta[begin:end, h],
            errors[begin:end, h],
            states[:, h],
            do[begin:end, h],
            derrors[begin:end, h],
            dstate[sequence, h],
            dq[begin:end, h],
            dk[begin:end, h],
            dv[begin:end, h],
            dlog_decay[begin:end, h],
            dbeta[begin:end, h],
            chunks_before(bounds, sequence, chunk),
            chunk,
            factor,
        )


@numba.njit(cache=True, fastmath=FAST)
def step(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    state: Array,
    o: Array,
    e: Array,
    factor: float,
) -> None:
    """One step: fill `o` and `e` (S, H, V) and bring `state` (S, H, V, K) forward."""
    for i in range(len(q)):
        for h in range(q.shape[1]):
            number = type(state[0, 0, 0, 0])
            decay, scaled = number(np.exp(max(np.float64(log_decay[i, h]), FLOOR))), number(factor)
            for p in range(v.shape[2]):
                row, predicted, total = state[i, h, p], number(0), number(0)
                for n in range(len(row)):
                    row[n] *= decay
                    predicted += row[n] * widen(k[i, h, n])
                innovation = beta[i, h] * (widen(v[i, h, p]) - predicted)
                for n in range(len(row)):
                    row[n] += innovation * widen(k[i, h, n])
                    total += row[n] * widen(q[i, h, n])
                e[i, h, p] = innovation
                o[i, h, p] = narrow(scaled * total, o[i, h, p])
