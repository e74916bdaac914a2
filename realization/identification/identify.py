"""One call from a record to a model: many candidates, judged on what they were not fitted to."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import (
    DataError,
    ExcitationError,
    ExcitationWarning,
    RealizationError,
    RealizationWarning,
    StabilityWarning,
)
from realization.identification.contest import Contest, Focus, Gapped, Judged, Task
from realization.identification.delays import input_delays
from realization.identification.factorization import Scaling, scale
from realization.identification.realization import Realization, unscaled
from realization.identification.result import Candidate, Identification
from realization.identification.subspace_start import filled_record
from realization.notes import collected, warn
from realization.progress import Progress
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.signals.inspection import inspect_data
from realization.signals.spans import complete_rows, complete_stretches
from realization.systems.gramians import hankel_singular_values
from realization.systems.models import InnovationsModel
from realization.systems.reduction import balanced_truncation

__all__ = ["identify"]

Stability = bool | Literal["auto"]
FEWEST_SAMPLES = 12
# Samples of a stretch without a gap that is long enough for windows of its own.
LONG_STRETCH = 50
NEGLIGIBLE = 1e-10


def identify(
    data: IOData | ArrayLike,
    *,
    order: int | None = None,
    max_order: int | None = None,
    feedthrough: bool = True,
    stable: Stability = "auto",
    focus: Focus = "both",
    delay: Literal["auto"] | None = "auto",
    progress: bool | None = None,
) -> Identification:
    r"""Identify a model in one call.

    The record is looked at first (`inspect_data`). Subspace models of both weightings and many orders, their
    refinements by prediction error, closed-loop subspace models where there is feedback, and autoregressive
    models of many lags, plain and with a kernel prior, are estimated on a part of the record and judged on
    the rest by the mean of their simulation and one-step fits; so are their combinations with noise models of
    their own,

    $$y = G u + H e,$$

    the mean of the best paths $G$ with each noise model, noise alone, and the mean of the best predictors.
    With inputs, the mean of the eight best paths with an integrated noise model stands unless another is
    better by three times the spread of its gain over the blocks of the held-back parts; then the candidate of
    lowest order is taken among those that lose, with two spreads to spare, at most 1 percent of what the best
    leaves unexplained. It is estimated again from the whole record and brought by balanced truncation to the
    lowest order (at most 40 states unless `max_order` says otherwise) that costs at most 0.1 percent of the
    fit on the record and on the held-back parts (of records with more than 400 samples, 1 percent of what is
    left unexplained). Fewer states, at most 12, are enough where, refined by prediction error, they leave
    nothing to explain (residuals white and uncorrelated with past inputs, at 1 percent) and lose on the
    held-back parts, beyond one spread, no more than 1 percent of what is left unexplained. Otherwise the gain
    is refined where the same refinement helps on the held-back parts.

    Of a record with missing outputs the stretches without a gap count as experiments where they are long
    (50 samples, in the mean over samples); else gaps are filled by the smoother of a subspace model for a
    start. In the end the gain, or all of the model, is refined by the likelihood of what was measured, where
    that helps on the held-back parts.

    Parameters
    ----------
    data : IOData
        Output-only records are taken too, and are judged by one-step fits alone. Experiments are kept apart;
        outputs may be missing.
    order : int, optional
        States of the model; chosen when left out.
    max_order : int, optional
        Highest order of the result.
    feedthrough : bool
        Whether an input may act on the outputs at once.
    stable : bool or "auto"
        `True` returns a stable model in any case, with a warning where the estimate was not; `False` leaves
        poles where they are. `"auto"` keeps the model stable unless unstable ones predict the held-back parts
        no worse and their outermost pole is outside the unit circle by three standard deviations; a warning
        says so.
    focus : {"both", "prediction", "simulation"}
        Which fits on the held-back parts the choice is made by; a record without inputs has no simulation.
    delay : "auto" or None
        `"auto"` tries the best paths behind the dead times that `input_delays` finds, too; `None` does not.
        Without them, states of the model hold what is on its way.
    progress : bool, optional
        Show a bar; when left out, on a terminal.

    Returns
    -------
    Identification

    Raises
    ------
    ExcitationError
        If the record is too short.
    DataError
        If a column is constant, or an option is out of range.

    Warns
    -----
    ExcitationWarning
        If the inputs excite the record poorly.
    StabilityWarning
        If poles were moved, or the model is unstable.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, chapters 10 and 16.
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996.
    J. M. Bates, C. W. J. Granger, The combination of forecasts, Operational Research Quarterly 20 (1969)
    451-468.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import identify
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal(500)
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((500, 1))
    >>> identify(rz.IOData(y, u), order=1).model.poles.real.round(2)
    array([0.8])
    """
    record = as_data(data, missing=True, experiments=True)
    _check_options(record, order, max_order, focus, stable, delay)
    inspection = inspect_data(record)
    whole, rows = _without_gaps(record)
    scaled = scale(whole, "identify")
    gapped = None if record.observed.all() else Gapped(_in_units_of(scaled, record), rows)
    with collected() as caught, Progress("identify", shown=progress) as bar:
        task = Task(
            scaled, order, max_order, feedthrough, focus, bool(inspection.of("feedback")), bar, gapped
        )
        contest = Contest(task, stable=stable is not False)
        contest.run()
        loose = contest.unstable() if stable == "auto" else None
        contest = contest if loose is None else loose
        chosen, found = contest.winner()
    model = _in_balanced_coordinates(unscaled(gapped.scaled if gapped else scaled, found, record.dt))
    notes = _notes(found, model, stable, [text for kind, text in caught if kind is ExcitationWarning])
    for kind, text in notes:
        warn(text, kind, stacklevel=2)
    return Identification(
        model=model,
        order=model.n_states,
        method=chosen.mixture.name,
        candidates=tuple(_candidate(row) for row in contest.ranking),
        simulation_fit=chosen.verdict.simulation,
        prediction_fit=chosen.verdict.prediction,
        notes=tuple(text for _, text in notes),
        data=record,
        inspection=inspection,
    )


def _without_gaps(record: IOData) -> tuple[IOData, NDArray[np.intp]]:
    """What candidates are estimated from, and the rows of the record that it is made of.

    Stretches without a gap where they are long; else the record with its gaps filled.
    """
    everything = np.arange(record.length)
    if record.observed.all():
        return record, everything
    complete = complete_rows(record.y)
    stretches = complete_stretches(complete, record.starts)[1]
    lengths = np.diff([*stretches, complete.sum()])
    # The stretch that a complete sample lies in is so long, in the mean.
    if len(stretches) and (lengths**2).sum() >= LONG_STRETCH * complete.sum():
        return gap_free(record), everything[complete]
    return filled_record(record, "identify"), everything


def _in_units_of(scaled: Scaling, record: IOData) -> Scaling:
    u, y = (record.inputs - scaled.u_mean) / scaled.u_scale, (record.y - scaled.y_mean) / scaled.y_scale
    return scaled._replace(u=u, y=y, starts=record.starts)


def _dead_times(whole: IOData, delay: Literal["auto"] | None) -> tuple[int, ...]:
    """Samples that each input takes before it acts, less one; nothing where none takes longer."""
    if delay is None or not whole.n_inputs:
        return ()
    try:
        found = np.maximum(input_delays(whole).delays - 1, 0)
    except RealizationError:
        return ()
    return tuple(int(d) for d in found) if found.any() else ()


def _candidate(row: Judged) -> Candidate:
    verdict = row.verdict
    simulation, prediction = float(verdict.simulation.mean()), float(verdict.prediction.mean())
    return Candidate(row.mixture.name, row.order, simulation, prediction, verdict.score)


def _in_balanced_coordinates(model: InnovationsModel) -> InnovationsModel:
    """The same model in balanced coordinates: states stay of one size, initial states too."""
    if not model.n_states or not model.is_stable:
        return model
    try:
        values = hankel_singular_values(model)
        # States below this size would lose more digits in the change of coordinates than they carry.
        held = int((values > NEGLIGIBLE * values[0]).sum())
        balanced = balanced_truncation(model, held).model if held else model
    except RealizationError:
        return model
    return balanced if isinstance(balanced, InnovationsModel) else model


def _check_options(
    record: IOData,
    order: int | None,
    max_order: int | None,
    focus: str,
    stable: Stability,
    delay: object,
) -> None:
    if focus not in get_args(Focus):
        raise DataError(f"identify: focus={focus!r} came; one of {', '.join(get_args(Focus))} is needed.")
    if stable not in (True, False, "auto"):
        raise DataError(f"identify: stable={stable!r} came; True, False or 'auto' is needed.")
    if delay not in ("auto", None):
        raise DataError(
            f"identify: delay={delay!r} came; 'auto' or None is needed. Of known dead times d, identify "
            "data.delay(d) and give the model its delays back by delay_inputs(model, d)."
        )
    if focus == "simulation" and not record.n_inputs:
        raise DataError(
            "identify: a record without inputs has nothing to simulate from; take focus='prediction'."
        )
    check_whole("identify", order=(order, 1), max_order=(max_order, 1))
    if order is not None and max_order is not None and order > max_order:
        raise DataError(f"identify: order={order} is above max_order={max_order}; give one of the two.")
    if record.length < FEWEST_SAMPLES:
        raise ExcitationError(
            f"identify: {record.length} samples came; at least {FEWEST_SAMPLES} are needed to estimate on "
            "one part and judge on another. Take a longer record."
        )


def _notes(
    found: Realization, model: InnovationsModel, stable: Stability, excitation: list[str]
) -> list[tuple[type[RealizationWarning], str]]:
    notes: list[tuple[type[RealizationWarning], str]] = [
        (ExcitationWarning, text) for text in excitation[-1:]
    ]
    if found.stabilized:
        text = (
            "identify: an estimate had poles outside the unit circle, which were moved to its inside. If the "
            "plant is unstable, ask for stable=False."
        )
        notes.append((StabilityWarning, text))
    if not model.is_stable:
        radius = f"a pole of modulus {np.abs(model.poles).max():.6g}"
        why = (
            f"the plant is unstable: the model has {radius}, clearly outside the unit circle, and predicts "
            "the held-back parts no worse than stable ones do. Ask for stable=True if it cannot be."
            if stable == "auto"
            else f"the model has {radius}, as stable=False allows."
        )
        notes.append((StabilityWarning, f"identify: {why}"))
    return notes
