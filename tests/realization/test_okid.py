"""OKID: exact on records without noise, consistent with it, and what it says of poor ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import realization as rz
from realization.errors import DataError, ExcitationError, ExcitationWarning, RankError, ShapeError
from realization.realize import markov_parameters, okid
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.strategies import matrix_with_radius, seeds, stable_gain, stable_systems
from tests.tolerances import assert_close


def system(rng, n=3, m=2, p=2, radius=0.9):
    A, C = matrix_with_radius(rng, n, radius), rng.standard_normal((p, n))
    return InnovationsModel(
        A, rng.standard_normal((n, m)), C, rng.standard_normal((p, m)), 0.1, K=stable_gain(A, C)
    )


@given(model=stable_systems(states=(1, 4), dt=0.1), seed=seeds)
def test_without_noise_the_markov_parameters_are_exact_from_any_state(model, seed):
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((400, model.n_inputs))
    data = IOData(model.simulate(u, x0=rng.standard_normal(model.n_states)), u, dt=0.1)
    found = okid(data, lags=6)
    expected = markov_parameters(model, len(found.markov))
    assert_close(found.markov, expected, "iterative")
    assert_close(markov_parameters(found.model, 20), markov_parameters(model, 20), "optimum")
    assert found.order <= model.n_states
    assert found.model.dt == 0.1


def test_an_operating_point_is_found(rng):
    model = system(rng)
    u = 3 + rng.standard_normal((500, 2))
    y = np.array([5.0, -1.0]) + model.deterministic.simulate(u - 3)
    found = okid(IOData(y, u, 0.1), lags=4).model
    shifted = IOData(y, u, 0.1)
    assert_close(found.predict(shifted)[60:], y[60:], "optimum")
    steady = model.C @ np.linalg.solve(np.eye(3) - model.A, model.B) + model.D
    assert_close(found.y_mean, np.array([5.0, -1.0]) + steady @ (u.mean(axis=0) - 3), "optimum")


def test_with_noise_system_and_innovations_are_near(rng):
    model = system(rng, n=2, m=1, p=1, radius=0.8)
    u, e = rng.standard_normal((20000, 1)), 0.3 * rng.standard_normal((20000, 1))
    data = IOData(model.simulate(u, e=e), u, 0.1)
    found = okid(data, order=2, lags=15)
    h, expected = markov_parameters(found.model, 10), markov_parameters(model, 10)
    assert np.abs(h - expected).max() < 0.03 * np.abs(expected).max()
    assert found.model.Re[0, 0] == pytest.approx(0.09, rel=0.05)
    g, expected = markov_parameters(found.model.noise, 6), markov_parameters(model.noise, 6)
    assert np.abs(g - expected).max() < 0.05
    errors = data.y - found.model.predict(data)
    assert errors[50:].var() < 1.05 * 0.09


def test_the_order_is_told_from_the_noise(rng):
    model = StateSpace(np.diag([0.9, 0.5]), [[1.0], [1.0]], [[1.0, -2.0]])
    u = rng.standard_normal((5000, 1))
    data = IOData(model.simulate(u) + 0.05 * rng.standard_normal((5000, 1)), u)
    assert okid(data).order == 2


def test_without_feedthrough_there_is_none(rng):
    u = rng.standard_normal((300, 1))
    data = IOData(StateSpace([[0.5]], [[1.0]], [[1.0]]).simulate(u), u)
    assert not okid(data, lags=3, feedthrough=False).model.D.any()


def test_a_poor_input_warns():
    u = np.sin(0.3 * np.arange(200.0))
    with pytest.warns(ExcitationWarning, match="2 of the 6 directions"):
        okid(IOData(StateSpace([[0.5]], [[1.0]], [[1.0]]).simulate(u), u), order=1, lags=5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lags": 0}, ShapeError, "lags=0"),
        ({"lags": 40}, ExcitationError, "too few for 40 lags"),
        ({"lags": 2, "order": 3}, RankError, "orders from 0 to 2"),
        ({"count": 2}, ShapeError, "count=2"),
        ({"tol": 1}, DataError, "tol=1"),
    ],
)
def test_what_is_refused(options, error, message, rng):
    data = IOData(rng.standard_normal(60), rng.standard_normal(60))
    with pytest.raises(error, match=message):
        okid(data, **options)


def test_a_time_series_is_refused(rng):
    with pytest.raises(ExcitationError, match="no input"):
        okid(IOData(rng.standard_normal(60)))


def test_experiments_and_gaps_are_kept_apart(rng):
    """Noise-free: windows that reach over a gap, or into another experiment, would spoil exactness."""
    plant = rz.StateSpace([[0.8, 0.4], [-0.4, 0.7]], [[1.0], [0.5]], [[1.0, 0.3], [0.2, 1.0]], [[0.5], [0.0]])
    u = [rng.standard_normal((length, 1)) for length in (150, 90)]
    y = [plant.simulate(part, x0=rng.standard_normal(2)) for part in u]
    y[0][40:43, 0] = np.nan
    y[1][60, 1] = np.nan
    parts = [rz.IOData(outputs, inputs, missing=True) for outputs, inputs in zip(y, u)]
    found = rz.okid(rz.IOData.concatenate(parts), order=2, lags=4)
    assert_close(found.model.impulse_response(20), plant.impulse_response(20), "recurrence")
    short = rz.IOData(np.ones((12, 1)).cumsum(axis=0), rng.standard_normal((12, 1)), starts=(0, 6))
    with pytest.raises(rz.ExcitationError, match="12 samples in 2 stretches are too few for 4 lags"):
        rz.okid(short, lags=4)
