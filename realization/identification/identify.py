"""One call from a record to a model: many candidates, judged on what they were not fitted to."""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import (
    DataError,
    ExcitationError,
    ExcitationWarning,
    RealizationError,
    StabilityWarning,
)
from realization.identification.candidates import (
    Recipe,
    Stretch,
    average,
    recipes,
    supported,
    with_noise_model,
)
from realization.identification.factorization import Scaling, scale
from realization.identification.realization import Realization, errors, fits, part, spread, unscaled
from realization.identification.reduction import shortest
from realization.identification.refinement import refine
from realization.identification.result import Candidate, Identification
from realization.signals.data import IOData, as_data
from realization.systems.models import InnovationsModel
from realization.systems.reduction import balanced_truncation

__all__ = ["identify"]

Array = NDArray[np.float64]
Focus = Literal["both", "prediction", "simulation"]
FEWEST_SAMPLES = 12
MEMBERS = 6
FIT_LOSS = 0.1
CAUTION = 1.0
TIE = 0.04
BLOCKS = 10
PATH_ORDER = 24
HIGHEST_ORDER = 40
SAMPLES_PER_GAIN = 20
TWO_FOLDS_UP_TO = 4000


class _Judged(NamedTuple):
    """A candidate, how to make it, and its fits per output."""

    candidate: Candidate
    members: tuple[Recipe, ...]
    simulation: Array
    prediction: Array
    shares: Array


class _Fold(NamedTuple):
    """A stretch to estimate on, one to judge on, and what counts (0: simulation, 1: one step)."""

    stretch: Stretch
    held: Scaling
    counted: tuple[int, ...]


def identify(
    data: IOData | ArrayLike,
    *,
    order: int | None = None,
    max_order: int | None = None,
    feedthrough: bool = True,
    stable: bool = True,
    focus: Focus = "both",
) -> Identification:
    r"""Identify a model in one call.

    Subspace models of both weightings and many orders, their refinements by prediction error, and
    autoregressive models of many lags, plain and with a kernel prior, are estimated on a part of the record
    and judged on the rest by the
    mean of their simulation and one-step fits; so are their combinations with a noise model of their own,

    $$y = G u + H e,$$

    and the mean of the best paths $G$. Of those that the held-back parts cannot tell from the best, that of
    the lowest order is estimated again from the whole record, brought by balanced truncation to the lowest
    order that costs at most 0.1 percent of either fit (at most 40 states unless `max_order` says otherwise),
    and its gain is refined where the same refinement helps on the held-back parts.

    Parameters
    ----------
    data : IOData
        Output-only records are taken too, and are judged by one-step fits alone.
    order : int, optional
        States of the model; chosen when left out.
    max_order : int, optional
        Highest order of the result.
    feedthrough : bool
        Whether an input may act on the outputs at once.
    stable : bool
        Return a stable model in any case, with a warning where the estimate was not; `False` leaves poles
        where they are (for an unstable plant).
    focus : {"both", "prediction", "simulation"}
        Which fits on the held-back parts the choice is made by; a record without inputs has no simulation.

    Returns
    -------
    Identification

    Raises
    ------
    ExcitationError
        If the record is too short.
    DataError
        If a column is constant, or an option is out of range.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, chapters 10 and 16.
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996.

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
    record = as_data(data)
    _check_options(record, order, max_order, focus)
    scaled = scale(record, "identify")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folds = _folds(scaled, feedthrough, stable, focus)
        ranking = _ranking(scaled, folds, order, max_order)
        whole = Stretch(scaled, feedthrough=feedthrough, stable=stable)
        chosen, found = _best(ranking, whole)
        if order is None:
            found = _finished(chosen, found, whole, folds, max_order or HIGHEST_ORDER)
    model = _in_balanced_coordinates(unscaled(scaled, found, record.dt))
    notes = _notes(found, model, [str(item.message) for item in caught if item.category is ExcitationWarning])
    for kind, text in notes:
        warnings.warn(text, kind, stacklevel=2)
    return Identification(
        model=model,
        order=model.n_states,
        method=chosen.candidate.method,
        candidates=tuple(row.candidate for row in ranking),
        simulation_fit=chosen.simulation,
        prediction_fit=chosen.prediction,
        notes=tuple(text for _, text in notes),
        data=record,
    )


def _in_balanced_coordinates(model: InnovationsModel) -> InnovationsModel:
    """The same model in balanced coordinates: states stay of one size, initial states too."""
    if not model.n_states or not model.is_stable:
        return model
    balanced = balanced_truncation(model, model.n_states)
    # Below this ratio the change of state would lose more digits than it saves.
    usable = balanced.hsv[-1] > 1e-10 * balanced.hsv[0]
    return balanced.model if usable and isinstance(balanced.model, InnovationsModel) else model


def _check_options(record: IOData, order: int | None, max_order: int | None, focus: str) -> None:
    if focus not in get_args(Focus):
        raise DataError(f"identify: focus={focus!r} came; one of {', '.join(get_args(Focus))} is needed.")
    if focus == "simulation" and not record.n_inputs:
        raise DataError(
            "identify: a record without inputs has nothing to simulate from; take focus='prediction'."
        )
    for name, value, least in (("order", order, 1), ("max_order", max_order, 1)):
        if value is not None and value < least:
            raise DataError(f"identify: {name}={value} came; at least {least} is needed.")
    if order is not None and max_order is not None and order > max_order:
        raise DataError(f"identify: order={order} is above max_order={max_order}; give one of the two.")
    if record.length < FEWEST_SAMPLES:
        raise ExcitationError(
            f"identify: {record.length} samples came; at least {FEWEST_SAMPLES} are needed to estimate on "
            "one part and judge on another. Take a longer record."
        )


def _folds(scaled: Scaling, feedthrough: bool, stable: bool, focus: Focus) -> list[_Fold]:
    """Estimate on three quarters, judge on the last; the other way round too unless the record is long."""
    counted = {"both": (0, 1), "simulation": (0,), "prediction": (1,)}[focus]
    if not scaled.u.shape[1]:
        counted = (1,)
    length = len(scaled.y)
    cut = round(0.75 * length)
    spans = [(0, cut, cut, length), (length - cut, length, 0, length - cut)]
    return [
        _Fold(
            Stretch(part(scaled, a, b), feedthrough=feedthrough, stable=stable), part(scaled, c, d), counted
        )
        for a, b, c, d in spans[: 2 if length <= TWO_FOLDS_UP_TO else 1]
    ]


def _ranking(scaled: Scaling, folds: list[_Fold], order: int | None, max_order: int | None) -> list[_Judged]:
    tried = recipes(folds[0].stretch, order, max_order)
    if order is None and scaled.u.shape[1]:
        tried += [recipe._replace(noise=True) for recipe in tried]
    rows = [_judged((recipe,), folds) for recipe in tried]
    ranking = sorted((row for row in rows if row is not None), key=lambda row: -row.candidate.score)
    if not ranking:
        wanted = "" if order is None else f" of order {order}"
        raise ExcitationError(
            f"identify: no model{wanted} could be estimated from {len(scaled.y)} samples with "
            f"{scaled.u.shape[1]} inputs and {scaled.y.shape[1]} outputs. Take a longer record, fewer "
            "channels or a lower order."
        )
    if order is None and scaled.u.shape[1]:
        members = tuple(dict.fromkeys(row.members[0]._replace(noise=False) for row in ranking))[:MEMBERS]
        mean = _judged(members, folds) if len(members) > 1 else None
        if mean is not None:
            ranking = sorted([mean, *ranking], key=lambda row: -row.candidate.score)
    return ranking


def _judged(members: tuple[Recipe, ...], folds: list[_Fold]) -> _Judged | None:
    """Fits on the held-back parts; `None` where a fold does not support the candidate."""
    fitted, scores, shares, states = [], [], [], 0
    with_inputs = folds[0].held.u.shape[1] > 0
    for stretch, held, counted in folds:
        found = _made(members, stretch)
        if found is None:
            return None
        both = errors(found, held)
        if not all(np.isfinite(both[k]).all() for k in {*counted, 1}):
            return None
        states = len(found.A)
        # The first state is fitted to the part that is judged: more states, more freedom.
        freedom = np.sqrt(held.y.size / max(held.y.size - states, 1.0))
        size = spread(held)
        fit = [100 * (1 - np.linalg.norm(e, axis=0) / size) for e in both]
        fitted.append((fit[0] if with_inputs else fit[0] * np.nan, fit[1]))
        scores.append(np.mean([np.maximum(100 - freedom * (100 - fit[k]), -100) for k in counted]))
        shares += [_shares(freedom * both[k], size) for k in counted]
    simulation, prediction = np.mean(fitted, axis=0)
    name = members[0].name if len(members) == 1 else f"mean of the best {len(members)} paths, noise model"
    candidate = Candidate(
        name, states, float(simulation.mean()), float(prediction.mean()), float(np.mean(scores))
    )
    return _Judged(candidate, members, simulation, prediction, np.concatenate(shares))


def _shares(e: Array, size: Array) -> Array:
    r"""What each of the blocks of a held-back part takes from the mean fit, in percent.

    $\|e\| = \sum_b \|e_b\|^2 / \|e\|$: the norm's shares add up to it.
    """
    norms = np.maximum(np.linalg.norm(e, axis=0), 1e-12)
    blocks = np.array_split(e**2, min(BLOCKS, len(e)))
    return np.array([(100 * block.sum(axis=0) / norms / size).mean() for block in blocks])


def _made(members: tuple[Recipe, ...], stretch: Stretch) -> Realization | None:
    """One recipe's realization, or the mean of several with a noise model."""
    if len(members) == 1:
        return supported(stretch, members[0])
    found = [supported(stretch, member) for member in members]
    paths = [path for path in found if path is not None]
    if not paths:
        return None
    short = [
        shortest(path, stretch.scaled, loss=FIT_LOSS, max_order=PATH_ORDER)
        if len(path.A) > PATH_ORDER
        else path
        for path in paths
    ]
    mean = shortest(average(short), stretch.scaled, loss=FIT_LOSS, max_order=PATH_ORDER)
    try:
        return with_noise_model(mean, stretch.scaled)
    except (RealizationError, np.linalg.LinAlgError):
        return None


def _best(ranking: list[_Judged], whole: Stretch) -> tuple[_Judged, Realization]:
    """The smallest of those that are as good as the best, as far as the whole record supports it.

    As good: the loss against the best, summed over the blocks of the held-back parts, is within its own
    uncertainty.
    """
    best = ranking[0]

    def as_good(row: _Judged) -> bool:
        loss = row.shares - best.shares
        tie = loss.sum() <= CAUTION * np.sqrt(len(loss)) * loss.std()
        return bool(tie and 100 - row.candidate.score <= (1 + TIE) * (100 - best.candidate.score))

    close = sorted((row for row in ranking if as_good(row)), key=lambda row: row.candidate.order)
    for row in [*close, *ranking]:
        found = _made(row.members, whole)
        if found is not None:
            return row, found
    raise ExcitationError(
        "identify: no candidate that held on a part of the record could be estimated from the whole of "
        "it. Take a longer or a better excited record."
    )


def _finished(
    chosen: _Judged, found: Realization, whole: Stretch, folds: list[_Fold], max_order: int
) -> Realization:
    """Reduce and refine the gain as far as the same does no harm on the held-back parts."""
    made = [(_made(chosen.members, fold.stretch), fold) for fold in folds]

    def score(tuned: bool) -> float:
        scores = []
        for early, fold in made:
            assert early is not None  # the candidate was judged on this fold
            late = _finish(early, fold.stretch, max_order, tuned)
            fit = np.array([f.mean() for f in fits(late, fold.held)])
            scores.append(np.maximum(fit, -100)[list(fold.counted)].mean())
        return float(np.mean(scores))

    # Both are reduced to begin with: a gain that was refined without need is no gain.
    return _finish(found, whole, max_order, score(True) > score(False))


def _finish(found: Realization, stretch: Stretch, max_order: int, tuned: bool) -> Realization:
    scaled = stretch.scaled
    short = shortest(found, scaled, loss=FIT_LOSS, max_order=max_order)
    # A gain has n p entries: too few samples for them would spoil what the whole fit has found.
    if not tuned or not SAMPLES_PER_GAIN * short.K.size <= scaled.y.size <= 1e8 / max(short.K.size, 1):
        return short
    return refine(short, scaled, "gain", stable=stretch.stable, iterations=10)


def _notes(
    found: Realization, model: InnovationsModel, excitation: list[str]
) -> list[tuple[type[Warning], str]]:
    notes: list[tuple[type[Warning], str]] = [(ExcitationWarning, text) for text in excitation[-1:]]
    if found.stabilized:
        text = (
            "identify: an estimate had poles outside the unit circle, which were moved to its inside. If the "
            "plant is unstable, ask for stable=False."
        )
        notes.append((StabilityWarning, text))
    if not model.is_stable:
        text = f"identify: the model has a pole of modulus {abs(model.poles[0]):.6g}, as stable=False allows."
        notes.append((StabilityWarning, text))
    return notes
