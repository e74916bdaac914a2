"""Autoregressions with their poles brought inside the unit circle."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.realization import STABLE_RADIUS, reflect_poles

__all__ = ["stable_taps"]

Array = NDArray[np.float64]


def stable_taps(taps: Array) -> Array | None:
    r"""Taps of $y_t = \sum_k A_k y_{t-k}$ with the poles outside the unit circle at their mirror images.

    The companion matrix is reflected in its Schur form; $C A^L$ in terms of $C, \dots, C A^{L-1}$ are taps
    again. Where several outputs make those rows too dependent for that, all poles are drawn in by one factor,
    $A_k r^k$.

    Parameters
    ----------
    taps : ndarray, shape (L, p, p)

    Returns
    -------
    ndarray, shape (L, p, p), or None
        `None` where no pole is outside.
    """
    radius = _radius(_companion(taps)) if len(taps) else 0.0
    if radius < 1:
        return None
    found = _reflected(taps)
    if found is not None:
        return found
    factor = STABLE_RADIUS / radius
    return taps * factor ** np.arange(1, len(taps) + 1)[:, None, None]


def _reflected(taps: Array) -> Array | None:
    lags, p, _ = taps.shape
    A = reflect_poles(_companion(taps))
    rows = [np.eye(p, lags * p)]
    for _ in range(lags):
        rows.append(rows[-1] @ A)
    stacked = np.vstack(rows[lags - 1 :: -1])
    solved = scipy.linalg.lstsq(stacked.T, rows[lags].T, check_finite=False)[0].T
    found = solved.reshape(p, lags, p).transpose(1, 0, 2)
    return found if np.isfinite(found).all() and _radius(_companion(found)) < 1 else None


def _companion(taps: Array) -> Array:
    """Block observer form, whose first block column holds the taps."""
    lags, p, _ = taps.shape
    A = np.eye(lags * p, k=p)
    A[:, :p] = taps.reshape(lags * p, p)
    return A


def _radius(A: Array) -> float:
    return float(np.abs(np.linalg.eigvals(A)).max(initial=0.0))
