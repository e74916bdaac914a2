"""Where the search for a state-space model begins: a subspace estimate, of records with gaps too."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from realization.errors import ExcitationError, RealizationError
from realization.filtering.kalman import kalman_filter
from realization.filtering.smoother import kalman_smoother
from realization.identification.arx import arx
from realization.identification.matrices import Focus
from realization.identification.subspace import n4sid
from realization.signals.data import IOData, replace_values
from realization.systems.models import InnovationsModel

__all__ = ["beginning", "filled"]

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
) -> InnovationsModel:
    """A subspace model of the record.

    With missing outputs, the most likely of two kinds: of the stretches without gaps, as far as they are long
    enough; and of the record with its gaps filled by a smoother, first with an autoregression's, then
    with the subspace model's own.

    Raises
    ------
    ExcitationError
        If the record is too short, or its stretches without gaps are too short for a single lag.
    """

    def estimate(data: IOData, states: int | None) -> InnovationsModel:
        return n4sid(data, states, feedthrough=feedthrough, focus=focus, offset=offset, stable=stable).model

    if record.observed.all():
        return estimate(record, order)
    tried: list[InnovationsModel] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tried.append(estimate(record, order))
            order = tried[0].n_states
        except RealizationError:
            pass
        tried += _by_filling(record, order, estimate)
    if not tried:
        raise ExcitationError(
            f"{int((~record.observed).sum())} of {record.y.size} outputs are missing, and no stretch without "
            "a gap is long enough to begin with. Give `model`, or take fewer outputs or a record with fewer "
            "gaps."
        )
    return max(tried, key=lambda model: _likelihood(model, record))


def _by_filling(
    record: IOData, order: int | None, estimate: Callable[[IOData, int | None], InnovationsModel]
) -> list[InnovationsModel]:
    """Models of the record with its gaps filled: by an autoregression, then by the models themselves."""
    found = []
    try:
        model = arx(record, max_order=4, stable=True).model
        for _ in range(ROUNDS):
            model = estimate(filled(model, record), order)
            found.append(model)
    except (RealizationError, np.linalg.LinAlgError):
        pass
    return found


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
