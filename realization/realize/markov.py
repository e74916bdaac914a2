"""Markov parameters and covariances of a model: the sequences that every realization of a system shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.errors import RealizationError, ShapeError, UnstableError
from realization.systems import InnovationsModel, StateSpace, controllability_gramian

__all__ = ["covariances", "markov_parameters", "output_statistics"]


def markov_parameters(model: StateSpace, count: int) -> NDArray[np.float64]:
    r"""First Markov parameters of a model.

    $$h_0 = D, \qquad h_k = C A^{k-1} B$$

    In discrete time they are the impulse response. In continuous time (`dt=0.0`) they are its derivatives at
    $t = 0^+$; any realization construction takes either. Those of the noise path are
    `markov_parameters(model.noise, count)`.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        Of the latter, the path from input to output.
    count : int
        How many, `h[0]` included.

    Returns
    -------
    h : ndarray, shape (count, p, m)

    Raises
    ------
    UnstableError
        If they grow past what floating point holds.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.2.

    Examples
    --------
    >>> import realization as rz
    >>> rz.markov_parameters(rz.StateSpace([[0.5]], [[1.0]], [[2.0]], [[3.0]]), 4)[:, 0, 0]
    array([3. , 2. , 1. , 0.5])
    """
    if not isinstance(count, int | np.integer) or count < 1:
        raise ShapeError(f"markov_parameters: count={count!r} came; a whole number, at least 1, is needed.")
    h = np.empty((count, model.n_outputs, model.n_inputs))
    h[0] = model.D
    reached = model.B
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, count):
            h[k] = model.C @ reached
            reached = model.A @ reached
    finite = np.isfinite(h).all(axis=(1, 2))
    if not finite.all():
        raise UnstableError(
            f"markov_parameters: h[{np.argmin(finite)}] overflows; the poles reach modulus "
            f"{np.abs(model.poles).max():.3g}. Ask for fewer than {np.argmin(finite)}."
        )
    return h


def covariances(model: InnovationsModel, count: int) -> NDArray[np.float64]:
    r"""Covariances of the stationary output of a model without inputs.

    $$\Lambda_k = \operatorname{E}[y_{t+k} y_t^T] = C A^{k-1} \bar C^T, \quad
    \bar C^T = A P C^T + K R_e, \quad
    \Lambda_0 = C P C^T + R_e$$

    with the state covariance $P = A P A^T + K R_e K^T$; the mean of the output is taken off. They are to a
    process what Markov parameters are to a system: `stochastic_realization` finds the model from them.

    Parameters
    ----------
    model : InnovationsModel
        Stable, in discrete time, with no inputs.
    count : int
        How many, `Lambda[0]` included.

    Returns
    -------
    Lambda : ndarray, shape (count, p, p)

    Raises
    ------
    UnstableError
        If the model is not stable.
    RealizationError
        If it has inputs, or is in continuous time.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 6.1.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> walk = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]], Re=[[0.75]])
    >>> rz.covariances(walk, 4)[:, 0, 0].round(12)
    array([1.   , 0.5  , 0.25 , 0.125])
    """
    if not isinstance(count, int | np.integer) or count < 1:
        raise ShapeError(f"covariances: count={count!r} came; a whole number, at least 1, is needed.")
    Cbar, Lambda0, _ = output_statistics(model, "covariances")
    path = StateSpace(model.A, Cbar.T, model.C, Lambda0, model.dt)
    return markov_parameters(path, count)


def output_statistics(
    model: InnovationsModel, caller: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""$\bar C$, $\Lambda_0$ and the state covariance $P$ of a stable model without inputs."""
    if model.n_inputs:
        raise RealizationError(
            f"{caller}: the model has {model.n_inputs} inputs, and its output's covariances depend on "
            "theirs. Take the noise path alone: InnovationsModel(A, np.zeros((n, 0)), C, K=K, Re=Re)."
        )
    if model.dt == 0:
        raise RealizationError(f"{caller}: the model is in continuous time; discretize it first.")
    P = controllability_gramian(model)
    Cbar = (model.A @ P @ model.C.T + model.K @ model.Re).T
    Lambda0 = model.C @ P @ model.C.T + model.Re
    return Cbar, (Lambda0 + Lambda0.T) / 2, P
