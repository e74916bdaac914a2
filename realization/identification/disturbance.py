"""Models of what the inputs do not explain, put beside the path from the inputs (Box-Jenkins structure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ExcitationError, UnstableError
from realization.identification.arx import fit_arx, longest_lags, order_criterion
from realization.identification.factorization import Scaling
from realization.identification.noise import one_step_innovations
from realization.identification.realization import Realization
from realization.identification.regularized import fit_regularized_varx

__all__ = [
    "DISTURBANCES",
    "EVIDENCE_STEPS",
    "EVIDENCE_WORK",
    "Disturbance",
    "changes_of",
    "with_disturbance",
]

Array = NDArray[np.float64]
Disturbance = Literal["own", "short", "smooth", "wandering", "level", "integrated"]
DISTURBANCES: dict[Disturbance, str] = {
    "own": "",
    "short": "autoregressive noise",
    "smooth": "smooth noise model",
    "wandering": "wandering noise model",
    "level": "noise that stays",
    "integrated": "integrated noise",
}
MOST_SHORT_LAGS = 14
SMOOTH_LAGS, MOST_STATES = 16, 96
SAMPLES_PER_LAG = 6
EVIDENCE_WORK = 5e7
# Evidence is flat near its maximum: what more steps would gain is below what it can tell.
EVIDENCE_STEPS = 24
STAYING = 0.9995
MOST_SHRINKAGE = 0.97
# Outputs that are regressed on each other's past: the scales of more are more than the evidence settles.
TOGETHER = 6


def with_disturbance(found: Realization, scaled: Scaling, kind: Disturbance) -> Realization:
    r"""Put a noise model beside the path of a realization, in place of its Kalman gain.

    $$y = G u + v, \qquad v_t = \sum_k A_k v_{t-k} + e_t$$

    The path from the inputs keeps its simulation, the prediction gets a noise model of its own (Box-Jenkins).
    `short` takes the lags by the Bayesian information criterion; `smooth` and `wandering` are long, under a
    kernel prior about zero and about a random walk; `level` fits nothing, and carries the last error on
    almost for ever: errors on the record itself are too small to be learned from where the path has many
    parameters for its samples. `integrated` is the autoregression of the changes.

    Parameters
    ----------
    found : Realization
    scaled : Scaling
        Without gaps.
    kind : {"own", "short", "smooth", "wandering", "level", "integrated"}
        `own` leaves the realization as it is.

    Raises
    ------
    UnstableError
        If the noise model is not stable.
    ExcitationError
        If the record is too short for it.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 4.2.
    G. E. P. Box, G. M. Jenkins, *Time Series Analysis*, Holden-Day 1970, chapter 4 (noise that stays).
    """
    if kind == "own":
        return found
    p, silent = scaled.y.shape[1], np.zeros_like(found.K)
    if kind == "level":
        A, C, K = STAYING * np.eye(p), np.eye(p), STAYING * np.eye(p)
    else:
        target = scaled.y - found.offset
        error, _ = one_step_innovations(*found[:4], silent, scaled.u, target, scaled.starts)
        noise = scaled._replace(u=scaled.u[:, :0], y=error)
        if kind == "short":
            model = _short(noise)
        elif kind == "integrated":
            model = _integrated(noise)
        else:
            model = _smooth(noise, walk=kind == "wandering")
        A, C, K = model.A, model.C, model.K
    count = len(A)
    return found._replace(
        A=scipy.linalg.block_diag(found.A, A),
        B=np.vstack([found.B, np.zeros((count, found.B.shape[1]))]),
        C=np.hstack([found.C, C]),
        K=np.vstack([silent, K]),
        x0=np.zeros(len(found.A) + count),
    )


def _short(noise: Scaling) -> Realization:
    highest = max(1, min(MOST_SHORT_LAGS, longest_lags(noise)))
    lags = 1 + int(np.argmin(order_criterion(noise, highest, 1, "bic")))
    found = fit_arx(noise, lags, 0, 1)
    if found.radius >= 1:
        raise UnstableError("the noise model is not stable.")
    return found


def _integrated(noise: Scaling) -> Realization:
    r"""Autoregression of what is left of $v_t - \rho v_{t-1}$, with the pole $\rho$ beside its own."""
    fast = _short(noise._replace(y=changes_of(noise.y, noise.spans)))
    p = noise.y.shape[1]
    # v = rho v[-1] + C x + e: the level is a state of its own, driven by what the fast part puts out.
    A = np.block([[fast.A, np.zeros((len(fast.A), p))], [fast.C, STAYING * np.eye(p)]])
    return fast._replace(
        A=A,
        B=np.zeros((len(A), 0)),
        C=np.hstack([fast.C, STAYING * np.eye(p)]),
        K=np.vstack([fast.K, np.eye(p)]),
        offset=np.zeros(p),
        x0=np.zeros(len(A)),
    )


def changes_of(values: Array, spans: Sequence[slice]) -> Array:
    r"""$v_t - \rho v_{t-1}$ within each experiment, with the pole $\rho$ of noise that stays; zero first."""
    changes = values.copy()
    for rows in spans:
        changes[rows][1:] -= STAYING * values[rows][:-1]
        changes[rows][0] = 0.0
    return changes


def _smooth(noise: Scaling, *, walk: bool) -> Realization:
    """Long autoregression under a kernel prior; of many outputs each by itself."""
    p = noise.y.shape[1]
    most = max(1, min(SMOOTH_LAGS, MOST_STATES // p))
    if p <= TOGETHER:
        return _regularized(noise, most, walk=walk)
    parts = [_regularized(noise._replace(y=noise.y[:, k : k + 1]), most, walk=walk) for k in range(p)]
    A, C, K = (
        scipy.linalg.block_diag(*blocks)
        for blocks in zip(*[part[:1] + part[2:3] + part[4:5] for part in parts])
    )
    return parts[0]._replace(A=A, B=np.zeros((len(A), 0)), C=C, D=np.zeros((p, 0)), K=K, x0=np.zeros(len(A)))


def _regularized(noise: Scaling, most: int, *, walk: bool) -> Realization:
    """Up to `most` lags; poles that wander stay just inside the unit circle."""
    p = noise.y.shape[1]
    lags = min(most, len(noise.y) // SAMPLES_PER_LAG, max(noise.lengths) // 2)
    while lags > 1 and p * (lags * p) ** 3 > EVIDENCE_WORK:
        lags -= 1
    if lags < 1:
        raise ExcitationError(f"{len(noise.y)} samples are too few for a noise model.")
    size = noise.y.std(axis=0) + 1e-12
    found = fit_regularized_varx(
        noise._replace(y=noise.y / size), lags, delay=1, walk=walk, iterations=EVIDENCE_STEPS
    )
    A, K = found.A, found.K
    if found.radius >= STAYING:
        # The coefficients of lag k times the k-th power of a factor: all poles shrink by that factor.
        factor = STAYING / found.radius
        if factor < MOST_SHRINKAGE:
            raise UnstableError("the noise model is not stable.")
        powers = np.repeat(factor ** np.arange(1, lags + 1), p)[:, None]
        A = A.copy()
        A[:, :p] *= powers
        K = K * powers
    return found._replace(A=A, C=found.C * size[:, None], K=K / size)
