"""Dead times: how many samples pass before an input acts, and models that wait as long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError, RealizationError, ShapeError
from realization.identification.arx import lagged_regressors, later_rows, most_lags, order_criterion
from realization.identification.factorization import Scaling, scale, without_gaps
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.systems.models import InnovationsModel, StateSpace

__all__ = ["InputDelays", "delay_inputs", "input_delays"]

Array = NDArray[np.float64]
MOST_STATES = 10_000
FEW_LAGS = 10
# What exact data leave of unit variance is rounding, and no evidence.
EXACT = 1e-22


@dataclass(frozen=True, eq=False)
class InputDelays:
    """Result of `input_delays`.

    Attributes
    ----------
    delays : ndarray of int, shape (m,)
        Samples before each input acts on any output; 0 for an input that acts on none.
    pairs : ndarray of int, shape (p, m)
        Samples before each input acts on each output; -1 where no effect was found.
    lags : int
        Of the autoregression that they were read from.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal((500, 2))
    >>> y = np.zeros((500, 1))
    >>> for t in range(5, 500):
    ...     y[t] = 0.7 * y[t - 1] + u[t - 5, 0]
    >>> found = rz.input_delays(rz.IOData(y, u))
    >>> found.delays, found.pairs
    (array([5, 0]), array([[ 5, -1]]))
    """

    delays: NDArray[np.intp]
    pairs: NDArray[np.intp]
    lags: int


def input_delays(data: IOData, *, max_delay: int = 20, lags: int | None = None) -> InputDelays:
    r"""Dead time of each input, from all channels together, in open or closed loop.

    $$y_t = c + \sum_{k=1}^{L} A_k y_{t-k} + \sum_{k=0}^{L+d_{\max}} B_k u_{t-k} + e_t$$

    For each input and output the first `d` taps are left out of the regression, all others stay, and `d` is
    that of the smallest Bayesian information criterion: one triangular factor in which the taps come last,
    the first lag at the end, tells the residuals of all `d`. In a loop whose controller answers within the
    same sample, its answer to the noise looks like an input that acts at once; and of an input that hardly
    changes from sample to sample, neighbouring taps stand for each other, so that late ones may be found.

    Parameters
    ----------
    data : IOData
        Several experiments and missing outputs are taken too.
    max_delay : int
        Longest delay tried.
    lags : int, optional
        `L`; chosen by the information criterion, at most 10, when left out.

    Returns
    -------
    InputDelays
        `data.delay(found.delays)` is the record without them, whose model acts at once; `delay_inputs` gives
        that model its delays back.

    Raises
    ------
    DataError
        If there are no inputs, a column is constant, or an option is out of range.
    ExcitationError
        If the record is too short.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 16.5.
    S. Björklund, L. Ljung, A review of time-delay estimation techniques, Proc. 42nd IEEE Conf. Decision and
    Control 2003, 2502-2507.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((1000, 1))
    >>> plant = rz.delay_inputs(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]), 3)
    >>> data = rz.IOData(plant.simulate(u) + 0.1 * rng.standard_normal((1000, 1)), u)
    >>> found = rz.input_delays(data)  # three samples, and the one of a model without feedthrough
    >>> found.delays
    array([4])
    >>> quick = rz.n4sid(data.delay(found.delays), order=1, feedthrough=True).model
    >>> rz.delay_inputs(quick, found.delays).impulse_response(7)[:, 0, 0].round(1)
    array([0. , 0. , 0. , 0. , 0.5, 0.4, 0.3])
    """
    record = gap_free(as_data(data, missing=True, experiments=True))
    if not record.n_inputs:
        raise DataError("input_delays: the record has no inputs.")
    check_whole("input_delays", max_delay=(max_delay, 1), lags=(lags, 1))
    scaled = without_gaps(scale(record, "input_delays"))
    m, p = record.n_inputs, record.n_outputs
    if lags is None:
        highest = min(FEW_LAGS, most_lags(scaled, 3, 3, FEW_LAGS))
        lags = 1 + int(np.argmin(order_criterion(scaled, highest, 0, "bic"))) if highest > 1 else 1
    taps = lags + max_delay + 1
    moving, aim = _regression(scaled, lags, taps)
    if len(aim) < 2 * (p * lags + m * taps):
        raise ExcitationError(
            f"input_delays: {record.length} samples came; {p * lags + m * taps} coefficients of each "
            f"equation need twice as many rows. Take a longer record, max_delay below {max_delay}, or fewer "
            "lags."
        )
    pairs = np.empty((p, m), dtype=np.intp)
    for i in range(m):
        own = p * lags + i + m * np.arange(taps)
        pairs[:, i] = _first_taps(np.delete(moving, own, axis=1), moving[:, own], aim, max_delay)
    acting = np.where(pairs < 0, np.iinfo(np.intp).max, pairs).min(axis=0)
    return InputDelays(np.where((pairs < 0).all(axis=0), 0, acting), pairs, lags)


def _regression(scaled: Scaling, lags: int, taps: int) -> tuple[Array, Array]:
    """Lagged outputs and inputs and the outputs that they are to explain, the means taken off."""
    start = max(lags, taps - 1)
    moving, aim = lagged_regressors(scaled, lags, taps, 0, start), later_rows(scaled, scaled.y, start)
    if not len(aim):
        return moving, aim
    return moving - moving.mean(axis=0), aim - aim.mean(axis=0)


def _first_taps(others: Array, own: Array, aim: Array, max_delay: int) -> NDArray[np.intp]:
    """First tap of one input in each output's equation, -1 where it has none."""
    taps, count = own.shape[1], len(aim)
    stacked = np.hstack([others, own[:, ::-1], aim])
    R = scipy.linalg.qr(stacked, mode="r", check_finite=False)[0][: stacked.shape[1]]
    kept = others.shape[1]
    explained = (
        R[kept : kept + taps, kept + taps :][::-1] ** 2
    )  # of the tap at each lag, given all later ones
    left = (R[kept + taps :, kept + taps :] ** 2).sum(axis=0) + EXACT * count
    without = left + np.vstack([np.zeros(aim.shape[1]), np.cumsum(explained, axis=0)])
    criterion = count * np.log(without) - np.arange(taps + 1)[:, None] * np.log(count)
    tried = np.vstack([criterion[: max_delay + 1], criterion[-1:]])
    best = np.argmin(tried, axis=0)
    return np.where(best == len(tried) - 1, -1, best)


def delay_inputs(model: StateSpace, delays: int | Sequence[int] | ArrayLike) -> StateSpace:
    r"""A model whose inputs act `d` samples later: a chain of `d` states holds each input as long.

    $$G(z)\, \operatorname{diag}(z^{-d_1}, \dots, z^{-d_m})$$

    Parameters
    ----------
    model : StateSpace
        In discrete time; an `InnovationsModel` keeps its noise.
    delays : int or array_like of int, shape (m,)
        For all inputs, or one for each.

    Returns
    -------
    StateSpace
        Of the kind that came, with the delays' sum more states.

    Raises
    ------
    RealizationError
        If the model is in continuous time.
    ShapeError
        If the delays do not match the inputs, or one is negative or no whole number.

    Examples
    --------
    >>> import realization as rz
    >>> model = rz.delay_inputs(rz.StateSpace([[0.5]], [[1.0]], [[1.0]], [[2.0]]), 2)
    >>> model.impulse_response(5)[:, 0, 0]
    array([0. , 0. , 2. , 1. , 0.5])
    """
    if model.dt == 0:
        raise RealizationError("delay_inputs: the model is in continuous time; discretize it first.")
    n, m, p = model.n_states, model.n_inputs, model.n_outputs
    each = np.asarray(delays)
    each = np.broadcast_to(each, m) if each.ndim == 0 else each
    if each.shape != (m,) or each.dtype.kind not in "iu" or (m and each.min() < 0):
        raise ShapeError(f"delay_inputs: {delays!r} came; {m} whole numbers of at least 0 are needed.")
    total = n + sum(each.tolist())
    if total > MOST_STATES:
        raise ShapeError(
            f"delay_inputs: {total} states would be needed, above the {MOST_STATES} that a dense model "
            "holds. Delay the record instead: data.delay(samples)."
        )
    A, B, C, D = np.zeros((total, total)), np.zeros((total, m)), np.zeros((p, total)), model.D.copy()
    A[:n, :n], B[:n], C[:, :n] = model.A, model.B, model.C
    end = n
    for i, d in enumerate(each):
        if d == 0:
            continue
        first, end = end, end + int(d)
        A[first + 1 : end, first : end - 1] = np.eye(int(d) - 1)
        A[:n, end - 1], C[:, end - 1] = model.B[:, i], model.D[:, i]
        B[:, i], D[:, i] = 0.0, 0.0
        B[first, i] = 1.0
    if not isinstance(model, InnovationsModel):
        return StateSpace(A, B, C, D, model.dt)
    K = np.vstack([model.K, np.zeros((total - n, p))])
    return InnovationsModel(A, B, C, D, model.dt, K=K, Re=model.Re, u_mean=model.u_mean, y_mean=model.y_mean)
