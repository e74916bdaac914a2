"""The Kalman filter against one dense Gaussian vector, statsmodels, and the steady-state predictor."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RankError, RealizationError, ShapeError, UnstableError
from realization.filtering import kalman_filter, stationary_covariance
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.oracles.gaussian import log_density, output_covariance
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close


def record(model, T, seed):
    rng = np.random.default_rng(seed)
    return IOData(rng.standard_normal((T, model.n_outputs)), rng.standard_normal((T, model.n_inputs)))


def autoregression(a=0.5, **changes):
    fields = {"A": [[a]], "B": np.zeros((1, 0)), "C": [[1.0]], "K": [[a]]}
    return InnovationsModel(**(fields | changes))


@given(model=innovations_models(inputs=(0, 0)), T=st.integers(1, 12), seed=seeds)
def test_likelihood_is_that_of_one_gaussian_vector(model, T, seed):
    data = record(model, T, seed)
    covariance = output_covariance(model.A, model.C, model.K, model.Re, stationary_covariance(model), T)
    expected = log_density(covariance, data.y - model.y_mean)
    assert_close(np.array(kalman_filter(model, data).log_likelihood), np.array(expected), "iterative")


@given(model=innovations_models(states=(1, 5)), T=st.integers(1, 15), seed=seeds)
def test_any_first_state_and_inputs(model, T, seed):
    """The same with inputs, a first mean, and a first covariance: the mean is the simulation."""
    data, rng = record(model, T, seed), np.random.default_rng(seed)
    root = rng.standard_normal((model.n_states, 2))
    x0, P0 = rng.standard_normal(model.n_states), root @ root.T
    mean = model.deterministic.simulate(data.inputs - model.u_mean, x0) + model.y_mean
    covariance = output_covariance(model.A, model.C, model.K, model.Re, P0, T)
    found = kalman_filter(model, data, x0=x0, P0=P0)
    expected = log_density(covariance, data.y - mean)
    assert_close(np.array(found.log_likelihood), np.array(expected), "iterative")


@given(model=innovations_models(), T=st.integers(1, 30), seed=seeds)
def test_a_known_first_state_is_the_steady_predictor(model, T, seed):
    data = record(model, T, seed)
    x0 = np.random.default_rng(seed).standard_normal(model.n_states)
    found = kalman_filter(model, data, x0=x0, P0=np.zeros((model.n_states, model.n_states)))
    assert_close(data.y - found.innovations, model.predict(data, x0=x0), "recurrence", scale=10.0)
    assert_close(found.innovation_covariances[-1], model.Re)
    assert found.transient <= 2


@given(model=innovations_models(states=(1, 5)), seed=seeds)
def test_the_settled_filter_is_the_filter_that_never_settles(model, seed):
    """Every step's covariance by the textbook recursion, with nothing left out."""
    data = record(model, 200, seed)
    found = kalman_filter(model, data)
    A, C, K, Re, P = model.A, model.C, model.K, model.Re, stationary_covariance(model)
    x = np.zeros(model.n_states)
    u, y = data.inputs - model.u_mean, data.y - model.y_mean
    for t in range(200):
        e = y[t] - C @ x - model.D @ u[t]
        S = C @ P @ C.T + Re
        gain = (A @ P @ C.T + K @ Re) @ np.linalg.inv(S)
        assert_close(found.innovation_covariances[t], S, "iterative")
        assert_close(found.innovations[t], e, "iterative", scale=100.0)
        assert_close(found.normalized_squared[t], e @ np.linalg.solve(S, e), "iterative", scale=100.0)
        x = A @ x + model.B @ u[t] + gain @ e
        P = A @ P @ A.T + K @ Re @ K.T - gain @ S @ gain.T
        P = (P + P.T) / 2
    assert_close(found.last_state, x, "iterative", scale=100.0)
    assert found.covariances.shape == (200, model.n_states, model.n_states)


def test_a_transient_over_several_blocks(rng):
    """A slow zero keeps the covariance moving for hundreds of samples."""
    model = autoregression(0.2, K=[[-0.77]])
    y = rng.standard_normal((500, 1))
    covariance = output_covariance(model.A, model.C, model.K, model.Re, stationary_covariance(model), 500)
    found = kalman_filter(model, y)
    assert 64 < found.transient < 1000
    assert_close(np.array(found.log_likelihood), np.array(log_density(covariance, y)), "iterative")


def test_statsmodels_agrees(rng):
    from statsmodels.tsa.arima.model import ARIMA

    y = rng.standard_normal(60).cumsum() * 0.3
    model = autoregression(A=[[0.6]], K=[[0.6 + 0.4]], Re=[[1.7]])  # ARMA(1, 1): y = 0.6 y₋ + e + 0.4 e₋
    expected = ARIMA(y, order=(1, 0, 1), trend="n").loglike([0.6, 0.4, 1.7])
    assert_close(np.array(kalman_filter(model, y).log_likelihood), np.array(expected), "iterative")


@given(model=innovations_models(states=(1, 4)), seed=seeds)
def test_stationary_covariance_solves_its_equation(model, seed):
    P = stationary_covariance(model)
    assert_close(P - model.A @ P @ model.A.T, model.K @ model.Re @ model.K.T, "iterative")
    T = scipy.linalg.qr(np.random.default_rng(seed).standard_normal(P.shape))[0]
    assert_close(T @ stationary_covariance(model.similarity_transform(T)) @ T.T, P, "iterative")


def test_an_unstable_model_needs_its_first_covariance():
    model = autoregression(1.2)
    with pytest.raises(UnstableError, match="Give P0"):
        kalman_filter(model, np.ones(5))
    assert np.isfinite(kalman_filter(model, np.ones(5), P0=[[1.0]]).log_likelihood)


def test_an_unstable_predictor_settles_at_a_gain_of_its_own(rng):
    """|A - K C| > 1: the steady gain is another one, with the zero mirrored into the unit circle."""
    model = autoregression(0.5, K=[[2.5]])
    y = rng.standard_normal((60, 1))
    covariance = output_covariance(model.A, model.C, model.K, model.Re, stationary_covariance(model), 60)
    found = kalman_filter(model, y)
    assert_close(np.array(found.log_likelihood), np.array(log_density(covariance, y)), "iterative")
    assert_close(found.innovation_covariances[-1], np.array([[4.0]]), "iterative")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"P0": np.eye(2)}, ShapeError, "P0 has shape"),
        ({"P0": [[-1.0]]}, DataError, "positive semidefinite"),
        ({"P0": [[np.inf]]}, DataError, "NaN or infinite"),
        ({"x0": [0.0, 0.0]}, ShapeError, "x0 has shape"),
    ],
)
def test_first_states_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        kalman_filter(autoregression(), np.ones(3), **options)


def test_models_that_cannot_be_filtered():
    with pytest.raises(RankError, match="singular"):
        kalman_filter(autoregression(Re=[[0.0]]), np.ones(3))
    with pytest.raises(RealizationError, match="continuous"):
        kalman_filter(autoregression(-0.5, dt=0.0), np.ones(3))
    with pytest.raises(ShapeError, match="outputs"):
        kalman_filter(autoregression(), np.ones((3, 2)))
    two = InnovationsModel(np.zeros((2, 2)), np.zeros((2, 0)), np.eye(2))
    with pytest.raises(DataError, match="symmetric"):
        kalman_filter(two, np.ones((3, 2)), P0=[[1.0, 0.5], [0.0, 1.0]])


@pytest.mark.parametrize("unit", [1.0, 1e8, 1e12, 1e-12])
@pytest.mark.parametrize("form", ["covariance", "square_root"])
def test_units_of_the_states_change_nothing(unit, form):
    """A state in small units still has its covariance when a larger one has lost its own."""
    model = InnovationsModel(np.diag([0.3, 0.95]), np.zeros((2, 0)), np.eye(2), K=np.diag([0.3, 0.04]))
    y = np.random.default_rng(0).standard_normal((300, 2))
    units = np.array([1.0, unit])
    other = model.similarity_transform(np.diag(units))
    expected = kalman_filter(model, y, P0=np.diag([1.0, 2.0]))
    found = kalman_filter(other, y, P0=np.diag([1.0, 2.0] / units**2), form=form)
    assert_close(found.log_likelihood, expected.log_likelihood, "iterative")
    assert_close(found.states * units, expected.states, "iterative")


def test_units_of_the_outputs_make_no_covariance_singular():
    Re = np.array([[1.0, 0.3], [0.3, 1.0]])
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), np.ones((2, 1)), K=[[0.2, 0.1]], Re=Re)
    units = np.array([1.0, 1e10])
    other = InnovationsModel(
        [[0.5]], np.zeros((1, 0)), units[:, None], K=[[0.2, 1e-11]], Re=Re * np.outer(units, units)
    )
    y = np.random.default_rng(0).standard_normal((50, 2))
    expected = kalman_filter(model, y).log_likelihood - 50 * np.log(1e10)
    assert_close(kalman_filter(other, y * units).log_likelihood, expected, "iterative")


@pytest.mark.parametrize("size", [1e8, 1e12, 1e20])
def test_a_wide_prior_keeps_its_digits(size):
    """Roots carry the first samples, where a covariance would lose what the outputs tell."""
    model = InnovationsModel([[0.9, 0.2], [0.0, 0.7]], np.zeros((2, 0)), [[1.0, 0.5]], K=[[0.4], [0.2]])
    y = np.random.default_rng(0).standard_normal((80, 1))
    expected = kalman_filter(model, y, P0=size * np.eye(2), form="square_root")
    found = kalman_filter(model, y, P0=size * np.eye(2))
    assert_close(found.log_likelihood, expected.log_likelihood, "iterative")
    assert_close(found.states, expected.states, "iterative")
    if size > 1e10:
        with pytest.raises(DataError, match="square_root"):
            kalman_filter(model, y, P0=size * np.eye(2), form="parallel")


def test_a_model_without_noise_is_refused_by_name():
    with pytest.raises(DataError, match="StateSpace came; an InnovationsModel"):
        kalman_filter(StateSpace([[0.5]], [[1.0]], [[1.0]]), IOData([1.0], [1.0]))  # pyright: ignore[reportArgumentType]
