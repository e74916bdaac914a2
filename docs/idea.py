"""The idea in one picture, from a real series: writes docs/_static/memories-light.png and -dark.png."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import realization as rz
from realization.plot import COLOURS

HERE = Path(__file__).resolve().parent
FIRST, WINDOW, BUDGET, ORDER = 1900, 6, 8, 4
THEMES = {
    "light": ("#ffffff", "#20262e", "#9da2ac", COLOURS["window"]),
    "dark": ("#131416", "#d8dce2", "#6d737d", "#6f97ff"),
}


def main() -> None:
    """Identify, select, draw; once for each theme."""
    data = rz.load_series("sunspots")
    model = rz.n4sid(data, ORDER).model
    data = rz.IOData(data.y[FIRST - 1700 :])
    kept = np.sort(rz.select_innovations(model, data, budget=BUDGET).index)
    for name, (paper, ink, quiet, blue) in THEMES.items():
        figure, axes = plt.subplots(
            2,
            1,
            figsize=(10, 4.6),
            sharex=True,
            height_ratios=[2, 1],
            facecolor=paper,
            layout="constrained",
        )
        years = FIRST + np.arange(data.length)
        draw_signal(axes[0], years, data.y[:, 0], kept, ink, blue)
        draw_memory(axes[1], years, model, kept, blue)
        for axis in axes:
            axis.set_facecolor(paper)
            axis.tick_params(colors=quiet, labelcolor=ink, labelsize=11)
            axis.spines[["top", "right"]].set_visible(False)
            axis.spines[["left", "bottom"]].set_color(quiet)
            axis.yaxis.label.set_color(ink)
        figure.savefig(HERE / "_static" / f"memories-{name}.png", dpi=160)
        plt.close(figure)


def draw_signal(
    axis: Axes, years: np.ndarray, y: np.ndarray, kept: np.ndarray, ink: str, blue: str
) -> None:
    """The series, with what the window spans and what could not be predicted."""
    axis.plot(years, y, color=ink, linewidth=1.1)
    axis.axvspan(years[-WINDOW], years[-1] + 1, color=blue, alpha=0.25, linewidth=0)
    axis.vlines(years[kept], 0, y[kept], color=COLOURS["eidetic"], alpha=0.35, linewidth=3)
    axis.plot(years[kept], y[kept], "o", color=COLOURS["eidetic"], markersize=7)
    axis.set(ylabel="sunspots a year", ylim=(0, None))


def draw_memory(
    axis: Axes, years: np.ndarray, model: rz.InnovationsModel, kept: np.ndarray, blue: str
) -> None:
    r"""What is left now of each sample: $\|(A - KC)^{k-1} K\|$ in the state, all of it in window and set."""
    ages = np.arange(len(years))
    power, weights = model.K, []
    for _ in ages:
        weights.append(np.linalg.norm(power))
        power = (model.A - model.K @ model.C) @ power
    fading = np.array(weights[::-1]) / weights[0]
    axis.fill_between(years, fading, color=COLOURS["fading"], alpha=0.65, linewidth=0)
    axis.vlines(years[kept], 0, 1, color=COLOURS["eidetic"], linewidth=3)
    axis.fill_between(years[-WINDOW:], 1.0, color=blue, alpha=0.35, linewidth=0)
    axis.set(ylabel="left of it now", ylim=(0, 1.45), yticks=[0, 1], xlim=(years[0], years[-1] + 1))
    said = [
        (years[0] + 1, "set: what could not be predicted is kept", COLOURS["eidetic"], "left"),
        (years[0] + 56, "state: the past fades", COLOURS["fading"], "left"),
        (years[-1] + 1, "window: exact, then gone", blue, "right"),
    ]
    for x, text, colour, side in said:
        axis.text(x, 1.15, text, color=colour, ha=side, fontsize=12, fontweight="bold")


if __name__ == "__main__":
    main()
