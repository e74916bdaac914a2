"""Errors of a model with the first states that its own past makes probable."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.noise import first_state_prior, one_step_innovations
from realization.identification.realization import Realization
from realization.systems.responses import free_response, predictor_states, scan_spans

__all__ = ["errors_on"]

Array = NDArray[np.float64]
# Condition numbers up to here leave half of the digits to the normal equations.
SAFE = 1e8
MOST_SPENT = 0.95
# In so many experiments, each with fewer values for a state, free first states would leave no errors.
MANY, LONG = 5, 4


def errors_on(found: Realization, seen: Scaling, held: Scaling) -> tuple[Array, Array]:
    r"""Errors (T, p) of simulation and one-step prediction with the most probable first states.

    The first state is the most probable one for $x_0 \sim N(0, P)$, with $P$ the second moment of the states
    over the samples that were seen, and errors of the size that they had there: a model with many states
    cannot fit its way through few samples.
    """
    root, noises = _prior(found, seen)
    silent = found._replace(K=np.zeros_like(found.K))
    simulated = _errors(silent, root, noises[0], held)
    return simulated, _errors(found, root, noises[1], held) if found.K.any() else simulated


def _prior(found: Realization, seen: Scaling) -> tuple[Array, tuple[Array, Array]]:
    """Root of the states' second moment, and the sizes of the errors of simulation and prediction."""
    A, B, C, D, K = found[:5]
    silent, target = np.zeros_like(K), seen.y - found.offset
    if len(seen.starts) >= MANY and min(seen.lengths) * len(C) < LONG * len(A):
        one_step = first_state_prior(A, B, C, D, K, seen.u, target, seen.starts)
        alone = first_state_prior(A, B, C, D, silent, seen.u, target, seen.starts)
        return one_step.root, (alone.noise, one_step.noise)
    known, start = one_step_innovations(A, B, C, D, K, seen.u, target, seen.starts)
    states = np.zeros((1, 0))
    if len(A):
        states = predictor_states(A, B, C, D, K, seen.u, target, start, seen.starts)
    values, vectors = np.linalg.eigh(states.T @ states / len(states))
    alone = known
    if K.any():
        alone, _ = one_step_innovations(A, B, C, D, silent, seen.u, target, seen.starts)
    return vectors * np.sqrt(np.maximum(values, 0.0)), (_size(alone), _size(known))


def _size(e: Array) -> Array:
    return np.sqrt((e**2).mean(axis=0)) + 1e-10


def _errors(found: Realization, root: Array, noise: Array, held: Scaling) -> Array:
    A, B, C, D, K = found[:5]
    transition, entry, y = A - K @ C, np.hstack([B - K @ D, K]), held.y - found.offset
    states = scan_spans(transition, entry, np.hstack([held.u, y]), starts=held.starts)
    e = y - states @ C.T - held.u @ D.T
    for rows in held.spans if len(A) and np.isfinite(e).all() else ():
        basis = (free_response(transition, C, rows.stop - rows.start) @ root) / noise[:, None]
        if not np.isfinite(basis).all():
            return np.full_like(e, np.inf)
        z, spent = _most_probable(basis.reshape(-1, len(A)), (e[rows] / noise).reshape(-1))
        e[rows] -= noise * (basis @ z)
        # What first states take from white errors is theirs, and no merit of the model.
        e[rows] *= np.sqrt(1 / (1 - min(spent / e[rows].size, MOST_SPENT)))
    return e


def _most_probable(basis: Array, target: Array) -> tuple[Array, float]:
    r"""Least squares with a unit normal prior, and the degrees of freedom that it spends.

    $$\min_z \|X z - y\|^2 + \|z\|^2, \qquad d = \operatorname{tr} X (X^\top X + I)^{-1} X^\top$$
    """
    values, vectors = np.linalg.eigh(basis.T @ basis)
    values = np.maximum(values, 0.0)
    spent = float((values / (values + 1)).sum())
    if values[-1] < SAFE:
        return vectors @ ((vectors.T @ (basis.T @ target)) / (values + 1)), spent
    n = basis.shape[1]
    rows, aims = np.vstack([basis, np.eye(n)]), np.concatenate([target, np.zeros(n)])
    return scipy.linalg.lstsq(rows, aims, lapack_driver="gelsy", check_finite=False)[0], spent
