r"""Picture of a change detection: the statistic, its threshold, the alarms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from realization.errors import DataError
from realization.filtering.detection import ChangeDetection
from realization.plot.style import COLOURS, DASHED, axes_of, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["changes"]


def changes(
    found: ChangeDetection, *, at: Iterable[float] = (), start: float = 0.0, ax: Axes | None = None
) -> Axes:
    r"""Statistic of a change test over time, the level that chance passes at the rate allowed, and alarms.

    Parameters
    ----------
    found : ChangeDetection
    at : iterable of float
        Times of changes that are known; thin lines mark them.
    start : float
        Time of the first sample, so that a record that was split keeps its clock.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If a time is not finite.

    References
    ----------
    M. Basseville, I. V. Nikiforov, *Detection of Abrupt Changes: Theory and Application*, Prentice-Hall 1993,
    section 2.1.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(300))
    >>> found = rz.detect_changes(model, rz.sensor_fault(y, "bias", at=250, size=9.0), reference=y)
    >>> ax = rz.plot.changes(found, at=[250])
    >>> [text.get_text() for text in ax.get_legend().get_texts()][1:]
    ['passed by 1 % by chance', 'alarm (53)']
    """
    known = [float(time) for time in at]
    if not np.isfinite([*known, start]).all():
        raise DataError("changes: a time that is NaN or infinite came.")
    time, alarms = start + found.time, found.alarms
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        for when in known:
            ax.axvline(when, color=COLOURS["data"], linewidth=1.0)
        ax.plot(
            time, found.statistic, color=COLOURS["innovation"], linewidth=1.4, label=f"{found.test} statistic"
        )
        ax.axhline(
            found.threshold, color=COLOURS["data"], linewidth=1, linestyle=DASHED,
            label=f"passed by {100 * found.false_alarm:g} % by chance",
        )  # fmt: skip
        if found.lower is not None:
            ax.axhline(found.lower, color=COLOURS["data"], linewidth=1, linestyle=DASHED)
        ax.plot(
            time[alarms], found.statistic[alarms], "o", markersize=3.5, color=COLOURS["eidetic"],
            label=f"alarm ({len(alarms)})",
        )  # fmt: skip
        ax.set(xlabel="time", ylabel="statistic", xlim=(time[0], max(time[-1], time[0] + 1e-12)))
        ax.set_ylim(0, None)
        legend(ax)
    return ax
