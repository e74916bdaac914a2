"""Stochastic realization: from covariances to the innovations model of a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import (
    DataError,
    OrderWarning,
    PositiveRealWarning,
    RankError,
    ShapeError,
    StabilityWarning,
)
from realization.notes import warn
from realization.realize.hankel import as_sequence, hankel, rows_and_cols
from realization.realize.markov import markov_parameters
from realization.realize.positive_real import CovarianceModel, Riccati, definite, positive_real_test, riccati
from realization.realize.spectral import canonical_correlations
from realization.systems import InnovationsModel, StateSpace

__all__ = ["StochasticRealization", "stochastic_realization"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)
STABLE_RADIUS = 0.9999
CALLER = "stochastic_realization"


@dataclass(frozen=True, eq=False)
class StochasticRealization:
    r"""A process found from its covariances.

    Attributes
    ----------
    model : InnovationsModel
        Forward innovations model, with no input: the Kalman filter of the process.
    backward : InnovationsModel
        Innovations model of the record read from its end: $A^T, \bar C$ and a gain of its own.
    order : int
        Number of states.
    canonical_correlations : ndarray, shape (n,)
        Of past and future outputs of the model, largest first.
    singular_values : ndarray, shape (min(rows, cols) * p,)
        Of the matrix that was decomposed, largest first, those cut off too: canonical correlations over the
        samples used where it was weighted, else those of the Hankel matrix of covariances.
    Cbar : ndarray, shape (p, n)
    Lambda0 : ndarray, shape (p, p)
        With `model.A` and `model.C` the covariances of the model, $\Lambda_k = C A^{k-1} \bar C^T$.
    P_min, P_max : ndarray, shape (n, n)
        Smallest and largest state covariance of all minimal models of the process, $P_-$ and $P_+$.
    residual : float
        $\max_k |\Lambda_k - \hat\Lambda_k|$ relative to the largest entry of $\Lambda_0$, over every lag
        given.
    added : float
        White noise that was added, as a share of $\Lambda_0$, to make the covariances those of a process;
        else 0.
    stabilized : bool
        Whether poles were moved inside the unit circle.

    Examples
    --------
    >>> import realization as rz
    >>> result = rz.stochastic_realization([1.0, 0.5, 0.25, 0.125, 0.0625])
    >>> result.order, result.canonical_correlations.round(9), result.added
    (1, array([0.5]), 0.0)
    """

    model: InnovationsModel
    backward: InnovationsModel
    order: int
    canonical_correlations: Array
    singular_values: Array
    Cbar: Array
    Lambda0: Array
    P_min: Array
    P_max: Array
    residual: float
    added: float
    stabilized: bool

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3g}" for value in self.canonical_correlations)
        changed = f", white noise added {self.added:.2g}" if self.added else ""
        changed += ", stabilized" if self.stabilized else ""
        return (
            f"StochasticRealization(order {self.order}, residual {self.residual:.1e}, "
            f"canonical correlations {shown}{changed})"
        )


def stochastic_realization(
    covariances: ArrayLike,
    order: int | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
    weighted: bool = True,
    tol: float | None = None,
    margin: float = 1e-4,
    dt: float | None = None,
) -> StochasticRealization:
    r"""Innovations model of a process from the covariances of its output.

    Stack future and past, $y_+ = (y_t, y_{t+1}, \dots)$ and $y_- = (y_{t-1}, y_{t-2}, \dots)$. Their
    covariance is the block Hankel matrix of $\Lambda_1, \Lambda_2, \dots$, and with
    $\Lambda_k = C A^{k-1} \bar C^T$

    $$H = \operatorname{E}[y_+ y_-^T] = \mathcal O \, \bar{\mathcal O}^T, \qquad
    L_+^{-1} H L_-^{-T} = U \Sigma V^T, \qquad \operatorname{cov} y_\pm = L_\pm L_\pm^T .$$

    The singular values are the canonical correlations, $\mathcal O = L_+ U \Sigma^{1/2}$, and one shift gives
    $A, C, \bar C$. The innovations form follows from the smallest solution of the positive-real Riccati
    equation, $P = A P A^T + K R_e K^T$ with $R_e = \Lambda_0 - C P C^T$ and
    $K = (\bar C^T - A P C^T) R_e^{-1}$; the largest comes from the same equation read backward in time.

    Estimated or truncated covariances need not belong to any process. Then a share of $\Lambda_0$ is added to
    it (white noise, which leaves all other lags as they are), the least that makes the spectrum
    positive; `added` says how much, and a warning. Poles on or outside the unit circle are mirrored inside,
    and $\bar C$ is fitted anew: `stabilized`, and a warning.

    Parameters
    ----------
    covariances : array_like, shape (L + 1, p, p) or (L + 1,)
        $\Lambda_k = \operatorname{E}[y_{t+k} y_t^T]$ for $k = 0, \dots, L$.
    order : int, optional
        Number of states; as many as there are singular values above `tol` when left out, which is meant for
        exact covariances.
    rows, cols : int, optional
        Future and past samples, `rows + cols <= L`; halves of L when left out.
    weighted : bool
        Decompose the canonical correlations (Desai and Pal; states cut off are those that tell least) or
        the covariances themselves (Faurre, Akaike).
    tol : float, optional
        Singular values up to `tol` times the largest are cut; rounding only when left out.
    margin : float
        Where a repair is needed: the smallest value of the repaired spectrum, in units of $\Lambda_0$.
    dt : float, optional
        Sampling time of the model.

    Returns
    -------
    StochasticRealization
        `.model`, `.backward`, `.order`, `.canonical_correlations`, `.added`, ...

    Raises
    ------
    ShapeError
        If the sequence is too short for what is asked, or its blocks are not square.
    DataError
        If $\Lambda_0$ is not symmetric, or an entry is not finite.
    RankError
        If $\Lambda_0$ is not positive definite, or `order` exceeds the number of singular values above `tol`.
    ConvergenceError
        If the spectrum is nearly zero at some frequency.

    Warns
    -----
    PositiveRealWarning
        If white noise was added.
    StabilityWarning
        If poles were moved.
    OrderWarning
        If the order was left open and the singular values do not settle it.

    References
    ----------
    H. Akaike, *Markovian representation of stochastic processes by canonical variables*, SIAM Journal on
    Control 13 (1975) 162-173.

    P. Faurre, *Stochastic realization algorithms*, in: System Identification: Advances and Case Studies,
    Academic Press 1976, 1-25.

    A. Lindquist, G. Picci, *Canonical correlation analysis, approximate covariance extension, and
    identification of stationary time series*, Automatica 32 (1996) 709-733.

    Examples
    --------
    Covariances of $y_t = 0.8 y_{t-1} + e_t + 0.5 e_{t-1}$, with $\operatorname{var} e = 1$.

    >>> import realization as rz
    >>> Lambda = [205 / 36] + [91 / 18 * 0.8 ** (k - 1) for k in range(1, 8)]
    >>> model = rz.stochastic_realization(Lambda).model
    >>> (model.K @ model.C).round(9), model.Re.round(9), model.poles.real.round(9)
    (array([[1.3]]), array([[1.]]), array([0.8]))
    """
    Lambda = _checked(covariances, margin)
    rows, cols = _split(len(Lambda) - 1, rows, cols)
    noise = _toeplitz_shortfall(Lambda, max(rows, cols), margin) if weighted else 0.0
    found = _decomposed(_with_noise(Lambda, noise), rows, cols, weighted)
    n, chosen = _order(order, found, tol)
    A, C, Cbar, stabilized = _realized(found, n, Lambda)
    added = _shortfall(A, C, Cbar, Lambda[0], noise, margin)
    if added > 0:
        warn(
            f"{CALLER}: these are the covariances of no process (the spectrum would be negative somewhere). "
            f"{added:.3g} of Lambda[0] was added to it as white noise; the other lags are kept. Estimate the "
            "covariances with the biased estimator (divide by T at every lag), or choose another order.",
            PositiveRealWarning,
            stacklevel=2,
        )
    given = CovarianceModel(A, C, Cbar, (1 + added) * Lambda[0])
    result = _result(given, Lambda, found.s, added, stabilized, dt)
    # A finite sequence fixes the process only if the Hankel matrices of the next size have the same rank.
    if chosen and result.residual > max(1e-8, 100 * found.rounding) + added:
        warn(
            f"{CALLER}: rank {n}, but a model of that order misses the covariances by {result.residual:.1e} "
            "of the largest: they are not finished, or estimates. Give more lags, or an order.",
            OrderWarning,
            stacklevel=2,
        )
    return result


class _Decomposed(NamedTuple):
    """Weighted Hankel matrix `U diag(s) V^T`, the same one step later, and the weights."""

    U: Array
    s: Array
    V: Array
    later: Array
    future: Array
    past: Array
    p: int
    rounding: float
    scale: float


def _checked(covariances: ArrayLike, margin: float) -> Array:
    Lambda = as_sequence(covariances, CALLER)
    if Lambda.shape[1] != Lambda.shape[2]:
        raise ShapeError(f"{CALLER}: covariances have shape {Lambda.shape}; (L + 1, p, p) is needed.")
    if not 0 < margin < 1:
        raise DataError(f"{CALLER}: margin={margin} came; a share of Lambda0, 0 < margin < 1, is needed.")
    Lambda[0] = definite(Lambda[0], CALLER)
    return Lambda


def _split(lags: int, rows: int | None, cols: int | None) -> tuple[int, int]:
    if lags < 2:
        raise ShapeError(
            f"{CALLER}: {lags + 1} covariances came; at least those of lags 0, 1 and 2 are needed, and 2 n "
            "to determine order n."
        )
    return rows_and_cols(
        lags, rows, cols, caller=CALLER, given=f"covariances up to lag {lags}", limit=f"{lags}"
    )


def _with_noise(Lambda: Array, share: float) -> Array:
    return np.concatenate([(1 + share) * Lambda[:1], Lambda[1:]])


def _toeplitz(Lambda: Array, size: int, *, backward: bool = False) -> Array:
    """Covariance of `size` samples below one another, in time's order or in reverse."""
    p = Lambda.shape[1]
    both = np.concatenate(
        [Lambda[1:size][::-1].transpose(0, 2, 1), Lambda[:size]]
    )  # lags 1 - size to size - 1
    lag = np.arange(size)[:, None] - np.arange(size)
    blocks = both[(-lag if backward else lag) + size - 1]
    return blocks.transpose(0, 2, 1, 3).reshape(size * p, size * p)


def _toeplitz_shortfall(Lambda: Array, size: int, margin: float) -> float:
    """Share of `Lambda[0]` to add to the diagonal for the covariance of `size` samples to be definite."""
    root = np.linalg.inv(np.linalg.cholesky(Lambda[0]))
    white = root @ Lambda @ root.T
    lowest = float(np.linalg.eigvalsh(_toeplitz(white, size))[0])
    return 0.0 if lowest > 10 * size * EPS else margin - lowest


def _decomposed(Lambda: Array, rows: int, cols: int, weighted: bool) -> _Decomposed:
    p = Lambda.shape[1]
    H, later = hankel(Lambda[1:], rows, cols), hankel(Lambda[2:], rows, cols)
    future, past, condition = np.eye(rows * p), np.eye(cols * p), 1.0
    scale = 1.0 if weighted else float(np.linalg.norm(Lambda[0], 2))
    if weighted:
        future = np.linalg.cholesky(_toeplitz(Lambda, rows)).astype(float)
        past = np.linalg.cholesky(_toeplitz(Lambda, cols, backward=True)).astype(float)
        condition = float(np.linalg.cond(future) * np.linalg.cond(past))

    def white(matrix: Array) -> Array:
        left = scipy.linalg.solve_triangular(future, matrix, lower=True)
        return scipy.linalg.solve_triangular(past, left.T, lower=True).T

    U, s, Vt = scipy.linalg.svd(white(H), full_matrices=False)
    return _Decomposed(U, s, Vt.T, white(later), future, past, p, 4 * max(H.shape) * EPS * condition, scale)


def _order(order: int | None, found: _Decomposed, tol: float | None) -> tuple[int, bool]:
    """The order, and whether the singular values were to settle it."""
    if tol is not None and not 0 <= tol < 1:
        raise DataError(
            f"{CALLER}: tol={tol} came; a share of the largest singular value, 0 <= tol < 1, is needed."
        )
    limit = found.rounding if tol is None else tol
    # Rounding has the scale of what was decomposed, even where all of it is zero (white noise).
    rank = int(np.sum(found.s > limit * (found.s[0] if tol is not None else max(found.s[0], found.scale))))
    if order is None:
        if rank == len(found.s):
            warn(
                f"{CALLER}: each of the {rank} singular values exceeds {limit:.1e} of the largest: the order "
                "is at the limit of what these covariances show. Give more lags, or order or tol if they are "
                "estimates.",
                OrderWarning,
                stacklevel=3,
            )
        return rank, rank < len(found.s)
    if not isinstance(order, int | np.integer) or order < 0:
        raise ShapeError(f"{CALLER}: order={order!r} came; a whole number, at least 0, or None is needed.")
    if order > rank:
        raise RankError(
            f"{CALLER}: order {order} is asked, but only {rank} of {len(found.s)} singular values exceed "
            f"{limit:.1e} of the largest. Ask for order <= {rank}, lower tol, or give more lags."
        )
    return int(order), False


def _realized(found: _Decomposed, n: int, Lambda: Array) -> tuple[Array, Array, Array, bool]:
    """`A`, `C`, `Cbar` from the first `n` singular vectors; poles outside the unit circle are mirrored."""
    root, U, V = np.sqrt(found.s[:n]), found.U[:, :n], found.V[:, :n]
    A = U.T @ found.later @ V / np.outer(root, root)
    C, Cbar = (found.future @ U * root)[: found.p], (found.past @ V * root)[: found.p]
    radius = np.abs(np.linalg.eigvals(A)).max(initial=0.0)
    if radius < 1:
        return A, C, Cbar, False
    A = _mirrored(A)
    warn(
        f"{CALLER}: these covariances do not die out (a pole of modulus {radius:.4g}). Poles were mirrored "
        "inside the unit circle and Cbar fitted anew. Take a trend or a sinusoid off the record first, or "
        "choose another order.",
        StabilityWarning,
        stacklevel=3,
    )
    sight = markov_parameters(StateSpace(A, np.eye(n), C), len(Lambda))[1:].reshape(-1, n)
    targets = Lambda[1:].reshape(-1, found.p)
    return A, C, scipy.linalg.lstsq(sight, targets, cond=1e-12)[0].T, True


def _mirrored(A: Array) -> Array:
    """Each diagonal block of the real Schur form with its poles inside the circle, at most at 0.9999."""
    S, Z = scipy.linalg.schur(A, output="real")
    k = 0
    while k < len(S):
        block = slice(k, k + (2 if k + 1 < len(S) and S[k + 1, k] != 0 else 1))
        modulus = np.abs(np.linalg.eigvals(S[block, block])).max()
        if modulus >= 1:
            S[block, block] *= min(1 / modulus, STABLE_RADIUS) / modulus
        k = block.stop
    return Z @ S @ Z.T


def _shortfall(A: Array, C: Array, Cbar: Array, Lambda0: Array, noise: float, margin: float) -> float:
    """Share of `Lambda0` that must be added to it, at least `noise`, for the spectrum to be positive."""
    test = positive_real_test(A, C, Cbar, (1 + noise) * Lambda0)
    if test.positive_real:
        return noise
    return max(noise, margin - ((1 + noise) * test.minimum - noise))


def _result(
    given: CovarianceModel, Lambda: Array, s: Array, added: float, stabilized: bool, dt: float | None
) -> StochasticRealization:
    A, C, Cbar, Lambda0 = given
    n = len(A)
    solution: Riccati = riccati(given, CALLER)
    model = InnovationsModel(A, np.zeros((n, 0)), C, dt=dt, K=solution.K, Re=solution.Re)
    backward = InnovationsModel(
        A.T, np.zeros((n, 0)), Cbar, dt=dt, K=solution.K_backward, Re=solution.Re_backward
    )
    fitted = markov_parameters(StateSpace(A, Cbar.T, C, Lambda0), len(Lambda))
    residual = float(np.abs(fitted - Lambda).max() / np.abs(Lambda[0]).max())
    return StochasticRealization(
        model,
        backward,
        n,
        canonical_correlations(model),
        s,
        Cbar,
        Lambda0,
        solution.P,
        np.linalg.inv(solution.Q).astype(float),
        residual,
        added,
        stabilized,
    )
