"""Changes are found, at the false-alarm rate that was asked for; where it does not hold, that is said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats

from realization import (
    CalibrationWarning,
    InnovationsModel,
    IOData,
    detect_changes,
    innovations,
    sensor_fault,
)
from realization.errors import DataError, ExcitationError
from realization.filtering.change_statistics import (
    cusum,
    cusum_run_length,
    cusum_steps,
    cusum_threshold,
    dyadic_windows,
    mean_shift,
    windowed_sum,
)
from realization.filtering.detection import FalseAlarms
from tests.tolerances import assert_close

TESTS = ("sample", "window", "glr", "cusum")


def plant(size=1.0):
    Re = size * np.array([[4.0, 1.9], [1.9, 1.0]])
    A, C = np.array([[0.9, 0.2], [-0.2, 0.7]]), np.array([[1.0, 0.0], [1.0, 1.0]])
    return InnovationsModel(A, [[1.0], [0.5]], C, K=0.2 * C.T, Re=Re, u_mean=[1.0], y_mean=[3.0, -2.0])


def record(rng, T, model=None):
    model = plant() if model is None else model
    e = rng.standard_normal((T, 2)) @ np.linalg.cholesky(model.Re).T
    u = rng.standard_normal((T, 1))
    return IOData(model.simulate(u, e=e), u)


@pytest.mark.parametrize("alpha", [0.1, 0.01])
@pytest.mark.parametrize("test", TESTS)
def test_the_false_alarm_rate_is_the_one_asked_for(test, alpha, rng):
    """Correlated outputs in far units: rates over 30 000 samples, against an interval of five deviations."""
    data = record(rng, 30000)
    found = detect_changes(plant(), data, test=test, false_alarm=alpha, window=8, reference=data)
    deviation = (found.measured.upper - found.measured.lower) / 4
    assert found.measured.rate < alpha + 5 * deviation
    if test != "glr":  # Bonferroni's level is an upper bound
        assert found.measured.rate > alpha - 5 * deviation
    assert found.is_trustworthy
    assert len(found.alarms) == found.measured.count


def test_statistics_are_their_definitions(rng):
    white = rng.standard_normal((60, 3))
    s = (white**2).sum(axis=1)
    assert_close(windowed_sum(s, 5)[4:], [s[t - 4 : t + 1].sum() for t in range(4, 60)])
    assert np.isnan(windowed_sum(s, 5)[:4]).all()
    assert np.isnan(windowed_sum(s[:3], 5)).all()
    assert dyadic_windows(12) == (1, 2, 4, 8, 12)
    assert dyadic_windows(1) == (1,)
    expected = [
        max((white[t - j + 1 : t + 1].sum(axis=0) ** 2).sum() / j for j in (1, 2, 4, 6) if j <= t + 1)
        for t in range(60)
    ]
    assert_close(mean_shift(white, 6), expected)
    assert_close(cusum(np.array([1.0, -2.0, 1.5, 2.0, 0.5]), 3.0), [1.0, 0.0, 1.5, 3.5, 0.5])


def test_steps_of_the_cumulative_sum_are_the_log_likelihood_ratio(rng):
    e = rng.standard_normal((20, 2))
    expected = [
        scipy.stats.multivariate_normal(cov=3 * np.eye(2)).logpdf(x)
        - scipy.stats.multivariate_normal(cov=np.eye(2)).logpdf(x)
        for x in e
    ]
    assert_close(cusum_steps((e**2).sum(axis=1), 2, 3.0), expected)


@pytest.mark.parametrize(("degrees", "increase"), [(1, 1.5), (1, 3.0), (4, 2.0)])
def test_run_length_of_the_cumulative_sum(degrees, increase, rng):
    threshold = cusum_threshold(0.01, degrees, increase)
    assert cusum_run_length(threshold, degrees, increase) == pytest.approx(100, rel=1e-6)
    steps = cusum_steps(rng.chisquare(degrees, 400_000), degrees, increase)
    count = int((cusum(steps, threshold) > threshold).sum())
    assert abs(count - 4000) < 5 * np.sqrt(4000)


def test_each_test_alarms_when_it_should(rng):
    """Page's recursion and sums cross their levels where they are seen to."""
    data = sensor_fault(record(rng, 400), "bias", at=200, size=12.0, output=1)
    for test in TESTS:
        found = detect_changes(
            plant(), data, test=test, false_alarm=1e-4, window=8, reference=record(rng, 1000)
        )
        assert_close(found.alarms, np.flatnonzero(found.statistic > found.threshold), "bitwise")
        delay = found.delay(200)
        assert delay is not None
        assert delay <= 2
        assert found.onsets[0] == 200 + delay
    assert found.delay(400) is None


@pytest.mark.parametrize("test", TESTS)
def test_small_changes_are_found_by_windows_before_samples(test, rng):
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.1]], y_mean=[7.0])
    y = model.simulate(e=rng.standard_normal(3000))
    data = sensor_fault(y, "bias", at=1000, size=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        found = detect_changes(model, data, test=test, false_alarm=0.001, window=64)
    share = (found.alarms >= 1000).sum() / 2000
    assert share > {"sample": 0.005, "window": 0.5, "glr": 0.9, "cusum": 0.02}[test]


def test_a_model_that_does_not_fit_is_told():
    rng = np.random.default_rng(3)
    data = record(rng, 3000, plant(2.0))
    with pytest.warns(CalibrationWarning, match=r"not chi-squared.*measured there.*a reference would tell"):
        found = detect_changes(plant(), data)
    assert found.measured.lower > 0.01
    assert not found.is_trustworthy
    slow = IOData(np.asarray(data.y) + 5 * np.sin(np.arange(3000) / 30)[:, None], data.u)
    with pytest.warns(CalibrationWarning, match=r"the reference are not white.*calibrate=True"):
        detect_changes(plant(), data, reference=slow)


@pytest.mark.parametrize("test", TESTS)
def test_a_threshold_from_the_reference_has_the_rate_there(test, rng):
    first, second = record(rng, 4000, plant(2.0)), record(rng, 4000, plant(2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        found = detect_changes(plant(), second, test=test, reference=first, calibrate=True, false_alarm=0.05)
    assert found.measured.rate == pytest.approx(0.05, abs=0.002)
    again = FalseAlarms.of(found.statistic[15:] > found.threshold, cluster=16)
    assert again.lower <= 0.06
    assert again.upper >= 0.04


def test_intervals_cover_as_often_as_they_say(rng):
    """Sums over 8 neighbours: as many samples are worth one, which the interval has to find out itself."""
    level = scipy.stats.chi2.isf(0.05, 8)
    covered = []
    for _ in range(300):
        found = FalseAlarms.of(windowed_sum(rng.chisquare(1, 2000), 8)[7:] > level, cluster=8)
        covered.append(found.lower <= 0.05 <= found.upper)
    assert np.mean(covered) > 0.88


def test_intervals_of_independent_samples_are_exact():
    flags = np.zeros(500, dtype=bool)
    flags[[30, 190, 320, 405]] = True
    found, exact = FalseAlarms.of(flags, level=0.9), scipy.stats.binomtest(4, 500).proportion_ci(0.9, "exact")
    assert found.lower == pytest.approx(exact.low, rel=0.3)  # four alarms may look a little dependent
    assert found.upper == pytest.approx(exact.high, rel=0.3)
    none = FalseAlarms.of(np.zeros(500, dtype=bool))
    assert (none.rate, none.lower) == (0.0, 0.0)
    assert none.upper == pytest.approx(scipy.stats.binomtest(0, 500).proportion_ci(0.95, "exact").high)
    every = FalseAlarms.of(np.ones(50, dtype=bool))
    assert (every.rate, every.upper) == (1.0, 1.0)


def test_faults_are_what_they_say(rng):
    data = record(rng, 50)
    before, y = slice(0, 20), data.y[20:, 1]
    mean = data.y[before, 1].mean()
    expected = {
        "bias": (0.5, y + 0.5),
        "drift": (0.5, y + 0.5 * np.arange(1, 31)),
        "gain": (0.5, mean + 1.5 * (y - mean)),
        "frozen": (None, np.full(30, data.y[19, 1])),
    }
    for kind, (size, values) in expected.items():
        broken = sensor_fault(data, kind, at=20, size=size, output=1)
        assert_close(broken.y[20:, 1], values)
        assert_close(broken.y[before], data.y[before], "bitwise")
        assert_close(broken.y[:, 0], data.y[:, 0], "bitwise")
        assert_close(broken.inputs, data.inputs, "bitwise")


def test_the_innovations_of_a_biased_sensor_are_those_of_linear_theory(rng):
    """What a bias adds to the innovations: the response of the predictor's error system to a step."""
    model, data = plant(), record(rng, 100)
    x0 = np.zeros(2)
    broken = sensor_fault(data, "bias", at=40, size=1.5, output=0)
    added = innovations(model, broken, x0=x0).e - innovations(model, data, x0=x0).e
    x, step = np.zeros(2), np.array([1.5, 0.0])
    for t in range(40, 100):
        e = step - model.C @ x
        assert_close(added[t], e)
        x = model.A @ x + model.K @ e
    assert_close(added[:40], np.zeros((40, 2)))


@pytest.mark.parametrize("calibrate", [False, True])
def test_innovations_that_are_too_small_are_found_where_asked_for(calibrate, rng):
    reference, model = record(rng, 20000), plant()
    e = rng.standard_normal((2000, 2)) @ np.linalg.cholesky(model.Re).T
    e[1000:] *= 0.3
    u = rng.standard_normal((2000, 1))
    calm = IOData(model.simulate(u, e=e), u)
    options = {"test": "window", "window": 16, "false_alarm": 0.02, "reference": reference}
    found = detect_changes(model, calm, **options, calibrate=calibrate, two_sided=True)
    assert found.lower is not None
    assert found.lower < 2 * 16 < found.threshold
    assert found.measured.lower <= 0.021
    assert found.measured.upper >= 0.019
    assert (found.alarms >= 1100).sum() == 900
    one_sided = detect_changes(model, calm, **options)
    assert one_sided.lower is None
    assert (one_sided.alarms >= 1100).sum() == 0
    assert_close(
        found.alarms,
        np.flatnonzero((found.statistic > found.threshold) | (found.statistic < found.lower)),
        "bitwise",
    )
    with pytest.raises(DataError, match="two_sided"):
        detect_changes(model, calm, test="glr", two_sided=True)


def test_what_is_refused(rng):
    model, data = plant(), record(rng, 60)
    for options, said in (
        ({"test": "t"}, "test='t'"),
        ({"false_alarm": 1.0}, "false_alarm=1.0"),
        ({"window": 0}, "window=0"),
        ({"increase": 1.0, "test": "cusum"}, "increase=1.0"),
        ({"calibrate": True}, "give reference="),
        ({"test": "cusum", "false_alarm": 0.9}, "never alarms more often"),
    ):
        with pytest.raises(DataError, match=said):
            detect_changes(model, data, **options)
    with pytest.raises(ExcitationError, match="window of 61"):
        detect_changes(model, data, window=61)
    with pytest.raises(ExcitationError, match="9 samples came to judge"):
        detect_changes(model, data[:9], test="sample")
    with pytest.raises(ExcitationError, match="at least 5"):
        detect_changes(model, data, reference=data, calibrate=True)
    for arguments in (
        {"kind": "loose", "at": 3}, {"kind": "bias", "at": 3}, {"kind": "frozen", "at": 3, "size": 1.0},
        {"kind": "frozen", "at": 0}, {"kind": "frozen", "at": 60}, {"kind": "frozen", "at": 3, "output": 2},
    ):  # fmt: skip
        with pytest.raises(DataError, match="sensor_fault"):
            sensor_fault(data, **arguments)


def test_the_picture_shows_what_was_found(rng):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from realization import plot

    data = record(rng, 300)
    found = detect_changes(
        plant(), sensor_fault(data, "bias", at=200, size=9.0), reference=data, test="sample"
    )
    ax = plot.changes(found, at=[230.0], start=30.0)
    known, statistic, threshold, alarms = ax.lines
    assert known.get_xdata()[0] == 230.0
    assert_close(statistic.get_ydata(), found.innovations.normalized_squared, "bitwise")
    assert_close(statistic.get_xdata(), 30 + np.arange(300.0), "bitwise")
    assert threshold.get_ydata()[0] == found.threshold
    assert_close(alarms.get_xdata(), 30 + found.alarms, "bitwise")
    assert plot.changes(found, ax=ax) is ax
    with pytest.raises(DataError, match="NaN"):
        plot.changes(found, at=[np.nan])
    plt.close("all")
