"""What a model leaves unexplained: tests of its residuals on a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError
from realization.filtering.innovations import WhitenessTest, chi_squared_quantile, whiteness_test
from realization.identification.gaps import like_without_gaps
from realization.identification.noise import finite_innovations
from realization.signals.data import IOData
from realization.signals.spans import complete_rows
from realization.systems.models import InnovationsModel
from realization.systems.responses import joined

__all__ = ["ResidualTests", "residual_tests"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ResidualTests:
    r"""Result of `residual_tests`.

    Attributes
    ----------
    residuals : ndarray, shape (T, p)
        NaN where an output is missing; in units of `Re` after a gap, where errors are larger.
    whiteness : WhitenessTest
        Of the residuals among themselves.
    lags : ndarray of int, shape (2 L + 1,)
        From -L to L; a positive lag is an input before the residual, a negative one an input after it.
    cross_correlations : ndarray, shape (2 L + 1, p, m)
    cross_bounds : ndarray, shape (p, m)
        Correlations of a residual that has nothing to do with the input stay within plus and minus this,
        at each lag with probability `level`.
    dynamics : ndarray, shape (p, m)
        Probability of larger correlations at the lags 0 to L together, were there nothing to be found: small
        where the path from an input to an output has missed something.
    feedback : ndarray, shape (p, m)
        The same at the negative lags: small where the output acts on the input.
    level : float

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((500, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((500, 1))
    >>> tests = rz.residual_tests(rz.pem(rz.IOData(y, u), order=1).model, rz.IOData(y, u))
    >>> tests.cross_correlations.shape, bool(tests.dynamics[0, 0] > 0.01)
    ((51, 1, 1), True)
    """

    residuals: Array
    whiteness: WhitenessTest
    lags: NDArray[np.int_]
    cross_correlations: Array
    cross_bounds: Array
    dynamics: Array
    feedback: Array
    level: float


def residual_tests(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    lags: int = 25,
    level: float = 0.99,
    focus: Literal["prediction", "simulation"] = "prediction",
) -> ResidualTests:
    r"""Test the residuals of a model: whiteness, and correlation with inputs before and after.

    $$\hat r_{eu}(k) = \frac1T \sum_t e_t u_{t-k}, \qquad
    \sqrt T\, \hat r_{eu} \to N(0, P), \quad P_{kl} = \sum_s r_e(s)\, r_u(s + k - l),$$

    where $e$ and $u$ have nothing to do with each other: bounds allow for residuals and inputs of any
    colour.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
        Best one that the model was not estimated from. Experiments and missing outputs are taken.
    lags : int
        Largest lag `L`; lowered to a quarter of the record.
    level : float
        Probability of the bands, in (0, 1).
    focus : {"prediction", "simulation"}
        Whether the residuals are one-step errors, or those of the simulation (whose colour is no fault).

    Returns
    -------
    ResidualTests

    Raises
    ------
    DataError
        If an option is out of range.
    ExcitationError
        If the record is too short.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 16.6.

    Examples
    --------
    A model of order one of a system of order two leaves what its input explains:

    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((500, 1))
    >>> y = rz.StateSpace([[0.8, 0.4], [-0.4, 0.7]], [[1.0], [0.5]], [[1.0, 0.0]]).simulate(u)
    >>> y = y + 0.1 * rng.standard_normal((500, 1))
    >>> [bool(rz.residual_tests(rz.pem(rz.IOData(y, u), order=n).model, rz.IOData(y, u)).dynamics > 0.01)
    ...  for n in (1, 2)]
    [False, True]
    """
    if focus not in ("prediction", "simulation"):
        raise DataError(f"residual_tests: focus={focus!r} came; 'prediction' or 'simulation' is needed.")
    check_whole("residual_tests", lags=(lags, 1))
    if not 0 < level < 1:
        raise DataError(f"residual_tests: level={level} came; a probability between 0 and 1 is needed.")
    record = model._record(data, missing=True, experiments=True)
    lags = min(lags, record.length // 4)
    if record.length < 12 or lags < 1:
        raise ExcitationError(f"residual_tests: {record.length} samples came; at least 12 are needed.")
    e = _residuals(model, record, focus)
    complete = complete_rows(record.y)
    if complete.sum() < 12:
        raise ExcitationError(
            f"residual_tests: {int(complete.sum())} of {record.length} samples have all outputs; at least 12 "
            "are needed."
        )
    # If the model is right, white they are whichever samples are left out, and whichever experiments follow.
    white = whiteness_test(e[complete], lags=min(20, lags, int(complete.sum()) // 4), alpha=1 - level)
    e = np.where(complete[:, None], e, 0.0)
    p, m = e.shape[1], record.n_inputs
    correlations = np.zeros((2 * lags + 1, p, m))
    bounds, dynamics, feedback = np.zeros((p, m)), np.ones((p, m)), np.ones((p, m))
    width = chi_squared_quantile(1 - level, 1) ** 0.5
    for i in range(p):
        for j in range(m):
            r, P = _cross(e[:, i], record.inputs[:, j], lags)
            correlations[:, i, j], bounds[i, j] = r, width * np.sqrt(P[0, 0] / record.length)
            dynamics[i, j] = _tail(r[lags:], P[: lags + 1, : lags + 1] / record.length)
            feedback[i, j] = _tail(r[:lags], P[:lags, :lags] / record.length)
    return ResidualTests(
        np.where(record.observed, e, np.nan),
        white,
        np.arange(-lags, lags + 1),
        correlations,
        bounds,
        dynamics,
        feedback,
        level,
    )


def _residuals(model: InnovationsModel, record: IOData, focus: str) -> Array:
    """Residuals with the best first state of each experiment; with gaps all as large as without them."""
    A, B, C, D = model.A, model.B, model.C, model.D
    u, y = record.inputs - model.u_mean, record.y - model.y_mean
    gain = model.K if focus == "prediction" else model.K * 0.0
    if focus == "simulation" or record.observed.all():
        return finite_innovations("residual_tests", A, B, C, D, gain, u, y, record.starts)[0]
    return joined([like_without_gaps(A, B, C, D, gain, model.Re, u[rows], y[rows]) for rows in record.spans])


def _cross(e: Array, u: Array, lags: int) -> tuple[Array, Array]:
    """Correlations at lags -L..L, and the covariance of sqrt(T) times those at neighbouring lags."""
    e, u = e - e.mean(), u - u.mean()
    e, u = e / max(np.sqrt((e**2).mean()), 1e-300), u / max(np.sqrt((u**2).mean()), 1e-300)
    length = len(e)
    size = 1 << (2 * length).bit_length()
    E, U = np.fft.rfft(e, size), np.fft.rfft(u, size)
    cross = np.fft.irfft(E * U.conj(), size) / length
    r = np.concatenate([cross[-lags:], cross[: lags + 1]])
    # Covariances to the lag where a window of that width still is a small part of the record.
    wide = max(1, min(length // 4, 2 * lags + round(2 * np.sqrt(length))))
    taper = 1 - np.arange(wide) / wide
    own_e = np.fft.irfft(np.abs(E) ** 2, size)[:wide] / length
    own_u = np.fft.irfft(np.abs(U) ** 2, size)[:wide] / length
    two_e = np.concatenate([(own_e * taper)[:0:-1], own_e * taper])
    two_u = np.concatenate([(own_u * taper)[:0:-1], own_u * taper])
    joint = np.correlate(two_e, two_u, mode="full")
    centre = len(joint) // 2
    apart = np.subtract.outer(np.arange(lags + 1), np.arange(lags + 1))
    return r, joint[np.clip(centre + apart, 0, len(joint) - 1)]


def _tail(r: Array, covariance: Array) -> float:
    """Chance of a larger quadratic form, over the directions that the input excites."""
    from scipy.special import chdtrc

    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    held = values > 1e-6 * values.max(initial=0.0)
    statistic = ((vectors[:, held].T @ r) ** 2 / values[held]).sum()
    return float(chdtrc(int(held.sum()), statistic)) if held.any() else 1.0
