"""How well a model's output follows the measured one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, ShapeError
from realization.signals.fit import percent_of_spread

__all__ = ["fit_percent"]


def fit_percent(y: ArrayLike, y_hat: ArrayLike) -> NDArray[np.float64]:
    r"""Normalized root-mean-square fit of each output, in percent.

    $$100 \left(1 - \frac{\|y - \hat y\|}{\|y - \bar y\|}\right)$$

    100 is exact, 0 is no better than the mean; it can be negative.

    Parameters
    ----------
    y : array_like, shape (T, p) or (T,)
        Measured outputs.
    y_hat : array_like, same shape
        Simulated or predicted outputs.

    Returns
    -------
    fit : ndarray, shape (p,)

    Raises
    ------
    ShapeError
        If the shapes differ.
    DataError
        If a value is not finite, or an output is constant (it has no spread to compare with).

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 16.4.

    Examples
    --------
    >>> from realization.identification import fit_percent
    >>> fit_percent([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    array([100.])
    >>> fit_percent([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    array([0.])
    """
    measured, modelled = _columns(y, "y"), _columns(y_hat, "y_hat")
    if measured.shape != modelled.shape:
        raise ShapeError(
            f"fit_percent: y is {measured.shape} and y_hat is {modelled.shape}; they must be alike."
        )
    return percent_of_spread(measured, np.linalg.norm(measured - modelled, axis=0), "fit_percent")


def _columns(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = as_real(values, f"fit_percent: {name}")
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ShapeError(f"fit_percent: {name} has shape {array.shape}; (T, p) or (T,) is needed.")
    if not np.isfinite(array).all():
        raise DataError(f"fit_percent: {name} has values that are NaN or infinite.")
    return array
