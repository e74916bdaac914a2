"""What one column of a record shows by itself: constants, clipping, resolution, drift, spikes, bandwidth."""

from __future__ import annotations

import numpy as np
import scipy.signal
import scipy.stats
from numpy.typing import NDArray

__all__ = [
    "autoregression",
    "bandwidth",
    "clipping",
    "drift",
    "is_constant",
    "levels_of",
    "longest_gap",
    "resolution",
    "spikes",
]

Array = NDArray[np.float64]
FEW_LEVELS = 8
BLOCKS = 12
SHARE_IN_BAND = 0.95


def is_constant(x: Array) -> bool:
    """Whether a column does not move, rounding apart."""
    return bool(np.ptp(x) <= 1e-13 * np.abs(x).max(initial=0.0))


def longest_gap(absent: NDArray[np.bool_]) -> int:
    """Samples in the longest run of `True`."""
    return int(_runs(absent)[1].max(initial=0))


def levels_of(x: Array) -> tuple[Array, NDArray[np.intp]]:
    """Distinct values, ascending, and how often each comes."""
    return np.unique(x, return_counts=True)


def clipping(x: Array, values: Array, counts: NDArray[np.intp], level: float) -> list[tuple[str, int]]:
    """Extreme values (`"lowest"`, `"highest"`) that come too often for a tail, with their counts.

    Too often: four times the next value, a difference in a binomial test at `level`, and in more than one
    run, unless the run is four times the longest elsewhere (a signal that is held has one run per value).
    """
    if len(values) <= FEW_LEVELS:
        return []
    starts, lengths = _runs(np.ones(len(x), dtype=bool), x)
    found = []
    for side, extreme, beside in (("lowest", 0, 1), ("highest", -1, -2)):
        count, next_count = int(counts[extreme]), int(counts[beside])
        if count < 4 * next_count or scipy.stats.binom.sf(count - 1, count + next_count, 0.5) > level / 2:
            continue
        there = x[starts] == values[extreme]
        held = lengths[~there].max(initial=1)
        if there.sum() > 1 or lengths[there].max() >= 4 * held:
            found.append((side, count))
    return found


def resolution(values: Array) -> float:
    """Step of the grid that all values lie on; 0 where there is none."""
    gaps = np.diff(values)
    if len(gaps) < 2:
        return 0.0
    step = float(gaps.min())
    slack = 1e-6 + 8 * np.finfo(float).eps * np.abs(values).max() / step
    on_grid = np.abs(gaps / step - np.round(gaps / step)) <= slack * np.maximum(gaps / step, 1)
    return step if slack < 1e-2 and on_grid.all() else 0.0


def drift(x: Array) -> tuple[float, float]:
    """Change of the least-squares line over the record in units of what is left, and its significance.

    A line through the means of twelve blocks: of a stationary signal whose memory is short against a block
    they are independent, so the slope's t value has ten degrees of freedom.
    """
    means = np.array([block.mean() for block in np.array_split(x, BLOCKS)])
    time = np.arange(BLOCKS) - (BLOCKS - 1) / 2
    slope = time @ means / (time @ time)
    left = means - means.mean() - slope * time
    error = np.sqrt(left @ left / (BLOCKS - 2) / (time @ time))
    line = np.linspace(-0.5, 0.5, len(x)) * slope * BLOCKS
    spread = np.std(x - line)
    p_value = 2 * scipy.stats.t.sf(abs(slope) / max(error, 1e-300), BLOCKS - 2)
    return float(slope * BLOCKS / max(spread, 1e-300)), float(p_value)


def autoregression(x: Array, most: int) -> Array:
    """Coefficients of the whitening filter `1 + a1 q^-1 + ...` of a column.

    Orders are compared by the Bayesian criterion on the covariances' Levinson recursion.
    """
    moving = x - x.mean()
    size = scipy.signal.fftconvolve(moving, moving[::-1])[len(x) - 1 : len(x) + most] / len(x)
    filters, errors = [np.ones(1)], [size[0]]
    for order in range(1, most + 1):
        last = filters[-1]
        reflection = -(last @ size[order:0:-1][: len(last)]) / errors[-1] if errors[-1] > 0 else 0.0
        grown = np.append(last, 0.0)
        filters.append(grown + reflection * grown[::-1])
        errors.append(max(errors[-1] * (1 - reflection**2), 1e-300))
    criterion = len(x) * np.log(np.maximum(errors, 1e-300)) + np.arange(most + 1) * np.log(len(x))
    return filters[int(np.argmin(criterion))]


def spikes(x: Array, level: float) -> NDArray[np.intp]:
    """Rows of samples that stand alone: surprising to the column's own past, and off both neighbours.

    The surprise is that of an autoregression with a robust scale, at `level` over all samples for Gaussian
    ones; a jump that stays is no spike.
    """
    whitening = autoregression(np.clip(x, *_fences(x)), min(20, len(x) // 10))
    surprise = scipy.signal.lfilter(whitening, [1.0], x - np.median(x))[len(whitening) :]
    scale = np.median(np.abs(surprise - np.median(surprise))) / 0.67449
    if not scale > 1e-12 * np.abs(x).max():
        return np.zeros(0, dtype=np.intp)
    bound = scale * scipy.stats.norm.isf(level / (2 * len(x)))
    before, after = np.diff(x)[:-1], -np.diff(x)[1:]
    alone = np.minimum(np.abs(before), np.abs(after)) * (before * after > 0)
    candidates = np.flatnonzero(np.abs(surprise) > bound) + len(whitening)
    candidates = candidates[candidates < len(x) - 1]
    return candidates[alone[candidates - 1] > 0.5 * np.abs(surprise[candidates - len(whitening)])]


def bandwidth(x: Array) -> float | None:
    """Frequency below which 95 % of the signal above a white floor lies, as a share of the Nyquist frequency.

    `None` where nothing stands out of the floor.
    """
    segment = min(len(x), 1024)
    frequency, power = scipy.signal.welch(scipy.signal.detrend(x), 2.0, nperseg=segment)
    floor = np.median(power[len(power) // 2 :])
    above = np.cumsum(power - floor)
    if above[-1] < 0.2 * power.sum():
        return None
    return float(frequency[int(np.argmax(above >= SHARE_IN_BAND * above[-1]))])


def _fences(x: Array) -> tuple[float, float]:
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
    reach = 6 * max(high - low, 1e-300)
    return float(middle - reach), float(middle + reach)


def _runs(where: NDArray[np.bool_], x: Array | None = None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First rows and lengths of the runs of `True`, parted where `x` changes."""
    changed = np.diff(where.astype(np.int8)) != 0
    if x is not None:
        changed |= np.diff(x) != 0
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1])
    lengths = np.diff(np.append(starts, len(where)))
    kept = where[starts]
    return starts[kept], lengths[kept]
