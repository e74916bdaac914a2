"""Which keys a block of queries meets: the same for all heads, so worked out once, before any arithmetic.

Queries stand side by side in the lanes of a block. A tile is a run of keys of one memory and the vectors of
lanes that see any of them. Of consecutive keys each is seen by lanes one further on than the key before;
where the edge of such a band cuts a block, tiles are small, so that few of their logits are hidden ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_COLUMNS", "TILE", "TILE_COLUMNS", "Plan", "make_plan"]

TILE = 128  # keys: their logits and their values stay in the first two caches
BLOCK_COLUMNS = ("row", "count", "entry", "first_tile", "last_tile")
TILE_COLUMNS = ("memory", "key", "keys", "first_vector", "vectors", "near", "far", "chunk", "begin")

Table = NDArray[np.int64]


class Plan(NamedTuple):
    """Blocks and their tiles, one row of the table each, columns as named above.

    `row`, `count`: the block's queries. `entry`: the packed sequence they are from, -1 where none are packed.
    `memory`: 0 window, 1 fading, 2 eidetic, 3 retrieved. `key`: the first key's row, of its place in the set
    of `chunk` for memory 2. `near`, `far`: lanes from which and before which it is seen. `begin`: position of
    the sequence's first token.
    """

    blocks: Table
    tiles: Table


def make_plan(
    edges: Table,
    *,
    packed: bool,
    lanes: int,
    step: int,
    window: int,
    chunk: int,
    start: int,
    keys: tuple[int, int, int, int],
) -> Plan:
    """Plan for queries in sequences that lie between `edges` (sequences + 1,).

    Parameters
    ----------
    edges : ndarray
    packed : bool
    lanes, step : int
        Queries of a block, and of a vector.
    window, chunk, start : int
    keys : tuple of int
        Rows of window, fading and retrieved keys, 0 where there are none; the third is the set's places.
    """
    options = (lanes, step, window, chunk, start, *keys)
    blocks = -(-np.diff(edges) // lanes)
    # Counted first and written then, by the same function.
    nothing = np.empty((0, len(TILE_COLUMNS)), np.int64)
    table = np.empty((int(blocks.sum()), len(BLOCK_COLUMNS)), np.int64)
    count = _fill(edges, packed, *options, table, nothing)
    tiles = np.empty((count, len(TILE_COLUMNS)), np.int64)
    _fill(edges, packed, *options, table, tiles)
    return Plan(table, tiles)


@numba.njit(cache=True)
def _put(tiles, at, memory, key, keys, first_lane, last_lane, step, near, far, chunk, begin):
    if at < len(tiles):
        first = first_lane // step
        tiles[at, 0], tiles[at, 1], tiles[at, 2] = memory, key, keys
        tiles[at, 3], tiles[at, 4] = first, -(-last_lane // step) - first
        tiles[at, 5], tiles[at, 6], tiles[at, 7], tiles[at, 8] = near, far, chunk, begin
    return at + 1


@numba.njit(cache=True)
def _put_band(tiles, at, memory, origin, oldest, newest, t, count, begin, window, step):
    """Tiles of the consecutive keys at `t - oldest` to `t - newest` of each query `t` of a block."""
    j, last = max(t - oldest, begin, origin), t - newest + count
    while j < last:
        near = j + newest - t
        far, keys = near + window, last - j
        if near <= 0 and far >= count:
            keys = min(keys, TILE, 1 - near)
        elif far < count:
            keys = min(keys, step, count - far)
        else:
            keys = min(keys, step)
        seen = min(far + keys - 1, count)
        at = _put(tiles, at, memory, j - origin, keys, max(near, 0), seen, step, near, far, 0, begin)
        j += keys
    return at


@numba.njit(cache=True)
def _fill(edges, packed, lanes, step, window, chunk, start, rows, fading, places, retrieved, blocks, tiles):
    """Write the tables, as far as there is room in `tiles`, and return how many tiles there are."""
    block = at = chunks = 0
    length = edges[-1]
    for entry in range(len(edges) - 1):
        begin = edges[entry]
        chunk_base = chunks - start // chunk
        for row in range(begin, edges[entry + 1], lanes):
            count, t = min(lanes, edges[entry + 1] - row), start + row
            blocks[block, 0], blocks[block, 1], blocks[block, 2] = row, count, entry if packed else -1
            blocks[block, 3] = at
            at = _put_band(tiles, at, 0, start + length - rows, window - 1, 0, t, count, begin, window, step)
            if fading > 0:
                at = _put_band(
                    tiles,
                    at,
                    1,
                    start + length - fading,
                    2 * window - 1,
                    window,
                    t,
                    count,
                    begin,
                    window,
                    step,
                )
            lane = 0
            while places > 0 and lane < count:
                c = (t + lane - begin) // chunk
                stop = min(count, (c + 1) * chunk + begin - t)
                for j in range(0, places, TILE):
                    keys = min(TILE, places - j)
                    at = _put(tiles, at, 2, j, keys, lane, stop, step, lane, stop, chunk_base + c, begin)
                lane = stop
            for j in range(0, retrieved, TILE):
                keys = min(TILE, retrieved - j)
                at = _put(tiles, at, 3, j, keys, 0, count, step, 0, count, 0, begin)
            blocks[block, 4] = at
            block += 1
        chunks += -(-(edges[entry + 1] - begin) // chunk)
    return at
