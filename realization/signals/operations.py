r"""What is done to the columns of one experiment: trends, filters, fewer samples, shifts."""

from __future__ import annotations

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from realization.errors import DataError, ShapeError

__all__ = ["band_filter", "delayed", "filtered", "resampled", "without_trend"]

Array = NDArray[np.float64]
BAND_ORDER = 4


def without_trend(x: Array, degree: int) -> Array:
    """Columns (T, c) less their least-squares polynomials in time; NaN stays NaN."""
    time = np.linspace(-1.0, 1.0, len(x)) if len(x) > 1 else np.zeros(1)
    basis = np.polynomial.legendre.legvander(time, min(degree, len(x) - 1))
    if np.isfinite(x).all():
        return x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    out = x.copy()
    for i, column in enumerate(x.T):  # a column with missing samples has a least-squares problem of its own
        there = np.isfinite(column)
        out[:, i] -= basis @ np.linalg.lstsq(basis[there], column[there], rcond=None)[0]
    return out


def band_filter(band: tuple[float | None, float | None], dt: float) -> Array:
    """Second-order sections of a Butterworth filter for a band in Hz, shape (s, 6)."""
    high = band[1]
    nyquist = 0.5 / dt
    edges = [edge for edge in band if edge is not None]
    if not edges or not all(0 < edge < nyquist for edge in edges) or sorted(set(edges)) != edges:
        raise DataError(
            f"prefilter: band={band} came; at least one edge, rising, between 0 and the Nyquist frequency "
            f"{nyquist:g} (both apart) is needed."
        )
    kind = "bandpass" if len(edges) == 2 else "highpass" if high is None else "lowpass"
    wanted = edges if len(edges) == 2 else edges[0]
    return scipy.signal.butter(BAND_ORDER, wanted, kind, fs=1 / dt, output="sos")


def filtered(x: Array, by: Array | tuple[Array, Array]) -> Array:
    """Columns (T, c) through second-order sections or a pair `(b, a)`, from rest at the first value."""
    if not x.shape[1]:
        return x
    if not isinstance(by, tuple):
        rest = scipy.signal.sosfilt_zi(by)[:, :, None] * x[0]
        return scipy.signal.sosfilt(by, x, axis=0, zi=rest)[0]
    b, a = by
    if a.ndim != 1 or b.ndim != 1 or not (np.isfinite(a).all() and np.isfinite(b).all()) or a[0] == 0:
        raise DataError("prefilter: b and a must be vectors of finite numbers, and a must not begin with 0.")
    poles = np.roots(a)
    if len(poles) and np.abs(poles).max() >= 1:
        raise DataError(
            f"prefilter: the filter has a pole of modulus {np.abs(poles).max():.6g}; a stable one is needed."
        )
    if max(len(a), len(b)) == 1:
        return x * (b[0] / a[0])
    rest = scipy.signal.lfilter_zi(b, a)[:, None] * x[0]
    return scipy.signal.lfilter(b, a, x, axis=0, zi=rest)[0]


def resampled(x: Array, up: int, down: int) -> Array:
    """Columns (T, c) at `up / down` times the rate: low pass of linear phase, ends continued by lines."""
    if up == down or not x.shape[1]:
        return x[:: down if up == 1 else 1][: -(-len(x) * up // down)] if not x.shape[1] else x
    return scipy.signal.resample_poly(x, up, down, axis=0, padtype="line")


def delayed(u: Array, shifts: NDArray[np.integer], late: int, early: int) -> Array:
    """Columns shifted by `shifts` each, without the first `late` and the last `early` rows."""
    length = len(u)
    if length <= late + early:
        raise ShapeError("delay: no sample is left.")
    columns = [u[late - d : length - early - d, i] for i, d in enumerate(shifts.tolist())]
    return np.column_stack(columns)
