r"""The style: one colour per meaning, quiet axes, text that is readable at a width of 700 pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from realization.systems import StateSpace

__all__ = [
    "COLOURS", "DASHED", "LINES", "axes_of", "column", "count_axis", "finite", "legend", "named", "pyplot",
    "style",
]  # fmt: skip

Array = NDArray[np.float64]

COLOURS: Mapping[str, str] = {
    "data": "#20262e",
    "window": "#1647b9",
    "fading": "#238d63",
    "eidetic": "#c8401a",
    "weights": "#a95ca6",
    "prediction": "#27b0f2",
    "innovation": "#e0990f",
    "baseline": "#9da2ac",
}
"""Colour of each meaning, told apart under the three kinds of colour blindness (a test simulates them)."""

DASHED = (0, (4, 3))
"""Dashes of a line that is a limit, not data."""

LINES = (("fading", "-"), ("window", (0, (5, 1.5))), ("eidetic", (0, (2, 1.2))), ("weights", "-."))
"""Colour and dashes of the first, second, third and fourth model of a picture."""

INK = "#3a434f"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the project's style inside the block; the settings before it come back afterwards.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message names the extra.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import matplotlib.pyplot as plt, realization.plot as plot
    >>> with plot.style():
    ...     figure, ax = plt.subplots()
    >>> ax.spines["top"].get_visible()
    False
    """
    pyplot()
    import matplotlib as mpl
    from cycler import cycler

    settings: dict[Any, Any] = {
        "figure.figsize": (7.0, 3.0),
        "figure.dpi": 100,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "savefig.facecolor": "white",
        "font.size": 10.5,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.facecolor": "white",
        "axes.edgecolor": "#aab1ba",
        "axes.labelcolor": INK,
        "axes.titlecolor": COLOURS["data"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=list(COLOURS.values())),
        "xtick.color": "#aab1ba",
        "ytick.color": "#aab1ba",
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.fontsize": 10,
        "legend.handlelength": 1.6,
        "image.cmap": "Greys",
    }
    with mpl.rc_context(settings):
        yield


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return `ax` itself, or the Axes of a new figure of that size in inches."""
    return pyplot().subplots(figsize=size)[1] if ax is None else ax


def pyplot() -> ModuleType:
    """Return `matplotlib.pyplot`, or say which extra brings it."""
    try:
        import matplotlib.pyplot
    except ImportError:
        raise ImportError(
            "pictures need matplotlib, which is not here: pip install 'realization[plot]'"
        ) from None
    return matplotlib.pyplot


def named(models: StateSpace | Mapping[str, StateSpace], caller: str) -> Mapping[str, StateSpace]:
    """The models of a picture by their labels; one model alone is called "model"."""
    found = models if isinstance(models, Mapping) else {"model": models}
    if not 1 <= len(found) <= len(LINES):
        raise DataError(
            f"{caller}: {len(found)} models came; 1 to {len(LINES)} can be told apart in a picture."
        )
    return found


def legend(ax: Axes) -> None:
    """Put the legend in one row above the axes, flush right: it hides nothing and leaves room for a title."""
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=max(len(handles), 1), borderaxespad=0.2,
        borderpad=0, columnspacing=1.6,
    )  # fmt: skip


def count_axis(ax: Axes) -> None:
    """Put ticks of the horizontal axis on whole numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def finite(values: ArrayLike, name: str) -> Array:
    """Return an array of finite floats, or say that it is not one."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{name} is not an array of numbers.") from None
    if not np.isfinite(array).all():
        raise DataError(f"{name} has entries that are NaN or infinite; a picture would hide them.")
    return array


def column(values: ArrayLike, length: int, index: int, name: str) -> Array:
    """Column `index` of an array of shape (length, p) or (length,)."""
    array = finite(values, name)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != length:
        raise ShapeError(f"{name} has shape {array.shape}; {length} rows are needed, one per sample.")
    if not 0 <= index < array.shape[1]:
        raise ShapeError(f"column {index} of {name} was asked for; it has columns 0 to {array.shape[1] - 1}.")
    return array[:, index]
