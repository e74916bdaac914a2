"""`memory_attention` on the CPU: blocks of queries against tiles of keys, queries side by side in vectors.

A tile of logits is kept as (keys, queries). So keys and values enter the products number by number, as they
lie in memory, whatever row they come from; maximum and sum over keys run across whole vectors; and a block is
turned once when it is read and once when it is written. Logits are kept in base 2. `plan` says which keys a
block meets.

The four memories come as tuples, in the order window, fading, eidetic, retrieved: readers (B, T, H, d), keys
(B, rows, G, d), values (B, rows, G, d_v). A reader that is not its own (`own`) is the first one.
"""

from __future__ import annotations

import numba
import numpy as np

from bmojo_kernels.exponential import LOG2_E
from bmojo_kernels.memory_attention.plan import TILE
from bmojo_kernels.memory_attention.softmax import TOP, TOTAL, raise_top, rescale, weigh
from bmojo_kernels.tiles import multiply
from bmojo_kernels.vectors import workspace

__all__ = ["bound", "forward", "gather", "members", "turn"]


@numba.njit(cache=True)
def turn(x, b, row, count, h, scale, turned, place):
    """Write the queries of a block, times `scale`, as the `place`-th d rows of `turned` (4 d, lanes)."""
    width = x.shape[3]
    at = place * width
    for j in range(count):
        for i in range(width):
            turned[at + i, j] = x[b, row + j, h, i] * scale
    for j in range(count, turned.shape[1]):
        for i in range(width):
            turned[at + i, j] = 0


@numba.njit(cache=True)
def members(index, rows, bias, b, c, begin, held, added):
    """The set of chunk `c` without its empty places: `held` (2, m), positions and rows, and logits `added`.

    Returns their number.
    """
    n = 0
    for i in range(index.shape[2]):
        row = rows[b, c, i]
        weight = bias[b, row] if bias.shape[1] > 0 else bias.dtype.type(0)
        if index[b, c, i] >= begin and weight > -np.inf:
            held[0, n], held[1, n], added[n] = index[b, c, i], row, weight * LOG2_E
            n += 1
    return n


@numba.njit(cache=True)
def gather(x, b, rows, n, g, held):
    """Copy `n` rows of `x` (B, P, G, d) behind one another."""
    width = x.shape[3]
    for i in range(n):
        for e in range(width):
            held[i * width + e] = x[b, rows[i], g, e]


@numba.njit(cache=True)
def bound(tile, n, t, count, window, held, bias, entry, near, far, added):
    """Lanes [near, far) that see each of a tile's keys, and what the retrieved ones add to their logits."""
    memory, key = tile[0], tile[1]
    for i in range(n):
        if memory < 2:
            near[i], far[i] = tile[5] + i, tile[6] + i
        elif memory == 2:
            near[i], far[i] = max(held[0, key + i] + window - t, tile[5]), tile[6]
        else:
            weight = bias[entry, key + i] if bias.shape[1] > 0 else bias.dtype.type(0)
            hidden = weight == -np.inf
            near[i], far[i], added[i] = 0, 0 if hidden else count, 0 if hidden else weight * LOG2_E


@numba.njit(cache=True)
def hide(logits, n, near, far, low, high):
    """Minus infinity for the lanes of [low, high) that do not see a tile's keys."""
    for i in range(n):
        for j in range(low, min(near[i], high)):
            logits[i, j] = -np.inf
        for j in range(max(far[i], low), high):
            logits[i, j] = -np.inf


@numba.njit(cache=True)
def add_bias(logits, n, bias, low, high):
    """Add to each key's logits what is its own."""
    for i in range(n):
        for j in range(low, high):
            logits[i, j] += bias[i]


@numba.njit(cache=True, fastmath={"contract"})
def _finish(total, state, count, b, row, h, out, lse):
    """Write a block's outputs, (B, T, H, d_v), and normalizers; 0 and minus infinity if nothing is seen."""
    zero = total.dtype.type(0)
    for j in range(count):
        weight = state[TOTAL, j]
        inverse = 1 / weight if weight > 0 else zero
        for i in range(len(total)):
            out[b, row + j, h, i] = total[i, j] * inverse
        lse[b, h, row + j] = (state[TOP, j] + np.log2(weight)) / LOG2_E if weight > 0 else -np.inf


@numba.njit(cache=True)
def _blocks(readers, keys, values, biases, index, rows, blocks, tiles, b, h, own, numbers, scale, out, lse):
    window, start, step, lanes = numbers
    width, groups, wide = keys[0].shape[3], keys[0].shape[2], values[0].shape[3]
    g, places = h // (readers[0].shape[2] // groups), index.shape[2]
    turned_flat, logits_flat = workspace(4 * width * lanes, out), workspace(TILE * lanes, out)
    total_flat, state = workspace(wide * lanes, out), workspace(4 * lanes, out).reshape(4, lanes)
    turned, logits = turned_flat.reshape(4 * width, lanes), logits_flat.reshape(TILE, lanes)
    total = total_flat.reshape(wide, lanes)
    near, far, added = np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, out.dtype)
    held, held_bias = np.empty((2, places), np.int64), np.empty(places, out.dtype)
    held_keys, held_values = np.empty(places * width, out.dtype), np.empty(places * wide, out.dtype)
    chunk, kept = -1, 0
    for block in range(len(blocks)):
        row, count, entry, first_tile, last_tile = blocks[block]
        entry = b if entry < 0 else entry
        for memory in range(4):
            if memory == 0 or own[memory]:
                turn(readers[memory], b, row, count, h, scale * LOG2_E, turned, memory)
        state[TOP], state[TOTAL], total[:] = -np.inf, 0, 0
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
                k, k_at, k_step, v, v_at, v_step = (
                    held_keys,
                    key * width,
                    width,
                    held_values,
                    key * wide,
                    wide,
                )
            if n <= 0:
                continue
            bound(tiles[i], n, start + row, count, window, held, biases[1], entry, near, far, added)
            low, high = first * step, (first + vectors) * step
            q_at = (memory if own[memory] else 0) * width * lanes + low
            multiply(
                k, k_at, k_step, 1, turned_flat, q_at, lanes, logits_flat, low, lanes, n, vectors, width, True
            )
            if memory >= 2 and biases[memory - 2].shape[1] > 0:
                add_bias(logits, n, held_bias[key:] if memory == 2 else added, low, high)
            hide(logits, n, near, far, low, high)
            raise_top(logits, logits, state, lanes, n, first, vectors)
            weigh(logits, logits, state, lanes, n, first, vectors)
            rescale(total, total, state, lanes, wide, first, vectors)
            multiply(
                v, v_at, 1, v_step, logits_flat, low, lanes, total_flat, low, lanes, wide, vectors, n, False
            )
        _finish(total, state, count, b, row, h, out, lse)


@numba.njit(cache=True, nogil=True)
def forward(
    readers, keys, values, biases, index, rows, blocks, tiles, own, numbers, scale, out, lse, width, first,
    last,
):  # fmt: skip
    """Fill `out` (B, T, H, d_v) and `lse` (B, H, T): tasks `first ... last - 1`, `width` blocks each.

    `numbers` are the window, the first query's position, and the lanes of a vector and of a block.
    """
    heads, pieces = out.shape[2], -(-len(blocks) // width)
    for task in range(first, last):
        b, h, piece = task // (heads * pieces), task // pieces % heads, task % pieces
        part = blocks[piece * width : (piece + 1) * width]
        _blocks(readers, keys, values, biases, index, rows, part, tiles, b, h, own, numbers, scale, out, lse)
