"""Covariances that a filter starts from: of the stationary state, of a first state that was given."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, RankError, ShapeError, UnstableError
from realization.systems.lyapunov import discrete_lyapunov
from realization.systems.models import InnovationsModel

__all__ = ["cholesky_of", "first_covariance", "root_of", "stationary_covariance"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


def stationary_covariance(model: InnovationsModel) -> Array:
    r"""Stationary covariance of the state that the innovations drive: $P = A P A^\top + K R_e K^\top$.

    Parameters
    ----------
    model : InnovationsModel
        Stable.

    Returns
    -------
    P : ndarray, shape (n, n)

    Raises
    ------
    UnstableError
        If the model is not stable.

    References
    ----------
    B. D. O. Anderson, J. B. Moore, *Optimal Filtering*, Prentice-Hall 1979, section 4.2.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import stationary_covariance
    >>> stationary_covariance(rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])).round(4)
    array([[0.3333]])
    """
    if not model.is_stable:
        raise UnstableError(
            f"stationary_covariance: the model has a pole of modulus {abs(model.poles[0]):.6g}, so its "
            "state has no stationary covariance. Give P0 (zeros where the first state is known)."
        )
    if model.n_states == 0:
        return np.zeros((0, 0))
    P = discrete_lyapunov(model.A, model.K @ model.Re @ model.K.T)
    return (P + P.T) / 2


def cholesky_of(Re: Array, caller: str) -> Array:
    """Lower Cholesky factor of an innovation covariance, or an error that says what to do."""
    # Of the correlations, so that outputs in other units are not taken for redundant ones.
    deviations = np.sqrt(np.maximum(np.diag(Re), 0.0))
    values = np.linalg.eigvalsh(Re / deviations / deviations[:, None]) if deviations.all() else np.zeros(1)
    if len(values) and not values[0] > len(values) * EPS * values[-1]:
        raise RankError(
            f"{caller}: the innovation covariance Re is singular (its correlations have the eigenvalues "
            f"{values[0]:.3g} to {values[-1]:.3g}), so innovations have no density. Drop redundant outputs, "
            "or give the model a small Re."
        )
    return np.linalg.cholesky(Re).astype(float)


def first_covariance(model: InnovationsModel, P0: ArrayLike | None, caller: str) -> Array:
    """`P0` if it is a covariance, the stationary one where it is left out."""
    if P0 is None:
        return stationary_covariance(model)
    n = model.n_states
    P = as_real(P0, "P0")
    if P.shape != (n, n):
        raise ShapeError(f"{caller}: P0 has shape {P.shape}; it must be {(n, n)}.")
    if not np.isfinite(P).all():
        raise DataError(f"{caller}: P0 has entries that are NaN or infinite.")
    scale = np.abs(P).max(initial=0.0)
    if np.abs(P - P.T).max(initial=0.0) > 1e-10 * scale:
        raise DataError(f"{caller}: P0 is not symmetric.")
    if n and np.linalg.eigvalsh(P)[0] < -1e-10 * scale:
        raise DataError(f"{caller}: P0 is not positive semidefinite.")
    return (P + P.T) / 2


def root_of(P: Array) -> Array:
    """A square root $P = Z Z^T$ of a covariance that may be singular.

    The correlations are decomposed, not the covariances: a state in small units keeps its digits.
    """
    deviations = np.sqrt(np.maximum(np.diag(P), 0.0))
    inverse = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0)
    values, vectors = np.linalg.eigh(inverse[:, None] * P * inverse)
    return deviations[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
