"""The models that `identify` tries: recipes, and how each is carried out on a stretch of a record."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg

from realization.errors import RealizationError, UnstableError
from realization.identification.arx import fit_arx, longest_lags, order_criterion
from realization.identification.factorization import Factorization, Scaling, Weighting, factorize
from realization.identification.matrices import realize
from realization.identification.noise import one_step_innovations
from realization.identification.realization import Realization
from realization.identification.refinement import refine
from realization.identification.regularized import fit_regularized_varx

__all__ = ["Recipe", "Stretch", "average", "recipes", "supported", "with_noise_model"]

ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 30)
WIDE_ROWS, NARROW_ROWS = 18, 9
REFINEMENT_WORK = 1.5e8
MOST_NOISE_LAGS = 14
# With fewer, the likelihood fits the record and not the system; subspace estimates and priors hold.
VALUES_PER_PARAMETER = 8
REGULARIZED_LAGS = (8, 16, 30)
EVIDENCE_WORK = 5e7


class Recipe(NamedTuple):
    """How a candidate is made, apart from the record it is made from."""

    method: Literal["cva", "moesp", "arx", "varx", "static"]
    size: int
    focus: Literal["simulation", "prediction"] = "simulation"
    wide: bool = True
    refined: bool = False
    delay: int = 0
    ridge: float = 0.0
    walk: bool = False
    noise: bool = False

    @property
    def name(self) -> str:
        """What a reader of a report calls it."""
        if self.method == "static":
            base = "static gain"
        elif self.method == "arx":
            base = f"ARX, {self.size} lag{'s' if self.size > 1 else ''}"
            base += ", no feedthrough" if self.delay else ""
            base += f", ridge {self.ridge:g}" if self.ridge else ""
        elif self.method == "varx":
            base = f"regularized ARX, {self.size} lags" + (", no feedthrough" if self.delay else "")
            base += ", random walk" if self.walk else ""
        else:
            base = f"{self.method.upper()}, {self.focus}" + ("" if self.wide else ", short past")
        return base + (", prediction error" if self.refined else "") + (", noise model" if self.noise else "")


class Stretch:
    """A stretch of a scaled record with the factorizations that its candidates share."""

    def __init__(self, scaled: Scaling, *, feedthrough: bool, stable: bool) -> None:
        self.scaled, self.feedthrough, self.stable = scaled, feedthrough, stable
        self._made: dict[Recipe, Realization] = {}

    def rows(self, wide: bool) -> int:
        """Block rows: as many as suit the record's length."""
        length, m = self.scaled.u.shape
        channels = m + self.scaled.y.shape[1]
        possible = (length - 1) // (2 + 2 * channels)
        return min(WIDE_ROWS, possible) if wide else min(NARROW_ROWS, possible // 2)

    @cached_property
    def _wide(self) -> Factorization:
        return factorize(self.scaled, self.rows(True), "identify")

    @cached_property
    def _narrow(self) -> Factorization:
        return factorize(self.scaled, self.rows(False), "identify")

    def make(self, recipe: Recipe) -> Realization:
        """Carry a recipe out.

        Raises
        ------
        RealizationError
            If the stretch does not support it.
        """
        if recipe not in self._made:
            self._made[recipe] = self._make(recipe)
        return self._made[recipe]

    def _make(self, recipe: Recipe) -> Realization:
        if recipe.noise:
            return with_noise_model(self.make(recipe._replace(noise=False)), self.scaled)
        if recipe.refined:
            base = self.make(recipe._replace(refined=False))
            found = refine(base, self.scaled, "prediction", stable=self.stable, iterations=12)
        elif recipe.method == "arx":
            found = fit_arx(self.scaled, recipe.size, recipe.size, recipe.delay, recipe.ridge)
        elif recipe.method == "varx":
            found = fit_regularized_varx(self.scaled, recipe.size, delay=recipe.delay, walk=recipe.walk)
        elif recipe.method == "static":
            found = _static(self.scaled, self.feedthrough)
        else:
            found = realize(
                self.scaled,
                self._wide if recipe.wide else self._narrow,
                recipe.size,
                weighting=recipe.method,
                feedthrough=self.feedthrough,
                focus=recipe.focus,
                offset=True,
                stable=self.stable,
            )
        if not all(np.isfinite(matrix).all() for matrix in found[:6]):
            raise UnstableError(f"{recipe.name}: the estimate overflowed.")
        if self.stable and found.radius >= 1:
            raise UnstableError(f"{recipe.name}: a pole of modulus {found.radius:.6g}.")
        return found


def recipes(stretch: Stretch, order: int | None, max_order: int | None) -> list[Recipe]:
    """Recipes without noise model that a stretch of this size supports."""
    length, m = stretch.scaled.u.shape
    p = stretch.scaled.y.shape[1]
    orders = [order] if order is not None else [n for n in ORDERS if max_order is None or n <= max_order]
    found: list[Recipe] = []
    for wide in (True, False):
        rows = stretch.rows(wide)
        if rows < 2:
            continue
        methods: tuple[Weighting, ...] = ("cva", "moesp")
        for method in methods:
            for size in orders:
                if size > (rows - 1) * p or size * (2 * p + m) > length * p // 3:
                    continue
                for focus in ("simulation", "prediction") if m else ("prediction",):
                    found.append(Recipe(method, size, focus, wide))
                width = size * (size + m + 2 * p + 1) + p * (m + 1)
                free = size * (m + 2 * p + 1) + p * (m + 1)
                enough = length * p >= VALUES_PER_PARAMETER * free
                if enough and length * p * width**2 <= REFINEMENT_WORK and method == "cva":
                    found.append(Recipe(method, size, found[-1].focus, wide, refined=True))
    if order is not None:
        return found
    longest = longest_lags(stretch.scaled)
    delays = (0, 1) if m and stretch.feedthrough else (1,)
    found += [Recipe("arx", k, "prediction", delay=delay) for k in LAGS if k <= longest for delay in delays]
    found += regularized_recipes(length, m, p, delays)
    # Few samples for many channels: least squares needs a ridge, and no dynamics at all may be the best
    # guess.
    if longest < 8:
        shrunk = [(k, ridge) for k in (1, 2, 3) for ridge in (1e-3, 1e-2, 1e-1, 1.0)]
        found += [
            Recipe("arx", k, "prediction", delay=delays[-1], ridge=ridge)
            for k, ridge in shrunk
            if k < length // 4
        ]
        found.append(Recipe("static", 0))
    return found


def regularized_recipes(length: int, m: int, p: int, delays: tuple[int, ...]) -> list[Recipe]:
    """Long autoregressions under a kernel prior, as long as the evidence is cheap and the record longer."""
    return [
        Recipe("varx", lags, "prediction", delay=delay, walk=walk)
        for lags in REGULARIZED_LAGS
        if lags <= length // 4 and p * (lags * (m + p)) ** 3 <= EVIDENCE_WORK
        for delay in delays
        for walk in (False, True)
    ]


def average(members: list[Realization]) -> Realization:
    """Mean of the paths from the inputs of several models, side by side; no noise model."""
    count = len(members)
    return members[0]._replace(
        A=scipy.linalg.block_diag(*[found.A for found in members]),
        B=np.vstack([found.B for found in members]),
        C=np.hstack([found.C for found in members]) / count,
        D=np.mean([found.D for found in members], axis=0),
        K=np.zeros((sum(len(found.A) for found in members), len(members[0].C))),
        offset=np.mean([found.offset for found in members], axis=0),
        x0=np.concatenate([found.x0 for found in members]),
        feedthrough=any(found.feedthrough for found in members),
        stabilized=any(found.stabilized for found in members),
    )


def with_noise_model(found: Realization, scaled: Scaling) -> Realization:
    r"""Put an autoregressive model of the simulation error beside a model, in place of its Kalman gain.

    $$y = G u + v, \qquad v_t = \sum_k A_k v_{t-k} + e_t$$

    The path from the inputs keeps its simulation, the prediction gets a noise model of its own (Box-Jenkins).

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 4.2.
    """
    silent = np.zeros_like(found.K)
    error, _ = one_step_innovations(
        found.A, found.B, found.C, found.D, silent, scaled.u, scaled.y - found.offset
    )
    noise = scaled._replace(u=scaled.u[:, :0], y=error)
    highest = max(1, min(MOST_NOISE_LAGS, longest_lags(noise)))
    lags = 1 + int(np.argmin(order_criterion(noise, highest, 1, "bic")))
    coloured = fit_arx(noise, lags, 0, 1)
    if coloured.radius >= 1:
        raise UnstableError("the noise model is not stable.")
    return found._replace(
        A=scipy.linalg.block_diag(found.A, coloured.A),
        B=np.vstack([found.B, np.zeros((len(coloured.A), found.B.shape[1]))]),
        C=np.hstack([found.C, coloured.C]),
        K=np.vstack([silent, coloured.K]),
        x0=np.concatenate([found.x0, coloured.x0]),
    )


def _static(scaled: Scaling, feedthrough: bool) -> Realization:
    """The outputs as a fixed combination of the inputs at the same time."""
    p, m = scaled.y.shape[1], scaled.u.shape[1]
    D = scipy.linalg.lstsq(scaled.u, scaled.y, cond=1e-3)[0].T if m and feedthrough else np.zeros((p, m))
    none = np.zeros((0, 0))
    offset = (scaled.y - scaled.u @ D.T).mean(axis=0)
    return Realization(
        none, np.zeros((0, m)), np.zeros((p, 0)), D, np.zeros((0, p)), offset, np.zeros(0), feedthrough, False
    )


def supported(stretch: Stretch, recipe: Recipe) -> Realization | None:
    """The realization of a recipe, or `None` where the stretch does not support it."""
    try:
        return stretch.make(recipe)
    except (RealizationError, np.linalg.LinAlgError):
        return None
