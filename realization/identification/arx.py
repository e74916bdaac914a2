"""Autoregressive models with inputs, by linear least squares, as state-space models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError, ExcitationWarning, StabilityWarning
from realization.identification.factorization import Scaling, scale, without_gaps
from realization.identification.realization import Realization, unscaled
from realization.identification.stable_autoregression import stable_taps
from realization.notes import warn
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.systems.models import InnovationsModel
from realization.systems.responses import first_states, joined

__all__ = ["ArxResult", "arx"]

Array = NDArray[np.float64]
Selection = Literal["aic", "bic", "fpe"]


@dataclass(frozen=True, eq=False)
class ArxResult:
    """Result of `arx`.

    Attributes
    ----------
    model : InnovationsModel
        Block observer form, of order `p` times the longest lag; the predictor's poles are all at zero.
    na, nb, nk : int
        Lags of the outputs, taps of the inputs, and the inputs' delay in samples.
    criterion : ndarray, shape (max_order,)
        Value of the selection criterion at `na = nb = 1, 2, ...`; empty where the orders were given.
    stabilized : bool
        Whether poles were moved into the unit circle.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import arx
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> result = arx(data)
    >>> result.na, result.nb, result.model.n_states
    (1, 1, 1)
    """

    model: InnovationsModel
    na: int
    nb: int
    nk: int
    criterion: Array
    stabilized: bool = False


def arx(
    data: IOData | ArrayLike,
    *,
    na: int | None = None,
    nb: int | None = None,
    nk: int = 1,
    select: Selection = "bic",
    max_order: int | None = None,
    stable: bool = True,
) -> ArxResult:
    r"""Least-squares ARX model (AR for an output-only record).

    $$y_t = \sum_{k=1}^{n_a} A_k y_{t-k} + \sum_{k=n_k}^{n_k + n_b - 1} B_k u_{t-k} + e_t$$

    Parameters
    ----------
    data : IOData
        Rows that would reach into another experiment, or over a missing output, are left out.
    na : int, optional
        Lags of the outputs. When left out, `na = nb` is chosen by `select`.
    nb : int, optional
        Taps of the inputs; `na` when left out.
    nk : int
        Delay of the inputs in samples; 0 lets them act at once.
    select : {"bic", "aic", "fpe"}
        Criterion by which the lags are chosen; all candidates are judged on the same samples.
    max_order : int, optional
        Most lags that are tried; chosen from the record's length when left out (at most 30).
    stable : bool
        Move poles from outside the unit circle to its inside, with a warning, and fit the inputs' taps
        again. `False` leaves the least-squares estimate as it is, whose one-step predictor is stable in any
        case.

    Returns
    -------
    ArxResult

    Raises
    ------
    ExcitationError
        If the record is too short for the lags.
    DataError
        If a column is constant, or an option is out of range.

    Warns
    -----
    StabilityWarning
        If poles were moved.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 4.2 and 16.4.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import arx
    >>> u = np.random.default_rng(0).standard_normal(100)
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u)
    >>> result = arx(rz.IOData(y, u), na=1)
    >>> result.model.poles.real.round(6), (result.model.C @ result.model.B).round(6)
    (array([0.8]), array([[0.5]]))
    """
    record = gap_free(as_data(data, missing=True, experiments=True))
    if select not in get_args(Selection):
        raise DataError(f"arx: select={select!r} came; one of {', '.join(get_args(Selection))} is needed.")
    check_whole("arx", na=(na, 0), nb=(nb, 0), nk=(nk, 0), max_order=(max_order, 0))
    if na is None and nb is not None:
        raise DataError(f"arx: nb={nb} came without na; give both, or neither to have them chosen.")
    scaled = scale(record, "arx")
    criterion = np.zeros(0)
    if na is None:
        highest = longest_lags(scaled) if max_order is None else max_order
        if highest < 1:
            raise ExcitationError(_too_short(scaled, 1))
        criterion = order_criterion(scaled, highest, nk, select)
        na = 1 + int(np.argmin(criterion))
    nb = 0 if record.n_inputs == 0 else na if nb is None else nb
    _tell_of_short_experiments(scaled, longest(na, nb, nk))
    found = fit_arx(scaled, na, nb, nk, stable=stable)
    if found.stabilized:
        warn(
            f"arx: least squares with na={na}, nb={nb} gave poles outside the unit circle; they were moved "
            "to their mirror images. If the plant is unstable, or only predictions matter, ask for "
            "stable=False.",
            StabilityWarning,
            stacklevel=2,
        )
    return ArxResult(unscaled(scaled, found, record.dt), na, nb, nk, criterion, found.stabilized)


def fit_arx(
    scaled: Scaling, na: int, nb: int, nk: int, ridge: float = 0.0, *, stable: bool = False
) -> Realization:
    """Least squares (with a ridge on lagged terms where asked), realized in block observer form."""
    scaled = without_gaps(scaled)
    start = longest(na, nb, nk)
    regressors = lagged_regressors(scaled, na, nb, nk, start)
    target = later_rows(scaled, scaled.y, start)
    if len(target) <= regressors.shape[1] + 1 and ridge == 0:
        raise ExcitationError(_too_short(scaled, max(na, nb)))
    level = regressors.mean(axis=0), target.mean(axis=0)
    moving, aim = regressors - level[0], target - level[1]
    if ridge:
        moving = np.vstack([moving, np.sqrt(ridge * len(target)) * np.eye(moving.shape[1])])
        aim = np.vstack([aim, np.zeros((moving.shape[1], aim.shape[1]))])
    theta = scipy.linalg.lstsq(moving, aim, cond=1e-13)[0].T
    calmed = _with_stable_poles(theta, moving, aim, na) if stable else None
    theta = theta if calmed is None else calmed
    found = observer_form(scaled, theta, na, nb, nk, level[1] - theta @ level[0])
    return found._replace(stabilized=calmed is not None)


def _with_stable_poles(theta: Array, moving: Array, aim: Array, na: int) -> Array | None:
    """Coefficients with stable poles, the inputs' taps fitted again; `None` where they were stable."""
    p = len(theta)
    width = na * p
    taps = stable_taps(theta[:, :width].reshape(p, na, p).transpose(1, 0, 2))
    if taps is None:
        return None
    kept = taps.transpose(1, 0, 2).reshape(p, width)
    free = scipy.linalg.lstsq(moving[:, width:], aim - moving[:, :width] @ kept.T, cond=1e-13)[0].T
    return np.hstack([kept, free])


def order_criterion(scaled: Scaling, highest: int, nk: int, select: Selection) -> Array:
    """Criterion at `na = nb = 1..highest`, all from one triangular factor."""
    scaled = without_gaps(scaled)
    m, p = scaled.u.shape[1], scaled.y.shape[1]
    start = highest + nk

    def stack(y: Array, u: Array) -> Array:
        length = len(y)
        blocks = [np.ones((length - start, 1))]
        for lag in range(1, highest + 1):
            blocks += [y[start - lag : length - lag], u[start - lag - nk + 1 : length - lag - nk + 1]]
        return np.hstack([*blocks, y[start:]])

    parts = [stack(scaled.y[rows], scaled.u[rows]) for rows in longer_spans(scaled, start)]
    stacked = joined(parts) if parts else np.zeros((0, 1 + highest * (m + p) + p))
    count = len(stacked)
    if count <= stacked.shape[1]:
        raise ExcitationError(_too_short(scaled, highest))
    R = scipy.linalg.qr(stacked, mode="r", check_finite=False)[0]
    values = np.empty(highest)
    for lags in range(1, highest + 1):
        used = 1 + lags * (m + p)
        residual = R[used : stacked.shape[1], -p:]
        covariance = residual.T @ residual / count + 1e-28 * np.eye(p)
        log_det = np.linalg.slogdet(covariance)[1]
        parameters = used * p
        if select == "fpe":
            values[lags - 1] = log_det + p * np.log((count + used) / (count - used))
        else:
            values[lags - 1] = log_det + parameters * (np.log(count) if select == "bic" else 2) / count
    return values


def longest_lags(scaled: Scaling) -> int:
    """Lags that leave three samples for each coefficient of an equation, at most 30."""
    return most_lags(scaled, 3, 3, 30)


def most_lags(scaled: Scaling, ratio: int, spare: int, limit: int) -> int:
    """Most lags, up to `limit`, with `ratio` rows for each coefficient and `spare` more."""
    lengths, channels = without_gaps(scaled).lengths, scaled.u.shape[1] + scaled.y.shape[1]
    lags = min(limit, (sum(lengths) - spare) // (ratio * channels + 1))

    def rows() -> int:
        # A criterion reaches one sample further back than its lags; one experiment can spare it.
        return sum(max(0, length - lags - 1) for length in lengths) + 1

    while lags > 0 and rows() < spare + ratio * lags * channels:
        lags -= 1
    return int(lags)


def longest(na: int, nb: int, nk: int) -> int:
    """Samples before a row that its regressors reach back to."""
    return max(na, nk + nb - 1 if nb else 0)


def longer_spans(scaled: Scaling, start: int) -> list[slice]:
    """Rows of the experiments with more than `start` samples."""
    return [rows for rows in scaled.spans if rows.stop - rows.start > start]


def later_rows(scaled: Scaling, values: Array, start: int) -> Array:
    """Rows of each experiment from its row `start` on: those that have regressors."""
    parts = [values[rows][start:] for rows in longer_spans(scaled, start)]
    return joined(parts) if parts else values[:0]


def lagged_regressors(scaled: Scaling, na: int, nb: int, nk: int, start: int) -> Array:
    """Lagged outputs and inputs of the rows of `later_rows`; no row reaches into another experiment."""

    def stack(y: Array, u: Array) -> Array:
        length = len(y)
        parts = [y[start - k : length - k] for k in range(1, na + 1)]
        parts += [u[start - k : length - k] for k in range(nk, nk + nb)]
        return np.hstack([np.empty((length - start, 0)), *parts])

    parts = [stack(scaled.y[rows], scaled.u[rows]) for rows in longer_spans(scaled, start)]
    width = na * scaled.y.shape[1] + nb * scaled.u.shape[1]
    return joined(parts) if parts else np.empty((0, width))


def _tell_of_short_experiments(scaled: Scaling, start: int) -> None:
    short = [length for length in scaled.lengths if length <= start]
    if short:
        warn(
            f"arx: {len(short)} of {len(scaled.lengths)} experiments ({sum(short)} of "
            f"{sum(scaled.lengths)} samples) have no more samples than the {start} that a row reaches back; "
            "they are left out. Fewer lags would use them.",
            ExcitationWarning,
            stacklevel=3,
        )


def observer_form(scaled: Scaling, theta: Array, na: int, nb: int, nk: int, constant: Array) -> Realization:
    p, m = len(theta), scaled.u.shape[1]
    lags = max(na, nk + nb - 1 if nb else 0)
    autoregressive = np.zeros((lags, p, p))
    autoregressive[:na] = theta[:, : na * p].reshape(p, na, p).transpose(1, 0, 2)
    taps = np.zeros((lags + 1, p, m))
    if nb:
        taps[nk : nk + nb] = theta[:, na * p :].reshape(p, nb, m).transpose(1, 0, 2)
    A = np.eye(lags * p, k=p)
    if lags:
        A[:, :p] = autoregressive.reshape(lags * p, p)
    C = np.eye(p, lags * p)
    K = autoregressive.reshape(lags * p, p)
    B = taps[1:].reshape(lags * p, m) + K @ taps[0]
    # y = offset + ... holds with the offset that the autoregression turns into the constant.
    balance = np.eye(p) - autoregressive.sum(axis=0)
    offset = scipy.linalg.lstsq(balance, constant, cond=1e-8)[0]
    x0 = first_states([np.zeros(lags * p)] * len(scaled.starts))
    return Realization(A, B, C, taps[0], K, offset, x0, nk == 0, False)


def _too_short(scaled: Scaling, lags: int) -> str:
    length, m = scaled.u.shape
    p = scaled.y.shape[1]
    rows = [sum(max(0, size - k) for size in scaled.lengths) for k in range(max(scaled.lengths))]
    supported = sum(count > k * (m + p) + 1 for k, count in enumerate(rows[1:], start=1))
    in_parts = f" in {len(scaled.starts)} experiments" if len(scaled.starts) > 1 else ""
    return (
        f"arx: {length} samples{in_parts} with {m} inputs and {p} outputs are too few for {lags} lags, "
        f"which have {lags * (m + p) + 1} coefficients in each equation. They support "
        + (f"up to {supported} lags" if supported > 1 else "one lag" if supported == 1 else "no lag at all")
        + ". Take fewer lags or a longer record."
    )
