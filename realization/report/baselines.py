r"""What a model has to beat: the value before, and an autoregression of each output by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.errors import ExcitationError
from realization.signals.data import IOData

__all__ = ["autoregression", "persistence"]

Array = NDArray[np.float64]


def persistence(train: IOData, test: IOData) -> Array:
    r"""One-step prediction by the value before, $\hat y_t = y_{t-1}$.

    Parameters
    ----------
    train, test : IOData
        `test` follows `train` at once.

    Returns
    -------
    y_hat : ndarray, shape (T, p)
        For the samples of `test`.

    Examples
    --------
    >>> import realization as rz
    >>> from realization.report import persistence
    >>> persistence(rz.IOData([1.0, 2.0]), rz.IOData([3.0, 5.0]))[:, 0]
    array([2., 3.])
    """
    return np.vstack([train.y[-1:], test.y[:-1]])


def autoregression(train: IOData, test: IOData, *, max_order: int = 20) -> Array:
    r"""One-step prediction of each output from its own past.

    $$\hat y_t = c + \sum_{i=1}^{q} a_i y_{t-i}$$

    Least squares on `train`; the order $q$ has the least value of Akaike's criterion.

    Parameters
    ----------
    train, test : IOData
        `test` follows `train` at once.
    max_order : int
        The largest $q$ that is tried, at most a quarter of the samples of `train`.

    Returns
    -------
    y_hat : ndarray, shape (T, p)
        For the samples of `test`.

    Raises
    ------
    ExcitationError
        If `train` has fewer than 3 samples.

    References
    ----------
    H. Akaike, *A new look at the statistical model identification*, IEEE Trans. Autom. Control 19 (1974)
    716-723.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.report import autoregression
    >>> train, test = rz.IOData(0.5 ** np.arange(40)).split(0.5)
    >>> bool(np.allclose(autoregression(train, test), test.y))
    True
    """
    if train.length < 3:
        raise ExcitationError(
            f"autoregression: {train.length} samples came to learn from; at least 3 are needed."
        )
    order = max(1, min(max_order, train.length // 4))
    return np.column_stack(
        [_autoregression(past, following, order) for past, following in zip(train.y.T, test.y.T)]
    )


def _autoregression(past: Array, following: Array, max_order: int) -> Array:
    regressors, target = _lagged(past, max_order), past[max_order:]
    # The last column of the triangular factor holds what each further lag takes off the residual.
    last = np.asarray(np.linalg.qr(np.column_stack([regressors, target]), mode="r"))[:, -1]
    remaining = np.cumsum(last[::-1] ** 2)[::-1]
    orders = np.arange(1, min(max_order, len(remaining) - 2) + 1)
    spread = np.maximum(remaining[orders + 1], np.finfo(float).tiny) / len(target)
    order = int(orders[np.argmin(len(target) * np.log(spread) + 2 * orders)]) if len(orders) else 1
    weights = np.linalg.lstsq(regressors[:, : order + 1], target, rcond=None)[0]
    return _lagged(np.concatenate([past[-order:], following]), order) @ weights


def _lagged(y: Array, order: int) -> Array:
    """Rows `[1, y[t-1], ..., y[t-order]]` for `t` from `order` on."""
    lags = np.lib.stride_tricks.sliding_window_view(y, order + 1)[:, -2::-1]
    return np.column_stack([np.ones(len(lags)), lags])
