r"""How long, and how much of its past, a lowered layer remembers: memory curves and time constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo.bridge.lower.factors import squared, times_of
from bmojo.bridge.lower.time_varying import TimeVaryingRealization
from realization.errors import DataError, ShapeError

__all__ = ["MemoryCurves", "TimeConstants", "memory_curves", "time_constants"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class MemoryCurves:
    r"""What the states of each group still hold of the input $k$ tokens ago, at several times.

    Attributes
    ----------
    times : ndarray of int, shape (N,)
    lags : ndarray of int, shape (K,)
        $k \ge 1$.
    memory : ndarray, shape (N, G, K)
        Share of the variance of $u_{t-k}$ that the best linear estimate from $x_t$ explains, summed over the
        `m` inputs; the same for all value channels of a group. Zero before the first token.
    capacity : ndarray, shape (N, G)
        Sum over all lags, at most `n`.

    Examples
    --------
    >>> import torch, realization as rz
    >>> from bmojo import lift, lower, memory_curves
    >>> curves = memory_curves(lower(lift(rz.StateSpace([[0.5]], [[1.0]], [[1.0]])), torch.zeros(60, 1)), 3)
    >>> curves.memory[0, 0].round(6), curves.capacity.round(6)
    (array([0.75    , 0.1875  , 0.046875]), array([[1.]]))
    """

    times: NDArray[np.int64]
    lags: NDArray[np.int64]
    memory: Array
    capacity: Array

    def __repr__(self) -> str:
        return (
            f"MemoryCurves({len(self.times)} times, {self.memory.shape[1]} groups, {len(self.lags)} lags, "
            f"mean capacity {self.capacity.mean():.4g})"
        )


def memory_curves(
    realization: TimeVaryingRealization,
    lags: int,
    *,
    at: int | ArrayLike = -1,
    noise: float = 0.0,
) -> MemoryCurves:
    r"""How much of $u_{t-k}$ is left in the state, for each head (or channel) and time.

    For unit white inputs since the first token and state noise of variance $\nu$ at each,
    $W_{t+1} = A_t W_t A_t^\top + B_t B_t^\top + \nu I$, and with
    $R_{t,k} = \Phi(t, t-k+1) B_{t-k}$

    $$m_{t,k} = \operatorname{tr}\big(R_{t,k}^\top W_t^{-1} R_{t,k}\big), \qquad \sum_k m_{t,k} \le n.$$

    Of a time-invariant layer far from its start it is `realization.memory_curve`. A change of state cancels
    where there is no noise. Without noise a state of `n` numbers always holds `n` inputs' worth, however
    faint: noise says how faint is too faint.

    Parameters
    ----------
    realization : TimeVaryingRealization
    lags : int
        `K`; 1 to `K` are looked at.
    at : int or array_like of int, shape (N,)
        Times; after the last token when left out.
    noise : float
        $\nu$.

    Returns
    -------
    MemoryCurves
        `.memory` (N, G, K), `.capacity` (N, G).

    Raises
    ------
    ShapeError, DataError
        If `lags` is below 1, a time is outside, or `noise` is negative.

    References
    ----------
    O. L. White, D. D. Lee, H. Sompolinsky, *Short-term memory in orthogonal neural networks*, Physical Review
    Letters 92 (2004) 148102.

    Examples
    --------
    >>> import torch
    >>> from bmojo import lower, memory_curves
    >>> from bmojo.fading import Mamba2
    >>> mixer = Mamba2(d_model=16, heads=2, state_size=4)
    >>> memory_curves(lower(mixer, torch.randn(50, 16)), 8, at=[25, 50]).memory.shape
    (2, 2, 8)
    """
    if not isinstance(lags, int | np.integer) or lags < 1:
        raise ShapeError(f"memory_curves: lags={lags!r} came; a whole number from 1 on is needed.")
    if not noise >= 0:
        raise DataError(f"memory_curves: noise={noise} came; a variance is at least 0.")
    times = times_of(realization, at)
    factors, hidden = _covariances(realization, times, noise)
    memory = np.zeros((len(times), realization.groups, lags))
    capacity = np.zeros((len(times), realization.groups))
    for i, t in enumerate(times):
        U, s, _ = np.linalg.svd(factors[i])
        large = s > factors.shape[-1] * EPS * s.max(axis=1, initial=0.0, keepdims=True)
        whiten = (U / np.where(large, s, np.inf)[:, None, :]).swapaxes(1, 2)
        capacity[i] = large.sum(axis=1) - np.square(whiten @ hidden[i]).sum(axis=(1, 2))
        for k in range(1, min(lags, t) + 1):
            memory[i, :, k - 1] = np.square(whiten @ realization.B[t - k]).sum(axis=(1, 2))
            whiten = realization.withdraw(t - k, whiten)
    return MemoryCurves(times, np.arange(1, lags + 1), memory, capacity)


def _covariances(
    realization: TimeVaryingRealization, times: NDArray[np.int64], noise: float
) -> tuple[Array, Array]:
    """Square factors of the state's covariance at each time, and of the noise's part of it."""
    groups, n = realization.groups, realization.n_states
    found, hidden = (np.zeros((len(times), groups, n, n)) for _ in range(2))
    added = np.sqrt(noise) * np.broadcast_to(np.eye(n), (groups, n, n))
    whole, part, now = np.zeros((groups, n, n)), np.zeros((groups, n, n)), 0
    for i in np.argsort(times, kind="stable"):
        for t in range(now, times[i]):
            driven = [realization.advance(t, whole), realization.B[t]]
            whole = squared(np.concatenate([*driven, added] if noise else driven, axis=2))
            if noise:
                part = squared(np.concatenate([realization.advance(t, part), added], axis=2))
        now, found[i], hidden[i] = max(now, times[i]), whole, part
    return found, hidden


@dataclass(frozen=True, eq=False)
class TimeConstants:
    r"""Time constants of each group, in seconds where the realization has a `dt`, else in tokens.

    Attributes
    ----------
    instant : ndarray, shape (T, G, n)
        $-dt / \log|\lambda_i(A_t)|$, slowest first: what they would be if the token came for ever.
    along : ndarray, shape (G, n)
        Over the whole input, slowest first: $-dt / \chi_i$ with the Lyapunov exponents $\chi_i$ of
        $A_{T-1} \cdots A_0$.
    dt : float or None

    Examples
    --------
    >>> import numpy as np
    >>> from bmojo.bridge import TimeConstants
    >>> TimeConstants(np.ones((5, 2, 3)), np.array([[30.0, 2.0, 1.0], [8.0, 2.0, 0.0]]), dt=0.1)
    TimeConstants(2 groups of 3, slowest 30 s)
    """

    instant: Array
    along: Array
    dt: float | None

    def __repr__(self) -> str:
        groups, n = self.along.shape
        unit = "tokens" if self.dt is None else "s"
        return f"TimeConstants({groups} groups of {n}, slowest {self.along.max(initial=0.0):.4g} {unit})"


def time_constants(realization: TimeVaryingRealization) -> TimeConstants:
    r"""How long the states of each head (or channel) last, token by token and along the whole input.

    $$\tau_i(t) = -\frac{dt}{\log |\lambda_i(A_t)|}, \qquad
    \bar\tau_i = -\frac{dt}{\chi_i}, \quad \chi_i = \frac1T \sum_t \log |(R_t)_{ii}|, \quad
    A_t Q_t = Q_{t+1} R_t$$

    Where $A_t$ is diagonal, $\chi_i$ is the mean of $\log|a_{t,i}|$. Eigenvalues of single tokens say little
    where $A_t$ turns from token to token (a delta rule); Lyapunov exponents do, over the `T` tokens given.

    Parameters
    ----------
    realization : TimeVaryingRealization

    Returns
    -------
    TimeConstants
        `.instant` (T, G, n), `.along` (G, n). 0 for what is forgotten at once, infinite for what is kept for
        ever, negative for what grows.

    References
    ----------
    G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, *Lyapunov characteristic exponents for smooth
    dynamical systems and for Hamiltonian systems*, Meccanica 15 (1980) 9-20.

    Examples
    --------
    >>> import numpy as np, torch, realization as rz
    >>> from bmojo import lift, lower, time_constants
    >>> model = rz.StateSpace([[np.exp(-1 / 8)]], [[1.0]], [[1.0]])
    >>> time_constants(lower(lift(model), torch.zeros(5, 1), dt=0.1)).along.round(6)
    array([[0.8]])
    """
    step = 1.0 if realization.dt is None else realization.dt
    if realization.is_diagonal:
        rates = np.abs(realization.A)
        exponents = _logarithm(rates).mean(axis=0)
    else:
        constant = realization.A.strides[0] == 0  # of a time-invariant layer one is looked at
        rates = np.abs(np.linalg.eigvals(realization.A[:1] if constant else realization.A))
        rates = np.broadcast_to(rates, (realization.length, *rates.shape[1:]))
        exponents = _logarithm(rates[0]) if constant else _exponents(realization.A)
    return TimeConstants(_slowest(_logarithm(rates), step), _slowest(exponents, step), realization.dt)


def _exponents(A: Array) -> Array:
    """Lyapunov exponents over the given matrices (T, G, n, n), shape (G, n)."""
    basis, total = np.broadcast_to(np.eye(A.shape[-1]), A.shape[1:]), np.zeros(A.shape[1:3])
    for matrix in A:
        basis, triangle = np.linalg.qr(matrix @ basis)
        total = total + _logarithm(np.abs(np.diagonal(triangle, axis1=-2, axis2=-1)))
    return total / len(A)


def _logarithm(modulus: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(modulus)


def _slowest(exponents: Array, step: float) -> Array:
    """Time constants of exponents, the slowest first."""
    ordered = np.flip(np.sort(exponents, axis=-1), axis=-1)
    with np.errstate(divide="ignore"):
        return np.where(ordered == 0, np.inf, -step / ordered + 0.0)
