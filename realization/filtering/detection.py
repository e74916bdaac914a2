"""Changes and faults: where innovations leave what the model promises, at a false-alarm rate that is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import CalibrationWarning, DataError, ExcitationError
from realization.filtering.calibration import Calibration, chi_squared_calibration
from realization.filtering.change_statistics import (
    cusum,
    cusum_steps,
    cusum_threshold,
    dyadic_windows,
    mean_shift,
    windowed_sum,
)
from realization.filtering.innovations import (
    Innovations,
    WhitenessTest,
    chi_squared_quantile,
    innovations,
    whiteness_test,
)
from realization.notes import warn
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["ChangeDetection", "ChangeTest", "FalseAlarms", "detect_changes"]

Array = NDArray[np.float64]
ChangeTest = Literal["sample", "window", "glr", "cusum"]
FEWEST = 10  # samples from which whiteness and calibration are judged


@dataclass(frozen=True)
class FalseAlarms:
    """How often a test alarmed on a record, with an interval for the rate.

    Attributes
    ----------
    rate : float
        Alarms per sample at which the statistic was defined.
    lower, upper : float
        Interval of Clopper and Pearson for as many independent samples as these dependent ones are worth.
    count, samples : int
        Alarms, and samples at which there could have been one.
    level : float
        Probability that the interval covers the true rate.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.filtering.detection import FalseAlarms
    >>> found = FalseAlarms.of(np.arange(1000) % 100 == 0)
    >>> found.rate, round(found.lower, 3), round(found.upper, 3)
    (0.01, 0.005, 0.018)
    """

    rate: float
    lower: float
    upper: float
    count: int
    samples: int
    level: float = 0.95

    @classmethod
    def of(cls, alarms: ArrayLike, *, cluster: int = 1, level: float = 0.95) -> FalseAlarms:
        r"""Count alarms, and judge by their autocorrelations how many samples are worth one.

        $$T_\text{eff} = T / \tau, \qquad \tau = \max\Big(1, 1 + 2 \sum_{k \ge 1} \hat\rho_k\Big)$$

        the sum ending before the first $\hat\rho_{2k} + \hat\rho_{2k+1}$ that is not positive (Geyer).

        Parameters
        ----------
        alarms : array_like of bool, shape (T,)
        cluster : int
            Samples that are worth one where there are too few alarms to tell.
        level : float
        """
        from scipy.special import betaincinv

        flags = np.asarray(alarms, dtype=bool)
        count, samples = int(flags.sum()), len(flags)
        if samples == 0:
            raise ExcitationError("detect_changes: there is no sample at which an alarm could have been.")
        worth = _cluster(flags.astype(float)) if 2 <= count < samples else float(cluster)
        k, n = count / worth, samples / worth
        tail = 0.5 * (1 - level)
        lower = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
        upper = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
        return cls(count / samples, lower, upper, count, samples, level)

    def __repr__(self) -> str:
        return (
            f"FalseAlarms({self.rate:.3g}, {100 * self.level:g} % within [{self.lower:.3g}, "
            f"{self.upper:.3g}]; {self.count} of {self.samples})"
        )


@dataclass(frozen=True, eq=False)
class ChangeDetection:
    """Where a record departs from a model.

    Attributes
    ----------
    alarms : ndarray of int, shape (a,)
        Samples at which the statistic lies above the threshold, or below the lower one.
    statistic : ndarray, shape (T,)
        NaN where a window is not full yet.
    threshold : float
    test : str
    false_alarm : float
        Alarms per sample that were allowed.
    time : ndarray, shape (T,)
        Seconds (steps where the record names no step).
    innovations : Innovations
        Of the record.
    whiteness : WhitenessTest
        Of the innovations of the reference; of the record itself where there was none.
    calibration : Calibration
        Of the same.
    measured : FalseAlarms
        Of the same: the rate at which the test alarms there. Without a reference it counts changes too.
    lower : float or None
        Threshold below which innovations are too small, where that was asked for.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(600))
    >>> broken = rz.sensor_fault(y[300:], "bias", at=200, size=3.0)
    >>> found = rz.detect_changes(model, broken, reference=y[:300])
    >>> found.delay(200), found.onsets, found.is_trustworthy
    (1, array([185, 201, 292, 294]), True)
    """

    alarms: NDArray[np.int64]
    statistic: Array
    threshold: float
    test: ChangeTest
    false_alarm: float
    time: Array
    innovations: Innovations
    whiteness: WhitenessTest
    calibration: Calibration
    measured: FalseAlarms
    lower: float | None = None

    @property
    def onsets(self) -> NDArray[np.int64]:
        """First sample of each run of alarms, shape (r,)."""
        return self.alarms[np.diff(self.alarms, prepend=-2) > 1]

    @property
    def is_trustworthy(self) -> bool:
        """Whether innovations are white and as large as the model says, so that the rate holds."""
        return self.whiteness.is_white and self.calibration.is_calibrated

    def __repr__(self) -> str:
        begun = (
            f"{len(self.onsets)} times from {self.time[self.onsets[0]]:g} on" if len(self.alarms) else "never"
        )
        return (
            f"ChangeDetection({self.test} test at {100 * self.false_alarm:g} %: alarms {begun}, threshold "
            f"{self.threshold:.4g}; {self.calibration!r}; {self.measured!r})"
        )

    def delay(self, at: int) -> int | None:
        """Samples from a change to the first alarm after it; `None` if none came.

        Parameters
        ----------
        at : int
            First sample that is changed.
        """
        later = self.alarms[self.alarms >= at]
        return int(later[0]) - at if len(later) else None


class _Statistic(NamedTuple):
    """A test with its options, for records of the same model."""

    test: ChangeTest
    window: int
    increase: float
    false_alarm: float
    two_sided: bool

    def of(self, found: Innovations, threshold: float) -> Array:
        if self.test == "sample":
            return found.normalized_squared
        if self.test == "window":
            return windowed_sum(found.normalized_squared, self.window)
        if self.test == "glr":
            factor = np.linalg.cholesky(found.Re)
            return mean_shift(scipy.linalg.solve_triangular(factor, found.e.T, lower=True).T, self.window)
        steps = cusum_steps(found.normalized_squared, found.e.shape[1], self.increase)
        return cusum(steps, threshold)

    def chance(self, degrees: int) -> tuple[float, float | None]:
        """Levels that white Gaussian innovations pass at the rate allowed: the upper and the lower one."""
        if self.test == "cusum":
            return cusum_threshold(self.false_alarm, degrees, self.increase), None
        if self.test == "window":
            degrees *= self.window
            if self.two_sided:
                tail = 0.5 * self.false_alarm
                return chi_squared_quantile(tail, degrees), chi_squared_quantile(1 - tail, degrees)
        lengths = len(dyadic_windows(self.window)) if self.test == "glr" else 1
        return chi_squared_quantile(self.false_alarm / lengths, degrees), None

    def measured(self, found: Innovations) -> tuple[float, float | None]:
        """Levels that the innovations of a reference pass at the rate allowed."""
        if self.test != "cusum":
            values = self.of(found, np.inf)
            values = values[~np.isnan(values)]
            tail = 0.5 * self.false_alarm if self.two_sided else self.false_alarm
            upper = float(np.quantile(values, 1 - tail, method="higher"))
            return upper, float(np.quantile(values, tail, method="lower")) if self.two_sided else None
        allowed = self.false_alarm * len(found.e)
        low, high = 0.0, float(self.of(found, np.inf).max())
        for _ in range(60):
            middle = 0.5 * (low + high)
            few = (self.of(found, middle) > middle).sum() <= allowed
            low, high = (low, middle) if few else (middle, high)
        return high, None


def detect_changes(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    false_alarm: float = 0.01,
    test: ChangeTest = "window",
    window: int = 16,
    increase: float = 2.0,
    two_sided: bool = False,
    reference: IOData | ArrayLike | None = None,
    calibrate: bool = False,
    x0: ArrayLike | None = None,
) -> ChangeDetection:
    r"""Find where a record no longer behaves as a model says: changes of the process, faults of sensors.

    With $w_t = R_e^{-1/2} e_t$ the whitened innovations and $s_t = \lVert w_t \rVert^2 \sim \chi^2_p$,

    $$\text{sample: } s_t, \qquad
    \text{window: } \sum_{k<W} s_{t-k} \sim \chi^2_{pW}, \qquad
    \text{glr: } \max_{j \le W} \frac1j \Big\lVert \sum_{k<j} w_{t-k} \Big\rVert^2, \qquad
    \text{cusum: } g_t = \Big(g_{t-1} + \frac{1 - 1/\kappa}{2} s_t - \frac p2 \log \kappa\Big)^+ .$$

    `sample` sees outliers at once; `window` any change of size or colour that lasts; `glr` a jump of the mean
    at an unknown time (lengths 1, 2, 4, ..., `W`); `cusum` a covariance that grows $\kappa$ times, and begins
    anew after each alarm. If the innovations are white and Gaussian with covariance $R_e$, the share of
    samples with an alarm is `false_alarm`: exactly for the first two, at most for `glr` (Bonferroni over the
    lengths), and to three digits for `cusum` (mean run length on a grid).

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
        The record that is watched.
    false_alarm : float
        Alarms per sample that are allowed when nothing has changed, in (0, 1).
    test : {"sample", "window", "glr", "cusum"}
    window : int
        `W`; `sample` and `cusum` do not use it.
    increase : float
        $\kappa > 1$ of `cusum`; the others do not use it.
    two_sided : bool
        For `window`: look for innovations that are too small as well (a sensor that stands still, a plant
        that has become calmer), half of the false alarms on each side.
    reference : IOData, optional
        A record without changes that the model was not identified from. Whiteness, calibration and the
        false-alarm rate are measured on it.
    calibrate : bool
        Take the threshold from the reference, as the level that it passes at the rate allowed, instead of
        from the law of white Gaussian innovations. The measured rate is then a matter of construction.
    x0 : array_like, shape (n,), optional
        State at the first sample of `data`; estimated from the record when left out.

    Returns
    -------
    ChangeDetection
        `.alarms`, `.onsets`, `.statistic`, `.threshold`, `.measured`, `.whiteness`, `.calibration`.

    Warns
    -----
    CalibrationWarning
        If the innovations of the reference (of the record, where there is none) are not white or not as large
        as the model says, and the threshold rests on that.

    Raises
    ------
    DataError
        If an option is out of range, or `calibrate` comes without a reference.
    ExcitationError
        If a record is shorter than the window, the one that the model is judged by has fewer than 10 samples,
        or the reference is too short for the rate: at least 5 alarms are needed to take a threshold from it.
    RankError
        If the model's innovation covariance is singular.
    ShapeError
        If a record's columns are not the model's.

    References
    ----------
    R. K. Mehra, J. Peschon, An innovations approach to fault detection and diagnosis in dynamic systems,
    Automatica 7 (1971) 637-640.

    M. Basseville, I. V. Nikiforov, *Detection of Abrupt Changes: Theory and Application*, Prentice-Hall 1993,
    chapters 2 and 7.

    D. Brook, D. A. Evans, An approach to the probability distribution of cusum run length, Biometrika 59
    (1972) 539-549.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> y = model.simulate(e=np.random.default_rng(0).standard_normal(4000))
    >>> broken = rz.sensor_fault(y[2000:], "drift", at=1000, size=0.05)
    >>> found = rz.detect_changes(model, broken, false_alarm=0.001, test="glr", reference=y[:2000])
    >>> found.delay(1000), found.measured
    (122, FalseAlarms(0.001, 95 % within [0.000121, 0.00361]; 2 of 2000))
    """
    _check(test, false_alarm, window, increase, reference, calibrate)
    if two_sided and test != "window":
        raise DataError(
            f"detect_changes: two_sided=True came with test={test!r}; 'window' looks for innovations "
            "that are too small."
        )
    found = innovations(model, data, x0=x0)
    judged = found if reference is None else innovations(model, reference)
    for name, length in (("data", len(found.e)), ("the reference", len(judged.e))):
        if test in ("window", "glr") and length < window:
            raise ExcitationError(
                f"detect_changes: {name} has {length} samples; a window of {window} needs as many at least."
            )
    if len(judged.e) < FEWEST:
        raise ExcitationError(
            f"detect_changes: {len(judged.e)} samples came to judge the model by; {FEWEST} are needed. "
            "Give a reference."
        )
    statistic = _Statistic(test, window, increase, false_alarm, two_sided)
    if calibrate and false_alarm * len(judged.e) < 5:
        raise ExcitationError(
            f"detect_changes: calibrate=True came with a reference of {len(judged.e)} samples, which allows "
            f"{false_alarm * len(judged.e):.3g} alarms; at least 5 are needed. Use a longer one or a larger "
            "false_alarm."
        )
    threshold, lower = statistic.measured(judged) if calibrate else statistic.chance(model.n_outputs)
    values, there = statistic.of(found, threshold), statistic.of(judged, threshold)
    cluster = window if test in ("window", "glr") else 1
    result = ChangeDetection(
        np.flatnonzero(_outside(values, threshold, lower)),
        values,
        threshold,
        test,
        false_alarm,
        model._record(data).time,
        found,
        whiteness_test(judged.e),
        chi_squared_calibration(judged),
        FalseAlarms.of(_outside(there[~np.isnan(there)], threshold, lower), cluster=cluster),
        lower,
    )
    if not calibrate:
        _warn(result, reference is not None)
    return result


def _outside(values: Array, threshold: float, lower: float | None) -> NDArray[np.bool_]:
    return (values > threshold) if lower is None else (values > threshold) | (values < lower)


def _check(
    test: str, false_alarm: float, window: int, increase: float, reference: object, calibrate: bool
) -> None:
    if test not in get_args(ChangeTest):
        raise DataError(
            f"detect_changes: test={test!r} came; one of {', '.join(get_args(ChangeTest))} is needed."
        )
    if not 0 < false_alarm < 1:
        raise DataError(f"detect_changes: false_alarm={false_alarm} came; a rate in (0, 1) is needed.")
    check_whole("detect_changes", window=(window, 1))
    if not 1 < increase < np.inf:
        raise DataError(f"detect_changes: increase={increase} came; a factor above 1 is needed.")
    if calibrate and reference is None:
        raise DataError(
            "detect_changes: calibrate=True takes the threshold from a reference; give reference=, a record "
            "without changes that the model was not identified from."
        )


def _warn(found: ChangeDetection, with_reference: bool) -> None:
    faults = []
    if not found.whiteness.is_white:
        faults.append(f"not white (portmanteau p = {found.whiteness.p_value:.2g})")
    if not found.calibration.is_calibrated:
        rates = found.calibration
        worst = int(np.argmax(np.abs(np.log(np.maximum(rates.observed, 1e-4) / rates.alpha))))
        faults.append(
            f"not chi-squared ({100 * rates.observed[worst]:.2g} % exceed the level of "
            f"{100 * rates.alpha[worst]:.2g} %)"
        )
    if not faults:
        return
    whose = "the reference" if with_reference else "the record"
    remedy = (
        "Take the threshold from it: calibrate=True."
        if with_reference
        else "Either it holds changes, or the model does not fit it: a reference would tell."
    )
    warn(
        f"detect_changes: innovations of {whose} are {' and '.join(faults)}, so that the false-alarm rate is "
        f"not the {found.false_alarm:g} asked for; measured there: {found.measured.rate:.3g} "
        f"[{found.measured.lower:.3g}, {found.measured.upper:.3g}]. {remedy}",
        CalibrationWarning,
        stacklevel=3,
    )


def _cluster(flags: Array) -> float:
    """Samples that are worth one independent sample."""
    centred = flags - flags.mean()
    size = 2 ** int(2 * len(flags) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    rho = np.fft.irfft(spectrum, size)[: len(flags)]
    even = len(flags) // 2 * 2
    pairs = (rho[:even:2] + rho[1:even:2]) / rho[0]
    ends = np.flatnonzero(pairs <= 0)
    return max(1.0, 2.0 * float(pairs[: ends[0] if len(ends) else None].sum()) - 1.0)
