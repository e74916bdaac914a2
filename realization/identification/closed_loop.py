r"""Subspace identification from records under feedback: states through the one-step predictor.

Under feedback the future inputs depend on the past noise, and to project them out biases the open-loop
methods. The predictor $x^+ = (A - K C) x + (B - K D) u + K y$ has no such trouble: its inputs `u` and `y`
are known, its error is white whatever the controller does. A long autoregression gives its Markov
parameters, they give its states, and the states give the matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, RankError, StabilityWarning
from realization.filtering.riccati import dare
from realization.identification.factorization import Factorization, factorize, scale
from realization.identification.order import noise_edge, prediction_order
from realization.identification.realization import Realization, reflect_poles, unscaled
from realization.identification.subspace import default_rows
from realization.notes import warn
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.systems.models import InnovationsModel

__all__ = ["PredictorSubspaceResult", "pbsid", "predictor_realization", "ssarx"]

Array = NDArray[np.float64]
Method = Literal["ssarx", "pbsid"]


@dataclass(frozen=True, eq=False)
class PredictorSubspaceResult:
    """Result of `ssarx` and `pbsid`.

    Attributes
    ----------
    model : InnovationsModel
        With the record's means as operating point.
    order : int
    singular_values : ndarray
        Of the weighted map from the past to the future; for `ssarx` canonical correlations.
    block_rows : int
        Lags of the autoregression, and block rows of the future.
    method : str
    stabilized : bool
        Whether poles were moved into the unit circle.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import pbsid
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> result = pbsid(data, order=1, block_rows=4)
    >>> result.method, result.block_rows, result.stabilized
    ('pbsid', 4, False)
    """

    model: InnovationsModel
    order: int
    singular_values: Array
    block_rows: int
    method: Method
    stabilized: bool


def ssarx(
    data: IOData | ArrayLike,
    order: int | None = None,
    *,
    block_rows: int | None = None,
    feedthrough: bool | Literal["auto"] = False,
    stable: bool = True,
    max_order: int = 20,
) -> PredictorSubspaceResult:
    r"""Subspace identification with a pre-estimated autoregression (SSARX), for open and closed loop.

    An autoregression gives the predictor's Markov parameters; with them the share of what happens in the
    future is taken off the future outputs,

    $$\tilde y_{t+j} = y_{t+j} - \sum_{k=0}^{j} \Xi_k z_{t+j-k}, \qquad z = (u, y),$$

    and the canonical variates of the past with what is left are the states.

    Parameters
    ----------
    data : IOData
        Recorded in closed or open loop; output-only records are taken too. Several experiments are kept
        apart; of a record with missing outputs the stretches without gaps count as experiments.
    order : int, optional
        States; when left out, the larger of two counts: canonical correlations of the past with what is
        left of the future that exceed what independent noise shows, and the number of canonical variates
        that minimizes the Bayesian information criterion of the next output.
    block_rows : int, optional
        Lags of the autoregression, and block rows of the future; chosen from the record's length when left
        out.
    feedthrough : bool or "auto"
        Whether `D` is estimated. Under feedback without a delay in the controller it cannot be told from the
        noise. `"auto"` keeps it where it lowers the Bayesian information criterion of the autoregression.
    stable : bool
        Move poles from outside the unit circle to its inside, with a warning; `False` leaves them.
    max_order : int
        Highest order tried when `order` is left out.

    Returns
    -------
    PredictorSubspaceResult

    Raises
    ------
    ExcitationError
        If the record is too short for the block rows.
    DataError
        If a column is constant, or an option is out of range.
    RankError
        If `order` is more than the record supports.

    Warns
    -----
    StabilityWarning
        If poles were moved.

    References
    ----------
    M. Jansson, Subspace identification and ARX modeling, Proc. 13th IFAC Symposium on System Identification,
    2003, 1625-1630.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import ssarx
    >>> rng = np.random.default_rng(0)
    >>> y, u = np.zeros(2000), np.zeros(2000)
    >>> for t in range(1999):  # an unstable plant, held by feedback
    ...     u[t] = -0.6 * y[t] + rng.standard_normal()
    ...     y[t + 1] = 1.1 * y[t] + u[t] + 0.1 * rng.standard_normal()
    >>> ssarx(rz.IOData(y, u), order=1, stable=False).model.poles.real.round(1)
    array([1.1])
    """
    return _identified(data, order, "ssarx", block_rows, feedthrough, stable, max_order)


def pbsid(
    data: IOData | ArrayLike,
    order: int | None = None,
    *,
    block_rows: int | None = None,
    feedthrough: bool | Literal["auto"] = False,
    stable: bool = True,
    max_order: int = 20,
) -> PredictorSubspaceResult:
    r"""Optimized predictor-based subspace identification (PBSID), for open and closed loop.

    The Markov parameters $\Xi_k$ of a long autoregression, one row later in each block row, are the map
    from the past to the future outputs that silence after time `t` would give,

    $$\Gamma \mathcal K = \begin{bmatrix} \Xi_1 & \Xi_2 & \cdots & \Xi_i \\ \Xi_2 & \cdots & \Xi_i & 0 \\
    \vdots & & & \end{bmatrix}, \qquad \Gamma x_t = \Gamma \mathcal K\, z_{t-1, \dots, t-i},$$

    and the principal directions of $\Gamma \mathcal K Z$, in units of the innovations, are the states.

    Parameters
    ----------
    data : IOData
        Recorded in closed or open loop; output-only records are taken too. Several experiments are kept
        apart; of a record with missing outputs the stretches without gaps count as experiments.
    order : int, optional
        States; when left out, the larger of two counts: canonical correlations of the past with what is
        left of the future that exceed what independent noise shows, and the number of canonical variates
        that minimizes the Bayesian information criterion of the next output.
    block_rows : int, optional
        Lags of the autoregression, and block rows of the future; chosen from the record's length when left
        out.
    feedthrough : bool or "auto"
        Whether `D` is estimated. Under feedback without a delay in the controller it cannot be told from the
        noise. `"auto"` keeps it where it lowers the Bayesian information criterion of the autoregression.
    stable : bool
        Move poles from outside the unit circle to its inside, with a warning; `False` leaves them.
    max_order : int
        Highest order tried when `order` is left out.

    Returns
    -------
    PredictorSubspaceResult

    Raises
    ------
    ExcitationError
        If the record is too short for the block rows.
    DataError
        If a column is constant, or an option is out of range.
    RankError
        If `order` is more than the record supports.

    Warns
    -----
    StabilityWarning
        If poles were moved.

    References
    ----------
    A. Chiuso, The role of vector autoregressive modeling in predictor-based subspace identification,
    Automatica 43 (2007) 1034-1048. I. Houtzager, J. W. van Wingerden, M. Verhaegen, Recursive
    predictor-based subspace identification with application to the real-time closed-loop tracking of
    flutter, IEEE Trans. Control Syst. Technol. 20 (2012) 934-949.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import pbsid
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> pbsid(data, order=1).model.poles.real.round(6)
    array([0.8])
    """
    return _identified(data, order, "pbsid", block_rows, feedthrough, stable, max_order)


def _identified(
    data: IOData | ArrayLike,
    order: int | None,
    method: Method,
    block_rows: int | None,
    feedthrough: bool | Literal["auto"],
    stable: bool,
    max_order: int,
) -> PredictorSubspaceResult:
    record = gap_free(as_data(data, missing=True, experiments=True))
    check_whole(method, order=(order, 0), block_rows=(block_rows, 2), max_order=(max_order, 1))
    if feedthrough not in (True, False, "auto"):
        raise DataError(f"{method}: feedthrough={feedthrough!r} came; True, False or 'auto' is needed.")
    scaled = scale(record, method)
    rows = default_rows(record, block_rows, order, max_order, method)
    factorization = factorize(scaled, rows, method)
    found, values, _ = predictor_realization(
        factorization, order, method, feedthrough=feedthrough, stable=stable, max_order=max_order
    )
    model = unscaled(scaled, found, record.dt)
    return PredictorSubspaceResult(model, len(found.A), values, rows, method, found.stabilized)


def predictor_realization(
    factorization: Factorization,
    order: int | None,
    method: Method,
    *,
    feedthrough: bool | Literal["auto"],
    stable: bool,
    max_order: int = 20,
) -> tuple[Realization, Array, Array]:
    """Realization, singular values and innovation covariance from a factorization."""
    m, p, columns = factorization.n_inputs, factorization.n_outputs, factorization.columns
    past, now, u, y = _signals(factorization)
    direct = _acts_at_once(factorization, past, u, y) if feedthrough == "auto" else bool(feedthrough and m)
    coefficients = _autoregression(factorization, past, u[:, : m * direct], y)
    weights, values = _state_weights(factorization, method, past, coefficients)
    if order is None:
        variates, correlations = weights, values
        if method != "ssarx":
            variates, correlations = _state_weights(factorization, "ssarx", past, coefficients)
        highest = min(max_order, variates.shape[1], weights.shape[1])
        shown = int((correlations**2 > noise_edge(factorization)).sum())
        told = prediction_order(past @ variates[:, :highest], u[:, : m * direct], y, columns, m)
        order = min(max(shown, told), highest)
    if order > weights.shape[1]:
        raise RankError(
            f"{method}: order {order} came; block_rows={factorization.block_rows} and this record support at "
            f"most {weights.shape[1]}. Take a lower order or more block rows."
        )
    x, x_next = past @ weights[:, :order], now @ weights[:, :order]
    seen = np.hstack([x, u[:, : m * direct]])
    output = scipy.linalg.lstsq(seen, y, check_finite=False)[0].T
    C, D = output[:, :order], np.zeros((p, m))
    if direct:
        D = output[:, order:]
    e = y - seen @ output.T
    step = _least_squares(np.hstack([x, u, e]), x_next, factorization.rounding)
    A, B, K = step[:, :order], step[:, order : order + m], step[:, order + m :]
    Re = e.T @ e / columns
    stabilized = bool(stable and np.abs(np.linalg.eigvals(A)).max(initial=0.0) >= 1)
    if stabilized:
        warn(
            f"{method}: the estimate of order {order} had a pole outside the unit circle; it was moved to "
            "its mirror image. If the plant is unstable, ask for stable=False.",
            StabilityWarning,
            stacklevel=4,
        )
        A = reflect_poles(A)
    K = _steady_gain(A, C, K, Re)
    return Realization(A, B, C, D, K, np.zeros(p), np.zeros(order), direct, stabilized), values, Re


def _signals(factorization: Factorization) -> tuple[Array, Array, Array, Array]:
    """Past at two neighbouring times (lags ascending, `u` before `y`), and what comes between them."""
    m, p = factorization.n_inputs, factorization.n_outputs
    past_u, past_y = factorization.past_u, factorization.past_y
    u, y = factorization.future_u[:, :m], factorization.future_y[:, :p]
    past = np.hstack([past_u, past_y])
    return past, np.hstack([past_u[:, m:], u, past_y[:, p:], y]), u, y


def _acts_at_once(factorization: Factorization, past: Array, u: Array, y: Array) -> bool:
    """Whether inputs of the same time tell more of the outputs than so many numbers would by chance."""
    if not u.shape[1]:
        return False
    determinants = []
    for seen in (past, np.hstack([past, u])):
        e = y - seen @ _least_squares(seen, y, factorization.rounding).T
        floor = 1e-24 * np.eye(y.shape[1])  # what exact data leave is rounding, and no evidence
        determinants.append(np.linalg.slogdet(e.T @ e / factorization.columns + floor)[1])
    gained = factorization.columns * (determinants[0] - determinants[1])
    return bool(gained > y.shape[1] * u.shape[1] * np.log(factorization.columns))


def _autoregression(factorization: Factorization, past: Array, direct: Array, y: Array) -> Array:
    r"""Predictor's Markov parameters, shape (i + 1, p, m + p): $\Xi_0 = [D, 0], \Xi_1, \dots, \Xi_i$."""
    i, m, p = factorization.block_rows, factorization.n_inputs, factorization.n_outputs
    theta = _least_squares(np.hstack([past, direct]), y, factorization.rounding)
    coefficients = np.zeros((i + 1, p, m + p))
    coefficients[1:, :, :m] = theta[:, : i * m].reshape(p, i, m).transpose(1, 0, 2)[::-1]
    coefficients[1:, :, m:] = theta[:, i * m : i * (m + p)].reshape(p, i, p).transpose(1, 0, 2)[::-1]
    if direct.shape[1]:
        coefficients[0, :, :m] = theta[:, i * (m + p) :]
    return coefficients


def _state_weights(
    factorization: Factorization, method: Method, past: Array, coefficients: Array
) -> tuple[Array, Array]:
    """Combinations of the past that are the states, shape (i (m + p), r), and their singular values."""
    if method == "pbsid":
        residual = _innovation_unit(factorization, past, coefficients)
        shifted = _shifted(coefficients, residual)
        _, values, right = scipy.linalg.svd(shifted @ past.T, full_matrices=False)
        held = values > 1e-12 * values[0]
        weights = scipy.linalg.lstsq(past, right[held].T, cond=1e-13)[0]
        return weights * np.sqrt(factorization.columns), values[held] / np.sqrt(factorization.columns)
    clean = _future_without_itself(factorization, coefficients)
    axes = [scipy.linalg.svd(part, full_matrices=False) for part in (clean, past)]
    (left, sizes, _), (span, lengths, turn) = axes
    left, kept = left[:, sizes > factorization.rounding], lengths > factorization.rounding
    _, values, right = scipy.linalg.svd(left.T @ span[:, kept], full_matrices=False)
    weights = (turn[kept].T / lengths[kept]) @ right.T
    return weights * np.sqrt(factorization.columns), values


def _innovation_unit(factorization: Factorization, past: Array, coefficients: Array) -> Array:
    """Inverse Cholesky factor of the innovations' covariance: outputs count in units of their noise."""
    m, p = factorization.n_inputs, factorization.n_outputs
    theta = np.hstack([_flat(coefficients[1:, :, :m]), _flat(coefficients[1:, :, m:])])
    e = (
        factorization.future_y[:, :p]
        - past @ theta.T
        - factorization.future_u[:, :m] @ coefficients[0, :, :m].T
    )
    covariance = e.T @ e / factorization.columns
    covariance = covariance + (1e-10 * np.trace(covariance) / p + 1e-24) * np.eye(p)
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _flat(parameters: Array) -> Array:
    """Markov parameters (i, p, q) of lags 1..i as one row of blocks, the oldest first."""
    return parameters[::-1].transpose(1, 0, 2).reshape(parameters.shape[1], -1)


def _shifted(coefficients: Array, unit: Array) -> Array:
    """Rows `j`: the map from the past to the prediction `j` steps after it, shape (i p, i (m + p))."""
    i, (p, both) = len(coefficients) - 1, coefficients.shape[1:]
    m = both - p
    blocks = []
    for j in range(i):
        later = np.zeros_like(coefficients[1:])
        later[: i - j] = coefficients[1 + j :]
        blocks.append(unit @ np.hstack([_flat(later[:, :, :m]), _flat(later[:, :, m:])]))
    return np.vstack(blocks)


def _future_without_itself(factorization: Factorization, coefficients: Array) -> Array:
    """Future outputs less what inputs and outputs after time `t` put into them, shape (c, i p)."""
    i, m, p = factorization.block_rows, factorization.n_inputs, factorization.n_outputs
    u, y = factorization.future_u, factorization.future_y
    clean = y.copy()
    for j in range(i):
        to = slice(j * p, (j + 1) * p)
        for k in range(j + 1):
            clean[:, to] -= u[:, (j - k) * m : (j - k + 1) * m] @ coefficients[k, :, :m].T
            clean[:, to] -= y[:, (j - k) * p : (j - k + 1) * p] @ coefficients[k, :, m:].T
    return clean


def _least_squares(a: Array, b: Array, rounding: float) -> Array:
    left, values, right = scipy.linalg.svd(a, full_matrices=False)
    held = values > rounding
    return (right[held].T @ ((left[:, held].T @ b) / values[held, None])).T


def _steady_gain(A: Array, C: Array, K: Array, Re: Array) -> Array:
    """The gain itself where its predictor is stable, else that of the same noise's Kalman filter."""
    if np.abs(np.linalg.eigvals(A - K @ C)).max(initial=0.0) < 1:
        return K
    return dare(A, C, K @ Re @ K.T, Re, K @ Re).K
