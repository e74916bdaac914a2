"""The contest behind `identify`: candidates on the folds of a record, the best of them on all of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from realization.errors import ExcitationError, RealizationError
from realization.identification.candidates import REFINEMENT_STEPS, Recipe, Stretch, recipes, worth_refining
from realization.identification.disturbance import Disturbance
from realization.identification.factorization import Scaling
from realization.identification.judging import BLOCKS, FOUR_FOLDS_UP_TO, Verdict, folds, judge
from realization.identification.mixture import FIT_LOSS, Mixture
from realization.identification.realization import Realization, longest_memory
from realization.identification.reduction import TRIED, Balanced, forgetting, likely_fits
from realization.identification.refinement import refine
from realization.identification.residuals import residual_tests
from realization.identification.uncertainty import uncertainty
from realization.progress import Progress
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["Contest", "Focus", "Gapped", "Judged", "Task"]

Array = NDArray[np.float64]
Focus = Literal["both", "prediction", "simulation"]
MEMBERS = 8
NOISES: tuple[Disturbance, ...] = ("integrated", "level", "short", "smooth", "wandering")
OWN_NOISES: tuple[Disturbance, ...] = ("short", "smooth", "integrated")
# Noise of the standing choice. Of few samples, what looks better on the held-back parts mostly is not.
STANDING: Disturbance = "integrated"
CLEARLY_BETTER = 3.0
# An equal loses no more than this many percent, or this share of what is missing, with two spreads to spare.
EQUAL, EQUAL_SHARE, SPARE = 0.1, 0.01, 2.0
HIGHEST_ORDER = 40
# States of a model that is to explain all, and how probable what it leaves must be if there is nothing left.
FEW, NOTHING_LEFT = (1, 2, 3, 4, 5, 6, 8, 10, 12), 0.01
LOSS_SHARE = 0.01
SAMPLES_PER_GAIN = 20
# A pole this far outside, and by so many standard deviations.
OUTSIDE, CLEARLY_OUTSIDE = 1.001, 3.0


class Judged(NamedTuple):
    """A candidate with its verdict and its order on the last fold."""

    mixture: Mixture
    verdict: Verdict
    order: int


class Gapped(NamedTuple):
    """A scaled record with missing outputs, and which rows of it the record without gaps is made of."""

    scaled: Scaling
    rows: NDArray[np.intp]


class Task(NamedTuple):
    """A scaled record without gaps, and what is asked for; with its gaps where it has some.

    `dead` are samples that each input may take before it acts, besides that of a model without feedthrough.
    """

    scaled: Scaling
    order: int | None
    max_order: int | None
    feedthrough: bool
    focus: Focus
    closed_loop: bool
    bar: Progress
    gapped: Gapped | None = None
    dead: tuple[int, ...] = ()

    @property
    def counted(self) -> tuple[int, ...]:
        """Which fits the choice is made by: 0 the simulation's, 1 the one-step prediction's."""
        if not self.scaled.u.shape[1]:
            return (1,)
        return {"both": (0, 1), "simulation": (0,), "prediction": (1,)}[self.focus]


class Contest:
    """Candidates of a record, judged on its folds; the best of them on the whole of it."""

    def __init__(self, task: Task, *, stable: bool) -> None:
        self.task, self.stable = task, stable
        counted = task.counted if stable else (1,)
        self.folds = folds(task.scaled, feedthrough=task.feedthrough, stable=stable, counted=counted)
        self.whole = Stretch(task.scaled, feedthrough=task.feedthrough, stable=stable)
        self.ranking: list[Judged] = []
        self.standing: Judged | None = None
        self.tried = recipes(self.folds[0].stretch, task.order, task.max_order, closed_loop=task.closed_loop)

    def run(self) -> None:
        """Judge every recipe, then their means and their noise models.

        Raises
        ------
        ExcitationError
            If no recipe is supported on every fold.
        """
        task = self.task
        self._add(Mixture((recipe,)) for recipe in self.tried)
        if not self.ranking:
            wanted = "" if task.order is None else f" of order {task.order}"
            raise ExcitationError(
                f"identify: no model{wanted} could be estimated from {len(task.scaled.y)} samples with "
                f"{task.scaled.u.shape[1]} inputs and {task.scaled.y.shape[1]} outputs. Take a longer "
                "record, fewer channels or a lower order."
            )
        if task.order is None and self.stable:
            self._combine()

    def unstable(self) -> Contest | None:
        """The contest without the demand for stability, where the record clearly speaks against it.

        That is where unstable models predict the held-back parts no worse than stable ones, and the
        outermost pole, refined on the record, lies outside the unit circle by three standard deviations.
        """
        loose = Contest(self.task, stable=False)
        loose.tried = [recipe for recipe in loose.tried if loose._is_outside(recipe)]
        if not loose.tried:
            return None
        try:
            loose.run()
        except ExcitationError:
            return None
        chosen, found = loose._best()
        stable = max(self.ranking, key=lambda row: row.verdict.kinds[1])
        gained = self._one_step(stable).sum() - chosen.verdict.shares.sum()
        return loose if gained > 0 and self._spreads_outside(found) > CLEARLY_OUTSIDE else None

    def _spreads_outside(self, found: Realization) -> float:
        """How many standard deviations the outermost pole lies outside the unit circle."""
        scaled = self.task.scaled
        fine = refine(found, scaled, "prediction", stable=False, iterations=12)
        try:
            bands = uncertainty(*_in_own_units(fine, scaled)).poles()
        except RealizationError:
            return -np.inf
        pole, covariance = bands.poles[0], bands.covariance[0]
        outwards = np.array([pole.real, pole.imag]) / abs(pole)
        return float((abs(pole) - 1) / np.sqrt(outwards @ covariance @ outwards + 1e-24))

    def winner(self) -> tuple[Judged, Realization]:
        """The choice, estimated from the whole record, reduced, and with a refined gain where it helps."""
        chosen, found = self._best()
        early = [one for fold in self.folds if (one := chosen.mixture.make(fold.stretch)) is not None]
        if self.task.order is not None:
            return chosen, self._over_gaps(found, early)
        found, early = self._reduced(found, early)
        brief = self._brief(chosen, len(found.A))
        if brief is not None:
            chosen, found = brief
            early = [one for fold in self.folds if (one := chosen.mixture.make(fold.stretch)) is not None]
            return chosen, self._over_gaps(found, early)
        tuned = [self._tuned(one, fold.stretch) for one, fold in zip(early, self.folds)]
        if self._score(tuned) > self._score(early):
            found, early = self._tuned(found, self.whole), tuned
        return chosen, self._over_gaps(found, early)

    def _over_gaps(self, found: Realization, early: list[Realization]) -> Realization:
        """Refined by the likelihood of what was measured, where that helps on the held-back parts."""
        if self.task.gapped is None:
            return found
        record, rows = self.task.gapped
        counted, feedthrough = self.folds[0].counted, self.task.feedthrough
        parts = folds(record, feedthrough=feedthrough, stable=self.stable, counted=counted, rows=rows)
        verdict = judge(early, parts)
        best, score = found, -np.inf if verdict is None else verdict.score
        for criterion in ("gain", "prediction"):
            if criterion == "prediction" and not worth_refining(record, len(found.A)):
                continue
            options = {"stable": self.stable, "iterations": REFINEMENT_STEPS}
            later = [
                refine(one, part.stretch.scaled, criterion, **options) for one, part in zip(early, parts)
            ]
            verdict = judge(later, parts)
            if verdict is not None and verdict.score > score:
                best, score = refine(found, record, criterion, **options), verdict.score
        return best

    def _is_outside(self, recipe: Recipe) -> bool:
        if recipe.focus != "prediction" or recipe.refined or recipe.method in ("varx", "static"):
            return False
        found = Mixture((recipe,)).make(self.whole)
        return found is not None and found.radius > OUTSIDE

    def _add(self, mixtures: Iterable[Mixture]) -> list[Judged]:
        """Judge some more, and rank them among the others."""
        asked = list(mixtures)
        self.task.bar.expect(len(asked))
        new = []
        for mixture in asked:
            row = self._judged(mixture)
            if row is not None:
                new.append(row)
            self.task.bar.advance()
        self.ranking = sorted([*self.ranking, *new], key=lambda row: -row.verdict.score)
        return new

    def _judged(self, mixture: Mixture) -> Judged | None:
        found = []
        for fold in self.folds:
            one = mixture.make(fold.stretch)
            if one is None:
                return None
            found.append(one)
        verdict = judge(found, self.folds)
        return None if verdict is None else Judged(mixture, verdict, len(found[-1].A))

    def _combine(self) -> None:
        """Means of the best, and the best with other noise models."""
        task = self.task
        best = sorted(self.ranking, key=lambda row: -row.verdict.kinds[1])
        predictors = tuple(row.mixture.members[0] for row in best[:MEMBERS])
        if len(predictors) > 1:
            self._add([Mixture(predictors, predictors=True)])
        if not task.scaled.u.shape[1]:
            return
        # Paths are compared beside one and the same noise model.
        level = self._add(Mixture((recipe._replace(noise="level"),)) for recipe in self.tried)
        level.sort(key=lambda row: -row.verdict.kinds[0])
        paths = tuple(row.mixture.members[0].path for row in level[:MEMBERS])
        single = [row.mixture.members[0].path for row in self.ranking if len(row.mixture.members) == 1]
        first = dict.fromkeys([*single[: 2 * MEMBERS], *paths])
        self._add(Mixture((recipe._replace(noise=noise),)) for recipe in first for noise in OWN_NOISES)
        if len(paths) > 1:
            rows = self._add(Mixture(paths, noise) for noise in NOISES)
            self.standing = next((row for row in rows if row.mixture.noise == STANDING), None)
            self._add([Mixture(paths, STANDING, path=False)])
            if task.dead:
                late = tuple(path._replace(dead=task.dead) for path in paths)
                self._add(Mixture(late, noise) for noise in NOISES)

    def _best(self) -> tuple[Judged, Realization]:
        """The standing choice unless another is clearly better, then its equal of lowest order."""
        best = self.standing or self.ranking[0]
        for row in self.ranking:
            if row.verdict.score <= best.verdict.score:
                break
            if _gain(best, row) > CLEARLY_BETTER:
                best = row
                break
        room = max(EQUAL, EQUAL_SHARE * (100 - best.verdict.score))
        close = [row for row in self.ranking if _most_lost(row, best) <= room]
        for row in [*sorted(close, key=lambda row: row.order), best, *self.ranking]:
            found = row.mixture.make(self.whole)
            if found is not None:
                return row, found
        raise ExcitationError(
            "identify: no candidate that held on a part of the record could be estimated from the whole of "
            "it. Take a longer or a better excited record."
        )

    def _brief(self, chosen: Judged, order: int) -> tuple[Judged, Realization] | None:
        """The choice with few states, refined, where they leave nothing to explain and lose next to nothing.

        Nothing to explain: residuals on the record are white and have nothing to do with past inputs.
        """
        room = max(EQUAL, EQUAL_SHARE * (100 - chosen.verdict.score))
        for states in (n for n in FEW if n < order and worth_refining(self.task.scaled, n)):
            mixture = chosen.mixture._replace(states=states)
            found = mixture.make(self.whole)
            if found is None or not self._explains_all(found):
                continue
            row = self._judged(mixture)
            if row is not None and _most_lost(row, chosen, spare=-1.0) <= room:
                self.ranking = sorted([*self.ranking, row], key=lambda row: -row.verdict.score)
                return row, found
        return None

    def _explains_all(self, found: Realization) -> bool:
        model, record = _in_own_units(found, self.task.scaled)
        try:
            tests = residual_tests(model, record)
        except RealizationError:
            return False
        chance = tests.dynamics.min(initial=1.0) * max(tests.dynamics.size, 1)
        return min(tests.whiteness.p_value, chance) > NOTHING_LEFT

    def _reduced(self, found: Realization, early: list[Realization]) -> tuple[Realization, list[Realization]]:
        """Lowest order that costs next to nothing, on the record and on the held-back parts."""
        limit = min(self.task.max_order or HIGHEST_ORDER, len(found.A))
        if len(found.A) < 2 or found.radius >= 1:
            return found, early
        whole = Balanced(found, self.task.scaled)
        parts = [Balanced(one, fold.stretch.scaled) for one, fold in zip(early, self.folds)]
        best, score = likely_fits(found, self.task.scaled), self._score(early)
        # Few held-back samples cannot show what a reduction costs.
        share = LOSS_SHARE if len(self.task.scaled.y) > FOUR_FOLDS_UP_TO else 0.0
        wanted = best - np.maximum(FIT_LOSS, share * (100 - best))
        score -= max(FIT_LOSS, share * (100 - score))
        largest = None
        for order in (*(k for k in TRIED if k < limit), limit):
            short = whole.usable(order)
            shorter = [part.usable(min(order, len(part.found.A))) for part in parts]
            there = [one for one in shorter if one is not None]
            if short is None or len(there) < len(parts):
                continue
            largest = short, there
            as_good = (likely_fits(short, self.task.scaled) >= wanted).all()
            if as_good and self._score(there) >= score:
                return largest
        return (found, early) if len(found.A) <= limit or largest is None else largest

    def _tuned(self, found: Realization, stretch: Stretch) -> Realization:
        size, count = stretch.scaled.y.size, max(found.K.size, 1)
        # A gain has n p entries: too few samples for them would spoil what the whole fit has found.
        if not SAMPLES_PER_GAIN * found.K.size <= size <= 1e8 / count:
            return found
        # A level that is hardly corrected any more has fitted this record, and follows no other.
        lasting = longest_memory(np.zeros((0, 0)), max(stretch.scaled.lengths))
        memory = max(lasting, 1.0001 * forgetting(found))
        return refine(found, stretch.scaled, "gain", stable=stretch.stable, iterations=30, memory=memory)

    def _score(self, early: list[Realization]) -> float:
        verdict = judge(early, self.folds)
        return -np.inf if verdict is None else verdict.score

    def _one_step(self, row: Judged) -> Array:
        """What each block of the folds takes from a candidate's one-step fit."""
        found = [one for fold in self.folds if (one := row.mixture.make(fold.stretch)) is not None]
        verdict = judge(found, [fold._replace(counted=(1,)) for fold in self.folds])
        assert verdict is not None  # it was judged before
        return verdict.shares


def _gain(worse: Judged, better: Judged) -> float:
    """How many times its own spread over the blocks the gain of one candidate over another is."""
    return _spreads(worse.verdict.shares - better.verdict.shares)


def _in_own_units(found: Realization, scaled: Scaling) -> tuple[InnovationsModel, IOData]:
    """Model and record in the units that the record was scaled to."""
    model = InnovationsModel(found.A, found.B, found.C, found.D, K=found.K, y_mean=found.offset)
    return model, IOData(scaled.y, scaled.u if scaled.u.shape[1] else None, starts=scaled.starts)


def _most_lost(row: Judged, best: Judged, spare: float = SPARE) -> float:
    """What a candidate may lose against another, in percent: the mean over the folds and `spare` spreads."""
    lost = row.verdict.shares - best.verdict.shares
    parts = len(lost) / min(BLOCKS, len(lost))
    return float((lost.sum() + spare * np.sqrt(len(lost)) * lost.std()) / parts)


def _spreads(gained: Array) -> float:
    return float(gained.sum() / max(np.sqrt(len(gained)) * gained.std(), 1e-300))
