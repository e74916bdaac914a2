"""`innovation_topk` on the CPU: one pass, the kept set carried from chunk to chunk in order of position."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["advance"]


@numba.njit(cache=True)
def advance(
    priority: NDArray[np.float64],
    first: int,
    begin: int,
    considered: int,
    kept: NDArray[np.int64],
    kept_priority: NDArray[np.float64],
    index: NDArray[np.int64],
    window: int,
    chunk: int,
) -> None:
    """Fill `index` (B, chunks, m) and bring `kept`, `kept_priority` (B, m) forward in place.

    `priority[:, i]` belongs to position `first + i`; the first chunk written is the one that holds position
    `begin`; positions up to `considered` were judged before. Kept positions ascend, empty places (-1) follow.
    """
    batch, length = priority.shape
    chunks, budget = index.shape[1], index.shape[2]
    for b in range(batch):
        count = 0
        while count < budget and kept[b, count] >= 0:
            count += 1
        nearest = considered + 1
        for c in range(chunks):
            limit = min((begin // chunk + c) * chunk - (window - chunk + 1), first + length - 1)
            while nearest <= limit:
                value = priority[b, nearest - first]
                if value > -np.inf and budget > 0:
                    if count < budget:
                        kept[b, count] = nearest
                        kept_priority[b, count] = value
                        count += 1
                    else:
                        # The smallest leaves; among equals the newest of them, so that ties go to the older.
                        worst = 0
                        for i in range(1, budget):
                            if kept_priority[b, i] <= kept_priority[b, worst]:
                                worst = i
                        if value > kept_priority[b, worst]:
                            for i in range(worst, budget - 1):
                                kept[b, i] = kept[b, i + 1]
                                kept_priority[b, i] = kept_priority[b, i + 1]
                            kept[b, budget - 1] = nearest
                            kept_priority[b, budget - 1] = value
                nearest += 1
            for i in range(budget):
                index[b, c, i] = kept[b, i]
