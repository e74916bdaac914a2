r"""Pictures of how many numbers of the past reach the future: Hankel singular values of lowered layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo.bridge.lower.spectrum import HankelSpectrum
from realization.errors import DataError
from realization.plot.style import COLOURS, LINES, axes_of, count_axis, finite, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["hankel_singular_values", "memory_spectrum"]

Array = NDArray[np.float64]
Values = HankelSpectrum | ArrayLike
EPS = float(np.finfo(float).eps)


def hankel_singular_values(
    values: Values | Mapping[str, Values], *, relative: bool = False, ax: Axes | None = None
) -> Axes:
    r"""Hankel singular values of mixers beside each other: before and after training, layer by layer.

    One thin line for each group (head or channel) and time, in the colour and dashes of its mixer; the legend
    tells the mean effective order $\exp(-\sum p_i \log p_i)$, $p_i = \sigma_i / \sum \sigma$.

    Parameters
    ----------
    values : HankelSpectrum or array_like, shape (n,), (G, n) or (N, G, n); or a mapping from labels to such
        Largest first; up to four. Exact zeros are drawn at machine precision times the largest.
    relative : bool
        Divide each line by its largest value.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If a value is negative or not finite, all are zero, or there are more mixers than can be told apart.

    References
    ----------
    P. Dewilde, A.-J. van der Veen, *Time-Varying Systems and Computations*, Kluwer 1998, chapter 10.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import bmojo.plot as plot
    >>> ax = plot.hankel_singular_values({"before": [1.0, 1.0, 1.0], "after": [2.0, 0.0, 0.0]})
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['before, effective order 3', 'after, effective order 1']
    """
    given = values if isinstance(values, Mapping) else {"mixer": values}
    if not 1 <= len(given) <= len(LINES):
        raise DataError(
            f"hankel_singular_values: {len(given)} mixers came; 1 to {len(LINES)} can be told apart."
        )
    spectra = {label: _spectrum(found, f"hankel_singular_values: {label}") for label, found in given.items()}
    longest = 0
    with style():
        ax = axes_of(ax, (7.0, 3.2))
        for (label, found), (colour, dashes) in zip(spectra.items(), LINES):
            rows = found.values.reshape(-1, found.values.shape[-1])
            rows = np.maximum(rows, EPS * rows.max())
            rows = rows / rows[:, :1] if relative else rows
            width, alpha = (1.8, 1.0) if len(rows) == 1 else (1.1, max(0.25, 1 / len(rows) ** 0.5))
            for i, row in enumerate(rows):
                name = f"{label}, effective order {found.effective_order.mean():.3g}"
                ax.semilogy(
                    np.arange(1, len(row) + 1), row, color=COLOURS[colour], linestyle=dashes, alpha=alpha,
                    linewidth=width, marker="o", markersize=3, label=name if i == 0 else None,
                )  # fmt: skip
            longest = max(longest, rows.shape[1])
        ax.set(
            xlabel="state, by importance", xlim=(0.4, longest + 0.6),
            ylabel="singular value, relative" if relative else "Hankel singular value",
        )  # fmt: skip
        count_axis(ax)
        legend(ax)
        for handle in _handles(ax):
            handle.set_alpha(1.0)
    return ax


def memory_spectrum(spectrum: HankelSpectrum, *, group: int = 0, ax: Axes | None = None) -> Axes:
    r"""Hankel singular values of one group along the input: what the state carries across each time.

    Parameters
    ----------
    spectrum : HankelSpectrum
        At two times or more.
    group : int
        Head or channel.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is no such group, there are fewer than two times, or a value is negative or not finite.

    References
    ----------
    P. Dewilde, A.-J. van der Veen, *Time-Varying Systems and Computations*, Kluwer 1998, chapter 5.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import torch, bmojo.plot as plot
    >>> from bmojo import hankel_spectrum, lower
    >>> from bmojo.fading import Mamba2
    >>> along = lower(Mamba2(d_model=16, heads=2, state_size=4), torch.randn(40, 16))
    >>> ax = plot.memory_spectrum(hankel_spectrum(along, range(10, 31, 5)))
    >>> len(ax.lines), ax.lines[0].get_xdata().tolist()
    (4, [10, 15, 20, 25, 30])
    """
    found = _spectrum(spectrum, "memory_spectrum")
    times, groups, n = found.values.shape
    if not 0 <= group < groups:
        raise DataError(f"memory_spectrum: group={group} came; the mixer has groups 0 to {groups - 1}.")
    if times < 2:
        raise DataError("memory_spectrum: one time came; at least two make a line.")
    order = np.argsort(found.times)
    when, shown = found.times[order], found.values[order, group]
    shown = np.maximum(shown, EPS * shown.max())
    mean = found.effective_order[order, group]
    name = f"$\\sigma_1$ to $\\sigma_{{{n}}}$, effective order {mean.min():.3g} to {mean.max():.3g}"
    with style():
        ax = axes_of(ax, (7.0, 3.2))
        for i in range(n):
            ax.semilogy(
                when, shown[:, i], color=COLOURS["fading"], linewidth=1.5,
                alpha=1 - 0.75 * i / max(n - 1, 1), label=name if i == 0 else None,
            )  # fmt: skip
        ax.set(xlabel="token", ylabel="Hankel singular value", xlim=(when[0], when[-1]))
        legend(ax)
    return ax


class _Shown(NamedTuple):
    values: Array
    effective_order: Array
    times: NDArray[np.int64]


def _spectrum(given: Values, caller: str) -> _Shown:
    values = given.values if isinstance(given, HankelSpectrum) else given
    array = finite(values, caller)
    if array.ndim not in (1, 2, 3) or array.size == 0 or array.min() < 0 or array.max() == 0:
        raise DataError(
            f"{caller}: singular values (n,), (groups, n) or (times, groups, n) are needed, none negative, "
            f"not all zero; an array of shape {array.shape} came."
        )
    array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    times = given.times if isinstance(given, HankelSpectrum) else np.arange(len(array))
    return _Shown(array, HankelSpectrum(times, array, 1).effective_order, times)


def _handles(ax: Axes) -> list:
    shown = ax.get_legend()
    return [] if shown is None else list(shown.legend_handles)
