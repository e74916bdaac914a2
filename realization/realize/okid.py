"""OKID: Markov parameters of a system from a record, by way of those of an observer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import (
    DataError,
    ExcitationError,
    ExcitationWarning,
    RankError,
    ShapeError,
    StabilityWarning,
)
from realization.notes import warn
from realization.realize.era import era
from realization.realize.hankel import hankel
from realization.signals import IOData
from realization.signals.data import as_data
from realization.signals.gaps import gap_free
from realization.systems import InnovationsModel, observability_matrix

__all__ = ["OkidResult", "okid"]

Array = NDArray[np.float64]
ROUNDING = 1e-11


@dataclass(frozen=True, eq=False)
class OkidResult:
    r"""A realization from a record, by OKID.

    Attributes
    ----------
    model : InnovationsModel
        `A, B, C, D` by ERA from the Markov parameters; `K` is the gain of the observer that was found.
    markov : ndarray, shape (N, p, m)
        Estimated Markov parameters of the system, `h[0] = D` first.
    hsv : ndarray
        Singular values of their Hankel matrix, largest first.
    order : int
    lags : int
        Past samples that the observer uses.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> y = rz.StateSpace([[0.9]], [[1.0]], [[1.0]]).simulate(u)
    >>> result = rz.okid(rz.IOData(y, u), lags=3)
    >>> result.order, result.model.poles.real.round(9)
    (1, array([0.9]))
    """

    model: InnovationsModel
    markov: Array
    hsv: Array
    order: int
    lags: int


class _Observer(NamedTuple):
    """Taps of inputs (lags + 1, p, m) and outputs (lags, p, p), and what they leave unexplained."""

    inputs: Array
    outputs: Array
    constant: Array
    Re: Array


def okid(
    data: IOData,
    order: int | None = None,
    *,
    lags: int | None = None,
    count: int | None = None,
    feedthrough: bool = True,
    tol: float | None = None,
) -> OkidResult:
    r"""Observer/Kalman filter identification.

    An observer with gain $K$ forgets its first state within few steps even where the system does not, so its
    Markov parameters are found by least squares with `lags` terms,

    $$y_t = \sum_{k=1}^{l} C \bar A^{k-1} [B - KD,\ K] \begin{bmatrix} u_{t-k} \\ y_{t-k} \end{bmatrix}
    + D u_t + e_t = \sum_{k=0}^{l} \beta_k u_{t-k} + \sum_{k=1}^{l} \alpha_k y_{t-k} + e_t,
    \qquad \bar A = A - KC,$$

    and those of the system and of the gain follow by recursion,

    $$h_k = \beta_k + \sum_{i=1}^{\min(k, l)} \alpha_i h_{k-i}, \qquad
    g_k = C A^{k-1} K = \alpha_k + \sum_{i=1}^{k-1} \alpha_i g_{k-i} .$$

    ERA realizes $h$; $K$ is the least-squares solution of $\mathcal O K = (g_1, g_2, \dots)$.

    Parameters
    ----------
    data : IOData
        With at least one input, persistently exciting. Experiments are kept apart; of a record with missing
        outputs the stretches without gaps count as experiments (`gap_free`).
    order : int, optional
        Number of states; as many as there are singular values above `tol` when left out.
    lags : int, optional
        Past samples of the observer, $l\,p \ge$ order; when left out, as many as leave three samples for each
        coefficient, at most 30.
    count : int, optional
        Markov parameters given to ERA, h[0] included; `2 * lags + 1` when left out.
    feedthrough : bool
        Whether $D$ is estimated or zero.
    tol : float, optional
        Singular values up to `tol` times the largest are cut; when left out, those that the noise of the
        estimate explains.

    Returns
    -------
    OkidResult
        `.model`, `.markov`, `.hsv`, `.order`, `.lags`.

    Raises
    ------
    ExcitationError
        If the record has no input or is too short for its lags.
    RankError
        If `order` exceeds what the lags allow.
    ShapeError, DataError
        If an option is not what is said above.

    Warns
    -----
    ExcitationWarning
        If the input does not excite as many frequencies as there are lags.
    StabilityWarning
        If the observer is not stable in the states that were kept; its gain is then set to zero.

    References
    ----------
    J.-N. Juang, M. Phan, L. G. Horta, R. W. Longman, *Identification of observer/Kalman filter Markov
    parameters: theory and experiments*, Journal of Guidance, Control, and Dynamics 16 (1993) 320-329.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(1)
    >>> plant = rz.InnovationsModel([[0.8]], [[1.0]], [[1.0]], [[0.5]], K=[[0.3]])
    >>> u = rng.standard_normal((5000, 1))
    >>> data = rz.IOData(plant.simulate(u, e=0.1 * rng.standard_normal((5000, 1))), u)
    >>> rz.okid(data, order=1, lags=10).model.poles.real.round(2)
    array([0.8])
    """
    data = gap_free(as_data(data, missing=True, experiments=True))
    lags = _lags(data, lags, order)
    count = 2 * lags + 1 if count is None else count
    if not isinstance(count, int | np.integer) or count < 3:
        raise ShapeError(
            f"okid: count={count!r} came; a whole number of Markov parameters, at least 3, is needed."
        )
    if tol is not None and not 0 <= tol < 1:
        raise DataError(
            f"okid: tol={tol} came; a share of the largest singular value, 0 <= tol < 1, is needed."
        )
    found = _observer(data, lags, feedthrough)
    h, g = _system_markov(found, count)
    order = _order(order, h, found, data, tol)
    result = era(h, order, dt=data.dt)
    system = result.model
    sight = observability_matrix(system, count - 1)
    K = scipy.linalg.lstsq(sight, g.reshape(-1, data.n_outputs), cond=1e-12)[0] if order else g[:0, 0]
    if order and not np.abs(np.linalg.eigvals(system.A - K @ system.C)).max() < 1:
        warn(
            "okid: the observer is not stable in the states that were kept, so its gain is left at zero. "
            "Take a higher order or other lags; pem or n4sid give a noise model of their own.",
            StabilityWarning,
            stacklevel=2,
        )
        K = np.zeros_like(K)
    u_mean = data.inputs.mean(axis=0)
    # The constant of the regression is that of the operating point: y_mean is where it leaves no offset.
    balance = np.eye(data.n_outputs) - found.outputs.sum(axis=0)
    y_mean = scipy.linalg.lstsq(balance, found.constant + found.inputs.sum(axis=0) @ u_mean, cond=1e-10)[0]
    model = InnovationsModel(
        system.A, system.B, system.C, system.D, data.dt, K=K, Re=found.Re, u_mean=u_mean, y_mean=y_mean
    )
    return OkidResult(model, h, result.hsv, order, lags)


def _lags(data: IOData, lags: int | None, order: int | None) -> int:
    if not data.n_inputs:
        raise ExcitationError(
            "okid: the record has no input, so there are no Markov parameters to find. For a time series use "
            "stochastic_realization on its covariances, or n4sid."
        )
    width, lengths = data.n_inputs + data.n_outputs, np.array([rows.stop - rows.start for rows in data.spans])

    def left(lags: int) -> int:
        """Rows of the regression."""
        return int(np.maximum(lengths - lags, 0).sum())

    if lags is None:
        lags = max((k for k in range(1, 31) if left(k) >= 3 + 3 * k * width), default=1)
    if not isinstance(lags, int | np.integer) or lags < 1:
        raise ShapeError(f"okid: lags={lags!r} came; a whole number, at least 1, is needed.")
    if left(lags) < 2 + data.n_inputs + lags * width:
        longest = max((k for k in range(lags) if left(k) >= 2 + data.n_inputs + k * width), default=0)
        raise ExcitationError(
            f"okid: {data.length} samples"
            + (f" in {len(data.starts)} stretches" if len(data.starts) > 1 else "")
            + f" are too few for {lags} lags of {width} channels; they allow "
            f"{longest}. Take fewer lags or a longer record."
        )
    if order is not None and (
        not isinstance(order, int | np.integer) or not 0 <= order <= lags * data.n_outputs
    ):
        raise RankError(
            f"okid: order={order!r} came; {lags} lags of {data.n_outputs} outputs determine orders from 0 to "
            f"{lags * data.n_outputs}. Ask for another order or more lags."
        )
    return int(lags)


def _observer(data: IOData, lags: int, feedthrough: bool) -> _Observer:
    u, y = data.inputs, data.y
    m, p, first = u.shape[1], data.n_outputs, 0 if feedthrough else 1
    now = np.concatenate([np.arange(rows.start + lags, rows.stop) for rows in data.spans])
    T, target = len(now), y[now]
    past_u = [u[now - k] for k in range(first, lags + 1)]
    past_y = [y[now - k] for k in range(1, lags + 1)]
    _warn_if_poor(np.hstack(past_u))
    regressors = np.hstack([np.ones((T, 1)), *past_u, *past_y])
    size = np.linalg.norm(regressors, axis=0)
    size[size == 0] = 1.0
    theta, _, rank, _ = scipy.linalg.lstsq(regressors / size, target, cond=ROUNDING, lapack_driver="gelsd")
    theta = theta / size[:, None]
    e = target - regressors @ theta
    taps = theta[1:].T
    split = (lags + 1 - first) * m
    inputs = np.zeros((lags + 1, p, m))
    inputs[first:] = taps[:, :split].reshape(p, -1, m).transpose(1, 0, 2)
    outputs = taps[:, split:].reshape(p, lags, p).transpose(1, 0, 2)
    return _Observer(inputs, outputs, theta[0], e.T @ e / max(T - int(rank), 1))


def _warn_if_poor(past: Array) -> None:
    s = scipy.linalg.svdvals(past - past.mean(axis=0))
    if not s[-1] > 1e-8 * s[0]:
        warn(
            f"okid: the input excites {int(np.sum(s > 1e-8 * s[0]))} of the {len(s)} directions that these "
            "lags need; what it does not excite is not determined. Use fewer lags or a richer input.",
            ExcitationWarning,
            stacklevel=4,
        )


def _system_markov(found: _Observer, count: int) -> tuple[Array, Array]:
    """Markov parameters of the system (count, p, m) and of its gain (count - 1, p, p)."""
    p, m = found.inputs.shape[1:]
    lags = len(found.outputs)
    h, g = np.zeros((count, p, m)), np.zeros((count, p, p))
    h[: lags + 1], g[0] = found.inputs[:count], np.eye(p)
    for k in range(1, count):
        for i in range(1, min(k, lags) + 1):
            h[k] += found.outputs[i - 1] @ h[k - i]
            g[k] += found.outputs[i - 1] @ g[k - i]
    return h, g[1:]


def _order(order: int | None, h: Array, found: _Observer, data: IOData, tol: float | None) -> int:
    if order is not None:
        return order
    rows = (len(h) - 1) - (len(h) - 1) // 2
    cols = len(h) - 1 - rows
    _, p, m = h.shape
    s = scipy.linalg.svdvals(hankel(h[1:], rows, cols))
    if tol is not None:
        return int(np.sum(s > tol * s[0]))
    # A matrix of independent errors has a largest singular value near the sum of the roots of its sides.
    spread = float(
        np.sqrt(np.trace(found.Re) / p / data.length) / data.inputs.std(axis=0).min(initial=np.inf)
    )
    noise = 2 * spread * (np.sqrt(rows * p) + np.sqrt(cols * m))
    return min(int(np.sum(s > max(noise, 1e-9 * s[0]))), len(found.outputs) * p)
