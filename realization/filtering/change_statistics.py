"""Statistics that grow when innovations change, and the levels that chance passes at a given rate."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError

__all__ = [
    "cusum", "cusum_run_length", "cusum_steps", "cusum_threshold", "dyadic_windows", "mean_shift",
    "windowed_sum",
]  # fmt: skip

Array = NDArray[np.float64]
BINS = 400  # of the chain that stands for the cumulative sum
LOWEST = 1e-9


def windowed_sum(s: Array, window: int) -> Array:
    """Sum of the last `window` values, shape (T,); NaN until there are as many."""
    total = np.full(len(s), np.nan)
    if len(s) >= window:
        total[window - 1 :] = np.lib.stride_tricks.sliding_window_view(s, window).sum(axis=1)
    return total


def dyadic_windows(window: int) -> tuple[int, ...]:
    """Lengths 1, 2, 4, ... and `window` itself."""
    return tuple(sorted({2**k for k in range(window.bit_length())} | {window}))


def mean_shift(white: Array, window: int) -> Array:
    r"""Generalized likelihood ratio of a jump in the mean of white innovations (T, p), shape (T,).

    $$g_t = \max_{j} \frac1j \Big\lVert \sum_{k=0}^{j-1} w_{t-k} \Big\rVert^2$$

    over the dyadic lengths `j` up to `window` that have been seen.
    """
    sums = np.concatenate([np.zeros((1, white.shape[1])), np.cumsum(white, axis=0)])
    largest = np.zeros(len(white))
    for j in dyadic_windows(min(window, len(white))):
        ratio = ((sums[j:] - sums[:-j]) ** 2).sum(axis=1) / j
        largest[j - 1 :] = np.maximum(largest[j - 1 :], ratio)
    return largest


@numba.njit(cache=True)
def cusum(steps: Array, threshold: float) -> Array:
    r"""Page's sum $g_t = \max(0, g_{t-1} + z_t)$, begun anew after it has passed the threshold."""
    found = np.empty_like(steps)
    level = 0.0
    for t in range(len(steps)):
        level = max(0.0, level + steps[t])
        found[t] = level
        if level > threshold:
            level = 0.0
    return found


def cusum_steps(s: Array, degrees: int, increase: float) -> Array:
    r"""Log likelihood ratio of a covariance `increase` times as large, for $s_t$ of shape (T,)."""
    return 0.5 * (1 - 1 / increase) * s - 0.5 * degrees * np.log(increase)


def cusum_run_length(threshold: float, degrees: int, increase: float) -> float:
    r"""Mean number of samples between alarms when nothing has changed.

    The sum is followed on a grid of levels (Brook and Evans); 400 of them give three digits or more.
    """
    from scipy.special import chdtr

    slope, drift = 0.5 * (1 - 1 / increase), 0.5 * degrees * np.log(increase)
    edges = np.linspace(0, threshold, BINS + 1)
    levels = np.concatenate([[0.0], 0.5 * (edges[1:] + edges[:-1])])
    below = chdtr(degrees, np.maximum((edges - levels[:, None] + drift) / slope, 0.0))
    moves = np.concatenate([below[:, :1], np.diff(below, axis=1)], axis=1)
    return float(np.linalg.solve(np.eye(len(levels)) - moves, np.ones(len(levels)))[0])


@lru_cache(maxsize=64)
def cusum_threshold(false_alarm: float, degrees: int, increase: float) -> float:
    """Level that the sum of unchanged innovations passes once in `1 / false_alarm` samples."""
    from scipy.optimize import brentq

    def excess(threshold: float) -> float:
        return float(np.log(cusum_run_length(threshold, degrees, increase) * false_alarm))

    if excess(LOWEST) >= 0:
        raise DataError(
            f"detect_changes: false_alarm={false_alarm:g} came; a cumulative sum tuned to an increase of "
            f"{increase:g} never alarms more often than {np.exp(-excess(LOWEST)) * false_alarm:.3g}."
        )
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, LOWEST, high, xtol=1e-10))  # pyright: ignore[reportArgumentType]
