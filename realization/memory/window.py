r"""What a window of the last samples knows of the future, against a state that was made of all of them.

A window of $w$ samples of $p$ outputs and a state of $w p$ numbers take the same room. The state may mix the
whole past, so it never knows less; how much more is a property of the process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import DataError, ShapeError
from realization.realize.markov import output_statistics
from realization.realize.spectral import factors
from realization.systems import InnovationsModel

__all__ = ["WindowMemory", "window_memory"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class WindowMemory:
    r"""Nats about the future that windows and states of every size hold.

    Attributes
    ----------
    window : ndarray, shape (W + 1,)
        $I(y_{t-1}, \dots, y_{t-w};\ y_t, y_{t+1}, \dots)$ for $w = 0, \dots, W$.
    state : ndarray, shape (n + 1,)
        The same of the best state of $k = 0, \dots, n$ numbers,
        $-\frac12 \sum_{i \le k} \log(1 - \sigma_i^2)$.
    total : float
        Of the whole past; the model's state of n numbers holds all of it.
    n_outputs : int

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> average = rz.InnovationsModel([[0.0]], np.zeros((1, 0)), [[1.0]], K=[[0.8]])
    >>> held = rz.window_memory(average, 3)
    >>> held.window.round(3), held.state.round(3)  # one number against three samples
    (array([0.   , 0.247, 0.359, 0.419]), array([0.   , 0.511]))
    """

    window: Array
    state: Array
    total: float
    n_outputs: int

    def equal_size(self, numbers: int | None = None) -> tuple[float, float]:
        """Nats held by a window and by the best state that both fit into so many numbers.

        Parameters
        ----------
        numbers : int, optional
            The number of states, n, when left out.

        Returns
        -------
        window, state : float
        """
        n, last = len(self.state) - 1, len(self.window) - 1
        numbers = n if numbers is None else numbers
        if not isinstance(numbers, int | np.integer) or numbers < 0:
            raise ShapeError(f"equal_size: numbers={numbers!r} came; a whole number, at least 0, is needed.")
        length = int(numbers) // self.n_outputs
        if length > last:
            raise ShapeError(
                f"equal_size: {numbers} numbers are a window of {length} samples, and the longest here has "
                f"{last}. Ask window_memory for length={length}."
            )
        return float(self.window[length]), float(self.state[min(int(numbers), n)])

    def length_for(self, share: float = 0.99) -> int | None:
        """Samples that a window needs to hold a share of what the whole past knows.

        Parameters
        ----------
        share : float
            In (0, 1).

        Returns
        -------
        int or None
            `None` where no window computed is long enough.
        """
        if not 0 < share < 1:
            raise DataError(f"length_for: share={share} came; a number strictly between 0 and 1 is needed.")
        enough = self.window >= share * self.total
        return int(enough.argmax()) if enough.any() else None

    def __repr__(self) -> str:
        return (
            f"WindowMemory(past {self.total:.4g} nats; window of {len(self.window) - 1}: "
            f"{self.window[-1]:.4g}, states: {len(self.state) - 1})"
        )


def window_memory(model: InnovationsModel, length: int) -> WindowMemory:
    r"""What a window of the last samples of a process knows of its future, and what a state knows.

    With $\Pi_w = \bar{\mathcal O}_w^\top (\operatorname{cov} y_{t-1 \dots t-w})^{-1} \bar{\mathcal O}_w$, the
    covariance of the state's estimate from the window, and $Q_-$ that from the whole future,

    $$I(\text{window}; \text{future}) = -\tfrac12 \log\det(I - Q_- \Pi_w), \qquad
    \Pi_{w+1} = A \Pi_w A^\top + M_w (\Lambda_0 - C \Pi_w C^\top)^{-1} M_w^\top,$$

    $M_w = \bar C^\top - A \Pi_w C^\top$ and $\Pi_0 = 0$. The limit $\Pi_\infty = P_-$ gives the mutual
    information of past and future. It is reached after n / p samples where the process is an
    autoregression, else never.

    Parameters
    ----------
    model : InnovationsModel
        Stable, in discrete time, with no inputs, and $R_e$ invertible.
    length : int
        Samples in the longest window.

    Returns
    -------
    WindowMemory
        `.window`, `.state`, `.total`, `.equal_size()`, `.length_for()`.

    Raises
    ------
    ShapeError
        If `length` is not a whole number, at least 0.
    UnstableError, RealizationError, RankError, ConvergenceError
        As `canonical_correlations`.

    References
    ----------
    W. Bialek, I. Nemenman, N. Tishby, *Predictability, complexity, and learning*, Neural Computation 13
    (2001) 2409-2463.

    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, chapter 11.

    Examples
    --------
    An autoregression of order 1 needs one sample.

    >>> import numpy as np, realization as rz
    >>> walk = rz.InnovationsModel([[0.6]], np.zeros((1, 0)), [[1.0]], K=[[0.6]])
    >>> rz.window_memory(walk, 2).window.round(6)
    array([0.      , 0.223144, 0.223144])
    """
    if not isinstance(length, int | np.integer) or length < 0:
        raise ShapeError(f"window_memory: length={length!r} came; a whole number, at least 0, is needed.")
    past, future = factors(model, "window_memory")
    sigma = _correlations(future, past)
    state = np.r_[0.0, np.cumsum(_nats(sigma))]
    window = np.array([_nats(_correlations(future, root)).sum() for root in _estimates(model, int(length))])
    return WindowMemory(window, state, float(state[-1]), model.n_outputs)


def _estimates(model: InnovationsModel, length: int) -> list[Array]:
    """Factors of the covariance of the state's estimate from 0, 1, ..., `length` samples.

    Each sample adds its own innovation's share, so that small shares keep their digits.
    """
    Cbar, Lambda0, _ = output_statistics(model, "window_memory")
    n, found = model.n_states, [np.zeros((model.n_states, 0))]
    for _ in range(length):
        root = found[-1]
        seen = model.C @ root
        scale = np.linalg.cholesky(Lambda0 - seen @ seen.T)
        news = (Cbar.T - model.A @ root @ seen.T).T
        added = scipy.linalg.solve_triangular(scale, news, lower=True).T
        wide = np.hstack([model.A @ root, added])
        found.append(np.asarray(np.linalg.qr(wide.T, mode="r")).T if wide.shape[1] > n else wide)
    return found


def _correlations(future: Array, past: Array) -> Array:
    if not future.size or not past.size:
        return np.zeros(0)
    return np.minimum(scipy.linalg.svdvals(future.T @ past), 1.0)


def _nats(sigma: Array) -> Array:
    with np.errstate(divide="ignore"):
        return -0.5 * np.log1p(-(sigma**2)) + 0.0
