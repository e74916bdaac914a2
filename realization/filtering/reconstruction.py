"""What a fixed-size state and a few kept innovations remember of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError, UnstableError
from realization.filtering.covariance import cholesky_of
from realization.filtering.selection import Rule, Selection, select_innovations
from realization.filtering.small_matrices import multiply, multiply_transposed
from realization.signals.data import IOData
from realization.signals.fit import percent_of_spread
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
        The outputs' conditional mean given the stored states and the kept innovations.
    e : ndarray, shape (T, p)
        Innovations: those that were kept, and the conditional mean of the others.
    error : float
        $\sum_t (e_t - \hat e_t)^\top R_e^{-1} (e_t - \hat e_t)$, what was forgotten; it never grows when
        more is kept.
    floats : int
        Numbers stored: the states, and for each kept sample its innovation and its position.

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
    e: Array
    error: float
    floats: int
    _record: IOData
    _model: InnovationsModel
    _kept: NDArray[np.bool_]
    _basis: Array
    _starts: NDArray[np.int64]

    @property
    def fit(self) -> Array:
        r"""$100 (1 - \|y - \hat y\| / \|y - \bar y\|)$ per output, in percent, shape (p,).

        A constant output has no spread to compare with, and is an error here (`DataError`); all else of the
        reconstruction is there for it too.
        """
        return percent_of_spread(self._record.y, np.linalg.norm(self._record.y - self.y, axis=0), "fit")

    @cached_property
    def innovation_covariances(self) -> Array:
        r"""Covariances of $e_t - \hat e_t$ under the model, shape (T, p, p); zero where $e_t$ was kept."""
        root = np.linalg.cholesky(self._model.Re)
        told = root @ self._basis
        covariances = self._model.Re - told @ told.transpose(0, 2, 1)
        return np.where(self._kept[:, None, None], 0.0, covariances)

    @cached_property
    def output_covariances(self) -> Array:
        r"""Covariances of $y_t - \hat y_t$ under the model, shape (T, p, p)."""
        model = self._model
        told = np.linalg.cholesky(model.Re) @ self._basis
        starts = np.zeros(len(self.y), dtype=np.bool_)
        starts[self._starts] = True
        return output_covariances(model.A, model.K, model.C, model.Re, told, self._kept, starts)


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


def reconstruct(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    selection: Selection,
    *,
    chunk: int | None = None,
) -> Reconstruction:
    r"""Rebuild a record from stored states and the kept innovations, by smoothing.

    The kept innovations are exact observations, the others have covariance $R_e$, and the state is known at
    both ends of a stretch of `N` samples. The smoother's adjoint runs back from what the last state tells,

    $$\lambda_N = P_N^{+} (x_N - m_N), \quad \lambda_t = A^\top \lambda_{t+1}, \quad
    \hat e_t = R_e K^\top \lambda_{t+1}, \quad
    \operatorname{cov}(e_t - \hat e_t) = R_e - R_e K^\top (A^{N-1-t})^\top P_N^{+} A^{N-1-t} K R_e,$$

    with $m$ the path of the kept innovations alone, $P_0 = 0$ and $P_{t+1} = A P_t A^\top + K R_e K^\top$
    (without the last term where $e_t$ was kept). $P_N$ is used through an orthogonal basis of what the last
    state sees, never inverted. The inputs, where the model has them, count as known.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
        The record that `selection` was made from.
    selection : Selection
    chunk : int, optional
        Samples between stored states. Only the first and the last are stored when left out.

    Returns
    -------
    Reconstruction

    Raises
    ------
    ShapeError
        If the selection belongs to a record of another length.
    DataError
        If `chunk` is not positive.
    UnstableError
        If the model's response overflows over the record.
    RankError
        If the model's innovation covariance is singular.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 2.2 and chapter 15.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import reconstruct, select_innovations
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(100))
    >>> rebuilt = reconstruct(model, y, select_innovations(model, y, budget=100))
    >>> bool(np.allclose(rebuilt.y, y))
    True
    >>> blurred = reconstruct(model, y, select_innovations(model, y, budget=0), chunk=20)
    >>> blurred.floats, blurred.output_covariances[[0, 10], 0, 0].round(3)
    (6, array([0.996, 4.093]))
    """
    record = model._record(data)
    if selection.e.shape != record.y.shape:
        raise ShapeError(
            f"reconstruct: the selection is of a record of shape {selection.e.shape}, this one has "
            f"{record.y.shape}."
        )
    if chunk is not None and (not isinstance(chunk, int | np.integer) or chunk < 1):
        raise DataError(
            f"reconstruct: chunk={chunk!r} came; a whole number of samples, at least 1, must lie between "
            "stored states."
        )
    T, n = record.length, model.n_states
    root = cholesky_of(model.Re, "reconstruct")
    starts = np.arange(0, T, T if chunk is None else chunk)
    e = np.where(selection.kept[:, None], selection.e, 0.0)
    basis = np.zeros((T, model.n_outputs, n))
    reach = _reach(model, int(min(T, starts[1] if len(starts) > 1 else T)))
    for begin in starts if n else []:
        stop = min(begin + len(reach), T)
        missing = np.flatnonzero(~selection.kept[begin:stop])
        if not len(missing):
            continue
        sight = reach[len(reach) - (stop - begin) :][missing]
        # What the missing innovations left in the state at the end: kept ones and inputs cancel in it.
        left = np.einsum("tnp,tp->n", sight, selection.e[begin + missing])
        white = np.einsum("tnp,pq->ntq", sight, root).reshape(n, -1)
        estimate, directions = _minimum_norm(white, left)
        shape = (len(missing), model.n_outputs)
        e[begin + missing] = estimate.reshape(shape) @ root.T
        basis[begin + missing, :, : directions.shape[1]] = directions.reshape(*shape, directions.shape[1])
    y = model.simulate(record.inputs, selection.x0, e=e)
    if not np.isfinite(y).all():
        raise UnstableError(
            "reconstruct: the model's response overflows over this record; use a shorter one."
        )
    lost = scipy.linalg.solve_triangular(root, (selection.e - e).T, lower=True)
    floats = (len(starts) + 1) * n + len(selection.index) * (model.n_outputs + 1)
    return Reconstruction(y, e, float((lost**2).sum()), floats, record, model, selection.kept, basis, starts)


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

    Raises
    ------
    DataError
        If an output is constant: a fit in percent of its spread is not defined.

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
    if len(budgets) == 0:
        raise DataError("reconstruction_curve: budgets is empty; at least one is needed.")
    x0 = model.estimate_x0(record, focus="prediction")
    rows = []
    for budget in budgets:
        chosen = select_innovations(
            model, record, budget=budget, rule=rule, alpha=alpha, x0=x0, scores=scores, seed=seed
        )
        rows.append(reconstruct(model, record, chosen))
    residual = np.array([np.linalg.norm(record.y - row.y, axis=0) for row in rows])
    return ReconstructionCurve(
        budget=np.asarray(budgets, dtype=np.int64),
        fit=percent_of_spread(record.y, residual, "reconstruction_curve"),
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


def _minimum_norm(white: Array, r: Array) -> tuple[Array, Array]:
    """Shortest `v` with `white v = r`, and an orthonormal basis of the directions that `r` determines.

    Rows are scaled first so that no state is lost to its units.
    """
    scale = np.linalg.norm(white, axis=1)
    held = scale > 0
    if not held.any():
        return np.zeros(white.shape[1]), np.zeros((white.shape[1], 0))
    rows = white[held] / scale[held, None]
    # The short side first: QR of the long one, then a small decomposition.
    Q, R = scipy.linalg.qr(rows.T, mode="economic")
    U, singular, Vt = np.linalg.svd(R.T, full_matrices=False)
    rank = int((singular > 1e-13 * singular[0]).sum())
    basis = Q @ Vt[:rank].T
    shortest = basis @ ((U[:, :rank].T @ (r[held] / scale[held])) / singular[:rank])
    return shortest, np.asarray(basis, dtype=float)


@numba.njit(cache=True)
def output_covariances(
    A: Array, K: Array, C: Array, Re: Array, told: Array, kept: NDArray[np.bool_], starts: NDArray[np.bool_]
) -> Array:
    r"""$C P_t C^\top + R_e - W_t W_t^\top$, with $W_t$ what the stored states tell of $y_t$, in one pass."""
    T, p, rank = told.shape
    n = len(A)
    found = np.zeros((T, p, p))
    P, Psi = np.zeros((n, n)), np.zeros((n, rank))
    CP, CPC, W, WW = np.empty((p, n)), np.empty((p, p)), np.empty((p, rank)), np.empty((p, p))
    AP, APA, A_Psi, K_told = np.empty((n, n)), np.empty((n, n)), np.empty((n, rank)), np.empty((n, rank))
    KR, KRK = np.empty((n, p)), np.empty((n, n))
    multiply(K, Re, KR)
    multiply_transposed(KR, K, KRK)
    for t in range(T):
        if starts[t]:
            P[:], Psi[:] = 0.0, 0.0
        multiply(C, P, CP)
        multiply_transposed(CP, C, CPC)
        multiply(C, Psi, W)
        W += told[t]
        multiply_transposed(W, W, WW)
        found[t] = CPC - WW
        if not kept[t]:
            found[t] += Re
        multiply(A, P, AP)
        multiply_transposed(AP, A, APA)
        multiply(A, Psi, A_Psi)
        multiply(K, told[t], K_told)
        P[:], Psi[:] = APA, A_Psi + K_told
        if not kept[t]:
            P += KRK
    return found
