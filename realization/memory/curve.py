r"""How much of the past a state holds: memory curves, capacity, time constants.

A linear state of $n$ numbers holds $n$ inputs' worth and not more, however it is spread; a window spends it
on the last inputs alone, a fading state on all of them a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, RealizationError, ShapeError
from realization.systems import InnovationsModel, StateSpace, gramian_factors

__all__ = ["MemoryCurve", "memory_curve"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class MemoryCurve:
    r"""What a state still holds of the input $k$ steps ago.

    Attributes
    ----------
    lags : ndarray of int, shape (N,)
        $k \ge 1$: the state $x_t$ was formed before $u_t$.
    memory : ndarray, shape (N,)
        $m_k$: share of the variance of $u_{t-k}$ that the best linear estimate from $x_t$ explains, summed
        over the inputs (each of them between 0 and 1).
    information : ndarray, shape (N,)
        Mutual information of $u_{t-k}$ and $x_t$ for Gaussian inputs and noise, in nats; infinite where $x_t$
        determines an input.
    fisher : ndarray, shape (N,)
        Fisher memory: what $x_t$ tells about one given input $u_{t-k}$ against the noise alone, summed over
        the inputs; infinite where no noise hides it, zero where nothing of it is left.
    capacity : float
        Sum of `memory` over all lags, at most n: n where there is no noise and every state is reached.
    time_constants : ndarray, shape (n,)
        $-dt / \log|\lambda_i|$ of the poles, slowest first, in seconds (steps where `dt` is `None`); 0 for a
        pole at zero, which forgets by moving its content on.
    n_states, n_inputs : int

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> window = rz.StateSpace(np.eye(3, k=1), np.eye(3)[:, 2:], np.ones((1, 3)))
    >>> curve = rz.memory_curve(window, 5)
    >>> curve.memory.round(12), round(curve.capacity, 12)
    (array([1., 1., 1., 0., 0.]), 3.0)
    """

    lags: NDArray[np.int64]
    memory: Array
    information: Array
    fisher: Array
    capacity: float
    time_constants: Array
    n_states: int
    n_inputs: int

    def window(self, length: int | None = None) -> Array:
        """Memory curve of a window of the last `length` inputs, on the same lags.

        Parameters
        ----------
        length : int, optional
            As many as fit into the same number of states, n // m, when left out.

        Returns
        -------
        ndarray, shape (N,)
            All of each of the last `length` inputs, nothing of those before.
        """
        length = self.n_states // self.n_inputs if length is None else length
        if not isinstance(length, int | np.integer) or length < 0:
            raise ShapeError(
                f"window: length={length!r} came; a whole number of inputs, at least 0, is needed."
            )
        return np.where(self.lags <= length, float(self.n_inputs), 0.0)

    @property
    def half_life(self) -> int | None:
        """First lag given at which less than half of the inputs is left; `None` if there is none."""
        below = self.memory < self.n_inputs / 2
        return int(self.lags[below.argmax()]) if below.any() else None

    def __repr__(self) -> str:
        return (
            f"MemoryCurve({len(self.lags)} lags, capacity {self.capacity:.4g} of {self.n_states} states, "
            f"slowest time constant {self.time_constants.max(initial=0.0):.4g})"
        )


def memory_curve(
    model: StateSpace,
    lags: int | ArrayLike,
    *,
    input_covariance: ArrayLike | None = None,
    noise: ArrayLike | None = None,
) -> MemoryCurve:
    r"""How much of $u_{t-k}$ is left in the state $x_t$.

    For white inputs of covariance $\Sigma$ and state noise of covariance $N$,
    $x_{t+1} = A x_t + B u_t + w_t$, the state has the covariance
    $W = A W A^T + B \Sigma B^T + N$, and with $R_k = A^{k-1} B \Sigma^{1/2}$

    $$M_k = R_k^T W^{-1} R_k, \qquad m_k = \operatorname{tr} M_k, \qquad
    I(u_{t-k}; x_t) = -\tfrac12 \log\det(I - M_k) .$$

    A change of basis cancels, and over all lags $\sum_k m_k = n - \operatorname{tr}(W^{-1} S) \le n$ with the
    noise's own covariance $S = A S A^T + N$. The Fisher memory
    $J_k = \operatorname{tr}(R_k^T S^{-1} R_k)$ takes the other inputs as known; in units of the input's
    variance it is a ratio of signal to noise.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        Stable, in discrete time. An innovations model without inputs remembers its innovations: `K` and `Re`
        take the place of `B` and the input's covariance. One with inputs has its innovations as noise.
    lags : int or array_like of int, shape (N,)
        How many, from 1 on; or which, each at least 1.
    input_covariance : array_like, shape (m, m), optional
        Positive definite; the identity when left out.
    noise : array_like, shape (n, n), optional
        Covariance of the state noise, positive semidefinite; when left out, $K R_e K^T$ of an innovations
        model with inputs, else none.

    Returns
    -------
    MemoryCurve
        `.lags`, `.memory`, `.information`, `.fisher`, `.capacity`, `.time_constants`, `.window()`.

    Raises
    ------
    UnstableError
        If the model is not stable: then what it holds grows without bound.
    ShapeError, DataError
        If lags or covariances are not what is said above.
    RealizationError
        If the model is in continuous time.

    References
    ----------
    H. Jaeger, *Short term memory in echo state networks*, GMD Report 152, 2001.

    O. L. White, D. D. Lee, H. Sompolinsky, *Short-term memory in orthogonal neural networks*, Physical Review
    Letters 92 (2004) 148102.

    S. Ganguli, D. Huh, H. Sompolinsky, *Memory traces in dynamical systems*, Proceedings of the National
    Academy of Sciences 105 (2008) 18970-18975.

    Examples
    --------
    One state that fades: $m_k = (1 - a^2) a^{2(k-1)}$, in all 1.

    >>> import realization as rz
    >>> curve = rz.memory_curve(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), 3)
    >>> curve.memory, curve.capacity
    (array([0.75    , 0.1875  , 0.046875]), 1.0)
    """
    if model.dt == 0:
        raise RealizationError("memory_curve: the model is in continuous time; discretize it first.")
    places = _lags(lags)
    B, N = _drive(model, input_covariance, noise)
    R = _reach(model, B, places)
    whole = _Whitener(_factor(model, np.hstack([B, N])))
    hidden = _Whitener(_factor(model, N))
    seen = whole(R)
    M = np.einsum("kni,knj->kij", seen, seen)
    return MemoryCurve(
        places,
        np.einsum("kii->k", M),
        _information(M),
        hidden.square(R),
        _capacity(model, whole, N),
        _time_constants(model),
        model.n_states,
        B.shape[1],
    )


class _Whitener:
    """Coordinates in which a covariance is the identity on its range, from a factor `W = F Fᵀ`."""

    def __init__(self, factor: Array) -> None:
        U, s, _ = scipy.linalg.svd(factor) if factor.size else (factor, np.zeros(0), factor)
        rank = int(np.sum(s > len(s) * EPS * s.max(initial=0.0)))
        self.inverse = U[:, :rank].T / s[:rank, None]
        self.null = U[:, rank:]
        self.rank = rank

    def __call__(self, vectors: Array) -> Array:
        return self.inverse @ vectors

    def square(self, vectors: Array) -> Array:
        """Squared length of each (n, m) entry, infinite where it leaves the range."""
        inside = np.square(self(vectors)).sum(axis=(1, 2))
        size = np.abs(vectors).max(axis=(1, 2), initial=0.0)
        leak = np.abs(self.null.T @ vectors).max(axis=(1, 2), initial=0.0)
        return np.where(leak > 1e-10 * size, np.inf, inside)


def _lags(lags: int | ArrayLike) -> NDArray[np.int64]:
    places = np.asarray(lags)
    if places.ndim == 0 and np.issubdtype(places.dtype, np.integer) and places >= 1:
        return np.arange(1, int(places) + 1)
    if places.ndim != 1 or not len(places) or not np.issubdtype(places.dtype, np.integer) or places.min() < 1:
        raise ShapeError(
            f"memory_curve: lags={lags!r} came; a number of lags, or an array of whole numbers, each at "
            "least 1 (the state at t was formed before the input at t)."
        )
    return places.astype(np.int64)


def _drive(
    model: StateSpace, input_covariance: ArrayLike | None, noise: ArrayLike | None
) -> tuple[Array, Array]:
    """Factors of what the input and what the noise adds to the state's covariance at each step."""
    B, default = model.B, np.zeros((model.n_states, 0))
    if isinstance(model, InnovationsModel) and model.n_inputs == 0:
        if input_covariance is not None:
            raise RealizationError(
                "memory_curve: the model has no inputs; the covariance of its innovations is Re."
            )
        B = model.K @ _root(model.Re, model.n_outputs, "Re", definite=True)
    elif isinstance(model, InnovationsModel):
        default = model.K @ _root(model.Re, model.n_outputs, "Re")
    if input_covariance is not None:
        B = B @ _root(input_covariance, model.n_inputs, "input_covariance", definite=True)
    if not B.shape[1]:
        raise ShapeError("memory_curve: the model has no inputs, so there is nothing that it could remember.")
    return B, default if noise is None else _root(noise, model.n_states, "noise")


def _root(covariance: ArrayLike, size: int, name: str, *, definite: bool = False) -> Array:
    """Symmetric root of a covariance."""
    matrix = np.asarray(covariance, dtype=float)
    if matrix.shape != (size, size):
        raise ShapeError(f"memory_curve: {name} has shape {matrix.shape}; it must be {(size, size)}.")
    if not np.isfinite(matrix).all():
        raise DataError(f"memory_curve: {name} has entries that are NaN or infinite.")
    scale = np.abs(matrix).max(initial=0.0)
    if np.abs(matrix - matrix.T).max(initial=0.0) > 1e-10 * scale:
        raise DataError(f"memory_curve: {name} is not symmetric.")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    lowest = values.min(initial=0.0) if not definite else values.min(initial=np.inf)
    if lowest < -1e-10 * scale or (definite and not lowest > 10 * size * EPS * scale):
        needed = "positive definite" if definite else "positive semidefinite"
        raise DataError(f"memory_curve: {name} has the eigenvalue {lowest:.3g}; it must be {needed}.")
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _reach(model: StateSpace, B: Array, places: NDArray[np.int64]) -> Array:
    """`A^(k-1) B` at each lag, shape (N, n, m)."""
    found = np.empty((len(places), *B.shape))
    column, power = B, 1
    for index in np.argsort(places, kind="stable"):
        while power < places[index]:
            column, power = model.A @ column, power + 1
        found[index] = column
    return found


def _factor(model: StateSpace, B: Array) -> Array:
    """`F` with `F Fᵀ = A F Fᵀ Aᵀ + B Bᵀ`, the covariance itself never formed."""
    return gramian_factors(StateSpace(model.A, B, model.C[:0], dt=model.dt)).Lc


def _information(M: Array) -> Array:
    """`-log det(I - M) / 2`, infinite where an eigenvalue of `M` is 1 to rounding."""
    values = np.linalg.eigvalsh(M)
    sure = values > 1 - 1e-12
    return np.where(sure.any(axis=1), np.inf, -0.5 * np.log1p(-np.where(sure, 0.0, values)).sum(axis=1)) + 0.0


def _capacity(model: StateSpace, whole: _Whitener, N: Array) -> float:
    noise = whole(_factor(model, N)) if N.shape[1] else np.zeros((0, 0))
    return float(whole.rank - np.square(noise).sum())


def _time_constants(model: StateSpace) -> Array:
    step = 1.0 if model.dt is None else model.dt
    modulus = np.abs(model.poles)
    with np.errstate(divide="ignore"):
        return np.where(modulus > 0, -step / np.log(modulus), 0.0) + 0.0
