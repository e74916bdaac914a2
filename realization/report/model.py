r"""The page about an identified model: what it is, how well it does, what it could not predict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from realization import plot
from realization.errors import RankError, ShapeError
from realization.filtering.innovations import Innovations, innovations, whiteness_test
from realization.filtering.reconstruction import reconstruct, reconstruction_curve
from realization.filtering.selection import Selection, select_innovations
from realization.identification.validation import fit_percent
from realization.report.baselines import autoregression, persistence
from realization.report.page import Picture, Section, Table, figure_png, page
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["model_report"]

DRAWN_OUTPUTS = 4
DRAWN_SAMPLES = 300
REBUILT_SAMPLES = 5000
CERTAIN = 3.3  # standard errors of a mean; chance exceeds them once in a thousand

ONE_STEP, SIMULATED = "model, one step ahead", "model, from the inputs alone"
RULES = ("autoregression", "the value before")

Array = NDArray[np.float64]


def model_report(
    model: InnovationsModel,
    train: IOData,
    test: IOData,
    *,
    name: str,
    method: str = "",
    keep: int = 16,
    notes: Sequence[str] = (),
    footer: str = "",
) -> str:
    """HTML page about a model, judged on samples that it was not made from.

    Parameters
    ----------
    model : InnovationsModel
        In discrete time.
    train : IOData
        What came before `test`; the baselines learn from it.
    test : IOData
        The held-back samples that follow `train` at once.
    name : str
        What the record is called.
    method : str, optional
        How the model was found.
    keep : int
        How many of the samples that could not be predicted are kept.
    notes : sequence of str, optional
        What was doubtful.
    footer : str, optional
        Where the page came from.

    Returns
    -------
    str
        A self-contained HTML file (`page`).

    Raises
    ------
    ShapeError
        If the records do not fit the model.
    DataError
        If a held-back output is constant.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import numpy as np, realization as rz
    >>> from realization.report import model_report
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(200))
    >>> text = model_report(model, *rz.IOData(y).split(0.5), name="noise")
    >>> text.startswith("<!doctype html>")
    True
    """
    if (train.n_outputs, train.n_inputs) != (test.n_outputs, test.n_inputs):
        raise ShapeError(
            "model_report: train and test have different channels; they are two parts of one record."
        )
    fits = _fits(model, train, test)
    one_step, baseline = fits[ONE_STEP].mean(), max(fits[rule].mean() for rule in RULES)
    lead = (
        f"A model with **{_count(model.n_states, 'state')}** predicts what was held back, one step ahead, to "
        f"**{one_step:.1f} %** of its spread; the best simple rule reaches {baseline:.1f} %."
    )
    if one_step < baseline:
        lead += " The model does **worse than the rule**: it is not to be trusted."
    keys = [(f"{one_step:.1f} %", "fit one step ahead, held back")]
    if SIMULATED in fits:
        lead += f" From the inputs alone it explains {fits[SIMULATED].mean():.1f} %."
        keys.append((f"{fits[SIMULATED].mean():.1f} %", "fit from the inputs alone, held back"))
    surprise, white = _surprise(model, test, keep)
    verdict = {True: "yes", False: "no", None: "–"}[white]
    keys += [(str(model.n_states), "states"), (verdict, "innovations white?")]
    sections = [_what(model, train, test, method), _how_well(model, test, fits), _memory(model), *surprise]
    if notes:
        sections.append(Section("What was doubtful", "\n".join(f"- {note}" for note in notes)))
    return page(f"{name}: what the model knows", lead, sections, key_figures=keys, footer=footer)


def _fits(model: InnovationsModel, train: IOData, test: IOData) -> dict[str, Array]:
    curves = {ONE_STEP: model.predict(test)}
    if test.n_inputs:
        curves[SIMULATED] = model.simulate(test.u, model.estimate_x0(test))
    curves |= dict(zip(RULES, (autoregression(train, test), persistence(train, test))))
    return {label: fit_percent(test.y, curve) for label, curve in curves.items()}


def _what(model: InnovationsModel, train: IOData, test: IOData, method: str) -> Section:
    rows = [
        ["outputs", ", ".join(test.output_labels)],
        ["inputs", ", ".join(test.input_labels) or "none (a time series)"],
        ["samples to learn from", str(train.length)],
        ["samples held back", str(test.length)],
        ["step", "unnamed" if test.dt is None else f"{test.dt:g} s"],
        ["states", str(model.n_states)],
        ["stable", "yes" if model.is_stable else "no"],
    ]
    rows += [["method", method]] if method else []
    text = (
        "The model is in innovations form: a state that the inputs and the innovations drive, and outputs "
        "that are read from it. An innovation is the part of a sample that the past did not predict."
    )
    return Section("What was identified", text, table=Table(["", ""], rows))


def _how_well(model: InnovationsModel, test: IOData, fits: dict[str, Array]) -> Section:
    header = ["fit, %", *test.output_names] + (["mean"] if test.n_outputs > 1 else [])
    rows = [
        [label, *(f"{x:.1f}" for x in (*fit, *([fit.mean()] if test.n_outputs > 1 else [])))]
        for label, fit in fits.items()
    ]
    shown = test[: min(DRAWN_SAMPLES, test.length)]
    curves = {"one step": model.predict(test)[: shown.length]}
    if test.n_inputs:
        curves["inputs alone"] = model.simulate(test.u, model.estimate_x0(test))[: shown.length]
    figures = []
    for output, label in enumerate(test.output_names[:DRAWN_OUTPUTS]):
        ax = plot.fit(shown, curves, output=output)
        caption = f"**{label}**, held back: measured (grey), and what the model says of it."
        if shown.length < test.length:
            caption += (
                f" The first {shown.length} of {test.length} samples; the fits in the legend are theirs."
            )
        figures.append(_picture(ax, caption, f"Measured {label} and the model's prediction of it over time"))
    text = (
        "100 % would be exact, 0 % is no better than the mean. All are judged on the held-back samples, "
        "which none has seen. *One step ahead* may use every output up to the sample before; *from the "
        "inputs alone* may use no output but for the first state. A model is worth its name where it beats "
        "the two simple rules below it."
    )
    if test.n_outputs > DRAWN_OUTPUTS:
        text += f" The pictures show the first {DRAWN_OUTPUTS} of {test.n_outputs} outputs."
    return Section("How well it does", text, figures, Table(header, rows))


def _memory(model: InnovationsModel) -> Section:
    if model.n_states == 0:
        return Section("What the state remembers", "The model has no state: it remembers nothing.")
    slowest = float(np.abs(model.poles[0]))
    if slowest >= 1:
        text = (
            "A pole lies on or outside the unit circle: this memory does not fade, and what it says can grow."
        )
    elif slowest < 1e-12:
        text = "All poles are at 0: a window, which forgets after as many samples as there are states."
    else:
        half = math.log(0.5) / math.log(slowest)
        time = f"{float(f'{half:.3g}'):g} samples" + (f" ({_duration(half * model.dt)})" if model.dt else "")
        text = f"The memory fades. What lasts longest loses half of itself in {time}."
    caption = "Poles. Near the circle a mode lasts long; off the horizontal axis it swings."
    figure = _picture(
        plot.poles(model), caption, "Poles of the model in the complex plane and the unit circle"
    )
    return Section("What the state remembers", text, [figure])


def _surprise(model: InnovationsModel, test: IOData, keep: int) -> tuple[list[Section], bool | None]:
    heading = "What it could not predict"
    try:
        found = innovations(model, test)
    except RankError:
        text = "The model leaves no noise in some direction of the outputs: nothing can surprise it there."
        return [Section(heading, text)], None
    stretch = test[: min(test.length, REBUILT_SAMPLES)]
    selection = select_innovations(model, stretch, budget=min(keep, stretch.length))
    ax = plot.innovations(found.e[: stretch.length], found.Re, kept=selection.index, dt=test.dt)
    caption = (
        f"How surprising each held-back sample was. The {len(selection.index)} most surprising are kept. "
        "By chance alone one in a hundred passes the dashed line."
    )
    figures = [
        _picture(ax, caption, "Normalized squared innovations over time, with the kept samples marked")
    ]
    over = float((found.normalized_squared > found.threshold(0.01)).mean())
    verdict, white, correlations = _whiteness(found, test)
    text = f"{100 * over:.1f} % of the held-back samples pass the 1 % line. {verdict}"
    return [Section(heading, text, [*figures, *correlations]), _kept(model, stretch, selection)], white


def _whiteness(found: Innovations, test: IOData) -> tuple[str, bool | None, list[Picture]]:
    if test.length < 16 or not (found.e.std(axis=0) > 0).all():
        return "There are too few samples to test whether they are white.", None, []
    result = whiteness_test(found.e, u=test.u)
    if not result.is_white:
        verdict = "The innovations are **not white**: something predictable is left in them"
    elif result.is_independent is False:
        verdict = (
            "The innovations are **white**, but they still follow the inputs, which the model should explain"
        )
    else:
        verdict = (
            "The innovations are **white**: none helps to predict the next, so the model took what there was"
        )
    deviation = found.e - found.e.mean(axis=0)
    ax = plot.autocorrelation(deviation[:, 0], lags=len(result.autocorrelations) - 1)
    caption = (
        f"Innovations of {test.output_names[0]}: autocorrelation. White ones leave the band at 1 lag in 20."
    )
    picture = _picture(ax, caption, "Autocorrelation of the innovations with the band of white noise")
    verdict += f" (p = {result.p_value:.2g})."
    offset = np.abs(found.e.mean(axis=0)) * np.sqrt(test.length) / deviation.std(axis=0)
    if offset.max() > CERTAIN:
        drifted = ", ".join(name for name, z in zip(test.output_names, offset) if z > CERTAIN)
        verdict += f" Their mean is not zero ({drifted}): the level is not where the model has it."
    return verdict, result.is_white, [picture]


def _kept(model: InnovationsModel, stretch: IOData, selection: Selection) -> Section:
    alone = reconstruct(model, stretch, select_innovations(model, stretch, budget=0))
    rebuilt = reconstruct(model, stretch, selection)
    ax = plot.reconstruction(stretch, rebuilt.y, kept=selection.index, without=alone.y)
    known = "the first and last state, the inputs" if stretch.n_inputs else "the first and last state"
    caption = f"**{stretch.output_names[0]}**, rebuilt from {known} and what was kept."
    alt = "The record, its reconstruction from the state alone and with the kept samples"
    budgets = sorted(
        {min(size, stretch.length) for size in (0, selection.budget, 4 * selection.budget, 10**9)}
    )
    curve = reconstruction_curve(model, stretch, budgets)
    told = 100 * (1 - curve.error / curve.error[0]) if curve.error[0] > 0 else np.zeros(len(curve.error))
    rows = [
        [str(m), str(size), f"{share:.1f}", f"{fit.mean():.1f}"]
        for m, size, share, fit in zip(curve.budget, curve.floats, told, curve.fit)
    ]
    text = (
        "A state of fixed size and all innovations give back the record exactly; with some of them it gives "
        "back a part. What is worth a place is what could not be predicted. "
        f"The record itself is {stretch.length * stretch.n_outputs} numbers."
    )
    if (np.diff(curve.fit.mean(axis=1)) < -0.05).any():
        text += (
            " Places are given by surprise, which each of them lessens; the fit of the outputs may fall all "
            "the same, since the model carries what it is told through all later samples."
        )
    table = Table(["samples kept", "numbers stored", "surprise told, %", "fit, %"], rows)
    return Section("What is worth keeping", text, [_picture(ax, caption, alt)], table)


def _picture(ax, caption: str, alt: str) -> Picture:
    import matplotlib.pyplot as plt

    picture = Picture(figure_png(ax.figure), caption, alt)
    plt.close(ax.figure)
    return picture


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
