"""Subspace identification: exact on exact data, invariant, consistent, and clear about what it cannot do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import (
    DataError,
    ExcitationError,
    ExcitationWarning,
    OrderWarning,
    RankError,
    StabilityWarning,
)
from realization.filtering import whiteness_test
from realization.identification import cva, fit_percent, moesp, n4sid
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.strategies import seeds
from tests.tolerances import assert_close

WEIGHTINGS = ("cva", "n4sid", "moesp")


def plant(seed, n, m, p, feedthrough=True):
    """A system whose modes are all well seen and well reached: rotations and scalings of comparable size."""
    rng = np.random.default_rng(seed)
    radii, angles = rng.uniform(0.5, 0.95, n), rng.uniform(0.3, 2.8, n)
    A = np.zeros((n, n))
    for k in range(0, n - 1, 2):
        c, s = np.cos(angles[k] / 2 + k / n), np.sin(angles[k] / 2 + k / n)
        A[k : k + 2, k : k + 2] = radii[k] * np.array([[c, -s], [s, c]])
    if n % 2:
        A[-1, -1] = -radii[-1]
    D = rng.standard_normal((p, m)) if feedthrough else np.zeros((p, m))
    return StateSpace(
        A, rng.choice([-1, 1], (n, m)) * rng.uniform(0.5, 1.5, (n, m)), rng.standard_normal((p, n)), D
    )


def noisy(T, seed, scale=1.0):
    """A record of a known innovations model."""
    rng = np.random.default_rng(seed)
    model = InnovationsModel(
        [[0.8, 0.3], [-0.3, 0.7]],
        [[1.0], [0.5]],
        [[1.0, 0.2], [0.0, 1.0]],
        K=[[0.4, 0.1], [0.0, 0.3]],
        Re=scale * np.array([[1.0, 0.3], [0.3, 0.5]]),
        u_mean=[2.0],
        y_mean=[-5.0, 3.0],
    )
    e = rng.standard_normal((T, 2)) @ np.linalg.cholesky(model.Re).T
    u = 2.0 + rng.standard_normal((T, 1))
    return model, IOData(model.simulate(u, e=e), u, dt=None)


@given(
    n=st.integers(1, 6),
    m=st.integers(1, 2),
    p=st.integers(1, 2),
    weighting=st.sampled_from(WEIGHTINGS),
    feedthrough=st.booleans(),
    seed=seeds,
)
def test_noise_free_records_give_the_markov_parameters_back(n, m, p, weighting, feedthrough, seed):
    system, rng = plant(seed, n, m, p, feedthrough), np.random.default_rng(seed)
    u = 3 + rng.standard_normal((400, m))
    y = 7 + system.simulate(u, rng.standard_normal(n))
    result = n4sid(IOData(y, u, dt=0.1), weighting=weighting)
    assert result.order == n
    assert result.feedthrough == feedthrough
    expected = system.impulse_response(40)
    assert_close(result.model.impulse_response(40), expected, "recurrence", scale=10 * np.abs(expected).max())
    simulated = result.model.simulate(u, result.x0)
    assert_close(simulated, y, "recurrence", scale=10 * np.abs(y).max())
    assert result.model.dt == 0.1


@pytest.mark.parametrize("length", [60, 500, 50_000])
def test_exactness_does_not_depend_on_the_length(length):
    system, rng = plant(11, 4, 1, 1), np.random.default_rng(0)
    u = rng.standard_normal((length, 1))
    result = n4sid(IOData(system.simulate(u, np.ones(4)), u), order=4)
    assert_close(result.model.impulse_response(60), system.impulse_response(60), "exact")


def test_a_noise_free_oscillation_without_inputs(rng):
    A = np.array([[0.6, 0.76, 0.0], [-0.76, 0.6, 0.0], [0.0, 0.0, 0.9]])
    system = StateSpace(A, np.zeros((3, 0)), rng.standard_normal((2, 3)))
    y = 4.0 + system.simulate(np.zeros((80, 0)), rng.standard_normal(3))
    result = n4sid(y, order=3)
    assert_close(np.sort(np.abs(result.model.poles)), np.sort(np.abs(system.poles)), "iterative")
    assert fit_percent(y[3:], result.model.predict(y)[3:]).min() > 99.99


@given(weighting=st.sampled_from(WEIGHTINGS), focus=st.sampled_from(["simulation", "prediction"]), seed=seeds)
def test_units_and_operating_points_do_not_matter(weighting, focus, seed):
    rng = np.random.default_rng(seed)
    _, data = noisy(300, seed)
    a, b, c, d = (
        10 ** rng.uniform(-3, 3, 2),
        rng.normal(0, 100, 2),
        10 ** rng.uniform(-3, 3),
        rng.normal(0, 100),
    )
    plain = n4sid(data, order=2, weighting=weighting, focus=focus).model
    other = n4sid(
        IOData(a * data.y + b, c * data.inputs + d), order=2, weighting=weighting, focus=focus
    ).model
    assert_close(other.impulse_response(20) * c / a[:, None], plain.impulse_response(20), "optimum")
    assert_close(
        other.noise.impulse_response(20) * a / a[:, None], plain.noise.impulse_response(20), "optimum"
    )
    assert_close(other.Re / a / a[:, None], plain.Re, "optimum")
    assert_close((other.y_mean - b) / a, plain.y_mean, "optimum")


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_long_records_give_the_true_system_and_its_noise(weighting):
    model, data = noisy(60_000, 1)
    result = n4sid(data, order=2, weighting=weighting, block_rows=10)
    found = result.model
    assert np.abs(found.impulse_response(20) - model.impulse_response(20)).max() < 0.03
    assert np.abs(found.noise.impulse_response(20) - model.noise.impulse_response(20)).max() < 0.05
    assert np.abs(found.Re - model.Re).max() < 0.03
    assert np.abs(found.predictor.poles).max() < 1
    e = data.y - found.predict(data)
    assert np.abs(whiteness_test(e, lags=10).autocorrelations[1:]).max() < 0.03


def test_the_error_falls_with_the_length():
    model, _ = noisy(10, 0)
    errors = []
    for T in (500, 50_000):
        found = [n4sid(noisy(T, seed)[1], order=2).model.impulse_response(15) for seed in range(5)]
        errors.append(np.mean([np.linalg.norm(h - model.impulse_response(15)) for h in found]))
    assert errors[1] < errors[0] / 4


def test_a_time_series_gives_its_spectrum():
    rng = np.random.default_rng(3)
    model = InnovationsModel([[0.9, 0.2], [-0.2, 0.8]], np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.5], [0.3]])
    y = model.simulate(e=rng.standard_normal((40_000, 1)))
    result = n4sid(y)
    assert result.order == 2
    assert np.abs(result.model.noise.impulse_response(15) - model.noise.impulse_response(15)).max() < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_found_where_it_is_clear(seed):
    assert n4sid(noisy(3000, seed)[1]).order == 2
    assert n4sid(IOData(np.random.default_rng(seed).standard_normal(500))).order == 0


def test_the_thin_wrappers_are_the_weightings():
    _, data = noisy(300, 4)
    assert (moesp(data, 2).weighting, cva(data, 2).weighting) == ("moesp", "cva")
    assert_close(moesp(data, 2).model.A, n4sid(data, 2, weighting="moesp").model.A, "bitwise")
    assert moesp(data, 2, block_rows=5).block_rows == 5


def test_feedthrough_can_be_ruled_out_and_asked_for():
    _, data = noisy(300, 5)
    assert not n4sid(data, 2).feedthrough
    assert not n4sid(data, 2, feedthrough=False).model.D.any()
    assert n4sid(data, 2, feedthrough=True).model.D.any()


def test_offset_can_be_left_to_the_mean():
    _, data = noisy(300, 6)
    assert_close(n4sid(data, 2, offset=False).model.y_mean, data.y.mean(axis=0))
    assert np.abs(n4sid(data, 2).model.y_mean - data.y.mean(axis=0)).max() > 1e-6


def unstable_record():
    """An unstable plant held by feedback."""
    rng = np.random.default_rng(7)
    model = InnovationsModel([[1.1]], [[1.0]], [[1.0]], K=[[1.1]], Re=[[0.01]])
    x, u, y = 0.0, [], []
    for reference, e in zip(rng.standard_normal(800), 0.1 * rng.standard_normal(800)):
        y.append(x + e)
        u.append(reference - 0.6 * y[-1])
        x = 1.1 * x + u[-1] + 1.1 * e
    return model, IOData(y, u)


def test_unstable_estimates_are_mirrored_with_a_warning_or_left():
    _, data = unstable_record()
    with pytest.warns(StabilityWarning, match="mirror image"):
        result = n4sid(data, order=1, focus="prediction")
    assert result.stabilized
    assert result.model.is_stable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free = n4sid(data, order=1, stable=False)
    assert abs(free.model.poles[0] - 1.1) < 0.05
    assert abs(free.model.B[0, 0] * free.model.C[0, 0] - 1.0) < 0.1


def test_poor_excitation_warns(rng):
    t = np.arange(400.0)
    u = np.sin(0.3 * t)
    y = StateSpace([[0.5]], [[1.0]], [[1.0]]).simulate(u) + 0.01 * rng.standard_normal((400, 1))
    with pytest.warns(ExcitationWarning, match="excite only"):
        n4sid(IOData(y, u), order=1)


def test_an_order_at_the_limit_warns():
    system, rng = plant(2, 6, 1, 1), np.random.default_rng(1)
    u = rng.standard_normal((500, 1))
    with pytest.warns(OrderWarning, match="limit"):
        assert n4sid(IOData(system.simulate(u), u), max_order=3).order == 3


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"order": 50, "block_rows": 5}, RankError, "block_rows of at least"),
        ({}, {"order": 60}, ExcitationError, "Take a longer record"),
        ({"y": np.arange(4.0), "u": np.arange(4.0)}, {}, ExcitationError, "4 samples"),
        ({}, {"block_rows": 60}, ExcitationError, "samples are needed"),
        ({"y": np.ones(100)}, {}, DataError, "output 'y1' is constant"),
        ({"u": np.ones(100)}, {}, DataError, "input 'u1' is constant"),
        ({}, {"weighting": "pbsid"}, DataError, "weighting"),
        ({}, {"focus": "both"}, DataError, "focus"),
        ({}, {"feedthrough": "no"}, DataError, "feedthrough"),
        ({}, {"order": -1}, DataError, "whole number"),
        ({}, {"block_rows": 1}, DataError, "block_rows"),
        ({}, {"max_order": 0}, DataError, "max_order"),
    ],
)
def test_what_cannot_be_identified_says_why(change, options, error, message):
    rng = np.random.default_rng(8)
    good = {"y": rng.standard_normal(100), "u": rng.standard_normal(100)}
    with pytest.raises(error, match=message):
        n4sid(IOData(**(good | change)), **options)
