r"""The exact Gaussian likelihood of a record, and its derivatives with respect to the model.

With the first state known the innovations model has a constant gain, and everything is one recurrence. An
uncertain first state $x_0 + \delta$ acts on the innovations linearly, $e_t = \bar e_t - C F^t \delta$, and is
integrated out at the end: no Riccati recursion, whatever the length of the transient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from bmojo_kernels.lti_scan.numba_cpu import add_product
from numpy.typing import ArrayLike, NDArray

from realization.errors import UnstableError
from realization.filtering.covariance import root_of
from realization.filtering.finite_gramian import finite_gramian, finite_gramian_adjoint
from realization.filtering.kalman import first_state
from realization.filtering.likelihood_adjoint import Derivatives, likelihood_by_recursion
from realization.filtering.observations import Observations, observations
from realization.signals.data import IOData
from realization.systems.lyapunov import discrete_lyapunov
from realization.systems.models import InnovationsModel

__all__ = ["LikelihoodGradient", "LogLikelihood", "log_likelihood"]

Array = NDArray[np.float64]
GROWTH = 1e6
"""Powers of the predictor that grow past this cost too many digits to integrate the first state out last."""


@dataclass(frozen=True, eq=False)
class LikelihoodGradient:
    r"""Derivatives of the log-likelihood, each in the shape of what it belongs to.

    Where `P0` was left out it follows from `A`, `K` and `Re`, and their derivatives count that; `P0` is then
    the derivative with respect to the covariance alone. Those of `Re` and `P0` are symmetric:
    $d\ell = \operatorname{tr}(G\, dR_e)$ for a symmetric change, `G` the one of `Re`.

    Attributes
    ----------
    A, B, C, D, K, Re : ndarrays, shapes (n, n), (n, m), (p, n), (p, m), (n, p), (p, p)
    u_mean, y_mean : ndarrays, shapes (m,), (p,)
    x0, P0 : ndarrays, shapes (n,), (n, n)

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import log_likelihood
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> gradient = log_likelihood(model, np.ones(3), gradient=True).gradient
    >>> gradient.Re.round(3), gradient.y_mean
    (array([[-0.875]]), array([1.25]))
    """

    A: Array
    B: Array
    C: Array
    D: Array
    K: Array
    Re: Array
    u_mean: Array
    y_mean: Array
    x0: Array
    P0: Array


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log-likelihood of a record under a model.

    Attributes
    ----------
    value : float
        In nats.
    gradient : LikelihoodGradient or None
        Its derivatives, where they were asked for.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import log_likelihood
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> log_likelihood(model, [0.0]).gradient is None
    True
    """

    value: float
    gradient: LikelihoodGradient | None


def log_likelihood(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    x0: ArrayLike | None = None,
    P0: ArrayLike | None = None,
    steady: bool = False,
    gradient: bool = False,
) -> LogLikelihood:
    r"""Exact log-likelihood of a record, with its gradient in one forward and one backward pass.

    With $F = A - KC$, $\bar e_t$ the innovations of the predictor from `x0`,
    $O_T = \sum_{t<T} (F^t)^\top C^\top R_e^{-1} C F^t$ and
    $\beta = \sum_{t<T} (F^t)^\top C^\top R_e^{-1} \bar e_t$:

    $$-2 \ell = T p \log 2\pi + T \log \det R_e + \sum_t \bar e_t^\top R_e^{-1} \bar e_t
    + \log \det (I + O_T P_0) - \beta^\top P_0 (I + O_T P_0)^{-1} \beta$$

    Missing outputs, and a predictor whose powers grow, go through the covariance recursion and its adjoint.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
        Outputs may be missing (`IOData(..., missing=True)`).
    x0 : array_like, shape (n,), optional
        Mean of the first state; zero when left out.
    P0 : array_like, shape (n, n), optional
        Its covariance; the stationary one when left out.
    steady : bool
        Take the first state as known: `P0` of zeros.
    gradient : bool
        Whether to compute derivatives.

    Returns
    -------
    LogLikelihood

    Raises
    ------
    UnstableError
        If `P0` is left out and the model is not stable.
    RankError
        If the innovation covariance is singular.
    ShapeError, DataError
        As `kalman_filter`.

    References
    ----------
    P. de Jong, The likelihood for a state space model, Biometrika 75 (1988) 165-169.
    S. J. Koopman, N. Shephard, Exact score for time series models in state space form, Biometrika 79 (1992)
    823-826.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import log_likelihood
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> found = log_likelihood(model, [1.0, 1.0], gradient=True)
    >>> round(found.value, 6), round(rz.kalman_filter(model, [1.0, 1.0]).log_likelihood, 6)
    (-2.481718, -2.481718)
    """
    seen = observations(model, data, "log_likelihood")
    start, P = first_state(model, x0, P0, steady, "log_likelihood")
    O, steps = _gramian(model, seen)
    if O is None:
        value, found = likelihood_by_recursion(model, seen, start, P, gradient)
    else:
        value, found = _by_first_state(model, seen, start, P, (O, steps), gradient)
    if not np.isfinite(value):
        raise UnstableError("log_likelihood: the predictor overflows over this record; use a shorter one.")
    value -= 0.5 * int(seen.record.observed.sum()) * float(np.log(2 * np.pi))
    if found is None:
        return LogLikelihood(value, None)
    if P0 is None and not steady:
        found = _through_stationary(model, P, found)
    return LogLikelihood(value, LikelihoodGradient(**found._asdict()))


def _gramian(model: InnovationsModel, seen: Observations) -> tuple[Array | None, list]:
    """`O_T` with the steps to it; None where the first state cannot be integrated out last."""
    if seen.complete_from:
        return None, []
    F = seen.noises.F[0]
    W = model.C.T @ np.linalg.solve(model.Re, model.C)
    with np.errstate(over="ignore", invalid="ignore"):
        O, steps = finite_gramian(F, (W + W.T) / 2, seen.record.length)
    largest = max((np.abs(Phi).max(initial=0.0) for step in steps for Phi in step[1::2]), default=0.0)
    safe = np.isfinite(O).all() and largest <= GROWTH * max(1.0, np.abs(F).max(initial=0.0))
    return (O, steps) if safe else (None, [])


def _by_first_state(
    model: InnovationsModel,
    seen: Observations,
    x0: Array,
    P0: Array,
    known: tuple[Array, list],
    gradient: bool,
) -> tuple[float, Derivatives | None]:
    """Log-likelihood without its constant: the first state is estimated, then everything starts from it."""
    T, u, y, C = seen.record.length, seen.u, seen.y, model.C
    F, Re = seen.noises.F[0], model.Re
    W = np.linalg.inv(Re)
    inputs, signals = np.hstack([model.B - model.K @ model.D, model.K]), np.hstack([u, y])
    O, Z = known[0], root_of(P0)
    # The posterior of δ is N(M β, M), M = Z (I + Zᵀ O Z)⁻¹ Zᵀ: P0 may be singular.
    factor = scipy.linalg.cho_factor(np.eye(len(Z)) + Z.T @ O @ Z, lower=True)
    M = Z @ scipy.linalg.cho_solve(factor, Z.T)
    reach = _reach(F, T)
    states, _ = lti_scan(F, inputs, signals[:reach], x0)
    e = y[:reach] - states @ C.T - u[:reach] @ model.D.T
    beta = adjoint_states(F, C, e @ W)[0]
    delta = M @ beta
    states, _ = lti_scan(F, inputs, signals, x0 + delta)
    e = y - states @ C.T - u @ model.D.T
    g = e @ W
    # δᵀ P0⁻¹ δ = ‖Zᵀ (β - O δ)‖², without the inverse: P0⁻¹ δ = β - O δ.
    told = beta - O @ delta
    log_det = T * np.linalg.slogdet(Re)[1] + 2 * np.log(np.diag(factor[0])).sum()
    value = -0.5 * float(log_det + np.vdot(e, g) + ((Z.T @ told) ** 2).sum())
    if not gradient:
        return value, None
    return value, _derivatives(model, seen, states, e, g, M, known, told, P0)


def _derivatives(
    model: InnovationsModel,
    seen: Observations,
    states: Array,
    e: Array,
    g: Array,
    M: Array,
    known: tuple[Array, list],
    told: Array,
    P0: Array,
) -> Derivatives:
    """Fisher's identity: derivatives as if the first state were known, averaged over its posterior."""
    K, C, F, T = model.K, model.C, seen.noises.F[0], len(e)
    W = np.linalg.inv(model.Re)
    mu = adjoint_states(F, C, g)
    following, ones = mu[1:].T, np.ones(T)
    A, B, K_bar, mu_sum = following @ states, following @ seen.u, following @ e, following @ ones
    # The total derivative of e_t is Kᵀ μ_{t+1} - W e_t.
    C_bar, D_bar, e_sum = K.T @ A - g.T @ states, K.T @ B - g.T @ seen.u, K.T @ mu_sum - g.T @ ones
    # What the spread of the first state adds: -½ tr(M O_T), M held.
    F_bar, W_bar = finite_gramian_adjoint(F, C.T @ W @ C, T, known[1], -0.5 * M)
    spread = C @ W_bar @ C.T
    Re_bar = 0.5 * (g.T @ g) - 0.5 * T * W - W @ spread @ W
    posterior = np.linalg.solve(np.eye(len(P0)) + known[0] @ P0, known[0])
    P_bar = 0.5 * (np.outer(told, told) - posterior)
    return Derivatives(
        A=A + F_bar,
        B=B,
        C=-C_bar - K.T @ F_bar + 2 * W @ C @ W_bar,
        D=-D_bar,
        K=K_bar - F_bar @ C.T,
        Re=(Re_bar + Re_bar.T) / 2,
        u_mean=model.D.T @ e_sum - model.B.T @ mu_sum,
        y_mean=-e_sum,
        x0=mu[0],
        P0=(P_bar + P_bar.T) / 2,
    )


def _reach(F: Array, T: int) -> int:
    """Samples until the first state is forgotten to rounding: the rest says nothing about it."""
    power, reach = F, 1
    while reach < T and np.linalg.norm(power) > 1e-20:
        power, reach = power @ power, 2 * reach
    return min(reach, T)


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def adjoint_states(F: Array, C: Array, g: Array) -> Array:
    r"""$\mu_t = F^\top \mu_{t+1} + C^\top g_t$ from $\mu_T = 0$, shape (T + 1, n)."""
    mu = np.zeros((len(g) + 1, len(F)))
    for t in range(len(g) - 1, -1, -1):
        add_product(C, g[t], mu[t])
        add_product(F, mu[t + 1], mu[t])
    return mu


def _through_stationary(model: InnovationsModel, P: Array, found: Derivatives) -> Derivatives:
    r"""Through $P_0 = A P_0 A^\top + K R_e K^\top$: adjoint $\Lambda = A^\top \Lambda A + \bar P_0$."""
    if model.n_states == 0:
        return found
    Lambda = discrete_lyapunov(model.A.T, found.P0)
    Lambda = (Lambda + Lambda.T) / 2
    return found._replace(
        A=found.A + 2 * Lambda @ model.A @ P,
        K=found.K + 2 * Lambda @ model.K @ model.Re,
        Re=found.Re + model.K.T @ Lambda @ model.K,
    )
