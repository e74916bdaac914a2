r"""Pictures of models: Hankel singular values, impulse response, memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError
from realization.memory import MemoryCurve
from realization.plot.style import COLOURS, DASHED, axes_of, count_axis, finite, legend, style
from realization.systems.models import StateSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["hankel_singular_values", "impulse_response", "memory", "memory_curve"]

Array = NDArray[np.float64]


def hankel_singular_values(
    hsv: ArrayLike, order: int | None = None, *, bound: bool = False, ax: Axes | None = None
) -> Axes:
    r"""Hankel singular values on a logarithmic scale, those of the kept order in colour.

    $$\sigma_i = \sqrt{\lambda_i(W_c W_o)}, \qquad \|G - G_r\|_\infty \le 2 \sum_{i > r} \sigma_i$$

    Parameters
    ----------
    hsv : array_like, shape (n,)
        Largest first. Exact zeros are drawn at machine precision times the largest.
    order : int, optional
        How many are kept; all when left out.
    bound : bool
        Draw, at each order `r`, the bound on the error that balanced truncation to it leaves.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If a value is negative, not finite, or all are zero.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, sections 5.4 and 7.2.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> ax = plot.hankel_singular_values([1.0, 0.3, 1e-6], order=2)
    >>> ax.get_yscale(), len(ax.lines[0].get_xdata())
    ('log', 2)
    """
    values = finite(hsv, "hsv").ravel()
    if values.size == 0 or values.min() < 0 or values.max() == 0:
        raise DataError(
            "hankel_singular_values: values from large to small are needed, none negative, not all zero."
        )
    kept = len(values) if order is None else order
    if not 0 <= kept <= len(values):
        raise DataError(
            f"hankel_singular_values: order={order} came; {len(values)} values allow 0 to {len(values)}."
        )
    shown = np.maximum(values, np.finfo(float).eps * values.max())
    index = np.arange(1, len(values) + 1)
    with style():
        ax = axes_of(ax, (7.0, 3.0))
        ax.semilogy(index[:kept], shown[:kept], "o", color=COLOURS["fading"], label="kept in the state")
        if kept < len(values):
            ax.semilogy(index[kept:], shown[kept:], "o", color=COLOURS["baseline"], label="left out")
            ax.axvline(kept + 0.5, color=COLOURS["baseline"], linewidth=1, linestyle=DASHED)
        if bound and len(values) > 1:
            tail = 2 * np.cumsum(shown[::-1])[::-1][1:]
            ax.plot(
                index[:-1], tail, drawstyle="steps-mid", color=COLOURS["data"], linewidth=1.2,
                label="error bound of this order",
            )  # fmt: skip
        if kept < len(values) or bound:
            legend(ax)
        ax.set(xlabel="state, by importance", ylabel="Hankel singular value", xlim=(0.4, len(values) + 0.6))
        count_axis(ax)
    return ax


def impulse_response(
    model: StateSpace,
    count: int = 50,
    *,
    input: int = 0,
    output: int = 0,
    meaning: str = "fading",
    ax: Axes | None = None,
) -> Axes:
    r"""Markov parameters as stems: what one unit of input does to the output later.

    $$h_0 = D, \qquad h_k = C A^{k-1} B$$

    Parameters
    ----------
    model : StateSpace
        In discrete time.
    count : int
        How many, `h[0]` included.
    input, output : int
        Which pair of an input and an output.
    meaning : str
        Whose colour, a key of `COLOURS`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is no such input, output or meaning, or `count` is less than 1.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.3.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> from realization.systems.models import StateSpace
    >>> ax = plot.impulse_response(StateSpace([[0.5]], [[1.0]], [[2.0]]), 4)
    >>> ax.lines[-1].get_ydata().tolist()
    [0.0, 2.0, 1.0, 0.5]
    """
    if count < 1:
        raise DataError(f"impulse_response: count={count} came; at least 1 is needed.")
    if not (0 <= input < model.n_inputs and 0 <= output < model.n_outputs):
        raise DataError(
            f"impulse_response: input {input} to output {output} was asked for; the model has "
            f"{model.n_inputs} inputs and {model.n_outputs} outputs, counted from 0."
        )
    colour = _colour(meaning)
    h = model.impulse_response(count)[:, output, input]
    time = np.arange(count) * (model.dt or 1.0)
    with style():
        ax = axes_of(ax, (7.0, 2.6))
        ax.axhline(0, color=COLOURS["baseline"], linewidth=1)
        ax.vlines(time, 0, h, color=colour, linewidth=float(np.clip(120 / count, 0.8, 2.2)))
        ax.plot(time, h, "o", color=colour, markersize=float(np.clip(250 / count, 1.5, 6)))
        ax.set(
            xlabel="time after the impulse, s" if model.dt else "samples after the impulse", ylabel="response"
        )
        if not model.dt:
            count_axis(ax)
    return ax


def memory(curves: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    r"""How much of an input is left in the state, against how long ago it came.

    Parameters
    ----------
    curves : mapping from meanings (keys of `COLOURS`) to array_like, shape (lags,)
        Entry `k - 1` belongs to $u_{t-k}$.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If a key is not a meaning, or nothing came.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> ax = plot.memory({"window": [1, 1, 0, 0], "fading": [1, 0.5, 0.25, 0.125]})
    >>> ax.patches[-1].get_data().values.tolist()
    [1.0, 0.5, 0.25, 0.125]
    """
    if not curves:
        raise DataError("memory: no curve came; give a mapping such as {'window': [1, 1, 0]}.")
    drawn = [(name, _colour(name), finite(values, name).ravel()) for name, values in curves.items()]
    with style():
        ax = axes_of(ax, (7.0, 2.8))
        for name, colour, values in drawn:
            _stairs(ax, np.arange(1, len(values) + 1), values, colour, name)
        ax.set(xlabel=r"lag $k$, samples ago", ylabel=r"memory of $u_{t-k}$", ylim=(0, None))
        ax.set_xlim(0.5, max(len(values) for *_, values in drawn) + 0.5)
        count_axis(ax)
        legend(ax)
    return ax


def memory_curve(
    curve: MemoryCurve,
    *,
    quantity: Literal["memory", "information", "fisher"] = "memory",
    window: bool = True,
    ax: Axes | None = None,
) -> Axes:
    r"""Memory curve of a model, beside that of a window with as many states.

    $$m_k = \operatorname{tr} R_k^T W^{-1} R_k, \qquad R_k = A^{k-1} B$$

    Parameters
    ----------
    curve : MemoryCurve
        What `rz.memory_curve` gave.
    quantity : {"memory", "information", "fisher"}
        Share of the variance that is left, mutual information, or Fisher memory. Infinite entries (an input
        that the state determines) are drawn as triangles at the upper edge.
    window : bool
        Draw the window of `n // m` inputs too; for `"memory"` alone, since the others are infinite in it.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If `quantity` is another one.

    References
    ----------
    S. Ganguli, D. Huh, H. Sompolinsky, *Memory traces in dynamical systems*, Proceedings of the National
    Academy of Sciences 105 (2008) 18970-18975.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization as rz
    >>> curve = rz.memory_curve(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), 3)
    >>> rz.plot.memory_curve(curve).get_legend().get_texts()[1].get_text()
    'this model (1 state, capacity 1)'
    """
    labels = {
        "memory": r"memory of $u_{t-k}$",
        "information": r"information on $u_{t-k}$, nats",
        "fisher": r"Fisher memory of $u_{t-k}$",
    }
    if quantity not in labels:
        raise DataError(f"memory_curve: quantity={quantity!r} came; it must be one of {', '.join(labels)}.")
    values, lags = getattr(curve, quantity), curve.lags
    finite_ones = np.isfinite(values)
    states = f"{curve.n_states} state{'' if curve.n_states == 1 else 's'}"
    with style():
        ax = axes_of(ax, (7.0, 2.8))
        if window and quantity == "memory":
            length = curve.n_states // curve.n_inputs
            _stairs(ax, lags, curve.window(), COLOURS["window"], f"window of {length}")
        shown = np.where(finite_ones, values, 0.0)
        _stairs(ax, lags, shown, COLOURS["fading"], f"this model ({states}, capacity {curve.capacity:.3g})")
        ax.set(xlabel=r"lag $k$, samples ago", ylabel=labels[quantity])
        ax.set_ylim(0, None if shown.any() else 1)
        if not finite_ones.all():
            ax.plot(
                lags[~finite_ones], np.full((~finite_ones).sum(), 0.96), "^", color=COLOURS["fading"],
                markersize=5, transform=ax.get_xaxis_transform(), label="infinite: determined",
            )  # fmt: skip
        ax.set_xlim(lags.min() - 0.5, lags.max() + 0.5)
        count_axis(ax)
        legend(ax)
    return ax


def _stairs(ax: Axes, lags: ArrayLike, values: Array, colour: str, label: str) -> None:
    """One step per lag, filled; lags that are not consecutive are drawn as far as half-way to the next."""
    places = np.asarray(lags, dtype=float)
    order = np.argsort(places)
    places, values = places[order], values[order]
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[places[0] - 0.5], middles, [places[-1] + 0.5]])
    ax.stairs(values, edges, fill=True, color=colour, alpha=0.1)
    ax.stairs(values, edges, color=colour, linewidth=2.2, label=label)


def _colour(meaning: str) -> str:
    if meaning not in COLOURS:
        raise DataError(f"{meaning!r} has no colour; the meanings are {', '.join(COLOURS)}.")
    return COLOURS[meaning]
