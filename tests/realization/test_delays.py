"""Dead times: found in noise, in every pair, in open and closed loop; and put into models exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import DataError, ExcitationError, RealizationError, ShapeError
from tests.strategies import innovations_models, seeds, stable_systems
from tests.tolerances import assert_close


def record(pairs, length, seed, noise):
    """Each output a sum of first-order lags of the inputs, each with its own dead time; -1 is no path."""
    rng = np.random.default_rng(seed)
    p, m = pairs.shape
    u, y = rng.standard_normal((length, m)), np.zeros((length, p))
    for k in range(p):
        for i in range(m):
            if pairs[k, i] >= 0:
                path = rz.StateSpace([[0.7]], [[0.7]], [[1.0]], [[1.0]])
                y[:, k] += rz.delay_inputs(path, int(pairs[k, i])).simulate(u[:, i])[:, 0]
    return rz.IOData(y + noise * rng.standard_normal(y.shape), u)


# Models that wait.


@given(model=stable_systems(), seed=seeds)
def test_a_delayed_model_is_the_model_of_delayed_inputs(model, seed):
    rng = np.random.default_rng(seed)
    delays = rng.integers(0, 4, model.n_inputs)
    u = rng.standard_normal((20, model.n_inputs))
    late = np.column_stack([np.r_[np.zeros(d), u[: 20 - d, i]] for i, d in enumerate(delays)])
    found = rz.delay_inputs(model, delays)
    assert found.n_states == model.n_states + delays.sum()
    assert_close(found.simulate(u), model.simulate(late))


@given(model=innovations_models(inputs=(1, 2)), delay=st.integers(0, 3))
def test_noise_and_operating_point_stay(model, delay):
    found = rz.delay_inputs(model, delay)
    assert isinstance(found, rz.InnovationsModel)
    assert_close(found.noise.impulse_response(9), model.noise.impulse_response(9))
    for name in ("Re", "u_mean", "y_mean"):
        assert_close(getattr(found, name), getattr(model, name), "bitwise")


# Delays that are found.


@given(
    pairs=st.lists(st.integers(-1, 8), min_size=4, max_size=4).filter(lambda x: max(x[0], x[2]) >= 0),
    seed=seeds,
    noise=st.sampled_from([1e-3, 0.2]),
)
def test_every_pair_is_told(pairs, seed, noise):
    pairs = np.array(pairs).reshape(2, 2)
    pairs[pairs.max(axis=1) < 0, 0] = 3  # an output that nothing moves is noise alone
    found = rz.input_delays(record(pairs, 1500, seed, noise), max_delay=10)
    acting = np.where(pairs < 0, 99, pairs).min(axis=0)
    # A criterion is consistent, not infallible: a false first tap in one of hundreds of draws.
    assert (found.pairs != pairs).sum() <= 1
    assert (found.delays != np.where(acting == 99, 0, acting)).sum() <= 1


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_one_path_in_white_and_in_no_noise(noise):
    hits = [rz.input_delays(record(np.array([[5]]), 800, seed, noise)).delays[0] == 5 for seed in range(20)]
    assert sum(hits) >= 18


def test_in_closed_loop():
    """Past outputs are in the regression, so that what the controller makes of them is no early effect."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y, u = np.zeros(3000), np.zeros(3000)
        for t in range(4, 3000):
            y[t] = 0.8 * y[t - 1] + u[t - 4] + 0.5 * rng.standard_normal()
            u[t] = -0.1 * y[t - 1] + rng.standard_normal()
        assert rz.input_delays(rz.IOData(y, u)).delays[0] == 4


def test_the_record_without_its_delays_needs_fewer_states():
    data = record(np.array([[7]]), 1000, 0, 0.05)
    found = rz.input_delays(data)
    quick = rz.n4sid(data.delay(found.delays), feedthrough=True)
    assert quick.order == 1
    late = rz.delay_inputs(quick.model, found.delays)
    expected = rz.delay_inputs(rz.StateSpace([[0.7]], [[0.7]], [[1.0]], [[1.0]]), 7).impulse_response(20)
    assert np.abs(late.impulse_response(20) - expected).max() < 0.02
    simulated = late.simulate(data.inputs, late.estimate_x0(data))
    assert rz.fit_percent(data.y, simulated).mean() > 90


def test_experiments_and_missing_outputs():
    parts = [record(np.array([[4]]), 500, seed, 0.1) for seed in range(3)]
    assert rz.input_delays(rz.IOData.concatenate(parts)).delays[0] == 4
    y = parts[0].y.copy()
    y[200:204] = np.nan
    assert rz.input_delays(rz.IOData(y, parts[0].u, missing=True)).delays[0] == 4


@pytest.mark.parametrize(
    ("length", "options", "error", "message"),
    [
        (500, {"max_delay": 0}, DataError, "max_delay=0"),
        (500, {"lags": 0}, DataError, "lags=0"),
        (40, {}, ExcitationError, "twice as many rows"),
        (15, {"lags": 2}, ExcitationError, "longer record"),
    ],
)
def test_errors_say_what_came_and_what_is_needed(length, options, error, message):
    with pytest.raises(error, match=message):
        rz.input_delays(record(np.array([[2]]), length, 0, 0.1), **options)


def test_what_cannot_wait(rng):
    model = rz.StateSpace([[0.5]], [[1.0, 1.0]], [[1.0]])
    for delays in ([1], [1, -1], [0.5, 1.0], [1, 2, 3]):
        with pytest.raises(ShapeError, match="2 whole numbers"):
            rz.delay_inputs(model, delays)
    with pytest.raises(RealizationError, match="continuous time"):
        rz.delay_inputs(rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0), 1)
    with pytest.raises(DataError, match="no inputs"):
        rz.input_delays(rz.IOData(rng.standard_normal(100)))
