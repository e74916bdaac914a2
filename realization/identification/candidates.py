"""The models that `identify` tries: recipes, and how each is carried out on a stretch of a record."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ExcitationError, RealizationError, UnstableError
from realization.identification.arx import fit_arx, longest_lags
from realization.identification.closed_loop import predictor_realization
from realization.identification.delays import delay_inputs
from realization.identification.disturbance import (
    DISTURBANCES,
    EVIDENCE_STEPS,
    EVIDENCE_WORK,
    Disturbance,
    changes_of,
    with_disturbance,
)
from realization.identification.factorization import (
    Factorization,
    Scaling,
    Weighting,
    factorize,
    most_block_rows,
)
from realization.identification.matrices import realize
from realization.identification.realization import Realization
from realization.identification.refinement import refine
from realization.identification.regularized import fit_regularized_varx
from realization.systems.models import InnovationsModel
from realization.systems.responses import scan_spans

__all__ = ["REFINEMENT_STEPS", "Recipe", "Stretch", "recipes", "supported", "worth_refining"]

Array = NDArray[np.float64]
ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 30)
WIDE_ROWS, NARROW_ROWS = 18, 9
REFINEMENT_STEPS, REFINEMENT_WORK = 12, 1.5e8
# With fewer, the likelihood fits the record and not the system; subspace estimates and priors hold.
VALUES_PER_PARAMETER = 8
REGULARIZED_LAGS = (8, 16, 30)


class Recipe(NamedTuple):
    """How a candidate is made, apart from the record it is made from."""

    method: Literal["cva", "moesp", "ssarx", "pbsid", "arx", "varx", "static"]
    size: int
    focus: Literal["simulation", "prediction"] = "simulation"
    wide: bool = True
    refined: bool = False
    delay: int = 0
    ridge: float = 0.0
    walk: bool = False
    noise: Disturbance = "own"
    changes: bool = False
    dead: tuple[int, ...] = ()

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
            kind = "" if self.method in ("ssarx", "pbsid") else f", {self.focus}"
            base = self.method.upper() + kind + ("" if self.wide else ", short past")
        base += " of changes" if self.changes else ""
        base += f", dead times {', '.join(map(str, self.dead))}" if self.dead else ""
        extra = DISTURBANCES[self.noise]
        return base + (", prediction error" if self.refined else "") + (f", {extra}" if extra else "")

    @property
    def path(self) -> Recipe:
        """The same without a noise model of its own."""
        return self._replace(noise="own")


class Stretch:
    """A stretch of a scaled record with the factorizations that its candidates share."""

    def __init__(self, scaled: Scaling, *, feedthrough: bool, stable: bool) -> None:
        self.scaled, self.feedthrough, self.stable = scaled, feedthrough, stable
        self._made: dict[Recipe, Realization] = {}
        self._moved: dict[tuple[int, ...], Stretch] = {}
        self.shared: dict[object, Realization] = {}

    def rows(self, wide: bool) -> int:
        """Block rows: as many as suit the record's length."""
        channels = self.scaled.u.shape[1] + self.scaled.y.shape[1]
        possible = most_block_rows(self.scaled.lengths, channels, limit=2 * WIDE_ROWS)
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
        if recipe.noise != "own":
            return with_disturbance(self.make(recipe.path), self.scaled, recipe.noise)
        if recipe.dead:
            return _late(self._on_time(recipe.dead).make(recipe._replace(dead=())), recipe.dead)
        if recipe.changes:
            return self._from_changes(recipe._replace(changes=False))
        if recipe.refined:
            base = self.make(recipe._replace(refined=False))
            found = refine(base, self.scaled, "prediction", stable=self.stable, iterations=REFINEMENT_STEPS)
        elif recipe.method == "arx":
            found = fit_arx(self.scaled, recipe.size, recipe.size, recipe.delay, recipe.ridge)
        elif recipe.method == "varx":
            found = fit_regularized_varx(
                self.scaled, recipe.size, delay=recipe.delay, walk=recipe.walk, iterations=EVIDENCE_STEPS
            )
        elif recipe.method in ("ssarx", "pbsid"):
            found = predictor_realization(
                self._wide if recipe.wide else self._narrow,
                recipe.size,
                recipe.method,
                feedthrough=False,
                stable=self.stable,
            )[0]
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
                caller="identify",
            )
        if not all(np.isfinite(matrix).all() for matrix in found[:6]):
            raise UnstableError(f"{recipe.name}: the estimate overflowed.")
        if self.stable and found.radius >= 1:
            raise UnstableError(f"{recipe.name}: a pole of modulus {found.radius:.6g}.")
        return found

    @cached_property
    def _changes(self) -> tuple[Stretch, Array, Array]:
        r"""The stretch of $u_t - \rho u_{t-1}$ and $y_t - \rho y_{t-1}$ in units of their own, and these."""
        parts = [changes_of(values, self.scaled.spans) for values in (self.scaled.u, self.scaled.y)]
        sizes = [np.maximum(part.std(axis=0), 1e-9) for part in parts]
        means = [part.mean(axis=0) for part in parts]
        u, y = ((part - mean) / size for part, mean, size in zip(parts, means, sizes))
        stretch = Stretch(self.scaled._replace(u=u, y=y), feedthrough=self.feedthrough, stable=self.stable)
        return stretch, sizes[0], sizes[1]

    def _on_time(self, dead: tuple[int, ...]) -> Stretch:
        """The stretch of $u_{t-d}$ and $y_t$, from the first sample of each experiment that has both."""
        if dead not in self._moved:
            late, (u, y) = max(dead), (self.scaled.u, self.scaled.y)
            spans = [rows for rows in self.scaled.spans if rows.stop - rows.start > late]
            if not spans:
                raise ExcitationError(f"no experiment is longer than the dead time of {late} samples.")
            kept = np.concatenate([np.arange(rows.start + late, rows.stop) for rows in spans])
            begins = np.cumsum([0, *(rows.stop - rows.start - late for rows in spans)])[:-1]
            moved = np.column_stack([u[kept - d, i] for i, d in enumerate(dead)])
            scaled = self.scaled._replace(u=moved, y=y[kept], starts=tuple(int(k) for k in begins))
            self._moved[dead] = Stretch(scaled, feedthrough=self.feedthrough, stable=self.stable)
        return self._moved[dead]

    def _from_changes(self, recipe: Recipe) -> Realization:
        """The path that explains the changes, which a disturbance that wanders leaves in peace; no gain."""
        stretch, u, y = self._changes
        found = stretch.make(recipe)
        C, D = found.C * y[:, None], found.D * y[:, None] / u
        free = found._replace(B=found.B / u, C=C, D=D, K=np.zeros_like(found.K), offset=np.zeros(len(C)))
        simulated = self.scaled.u @ D.T
        if len(free.A):
            simulated = simulated + scan_spans(free.A, free.B, self.scaled.u, starts=self.scaled.starts) @ C.T
        return free._replace(offset=(self.scaled.y - simulated).mean(axis=0), x0=np.zeros(len(free.A)))


def _late(found: Realization, dead: tuple[int, ...]) -> Realization:
    """The realization with a chain of states that holds each input as long."""
    model = delay_inputs(InnovationsModel(found.A, found.B, found.C, found.D, K=found.K), dead)
    assert isinstance(model, InnovationsModel)
    A, B, C, D, K = model.A, model.B, model.C, model.D, model.K
    return found._replace(A=A, B=B, C=C, D=D, K=K, x0=np.zeros(len(A)), feedthrough=bool(D.any()))


def recipes(
    stretch: Stretch, order: int | None, max_order: int | None, *, closed_loop: bool = False
) -> list[Recipe]:
    """Recipes without noise model that a stretch of this size supports; for feedback too if there is some."""
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
                if method == "cva" and worth_refining(stretch.scaled, size):
                    found.append(Recipe(method, size, found[-1].focus, wide, refined=True))
        if closed_loop and m:
            found += [
                Recipe(method, size, "prediction", wide)
                for method in ("ssarx", "pbsid")
                for size in orders
                if size <= rows * (m + p)
            ]
    if order is not None:
        return found
    if m:
        found += [
            recipe._replace(changes=True)
            for recipe in found
            if recipe.focus == "simulation" and not recipe.refined and recipe.method in ("cva", "moesp")
        ]
    longest = longest_lags(stretch.scaled)
    delays = (0, 1) if m and stretch.feedthrough else (1,)
    found += [Recipe("arx", k, "prediction", delay=delay) for k in LAGS if k <= longest for delay in delays]
    priors = regularized_recipes(length, m, p, delays)
    found += priors
    if m:
        found += [recipe._replace(changes=True) for recipe in priors if not recipe.walk]
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


def worth_refining(scaled: Scaling, size: int) -> bool:
    """Whether there are enough values for a model of so many states, and not more than time allows."""
    (length, m), p = scaled.u.shape, scaled.y.shape[1]
    width = size * (size + m + 2 * p + 1) + p * (m + 1)
    free = size * (m + 2 * p + 1) + p * (m + 1)
    return length * p >= VALUES_PER_PARAMETER * free and length * p * width**2 <= REFINEMENT_WORK


def regularized_recipes(length: int, m: int, p: int, delays: tuple[int, ...]) -> list[Recipe]:
    """Long autoregressions under a kernel prior, as long as the evidence is cheap and the record longer."""
    return [
        Recipe("varx", lags, "prediction", delay=delay, walk=walk)
        for lags in REGULARIZED_LAGS
        if lags <= length // 4 and p * (lags * (m + p)) ** 3 <= EVIDENCE_WORK
        for delay in delays
        for walk in (False, True)
    ]


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
