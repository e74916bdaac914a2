r"""A record as the filter takes it: which outputs are there, and what that makes of the noises.

Of $y_t$ only the entries $J$ were measured. The noise that acts on the state, $K e_t$, is then known in part:

$$K e_t = G_J\, e_{J,t} + w_t, \quad G_J = K R_{e,:J} R_{e,JJ}^{-1}, \quad
\operatorname{cov} w_t = Q_J = K (R_e - R_{e,:J} R_{e,JJ}^{-1} R_{e,J:}) K^\top,$$

with $w_t$ independent of $e_{J,t}$, so that $x_{t+1} = F_J x_t + G_J y_{J,t} + w_t$ with $F_J = A - G_J C_J$.
With all outputs there $G = K$ and $Q = 0$; with none $G = 0$ and $Q = K R_e K^\top$.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError
from realization.filtering.covariance import cholesky_of
from realization.signals.data import IOData, as_data
from realization.systems.models import InnovationsModel

__all__ = ["Noises", "Observations", "observations"]

Array = NDArray[np.float64]


class Noises(NamedTuple):
    r"""The model under each of the `s` patterns of missing outputs; the first is "nothing is missing".

    A missing output keeps its row: zero in `C`, one on the diagonal of `R`. With an innovation of zero it
    adds nothing to likelihood, gain or gradient, and all patterns have one shape.
    """

    present: NDArray[np.bool_]
    """(s, p)"""
    C: Array
    """(s, p, n)"""
    F: Array
    """(s, n, n)"""
    G: Array
    """(s, n, p)"""
    Q: Array
    """(s, n, n)"""
    Q_root: Array
    """(s, n, p)"""
    R: Array
    """(s, p, p)"""
    R_root: Array
    """(s, p, p)"""


class Observations(NamedTuple):
    """A record about the operating point, missing outputs at zero."""

    record: IOData
    u: Array
    """(T, m)"""
    y: Array
    """(T, p)"""
    pattern: NDArray[np.int64]
    """(T,), which of the patterns of `noises`"""
    noises: Noises
    complete_from: int
    """First sample from which on nothing is missing."""

    def drive(self, model: InnovationsModel, begin: int, stop: int) -> Array:
        """What the inputs do to the state, shape (stop - begin, n)."""
        return np.ascontiguousarray(self.u[begin:stop] @ model.B.T)

    def direct(self, model: InnovationsModel, begin: int, stop: int) -> Array:
        """Outputs less what the inputs do to them at once, shape (stop - begin, p)."""
        present = self.noises.present[self.pattern[begin:stop]]
        return np.where(present, self.y[begin:stop] - self.u[begin:stop] @ model.D.T, 0.0)


def observations(model: InnovationsModel, data: IOData | ArrayLike, caller: str) -> Observations:
    """Check a record against a model, and take its means and its missing outputs apart."""
    if not isinstance(model, InnovationsModel):
        raise DataError(
            f"{caller}: a {type(model).__name__} came; an InnovationsModel is needed, whose K and Re say how "
            "noisy states and outputs are. innovations_form makes one of noise covariances."
        )
    model._require_discrete(caller)
    record = as_data(data, missing=True)
    if record.n_outputs != model.n_outputs or record.n_inputs != model.n_inputs:
        raise ShapeError(
            f"{caller}: the record has {record.n_inputs} inputs and {record.n_outputs} outputs; the model "
            f"has {model.n_inputs} and {model.n_outputs}."
        )
    cholesky_of(model.Re, caller)
    u = record.inputs - model.u_mean if model.n_inputs else record.inputs
    y = record.y - model.y_mean
    present = np.ones((1, model.n_outputs), dtype=bool)
    pattern, complete_from = np.zeros(record.length, dtype=np.int64), 0
    if record.missing and not record.observed.all():
        partial = np.flatnonzero(~record.observed.all(axis=1))
        kinds, which = np.unique(record.observed[partial], axis=0, return_inverse=True)
        present = np.vstack([present, kinds])
        pattern[partial] = which.reshape(-1) + 1
        complete_from = int(partial[-1]) + 1
        y = np.where(record.observed, y, 0.0)
    return Observations(record, u, y, pattern, _noises(model, present), complete_from)


def _noises(model: InnovationsModel, present: NDArray[np.bool_]) -> Noises:
    columns = [_under(model, there) for there in present]
    return Noises(present, *(np.ascontiguousarray(np.stack(column)) for column in zip(*columns, strict=True)))


def _under(model: InnovationsModel, there: NDArray[np.bool_]) -> tuple[Array, ...]:
    """The matrices of one pattern, by the Cholesky factor of `Re` with the measured outputs first."""
    A, C, K, Re = model.A, model.C, model.K, model.Re
    J, M = np.flatnonzero(there), np.flatnonzero(~there)
    order = np.concatenate([J, M])
    root = np.linalg.cholesky(Re[np.ix_(order, order)])
    known, cross, rest = root[: len(J), : len(J)], root[len(J) :, : len(J)], root[len(J) :, len(J) :]
    C_J = np.where(there[:, None], C, 0.0)
    G = np.zeros(K.shape)
    regression = scipy.linalg.solve_triangular(known, cross.T, lower=True, trans="T").T if len(J) else cross
    G[:, J] = K[:, J] + K[:, M] @ regression
    Q_root = np.zeros(K.shape)
    Q_root[:, M] = K[:, M] @ rest
    R, R_root = np.eye(len(C)), np.eye(len(C))
    R[np.ix_(J, J)], R_root[np.ix_(J, J)] = Re[np.ix_(J, J)], known
    return C_J, A - G @ C_J, G, Q_root @ Q_root.T, Q_root, R, R_root
