r"""Pictures of signals: fit, innovations, their autocorrelation, and what kept samples rebuild."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError
from realization.filtering.innovations import chi_squared_quantile
from realization.identification.validation import fit_percent
from realization.plot.style import COLOURS, DASHED, axes_of, column, count_axis, finite, legend, style
from realization.signals.data import IOData, as_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["autocorrelation", "fit", "innovations", "reconstruction"]

Array = NDArray[np.float64]


def fit(
    data: IOData | ArrayLike,
    y_hat: ArrayLike | Mapping[str, ArrayLike],
    *,
    output: int = 0,
    ax: Axes | None = None,
) -> Axes:
    r"""Measured output with what a model says of it, and the fit in the legend.

    $$\text{fit} = 100 \left(1 - \frac{\|y - \hat y\|}{\|y - \bar y\|}\right) \%$$

    Parameters
    ----------
    data : IOData or array_like, shape (T, p)
        The record. A line breaks where outputs are missing and where another experiment begins.
    y_hat : array_like, shape (T, p), or a mapping from labels to such arrays
        At most two: the second is drawn dashed.
    output : int
        Which column.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ShapeError
        If a prediction is not as long as the record, or the output is not there.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 16.4.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> ax = plot.fit([0.0, 1.0, 2.0, 1.0], {"model": [0.0, 1.0, 2.0, 0.0]})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['measured', 'model, 29.3 %']
    """
    record = as_data(data, missing=True, experiments=True)
    curves = y_hat if isinstance(y_hat, Mapping) else {"model": y_hat}
    if not 1 <= len(curves) <= 2:
        raise DataError(f"fit: {len(curves)} predictions came; one or two can be told apart in a picture.")
    y, there = _measured(record, output)
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        ax.plot(*_broken(record, y), color=COLOURS["data"], linewidth=3.2, alpha=0.35, label="measured")
        looks = [("prediction", "-"), ("fading", (0, (3, 1.5)))]
        for (name, values), (meaning, dashes) in zip(curves.items(), looks):
            curve = column(values, record.length, output, name)
            label = f"{name}, {fit_percent(y[there], curve[there])[0]:.1f} %"
            line = _broken(record, curve)
            ax.plot(*line, color=COLOURS[meaning], linewidth=1.5, linestyle=dashes, label=label)
        _time_axis(ax, record)
        ax.set_ylabel(record.output_labels[output])
        legend(ax)
    return ax


def innovations(
    e: ArrayLike,
    Re: ArrayLike,
    *,
    kept: ArrayLike | None = None,
    alpha: float = 0.01,
    dt: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Surprise of each sample, the level that chance alone passes rarely, and the samples that were kept.

    $$s_t = e_t^T R_e^{-1} e_t \sim \chi^2_p$$

    Parameters
    ----------
    e : array_like, shape (T, p)
        Innovations.
    Re : array_like, shape (p, p)
        Their covariance.
    kept : array_like of int, shape (m,), optional
        Indices of the samples in the eidetic memory.
    alpha : float
        False-alarm rate of the dashed line.
    dt : float, optional
        Seconds between samples.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ShapeError
        If `Re` does not fit `e`.
    DataError
        If `alpha` is not between 0 and 1, or a kept index is outside the record.

    References
    ----------
    Y. Bar-Shalom, X. R. Li, T. Kirubarajan, *Estimation with Applications to Tracking and Navigation*, Wiley
    2001, section 5.4.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> ax = plot.innovations([[0.1], [3.0], [-0.2]], [[1.0]], kept=[1])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['one sample', 'kept (1)', 'passed by 1 % by chance']
    """
    record = IOData(finite(e, "e"), dt=dt)
    covariance = np.atleast_2d(finite(Re, "Re"))
    if covariance.shape != (record.n_outputs, record.n_outputs):
        raise ShapeError(
            f"innovations: Re has shape {covariance.shape}; a row and a column for each of "
            f"{record.n_outputs} outputs are needed."
        )
    score = np.einsum("ti,ij,tj->t", record.y, scipy.linalg.pinvh(covariance), record.y)
    chosen = _indices([] if kept is None else kept, record.length)
    level = chi_squared_quantile(alpha, record.n_outputs)
    record = IOData(record.y, dt=dt)
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        width = float(np.clip(500 / record.length, 0.6, 2.0))
        ax.vlines(record.time, 0, score, color=COLOURS["innovation"], linewidth=width, label="one sample")
        if kept is not None:
            ax.plot(
                record.time[chosen], score[chosen], "o", markersize=5, color=COLOURS["eidetic"],
                label=f"kept ({chosen.size})",
            )  # fmt: skip
        ax.axhline(
            level, color=COLOURS["data"], linewidth=1, linestyle=DASHED,
            label=f"passed by {100 * alpha:g} % by chance",
        )  # fmt: skip
        _time_axis(ax, record)
        ax.set(ylabel=r"surprise $e_t^T R_e^{-1} e_t$", ylim=(0, None))
        legend(ax)
    return ax


def autocorrelation(
    e: ArrayLike, *, lags: int = 25, alpha: float = 0.05, output: int = 0, ax: Axes | None = None
) -> Axes:
    r"""Autocorrelation of the innovations, with the band that white noise keeps to.

    $$\hat\rho_k = \frac{\sum_t e_t e_{t+k}}{\sum_t e_t^2}, \qquad |\hat\rho_k| \le z_{1-\alpha/2} T^{-1/2}$$

    Parameters
    ----------
    e : array_like, shape (T, p)
        Innovations; their mean is not taken off.
    lags : int
        The largest lag, at most `T - 1`.
    alpha : float
        Share of lags that leave the band by chance.
    output : int
        Which column.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there are fewer samples than lags, or `e` is zero.

    References
    ----------
    G. E. P. Box, G. M. Jenkins, *Time Series Analysis*, Holden-Day 1976, section 8.2.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import numpy as np, realization.plot as plot
    >>> ax = plot.autocorrelation(np.array([1.0, -1.0, 1.0, -1.0]), lags=2)
    >>> ax.collections[0].get_segments()[0][1].tolist()
    [1.0, -0.75]
    """
    record = as_data(finite(e, "e"))
    x = column(record.y, record.length, output, "y")
    if not 1 <= lags < len(x):
        raise DataError(f"autocorrelation: lags={lags} came; {len(x)} samples allow 1 to {len(x) - 1}.")
    if not np.any(x):
        raise DataError("autocorrelation: the innovations are zero; there is nothing to correlate.")
    rho = np.array([x[: len(x) - k] @ x[k:] for k in range(1, lags + 1)]) / (x @ x)
    bound = np.sqrt(chi_squared_quantile(alpha, 1) / len(x))
    with style():
        ax = axes_of(ax, (7.0, 2.6))
        ax.axhspan(-bound, bound, color=COLOURS["baseline"], alpha=0.3, linewidth=0, label="white noise")
        ax.axhline(0, color=COLOURS["baseline"], linewidth=1)
        ax.vlines(
            np.arange(1, lags + 1), 0, rho, color=COLOURS["innovation"], linewidth=4, label="innovations"
        )
        reach = max(1.15 * float(np.abs(rho).max()), 3 * bound)
        ax.set(xlabel="lag, samples", ylabel="autocorrelation", xlim=(0.2, lags + 0.8), ylim=(-reach, reach))
        count_axis(ax)
        legend(ax)
    return ax


def reconstruction(
    data: IOData | ArrayLike,
    rebuilt: ArrayLike,
    *,
    kept: ArrayLike,
    without: ArrayLike | None = None,
    output: int = 0,
    ax: Axes | None = None,
) -> Axes:
    r"""Record rebuilt from the first state and the kept innovations, beside the record itself.

    Parameters
    ----------
    data : IOData or array_like, shape (T, p)
        The record. A line breaks where outputs are missing and where another experiment begins.
    rebuilt : array_like, shape (T, p)
        What state and kept samples give back.
    kept : array_like of int, shape (m,)
        Indices of the kept samples; ticks mark them at the foot of the picture.
    without : array_like, shape (T, p), optional
        What the state alone gives back.
    output : int
        Which column.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ShapeError
        If the lengths differ, or the output is not there.
    DataError
        If a kept index is outside the record.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> ax = plot.reconstruction([0.0, 2.0, 1.0], [0.0, 2.0, 0.9], kept=[1])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['measured', 'state and 1 kept (ticks), 92.9 %']
    """
    record = as_data(data, missing=True, experiments=True)
    y, there = _measured(record, output)
    chosen = _indices(kept, record.length)
    again = column(rebuilt, record.length, output, "rebuilt")
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        ax.plot(*_broken(record, y), color=COLOURS["data"], linewidth=3.2, alpha=0.35, label="measured")
        if without is not None:
            alone = column(without, record.length, output, "without")
            label = f"state alone, {fit_percent(y[there], alone[there])[0]:.1f} %"
            ax.plot(*_broken(record, alone), color=COLOURS["fading"], linewidth=1.5, label=label)
        label = f"state and {chosen.size} kept (ticks), {fit_percent(y[there], again[there])[0]:.1f} %"
        ax.plot(*_broken(record, again), color=COLOURS["eidetic"], linewidth=1.5, label=label)
        ax.plot(
            record.time[chosen], np.zeros(chosen.size), "|", markersize=9, color=COLOURS["eidetic"],
            transform=ax.get_xaxis_transform(), clip_on=False
        )  # fmt: skip
        _time_axis(ax, record)
        ax.set_ylabel(record.output_labels[output])
        legend(ax)
    return ax


def _measured(record: IOData, output: int) -> tuple[Array, NDArray[np.bool_]]:
    """One output, NaN where it is missing, and where it is there."""
    there = record.observed
    y = column(np.where(there, record.y, 0.0), record.length, output, "y")
    return np.where(there[:, output], y, np.nan), there[:, output]


def _broken(record: IOData, values: Array) -> tuple[Array, Array]:
    """Times and values of a line that does not run from one experiment into the next."""
    starts = record.starts[1:]
    return np.insert(record.time, starts, np.nan), np.insert(values, starts, np.nan)


def _indices(kept: ArrayLike, length: int) -> NDArray[np.intp]:
    indices = np.asarray(kept)
    if indices.size and not np.issubdtype(indices.dtype, np.integer):
        raise DataError(f"kept has entries of type {indices.dtype}; indices of samples are needed.")
    indices = indices.ravel().astype(np.intp)
    if indices.size and not (indices.min() >= 0 and indices.max() < length):
        raise DataError(f"a kept index lies outside the record, whose samples are 0 to {length - 1}.")
    return indices


def _time_axis(ax: Axes, record: IOData) -> None:
    ax.set(
        xlabel="sample" if record.dt is None else "time, s",
        xlim=(record.time[0], max(record.time[-1], 1e-12)),
    )
