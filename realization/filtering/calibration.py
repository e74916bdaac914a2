"""Whether surprises are as frequent as the model says, and by how much its innovation covariance is off."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, ExcitationError, ShapeError
from realization.filtering.innovations import Innovations, chi_squared_quantile
from realization.systems.models import InnovationsModel

__all__ = ["Calibration", "chi_squared_calibration"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    r"""Promised and observed rates of large normalized innovations.

    Attributes
    ----------
    alpha : ndarray, shape (N,)
        False-alarm rates promised, largest first.
    observed : ndarray, shape (N,)
        Share of the samples above the $\chi^2_p$ quantile of each rate.
    lower, upper : ndarray, shape (N,)
        If the model is right all `observed` rates lie within these bands together, with probability `level`.
    scale : float
        Median of $s_t$ over that of $\chi^2_p$: the factor by which $R_e$ is too small. A tenth of outliers
        hardly moves it.
    mean_scale : float
        Mean of $s_t$ over p: the same where no sample is an outlier.
    samples, degrees : int
        T and p.
    level : float

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]], Re=[[1.0]])
    >>> y = model.simulate(e=2 * np.random.default_rng(0).standard_normal((2000, 1)))
    >>> found = rz.chi_squared_calibration(rz.innovations(model, y))
    >>> found.is_calibrated, round(found.scale, 1), round(float(found.corrected(model).Re[0, 0]), 1)
    (False, 4.1, 4.1)
    """

    alpha: Array
    observed: Array
    lower: Array
    upper: Array
    scale: float
    mean_scale: float
    samples: int
    degrees: int
    level: float

    @property
    def is_calibrated(self) -> bool:
        """Whether every observed rate lies within its band."""
        return bool(((self.observed >= self.lower) & (self.observed <= self.upper)).all())

    def corrected(self, model: InnovationsModel) -> InnovationsModel:
        """The model with its innovation covariance times `scale`, so that the median is where it should be.

        Parameters
        ----------
        model : InnovationsModel
        """
        return replace(model, Re=self.scale * model.Re)

    def __repr__(self) -> str:
        rates = ", ".join(f"{a:.3g}: {o:.3g}" for a, o in zip(self.alpha, self.observed, strict=True))
        verdict = "calibrated" if self.is_calibrated else "not calibrated"
        return f"Calibration({verdict}, Re scale {self.scale:.3g}; promised: observed {rates})"


def chi_squared_calibration(
    found: Innovations,
    *,
    alpha: ArrayLike = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01),
    level: float = 0.99,
) -> Calibration:
    r"""Hold the rates of large $s_t = e_t^\top R_e^{-1} e_t$ against those that $\chi^2_p$ promises.

    Of T independent samples, a number with the binomial law $(T, \alpha)$ exceeds the quantile of $\alpha$.
    The bands are exact (from the incomplete beta function) and shared among the N rates (Bonferroni).

    Parameters
    ----------
    found : Innovations
        As `innovations` gives them; best of a record that the model was not fitted to.
    alpha : array_like, shape (N,)
        Rates to look at, each in (0, 1).
    level : float
        Probability that all rates lie in their bands if the model is right.

    Returns
    -------
    Calibration
        `.observed`, `.lower`, `.upper`, `.scale`, `.is_calibrated`, `.corrected(model)`.

    Raises
    ------
    DataError
        If a rate or the level is not between 0 and 1.
    ExcitationError
        If there are fewer than ten samples.

    References
    ----------
    Y. Bar-Shalom, X. R. Li, T. Kirubarajan, *Estimation with Applications to Tracking and Navigation*, Wiley
    2001, section 5.4.

    C. J. Clopper, E. S. Pearson, *The use of confidence or fiducial limits illustrated in the case of the
    binomial*, Biometrika 26 (1934) 404-413.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal((2000, 1)))
    >>> rz.chi_squared_calibration(rz.innovations(model, y), alpha=[0.1]).is_calibrated
    True
    """
    from scipy.special import bdtr

    rates = np.sort(np.atleast_1d(as_real(alpha, "alpha")))[::-1]
    if rates.ndim != 1 or not len(rates) or not ((rates > 0) & (rates < 1)).all():
        raise DataError(f"chi_squared_calibration: alpha={alpha!r} came; rates strictly between 0 and 1.")
    if not 0 < level < 1:
        raise DataError(f"chi_squared_calibration: level={level} came; strictly between 0 and 1 is needed.")
    s, degrees = found.normalized_squared, found.e.shape[1]
    if degrees == 0:
        raise ShapeError(
            "chi_squared_calibration: the model has no outputs, so there is nothing to calibrate."
        )
    if len(s) < 10:
        raise ExcitationError(f"chi_squared_calibration: {len(s)} samples came; at least 10 are needed.")
    limits = np.array([chi_squared_quantile(rate, degrees) for rate in rates])
    counts, T = np.arange(len(s) + 1), len(s)
    outside = (1 - level) / (2 * len(rates))
    chance = np.array([bdtr(counts, T, rate) for rate in rates])
    lower, upper = (chance <= outside).sum(axis=1), (chance < 1 - outside).sum(axis=1)
    return Calibration(
        rates,
        (s[:, None] > limits).mean(axis=0),
        lower / T,
        upper / T,
        float(np.median(s)) / chi_squared_quantile(0.5, degrees),
        float(s.mean()) / degrees,
        T,
        degrees,
        level,
    )
