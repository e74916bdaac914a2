"""Refinement of a realization by Gauss-Newton steps on its prediction or simulation errors."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from realization.identification.coordinates import LocalCoordinates, Masked
from realization.identification.factorization import Scaling
from realization.identification.noise import one_step_innovations
from realization.identification.realization import Realization, longest_memory
from realization.identification.search import admissible, search
from realization.identification.sensitivities import Blocks, Point
from realization.systems.responses import predictor_states

__all__ = ["Criterion", "free_entries", "normalized", "refine"]

Array = NDArray[np.float64]
Criterion = Literal["prediction", "simulation", "gain"]


def refine(
    found: Realization,
    scaled: Scaling,
    criterion: Criterion,
    *,
    offset: bool = True,
    stable: bool = True,
    iterations: int = 20,
    tolerance: float = 0.05,
    memory: float | None = None,
) -> Realization:
    r"""Gauss-Newton in data-driven local coordinates, starting from a realization.

    `prediction` minimizes the determinant of the covariance of the one-step errors, `simulation` that of the
    simulation errors with no gain at all, `gain` that of the one-step errors over `K` alone, which leaves the
    simulation as it is.

    Parameters
    ----------
    found : Realization
        Returned as it is where its predictor is not stable or forgets too slowly for the record.
    scaled : Scaling
    criterion : {"prediction", "simulation", "gain"}
    offset : bool
        Whether the outputs' constant level may move.
    stable : bool
        Refuse steps that take a pole out of the unit circle.
    iterations : int
        Most steps.
    tolerance : float
        Stop when the minimum is nearer than this many standard deviations per parameter.
    memory : float, optional
        Largest modulus of a predictor's pole; what the record can vouch for when left out.

    References
    ----------
    T. McKelvey, A. Helmersson, T. Ribarits, Data driven local coordinates for multivariable linear systems
    and their application to system identification, Automatica 40 (2004) 1629-1635.
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 7.2 and 10.2.
    """
    point = normalized(found, scaled, silent=criterion == "simulation")
    memory = longest_memory(found.A, max(scaled.lengths)) if memory is None else memory
    if not len(found.A) or not admissible(point, stable, memory):
        return found
    free = free_entries(
        point, path=criterion != "gain", gain=criterion != "simulation", feedthrough=found.feedthrough
    )
    places = point.places
    free[places["offset"]] = offset and criterion != "gain"
    coordinates = Masked(free) if criterion == "gain" else LocalCoordinates(free)
    ended = search(
        point,
        coordinates,
        scaled,
        blocks=Blocks(path=criterion != "gain", gain=criterion != "simulation"),
        stable=stable,
        iterations=iterations,
        tolerance=tolerance,
        memory=memory,
    )
    A, B, C, D, K, level, start = ended.point
    return found._replace(A=A, B=B, C=C, D=D, K=K, offset=level, x0=start)


def free_entries(point: Point, *, path: bool, gain: bool, feedthrough: bool) -> NDArray[np.bool_]:
    """Marks on the entries of the blocks that may move; level and first state may."""
    free = np.ones(point.entries.size, dtype=bool)
    moving = {"A": path, "B": path, "C": path, "D": path and feedthrough, "K": gain}
    for name, may in moving.items():
        free[point.places[name]] = may
    return free


def normalized(found: Realization, scaled: Scaling, *, silent: bool) -> Point:
    """The realization with states of unit covariance and the best first states; without gain if `silent`."""
    A, B, C, D, K = found[:5]
    K = K * 0.0 if silent else K
    target = scaled.y - found.offset
    states = predictor_states(A, B, C, D, K, scaled.u, np.nan_to_num(target), starts=scaled.starts)
    if len(A) and np.isfinite(states).all():
        values, vectors = np.linalg.eigh(states.T @ states / len(states))
        sizes = np.sqrt(np.maximum(values, 1e-8 * values.max(initial=1e-300)))
        T, inverse = vectors * sizes, (vectors / sizes).T
        A, B, C, K = inverse @ A @ T, inverse @ B, C @ T, inverse @ K
    start = one_step_innovations(A, B, C, D, K, scaled.u, target, scaled.starts)[1]
    return Point(A, B, C, D, K, np.asarray(found.offset, dtype=float), start)
