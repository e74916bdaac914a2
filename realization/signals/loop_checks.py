"""What the columns show together: excitation, dead time, feedback, and the order that a length supports."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.signal
import scipy.stats
from numpy.typing import NDArray

from realization.signals.column_checks import autoregression

__all__ = ["collinearity", "dead_time", "excitation_order", "feedback", "supported_order"]

Array = NDArray[np.float64]
LAGS = 30
RESOLVED = 1e-12
LONGEST_DELAY = 40


def excitation_order(u: Array, most: int = 2 * LAGS) -> int:
    r"""Largest $n \le$ `most` for which `n` neighbouring samples of a column are linearly independent.

    The smallest singular value of the Hankel matrix with `n` rows must be $10^{-6}$ of the largest.
    """
    most = min(most, (len(u) + 1) // 2)
    columns = np.lib.stride_tricks.sliding_window_view(u - u.mean(), most)
    columns = columns - columns.mean(axis=0)  # of the windows themselves, so that a constant leaves no trace
    gram = columns.T @ columns

    def independent(n: int) -> bool:
        values = np.linalg.eigvalsh(gram[:n, :n])
        return bool(values[0] > RESOLVED * values[-1])

    low, high = 0, most  # independence of n samples implies that of fewer
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if independent(middle) else (low, middle - 1)
    return low


def collinearity(u: Array) -> Array:
    """Share of each input's variance that the other inputs explain at the same time, shape (m,)."""
    moving = (u - u.mean(axis=0)) / u.std(axis=0)
    shares = np.empty(u.shape[1])
    for i in range(u.shape[1]):
        others = np.delete(moving, i, axis=1)
        left = moving[:, i] - others @ np.linalg.lstsq(others, moving[:, i], rcond=None)[0]
        shares[i] = 1 - left.var()
    return shares


def feedback(u: Array, y: Array) -> tuple[float, int] | None:
    r"""Significance of past outputs for the present input (column `u`, given its own past), and lags.

    In open loop $E[u_t \mid u_{t-1}, \dots, y_{t-1}, \dots] = E[u_t \mid u_{t-1}, \dots]$, which is the same
    as a non-causal impulse response that is zero at negative times. `u` (T, m) has the tested input first;
    F test. What a controller does within one sample cannot be told from feedthrough and is not counted.
    `None` where the input follows from its own past, so that nothing is left to test.
    """
    own = min(60, len(u) // 20)
    count = max(1, min(10, len(u) // (20 * (u.shape[1] + y.shape[1]))))
    lags = max(count, len(autoregression(u[:, 0], own)) - 1)
    lags = min(2 * lags, own) if lags > count else lags
    target = u[lags:, 0]
    past_u = [u[lags - k : len(u) - k, 0] for k in range(1, lags + 1)]
    past_u += [u[lags - k : len(u) - k, i] for k in range(0, count + 1) for i in range(1, u.shape[1])]
    past_y = [y[lags - k : len(u) - k, i] for k in range(1, count + 1) for i in range(y.shape[1])]
    basis = np.column_stack([np.ones(len(target)), *past_u, *past_y])
    basis[:, 1:] -= basis[:, 1:].mean(axis=0)
    basis[:, 1:] /= np.maximum(basis[:, 1:].std(axis=0), 1e-300)
    R = scipy.linalg.qr(np.column_stack([basis, target]), mode="r", check_finite=False)[0]
    last, added = basis.shape[1], len(past_y)
    freedom = len(target) - last
    if freedom < 2 * added:
        return None
    own_left = (R[last - added : last + 1, -1] ** 2).sum()
    left = R[last, -1] ** 2
    if left <= 1e-9 * (R[1:, -1] ** 2).sum():
        return None
    ratio = (own_left - left) / added / (left / freedom)
    return float(scipy.stats.f.sf(ratio, added, freedom)), count


def dead_time(u: Array, y: Array, level: float) -> tuple[int, float, float] | None:
    r"""First lag at which a column `u` acts on `y`, the largest correlation, and the bound.

    Both are passed through the whitening filter of `u`; the cross-correlation at lags before the first effect
    is then $N(0, 1/T)$. `None` where nothing is significant, or where what lies before the first significant
    lag may be half as large as the largest.
    """
    whitening = autoregression(u, min(40, len(u) // 20))
    cut = len(whitening)
    alpha = scipy.signal.lfilter(whitening, [1.0], u - u.mean())[cut:]
    beta = scipy.signal.lfilter(whitening, [1.0], y - y.mean())[cut:]
    lags = min(LONGEST_DELAY, len(alpha) // 10)
    if lags < 2 or not alpha.std() > 1e-9 * u.std() or not beta.std() > 0:
        return None
    alpha, beta = (alpha - alpha.mean()) / alpha.std(), (beta - beta.mean()) / beta.std()
    r = np.array([alpha[: len(alpha) - k] @ beta[k:] for k in range(lags + 1)]) / len(alpha)
    bound = float(scipy.stats.norm.isf(level / (2 * (lags + 1))) / np.sqrt(len(alpha)))
    over = np.flatnonzero(np.abs(r) > bound)
    if not len(over):
        return None
    first, largest = int(over[0]), float(np.abs(r).max())
    if first and np.abs(r[:first]).max() + bound > 0.5 * largest:
        return None
    return first, largest, bound


def supported_order(length: int, n_outputs: int, n_inputs: int = 0) -> int:
    r"""Highest order that a record of `length` samples has room for.

    `i` block rows need $2 i (m + p + 1)$ samples, so that the Hankel matrices are wider than high, and carry
    orders up to $p (i - 1)$.
    """
    rows = length // (2 * (n_inputs + n_outputs + 1))
    return max(0, n_outputs * (rows - 1))
