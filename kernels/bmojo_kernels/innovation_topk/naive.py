"""The definition: sort everything that is eligible, keep the best. The oracle of `innovation_topk`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["innovation_topk_naive"]


def innovation_topk_naive(
    priority: NDArray[np.float64], budget: int, window: int, chunk: int
) -> NDArray[np.int64]:
    """Sets `(B, chunks, budget)`: the best of what will have left the window by the end of each chunk."""
    batch, length = priority.shape
    chunks = -(-length // chunk)
    index = np.full((batch, chunks, budget), -1, dtype=np.int64)
    for b in range(batch):
        for c in range(chunks):
            limit = c * chunk - (window - chunk + 1)
            eligible = [j for j in range(min(limit + 1, length)) if priority[b, j] > -np.inf]
            best = sorted(eligible, key=lambda j: (-priority[b, j], j))[:budget]
            index[b, c, : len(best)] = sorted(best)
    return index
