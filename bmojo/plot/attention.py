r"""Picture of where attention goes: its mass, divided among the memories, over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bmojo.plot.checks import of_sequence
from bmojo.trace import BMojoTrace
from realization.errors import DataError
from realization.plot.style import COLOURS, axes_of, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attention_mass"]

SEGMENTS: Mapping[str, str] = {
    "window": "window",
    "fading": "fading",
    "eidetic": "eidetic",
    "retrieved": "innovation",
    "stored": "innovation",
}


def attention_mass(
    trace: BMojoTrace,
    *,
    head: int | None = None,
    sequence: int = 0,
    average: int = 1,
    ax: Axes | None = None,
) -> Axes:
    r"""How each query's attention is divided among window, fading state, eidetic set and storage, stacked.

    Parameters
    ----------
    trace : BMojoTrace
        From `layer.trace(tokens)`.
    head : int, optional
        Which head; the mean of all when left out.
    sequence : int
        Which of the batch.
    average : int
        Queries that a centred mean goes over.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is no such head or sequence, the layer has no attention, or `average` is not from 1 to `T`.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import torch, bmojo.plot as plot
    >>> from bmojo import BMojo, BMojoConfig
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=2, window=2, eidetic=1, state_size=2))
    >>> ax = plot.attention_mass(layer.trace(torch.randn(1, 6, 8)))
    >>> [area.get_label() for area in ax.collections]
    ['window', 'fading', 'eidetic']
    """
    mass = of_sequence(trace.attention_mass, sequence, "attention_mass")
    heads, length, segments = mass.shape
    if not segments:
        raise DataError("attention_mass: the layer has no attention (window=0), so that there is no mass.")
    if head is not None and not 0 <= head < heads:
        raise DataError(f"attention_mass: head={head} came; the layer has heads 0 to {heads - 1}.")
    if not 1 <= average <= length:
        raise DataError(f"attention_mass: average={average} came; 1 to {length} queries are there.")
    shown = mass.mean(axis=0) if head is None else mass[head]
    weight = np.ones(average)
    counts = np.convolve(np.ones(length), weight, "same")
    shown = np.stack([np.convolve(column, weight, "same") / counts for column in shown.T])
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        ax.stackplot(
            np.arange(length), shown, labels=trace.segments, linewidth=0, alpha=0.85,
            colors=[COLOURS[SEGMENTS.get(name, "baseline")] for name in trace.segments],
        )  # fmt: skip
        ax.set(xlabel="token", ylabel="share of attention", xlim=(0, max(length - 1, 1)), ylim=(0, 1))
        legend(ax)
    return ax
