"""How candidates are judged: estimated on a part of the record, compared on the rest of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from realization.identification.candidates import Stretch
from realization.identification.factorization import Scaling
from realization.identification.likely_start import errors_on
from realization.identification.realization import Realization
from realization.signals.spans import complete_stretches

__all__ = ["BLOCKS", "FOUR_FOLDS_UP_TO", "Fold", "Verdict", "folds", "judge"]

Array = NDArray[np.float64]
BLOCKS = 10
FOUR_FOLDS_UP_TO = 400
TWO_FOLDS_UP_TO = 4000
# A fit below this is no worse than one at it: what has failed has failed.
WORST = -100.0


class Fold(NamedTuple):
    """A stretch to estimate on, one to judge on, and what counts (0: simulation, 1: one step)."""

    stretch: Stretch
    held: Scaling
    counted: tuple[int, ...]


class Verdict(NamedTuple):
    """Fits per output in percent of the record's own spread, scores, and what each block takes from them.

    `kinds` are the scores of the simulation and of the one-step prediction, `score` is the mean of those
    that count.
    """

    simulation: Array
    prediction: Array
    kinds: tuple[float, float]
    score: float
    shares: Array


def folds(
    scaled: Scaling,
    *,
    feedthrough: bool,
    stable: bool,
    counted: tuple[int, ...],
    rows: NDArray[np.intp] | None = None,
) -> list[Fold]:
    """Cut a record in quarters, and hold back each, the outer two, or of a long one the last.

    Given `rows`, those of a longer record that another one is made of, the longer one is cut where it is.
    """
    rows = np.arange(len(scaled.y)) if rows is None else rows
    length = len(rows)
    edges = np.append(rows, len(scaled.y))[np.round(np.linspace(0, length, 5)).astype(int)]
    edges[0] = 0
    quarters = [0, 1, 2, 3] if length <= FOUR_FOLDS_UP_TO else [0, 3] if length <= TWO_FOLDS_UP_TO else [3]
    found = []
    for k in quarters:
        held = np.zeros(len(scaled.y), dtype=bool)
        held[edges[k] : edges[k + 1]] = True
        stretch = Stretch(_rows(scaled, ~held), feedthrough=feedthrough, stable=stable)
        found.append(Fold(stretch, _rows(scaled, held), counted))
    return found


def _rows(scaled: Scaling, chosen: NDArray[np.bool_]) -> Scaling:
    """Some of the rows; what is no longer side by side is an experiment of its own."""
    rows, starts = complete_stretches(chosen, scaled.starts)
    return scaled._replace(u=scaled.u[rows], y=scaled.y[rows], starts=starts)


def judge(found: list[Realization], parts: list[Fold]) -> Verdict | None:
    """Verdict on one candidate's realizations, one for each fold; `None` where an error is not finite.

    Errors are measured in units of the whole record: a part in which little happens counts for little.
    """
    fitted, scores, shares = [], [], []
    for realization, (stretch, held, counted) in zip(found, parts, strict=True):
        try:
            both = errors_on(realization, stretch.scaled, held)
        except np.linalg.LinAlgError:
            return None  # what it puts out overflows
        if not all(np.isfinite(both[k]).all() for k in {*counted, 1}):
            return None
        fit = [100 * (1 - np.sqrt((e**2).mean(axis=0))) for e in both]
        fitted.append(fit)
        scores.append([np.nan_to_num(np.maximum(f, WORST), nan=WORST).mean() for f in fit])
        shares += [_shares(both[k]) for k in counted]
    simulation, prediction = np.mean(fitted, axis=0)
    if not parts[0].held.u.shape[1]:
        simulation = simulation * np.nan
    kinds = np.mean(scores, axis=0)
    score = float(kinds[list(parts[0].counted)].mean())
    return Verdict(simulation, prediction, (float(kinds[0]), float(kinds[1])), score, np.concatenate(shares))


def _shares(e: Array) -> Array:
    r"""What each of the blocks of a held-back part takes from the mean fit, in percent.

    $\|e\| = \sum_b \|e_b\|^2 / \|e\|$: the norm's shares add up to it.
    """
    norms = np.maximum(np.linalg.norm(e, axis=0), 1e-12)
    blocks = np.array_split(e**2, min(BLOCKS, len(e)))
    return np.array([(100 * block.sum(axis=0) / norms / np.sqrt(len(e))).mean() for block in blocks])
