"""Frequency-domain subspace identification: exact on exact data at any frequencies, steady in noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import (
    DataError,
    ExcitationError,
    ExcitationWarning,
    RankError,
    ShapeError,
    StabilityWarning,
)
from realization.identification.frequency_factor import orthonormal_polynomials
from tests.strategies import matrix_with_radius, seeds, stable_systems
from tests.tolerances import assert_close

LENGTH = 30


def scattered(seed, count, low=0.0, high=np.pi):
    """Frequencies without order or spacing, one in each of `count` stretches."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(low, high, count + 1)
    return rng.permutation(rng.uniform(edges[:-1], edges[1:]))


def resonant(radius, dt=None):
    A = np.zeros((4, 4))
    for k, angle in enumerate((0.7, 1.9)):
        c, s = radius * np.cos(angle), radius * np.sin(angle)
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, -s], [s, c]]
    B, C = np.array([[1.0], [0.5], [0.3], [1.0]]), np.array([[1.0, 0.0, 0.5, 0.2], [0.2, 1.0, 0.0, 1.0]])
    return rz.StateSpace(A, B, C, [[0.1], [0.0]], dt)


def apart(found, model):
    """Error of the Markov parameters, relative to the largest."""
    h = model.impulse_response(LENGTH)
    return np.abs(found.model.impulse_response(LENGTH) - h).max() / np.abs(h).max()


def response_error(found, model):
    omega = np.linspace(0.01, 3.13, 300)
    G = model.frequency_response(omega)
    return np.linalg.norm(found.model.frequency_response(omega) - G) / np.linalg.norm(G)


def with_noise(rng, G, size):
    return G + size * (rng.standard_normal(G.shape) + 1j * rng.standard_normal(G.shape)) / np.sqrt(2)


# Exact data.


@given(model=stable_systems(states=(0, 5)), count=st.integers(24, 60), seed=seeds)
def test_a_response_gives_its_markov_parameters_back(model, count, seed):
    omega = scattered(seed, count)
    found = rz.frequency_subspace(omega, model.frequency_response(omega), model.n_states)
    assert_close(found.model.impulse_response(LENGTH), model.impulse_response(LENGTH), "recurrence")
    assert found.residual < 1e-11
    assert found.model.dt == model.dt


@given(model=stable_systems(states=(1, 4), inputs=(1, 3), outputs=(1, 3)), seed=seeds)
def test_spectra_give_them_too(model, seed):
    omega, rng = scattered(seed, 80), np.random.default_rng(seed)
    U = rng.standard_normal((80, model.n_inputs)) + 1j * rng.standard_normal((80, model.n_inputs))
    Y = np.einsum("kpm,km->kp", model.frequency_response(omega), U)
    found = rz.frequency_subspace(omega, Y, model.n_states, inputs=U)
    assert_close(found.model.impulse_response(LENGTH), model.impulse_response(LENGTH), "recurrence")


@given(seed=seeds, n=st.integers(1, 4), m=st.integers(1, 2), feedthrough=st.booleans())
def test_continuous_time(seed, n, m, feedthrough):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A -= (np.linalg.eigvals(A).real.max() + 0.3) * np.eye(n)
    D = rng.standard_normal((2, m)) * feedthrough
    model = rz.StateSpace(A, rng.standard_normal((n, m)), rng.standard_normal((2, n)), D, dt=0.0)
    omega = rng.permutation(np.geomspace(0.02, 50, 40))
    found = rz.frequency_subspace(omega, model.frequency_response(omega), n, dt=0.0, feedthrough=feedthrough)
    between = np.geomspace(0.03, 40, 61)
    G = model.frequency_response(between)
    assert_close(found.model.frequency_response(between), G, "iterative")
    assert_close(found.model.D, D, "iterative", scale=max(1.0, np.abs(G).max()))
    assert found.model.dt == 0.0
    assert found.model.is_stable


@given(
    model=stable_systems(states=(1, 5), inputs=(1, 2), outputs=(1, 2)),
    lengths=st.lists(st.integers(90, 160), min_size=1, max_size=3),
    seed=seeds,
)
def test_records_of_any_state_and_level(model, lengths, seed):
    """First states, levels and seams between experiments leave no trace."""
    rng = np.random.default_rng(seed)
    level = 10 * rng.standard_normal(model.n_outputs)
    parts = []
    for length in lengths:
        u = 3 + rng.standard_normal((length, model.n_inputs))
        y = level + model.simulate(u - 3, x0=10 * rng.standard_normal(model.n_states))
        parts.append(rz.IOData(y, u, 0.1))
    found = rz.frequency_subspace(rz.IOData.concatenate(parts), order=model.n_states)
    assert_close(found.model.impulse_response(LENGTH), model.impulse_response(LENGTH), "recurrence")
    expected = level + model.frequency_response([0.0])[0].real @ (found.model.u_mean - 3)
    assert_close(found.model.y_mean, expected, "recurrence", scale=100.0)
    assert found.model.dt == 0.1


def test_it_agrees_with_the_time_domain(rng):
    model = resonant(0.98)
    u = rng.standard_normal((300, 1))
    data = rz.IOData(model.simulate(u, x0=rng.standard_normal(4)), u)
    found, other = rz.frequency_subspace(data, order=4), rz.n4sid(data, 4, block_rows=8)
    assert_close(found.model.impulse_response(200), other.model.impulse_response(200), "recurrence")
    y = found.model.simulate(data.inputs, found.model.estimate_x0(data))
    assert_close(y, data.y, "recurrence")


@pytest.mark.parametrize("radius", [0.999, 0.99999])
def test_lightly_damped(radius):
    model, omega = resonant(radius), scattered(1, 60)
    found = rz.frequency_subspace(omega, model.frequency_response(omega))
    assert found.order == 4
    assert_close(np.abs(found.model.poles), np.full(4, radius), "recurrence")
    assert apart(found, model) < 1e-10


def test_a_narrow_band():
    """Poles inside a tenth of the circle, as the logarithmic axis of a Bode plot shows them."""
    model = rz.StateSpace([[0.9, 0.1], [-0.1, 0.9]], [[1.0], [0.0]], [[0.3, 1.0]], [[0.2]])
    omega = np.geomspace(0.01, 0.3, 50)
    found = rz.frequency_subspace(omega, model.frequency_response(omega))
    assert found.order == 2
    assert apart(found, model) < 1e-10


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_fewest_points(n):
    model = rz.StateSpace(np.diag(np.linspace(-0.7, 0.8, n)), np.ones((n, 1)), np.ones((1, n)), [[1.0]])
    omega = scattered(n, n + 1)  # 2 n + 2 equations for n + 1 rows and n states
    found = rz.frequency_subspace(omega, model.frequency_response(omega), n)
    assert apart(found, model) < 1e-10
    with pytest.raises(ExcitationError, match=f"order {n + 1} needs at least {2 * n + 3}"):
        rz.frequency_subspace(omega, model.frequency_response(omega), n + 1)


def test_both_ends_of_the_circle_and_repeated_points():
    model, omega = resonant(0.9), np.r_[np.linspace(0, np.pi, 25), np.linspace(0, np.pi, 25)]
    found = rz.frequency_subspace(omega, model.frequency_response(omega))
    assert found.order == 4
    assert apart(found, model) < 1e-11


@given(seed=seeds, size=st.sampled_from([1e-9, 1e9]))
def test_units_do_not_matter(seed, size):
    model, omega = resonant(0.9), scattered(seed, 40)
    G = with_noise(np.random.default_rng(seed), model.frequency_response(omega), 0.01)
    one = rz.frequency_subspace(omega, G, 4).model
    other = rz.frequency_subspace(omega, G * [[size], [1 / size]], 4).model
    assert_close(
        other.impulse_response(LENGTH) * [[1 / size], [size]], one.impulse_response(LENGTH), "iterative"
    )


# The basis.


@given(count=st.integers(2, 8), seed=seeds)
def test_polynomials_are_orthonormal_and_obey_their_recurrence(count, seed):
    z = np.exp(1j * scattered(seed, 12))
    weights = np.random.default_rng(seed).uniform(0.1, 2.0, 12)
    basis, recurrence = orthonormal_polynomials(z, np.sqrt(weights), count)
    assert_close((basis @ basis.conj().T).real, np.eye(count))
    assert_close(z * basis[:-1], recurrence.T @ basis, scale=1.0)
    powers = z ** np.arange(count)[:, None] * np.sqrt(weights)
    coefficients = np.linalg.lstsq(
        np.hstack([powers.real, powers.imag]).T, np.hstack([basis.real, basis.imag]).T
    )[0]
    assert_close(coefficients.T @ powers, basis, "iterative")
    assert_close(np.tril(coefficients, -1), np.zeros((count, count)), "iterative", scale=1.0)


def test_on_the_whole_circle_they_are_powers():
    omega = np.linspace(0, np.pi, 9)
    weights = np.r_[0.5, np.ones(7), 0.5]
    basis, recurrence = orthonormal_polynomials(np.exp(1j * omega), np.sqrt(weights), 5)
    assert_close(recurrence, np.eye(5, 4, k=-1), scale=1.0)
    assert_close(basis[3], np.exp(3j * omega) * np.sqrt(weights / 8))


# Noise.


def test_order_and_error_in_noise():
    model, omega = resonant(0.95), scattered(0, 120)
    G = model.frequency_response(omega)
    orders, errors, others = [], [], []
    for seed in range(10):
        measured = with_noise(np.random.default_rng(seed), G, 0.1)
        found = rz.frequency_subspace(omega, measured)
        orders.append(found.order)
        errors.append(response_error(found, model))
        others.append(response_error(rz.loewner(omega, measured, 4), model))
    assert orders.count(4) >= 9
    # Least squares over 120 points of 2 outputs: the noise, less what 4 states can follow of it.
    assert np.median(errors) < 0.03
    assert np.median(errors) < np.median(others)


def test_the_noise_of_each_point_counts():
    """Half of the points a hundred times as noisy: told so, the estimate is as good as without them."""
    model, omega = resonant(0.95), scattered(0, 120)
    size = np.where(np.arange(120) % 2, 1.0, 0.01)
    G = model.frequency_response(omega)
    errors = {"blind": [], "variance": [], "covariance": [], "half": []}
    for seed in range(10):
        measured = with_noise(np.random.default_rng(seed), G, size[:, None, None])
        good = size < 1
        errors["blind"].append(response_error(rz.frequency_subspace(omega, measured, 4), model))
        found = rz.frequency_subspace(omega, measured, 4, noise=size**2)
        errors["variance"].append(response_error(found, model))
        covariance = size[:, None, None] ** 2 * np.eye(2)
        same = rz.frequency_subspace(omega, measured, 4, noise=covariance)
        errors["covariance"].append(response_error(same, model))
        assert_close(same.model.impulse_response(9), found.model.impulse_response(9), "iterative")
        errors["half"].append(response_error(rz.frequency_subspace(omega[good], measured[good], 4), model))
    median = {name: np.median(values) for name, values in errors.items()}
    assert median["variance"] < 0.1 * median["blind"]
    assert median["variance"] < 1.3 * median["half"]


def test_a_point_without_weight_is_not_there():
    model, omega = resonant(0.9), scattered(0, 40)
    G = model.frequency_response(omega)
    G[7] = 1e6
    found = rz.frequency_subspace(omega, G, 4, weights=np.where(np.arange(40) == 7, 0.0, 1.0))
    assert apart(found, model) < 1e-10


def test_a_record_in_noise_beside_the_time_domain():
    model, errors = resonant(0.95), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((800, 1))
        y = model.simulate(u, x0=rng.standard_normal(4))
        data = rz.IOData(y + 0.2 * y.std(axis=0) * rng.standard_normal(y.shape), u)
        found = rz.frequency_subspace(data)
        assert found.order == 4
        errors.append((response_error(found, model), response_error(rz.n4sid(data, 4), model)))
        spread = np.diag(found.model.Re) / (0.2 * y.std(axis=0)) ** 2
        np.testing.assert_allclose(spread, 1.0, atol=0.25)
    ours, theirs = np.median(errors, axis=0)
    assert ours < 0.05
    assert ours < 2 * theirs


def test_feedthrough_is_decided():
    omega = scattered(0, 60)
    for D in (0.0, 1.0):
        model = rz.StateSpace([[0.8]], [[1.0]], [[0.5]], [[D]])
        G = with_noise(np.random.default_rng(1), model.frequency_response(omega), 0.05)
        found = rz.frequency_subspace(omega, G, 1, feedthrough="auto")
        assert found.feedthrough == bool(D)
        assert found.model.D.any() == bool(D)
    assert not rz.frequency_subspace(omega, G, 1, feedthrough=False).model.D.any()


# Stability.


@pytest.mark.parametrize("dt", [None, 0.0])
def test_unstable_plants_are_kept_on_request(dt, rng):
    A = matrix_with_radius(rng, 3, 1.2) if dt is None else np.diag([0.5, -1.0, -3.0])
    model = rz.StateSpace(A, np.ones((3, 1)), np.eye(1, 3) + 0.3, [[1.0]], dt)
    omega = scattered(0, 60) if dt is None else np.geomspace(0.05, 30, 60)
    G = model.frequency_response(omega)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = rz.frequency_subspace(omega, G, 3, dt=dt, stable=False)
    assert not kept.stabilized
    assert_close(kept.model.frequency_response(omega), G, "iterative")
    with pytest.warns(StabilityWarning, match="stable=False"):
        moved = rz.frequency_subspace(omega, G, 3, dt=dt)
    assert moved.stabilized
    assert moved.model.is_stable


# What cannot be done.


def test_inputs_of_too_few_directions_are_said(rng):
    model, omega = rz.StateSpace([[0.5]], [[1.0, 2.0]], [[1.0]]), scattered(0, 50)
    U = np.repeat(rng.standard_normal((50, 1)) + 0j, 2, axis=1)
    Y = np.einsum("kpm,km->kp", model.frequency_response(omega), U)
    with pytest.warns(ExcitationWarning, match="fill only"):
        found = rz.frequency_subspace(omega, Y, 1, inputs=U)
    assert_close(found.model.poles.real, np.array([0.5]), "iterative")


G = np.ones((6, 1, 1)) / (np.exp(1j * np.arange(1.0, 4.0, 0.5)[:6]) - 0.5)[:, None, None]
OMEGA = np.arange(0.2, 3.2, 0.5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((OMEGA,), {}, DataError, "without a response"),
        ((OMEGA[:5], G), {}, ShapeError, r"\(F, p, m\)"),
        ((OMEGA, G[:, :, 0]), {}, ShapeError, r"with inputs \(F, m\)"),
        ((OMEGA[:, None], G), {}, ShapeError, r"\(F,\)"),
        ((OMEGA, G[:, 0]), {"inputs": np.ones((5, 1))}, ShapeError, "input"),
        ((OMEGA, G[:, 0]), {"inputs": np.zeros((6, 1))}, ExcitationError, "zero at every point"),
        ((np.r_[OMEGA[:5], 4.0], G), {}, DataError, "between 0 and 3.14159"),
        ((np.r_[OMEGA[:5], np.nan], G), {}, DataError, "NaN"),
        ((OMEGA, np.where(OMEGA[:, None, None] > 1, np.inf, G)), {}, DataError, "the response has"),
        ((OMEGA, G), {"dt": -1.0}, DataError, "dt=-1"),
        ((OMEGA, G), {"dt": 2.0}, DataError, "between 0 and 1.5708"),
        ((OMEGA, G), {"weights": np.ones(5)}, ShapeError, r"\(6,\)"),
        ((OMEGA, G), {"weights": -np.ones(6)}, DataError, "not negative"),
        ((OMEGA, G), {"weights": np.ones(6), "noise": np.ones(6)}, DataError, "give one"),
        ((OMEGA, G), {"noise": np.ones((6, 2, 2))}, ShapeError, "noise"),
        ((OMEGA, G), {"noise": np.zeros(6)}, DataError, "positive definite"),
        ((OMEGA, G), {"order": -1}, DataError, "order=-1"),
        ((OMEGA, G), {"max_order": 0}, DataError, "max_order=0"),
        ((OMEGA, G), {"feedthrough": "maybe"}, DataError, "'auto'"),
        ((OMEGA, G), {"block_rows": 1}, DataError, "block_rows=1"),
        ((OMEGA, G), {"order": 3, "block_rows": 3}, RankError, "at least 4"),
        ((OMEGA, G), {"order": 1, "block_rows": 30}, ExcitationError, "at most"),
        ((OMEGA, G), {"order": 8}, ExcitationError, "Give more points"),
        ((OMEGA[:1], G[:1]), {}, ExcitationError, "1 points give 2"),
        ((rz.IOData(np.arange(9.0) ** 2, np.arange(9.0)), G), {}, DataError, "its own spectra"),
        ((rz.IOData(np.arange(9.0)),), {}, DataError, "no inputs"),
        ((rz.IOData(np.arange(9.0), np.ones(9)),), {}, DataError, "'u1' is constant"),
        ((rz.IOData([1.0, 2.0, 0.0], [0.0, 1.0, 0.0]),), {}, ExcitationError, "fewer than 4"),
    ],
)
def test_errors_say_what_came_and_what_is_needed(arguments, options, error, message):
    with pytest.raises(error, match=message):
        rz.frequency_subspace(*arguments, **options)


def test_the_response_may_be_of_rank_below_the_order_asked():
    model, omega = rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), scattered(0, 30)
    found = rz.frequency_subspace(omega, model.frequency_response(omega), 3)
    assert response_error(found, model) < 1e-9
