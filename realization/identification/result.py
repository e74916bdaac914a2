"""What an identification found, and its page of plain text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realization.errors import RealizationError
from realization.identification.candidates import Stretch
from realization.identification.factorization import factorize, scale
from realization.identification.residuals import ResidualTests, residual_tests
from realization.identification.uncertainty import Uncertainty, uncertainty
from realization.notes import collected
from realization.signals.data import IOData
from realization.signals.gaps import gap_free
from realization.signals.inspection import DataInspection
from realization.systems.models import InnovationsModel

__all__ = ["Candidate", "Identification"]

SHOWN = 10

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that was tried, judged on the held-back parts of the record.

    Attributes
    ----------
    method : str
    order : int
    simulation, prediction : float
        Fit in percent, mean over outputs and held-back parts; NaN for the simulation of a record without
        inputs.
    score : float
        What the choice is made by: the mean of the two, each output's fit counted as at least -100 and
        corrected for the states that are fitted to the held-back part.

    Examples
    --------
    >>> from realization.identification import Candidate
    >>> Candidate("CVA, simulation", 4, simulation=85.0, prediction=95.0, score=90.0).order
    4
    """

    method: str
    order: int
    simulation: float
    prediction: float
    score: float


@dataclass(frozen=True, eq=False)
class Identification:
    """Result of `identify`.

    Attributes
    ----------
    model : InnovationsModel
        Estimated from the whole record.
    order : int
    method : str
        How the model was made.
    candidates : tuple of Candidate
        Everything that was tried, best first.
    simulation_fit, prediction_fit : ndarray, shape (p,)
        Fits on the held-back parts, in percent of the spread over the whole record, by the chosen method on
        the rest of the record; NaN for the simulation of a record without inputs.
    notes : tuple of str
        What was doubtful; each was issued as a warning too.
    data : IOData
        The record.
    inspection : DataInspection
        What a look at the record found before anything was estimated.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import identify
    >>> u = np.random.default_rng(0).standard_normal(300)
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u)
    >>> fit = identify(rz.IOData(y, u))
    >>> fit.order, fit.report().splitlines()[0]
    (1, 'Identification')
    """

    model: InnovationsModel
    order: int
    method: str
    candidates: tuple[Candidate, ...]
    simulation_fit: Array
    prediction_fit: Array
    notes: tuple[str, ...]
    data: IOData
    inspection: DataInspection

    @cached_property
    def singular_values(self) -> Array:
        """Canonical correlations of the record's past and future, largest first; empty if it is too short."""
        scaled = scale(gap_free(self.data), "identify")
        rows = Stretch(scaled, feedthrough=True, stable=True).rows(True)
        if rows < 2:
            return np.zeros(0)
        with collected():
            return factorize(scaled, rows, "identify").subspace("cva")[1]

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """Covariance of the parameters with bands of the frequency response and the poles.

        It is that of a prediction-error model of this order; the model comes near to one where the
        residuals are white.

        Raises
        ------
        DataError
            If the record has no more values than the model parameters.
        """
        return uncertainty(self.model, self.data)

    @cached_property
    def residuals(self) -> ResidualTests:
        """Whiteness of the one-step residuals on the record, and their correlation with the inputs."""
        return residual_tests(self.model, self.data)

    def save_report(self, path: str | Path) -> Path:
        """Write a self-contained HTML page with tables and pictures.

        Parameters
        ----------
        path : str or Path
        """
        from realization.files import write_atomically
        from realization.report.identification import identification_report

        place = Path(path)
        write_atomically(place, identification_report(self))
        return place

    def report(self) -> str:
        """A page of plain text: data, choice, candidates, poles, fits, whiteness."""
        return _summary(self)


def _summary(fit: Identification) -> str:
    """Data, choice, fits, poles, whiteness, candidates and notes, in 80 columns or a little more."""
    parts = [
        "Identification\n==============",
        _facts(fit),
        _seen(fit),
        _fits(fit),
        _poles(fit),
        _whiteness(fit),
        _candidates(fit),
    ]
    if fit.notes:
        notes = [textwrap.fill(f"- {note}", 96, subsequent_indent="  ") for note in fit.notes]
        parts.append("Doubtful\n--------\n" + "\n".join(notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(fit: Identification) -> str:
    data = fit.data
    step = "unit step" if data.dt is None else f"{data.dt:g} s between samples"
    rows = [
        ("Record", f"{data.length} samples, {step}"),
        ("Inputs", ", ".join(data.input_names) or "none (a time series)"),
        ("Outputs", ", ".join(data.output_names)),
        ("Method", fit.method),
        ("Order", f"{fit.order} ({'stable' if fit.model.is_stable else 'unstable'})"),
    ]
    return "\n".join(f"{name:<9}{value}" for name, value in rows)


def _seen(fit: Identification) -> str:
    """Findings of the inspection, a line each."""
    found = fit.inspection.findings
    lines = ["A look at the record", "--------------------"]
    for item in found:
        evidence = ", ".join(f"{name} {value:.4g}" for name, value in item.evidence.items())
        lines += textwrap.wrap(f"{item.kind} {item.column}: {evidence}", 96, subsequent_indent="    ")
    if not found:
        lines.append("nothing was found that would spoil an estimate")
    lines.append("print(fit.inspection) says what follows and what to do" if found else "")
    return "\n".join(lines).rstrip()


def _fits(fit: Identification) -> str:
    lines = [
        "Fit on held-back parts, % of the spread over the record",
        "------------------------------------------------------",
        f"{'output':<20}{'simulation':>12}{'one step':>12}",
    ]
    for name, simulation, prediction in zip(fit.data.output_names, fit.simulation_fit, fit.prediction_fit):
        lines.append(f"{name:<20}{_number(simulation, 2):>12}{_number(prediction, 2):>12}")
    return "\n".join(lines)


def _poles(fit: Identification) -> str:
    model = fit.model
    step, unit = (1.0, "samples") if model.dt is None else (model.dt, "s")
    head = f"{'pole':<24}{'modulus':>10}{'time constant':>18}{'period':>16}"
    lines = [f"Poles (time in {unit})", "-----", head]
    upper = [pole for pole in model.poles if pole.imag >= 0]
    for pole in upper[:SHOWN]:
        modulus, angle = abs(pole), abs(np.angle(pole))
        lasting = -step / np.log(modulus) if 0 < modulus < 1 else (np.inf if modulus >= 1 else 0.0)
        period = 2 * np.pi * step / angle if angle > 1e-12 else np.inf
        value = f"{pole.real:.4f}" + (f" ± {pole.imag:.4f}i" if pole.imag > 0 else "")
        lines.append(f"{value:<24}{modulus:>10.4f}{_number(lasting, 4):>18}{_number(period, 4):>16}")
    if len(upper) > SHOWN:
        lines.append(f"and {len(upper) - SHOWN} more, all faster")
    return "\n".join(lines) if upper else ""


def _whiteness(fit: Identification) -> str:
    try:
        with collected():
            tests = residual_tests(fit.model, fit.data)
            test = tests.whiteness
    except RealizationError as error:
        return f"Innovations\n-----------\nnot tested: {error}"
    outside = np.abs(test.autocorrelations[1:]) > test.bound
    verdict = "white" if test.is_white else "not white"
    lines = [
        "Innovations on the record",
        "-------------------------",
        f"{verdict} at level {test.alpha:g} (p = {test.p_value:.3g}); {100 * outside.mean():.1f} % of the "
        f"autocorrelations lie outside ±{test.bound:.3f}",
    ]
    if fit.data.n_inputs:
        least, after = float(tests.dynamics.min()), float(tests.feedback.min())
        count = tests.dynamics.size
        # The least of several probabilities: each is asked for its share of the level.
        seen = "correlated with" if least < test.alpha / count else "independent of"
        lines.append(f"{seen} the inputs before them (least p = {least:.3g})")
        if after < test.alpha / count:
            lines.append(f"correlated with later inputs (least p = {after:.3g}): there is feedback")
    return "\n".join(lines)


def _candidates(fit: Identification) -> str:
    lines = [
        f"Candidates, the best {min(SHOWN, len(fit.candidates))} of {len(fit.candidates)} (% on "
        f"held-back parts)",
        "----------",
        f"{'method':<66}{'order':>6}{'simulation':>12}{'one step':>10}{'score':>8}",
    ]
    for row in fit.candidates[:SHOWN]:
        lines.append(
            f"{row.method:<66}{row.order:>6}{_number(row.simulation, 2):>12}{_number(row.prediction, 2):>10}"
            f"{row.score:>8.2f}"
        )
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞"
    return f"{value:.{digits}f}" if digits == 2 else f"{value:.{digits}g}"
