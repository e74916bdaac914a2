"""Rates of large innovations against those promised: exact binomial bands, outputs that move together."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from realization.errors import DataError, ExcitationError
from realization.filtering import chi_squared_calibration, innovations, select_innovations
from realization.filtering.innovations import Innovations
from realization.systems import InnovationsModel


def correlated(size=1.0):
    Re = size * np.array([[4.0, 1.9, 0.0], [1.9, 1.0, 0.001], [0.0, 0.001, 1e-4]])
    A, C = np.diag([0.9, 0.5]), np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.01]])
    return InnovationsModel(A, np.zeros((2, 0)), C, K=0.1 * C.T, Re=Re)


def record(rng, T, size=1.0):
    model = correlated()
    e = rng.standard_normal((T, 3)) @ np.linalg.cholesky(size * model.Re).T
    return model.simulate(e=e)


def from_scores(s):
    return Innovations(np.sqrt(s)[:, None], np.eye(1), s, np.zeros(0))


@pytest.mark.parametrize("alpha", [0.1, 0.01])
def test_the_threshold_rule_has_the_false_alarm_rate_it_is_given(alpha, rng):
    """Three outputs, almost collinear and in far units: only the metric of Re makes them one chi-squared."""
    T = 20000
    y = record(rng, T)
    kept = select_innovations(correlated(), y, budget=T, rule="threshold", alpha=alpha, x0=[0.0, 0.0]).kept
    assert abs(kept.mean() - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / T)
    found = chi_squared_calibration(innovations(correlated(), y))
    assert found.is_calibrated
    assert found.degrees == 3
    assert found.scale == pytest.approx(1, abs=0.05)


def test_a_covariance_that_is_misjudged_is_found_and_corrected(rng):
    model, y = correlated(0.5), record(rng, 5000)
    found = chi_squared_calibration(innovations(model, y))
    assert not found.is_calibrated
    assert (found.observed > found.upper).all()
    assert found.scale == pytest.approx(2, rel=0.08)
    assert found.mean_scale == pytest.approx(2, rel=0.08)
    assert chi_squared_calibration(innovations(found.corrected(model), record(rng, 5000))).is_calibrated


def test_outliers_hardly_move_the_scale(rng):
    s = rng.chisquare(1, 4000)
    s[::20] *= 1e4
    found = chi_squared_calibration(from_scores(s))
    assert found.scale == pytest.approx(1, abs=0.2)
    assert found.mean_scale > 100
    assert not found.is_calibrated


def test_bands_hold_the_exact_binomial_law():
    found = chi_squared_calibration(from_scores(np.linspace(0.1, 5, 400)), alpha=[0.05], level=0.9)
    law = scipy.stats.binom(400, 0.05)
    counts = np.round(np.array([found.lower[0], found.upper[0]]) * 400)
    assert counts.tolist() == [law.ppf(0.05), law.ppf(0.95)]


def test_bands_hold_as_often_as_they_say(rng):
    held = [
        chi_squared_calibration(from_scores(rng.chisquare(1, 300)), level=0.9).is_calibrated
        for _ in range(400)
    ]
    assert np.mean(held) > 0.9 - 3 * np.sqrt(0.09 / 400)


def test_what_is_refused():
    good = from_scores(np.ones(20))
    with pytest.raises(DataError, match="alpha"):
        chi_squared_calibration(good, alpha=[0.0, 0.1])
    with pytest.raises(DataError, match="level"):
        chi_squared_calibration(good, level=1.0)
    with pytest.raises(ExcitationError, match="9 samples"):
        chi_squared_calibration(from_scores(np.ones(9)))
