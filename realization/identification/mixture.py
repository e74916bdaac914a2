"""What is judged: one recipe, or the mean of several with a noise model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from realization.errors import RealizationError
from realization.identification.candidates import REFINEMENT_STEPS, Recipe, Stretch, supported
from realization.identification.combination import mean_path, mean_predictor, without_path
from realization.identification.disturbance import DISTURBANCES, Disturbance, with_disturbance
from realization.identification.realization import Realization, longest_memory
from realization.identification.reduction import Balanced, forgetting, shortest
from realization.identification.refinement import refine

__all__ = ["FIT_LOSS", "Mixture"]

FIT_LOSS = 0.1
PATH_ORDER = 24
PREDICTOR_ORDER = 30


class Mixture(NamedTuple):
    """Recipes whose paths (or predictors) are averaged; a single one is carried out as it is.

    `noise` is what is put beside the mean path; without `path`, what is put in its place. With `states` the
    whole is brought to so many by balanced truncation and refined by prediction error.
    """

    members: tuple[Recipe, ...]
    noise: Disturbance = "own"
    path: bool = True
    predictors: bool = False
    states: int | None = None

    @property
    def name(self) -> str:
        """What a reader of a report calls it."""
        count = len(self.members)
        if self.states is not None:
            return f"{self._replace(states=None).name}, {self.states} states by prediction error"
        if count == 1:
            return self.members[0].name
        if self.predictors:
            return f"mean of the best {count} predictors"
        path = f"mean of the best {count} paths" if self.path else "no inputs"
        return f"{path}, {DISTURBANCES[self.noise]}"

    def make(self, stretch: Stretch) -> Realization | None:
        """The realization, or `None` where the stretch does not support it."""
        try:
            found = self._made(stretch)
        except (RealizationError, np.linalg.LinAlgError):
            return None
        if found is None or not all(np.isfinite(matrix).all() for matrix in found[:6]):
            return None
        return found

    def _made(self, stretch: Stretch) -> Realization | None:
        if self.states is not None:
            return self._brief(stretch, self.states)
        if len(self.members) == 1:
            return supported(stretch, self.members[0])
        mean = self._mean(stretch)
        if mean is None or (stretch.stable and mean.radius >= 1):
            return None
        return mean if self.predictors else with_disturbance(mean, stretch.scaled, self.noise)

    def _brief(self, stretch: Stretch, states: int) -> Realization | None:
        whole = self._replace(states=None).make(stretch)
        if whole is None or whole.radius >= 1:
            return None
        short = Balanced(whole, stretch.scaled).usable(min(states, len(whole.A)))
        # A level that is hardly corrected any more has fitted this record, and follows no other.
        memory = longest_memory(np.zeros((0, 0)), max(stretch.scaled.lengths))
        if short is None or forgetting(short) > memory:
            return None
        options = {"stable": stretch.stable, "iterations": REFINEMENT_STEPS, "memory": memory}
        return refine(short, stretch.scaled, "prediction", **options)

    def _mean(self, stretch: Stretch) -> Realization | None:
        """Mean of the members that the stretch supports, each and all brought to fewer states."""
        key = ("predictors" if self.predictors else "paths", self.members)
        limit = PREDICTOR_ORDER if self.predictors else PATH_ORDER
        if key not in stretch.shared:
            found = [supported(stretch, member) for member in self.members]
            there = [_short(one, stretch, limit) for one in found if one is not None]
            if not there:
                return None
            mean = mean_predictor(there) if self.predictors else mean_path(there)
            stretch.shared[key] = shortest(
                mean, stretch.scaled, loss=FIT_LOSS, max_order=limit, copies=self.predictors
            )
        mean = stretch.shared[key]
        return mean if self.path else without_path(mean)


def _short(found: Realization, stretch: Stretch, limit: int) -> Realization:
    if len(found.A) <= limit:
        return found
    return shortest(found, stretch.scaled, loss=FIT_LOSS, max_order=limit)
