"""Spectral factors, and what the past of a process tells about its future."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, RankError, ShapeError
from realization.realize.markov import output_statistics
from realization.realize.positive_real import covariance_model, positive_real_test, riccati
from realization.systems import InnovationsModel, StateSpace, gramian_factors

__all__ = [
    "StochasticBalancing",
    "canonical_correlations",
    "factors",
    "mutual_information",
    "spectral_factor",
    "stochastically_balanced",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StochasticBalancing:
    r"""A process in the state in which past and future look alike.

    Attributes
    ----------
    model : InnovationsModel
        With $P_- = P_+^{-1} = \operatorname{diag}(\sigma_1, \dots, \sigma_n)$ before truncation.
    T : ndarray, shape (n, n)
        The change of state, before truncation.
    canonical_correlations : ndarray, shape (n,)
        All of them, largest first, those cut off too.
    information : float
        Nats about the future that the states kept hold, $-\frac12 \sum \log(1 - \sigma_i^2)$ over those kept.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> walk = rz.InnovationsModel([[0.6]], np.zeros((1, 0)), [[1.0]], K=[[0.6]])
    >>> rz.stochastically_balanced(walk).canonical_correlations.round(12)
    array([0.6])
    """

    model: InnovationsModel
    T: Array
    canonical_correlations: Array
    information: float


def spectral_factor(
    A: ArrayLike, C: ArrayLike, Cbar: ArrayLike, Lambda0: ArrayLike, *, dt: float | None = None
) -> InnovationsModel:
    r"""Innovations model of a process with given covariances: the minimum-phase spectral factor.

    $$\Phi(z) = \Lambda_0 + C (zI - A)^{-1} \bar C^T + \bar C (z^{-1}I - A^T)^{-1} C^T
    = W(z)\, R_e\, W(z^{-1})^T,
    \qquad W(z) = I + C (zI - A)^{-1} K$$

    $P$ is the smallest solution of $P = A P A^T + (\bar C^T - A P C^T) R_e^{-1} (\bar C^T - A P C^T)^T$ with
    $R_e = \Lambda_0 - C P C^T$, and $K = (\bar C^T - A P C^T) R_e^{-1}$.

    Parameters
    ----------
    A : array_like, shape (n, n)
        Stable.
    C : array_like, shape (p, n)
    Cbar : array_like, shape (p, n)
        $\Lambda_k = C A^{k-1} \bar C^T$.
    Lambda0 : array_like, shape (p, p)
    dt : float, optional
        Sampling time of the model.

    Returns
    -------
    InnovationsModel
        With no input; the poles of its predictor lie inside the unit circle, or on it where the spectrum is
        zero.

    Raises
    ------
    DataError
        If the spectrum is negative at some frequency; these are then covariances of no process.
    ShapeError, RankError, UnstableError
        As `positive_real_test`; also if the innovation covariance is singular.
    ConvergenceError
        If the spectrum is nearly zero at some frequency, and the solution was not reached.

    References
    ----------
    P. Faurre, *Stochastic realization algorithms*, in: System Identification: Advances and Case Studies,
    Academic Press 1976, 1-25.

    E. K.-W. Chu, H.-Y. Fan, W.-W. Lin, C.-S. Wang, *Structure-preserving algorithms for periodic
    discrete-time algebraic Riccati equations*, International Journal of Control 77 (2004) 767-788.

    Examples
    --------
    Covariances 1.25, 0.5, 0, 0, ... are those of $e_t + 0.5 e_{t-1}$.

    >>> import realization as rz
    >>> model = rz.spectral_factor([[0.0]], [[1.0]], [[0.5]], [[1.25]])
    >>> model.K.round(12), model.Re.round(12)
    (array([[0.5]]), array([[1.]]))
    """
    given = covariance_model(A, C, Cbar, Lambda0, "spectral_factor")
    test = positive_real_test(*given)
    if not test.positive_real:
        raise DataError(
            f"spectral_factor: the spectrum is negative ({test.minimum:.3g} in units of Lambda0, at omega = "
            f"{test.omega:.4g}): no process has these covariances. Estimate them with the biased estimator "
            "(divide by T at every lag), or use stochastic_realization, which repairs them and says what it "
            "changed."
        )
    solution = riccati(given, "spectral_factor")
    B = np.zeros((len(given.A), 0))
    return InnovationsModel(given.A, B, given.C, dt=dt, K=solution.K, Re=solution.Re)


def canonical_correlations(model: InnovationsModel) -> Array:
    r"""Canonical correlations of the past and the future outputs of a process.

    The best predictor of the future from the past has covariance $\mathcal O P_- \mathcal O^T$, and that of
    the past from the future $\bar{\mathcal O} Q_- \bar{\mathcal O}^T$; in state coordinates

    $$\sigma_i^2 = \lambda_i(P_- Q_-), \qquad Q_- = P_+^{-1},$$

    with $P_-$ the state covariance of the forward innovations model and $Q_-$ that of the backward one. All
    others, of the infinitely many, are zero: $n$ numbers say how much past and future share.

    Parameters
    ----------
    model : InnovationsModel
        Stable, in discrete time, with no inputs, and $R_e$ invertible.

    Returns
    -------
    sigma : ndarray, shape (n,)
        Largest first, between 0 and 1. They do not depend on the basis of the state, nor on that of the
        outputs.

    Raises
    ------
    UnstableError, RealizationError
        As `covariances`.
    RankError
        If an innovation covariance is singular.
    ConvergenceError
        If the spectrum is nearly zero at some frequency.

    References
    ----------
    H. Akaike, *Markovian representation of stochastic processes by canonical variables*, SIAM Journal on
    Control 13 (1975) 162-173.

    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, chapter 11.

    Examples
    --------
    For $y_t = a y_{t-1} + e_t$ it is $|a|$: the last sample and the next are all that matters.

    >>> import numpy as np, realization as rz
    >>> process = rz.InnovationsModel([[-0.6]], np.zeros((1, 0)), [[1.0]], K=[[-0.6]])
    >>> rz.canonical_correlations(process).round(12)
    array([0.6])
    """
    past, future = factors(model, "canonical_correlations")
    return np.minimum(scipy.linalg.svdvals(future.T @ past), 1.0) if model.n_states else np.zeros(0)


def mutual_information(model: InnovationsModel, order: int | None = None) -> float:
    r"""Mutual information of the past and the future of a Gaussian process, in nats.

    $$I(\text{past}; \text{future}) = -\tfrac12 \sum_i \log(1 - \sigma_i^2)$$

    A state of `order` numbers made of the past holds at most the first `order` terms of it; the sum over all
    n is what the whole past holds, and the state of the model holds all of that.

    Parameters
    ----------
    model : InnovationsModel
        As for `canonical_correlations`.
    order : int, optional
        Number of states; all when left out.

    Returns
    -------
    float

    Raises
    ------
    ShapeError
        If `order` is not between 0 and n.
    UnstableError, RealizationError, RankError, ConvergenceError
        As `canonical_correlations`.

    References
    ----------
    I. M. Gelfand, A. M. Yaglom, *Calculation of the amount of information about a random function contained
    in another such function*, American Mathematical Society Translations 12 (1959) 199-246.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> walk = rz.InnovationsModel([[0.6]], np.zeros((1, 0)), [[1.0]], K=[[0.6]])
    >>> round(rz.mutual_information(walk), 6)  # -log(0.64) / 2
    0.223144
    """
    sigma = canonical_correlations(model)
    return _nats(sigma[: _order(order, len(sigma), "mutual_information")])


def stochastically_balanced(model: InnovationsModel, order: int | None = None) -> StochasticBalancing:
    r"""A process in stochastically balanced coordinates, truncated if asked.

    In the state $\bar x = T^{-1} x$ the forward and the backward innovations model have the same state
    covariance, $P_- = Q_- = \operatorname{diag}(\sigma_1, \dots, \sigma_n)$: state $i$ carries the $i$-th
    canonical correlation. The first `order` of them keep as much of what the past tells about the future as
    any `order` numbers can; the truncated covariances $(A_{11}, C_1, \bar C_1, \Lambda_0)$ are again those of
    a process, whose innovations model is returned.

    Parameters
    ----------
    model : InnovationsModel
        As for `canonical_correlations`, minimal and with its predictor stable.
    order : int, optional
        Number of states to keep; all when left out.

    Returns
    -------
    StochasticBalancing
        `.model`, `.T`, `.canonical_correlations`, `.information`.

    Raises
    ------
    RankError
        If a canonical correlation is zero (the model is not minimal).
    ShapeError
        If `order` is not between 0 and n.
    UnstableError, RealizationError, ConvergenceError
        As `canonical_correlations`.

    References
    ----------
    U. B. Desai, D. Pal, *A transformation approach to stochastic model reduction*, IEEE Transactions on
    Automatic Control 29 (1984) 1097-1100.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> A, K = np.diag([0.9, 0.3]), [[0.5], [0.2]]
    >>> process = rz.InnovationsModel(A, np.zeros((2, 0)), [[1.0, 1.0]], K=K)
    >>> rz.stochastically_balanced(process, order=1).model.n_states
    1
    """
    past, future = factors(model, "stochastically_balanced")
    n = model.n_states
    order = _order(order, n, "stochastically_balanced")
    U, sigma, Vt = scipy.linalg.svd(future.T @ past) if n else (past, np.zeros(0), past)
    if n and not sigma[-1] > 100 * n * np.finfo(float).eps * sigma[0]:
        raise RankError(
            f"stochastically_balanced: the smallest canonical correlation is {sigma[-1]:.2g}: the model has "
            "states that the process does not need. Use realization.minimal first."
        )
    T = past @ Vt.T / np.sqrt(sigma)
    balanced = replace(model, **_through(model, T, (U @ np.diag(1 / np.sqrt(sigma))).T @ future.T))
    if order < n:
        Cbar, Lambda0, _ = output_statistics(balanced, "stochastically_balanced")
        cut = spectral_factor(balanced.A[:order, :order], balanced.C[:, :order], Cbar[:, :order], Lambda0)
        balanced = replace(balanced, A=cut.A, B=cut.B, C=cut.C, K=cut.K, Re=cut.Re)
    return StochasticBalancing(balanced, T, np.minimum(sigma, 1.0), _nats(np.minimum(sigma[:order], 1.0)))


def factors(model: InnovationsModel, caller: str) -> tuple[Array, Array]:
    r"""Factors of $P_-$ and $Q_-$, so that canonical correlations far below the largest keep their digits."""
    Cbar, Lambda0, _ = output_statistics(model, caller)
    solution = riccati(covariance_model(model.A, model.C, Cbar, Lambda0, caller), caller)
    forward, backward = solution.K @ _root(solution.Re), solution.K_backward @ _root(solution.Re_backward)
    found = gramian_factors(StateSpace(model.A, forward, backward.T))
    return found.Lc, found.Lo


def _root(Re: Array) -> Array:
    return np.linalg.cholesky(Re).astype(float)


def _through(model: InnovationsModel, T: Array, inverse: Array) -> dict[str, Array]:
    return {"A": inverse @ model.A @ T, "B": inverse @ model.B, "C": model.C @ T, "K": inverse @ model.K}


def _nats(sigma: Array) -> float:
    with np.errstate(divide="ignore"):
        return float(-0.5 * np.log1p(-(sigma**2)).sum()) + 0.0


def _order(order: int | None, n: int, caller: str) -> int:
    if order is None:
        return n
    if not isinstance(order, int | np.integer) or not 0 <= order <= n:
        raise ShapeError(
            f"{caller}: order={order!r} came; a whole number from 0 to the model's {n} states is needed."
        )
    return int(order)
