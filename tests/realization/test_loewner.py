"""Loewner framework: rational functions come back from samples of their frequency response."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, OrderWarning, RankError, ShapeError
from realization.realize import loewner
from realization.systems import StateSpace
from tests.strategies import seeds, stable_systems
from tests.tolerances import assert_close


@given(model=stable_systems(states=(1, 4), inputs=(1, 2), outputs=(1, 2)), count=st.integers(24, 40))
def test_a_system_in_discrete_time_comes_back(model, count):
    omega = np.linspace(0, np.pi, count)
    found = loewner(omega, model.frequency_response(omega))
    between = np.linspace(0.05, 3.0, 37)
    assert found.order <= model.n_states
    assert found.residual < 1e-7
    assert_close(found.model.frequency_response(between), model.frequency_response(between), "optimum")
    assert_close(
        found.model.D, model.D, "optimum", scale=max(1.0, np.abs(model.frequency_response(omega)).max())
    )


@given(seed=seeds, n=st.integers(1, 4), feedthrough=st.booleans())
def test_a_system_in_continuous_time_comes_back(seed, n, feedthrough):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A -= (np.linalg.eigvals(A).real.max() + 0.5) * np.eye(n)
    D = rng.standard_normal((2, 1)) if feedthrough else np.zeros((2, 1))
    model = StateSpace(A, rng.standard_normal((n, 1)), rng.standard_normal((2, n)), D, dt=0.0)
    omega = np.geomspace(0.05, 20, 30)
    found = loewner(omega, model.frequency_response(omega), dt=0.0, feedthrough=feedthrough)
    between = np.geomspace(0.06, 18, 41)
    assert_close(found.model.frequency_response(between), model.frequency_response(between), "optimum")
    assert found.model.dt == 0.0
    if not feedthrough:
        assert not found.model.D.any()


def test_poles_and_order_of_a_known_function():
    omega = np.linspace(0.1, 10, 20)
    s = 1j * omega
    found = loewner(omega, (s + 3) / ((s + 1) * (s * s + 2 * s + 5)), dt=0.0)
    assert found.order == 3
    assert_close(np.sort_complex(found.model.poles.round(9)), np.array([-1 - 2j, -1, -1 + 2j]), "iterative")
    assert found.singular_values[3] < 1e-12 * found.singular_values[0]


def test_a_constant_has_order_zero():
    found = loewner(np.linspace(0.1, 1, 6), np.full(6, 2.5))
    assert found.order == 0
    assert_close(found.model.D, np.array([[2.5]]))


def test_measured_with_noise(rng):
    model = StateSpace([[0.5, 0.6], [-0.6, 0.5]], [[1.0], [0.0]], [[0.0, 1.0]], dt=0.1)
    omega = np.linspace(0.3, 31, 60)
    G = model.frequency_response(omega)
    noise = 1e-4 * (rng.standard_normal(G.shape) + 1j * rng.standard_normal(G.shape))
    with pytest.warns(OrderWarning, match="full|exceeds"):
        loewner(omega, G + noise, dt=0.1)
    found = loewner(omega, G + noise, 2, dt=0.1)
    assert_close(found.model.frequency_response(omega), G, "optimum", dtype="float32", scale=1.0)


@pytest.mark.parametrize(
    ("omega", "response", "options", "error", "message"),
    [
        ([0.1, 0.2], [1.0], {}, ShapeError, r"\(N,\)"),
        ([0.1], [1.0], {}, ShapeError, "two frequencies"),
        ([0.1, 0.1], [1.0, 1.0], {}, DataError, "distinct"),
        ([0.1, 4.0], [1.0, 1.0], {}, DataError, "between 0 and 3.14159"),
        ([0.1, np.nan], [1.0, 1.0], {}, DataError, "NaN"),
        ([0.1, 0.2], [1.0, 1.0], {"tol": 0}, DataError, "tol=0"),
        ([0.1, 0.2], [1.0, 1.0], {"dt": -1.0}, DataError, "dt=-1"),
        ([0.1, 0.2, 0.3, 0.4], [1.0] * 4, {"order": 1}, RankError, "only 0 of 4"),
        ([0.1, 0.2], [1.0, 1.0], {"order": -1}, ShapeError, "order=-1"),
    ],
)
def test_what_is_refused(omega, response, options, error, message):
    with pytest.raises(error, match=message):
        loewner(omega, response, **options)
