"""Errors of a model with the first states that its own past makes probable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.noise import first_state_prior, one_step_innovations, started
from realization.identification.realization import Realization
from realization.identification.regression import FirstState
from realization.systems.responses import joined, predictor_states

__all__ = ["errors_on"]

Array = NDArray[np.float64]
MOST_SPENT = 0.95
# In so many experiments, each with fewer values for a state, free first states would leave no errors.
MANY, LONG = 5, 4


def errors_on(found: Realization, seen: Scaling, held: Scaling) -> tuple[Array, Array]:
    r"""Errors (T, p) of simulation and one-step prediction with the most probable first states.

    The first state is the most probable one for $x_0 \sim N(0, P)$, with $P$ the second moment of the states
    over the samples that were seen, and errors of the size that they had there: a model with many states
    cannot fit its way through few samples.
    """
    silent = found._replace(K=np.zeros_like(found.K))
    one_step, alone = _priors(found, seen)
    simulated = _errors(silent, alone, held)
    return simulated, _errors(found, one_step, held) if found.K.any() else simulated


def _priors(found: Realization, seen: Scaling) -> tuple[FirstState, FirstState]:
    """What was seen tells of first states, and of the sizes of one-step and of simulation errors."""
    A, B, C, D, K = found[:5]
    silent, target = np.zeros_like(K), seen.y - found.offset
    if seen.has_gaps or (len(seen.starts) >= MANY and min(seen.lengths) * len(C) < LONG * len(A)):
        one_step = first_state_prior(A, B, C, D, K, seen.u, target, seen.starts)
        alone = first_state_prior(A, B, C, D, silent, seen.u, target, seen.starts)
        return one_step, alone._replace(root=one_step.root)
    known, start = one_step_innovations(A, B, C, D, K, seen.u, target, seen.starts)
    states = np.zeros((1, 0))
    if len(A):
        states = predictor_states(A, B, C, D, K, seen.u, target, start, seen.starts)
    values, vectors = np.linalg.eigh(states.T @ states / len(states))
    root, simulated = vectors * np.sqrt(np.maximum(values, 0.0)), known
    if K.any():
        simulated, _ = one_step_innovations(A, B, C, D, silent, seen.u, target, seen.starts)
    return FirstState(root, _size(known)), FirstState(root, _size(simulated))


def _size(e: Array) -> Array:
    return np.sqrt((e**2).mean(axis=0)) + 1e-10


def _errors(found: Realization, prior: FirstState, held: Scaling) -> Array:
    try:
        parts = started(*found[:5], held.u, held.y - found.offset, held.starts, prior)
    except np.linalg.LinAlgError:
        return np.full_like(held.y, np.inf)
    # What first states take from white errors is theirs, and no merit of the model.
    return joined([
        part.e * np.sqrt(1 / (1 - min(part.spent / part.e.size, MOST_SPENT))) for part in parts
    ])  # fmt: skip
