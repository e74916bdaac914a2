"""Long autoregressions, reduced: exact where the record is, consistent under feedback, stable."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import DataError, ExcitationError, RankError, StabilityWarning, UnstableError
from tests.strategies import seeds, stable_systems
from tests.tolerances import assert_close

LENGTH = 30


def held_by_feedback(length, seed, pole=1.1):
    """An unstable plant under a proportional controller, with noise that goes around the loop."""
    rng = np.random.default_rng(seed)
    y, u = np.zeros(length), np.zeros(length)
    for t in range(length - 1):
        u[t] = -0.6 * y[t] + rng.standard_normal()
        y[t + 1] = pole * y[t] + u[t] + 0.5 * rng.standard_normal()
    return rz.IOData(y, u)


def resonance(length, seed, noise):
    rng = np.random.default_rng(seed)
    plant = rz.StateSpace([[1.4, -0.6], [1.0, 0.0]], [[1.0], [0.0]], [[0.5, 0.3]])
    u = rng.standard_normal((length, 1))
    y = plant.simulate(u)
    return plant, rz.IOData(y + noise * y.std() * rng.standard_normal(y.shape), u)


@given(
    model=stable_systems(states=(1, 4), inputs=(1, 2), outputs=(1, 2)),
    focus=st.sampled_from(["prediction", "simulation"]),
    seed=seeds,
)
def test_noise_free_records_are_exact(model, focus, seed):
    rng = np.random.default_rng(seed)
    u = 1 + rng.standard_normal((300, model.n_inputs))
    y = model.simulate(u, x0=rng.standard_normal(model.n_states)) - 5
    found = rz.varx(rz.IOData(y, u, 0.5), 8, model.n_states, feedthrough=True, focus=focus)
    h = model.impulse_response(LENGTH)
    assert_close(found.model.impulse_response(LENGTH), h, "iterative", scale=10 * np.abs(h).max())
    assert found.singular_values[model.n_states] < 1e-8 * found.singular_values[0]
    assert found.model.dt == 0.5


@given(seed=seeds, kernel=st.sampled_from([None, "TC", "DC", "SS"]))
def test_all_states_are_the_autoregression(seed, kernel):
    """Nothing cut, nothing changed: the predictor of order `p L` in other coordinates."""
    _, data = resonance(150, seed, 0.5)
    found = rz.varx(data, 3, 3, kernel=kernel, stable=False)
    for path in ("deterministic", "noise"):
        one, other = (getattr(model, path) for model in (found.model, found.long_model))
        assert_close(one.impulse_response(12), other.impulse_response(12), "iterative")
    if kernel is None:
        assert_close(
            found.long_model.impulse_response(12), rz.arx(data, na=3, stable=False).model.impulse_response(12)
        )


def test_singular_values_are_those_of_both_gramians():
    _, data = resonance(400, 0, 0.3)
    found = rz.varx(data, 5, 2)
    long = found.long_model
    predictor = long.predictor
    x, moved = np.zeros(5), []
    for u, y in zip(data.inputs - long.u_mean, data.y - long.y_mean):
        moved.append(x)
        x = predictor.A @ x + predictor.B @ np.r_[u, y]
    moved = np.array(moved)[5:]
    reach = moved.T @ moved / len(moved)
    sight = scipy.linalg.solve_discrete_lyapunov(predictor.A.T, long.C.T @ long.C)
    expected = np.sqrt(np.sort(np.linalg.eigvals(reach @ sight).real)[::-1])
    # The function counts outputs in units of their deviation, which scales all values alike.
    ratio = found.singular_values / expected
    assert_close(ratio, np.full(5, ratio[0]), "iterative")


def test_feedback_and_an_unstable_plant():
    data = held_by_feedback(5000, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = rz.varx(data, order=1, stable=False)
    np.testing.assert_allclose(kept.model.poles.real, 1.1, atol=0.03)
    np.testing.assert_allclose((kept.model.C @ kept.model.B)[0, 0], 1.0, atol=0.05)
    np.testing.assert_allclose(kept.model.Re, 0.25, atol=0.02)
    with pytest.warns(StabilityWarning, match="stable=False"):
        moved = rz.varx(data, order=1)
    assert moved.stabilized
    assert moved.model.is_stable
    assert moved.model.predictor.is_stable


def test_the_order_is_found_and_the_fit_kept():
    plant, data = resonance(3000, 1, 0.2)
    found = rz.varx(data, 20)
    assert 2 <= found.order <= 4
    fits = [rz.fit_percent(data.y, m.predict(data)).mean() for m in (found.model, found.long_model)]
    assert fits[0] > fits[1] - 0.5
    two = rz.varx(data, 20, 2).model
    h = plant.impulse_response(LENGTH)
    assert np.linalg.norm(two.impulse_response(LENGTH) - h) < 0.03 * np.linalg.norm(h)


@pytest.mark.parametrize("kernel", [None, "TC"])
def test_white_noise_has_no_states(kernel):
    orders = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        data = rz.IOData(rng.standard_normal((400, 1)), rng.standard_normal((400, 1)))
        orders.append(rz.varx(data, 5, kernel=kernel).order)
    assert orders.count(0) >= 5


def test_a_kernel_helps_a_short_record():
    errors = {None: [], "TC": []}
    for seed in range(8):
        plant, data = resonance(120, seed, 0.5)
        h = plant.impulse_response(LENGTH)
        for kernel, found in errors.items():
            model = rz.varx(data, 15, kernel=kernel).long_model
            found.append(np.linalg.norm(model.impulse_response(LENGTH) - h) / np.linalg.norm(h))
    assert np.median(errors["TC"]) < 0.7 * np.median(errors[None])


def test_the_reduction_helps_a_short_record():
    errors = {"model": [], "long_model": []}
    for seed in range(8):
        plant, data = resonance(120, seed, 0.5)
        h, result = plant.impulse_response(LENGTH), rz.varx(data, 15)
        for name, found in errors.items():
            apart = getattr(result, name).impulse_response(LENGTH) - h
            found.append(np.linalg.norm(apart) / np.linalg.norm(h))
    assert np.median(errors["model"]) < 0.7 * np.median(errors["long_model"])


def test_time_series_experiments_and_gaps(rng):
    e = rng.standard_normal((4000, 1))
    y = rz.StateSpace([[0.8]], [[1.0]], [[1.2]], [[1.0]]).simulate(e)  # ARMA: noise path 1 + 1.2 / (q - 0.8)
    whole = rz.varx(y, 20, 1).model
    assert whole.n_inputs == 0
    np.testing.assert_allclose(whole.poles.real, 0.8, atol=0.05)
    np.testing.assert_allclose(whole.noise.impulse_response(4)[1:, 0, 0], [1.2, 0.96, 0.768], atol=0.12)
    parts = rz.IOData.concatenate([rz.IOData(y[:1500]), rz.IOData(y[1500:])])
    assert np.abs(rz.varx(parts, 20, 1).model.poles - whole.poles).max() < 0.02
    holes = y.copy()
    holes[rng.integers(0, 4000, 20)] = np.nan
    assert np.abs(rz.varx(rz.IOData(holes, missing=True), 20, 1).model.poles - whole.poles).max() < 0.05


@pytest.mark.parametrize("focus", ["prediction", "simulation"])
@given(seed=seeds)
def test_models_are_stable_unless_asked(focus, seed):
    rng = np.random.default_rng(seed)
    y = np.cumsum(rng.standard_normal((80, 2)) * 1.05 ** np.arange(80)[:, None], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rz.varx(rz.IOData(y, rng.standard_normal((80, 1))), 4, focus=focus)
    assert found.model.is_stable


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lags": 0}, DataError, "lags=0"),
        ({"order": -1}, DataError, "order=-1"),
        ({"max_order": 0}, DataError, "max_order=0"),
        ({"kernel": "RBF"}, DataError, "'TC', 'DC', 'SS'"),
        ({"focus": "both"}, DataError, "focus='both'"),
        ({"lags": 4, "order": 5}, RankError, "has 4 states"),
        ({"lags": 60}, ExcitationError, "too few"),
    ],
)
def test_errors_say_what_came_and_what_is_needed(options, error, message):
    with pytest.raises(error, match=message):
        rz.varx(resonance(100, 0, 0.1)[1], **options)


def test_simulation_of_an_unstable_autoregression_is_refused():
    with pytest.raises(UnstableError, match="focus='prediction'"):
        rz.varx(held_by_feedback(500, 0), 3, 1, focus="simulation", stable=False)
    with pytest.raises(ExcitationError, match="too few for one lag"):
        rz.varx(rz.IOData(np.arange(8.0) ** 2, np.random.default_rng(0).standard_normal((8, 3))))
