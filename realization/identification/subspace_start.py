"""Where the search for a state-space model begins: a subspace estimate, of records with gaps too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from realization.errors import ExcitationError, RealizationError
from realization.filtering.kalman import kalman_filter
from realization.filtering.smoother import kalman_smoother
from realization.identification.arx import arx
from realization.identification.matrices import Focus
from realization.identification.subspace import subspace_model
from realization.notes import collected
from realization.signals.data import IOData, replace_values
from realization.systems.models import InnovationsModel

__all__ = ["beginning", "filled", "filled_record"]

Array = NDArray[np.float64]
# Rounds of filling gaps by a model and estimating the model anew.
ROUNDS = 3


def beginning(
    record: IOData,
    order: int | None,
    *,
    feedthrough: bool | Literal["auto"],
    focus: Focus,
    offset: bool = True,
    stable: bool = True,
    caller: str = "pem",
) -> InnovationsModel:
    """A subspace model of the record.

    With missing outputs, the most likely of two kinds: of the stretches without gaps, as far as they are long
    enough; and of the record with its gaps filled, at first by the smoother of an autoregression (by straight
    lines where no stretch is long enough for one), then by that of the subspace model itself.

    Raises
    ------
    ExcitationError
        If the record is too short.
    """

    def estimate(data: IOData, states: int | None) -> InnovationsModel:
        options = {"focus": focus, "offset": offset, "stable": stable}
        return subspace_model(caller, data, states, feedthrough=feedthrough, **options).model

    if record.observed.all():
        return estimate(record, order)
    tried: list[InnovationsModel] = []
    with collected():
        try:
            tried.append(estimate(record, order))
            order = tried[0].n_states
        except RealizationError:
            pass
        tried += _by_filling(record, order, estimate)
    if not tried:
        raise ExcitationError(
            f"{caller}: {record.length} samples, {int((~record.observed).sum())} of {record.y.size} outputs "
            "missing, are too few for a model to begin with. Give `model`, or take a lower order or a longer "
            "record."
        )
    return max(tried, key=lambda model: _likelihood(model, record))


def _by_filling(
    record: IOData, order: int | None, estimate: Callable[[IOData, int | None], InnovationsModel]
) -> list[InnovationsModel]:
    """Models of the record with its gaps filled: by something simple, then by the models themselves."""
    found, complete = [], _roughly_filled(record)
    try:
        for _ in range(ROUNDS):
            found.append(estimate(complete, order))
            complete = filled(found[-1], record)
    except (RealizationError, np.linalg.LinAlgError):
        pass
    return found


def _roughly_filled(record: IOData) -> IOData:
    for lags in (4, 2, 1):
        try:
            return filled(arx(record, max_order=lags).model, record)
        except (RealizationError, np.linalg.LinAlgError):
            continue
    y, time = record.y.copy(), np.arange(record.length)
    for rows in record.spans:
        for column, there in zip(y[rows].T, record.observed[rows].T):
            if there.any():
                column[~there] = np.interp(time[rows][~there], time[rows][there], column[there])
    level = np.nanmean(record.y, axis=0)
    return replace_values(record, np.where(np.isnan(y), level, y), record.u)


def filled_record(record: IOData, caller: str) -> IOData:
    """The record with its gaps filled by the smoother of a subspace model.

    Raises
    ------
    ExcitationError
        If the record is too short.
    """
    model = beginning(record, None, feedthrough="auto", focus="prediction", caller=caller)
    return filled(model, record)


def filled(model: InnovationsModel, record: IOData) -> IOData:
    """The record with the smoother's outputs in the place of missing ones."""
    parts = [kalman_smoother(model, part, x0=_settled(model, part)).outputs for part in record.experiments]
    return replace_values(record, np.concatenate(parts), record.u)


def _settled(model: InnovationsModel, part: IOData) -> Array:
    """The first state that suits the record best as a simulation."""
    return model.estimate_x0(part)


def _likelihood(model: InnovationsModel, record: IOData) -> float:
    try:
        return sum(
            kalman_filter(model, part, x0=_settled(model, part)).log_likelihood for part in record.experiments
        )
    except RealizationError:
        return -np.inf
