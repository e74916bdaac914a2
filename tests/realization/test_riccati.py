"""The filter Riccati equation: closed forms, its residual, similarity, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import ConvergenceError, DataError, RankError, ShapeError
from realization.filtering import dare, innovations_form
from tests.strategies import innovations_models, matrix_with_radius, seeds
from tests.tolerances import assert_close


def noises(rng, n, p):
    """A joint covariance of process and measurement noise, positive definite."""
    root = rng.standard_normal((n + p, n + p))
    joint = root @ root.T + 0.1 * np.eye(n + p)
    return joint[:n, :n], joint[n:, n:], joint[:n, n:]


@given(a=st.floats(-1.5, 1.5), q=st.floats(0.1, 10), r=st.floats(0.1, 10))
def test_scalar_equation_has_the_root_of_its_quadratic(a, q, r):
    P = dare([[a]], [[1.0]], [[q]], [[r]]).P[0, 0]
    half = (q + (a * a - 1) * r) / 2
    assert_close(np.array(P), np.array(half + np.sqrt(half * half + q * r)), "iterative")


@given(n=st.integers(1, 6), p=st.integers(1, 3), radius=st.floats(0.1, 1.3), seed=seeds)
def test_equation_holds_and_the_predictor_is_stable(n, p, radius, seed):
    rng = np.random.default_rng(seed)
    A, C = matrix_with_radius(rng, n, radius), rng.standard_normal((p, n))
    Q, R, S = noises(rng, n, p)
    found = dare(A, C, Q, R, S)
    cross = A @ found.P @ C.T + S
    assert_close(found.Re, C @ found.P @ C.T + R, "iterative")
    assert_close(found.K @ found.Re, cross, "iterative")
    assert_close(A @ found.P @ A.T + Q - found.K @ found.Re @ found.K.T, found.P, "iterative")
    assert abs(found.poles[0]) < 1
    assert_close(
        np.sort(np.abs(np.linalg.eigvals(A - found.K @ C))), np.sort(np.abs(found.poles)), "iterative"
    )
    assert found.residual < 1e-8
    assert np.linalg.eigvalsh(found.P)[0] > 0


@given(n=st.integers(1, 5), p=st.integers(1, 2), seed=seeds)
def test_another_basis_gives_the_same_filter(n, p, seed):
    rng = np.random.default_rng(seed)
    A, C = matrix_with_radius(rng, n, 0.9), rng.standard_normal((p, n))
    Q, R, S = noises(rng, n, p)
    T = scipy.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n)
    inverse = np.linalg.inv(T)
    plain, moved = dare(A, C, Q, R, S), dare(inverse @ A @ T, C @ T, inverse @ Q @ inverse.T, R, inverse @ S)
    assert_close(moved.Re, plain.Re, "iterative")
    assert_close(T @ moved.K, plain.K, "iterative")


@given(innovations_models(states=(1, 5), inputs=(0, 0)))
def test_noise_that_is_one_innovation_gives_the_model_back(model):
    """With Q = K Re Kᵀ, S = K Re, R = Re the state is known in the end: P = 0."""
    K, Re = model.K, model.Re
    found = innovations_form(model.A, model.C, K @ Re @ K.T, Re, K @ Re)
    assert_close(found.K, K, "iterative")
    assert_close(found.Re, Re, "iterative")


def test_spectrum_is_kept(rng):
    """Both forms colour white noise in the same way."""
    A, C = matrix_with_radius(rng, 4, 0.9), rng.standard_normal((2, 4))
    Q, R, S = noises(rng, 4, 2)
    model = innovations_form(A, C, Q, R, S, dt=0.5)
    omega = np.linspace(0.1, 6, 20)
    H = model.noise.frequency_response(omega)
    resolvent = C @ np.linalg.inv(np.exp(0.5j * omega)[:, None, None] * np.eye(4) - A)
    adjoint = resolvent.conj().transpose(0, 2, 1)
    expected = resolvent @ Q @ adjoint + R + resolvent @ S + S.T @ adjoint
    assert_close(H @ model.Re @ H.conj().transpose(0, 2, 1), expected, "iterative")


def test_inputs_are_carried_along():
    model = innovations_form([[0.5]], [[1.0]], [[1.0]], [[1.0]], B=[[2.0]], D=[[3.0]], dt=0.1)
    assert (model.B[0, 0], model.D[0, 0], model.dt) == (2.0, 3.0, 0.1)


def test_noise_free_measurements_are_taken_where_the_innovations_are_not_singular():
    assert_close(dare([[0.5]], [[1.0]], [[0.75]], [[0.0]]).K, np.array([[0.5]]), "iterative")


def test_no_states():
    found = dare(np.zeros((0, 0)), np.zeros((2, 0)), np.zeros((0, 0)), np.eye(2))
    assert found.K.shape == (0, 2)
    assert_close(found.Re, np.eye(2), "bitwise")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"C": [[1.0, 0.0]]}, ShapeError, "C has shape"),
        ({"Q": [[1.0, 0.0]]}, ShapeError, "Q has shape"),
        ({"A": [1.0]}, ShapeError, "two matrices"),
        ({"R": [[np.nan]]}, DataError, "NaN"),
        ({"Q": [[-1.0]]}, DataError, "positive semidefinite"),
        ({"S": [[2.0]]}, DataError, "positive semidefinite"),
        ({"A": [[1.1]], "C": [[0.0]]}, RankError, "not detectable"),
        ({"Q": [[0.0]], "R": [[0.0]]}, RankError, "singular"),
        ({"A": [[1.0]], "Q": [[0.0]]}, ConvergenceError, "unit circle"),
    ],
)
def test_what_cannot_be_solved_says_why(change, error, message):
    good = {"A": [[0.5]], "C": [[1.0]], "Q": [[1.0]], "R": [[1.0]], "S": None}
    with pytest.raises(error, match=message):
        dare(**(good | change))


def test_an_asymmetric_covariance_is_refused():
    with pytest.raises(DataError, match="symmetric"):
        dare(np.eye(2) * 0.5, np.eye(2), [[1.0, 0.5], [0.0, 1.0]], np.eye(2))
