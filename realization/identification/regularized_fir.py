"""Impulse responses straight from a record, with a kernel prior in place of an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError
from realization.filtering.innovations import chi_squared_quantile
from realization.identification.arx import lagged_regressors, later_rows
from realization.identification.evidence import Group, Kernel, posterior
from realization.identification.factorization import scale
from realization.signals.data import IOData, as_data

__all__ = ["RegularizedFir", "regularized_fir"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegularizedFir:
    """Result of `regularized_fir`.

    Attributes
    ----------
    impulse_response : ndarray, shape (length, p, m)
        Markov parameters `h[0], h[1], ...`.
    standard_errors : ndarray, shape (length, p, m)
        Of the posterior.
    lower, upper : ndarray, shape (length, p, m)
        Posterior bands.
    level : float
    decays : ndarray, shape (p, m)
        Decay of each response's prior for a step of one sample.
    noise : ndarray, shape (p,)
        Variance of what the inputs do not explain.
    kernel : str
    evidence : float
        Logarithm of the evidence less a constant that no kernel changes, summed over the outputs.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((300, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((300, 1))
    >>> found = rz.regularized_fir(rz.IOData(y, u), 30)
    >>> found.kernel, found.impulse_response.shape
    ('TC', (30, 1, 1))
    """

    impulse_response: Array
    standard_errors: Array
    lower: Array
    upper: Array
    level: float
    decays: Array
    noise: Array
    kernel: Kernel
    evidence: float


def regularized_fir(
    data: IOData | ArrayLike,
    length: int | None = None,
    *,
    kernel: Kernel = "TC",
    feedthrough: bool = True,
    level: float = 0.95,
) -> RegularizedFir:
    r"""Finite impulse response as the mean of a Gaussian posterior.

    $$y_t = \mu + \sum_{k} h_k u_{t-k} + v_t, \qquad h \sim N(0, \lambda K_\beta), \qquad
    \hat h = \lambda K \Phi^\top (\lambda \Phi K \Phi^\top + \sigma^2 I)^{-1} y$$

    Each input's response to each output has a scale and a decay of its own; they and the noise are those of
    maximal evidence. `era` makes a state-space model of the result.

    Parameters
    ----------
    data : IOData
        Rows without all inputs before them in their experiment, or without an output, are left out.
    length : int, optional
        Taps; a quarter of the record, at most 60, when left out.
    kernel : {"TC", "DC", "SS"}
        Prior: tuned-correlated, diagonal-correlated, stable spline (smooth responses).
    feedthrough : bool
        Whether `h[0]` is estimated.
    level : float
        Posterior probability of the bands at each tap, in (0, 1).

    Returns
    -------
    RegularizedFir

    Raises
    ------
    DataError
        If there are no inputs or an option is out of range.
    ExcitationError
        If the record is too short.

    References
    ----------
    T. Chen, H. Ohlsson, L. Ljung, On the estimation of transfer functions, regularizations and Gaussian
    processes: revisited, Automatica 48 (2012) 1525-1535.
    G. Pillonetto, G. De Nicolao, A new kernel-based approach for linear system identification, Automatica 46
    (2010) 81-93.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((300, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((300, 1))
    >>> rz.regularized_fir(rz.IOData(y, u), 30).impulse_response[1:4, 0, 0].round(1)
    array([0.5, 0.4, 0.3])
    """
    record = as_data(data, missing=True, experiments=True)
    if kernel not in get_args(Kernel):
        raise DataError(f"regularized_fir: kernel={kernel!r} came; 'TC', 'DC' or 'SS' is needed.")
    if record.n_inputs == 0:
        raise DataError("regularized_fir: the record has no inputs; take arx or n4sid for a time series.")
    wide = chi_squared_quantile(1 - level, 1) ** 0.5
    check_whole("regularized_fir", length=(length, 1))
    taps = max(2, min(60, max(_lengths(record)) // 4)) if length is None else length
    first = 0 if feedthrough else 1
    if taps <= first:
        raise DataError(f"regularized_fir: length={length} came; at least {first + 1} is needed.")
    _enough(record, taps, first)
    scaled = scale(record, "regularized_fir")
    p, m, count = record.n_outputs, record.n_inputs, taps - first
    regressors = lagged_regressors(scaled, 0, count, first, taps - 1)
    targets = later_rows(scaled, scaled.y, taps - 1)
    order = np.concatenate([np.arange(i, count * m, m) for i in range(m)])
    groups = tuple(Group(count, i) for i in range(m))
    h, errors = np.zeros((taps, p, m)), np.zeros((taps, p, m))
    decays, noise, evidence = np.zeros((p, m)), np.zeros(p), 0.0
    for k in range(p):
        there = ~np.isnan(targets[:, k])
        rows, target = (regressors, targets[:, k]) if there.all() else (regressors[there], targets[there, k])
        moving = (rows - rows.mean(axis=0))[:, order]
        found = posterior(moving, target - target.mean(), groups, kernel)
        unit = scaled.y_scale[k] / scaled.u_scale
        h[first:, k] = found.mean.reshape(m, count).T * unit
        errors[first:, k] = np.sqrt((found.root**2).sum(axis=1)).reshape(m, count).T * unit
        decays[k], noise[k] = found.decays, found.noise * scaled.y_scale[k] ** 2
        evidence -= 0.5 * found.cost
    return RegularizedFir(
        h, errors, h - wide * errors, h + wide * errors, level, decays, noise, kernel, float(evidence)
    )


def _lengths(record: IOData) -> list[int]:
    return [rows.stop - rows.start for rows in record.spans]


def _enough(record: IOData, taps: int, first: int) -> None:
    """Refuse a record without rows for the taps: a row needs the inputs of `taps` samples and an output."""
    lengths = _lengths(record)
    later = np.concatenate([record.observed[span][taps - 1 :] for span in record.spans])
    rows = int(later.sum(axis=0).min())
    if rows >= 5:
        return
    supported = max(lengths) - 4
    apart = len(lengths) > 1 or record.missing
    raise ExcitationError(
        f"regularized_fir: {record.length} samples"
        + (f" in {len(lengths)} experiments" if len(lengths) > 1 else "")
        + f" came; {taps} taps need "
        + (f"5 outputs with {taps} inputs before them, and there are {rows}" if apart else "")
        + ("" if apart else f"at least {taps + 4}")
        + f". The record supports {f'at most {supported}' if supported > first else 'no'} taps. Take fewer "
        "taps or a longer record."
    )
