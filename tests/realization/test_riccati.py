"""The filter Riccati equation: closed forms, its residual, similarity, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import ConvergenceError, DataError, RankError, ShapeError
from realization.filtering import dare, innovations_form
from tests.oracles.riccati import limit_of_the_filter
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


def hard(kind, rng):
    """A filter problem of a kind that breaks one method or another."""
    n, p = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    A, C = matrix_with_radius(rng, n, rng.uniform(0.3, 1.2)), rng.standard_normal((p, n))
    root = rng.standard_normal((n + p, n + p))
    T = np.linalg.qr(rng.standard_normal((n, n)))[0]
    gain = 3 * rng.standard_normal((n, p))
    quiet = np.vstack([np.zeros((1, n)), rng.standard_normal((n - 1, n))])
    others = rng.uniform(-0.9, 0.9, n - 1)
    noise = {
        "no measurement noise": np.vstack([root[:n], np.zeros((p, n + p))]),
        "one output without noise": np.vstack([root[:n], np.zeros((1, n + p)), root[n + 1 :]]),
        "hardly any measurement noise": np.vstack([root[:n], 1e-7 * root[n:]]),
        "unstable without the outputs": np.block([[root[:n, :n], gain], [np.zeros((p, n)), np.eye(p)]]),
        "zeros outside the circle": np.vstack([gain, np.eye(p)]),
        "an undriven unstable mode": scipy.linalg.block_diag(T @ quiet, np.eye(p)),
        "an undriven mode that hardly decays": scipy.linalg.block_diag(T @ quiet, np.eye(p)),
    }.get(kind, root)
    match kind:
        case "deadbeat":
            A = np.eye(n, k=1)
        case "driven modes on the circle":
            A = T @ np.diag([1.0, -1.0, *others[1:]]) @ T.T
        case "an undriven unstable mode":
            A = T @ np.diag([1.5, *others]) @ T.T
        case "an undriven mode that hardly decays":
            A = T @ np.diag([1 - 1e-9, *others]) @ T.T
        case "units far apart":
            s = 10.0 ** rng.uniform(-8, 8, n + p)
            A, C, noise = A * s[:n, None] / s[:n], C * s[n:, None] / s[:n], noise * s[:, None]
    joint = noise @ noise.T
    return A, C, joint[:n, :n], joint[n:, n:], joint[:n, n:]


KINDS = [
    "plain",
    "no measurement noise",
    "one output without noise",
    "hardly any measurement noise",
    "deadbeat",
    "driven modes on the circle",
    "unstable without the outputs",
    "zeros outside the circle",
    "an undriven unstable mode",
    "units far apart",
]


def assert_right(found, problem, bound):
    K, Re = limit_of_the_filter(*problem)
    unit = np.sqrt(np.diag(Re))
    size = np.linalg.norm(K * unit, axis=1, keepdims=True)
    assert np.abs((found.K - K) * unit / np.where(size > 0, size, 1)).max() < bound
    assert np.abs((found.Re - Re) / np.outer(unit, unit)).max() < bound


@pytest.mark.parametrize("kind", KINDS)
def test_hard_problems_in_sixty_digits(kind):
    rng = np.random.default_rng(len(kind))
    for _ in range(5):
        problem = hard(kind, rng)
        found = dare(*problem)
        assert found.marginal == 0
        assert_right(found, problem, 1e-9)


def test_a_mode_that_nothing_drives_and_that_hardly_decays():
    """Its gain is at rounding of the noise's root, and must not be taken for another one."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        problem = hard("an undriven mode that hardly decays", rng)
        K, _ = limit_of_the_filter(*problem)
        assert np.abs(dare(*problem).K - K).max() < 1e-6


@pytest.mark.slow
@given(kind=st.sampled_from([*KINDS, "an undriven mode that hardly decays"]), seed=seeds)
def test_an_error_or_the_right_gain(kind, seed):
    problem = hard(kind, np.random.default_rng(seed))
    try:
        found = dare(*problem)
    except (ConvergenceError, RankError):
        return
    K, Re = limit_of_the_filter(*problem)
    unit = np.sqrt(np.diag(Re))
    size = np.linalg.norm(K * unit, axis=1, keepdims=True)
    assert np.abs((found.K - K) * unit / (size + 1e-2 * size.max())).max() < 1e-4


class TestStrongSolution:
    """A mode on the circle that nothing drives: the limit of the filter, or an error that says so."""

    @given(angle=st.floats(0.05, 3.0), a=st.floats(-0.9, 0.9), seed=seeds)
    def test_a_sinusoid_in_coloured_noise(self, angle, a, seed):
        """What is known in the end takes no gain; the rest is filtered as if it were alone."""
        rng = np.random.default_rng(seed)
        c, s = np.cos(angle), np.sin(angle)
        T = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        A = T @ scipy.linalg.block_diag(np.array([[c, s], [-s, c]]), np.array([[a]])) @ T.T
        C, Q = np.array([[1.0, 0.0, 1.0]]) @ T.T, T @ np.diag([0.0, 0.0, 1.0]) @ T.T
        with pytest.raises(ConvergenceError, match="strong=True"):
            dare(A, C, Q, [[1.0]])
        found, alone = dare(A, C, Q, [[1.0]], strong=True), dare([[a]], [[1.0]], [[1.0]], [[1.0]])
        assert found.marginal == 2
        assert_close(T.T @ found.K, np.vstack([np.zeros((2, 1)), alone.K]), "iterative", scale=1.0)
        assert_close(np.abs(found.poles[:2]), np.ones(2), "iterative")

    def test_moving_averages_with_zeros_on_the_circle(self):
        assert_close(dare([[0.0]], [[1.0]], [[1.0]], [[1.0]], [[1.0]], strong=True).K, np.array([[1.0]]))
        K = np.array([[2.0], [1.0]])  # (1 + q)^2: a chain of two
        found = dare(np.eye(2, k=1), [[1.0, 0.0]], K @ K.T, [[1.0]], K, strong=True)
        assert_close(found.K, K)
        assert found.marginal == 2

    def test_a_chain_that_is_driven_at_its_start_has_a_stabilizing_solution(self):
        A, C = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
        driven = dare(A, C, np.diag([0.0, 1.0]), [[1.0]])
        assert driven.marginal == 0
        assert abs(driven.poles[0]) < 0.5
        assert dare(A, C, np.diag([1.0, 0.0]), [[1.0]], strong=True).marginal == 1

    def test_the_limit_is_where_the_recursion_goes(self):
        P, A, C, K = 10 * np.eye(2), np.diag([1.0, 0.5]), np.ones((1, 2)), np.zeros((2, 1))
        Q = np.diag([0.0, 1.0])
        for _ in range(20000):
            K = A @ P @ C.T / (C @ P @ C.T + 1)
            P = A @ P @ A.T + Q - K @ C @ P @ A.T
        assert np.abs(dare(A, C, Q, [[1.0]], strong=True).K - K).max() < 2e-4

    def test_innovations_form_takes_it_too(self):
        model = innovations_form([[1.0]], [[1.0]], [[0.0]], [[1.0]], strong=True)
        assert model.K[0, 0] == 0
