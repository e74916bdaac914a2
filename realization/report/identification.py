"""The page about an identification: what was tried, what was chosen, how sure it is, what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from realization import plot
from realization.errors import RealizationError
from realization.identification.result import Identification
from realization.notes import collected
from realization.report.page import Picture, Section, Table, figure_png, page
from realization.signals.gaps import gap_free

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["identification_report"]

DRAWN_SAMPLES = 300
DRAWN_OUTPUTS = 4
FREQUENCIES = 200
LISTED = 10


def identification_report(fit: Identification) -> str:
    """HTML page about an identification.

    Parameters
    ----------
    fit : Identification

    Returns
    -------
    str
        A self-contained HTML file (`page`).
    """
    one_step = f"{fit.prediction_fit.mean():.1f} %"
    lead = f"**{fit.method}**, {fit.order} states: {one_step} one step ahead on parts that were held back."
    keys = [(str(fit.order), "states"), (one_step, "one step ahead, held back")]
    if fit.data.n_inputs:
        keys.append((f"{fit.simulation_fit.mean():.1f} %", "from the inputs alone, held back"))
    sections = [_inspection(fit), _ranking(fit), _record(fit), _poles(fit)]
    if fit.data.n_inputs:
        sections.append(_response(fit))
    sections.append(_residuals(fit))
    if fit.notes:
        sections.append(Section("Doubtful", "\n".join(f"- {note}" for note in fit.notes)))
    return page("Identification", lead, sections, key_figures=keys)


def _inspection(fit: Identification) -> Section:
    rows = [
        [item.kind, item.column, ", ".join(_evidence(*pair) for pair in item.evidence.items())]
        for item in fit.inspection.findings
    ]
    if not rows:
        return Section("The record, before anything was estimated", "Nothing was found that would spoil it.")
    meanings = dict.fromkeys(
        f"- **{item.kind}**: {item.meaning} {item.remedy}" for item in fit.inspection.findings
    )
    table = Table(["finding", "column", "evidence"], rows)
    return Section("The record, before anything was estimated", "\n".join(meanings), table=table)


def _ranking(fit: Identification) -> Section:
    rows = [
        [
            row.method,
            row.order,
            None if np.isnan(row.simulation) else f"{row.simulation:.2f}",
            f"{row.prediction:.2f}",
            f"{row.score:.2f}",
        ]
        for row in fit.candidates[:LISTED]
    ]
    text = (
        f"The best {len(rows)} of {len(fit.candidates)} models, estimated on a part of the record and judged "
        "on the rest, in percent of the spread over the whole record. The mean of the best paths with "
        "integrated noise is taken unless another is better by three spreads over the blocks; then, of those "
        "that lose at most 1 percent of what is missing (with two spreads to spare), the one of the lowest "
        "order."
    )
    table = Table(["method", "order", "inputs alone, %", "one step, %", "score"], rows)
    return Section("What was tried", text, table=table)


def _record(fit: Identification) -> Section:
    data, model = max(gap_free(fit.data).experiments, key=lambda part: part.length), fit.model
    shown = data[: min(DRAWN_SAMPLES, data.length)]
    curves = {"one step": model.predict(data)[: shown.length]}
    if data.n_inputs and model.is_stable:
        curves["inputs alone"] = model.simulate(data.u, model.estimate_x0(data))[: shown.length]
    figures = [
        _picture(
            plot.fit(shown, curves, output=k), f"**{name}**: measured and modelled.", f"{name} over time"
        )
        for k, name in enumerate(data.output_names[:DRAWN_OUTPUTS])
    ]
    text = "The model on the record that it was estimated from: the fits in the legends are not held back."
    if data.length < fit.data.length:
        text += " Shown is the longest stretch without a gap."
    return Section("The record", text, figures)


def _poles(fit: Identification) -> Section:
    if not fit.model.n_states:
        return Section("Poles", "The model has no state.")
    figure = _picture(plot.poles(fit.model), "Poles.", "Poles in the complex plane and the unit circle")
    try:
        bands = fit.uncertainty.poles()
    except (RealizationError, np.linalg.LinAlgError) as error:
        return Section("Poles", f"No bands: {error}", [figure])
    errors = np.sqrt(np.maximum(bands.covariance[:, [0, 1], [0, 1]], 0.0))
    rows = [
        [_pole(pole), f"{abs(pole):.4f}", float(error[0]), float(error[1]) if pole.imag else None]
        for pole, error in zip(bands.poles, errors)
        if pole.imag >= 0
    ]
    header = ["pole", "modulus", "error, real part", "error, imaginary part"]
    text = (
        "Errors are the standard ones of a prediction-error model of this order. Where they are large, poles "
        "nearly cancel zeros: what they do together is known better than each alone."
    )
    if len(rows) > LISTED:
        text += f" The {LISTED} slowest of {len(rows)} are listed, a pair counted once."
    return Section("Poles", text, [figure], Table(header, rows[:LISTED]))


def _response(fit: Identification) -> Section:
    """Bode plots with bands, of every input in turn to the first outputs."""
    data, model = fit.data, fit.model
    omega = np.geomspace(1e-3, 0.99, FREQUENCIES) * np.pi / (1.0 if model.dt is None else model.dt)
    try:
        bands = fit.uncertainty.frequency_response(omega)
        text = "Bands hold the response with 95 % probability at each frequency."
    except (RealizationError, np.linalg.LinAlgError) as error:
        bands, text = None, f"No bands: {error}"
    pairs = [(k, j) for k in range(data.n_outputs) for j in range(data.n_inputs)]
    figures = [
        _picture(
            plot.bode(model, omega, bands=bands, input=j, output=k)[0],
            f"From **{data.input_names[j]}** to **{data.output_names[k]}**.",
            f"Bode plot from {data.input_names[j]} to {data.output_names[k]}",
        )
        for k, j in pairs[:DRAWN_OUTPUTS]
    ]
    if len(pairs) > DRAWN_OUTPUTS:
        text += f" The first {DRAWN_OUTPUTS} of {len(pairs)} paths are drawn."
    return Section("Frequency response", text, figures)


def _residuals(fit: Identification) -> Section:
    try:
        with collected():
            tests = fit.residuals
    except RealizationError as error:
        return Section("Residuals", f"Not tested: {error}")
    verdict = "white" if tests.whiteness.is_white else "**not white**"
    text = f"One-step residuals on the record are {verdict} (p = {tests.whiteness.p_value:.2g})."
    deviation = tests.residuals - tests.residuals.mean(axis=0)
    lags = len(tests.whiteness.autocorrelations) - 1
    figures = [
        _picture(
            plot.autocorrelation(deviation, lags=lags, output=k),
            f"Autocorrelation of the residual of {name}.",
            f"Autocorrelation of the residual of {name} with the band of white noise",
        )
        for k, name in enumerate(fit.data.output_names[:DRAWN_OUTPUTS])
    ]
    rows = [
        [output, source, float(tests.dynamics[i, j]), float(tests.feedback[i, j])]
        for i, output in enumerate(fit.data.output_names)
        for j, source in enumerate(fit.data.input_names)
    ]
    if not rows:
        return Section("Residuals", text, figures)
    text += (
        " A small probability at earlier inputs says that the path misses something; at later ones, feedback."
    )
    table = Table(["output", "input", "p, inputs before", "p, inputs after"], rows)
    return Section("Residuals", text, figures, table)


def _evidence(name: str, value: float) -> str:
    # A probability below the smallest number is not zero.
    return "p < 1e-300" if name == "p" and value < 1e-300 else f"{name} {value:.4g}"


def _pole(pole: complex) -> str:
    text = f"{pole.real:.4f} ± {pole.imag:.4f}i" if pole.imag else f"{pole.real:.4f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _picture(ax: Axes, caption: str, alt: str) -> Picture:
    import matplotlib.pyplot as plt

    picture = Picture(figure_png(ax.figure), caption, alt)  # pyright: ignore[reportArgumentType]
    plt.close(ax.figure)  # pyright: ignore[reportArgumentType]
    return picture
