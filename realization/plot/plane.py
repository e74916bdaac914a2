r"""The complex plane: poles and zeros against the border of stability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError
from realization.plot.style import COLOURS, LINES, axes_of, legend, named, style
from realization.systems import StateSpace, zeros

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["poles", "poles_zeros"]

Complex = NDArray[np.complex128]
GRID = "#e3e6ea"
FAR = 3.0
"""Zeros further out than so many times the poles (or the unit circle) are named, not drawn."""
DAMPING = (0.2, 0.4, 0.6, 0.8)


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
    with style():
        ax = _plane(axes_of(ax, (4.2, 4.2)), model.poles, model.dt == 0)
        _crosses(ax, model.poles, COLOURS["fading"])
    return ax


def poles_zeros(
    models: StateSpace | Mapping[str, StateSpace], *, damping: bool = False, ax: Axes | None = None
) -> Axes:
    r"""Poles (crosses) and zeros (circles) of one model or several, against the border of stability.

    $$\det(\lambda_i I - A) = 0, \qquad
    \operatorname{rank} \begin{bmatrix} A - z_j I & B \\ C & D \end{bmatrix} < \text{its rank elsewhere}$$

    Parameters
    ----------
    models : StateSpace, or a mapping from labels to such
        All in continuous time or all in discrete; at most four.
        Zeros beyond three times the poles' reach are named below the picture.
    damping : bool
        Draw lines of equal damping ratio, 0.2 to 0.8.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is nothing to draw, or the models' times differ.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, sections 2.6 and 6.5.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import realization as rz
    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, 0.2]], [[1.0], [1.0]], [[1.0, 0.0]])
    >>> ax = rz.plot.poles_zeros(model)
    >>> ax.lines[-1].get_xydata().round(6).tolist()  # the zero
    [[-0.8, 0.0]]
    """
    drawn = named(models, "poles_zeros")
    if len({model.dt == 0 for model in drawn.values()}) > 1:
        raise DataError("poles_zeros: the models are of continuous and of discrete time; draw them apart.")
    continuous = next(iter(drawn.values())).dt == 0
    points = {name: (model.poles, zeros(model)) for name, model in drawn.items()}
    if not any(part.size for pair in points.values() for part in pair):
        raise DataError("poles_zeros: there is neither a pole nor a zero to draw.")
    shown, far = _within_reach(points, continuous)
    with style():
        ax = _plane(axes_of(ax, (4.6, 4.6)), shown, continuous)
        if damping:
            _damping(ax, continuous)
        for (name, (p, z)), (meaning, _) in zip(points.items(), LINES):
            _crosses(ax, p, COLOURS[meaning], name)
            ax.plot(
                z.real, z.imag, "o", color=COLOURS[meaning], markersize=8, markerfacecolor="none",
                markeredgewidth=1.8,
            )  # fmt: skip
        if far:
            ax.set_title("beyond: zeros at " + ", ".join(far), fontsize=9, y=-0.24, loc="right")
        if isinstance(models, Mapping):
            legend(ax)
    return ax


def _within_reach(
    points: Mapping[str, tuple[Complex, Complex]], continuous: bool
) -> tuple[Complex, list[str]]:
    """All poles, and the zeros that do not shrink them to a dot; the other zeros in words."""
    p, z = (np.concatenate([pair[k] for pair in points.values()]) for k in (0, 1))
    reach = FAR * float(np.abs(p).max(initial=0.0 if continuous else 1.0))
    near = (np.abs(z) <= reach) if reach else np.ones(len(z), bool)
    words = [f"{v.real:.3g}" if not v.imag else f"{v.real:.3g}{v.imag:+.3g}i" for v in z[~near]]
    return np.concatenate([p, z[near]]), list(dict.fromkeys(words))


def _crosses(ax: Axes, values: Complex, colour: str, name: str | None = None) -> None:
    ax.plot(values.real, values.imag, "x", color=colour, markersize=8, markeredgewidth=2.2, label=name)


def _plane(ax: Axes, values: Complex, continuous: bool) -> Axes:
    """Axes with the region in which modes fade, wide enough for all values."""
    reach = float(np.abs(values).max())
    ax.axhline(0, color=GRID, linewidth=1)
    ax.axvline(0, color=GRID, linewidth=1)
    if continuous:
        reach = 1.15 * reach if reach else 1.0
        right = max(0.25 * reach, 1.15 * float(values.real.max()))
        ax.axvspan(-reach, 0, color=COLOURS["fading"], alpha=0.07, linewidth=0)
        ax.axvline(0, color=COLOURS["baseline"], linewidth=1.2)
        ax.text(-0.95 * reach, -0.95 * reach, "fades", va="bottom", color=COLOURS["fading"])
        ax.set(xlim=(-reach, right), ylim=(-reach, reach))
        ax.set(xlabel="real part, 1/s", ylabel="imaginary part, rad/s")
        return ax
    reach = 1.12 * max(reach, 1.0)
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.fill(np.cos(angle), np.sin(angle), color=COLOURS["fading"], alpha=0.07, linewidth=0)
    ax.plot(np.cos(angle), np.sin(angle), color=COLOURS["baseline"], linewidth=1.2)
    ax.text(reach, -reach, "inside: fades", ha="right", va="bottom", color=COLOURS["fading"])
    whole: Any = np.arange(np.ceil(-reach), np.floor(reach) + 1)
    ticks = whole if len(whole) <= 7 else np.array([-1, 0, 1])
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="real part", ylabel="imaginary part")
    ax.set(aspect="equal", xticks=ticks, yticks=ticks)
    return ax


def _damping(ax: Axes, continuous: bool) -> None:
    r"""Lines $s = \omega (-\zeta \pm i \sqrt{1 - \zeta^2})$, in discrete time their images $z = e^s$."""
    (left, _), (_, top) = ax.get_xlim(), ax.get_ylim()
    for ratio in DAMPING:
        direction = complex(-ratio, np.sqrt(1 - ratio**2))
        if continuous:
            line: Any = direction * np.linspace(0, min(-left / ratio, top / direction.imag), 2)
        else:
            line = np.exp(direction * np.linspace(0, np.pi / direction.imag, 200))
        for half in (line, line.conj()):
            ax.plot(half.real, half.imag, color=GRID, linewidth=0.9, zorder=0.9)
        where = line[len(line) // 2] if not continuous else 0.93 * line[-1]
        ax.text(
            where.real, where.imag, f"{ratio:g}", fontsize=8, color=COLOURS["baseline"], ha="center",
            va="center", zorder=0.95, bbox={"facecolor": "#eef6f2", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
