"""Gradients of `memory_attention` on the CPU: each tile of weights is made again from the normalizers.

A task has all query blocks of a run of time that read one key head, one after the other, so that what falls
on a key, also on an indexed one, is added in an order that no number of threads changes. Runs are few
(`parts`); where there is more than one, each has sums of its own.
"""

from __future__ import annotations

import numba
import numpy as np

from bmojo_kernels.exponential import LOG2_E
from bmojo_kernels.memory_attention.numba_cpu import add_bias, bound, gather, hide, members, turn
from bmojo_kernels.memory_attention.plan import TILE
from bmojo_kernels.memory_attention.softmax import BASE, TOTAL, differentiate
from bmojo_kernels.tiles import multiply
from bmojo_kernels.vectors import workspace

__all__ = ["backward"]


@numba.njit(cache=True)
def _lay(x, b, row, count, h, scale, rows):
    """Write the queries of a block, times `scale`, as `rows` (lanes, d and what fills the last vector)."""
    width = x.shape[3]
    rows[:] = 0
    for j in range(count):
        for i in range(width):
            rows[j, i] = x[b, row + j, h, i] * scale


@numba.njit(cache=True)
def _prepare(out, lse, dout, dlse, b, row, count, h, state):
    """Normalizers as the logits' base, and per lane what its derivatives have in common."""
    zero = lse.dtype.type(0)
    for j in range(state.shape[1]):
        state[BASE, j], state[TOTAL, j] = zero, zero
    for j in range(count):
        if lse[b, h, row + j] > -np.inf:
            state[BASE, j] = lse[b, h, row + j] * LOG2_E
        common = -dlse[b, h, row + j]
        for i in range(out.shape[3]):
            common += out[b, row + j, h, i] * dout[b, row + j, h, i]
        state[TOTAL, j] = common


@numba.njit(cache=True)
def _scatter(found, n, memory, held, key, target, part, b, g):
    """Add a tile's gradients to the rows its keys came from."""
    for i in range(n):
        row = held[key + i] if memory == 2 else key + i
        for e in range(target.shape[4]):
            target[part, b, row, g, e] += found[i, e]


@numba.njit(cache=True)
def _scatter_bias(differences, n, low, high, memory, held, key, target, part, b):
    for i in range(n):
        row = held[key + i] if memory == 2 else key + i
        for j in range(low, high):
            target[part, b, row] += differences[i, j]


@numba.njit(cache=True)
def _matrix(rows, columns, like):
    """Memory for a matrix, as a vector and as what it is."""
    flat = workspace(rows * columns, like)
    return flat, flat.reshape(rows, columns)


@numba.njit(cache=True)
def _write(turned, place, count, b, row, h, scale, target):
    """Write a block of turned gradients, times `scale`, to `target` (B, T, H, d)."""
    width = target.shape[3]
    for j in range(count):
        for i in range(width):
            target[b, row + j, h, i] = turned[place * width + i, j] * scale


@numba.njit(cache=True)
def _blocks(
    readers, keys, values, biases, index, rows, blocks, tiles, b, g, part, own, numbers, scale, out, lse,
    dout, dlse, dreaders, dkeys, dvalues, dbiases
):  # fmt: skip
    window, start, step, lanes = numbers
    width, groups, wide = keys[0].shape[3], keys[0].shape[2], values[0].shape[3]
    shared, places, one = readers[0].shape[2] // groups, index.shape[2], out.dtype.type(1)
    # Rows of queries and of what falls on keys and values fill whole vectors.
    q_vectors, v_vectors = -(-width // step), -(-wide // step)
    q_row, v_row = q_vectors * step, v_vectors * step
    turned_flat, turned = _matrix(4 * width, lanes, out)
    dturned_flat, dturned = _matrix(4 * width, lanes, out)
    laid_flat, laid = _matrix(4 * lanes, q_row, out)
    dout_turned_flat, dout_turned = _matrix(wide, lanes, out)
    dout_laid_flat, dout_laid = _matrix(lanes, v_row, out)
    weights_flat, weights = _matrix(TILE, lanes, out)
    differences_flat, differences = _matrix(TILE, lanes, out)
    found_keys_flat, found_keys = _matrix(TILE, q_row, out)
    found_values_flat, found_values = _matrix(TILE, v_row, out)
    state = workspace(4 * lanes, out).reshape(4, lanes)
    near, far, added = np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, out.dtype)
    held, held_bias = np.empty((2, places), np.int64), np.empty(places, out.dtype)
    held_keys, held_values = np.empty(places * width, out.dtype), np.empty(places * wide, out.dtype)
    chunk, kept = -1, 0
    for block in range(len(blocks)):
        row, count, entry, first_tile, last_tile = blocks[block]
        entry = b if entry < 0 else entry
        for h in range(g * shared, (g + 1) * shared):
            for memory in range(4):
                if memory == 0 or own[memory]:
                    turn(readers[memory], b, row, count, h, scale * LOG2_E, turned, memory)
                    _lay(
                        readers[memory], b, row, count, h, scale, laid[memory * lanes : (memory + 1) * lanes]
                    )
            turn(dout, b, row, count, h, one, dout_turned, 0)
            _lay(dout, b, row, count, h, one, dout_laid)
            _prepare(out, lse, dout, dlse, b, row, count, h, state)
            dturned[:] = 0
            for i in range(first_tile, last_tile):
                memory, key, n, first, vectors, _, _, c, begin = tiles[i]
                source = entry if memory == 3 else b
                k, v = keys[memory].reshape(-1), values[memory].reshape(-1)
                k_at = ((source * keys[memory].shape[1] + key) * groups + g) * width
                v_at = ((source * keys[memory].shape[1] + key) * groups + g) * wide
                k_step, v_step = groups * width, groups * wide
                if memory == 2:
                    if c != chunk:
                        chunk, kept = c, members(index, rows, biases[0], b, c, begin, held, held_bias)
                        gather(keys[2], b, held[1], kept, g, held_keys)
                        gather(values[2], b, held[1], kept, g, held_values)
                    n = min(n, kept - key)
                    k, k_at, k_step = held_keys, key * width, width
                    v, v_at, v_step = held_values, key * wide, wide
                if n <= 0:
                    continue
                bound(tiles[i], n, start + row, count, window, held, biases[1], entry, near, far, added)
                low, high = first * step, (first + vectors) * step
                place = memory if own[memory] else 0
                q_at, l_at, d_at = place * width * lanes + low, (place * lanes + low) * q_row, low * v_row
                multiply(
                    k,
                    k_at,
                    k_step,
                    1,
                    turned_flat,
                    q_at,
                    lanes,
                    weights_flat,
                    low,
                    lanes,
                    n,
                    vectors,
                    width,
                    True,
                )
                biased = memory >= 2 and biases[memory - 2].shape[1] > 0
                if biased:
                    add_bias(weights, n, held_bias[key:] if memory == 2 else added, low, high)
                hide(weights, n, near, far, low, high)
                multiply(
                    v, v_at, v_step, 1, dout_turned_flat, low, lanes, differences_flat, low, lanes, n,
                    vectors, wide, True
                )  # fmt: skip
                differentiate(weights, differences, state, lanes, n, first, vectors)
                multiply(
                    k,
                    k_at,
                    1,
                    k_step,
                    differences_flat,
                    low,
                    lanes,
                    dturned_flat,
                    q_at,
                    lanes,
                    width,
                    vectors,
                    n,
                    False,
                )
                # What falls on values and keys goes straight there where it fills vectors, in order.
                straight = memory != 2 and v_row == wide
                target, at, wide_row = found_values_flat, 0, v_row
                if straight:
                    size = dvalues[memory][0].size
                    target, at, wide_row = dvalues[memory].reshape(-1), part * size + v_at, v_step
                multiply(
                    weights_flat, low, lanes, 1, dout_laid_flat, d_at, v_row, target, at, wide_row, n,
                    v_vectors, high - low, not straight
                )  # fmt: skip
                if not straight:
                    _scatter(found_values, n, memory, held[1], key, dvalues[memory], part, source, g)
                straight = memory != 2 and q_row == width
                target, at, wide_row = found_keys_flat, 0, q_row
                if straight:
                    size = dkeys[memory][0].size
                    target, at, wide_row = dkeys[memory].reshape(-1), part * size + k_at, k_step
                multiply(
                    differences_flat, low, lanes, 1, laid_flat, l_at, q_row, target, at, wide_row, n,
                    q_vectors, high - low, not straight
                )  # fmt: skip
                if not straight:
                    _scatter(found_keys, n, memory, held[1], key, dkeys[memory], part, source, g)
                if biased:
                    target_rows = part * groups + g
                    _scatter_bias(
                        differences,
                        n,
                        low,
                        high,
                        memory,
                        held[1],
                        key,
                        dbiases[memory - 2],
                        target_rows,
                        source,
                    )
            for memory in range(4):
                if memory == 0 or own[memory]:
                    _write(dturned, memory, count, b, row, h, scale, dreaders[memory])


@numba.njit(cache=True, nogil=True)
def backward(
    readers, keys, values, biases, index, rows, blocks, tiles, own, numbers, scale, out, lse, dout, dlse,
    dreaders, dkeys, dvalues, dbiases, width, first, last
):  # fmt: skip
    """Write `dreaders` (B, T, H, d), add to `dkeys`, `dvalues` (parts, B, rows, G, d) and `dbiases`.

    The last are (parts G, B, rows).
    A task has the `width` blocks of one part of time and all heads that read one key head; these are tasks
    `first ... last - 1`.
    """
    _, batch, _, groups, _ = dkeys[0].shape
    for task in range(first, last):
        part, b, g = task // (batch * groups), task // groups % batch, task % groups
        run = blocks[part * width : (part + 1) * width]
        _blocks(
            readers, keys, values, biases, index, rows, run, tiles, b, g, part, own, numbers, scale, out, lse,
            dout, dlse, dreaders, dkeys, dvalues, dbiases
        )  # fmt: skip
