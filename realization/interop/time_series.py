"""statsmodels: a model and a record as its Kalman filter."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from realization.errors import DataError, ShapeError
from realization.interop.common import library
from realization.signals.data import IOData, as_data
from realization.systems import InnovationsModel, StateSpace, controllability_gramian

__all__ = ["to_statsmodels"]


def to_statsmodels(model: InnovationsModel, data: IOData | ArrayLike) -> Any:
    r"""An innovations model with a record, as the Kalman filter of statsmodels.

    Its noises are uncorrelated; the innovation acts on state and output at once, so it joins the state:

    $$\begin{bmatrix} x_{t+1} \\ e_{t+1} \end{bmatrix} = \begin{bmatrix} A & K \\ 0 & 0 \end{bmatrix}
    \begin{bmatrix} x_t \\ e_t \end{bmatrix} + \begin{bmatrix} B \\ 0 \end{bmatrix} u_t +
    \begin{bmatrix} 0 \\ I \end{bmatrix} e_{t+1}, \qquad y_t = \bar y + [\,C \;\; I\,]
    \begin{bmatrix} x_t \\ e_t \end{bmatrix} + D u_t$$

    Parameters
    ----------
    model : InnovationsModel
        Stable.
    data : IOData or array_like, shape (T, p)
        The record; axes are turned here.

    Returns
    -------
    statsmodels.tsa.statespace.kalman_filter.KalmanFilter
        Bound to the record, from the stationary state: `.loglike()`, `.filter()`.

    Raises
    ------
    ShapeError
        If the record has not the model's inputs and outputs.
    DataError
        If the model is no innovations model.
    UnstableError
        If it is not stable.

    References
    ----------
    C. Fulton, *Estimating time series models by state space methods in Python: statsmodels*, 2015.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.3]])
    >>> y = np.array([1.0, -0.5, 0.2])
    >>> theirs = rz.interop.to_statsmodels(model, y).loglike()
    >>> bool(abs(theirs - rz.kalman_filter(model, y).log_likelihood) < 1e-12)
    True
    """
    statespace = library("statsmodels.tsa.statespace.kalman_filter", "statsmodels")
    if not isinstance(model, InnovationsModel):
        raise DataError(f"to_statsmodels: a {type(model).__name__} came; an InnovationsModel is needed.")
    record = as_data(data)
    if (record.n_outputs, record.n_inputs) != (model.n_outputs, model.n_inputs):
        raise ShapeError(
            f"to_statsmodels: the record has {record.n_inputs} inputs and {record.n_outputs} outputs, the "
            f"model {model.n_inputs} and {model.n_outputs}."
        )
    n, p = model.n_states, model.n_outputs
    root = scipy.linalg.cholesky(model.Re, lower=True)
    P0 = controllability_gramian(StateSpace(model.A, model.K @ root, model.C))
    u = record.inputs - model.u_mean
    found = statespace.KalmanFilter(k_endog=p, k_states=n + p, k_posdef=p)
    found.bind(np.array(record.y))
    found["transition"] = np.block([[model.A, model.K], [np.zeros((p, n + p))]])
    found["design"] = np.hstack([model.C, np.eye(p)])
    found["selection"] = np.vstack([np.zeros((n, p)), np.eye(p)])
    found["state_cov"] = model.Re
    found["obs_intercept"] = (model.y_mean + u @ model.D.T).T
    found["state_intercept"] = np.vstack([model.B @ u.T, np.zeros((p, record.length))])
    found.initialize_known(np.zeros(n + p), scipy.linalg.block_diag(P0, model.Re))
    return found
