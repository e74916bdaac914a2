"""Order of a model from the canonical correlations of past and future."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import OrderWarning, RealizationError
from realization.filtering.riccati import dare
from realization.identification.factorization import Factorization
from realization.notes import warn

__all__ = ["information_order", "noise_edge", "prediction_order", "select_order"]

Array = NDArray[np.float64]
PATIENCE = 4


def select_order(factorization: Factorization, highest: int) -> int:
    """Order up to `highest` from the canonical correlations and from the innovations.

    The larger of two counts. Canonical correlations above what independent noise of this size shows: safe,
    but their edge grows with the number of lags, and a short record hides behind it. And the order that the
    Bayesian information criterion takes both for the next output alone (canonical variates of the past
    against parameters) and for the innovations of the model that carries those states on: each is too
    generous in a place where the other is not, white noise and records hardly longer than their lags.
    """
    correlations = factorization.subspace("cva")[1]
    significant = int((correlations**2 > noise_edge(factorization)).sum())
    if significant > highest:
        warn(
            f"{significant} canonical correlations are significant and the order {highest} is the limit "
            "of what was searched; raise max_order or block_rows.",
            OrderWarning,
            stacklevel=3,
        )
    if significant >= highest:
        return highest
    m, p = factorization.n_inputs, factorization.n_outputs
    variates = canonical_variates(factorization)[:, :highest]
    u, y = factorization.future_u, factorization.future_y[:, :p]
    told = prediction_order(variates, u, y, factorization.columns, m)
    if told <= significant:
        return significant
    directions, values = factorization.subspace("cva")

    def states(n: int) -> tuple[Array, Array, Array, Array]:
        return factorization.states(directions[:, :n] * np.sqrt(values[:n]))

    told = min(told, len(values), len(directions) - p)
    return max(significant, information_order(states, told, factorization))


def canonical_variates(factorization: Factorization) -> Array:
    """What of the past tells most about the future, given the future inputs, as columns of `R`."""
    i, m = factorization.block_rows, factorization.n_inputs
    stop = factorization.R.shape[1] - i * factorization.n_outputs
    residual, explained = factorization.R[i * m :, stop:], factorization.R[i * m : stop, stop:]
    _, sizes, right = scipy.linalg.svd(residual, full_matrices=False)
    held = sizes > factorization.rounding
    _, _, turn = scipy.linalg.svd((right[held] / sizes[held, None]) @ explained.T, full_matrices=False)
    variates = np.zeros((len(factorization.R), len(turn)))
    variates[i * m : stop] = turn.T
    return variates


def information_order(
    states: Callable[[int], tuple[Array, Array, Array, Array]], highest: int, factorization: Factorization
) -> int:
    r"""Number of states that minimizes the Bayesian information criterion of the innovations.

    $$N \log \det R_e(n) + n (2 p + m) \log N,$$

    with $R_e$ the innovation covariance of the state-space model that least squares makes of `n` states:
    what the states fail to carry on to the next sample counts too, and not only what they say about the
    next output. A model of order `n` has $n (2 p + m)$ parameters up to similarity.

    Parameters
    ----------
    states : callable
        Gives `x` (c, n), `x_next` (c, n), `u` (c, m) and `y` (c, p) for `n` states, as columns of `R`.
    highest : int
    factorization : Factorization

    References
    ----------
    D. Bauer, Order estimation for subspace methods, Automatica 37 (2001) 1561-1573.
    """
    p, m, count = factorization.n_outputs, factorization.n_inputs, factorization.columns
    best, value = 0, np.inf
    for n in range(highest + 1):
        covariance = _innovation_covariance(*states(n), count) + 1e-14 * np.eye(p)
        found = count * np.linalg.slogdet(covariance)[1] + n * (2 * p + m) * np.log(count)
        if found < value:
            best, value = n, found
        elif n > best + PATIENCE:
            break
    return best


def _innovation_covariance(x: Array, x_next: Array, u: Array, y: Array, count: int) -> Array:
    n = x.shape[1]
    seen, aims = np.hstack([x, u]), np.hstack([x_next, y])
    found = (
        scipy.linalg.lstsq(seen, aims, check_finite=False)[0]
        if seen.shape[1]
        else np.zeros((0, aims.shape[1]))
    )
    residual = aims - seen @ found
    joint = residual.T @ residual / count
    if n == 0:
        return joint
    Q, R, S = joint[:n, :n], joint[n:, n:] + 1e-12 * np.eye(y.shape[1]), joint[:n, n:]
    try:
        return dare(found[:n, :n].T, found[:n, n:].T, Q + 1e-16 * np.eye(n), R, S).Re
    except RealizationError:
        return 1e6 * np.eye(len(R))  # no model of this order: far worse than no states at all


def prediction_order(states: Array, inputs: Array, y: Array, count: int, m: int) -> int:
    r"""Number of leading states that minimizes the Bayesian information criterion of the next output alone.

    $$N \log \det \hat R_n + n (2 p + m) \log N,$$

    with $\hat R_n$ the residual covariance of $y_t$ on `n` states and the inputs.
    """
    p = y.shape[1]
    known = scipy.linalg.qr(np.hstack([inputs, states]), mode="economic")[0].T @ y
    width = inputs.shape[1]
    squares = y.T @ y - known[:width].T @ known[:width]
    values = []
    for n in range(states.shape[1] + 1):
        if n:
            squares = squares - np.outer(known[width + n - 1], known[width + n - 1])
        covariance = squares / count + 1e-14 * np.eye(p)
        values.append(count * np.linalg.slogdet(covariance)[1] + n * (2 * p + m) * np.log(count))
    return int(np.argmin(values))


def noise_edge(factorization: Factorization) -> float:
    r"""Square of a canonical correlation that independent noise stays below.

    $\lambda_+ = (\sqrt{a (1 - b)} + \sqrt{b (1 - a)})^2$ with $a$, $b$ the numbers of future and past
    variables for each sample; half as much again for the spread about the edge and the overlap of the
    windows.
    """
    i, m, p = factorization.block_rows, factorization.n_inputs, factorization.n_outputs
    samples = factorization.columns - i * m
    a, b = min(i * p / samples, 0.5), min(i * (m + p) / samples, 0.5)
    edge = (np.sqrt(a * (1 - b)) + np.sqrt(b * (1 - a))) ** 2
    return float(min(1.5 * edge, (1 + edge) / 2))
