"""Residual tests: the right level where nothing is wrong, a clear word where something is."""

from __future__ import annotations

import numpy as np
import pytest

import realization as rz
from realization.errors import DataError, ExcitationError

PLANT = rz.StateSpace([[0.8, 0.4], [-0.4, 0.7]], [[1.0], [0.5]], [[1.0, 0.0]])
MODEL = rz.InnovationsModel(PLANT.A, PLANT.B, PLANT.C)


def slow(rng, T):
    return rz.StateSpace([[0.9]], [[1.0]], [[1.0]]).simulate(rng.standard_normal((T, 1)))


def test_coloured_residuals_and_inputs_keep_the_level():
    inside, small = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        u = slow(rng, 600)
        data = rz.IOData(PLANT.simulate(u) + slow(rng, 600), u)
        tests = rz.residual_tests(MODEL, data, focus="simulation", level=0.95, lags=12)
        inside.append(np.abs(tests.cross_correlations[:, 0, 0]) <= tests.cross_bounds[0, 0])
        small.append((tests.dynamics[0, 0] < 0.05, tests.feedback[0, 0] < 0.05))
    assert 0.9 < np.mean(inside) < 0.99
    assert np.mean(small) < 0.15


def test_correlations_are_those_of_the_definition(rng):
    u = rng.standard_normal((200, 1))
    e = rng.standard_normal((200, 1))
    tests = rz.residual_tests(MODEL, rz.IOData(PLANT.simulate(u) + e, u), focus="simulation", lags=3)
    assert (tests.lags == np.arange(-3, 4)).all()
    r = tests.residuals[:, 0] - tests.residuals.mean()
    v = u[:, 0] - u.mean()
    size = len(r) * r.std() * v.std()
    for k, value in zip(tests.lags, tests.cross_correlations[:, 0, 0]):
        expected = (r[max(k, 0) : 200 + min(k, 0)] * v[max(-k, 0) : 200 - max(k, 0)]).sum() / size
        assert abs(value - expected) < 1e-12


def test_missed_dynamics_are_seen(rng):
    u = rng.standard_normal((600, 1))
    y = PLANT.simulate(u) + 0.3 * rng.standard_normal((600, 1))
    wrong = rz.InnovationsModel([[0.7]], [[1.0]], [[1.0]])
    assert rz.residual_tests(wrong, rz.IOData(y, u)).dynamics[0, 0] < 1e-6
    assert rz.residual_tests(MODEL, rz.IOData(y, u)).dynamics[0, 0] > 1e-3


def test_feedback_is_seen_and_white_residuals_stay_white(rng):
    x, u, y = np.zeros(2), [], []
    for e, reference in zip(0.5 * rng.standard_normal(1500), rng.standard_normal(1500)):
        y.append(x[0] + e)
        u.append([reference - 0.3 * y[-1]])
        x = PLANT.A @ x + PLANT.B[:, 0] * u[-1][0]
    tests = rz.residual_tests(MODEL, rz.IOData(y, u), lags=10)
    # The controller answers at once, with the sample's own lag zero.
    assert tests.dynamics[0, 0] < 1e-3
    assert np.argmax(np.abs(tests.cross_correlations[:, 0, 0])) == 10
    assert tests.whiteness.is_white


def test_a_time_series_has_no_inputs_to_test(rng):
    model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    tests = rz.residual_tests(model, model.simulate(e=rng.standard_normal((300, 1))))
    assert tests.cross_correlations.shape == (51, 1, 0)
    assert tests.whiteness.is_white


@pytest.mark.parametrize(
    ("options", "length", "error"),
    [({"level": 1.5}, 100, DataError), ({"focus": "x"}, 100, DataError), ({}, 8, ExcitationError)],
)
def test_refusals(rng, options, length, error):
    with pytest.raises(error):
        rz.residual_tests(
            MODEL, rz.IOData(rng.standard_normal(length), rng.standard_normal(length)), **options
        )
