"""Means of models: side by side, their parameters do not have to be alike."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.realization import Realization

__all__ = ["mean_path", "mean_predictor", "without_path"]

Array = NDArray[np.float64]


def mean_path(members: list[Realization]) -> Realization:
    """Mean of the paths from the inputs of several models; no noise model."""
    D = np.mean([found.D for found in members], axis=0)
    stacked = _side_by_side(members, [found.A for found in members], [found.B for found in members], D)
    C = np.hstack([found.C for found in members]) / len(members)
    return stacked._replace(C=C, K=np.zeros((len(stacked.A), len(C))))


def without_path(found: Realization) -> Realization:
    """Only the level: what is estimated from few samples may be worse than no effect of the inputs at all."""
    p, m = found.D.shape
    return found._replace(
        A=np.zeros((0, 0)),
        B=np.zeros((0, m)),
        C=np.zeros((p, 0)),
        D=np.zeros((p, m)),
        K=np.zeros((0, p)),
        x0=np.zeros(0),
    )


def mean_predictor(members: list[Realization]) -> Realization:
    r"""Mean of the one-step predictors of several models, as one model in innovations form.

    $$x_i^+ = (A_i - K_i C_i) x_i + (B_i - K_i D_i) u + K_i (y - \mu_i), \qquad
    \hat y = \tfrac1r \sum_i (C_i x_i + D_i u + \mu_i)$$

    The offsets are taken to be one and the same, their mean.
    """
    D = np.mean([found.D for found in members], axis=0)
    K = np.vstack([found.K for found in members])
    stacked = _side_by_side(
        members,
        [found.A - found.K @ found.C for found in members],
        [found.B - found.K @ found.D for found in members],
        D,
    )
    C = np.hstack([found.C for found in members]) / len(members)
    return stacked._replace(A=stacked.A + K @ C, B=stacked.B + K @ D, C=C, K=K)


def _side_by_side(members: list[Realization], A: list[Array], B: list[Array], D: Array) -> Realization:
    return members[0]._replace(
        A=scipy.linalg.block_diag(*A),
        B=np.vstack(B),
        D=D,
        offset=np.mean([found.offset for found in members], axis=0),
        x0=np.zeros(sum(len(found.A) for found in members)),
        feedthrough=any(found.feedthrough for found in members),
        stabilized=all(found.stabilized for found in members),
    )
