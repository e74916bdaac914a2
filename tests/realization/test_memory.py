"""Memory curves: the definition by dense conditioning, closed forms, and what a state can hold at most."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RealizationError, ShapeError, UnstableError
from realization.memory import memory_curve
from realization.systems import InnovationsModel, StateSpace
from tests.strategies import innovations_models, seeds, stable_systems
from tests.tolerances import assert_close


def shift(w, m=1):
    A, B = np.kron(np.eye(w, k=1), np.eye(m)), np.kron(np.eye(w)[:, -1:], np.eye(m))
    return StateSpace(A, B, np.ones((1, w * m)))


def covariance(rng, size):
    root = rng.standard_normal((size, size))
    return root @ root.T + 0.1 * np.eye(size)


def stacked(A, B, count):
    """`[B, A B, A^2 B, ...]`: the state as a combination of all that came in."""
    blocks = [B]
    for _ in range(count - 1):
        blocks.append(A @ blocks[-1])
    return np.hstack(blocks)


class TestDefinition:
    @given(model=stable_systems(states=(1, 4)), seed=seeds)
    def test_dense_conditioning(self, model, seed):
        """Inputs and noises of a long past as one Gaussian vector; its covariance with the state in full."""
        rng = np.random.default_rng(seed)
        n, m, past = model.n_states, model.n_inputs, 800
        Sigma, N = covariance(rng, m), covariance(rng, n)
        reach = stacked(model.A, model.B @ np.linalg.cholesky(Sigma), past)
        noise = stacked(model.A, np.linalg.cholesky(N), past)
        W, S = reach @ reach.T + noise @ noise.T, noise @ noise.T
        curve = memory_curve(model, 6, input_covariance=Sigma, noise=N)
        for k in range(6):
            block = reach[:, k * m : (k + 1) * m]
            joint = np.block([[np.eye(m), block.T], [block, W]])
            nats = 0.5 * (np.linalg.slogdet(W)[1] - np.linalg.slogdet(joint)[1])
            assert_close(
                curve.memory[k], np.trace(block.T @ np.linalg.solve(W, block)), "iterative", scale=1.0
            )
            assert_close(curve.information[k], nats, "iterative", scale=1.0)
            assert_close(
                curve.fisher[k], np.trace(block.T @ np.linalg.solve(S, block)), "iterative", scale=1.0
            )

    @given(model=stable_systems(states=(1, 5)), seed=seeds)
    def test_a_change_of_basis_cancels(self, model, seed):
        rng = np.random.default_rng(seed)
        n = model.n_states
        T, N = np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n), covariance(rng, n)
        inverse = np.linalg.inv(T)
        one = memory_curve(model, 10, noise=N)
        other = memory_curve(model.similarity_transform(T), 10, noise=inverse @ N @ inverse.T)
        for name in ("memory", "information", "fisher", "capacity"):
            assert_close(getattr(other, name), getattr(one, name), "iterative", scale=1.0, what=name)

    @given(model=stable_systems(states=(1, 6), inputs=(1, 2)))
    def test_all_lags_together_hold_as_much_as_there_are_states(self, model):
        curve = memory_curve(model, 2000)
        assert curve.capacity == model.n_states
        assert_close(curve.memory.sum(), float(model.n_states), "iterative")
        assert curve.memory.max() <= model.n_inputs * (1 + 1e-9)

    @given(model=stable_systems(states=(1, 5)), seed=seeds, level=st.floats(1e-3, 10))
    def test_noise_costs_capacity(self, model, seed, level):
        N = level * covariance(np.random.default_rng(seed), model.n_states)
        curve = memory_curve(model, 2000, noise=N)
        assert 0 < curve.capacity < model.n_states
        assert_close(curve.memory.sum(), curve.capacity, "iterative")

    def test_given_lags_in_any_order(self, rng):
        model = StateSpace([[0.9, 0.1], [0.0, 0.5]], [[0.0], [1.0]], [[1.0, 0.0]])
        whole = memory_curve(model, 9).memory
        assert_close(memory_curve(model, [9, 2, 2, 5]).memory, whole[[8, 1, 1, 4]])


class TestClosedForms:
    @given(a=st.floats(-0.99, 0.99))
    def test_one_state(self, a):
        curve = memory_curve(StateSpace([[a]], [[3.0]], [[1.0]]), 8)
        expected = (1 - a * a) * a ** (2 * np.arange(8))
        assert_close(curve.memory, expected, "iterative")
        if abs(a) > 1e-3:
            assert_close(curve.information, -0.5 * np.log1p(-expected), "iterative", scale=1.0)

    @given(a=st.floats(-0.95, 0.95), ratio=st.floats(0.01, 10))
    def test_one_state_in_noise(self, a, ratio):
        # Signal and noise fade alike, so the share of the noise in the state's variance is always the same.
        curve = memory_curve(StateSpace([[a]], [[1.0]], [[1.0]]), 5, noise=[[ratio]])
        fading = (1 - a * a) * a ** (2 * np.arange(5))
        assert_close(curve.memory, fading / (1 + ratio), "iterative")
        assert_close(curve.fisher, fading / ratio, "iterative")
        assert curve.capacity == pytest.approx(1 / (1 + ratio))

    @pytest.mark.parametrize(("w", "m"), [(1, 1), (8, 1), (4, 3)])
    def test_a_window_holds_its_inputs_and_nothing_else(self, w, m):
        curve = memory_curve(shift(w, m), 2 * w)
        assert_close(curve.memory, m * (np.arange(2 * w) < w).astype(float))
        assert np.isinf(curve.information[:w]).all()
        assert not curve.information[w:].any()
        assert np.isinf(curve.fisher[:w]).all()
        assert not curve.fisher[w:].any()
        assert_close(curve.window(), curve.memory)
        assert curve.capacity == w * m
        assert_close(curve.time_constants, np.zeros(w * m), "bitwise")

    def test_the_notebooks_fading_state_holds_what_its_window_holds(self):
        pairs = [(0.95, 0.25), (0.90, 0.70), (0.85, 1.30), (0.80, 2.20)]
        poles = np.array([r * np.exp(sign * 1j * angle) for r, angle in pairs for sign in (1, -1)])
        A = np.eye(8, k=1)
        A[-1] = -np.poly(poles).real[:0:-1]
        B = np.eye(8)[:, -1:]
        curve = memory_curve(StateSpace(A, B, np.ones((1, 8))), 400)
        W = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
        reach, by_hand = B, []
        for _ in range(400):
            by_hand.append(np.trace(reach.T @ np.linalg.solve(W, reach)))
            reach = A @ reach
        assert_close(curve.memory, np.array(by_hand), "iterative")
        assert_close(curve.memory.sum(), 8.0, "iterative")
        assert_close(curve.window().sum(), 8.0, "bitwise")

    def test_time_constants_are_in_seconds(self):
        model = StateSpace(np.diag([0.5, np.exp(-0.1)]), np.ones((2, 1)), np.ones((1, 2)), dt=0.2)
        assert_close(memory_curve(model, 1).time_constants, np.array([2.0, 0.2 / np.log(2)]))

    def test_half_life(self):
        curve = memory_curve(shift(4), 10)
        assert curve.half_life == 5
        assert memory_curve(shift(4), 3).half_life is None


class TestStatesThatAreNotReached:
    def test_they_hold_nothing(self):
        model = StateSpace(np.diag([0.5, 0.3]), [[1.0], [0.0]], np.ones((1, 2)))
        curve = memory_curve(model, 400)
        assert curve.capacity == 1.0
        assert_close(curve.memory.sum(), 1.0)

    def test_noise_beside_the_input_hides_nothing(self):
        model = StateSpace(np.diag([0.5, 0.3]), [[1.0], [0.0]], np.ones((1, 2)))
        curve = memory_curve(model, 3, noise=np.diag([0.0, 1.0]))
        assert np.isinf(curve.fisher).all()
        assert_close(curve.memory, 0.75 * 0.25 ** np.arange(3))
        assert curve.capacity == pytest.approx(1.0)


class TestInnovationsModels:
    @given(model=innovations_models(states=(1, 4), inputs=(1, 2)))
    def test_innovations_are_the_noise_of_one_with_inputs(self, model):
        N = model.K @ model.Re @ model.K.T
        one, other = memory_curve(model, 5), memory_curve(model.deterministic, 5, noise=N)
        assert_close(one.memory, other.memory, "iterative", scale=1.0)
        assert one.capacity <= model.n_states + 1e-9

    def test_one_without_inputs_remembers_its_innovations(self):
        model = InnovationsModel([[0.6]], np.zeros((1, 0)), [[1.0]], K=[[0.3]], Re=[[4.0]])
        assert_close(memory_curve(model, 3).memory, 0.64 * 0.36 ** np.arange(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lags": 0}, ShapeError, "lags=0"),
        ({"lags": [1, 0]}, ShapeError, "each at least 1"),
        ({"lags": 1.5}, ShapeError, "lags=1.5"),
        ({"lags": 3, "noise": [[1.0, 0.0]]}, ShapeError, "noise has shape"),
        ({"lags": 3, "noise": [[-1.0]]}, DataError, "positive semidefinite"),
        ({"lags": 3, "input_covariance": [[0.0]]}, DataError, "positive definite"),
        ({"lags": 3, "input_covariance": [[np.nan]]}, DataError, "NaN"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        memory_curve(StateSpace([[0.5]], [[1.0]], [[1.0]]), **options)


def test_models_that_are_refused():
    with pytest.raises(UnstableError):
        memory_curve(StateSpace([[1.0]], [[1.0]], [[1.0]]), 3)
    with pytest.raises(RealizationError, match="continuous time"):
        memory_curve(StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0), 3)
    with pytest.raises(ShapeError, match="nothing that it could remember"):
        memory_curve(StateSpace([[0.5]], np.zeros((1, 0)), [[1.0]]), 3)
    with pytest.raises(RealizationError, match="is Re"):
        memory_curve(InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]]), 3, input_covariance=[[1.0]])
    with pytest.raises(ShapeError, match="length=-1"):
        memory_curve(shift(2), 3).window(-1)
