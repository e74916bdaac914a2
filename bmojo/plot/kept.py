r"""Picture of the eidetic set over time: which positions hold a place, from when, until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bmojo.plot.checks import of_sequence
from bmojo.trace import BMojoTrace
from realization.errors import DataError
from realization.plot.style import COLOURS, axes_of, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["eidetic_raster"]


def eidetic_raster(
    trace: BMojoTrace, *, chunk: int, window: int | None = None, sequence: int = 0, ax: Axes | None = None
) -> Axes:
    r"""Which tokens are in the eidetic set, over time: a line for each stay of a token, at its position.

    Stays that last to the end are drawn dark, others pale. A token enters when the window leaves it behind
    (the diagonal), if it is worth a place.

    Parameters
    ----------
    trace : BMojoTrace
        From `layer.trace(tokens)`.
    chunk : int
        Tokens between two sets: `layer.steps["chunk"]`.
    window : int, optional
        `layer.steps["window"]`: the positions that attention sees anyway are drawn as a band.
    sequence : int
        Which of the batch.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is no such sequence, the layer has no eidetic set, or the chunks are not of that length.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import torch, bmojo.plot as plot
    >>> from bmojo import BMojo, BMojoConfig
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=2, window=2, eidetic=1, rule="fifo", state_size=2))
    >>> ax = plot.eidetic_raster(layer.trace(torch.randn(1, 6, 8)), chunk=2)
    >>> [tuple(segment[:, 1].tolist()) for segment in ax.collections[0].get_segments()]
    [(1.0, 1.0)]
    """
    index = of_sequence(trace.eidetic_index, sequence, "eidetic_raster")
    length = trace.output.shape[1]
    if not index.shape[1]:
        raise DataError("eidetic_raster: the layer has no eidetic set; make one with eidetic=1 or more.")
    if chunk < 1 or len(index) != -(-length // chunk):
        raise DataError(
            f"eidetic_raster: chunk={chunk} came; {len(index)} sets along {length} tokens are of another "
            'length. It is layer.steps["chunk"].'
        )
    stays = stays_of(index)
    ends = stays[:, 2] == len(index)
    with style():
        ax = axes_of(ax, (7.0, 3.6))
        for which, alpha, words in ((~ends, 0.35, "kept for a while"), (ends, 1.0, "still there at the end")):
            position, first, last = stays[which].T
            ax.hlines(
                position, first * chunk, np.minimum(last * chunk, length), color=COLOURS["eidetic"],
                alpha=alpha, linewidth=float(np.clip(250 / length, 1.2, 3.0)),
                label=f"{words} ({int(which.sum())})",
            )  # fmt: skip
        now = np.array([0, length - 1])
        if window is not None:
            ax.fill_between(
                now, now - window + 1, now, color=COLOURS["window"], alpha=0.2, linewidth=0, label="window"
            )
        else:
            ax.plot(now, now, color=COLOURS["baseline"], linewidth=1)
        ax.set(xlabel="token", ylabel="position that is kept", xlim=(0, length), ylim=(0, length))
        legend(ax)
    return ax


def stays_of(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position, first chunk, and the chunk after the last, of each unbroken stay in sets (chunks, m)."""
    chunks = len(index)
    positions = np.unique(index[index >= 0])
    inside = np.zeros((len(positions), chunks + 2), dtype=np.int8)
    chunk, place = np.nonzero(index >= 0)
    inside[np.searchsorted(positions, index[chunk, place]), chunk + 1] = 1
    change = np.diff(inside, axis=1)
    row, first = np.nonzero(change == 1)
    _, last = np.nonzero(change == -1)
    return np.stack([positions[row], first, last], axis=1)
