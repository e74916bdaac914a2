"""Matrices of one order from a factorization: `A` and `C` by the shift, `B` and `D` by least squares, `K`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import RankError, StabilityWarning
from realization.identification.factorization import Factorization, Scaling, Weighting
from realization.identification.noise import kalman_gain
from realization.identification.orthonormal import record_factor
from realization.identification.realization import Realization, reflect_poles
from realization.identification.regression import InputPath, input_path
from realization.notes import warn
from realization.systems.responses import scan_spans

__all__ = ["Focus", "input_matrices", "realize", "shift"]

Array = NDArray[np.float64]
Focus = Literal["simulation", "prediction"]


def realize(
    scaled: Scaling,
    factorization: Factorization,
    order: int,
    *,
    weighting: Weighting,
    feedthrough: bool | Literal["auto"],
    focus: Focus,
    offset: bool,
    stable: bool,
    caller: str,
) -> Realization:
    """Realization of one order and weighting from a factorization."""
    directions, values = factorization.subspace(weighting)
    available = min(len(values), len(directions) - factorization.n_outputs)
    if order > available:
        raise RankError(
            f"{caller}: order {order} came; block_rows={factorization.block_rows} and this record support at "
            f"most {available}. Take a lower order or more block rows."
        )
    observability = directions[:, :order] * np.sqrt(values[:order])
    A, C = shift(observability, factorization.n_outputs)
    radius = np.abs(np.linalg.eigvals(A)).max(initial=0.0)
    stabilized = bool(stable and radius >= 1)
    if stabilized:
        warn(
            f"{caller}: the estimate of order {order} had a pole of modulus {radius:.6g}; it was moved to "
            f"its mirror "
            "image in the unit circle. If the plant is unstable, ask for stable=False.",
            StabilityWarning,
            stacklevel=4,
        )
        A = reflect_poles(A)
    K = kalman_gain(factorization, observability, A, C) if order else np.zeros((0, factorization.n_outputs))
    # The simulation of an unstable or an input-free model says nothing about its outputs.
    predicted = focus == "prediction" or (radius >= 1 and not stable) or factorization.n_inputs == 0
    path, direct = input_matrices(
        A,
        C,
        K,
        scaled,
        feedthrough=feedthrough,
        predicted=predicted,
        offset=offset,
        regular=factorization.regular,
    )
    return Realization(A, path.B, C, path.D, K, path.offset, path.x0, direct, stabilized)


def shift(observability: Array, p: int) -> tuple[Array, Array]:
    """`A` and `C` of an extended observability matrix, whose next block row is the last one times `A`."""
    if observability.shape[1] == 0:
        return np.zeros((0, 0)), np.zeros((p, 0))
    return scipy.linalg.lstsq(observability[:-p], observability[p:])[0], observability[:p]


def input_matrices(
    A: Array,
    C: Array,
    K: Array,
    scaled: Scaling,
    *,
    feedthrough: bool | Literal["auto"],
    predicted: bool,
    offset: bool,
    regular: bool,
) -> tuple[InputPath, bool]:
    """`B`, `D`, `x0` and the offset of the outputs, and whether there is a feedthrough.

    `predicted` fits the one-step prediction, which is linear in `B - K D` and `D`; else the simulation.
    `regular` allows normal equations.
    """
    if regular:
        factor = record_factor(
            A, C, K, scaled.u, scaled.y, predicted=predicted, offset=offset, starts=scaled.starts
        )
        if factor is not None:
            return _with_or_without(factor.fitted, feedthrough, scaled, K if predicted else None)
    u, target, transition = scaled.u, scaled.y, A
    length, p = target.shape
    constant = np.broadcast_to(np.eye(p), (length, p, p)) if offset else None
    if predicted:
        transition = A - K @ C
        target = scaled.y - scan_spans(transition, K, scaled.y, starts=scaled.starts) @ C.T
        if offset:
            ones = np.ones((length, 1))
            steps = [
                scan_spans(transition, K[:, j : j + 1], ones, starts=scaled.starts) @ C.T for j in range(p)
            ]
            constant = np.eye(p) - np.stack(steps, axis=2)

    def fitted(direct: bool) -> InputPath:
        path = input_path(
            transition, C, u, target, feedthrough=direct, constant=constant, starts=scaled.starts
        )
        return path if offset else path._replace(offset=np.zeros(p))

    return _with_or_without(fitted, feedthrough, scaled, K if predicted else None)


def _with_or_without(
    fitted: Callable[[bool], InputPath],
    feedthrough: bool | Literal["auto"],
    scaled: Scaling,
    gain: Array | None,
) -> tuple[InputPath, bool]:
    """The fit with or without `D`, as asked for or as the Bayesian information criterion says.

    `gain` is `K` where what was fitted is `B - K D`.
    """
    (length, m), p = scaled.u.shape, scaled.y.shape[1]

    def finished(direct: bool) -> InputPath:
        path = fitted(direct)
        return path if gain is None else path._replace(B=path.B + gain @ path.D)

    if m == 0 or feedthrough != "auto":
        direct = bool(feedthrough) and m > 0
        return finished(direct), direct
    without, with_direct = finished(False), finished(True)
    floor = 1e-24 * length  # what exact data leave is rounding, and no evidence
    gained = length * np.log((without.squares + floor) / (with_direct.squares + floor)).sum()
    return (with_direct, True) if gained > m * p * np.log(length) else (without, False)
