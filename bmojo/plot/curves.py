r"""Pictures of how long a state remembers: memory curves and time constants, head by head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bmojo.bridge.lower.memory import MemoryCurves, TimeConstants
from realization.errors import DataError
from realization.plot.style import COLOURS, axes_of, count_axis, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["memory_curves", "time_constants"]

NAMED = 4  # curves that a legend names


def memory_curves(
    curves: MemoryCurves, *, time: int = -1, window: int | None = None, ax: Axes | None = None
) -> Axes:
    r"""What is left in the state of the token `k` ago, one curve for each head (or channel).

    Parameters
    ----------
    curves : MemoryCurves
    time : int
        Which of its times, by position.
    window : int, optional
        The layer's: lags that attention reaches anyway are shaded.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is no such time, or the window is not positive.

    References
    ----------
    O. L. White, D. D. Lee, H. Sompolinsky, *Short-term memory in orthogonal neural networks*, Physical Review
    Letters 92 (2004) 148102.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import torch, bmojo.plot as plot
    >>> from bmojo import lower, memory_curves
    >>> from bmojo.fading import Mamba2
    >>> along = lower(Mamba2(d_model=16, heads=2, state_size=4), torch.randn(40, 16))
    >>> ax = plot.memory_curves(memory_curves(along, 12), window=8)
    >>> len(ax.lines), len(ax.patches)
    (2, 1)
    """
    steps, groups, _ = curves.memory.shape
    if not -steps <= time < steps:
        raise DataError(f"memory_curves: time={time} came; the curves are of {steps} times.")
    if window is not None and window < 1:
        raise DataError(f"memory_curves: window={window} came; a positive number of tokens is needed.")
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        if window is not None:
            ax.axvspan(0, window, color=COLOURS["window"], alpha=0.12, linewidth=0, label="window")
        for g, curve in enumerate(curves.memory[time]):
            name = f"head {g}, {curves.capacity[time, g]:.3g} in all"
            label = name if groups <= NAMED else f"{groups} heads" if g == 0 else None
            ax.plot(
                curves.lags, curve, color=COLOURS["fading"], label=label,
                linestyle=("-", "--", ":", "-.")[g] if groups <= NAMED else "-",
                alpha=1.0 if groups <= NAMED else max(0.25, 2 / groups), linewidth=1.6,
            )  # fmt: skip
        ax.set(
            xlabel="tokens ago", ylabel="left in the state", xlim=(0, curves.lags[-1]), ylim=(0, None),
        )  # fmt: skip
        count_axis(ax)
        legend(ax)
    return ax


def time_constants(found: TimeConstants, *, window: int | None = None, ax: Axes | None = None) -> Axes:
    r"""Time constants along the input, a column of points for each head (or channel), logarithmic.

    Parameters
    ----------
    found : TimeConstants
        Those that are zero, negative or infinite cannot be drawn; the axis label counts them.
    window : int, optional
        The layer's, drawn as a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If the window is not positive.

    References
    ----------
    G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, *Lyapunov characteristic exponents*, Meccanica 15
    (1980) 9-20.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import torch, bmojo.plot as plot
    >>> from bmojo import lower, time_constants
    >>> from bmojo.fading import Mamba
    >>> along = lower(Mamba(d_model=8, state_size=4), torch.randn(40, 8))
    >>> plot.time_constants(time_constants(along)).get_yscale()
    'log'
    """
    if window is not None and window < 1:
        raise DataError(f"time_constants: window={window} came; a positive number of tokens is needed.")
    groups, n = found.along.shape
    column, value = np.repeat(np.arange(groups), n), found.along.ravel()
    drawn = np.isfinite(value) & (value > 0)
    step, unit = (1.0, "tokens") if found.dt is None else (found.dt, "s")
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        if window is not None:
            ax.axhline(window * step, color=COLOURS["window"], linewidth=1.4, label="window")
        ax.semilogy(
            column[drawn], value[drawn], "o", color=COLOURS["fading"], markersize=4,
            alpha=0.7, label=f"{n} to a head",
        )  # fmt: skip
        _decades(ax)
        left = int((~drawn).sum())
        ax.set(
            xlabel="head or channel" + (f" ({left} of {value.size} not drawn)" if left else ""),
            ylabel=f"time constant, {unit}", xlim=(-0.6, groups - 0.4),
        )  # fmt: skip
        count_axis(ax)
        legend(ax)
    return ax


def _decades(ax: Axes) -> None:
    """Whole decades, in plain numbers: a narrow logarithmic axis would label its minor ticks."""
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    low, high = np.log10(ax.get_ylim())
    ax.set_ylim(10 ** np.floor(low), 10 ** np.ceil(high))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
