"""What is judged: one recipe, or the mean of several with a noise model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from realization.errors import RealizationError
from realization.identification.candidates import Recipe, Stretch, supported
from realization.identification.combination import mean_path, mean_predictor
from realization.identification.disturbance import DISTURBANCES, Disturbance, with_disturbance
from realization.identification.realization import Realization
from realization.identification.reduction import shortest

__all__ = ["FIT_LOSS", "Mixture"]

FIT_LOSS = 0.1
PATH_ORDER = 24
PREDICTOR_ORDER = 30


class Mixture(NamedTuple):
    """Recipes whose paths (or predictors) are averaged; a single one is carried out as it is.

    `share` is what is taken of the mean path, `noise` what is put beside it.
    """

    members: tuple[Recipe, ...]
    noise: Disturbance = "own"
    share: float = 1.0
    predictors: bool = False

    @property
    def name(self) -> str:
        """What a reader of a report calls it."""
        count = len(self.members)
        if count == 1:
            return self.members[0].name
        if self.predictors:
            return f"mean of the best {count} predictors"
        if self.share == 0:
            return f"no inputs, {DISTURBANCES[self.noise]}"
        part = "" if self.share == 1 else f", {self.share:g} of it"
        return f"mean of the best {count} paths{part}, {DISTURBANCES[self.noise]}"

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
        if len(self.members) == 1:
            return supported(stretch, self.members[0])
        mean = self._mean(stretch)
        if mean is None or (stretch.stable and mean.radius >= 1):
            return None
        return mean if self.predictors else with_disturbance(mean, stretch.scaled, self.noise)

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
            stretch.shared[key] = shortest(mean, stretch.scaled, loss=FIT_LOSS, max_order=limit)
        mean = stretch.shared[key]
        return mean if self.predictors or self.share == 1 else mean_path([mean], self.share)


def _short(found: Realization, stretch: Stretch, limit: int) -> Realization:
    if len(found.A) <= limit:
        return found
    return shortest(found, stretch.scaled, loss=FIT_LOSS, max_order=limit)
