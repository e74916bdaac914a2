"""Invariants of a system: the same in every basis, untouched by hidden states, right where known."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.systems import StateSpace, invariants
from tests.strategies import seeds, stable_systems
from tests.tolerances import assert_close


def assert_same(found, expected):
    assert found.order == expected.order
    for name in ("controllability_indices", "observability_indices", "relative_degrees"):
        assert_close(getattr(found, name), getattr(expected, name), "bitwise", dtype="float64", what=name)
    for name in ("leading_markov", "hankel_singular_values", "dc_gain"):
        assert_close(getattr(found, name), getattr(expected, name), "iterative", what=name)
    for name in ("poles", "zeros"):
        # A polynomial's coefficients: pairs may be listed in another order.
        one, two = getattr(found, name), getattr(expected, name)
        assert_close(
            np.poly(one), np.poly(two), "optimum", scale=max(1.0, np.abs(np.poly(two)).max()), what=name
        )


@given(model=stable_systems(states=(0, 5)), seed=seeds)
def test_another_basis_changes_nothing(model, seed):
    rng = np.random.default_rng(seed)
    n = model.n_states
    T = np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n)
    assert_same(invariants(model.similarity_transform(T)), invariants(model))


@given(model=stable_systems(states=(1, 4)), seed=seeds, more=st.integers(1, 2))
def test_hidden_states_change_nothing(model, seed, more):
    rng = np.random.default_rng(seed)
    n, m = model.n_states, model.n_inputs
    A = np.zeros((n + more, n + more))
    A[:n, :n], A[n:, n:] = model.A, 0.5 * np.eye(more)
    A[:n, n:] = rng.standard_normal((n, more))  # seen, but not reached
    B = np.vstack([model.B, np.zeros((more, m))])
    C = np.hstack([model.C, rng.standard_normal((model.n_outputs, more))])
    whole = StateSpace(A, B, C, model.D)
    T = np.linalg.qr(rng.standard_normal((n + more, n + more)))[0]
    assert_same(invariants(whole.similarity_transform(T)), invariants(model))


def test_a_system_that_is_known():
    # (z - 1/4) / (z^2 (z - 1/2)) beside a gain of 3 that has no states.
    A = np.array([[0.5, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    model = StateSpace(A, [[0, 0], [1, 0], [-0.25, 0]], [[1, 0, 0], [0, 0, 0]], [[0, 0], [0, 3.0]])
    found = invariants(model)
    assert found.order == 3
    assert_close(found.relative_degrees, np.array([[2, -1], [-1, 0]]), "bitwise", dtype="float64")
    assert_close(found.leading_markov, np.array([[1.0, 0.0], [0.0, 3.0]]))
    assert_close(found.controllability_indices, np.array([3, 0]), "bitwise", dtype="float64")
    assert_close(found.observability_indices, np.array([3, 0]), "bitwise", dtype="float64")
    assert_close(found.dc_gain, np.array([[1.5, 0.0], [0.0, 3.0]]))
    assert_close(found.zeros.real, np.array([0.25]), "iterative")


def test_an_integrator_has_no_gain_and_an_unstable_system_no_singular_values():
    found = invariants(StateSpace([[1.0]], [[1.0]], [[1.0]]))
    assert (found.dc_gain, found.hankel_singular_values) == (None, None)
    continuous = invariants(StateSpace([[0.0]], [[1.0]], [[1.0]], dt=0.0))
    assert (continuous.dc_gain, continuous.order) == (None, 1)
    gain = invariants(StateSpace([[-2.0]], [[1.0]], [[3.0]], dt=0.0)).dc_gain
    assert gain is not None
    assert_close(gain, np.array([[1.5]]))
    unstable = invariants(StateSpace([[2.0]], [[1.0]], [[1.0]]))
    assert unstable.hankel_singular_values is None
    assert unstable.dc_gain is not None


def test_of_an_innovations_model_the_path_from_the_input():
    model = rz.InnovationsModel([[0.5, 0], [0, 0.2]], [[1.0], [0.0]], [[1.0, 1.0]], K=[[0.1], [0.1]])
    assert (invariants(model).order, invariants(model.noise).order) == (1, 2)


def test_relative_degree_of_a_finite_response():
    """Rounding turns the poles at zero into small ones, whose powers are no measure of the response."""
    h = np.array([0.0, 1.0, 0.3, -0.6, 0.8, 0.2, 0.5])
    n = len(h) - 1
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    model = StateSpace(Q.T @ np.eye(n, k=1) @ Q, Q.T @ h[1:, None], np.eye(1, n) @ Q)
    found = invariants(model)
    assert found.relative_degrees.tolist() == [[1]]
    assert_close(found.leading_markov, [[1.0]], "iterative")
