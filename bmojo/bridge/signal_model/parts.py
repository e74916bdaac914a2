"""What a signal model is fitted to: parts of a record, members that the parts select, a linear rival."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bmojo.bridge.signal_model.memory import Member
from bmojo.bridge.signal_model.static import Spans, saturation, start_loop, train_loop, with_units
from bmojo.config import BMojoConfig
from realization.errors import DataError, RealizationError, ShapeError
from realization.identification import identify
from realization.notes import collected
from realization.progress import Progress
from realization.signals import IOData
from realization.systems import InnovationsModel

__all__ = [
    "check",
    "default_memory",
    "holds_of",
    "identified",
    "linear_simulation",
    "rows_of",
    "scales_of",
    "selected",
]

Array = NDArray[np.float64]
WINDOW = 400
LEAST = 25  # samples of a part that is held out


def default_memory() -> BMojoConfig:
    """A small layer: tokens of width 8, a window of 16, 8 places."""
    return BMojoConfig(
        d_model=8, heads=2, window=16, eidetic=8, mixer="lti", state_size=8, qk_norm=False
    )  # fmt: skip


def holds_of(whole: Spans, folds: int) -> list[tuple[int, int]]:
    """Parts of the record to be held out, `folds` of them or some more: none goes across experiments."""
    length = sum(b - a for a, b in whole)
    found = []
    for a, b in whole:
        edges = np.linspace(a, b, max(1, round(folds * (b - a) / length)) + 1).astype(int).tolist()
        found += pairwise(edges)
    return found


def selected(
    u: Array,
    y: Array,
    spans: list[tuple[int, int]],
    hold: tuple[int, int],
    seeds: list[tuple[int, int, int]],
    bar: Progress,
    *,
    order: int,
    hidden: int,
    ridge: float,
    keep: int,
) -> list[Member]:
    """Members without memory: the best on the rows held out, of those that start from `seeds`."""
    limits = saturation(np.concatenate([y[a:b] for a, b in spans]))
    linear = start_loop(u, y, spans, order=order, limits=limits)
    found = []
    for seed in seeds:
        start = with_units(linear, hidden, seed)
        trained = train_loop(start, u, y, spans, hold, window=WINDOW, ridge=ridge)
        fit = trained.fits[trained.iteration]
        found.append(Member(trained.loop, None, hold, (trained.fits[0], fit, fit)))
        bar.advance()
    return sorted(found, key=lambda member: -member.fits[1])[:keep]


def scales_of(data: IOData) -> tuple[Array, Array, Array, Array]:
    """Means and standard deviations of inputs and outputs; 1 for columns that stand still."""
    found = []
    for columns in (data.inputs, data.y):
        spread = columns.std(axis=0)
        found += [columns.mean(axis=0), np.where(spread > 0, spread, 1.0)]
    return found[0], found[1], found[2], found[3]


def rows_of(data: IOData, spans: Sequence[tuple[int, int]]) -> IOData:
    """A record of some rows, each span an experiment."""
    rows = np.concatenate([np.arange(a, b) for a, b in spans])
    lengths = [b - a for a, b in spans]
    starts = tuple(int(k) for k in np.cumsum([0, *lengths[:-1]]))
    return IOData(data.y[rows], data.inputs[rows], data.dt, starts=starts)


def identified(data: IOData) -> InnovationsModel:
    """The model of `realization.identify`, without its warnings."""
    with collected():
        return identify(data, progress=False).model


def linear_simulation(model: InnovationsModel, data: IOData) -> Array:
    """Simulation (T, p) of a record from its own first state."""
    return np.asarray(model.simulate(data.inputs, model.estimate_x0(data)))


def check(
    train: IOData,
    validation: IOData | None,
    folds: int,
    candidates: int,
    keep: int,
    linear: InnovationsModel | None,
) -> None:
    """Refuse records and options that do not fit.

    Parameters
    ----------
    train : IOData
    validation : IOData or None
    folds, candidates, keep : int
    linear : InnovationsModel or None
    """
    if train.n_inputs == 0:
        raise DataError("SignalModel.fit: a record without inputs came; a simulator needs some.")
    for name, data in (("train", train), ("validation", validation)):
        if data is not None and not data.observed.all():
            raise DataError(f"SignalModel.fit: {name} has missing outputs; cut the record to what is known.")
    if not 1 <= keep <= candidates:
        raise RealizationError(
            f"SignalModel.fit: keep={keep} of candidates={candidates} came; 1 to all of them."
        )
    if folds < 2 or train.length < LEAST * folds:
        raise ShapeError(
            f"SignalModel.fit: {train.length} samples in {folds} folds came; at least 2 folds of {LEAST} "
            "samples each are needed."
        )
    if linear is not None and (linear.n_inputs, linear.n_outputs) != (train.n_inputs, train.n_outputs):
        raise ShapeError(
            f"SignalModel.fit: a linear model with {linear.n_inputs} inputs and {linear.n_outputs} outputs "
            f"came; the record has {train.n_inputs} and {train.n_outputs}."
        )
    if validation is not None:
        columns = (train.n_inputs, train.n_outputs), (validation.n_inputs, validation.n_outputs)
        if columns[0] != columns[1]:
            raise ShapeError(
                f"SignalModel.fit: train has {columns[0]} inputs and outputs, validation {columns[1]}."
            )
