r"""Pictures of models: Hankel singular values, poles, impulse response, memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from realization.errors import DataError
from realization.plot.style import COLOURS, DASHED, axes_of, count_axis, finite, legend, style
from realization.systems.models import StateSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["hankel_singular_values", "impulse_response", "memory", "poles"]


def hankel_singular_values(hsv: ArrayLike, order: int | None = None, *, ax: Axes | None = None) -> Axes:
    r"""Hankel singular values on a logarithmic scale, those of the kept order in colour.

    $$\sigma_i = \sqrt{\lambda_i(W_c W_o)}$$

    Parameters
    ----------
    hsv : array_like, shape (n,)
        Largest first. Exact zeros are drawn at machine precision times the largest.
    order : int, optional
        How many are kept; all when left out.
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
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, section 5.4.

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
            legend(ax)
        ax.set(xlabel="state, by importance", ylabel="Hankel singular value", xlim=(0.4, len(values) + 0.6))
        count_axis(ax)
    return ax


def poles(model: StateSpace, *, ax: Axes | None = None) -> Axes:
    r"""Poles against the border of stability: the unit circle, or the imaginary axis in continuous time.

    $$\det(\lambda_i I - A) = 0$$

    Parameters
    ----------
    model : StateSpace
        With at least one state.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If the model has no state, hence no pole.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.6.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization.plot as plot
    >>> from realization.systems.models import StateSpace
    >>> ax = plot.poles(StateSpace([[0.5]], [[1.0]], [[1.0]]))
    >>> ax.lines[-1].get_xydata().tolist()
    [[0.5, 0.0]]
    """
    if model.n_states == 0:
        raise DataError("poles: the model has no state, hence no pole to draw.")
    values = model.poles
    reach = float(np.abs(values).max())
    with style():
        ax = axes_of(ax, (4.2, 4.2))
        ax.axhline(0, color="#e3e6ea", linewidth=1)
        ax.axvline(0, color="#e3e6ea", linewidth=1)
        if model.dt == 0:
            reach = 1.15 * reach if reach else 1.0
            ax.axvspan(-reach, 0, color=COLOURS["fading"], alpha=0.07, linewidth=0)
            ax.set(xlim=(-reach, max(0.25 * reach, 1.15 * values.real.max())), ylim=(-reach, reach))
            ax.text(-0.95 * reach, -0.95 * reach, "fades", va="bottom", color=COLOURS["fading"])
            ax.set(xlabel="real part, 1/s", ylabel="imaginary part, rad/s")
        else:
            reach = 1.12 * max(reach, 1.0)
            angle = np.linspace(0, 2 * np.pi, 361)
            ax.fill(np.cos(angle), np.sin(angle), color=COLOURS["fading"], alpha=0.07, linewidth=0)
            ax.plot(np.cos(angle), np.sin(angle), color=COLOURS["baseline"], linewidth=1.2)
            ax.text(reach, -reach, "inside: fades", ha="right", va="bottom", color=COLOURS["fading"])
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="real part", ylabel="imaginary part")
            ax.set(aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        ax.plot(values.real, values.imag, "x", color=COLOURS["fading"], markersize=8, markeredgewidth=2.2)
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
            edges = np.arange(len(values) + 1) + 0.5
            ax.stairs(values, edges, fill=True, color=colour, alpha=0.1)
            ax.stairs(values, edges, color=colour, linewidth=2.2, label=name)
        ax.set(xlabel=r"lag $k$, samples ago", ylabel=r"memory of $u_{t-k}$", ylim=(0, None))
        ax.set_xlim(0.5, max(len(values) for *_, values in drawn) + 0.5)
        count_axis(ax)
        legend(ax)
    return ax


def _colour(meaning: str) -> str:
    if meaning not in COLOURS:
        raise DataError(f"{meaning!r} has no colour; the meanings are {', '.join(COLOURS)}.")
    return COLOURS[meaning]
