"""Fit in percent of an output's spread: the one formula behind every fit that is reported."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError

__all__ = ["percent_of_spread"]

Array = NDArray[np.float64]


def percent_of_spread(measured: Array, residual: Array, caller: str) -> Array:
    r"""$100 (1 - r_i / \|y_i - \bar y_i\|)$ for outputs (T, p) and norms of residuals (..., p).

    An output that is constant to rounding has no spread to compare with: that is an error.
    """
    spread = np.linalg.norm(measured - measured.mean(axis=0), axis=0)
    rounding = 1e-14 * np.abs(measured).max(axis=0, initial=0.0) * np.sqrt(len(measured))
    for column in np.flatnonzero(spread <= rounding):
        raise DataError(
            f"{caller}: output {column} (counted from 0) is constant over the record, so a fit in "
            "percent of its spread is not defined. Leave it out."
        )
    return 100 * (1 - residual / spread)
