"""Innovations of a record: what the model did not predict, how surprising it was, what is left in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real, check_whole
from realization.errors import DataError, ExcitationError, ShapeError, UnstableError
from realization.filtering.kalman import cholesky_of
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["Innovations", "WhitenessTest", "innovations", "whiteness_test"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Innovations:
    r"""Innovations of a record under a model.

    Attributes
    ----------
    e : ndarray, shape (T, p)
        $e_t = y_t - \hat y_{t|t-1}$, in the units of the outputs.
    Re : ndarray, shape (p, p)
        The model's innovation covariance.
    normalized_squared : ndarray, shape (T,)
        $s_t = e_t^\top R_e^{-1} e_t$.
    x0 : ndarray, shape (n,)
        State at the first sample.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import innovations
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> found = innovations(model, [0.0, 0.0, 2.0], x0=[0.0])
    >>> found.normalized_squared, found.code_length.round(3)
    (array([0., 0., 4.]), array([1.326, 1.326, 4.211]))
    """

    e: Array
    Re: Array
    normalized_squared: Array
    x0: Array

    @property
    def code_length(self) -> Array:
        r"""Bits that each sample costs under the model's Gaussian density, shape (T,).

        $$\ell_t = \tfrac12 \log_2 \det(2 \pi R_e) + \frac{s_t}{2 \ln 2}$$

        Differences count; the level depends on the units of the outputs.
        """
        log_det = np.linalg.slogdet(2 * np.pi * self.Re)[1]
        return 0.5 * (log_det + self.normalized_squared) / np.log(2)

    def threshold(self, alpha: float = 0.01) -> float:
        r"""Value that $s_t$ exceeds with probability `alpha` if the model is right.

        Parameters
        ----------
        alpha : float
            In (0, 1).
        """
        return chi_squared_quantile(alpha, self.e.shape[1])


@dataclass(frozen=True, eq=False)
class WhitenessTest:
    r"""Portmanteau test of whiteness, and of independence from the inputs.

    Attributes
    ----------
    statistic, p_value : float
        Hosking's multivariate portmanteau statistic, and the chance of a larger one if `e` is white.
    degrees : int
        Degrees of freedom, $p^2 L$.
    autocorrelations : ndarray, shape (L + 1, p, p)
        $\rho_k = D^{-1} \hat C_k D^{-1}$ with $\hat C_k = \frac1T \sum e_t e_{t-k}^\top$, $D$ the deviations.
    bound : float
        A single correlation of a white sequence stays inside `±bound` with probability `1 - alpha`.
    alpha : float
        Level of the test.
    cross_correlations : ndarray, shape (L + 1, p, m), or None
        Correlations of $e_t$ with $u_{t-k}$.
    cross_statistic, cross_p_value : float or None
        The same question put to the cross correlations together.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.filtering import whiteness_test
    >>> test = whiteness_test(np.random.default_rng(0).standard_normal((400, 2)), lags=5)
    >>> test.degrees, round(test.bound, 3), test.autocorrelations.shape
    (20, 0.129, (6, 2, 2))
    """

    statistic: float
    p_value: float
    degrees: int
    autocorrelations: Array
    bound: float
    alpha: float
    cross_correlations: Array | None = None
    cross_statistic: float | None = None
    cross_p_value: float | None = None

    @property
    def is_white(self) -> bool:
        """Whether whiteness is not rejected at level `alpha`."""
        return self.p_value >= self.alpha

    @property
    def is_independent(self) -> bool | None:
        """Whether independence from the inputs is not rejected; `None` where no input was given."""
        return None if self.cross_p_value is None else self.cross_p_value >= self.alpha


def innovations(
    model: InnovationsModel, data: IOData | ArrayLike, *, x0: ArrayLike | None = None
) -> Innovations:
    r"""Innovations of a record by the steady-state predictor.

    $$e_t = y_t - \hat y_{t|t-1}, \qquad s_t = e_t^\top R_e^{-1} e_t$$

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
    x0 : array_like, shape (n,), optional
        State at the first sample; estimated from the record when left out.

    Returns
    -------
    Innovations

    Raises
    ------
    RankError
        If the model's innovation covariance is singular.
    ShapeError
        If the record's columns are not the model's.

    References
    ----------
    T. Kailath, An innovations approach to least-squares estimation, part I, IEEE Trans. Autom. Control 13
    (1968) 646-655.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import innovations
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> innovations(model, rz.IOData([1.0, 1.0, 1.0]), x0=[0.0]).e[:, 0]
    array([1. , 0.5, 0.5])
    """
    model._require_discrete("innovations")
    record = model._record(data)
    factor = cholesky_of(model.Re, "innovations")
    start = model.estimate_x0(record, focus="prediction") if x0 is None else model._state(x0)
    with np.errstate(over="ignore", invalid="ignore"):
        e = record.y - model.predict(record, x0=start)
    if not np.isfinite(e).all():
        raise UnstableError(
            "innovations: the model's predictions overflow on this record. Its predictor (A - K C) is "
            "unstable, or its units are not those of the record."
        )
    white = scipy.linalg.solve_triangular(factor, e.T, lower=True)
    return Innovations(e, model.Re, (white**2).sum(axis=0), start)


def whiteness_test(
    e: ArrayLike, *, lags: int | None = None, u: ArrayLike | None = None, alpha: float = 0.01
) -> WhitenessTest:
    r"""Test whether innovations are white, and independent of the inputs.

    $$Q = T^2 \sum_{k=1}^{L} \frac{1}{T-k}
    \operatorname{tr}(\hat C_k^\top \hat C_0^{-1} \hat C_k \hat C_0^{-1})
    \sim \chi^2_{p^2 L}$$

    and, with inputs, $T\, r^\top (\hat R_u \otimes \hat C_0)^{-1} r \sim \chi^2$ for the stacked cross
    covariances $r$ of $e_t$ with $u_t, \dots, u_{t-L}$. Means are removed.

    Parameters
    ----------
    e : array_like, shape (T, p) or (T,)
    lags : int, optional
        Largest lag `L`; `min(20, T // 4)` when left out.
    u : array_like, shape (T, m) or (T,), optional
        Inputs.
    alpha : float
        Level of the test, in (0, 1).

    Returns
    -------
    WhitenessTest

    Raises
    ------
    ShapeError
        If `e` and `u` differ in length.
    DataError
        If a value is not finite, a column of `e` is constant, or an option is out of range.
    ExcitationError
        If the record is too short for the lags.

    References
    ----------
    J. R. M. Hosking, The multivariate portmanteau statistic, J. Amer. Statist. Assoc. 75 (1980) 602-608.
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 16.6.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.filtering import whiteness_test
    >>> e = np.random.default_rng(0).standard_normal(1000)
    >>> whiteness_test(e).is_white, whiteness_test(np.cumsum(e)).is_white
    (True, False)
    """
    e = _centred(e, "e")
    length, p = e.shape
    check_whole("whiteness_test", lags=(lags, 1))
    lags = min(20, length // 4) if lags is None else lags
    if lags < 1 or length <= lags + p:
        raise ExcitationError(
            f"whiteness_test: {length} samples came; {lags} lags need more than {lags + p}."
        )
    scale = np.sqrt((e**2).mean(axis=0))
    if not (scale > 0).all():
        raise DataError(f"whiteness_test: column {int(np.argmin(scale))} of e is constant; drop it.")
    white = scipy.linalg.solve_triangular(
        cholesky_of(np.corrcoef(e, rowvar=False).reshape(p, p), "whiteness_test"), (e / scale).T, lower=True
    ).T
    products = np.stack([white[k:].T @ white[: length - k] / length for k in range(1, lags + 1)])
    weights = length**2 / (length - np.arange(1, lags + 1))
    statistic = float(np.sum(weights * (products**2).sum(axis=(1, 2))))
    rho = np.stack([(e[k:] / scale).T @ (e[: length - k] / scale) / length for k in range(lags + 1)])
    tail, quantile = _tail_and_quantile(statistic, p * p * lags, alpha)
    cross = (None, None, None) if u is None else _cross_test(white, e / scale, _centred(u, "u"), lags)
    return WhitenessTest(statistic, tail, p * p * lags, rho, quantile / length**0.5, alpha, *cross)


def chi_squared_quantile(alpha: float, degrees: int) -> float:
    """Value that a chi-squared variable exceeds with probability `alpha`."""
    from scipy.special import chdtri

    if not 0 < alpha < 1:
        raise DataError(f"alpha={alpha} came; a probability strictly between 0 and 1 is needed.")
    return float(chdtri(degrees, alpha))


def _tail_and_quantile(statistic: float, degrees: int, alpha: float) -> tuple[float, float]:
    """Chance of a larger chi-squared value, and the two-sided normal bound at level `alpha`."""
    from scipy.special import chdtrc

    return float(chdtrc(degrees, statistic)), chi_squared_quantile(alpha, 1) ** 0.5


def _cross_test(white: Array, e: Array, u: Array, lags: int) -> tuple[Array, float, float]:
    from scipy.special import chdtrc

    length = len(white)
    if len(u) != length:
        raise ShapeError(f"whiteness_test: e has {length} samples and u has {len(u)}; both need the same.")
    scale = np.sqrt((u**2).mean(axis=0))
    moving = u[:, scale > 0] / scale[scale > 0]
    shifted = np.zeros((length, lags + 1, moving.shape[1]))
    for k in range(lags + 1):
        shifted[k:, k] = moving[: length - k]
    past = shifted.reshape(length, -1)
    # Inputs that excite few directions make the covariance singular: only its range counts.
    values, vectors = np.linalg.eigh(past.T @ past / length)
    held = values > 1e-10 * values.max(initial=0.0)
    basis = vectors[:, held] / np.sqrt(values[held])
    projected = basis.T @ (past.T @ white) / length
    statistic = float(length * (projected**2).sum())
    correlations = np.zeros((lags + 1, e.shape[1], u.shape[1]))
    correlations[:, :, scale > 0] = np.einsum("tkj,ti->kij", shifted, e) / length
    degrees = int(held.sum()) * white.shape[1]
    return correlations, statistic, float(chdtrc(degrees, statistic)) if degrees else 1.0


def _centred(values: ArrayLike, name: str) -> Array:
    array = as_real(values, f"whiteness_test: {name}")
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ShapeError(f"whiteness_test: {name} has shape {array.shape}; (T, columns) or (T,) is needed.")
    if not np.isfinite(array).all():
        raise DataError(f"whiteness_test: {name} has values that are NaN or infinite.")
    return array - array.mean(axis=0)
