"""What a fixed-size state and a few kept innovations remember of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import ShapeError, UnstableError
from realization.filtering.kalman import cholesky_of
from realization.filtering.selection import Rule, Selection, select_innovations
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel
from realization.systems.responses import free_response

__all__ = ["Reconstruction", "ReconstructionCurve", "reconstruct", "reconstruction_curve"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    r"""A record as it is remembered.

    Attributes
    ----------
    y : ndarray, shape (T, p)
        The outputs' conditional mean given the first state, the last state and the kept innovations.
    fit : ndarray, shape (p,)
        $100 (1 - \|y - \hat y\| / \|y - \bar y\|)$ per output, in percent; NaN where an output is constant.
    e : ndarray, shape (T, p)
        Innovations: those that were kept, and the conditional mean of the others.
    error : float
        $\sum_t (e_t - \hat e_t)^\top R_e^{-1} (e_t - \hat e_t)$, what was forgotten; it never grows when
        more is kept.
    floats : int
        Numbers stored: two states, and for each kept sample its innovation and its position.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import reconstruct, select_innovations
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = np.array([0.0, 0.0, 5.0, 2.5, 1.25])
    >>> rebuilt = reconstruct(model, y, select_innovations(model, y, budget=1, x0=[0.0]))
    >>> rebuilt.y[:, 0].round(3), rebuilt.floats
    (array([0.  , 0.  , 5.  , 2.5 , 1.25]), 4)
    """

    y: Array
    fit: Array
    e: Array
    error: float
    floats: int


@dataclass(frozen=True, eq=False)
class ReconstructionCurve:
    """Fit against budget.

    Attributes
    ----------
    budget : ndarray of int, shape (N,)
    fit : ndarray, shape (N, p)
        Percent per output.
    error : ndarray, shape (N,)
        Normalized squared error of the innovations.
    floats : ndarray of int, shape (N,)
        Numbers stored.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import reconstruction_curve
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> reconstruction_curve(model, np.sin(np.arange(30.0)), [0, 4, 30]).budget
    array([ 0,  4, 30])
    """

    budget: NDArray[np.int64]
    fit: Array
    error: Array
    floats: NDArray[np.int64]


def reconstruct(model: InnovationsModel, data: IOData | ArrayLike, selection: Selection) -> Reconstruction:
    r"""Rebuild a record from its first state, its last state and the kept innovations.

    The others are put at their conditional mean given what is stored: with $G_t = A^{T-1-t} K$,

    $$\hat e_t = R_e G_t^\top M^{+} r, \quad M = \sum_{\text{missing}} G_t R_e G_t^\top, \quad
    r = x_T - A^T x_0 - \sum_t A^{T-1-t} B u_t - \sum_{\text{kept}} G_t e_t$$

    The inputs, where the model has them, count as known.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
        The record that `selection` was made from.
    selection : Selection

    Returns
    -------
    Reconstruction

    Raises
    ------
    ShapeError
        If the selection belongs to a record of another length.
    UnstableError
        If the model's response overflows over the record.
    RankError
        If the model's innovation covariance is singular.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 2.2.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import reconstruct, select_innovations
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(100))
    >>> rebuilt = reconstruct(model, y, select_innovations(model, y, budget=100))
    >>> bool(np.allclose(rebuilt.y, y))
    True
    """
    record = model._record(data)
    if selection.e.shape != record.y.shape:
        raise ShapeError(
            f"reconstruct: the selection is of a record of shape {selection.e.shape}, this one has "
            f"{record.y.shape}."
        )
    e = np.where(selection.kept[:, None], selection.e, 0.0)
    missing = np.flatnonzero(~selection.kept)
    if len(missing) and model.n_states:
        factor = cholesky_of(model.Re, "reconstruct")
        # r is what the missing innovations left in the last state: the kept ones and the inputs cancel in it.
        reach = _reach(model, record.length)[missing]
        r = np.einsum("tnp,tp->n", reach, selection.e[missing])
        white = np.einsum("tnp,pq->ntq", reach, factor).reshape(model.n_states, -1)
        estimate = _minimum_norm(white, r).reshape(len(missing), -1)
        e[missing] = estimate @ factor.T
    y = model.simulate(record.inputs, selection.x0, e=e)
    if not np.isfinite(y).all():
        raise UnstableError(
            "reconstruct: the model's response overflows over this record; use a shorter one."
        )
    lost = np.linalg.solve(cholesky_of(model.Re, "reconstruct"), (selection.e - e).T)
    floats = 2 * model.n_states + len(selection.index) * (model.n_outputs + 1)
    return Reconstruction(y, _fit(record.y, y), e, float((lost**2).sum()), floats)


def reconstruction_curve(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    budgets: Sequence[int],
    *,
    rule: Rule = "top",
    alpha: float = 0.01,
    scores: ArrayLike | None = None,
    seed: int = 0,
) -> ReconstructionCurve:
    """How well a record is remembered, against how many innovations may be kept.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
    budgets : sequence of int
    rule, alpha, scores, seed
        As for `select_innovations`; scores of shape (T,).

    Returns
    -------
    ReconstructionCurve

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import reconstruction_curve
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(100))
    >>> curve = reconstruction_curve(model, y, [1, 10, 100])
    >>> bool(np.all(np.diff(curve.error) <= 0)), curve.floats
    (True, array([  4,  22, 202]))
    """
    record = model._record(data)
    x0 = model.estimate_x0(record, focus="prediction")
    rows = []
    for budget in budgets:
        chosen = select_innovations(
            model, record, budget=budget, rule=rule, alpha=alpha, x0=x0, scores=scores, seed=seed
        )
        rows.append(reconstruct(model, record, chosen))
    return ReconstructionCurve(
        budget=np.asarray(budgets, dtype=np.int64),
        fit=np.stack([row.fit for row in rows]),
        error=np.array([row.error for row in rows]),
        floats=np.array([row.floats for row in rows], dtype=np.int64),
    )


def _reach(model: InnovationsModel, length: int) -> Array:
    """`G_t = A^{T-1-t} K` for every `t`, shape (T, n, p)."""
    reach = free_response(model.A.T, model.K.T, length)[::-1].transpose(0, 2, 1)
    if not np.isfinite(reach).all():
        raise UnstableError(
            "reconstruct: the model's response overflows over this record; use a shorter one."
        )
    return reach


def _minimum_norm(white: Array, r: Array) -> Array:
    """Shortest `v` with `white v = r`, rows scaled first so that no state is lost to its units."""
    scale = np.linalg.norm(white, axis=1)
    held = scale > 0
    if not held.any():
        return np.zeros(white.shape[1])
    rows = white[held] / scale[held, None]
    # The short side first: QR of the long one, then a small least-squares problem.
    Q, R = scipy.linalg.qr(rows.T, mode="economic")
    return Q @ scipy.linalg.lstsq(R.T, r[held] / scale[held], cond=1e-13)[0]


def _fit(y: Array, y_hat: Array) -> Array:
    spread = np.linalg.norm(y - y.mean(axis=0), axis=0)
    error = np.linalg.norm(y - y_hat, axis=0)
    return 100 * (1 - np.divide(error, spread, out=np.full(len(spread), np.nan), where=spread > 0))
