"""`StateSpace` and `InnovationsModel` against plain loops, closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RankError, RealizationError, ShapeError, UnstableError
from realization.filtering import kalman_filter
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.oracles.systems import markov_exact, predict_loop, simulate_loop
from tests.strategies import (
    innovations_models,
    matrix_with_radius,
    seeds,
    stable_gain,
    stable_systems,
    systems,
)
from tests.tolerances import assert_close, assert_same_system

TIME_STEPS = (None, 0.25)


def matrices(model):
    return model.A, model.B, model.C, model.D


def random_record(model, T, seed):
    """Inputs about their mean, and outputs that the model itself need not explain."""
    rng = np.random.default_rng(seed)
    u = model.u_mean + rng.standard_normal((T, model.n_inputs))
    y = model.y_mean + rng.standard_normal((T, model.n_outputs))
    return IOData(y, u, model.dt)


def well_conditioned(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2.0, n) if n else np.eye(0)


class TestStateSpace:
    @given(model=systems(radius=(0.2, 1.1)), T=st.integers(0, 40), seed=seeds)
    def test_simulation_is_the_recurrence(self, model, T, seed):
        rng = np.random.default_rng(seed)
        u, x0 = rng.standard_normal((T, model.n_inputs)), rng.standard_normal(model.n_states)
        assert_close(model.simulate(u, x0), simulate_loop(*matrices(model), u, x0)[0], "recurrence")
        assert_close(model.simulate(u), simulate_loop(*matrices(model), u, 0 * x0)[0], "recurrence")

    @given(seed=seeds, denominator=st.integers(1, 6))
    def test_impulse_response_is_exact_to_rounding(self, seed, denominator):
        rng = np.random.default_rng(seed)
        n, m, p = rng.integers(0, 5), rng.integers(1, 3), rng.integers(1, 3)
        A, B, C, D = (rng.integers(-3, 4, shape) for shape in ((n, n), (n, m), (p, n), (p, m)))
        h = StateSpace(A / denominator, B, C, D).impulse_response(9)
        assert_close(h, markov_exact(A, B, C, D, 9, int(denominator)))

    @given(model=stable_systems(dt=0.25), seed=seeds)
    def test_frequency_response_is_the_sum_of_markov_parameters(self, model, seed):
        omega = np.random.default_rng(seed).uniform(0, np.pi / 0.25, 5)
        count = 800
        h = model.impulse_response(count)
        powers = np.exp(-1j * 0.25 * omega[:, None] * np.arange(count))
        scale = np.abs(h).sum(axis=0).max() + 1
        assert_close(
            model.frequency_response(omega), np.tensordot(powers, h, 1), "recurrence", scale=float(scale)
        )

    def test_frequency_response_in_continuous_time(self):
        omega = np.array([0.0, 1.0, 10.0])
        G = StateSpace([[-2.0]], [[1.0]], [[3.0]], [[0.5]], dt=0.0).frequency_response(omega)
        assert_close(G[:, 0, 0], 3 / (1j * omega + 2) + 0.5)

    @given(model=systems(), seed=seeds)
    def test_similarity_changes_the_state_only(self, model, seed):
        T = well_conditioned(np.random.default_rng(seed), model.n_states)
        moved = model.similarity_transform(T)
        assert_same_system(moved, model, kind="recurrence")
        assert_close(
            np.abs(moved.poles), np.abs(model.poles), "optimum"
        )  # eigenvalues may be ill conditioned

    def test_similarity_moves_the_state_by_the_inverse(self, rng):
        model = StateSpace(np.diag([0.5, 0.2]), np.ones((2, 1)), np.ones((1, 2)))
        T = well_conditioned(rng, 2)
        x0, u = rng.standard_normal(2), rng.standard_normal((7, 1))
        assert_close(model.similarity_transform(T).simulate(u, np.linalg.solve(T, x0)), model.simulate(u, x0))

    def test_similarity_refuses_what_is_no_basis(self):
        model = StateSpace(np.eye(2) / 2, np.ones((2, 1)), np.ones((1, 2)))
        with pytest.raises(RankError, match="singular"):
            model.similarity_transform(np.ones((2, 2)))
        with pytest.raises(ShapeError, match=r"\(2, 2\)"):
            model.similarity_transform(np.eye(3))

    def test_poles_come_largest_first(self):
        rotation = 0.9 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
        A = scipy.linalg.block_diag(0.1, rotation, -0.95)
        poles = StateSpace(A, np.ones((4, 1)), np.ones((1, 4))).poles
        assert_close(np.abs(poles), [0.95, 0.9, 0.9, 0.1])
        assert_close(poles[1], np.conj(poles[2]))

    @pytest.mark.parametrize(
        ("A", "dt", "stable"),
        [(0.99, None, True), (1.0, 0.1, False), (-0.1, 0.0, True), (-1.5, 1.0, False), (0.0, 0.0, False)],
    )
    def test_stability_by_the_kind_of_time(self, A, dt, stable):
        assert StateSpace([[A]], [[1.0]], [[1.0]], dt=dt).is_stable is stable

    def test_no_states_is_a_gain(self):
        D = np.array([[1.0, 2.0]])
        gain = StateSpace(np.empty((0, 0)), np.empty((0, 2)), np.empty((1, 0)), D)
        assert gain.is_stable
        assert gain.poles.shape == (0,)
        assert_close(gain.simulate(np.eye(2)), D.T, "bitwise")
        assert_close(gain.impulse_response(3)[:, 0], [[1, 2], [0, 0], [0, 0]], "bitwise")
        assert_close(gain.frequency_response([0.3])[0], D, "bitwise")
        assert_same_system(gain.similarity_transform(np.eye(0)), gain)
        assert repr(gain) == "StateSpace(order 0, 2 in, 1 out, dt=None, stable)"

    def test_a_model_keeps_its_own_matrices(self):
        A = np.eye(1) / 2
        model = StateSpace(A, [[1]], [[1]])
        A[0] = 9.0
        assert model.A[0, 0] == 0.5
        with pytest.raises(ValueError, match="read-only"):
            model.A[0, 0] = 1.0

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"A": np.ones((2, 3))}, ShapeError, r"A has shape \(2, 3\)"),
            ({"A": np.ones(2)}, ShapeError, "A has shape"),
            ({"B": np.ones((3, 1))}, ShapeError, r"B has shape \(3, 1\); here it must be \(2, 1\)"),
            ({"C": np.ones((1, 3))}, ShapeError, "C has shape"),
            ({"D": np.ones((2, 1))}, ShapeError, "D has shape"),
            ({"A": np.diag([1.0, np.nan])}, DataError, "NaN or infinite"),
            ({"D": [[np.inf]]}, DataError, "NaN or infinite"),
            ({"dt": -1.0}, DataError, "dt=-1.0"),
            ({"dt": np.nan}, DataError, "dt=nan"),
        ],
    )
    def test_what_is_refused(self, change, error, message):
        fine = {"A": np.eye(2) / 2, "B": np.ones((2, 1)), "C": np.ones((1, 2)), "D": np.zeros((1, 1))}
        with pytest.raises(error, match=message):
            StateSpace(**(fine | change))

    def test_inputs_and_states_must_fit(self):
        model = StateSpace(np.eye(2) / 2, np.ones((2, 3)), np.ones((1, 2)))
        with pytest.raises(ShapeError, match="3 inputs needs"):
            model.simulate(np.ones((5, 2)))
        with pytest.raises(ShapeError, match="x0 has shape"):
            model.simulate(np.ones((5, 3)), np.ones(3))

    def test_continuous_time_is_not_stepped(self):
        model = StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0)
        for call in (lambda: model.simulate([1.0]), lambda: model.impulse_response(3)):
            with pytest.raises(RealizationError, match="discretize"):
                call()
        assert "continuous time" in repr(model)


class TestInnovationsModel:
    @pytest.mark.parametrize("dt", TIME_STEPS)
    @given(data=st.data())
    def test_prediction_is_the_brute_force_one(self, dt, data):
        model = data.draw(innovations_models(dt=dt))
        record = random_record(model, data.draw(st.integers(1, 25)), data.draw(seeds))
        horizon = data.draw(st.integers(1, 30))
        x0 = np.random.default_rng(0).standard_normal(model.n_states)
        u, y = record.inputs - model.u_mean, record.y - model.y_mean
        expected = model.y_mean + predict_loop(*matrices(model), model.K, u, y, x0, horizon)
        assert_close(model.predict(record, horizon, x0), expected, "recurrence")

    @given(model=innovations_models(), T=st.integers(1, 20), seed=seeds)
    def test_a_horizon_beyond_the_record_is_simulation(self, model, T, seed):
        record = random_record(model, T, seed)
        x0 = np.random.default_rng(seed).standard_normal(model.n_states)
        assert_close(model.predict(record, T + 3, x0), model.simulate(record.inputs, x0), "recurrence")

    @given(model=innovations_models(), T=st.integers(1, 40), seed=seeds)
    def test_its_own_innovations_give_the_record_back(self, model, T, seed):
        record = random_record(model, T, seed)
        x0 = np.random.default_rng(seed).standard_normal(model.n_states)
        e = record.y - model.predict(record, x0=x0)
        assert_close(model.simulate(record.inputs, x0, e=e), record.y, "recurrence")
        if not model.n_inputs:
            assert_close(model.simulate(x0=x0, e=e), record.y, "recurrence")

    @given(model=innovations_models(), T=st.integers(1, 30), seed=seeds)
    def test_simulation_is_the_recurrence_about_the_mean(self, model, T, seed):
        rng = np.random.default_rng(seed)
        u, e = rng.standard_normal((T, model.n_inputs)), rng.standard_normal((T, model.n_outputs))
        x0 = rng.standard_normal(model.n_states)
        B, D = np.hstack([model.B, model.K]), np.hstack([model.D, np.eye(model.n_outputs)])
        expected, _ = simulate_loop(model.A, B, model.C, D, np.hstack([u - model.u_mean, e]), x0)
        assert_close(model.simulate(u, x0, e=e), model.y_mean + expected, "recurrence")

    @given(model=innovations_models(), seed=seeds)
    def test_similarity_changes_nothing_that_is_seen(self, model, seed):
        rng = np.random.default_rng(seed)
        record, x0 = random_record(model, 20, seed), rng.standard_normal(model.n_states)
        T = well_conditioned(rng, model.n_states)
        moved = model.similarity_transform(T)
        assert_same_system(moved, model, kind="recurrence")
        assert isinstance(moved, InnovationsModel)
        for name in ("Re", "u_mean", "y_mean"):
            assert_close(getattr(moved, name), getattr(model, name), "bitwise")
        moved_x0 = np.linalg.solve(T, x0)
        for horizon in (1, 4):
            expected = model.predict(record, horizon, x0)
            assert_close(moved.predict(record, horizon, moved_x0), expected, "recurrence")

    @given(model=innovations_models(), seed=seeds)
    def test_paths_and_predictor(self, model, seed):
        assert_same_system(model.deterministic, StateSpace(*matrices(model), model.dt))
        rng = np.random.default_rng(seed)
        e = rng.standard_normal((15, model.n_outputs))
        u = np.tile(model.u_mean, (15, 1))
        assert_close(model.noise.simulate(e), model.simulate(u, e=e) - model.y_mean, "recurrence", scale=30.0)
        record = random_record(model, 15, seed)
        joint = np.hstack([record.inputs - model.u_mean, record.y - model.y_mean])
        predicted = model.predict(record, x0=np.zeros(model.n_states))
        assert_close(model.predictor.simulate(joint) + model.y_mean, predicted, "recurrence")

    @pytest.mark.parametrize("focus", ["simulation", "prediction"])
    def test_estimate_x0_finds_the_state(self, focus, rng):
        n, m, p, T = 4, 2, 2, 60
        A, C = matrix_with_radius(rng, n, 0.95), rng.standard_normal((p, n))
        model = InnovationsModel(
            A, rng.standard_normal((n, m)), C, K=stable_gain(A, C), u_mean=[1.0, -2.0], y_mean=[5.0, 7.0]
        )
        u, x0 = rng.standard_normal((T, m)), rng.standard_normal(n)
        record = IOData(model.simulate(u, x0), u)
        assert_close(model.estimate_x0(record, focus=focus), x0, "iterative")

    @pytest.mark.parametrize("focus", ["simulation", "prediction"])
    def test_estimate_x0_is_the_least_squares_state(self, focus, rng):
        n, T = 3, 40
        A, C = matrix_with_radius(rng, n, 0.9), rng.standard_normal((2, n))
        model = InnovationsModel(A, rng.standard_normal((n, 1)), C, K=stable_gain(A, C), y_mean=[1.0, 2.0])
        record = random_record(model, T, seed=5)

        def output(x0):
            if focus == "simulation":
                return model.simulate(record.u, x0).ravel()
            return model.predict(record, x0=x0).ravel()

        zero = output(np.zeros(n))
        basis = np.column_stack([output(column) - zero for column in np.eye(n)])
        weight = np.tile(1 / record.y.std(axis=0), T)
        expected = np.linalg.pinv(basis * weight[:, None]) @ (weight * (record.y.ravel() - zero))
        assert_close(model.estimate_x0(record, focus=focus), expected, "iterative")

    @pytest.mark.parametrize("focus", ["simulation", "prediction"])
    def test_estimate_x0_does_not_depend_on_units(self, focus, rng):
        n, units = 3, np.array([1e5, 1e-3])
        A, C = matrix_with_radius(rng, n, 0.9), rng.standard_normal((2, n))
        B, K = rng.standard_normal((n, 1)), stable_gain(A, C)
        record = random_record(InnovationsModel(A, B, C, K=K), 40, seed=5)
        other = IOData(record.y * units, record.u)
        scaled = InnovationsModel(A, B, C * units[:, None], K=K / units)
        one = InnovationsModel(A, B, C, K=K).estimate_x0(record, focus=focus)
        assert_close(scaled.estimate_x0(other, focus=focus), one, "iterative")

    def test_the_default_start_is_the_estimated_one(self, rng):
        model = InnovationsModel([[0.9]], [[1.0]], [[1.0]], K=[[0.3]])
        record = random_record(model, 30, seed=6)
        x0 = model.estimate_x0(record, focus="prediction")
        for horizon in (1, 3):
            assert_close(model.predict(record, horizon), model.predict(record, horizon, x0), "bitwise")

    def test_estimate_x0_says_when_it_overflows(self):
        model = InnovationsModel([[3.0]], [[1.0]], [[1.0]])
        with np.errstate(all="ignore"), pytest.raises(UnstableError, match="overflows"):
            model.estimate_x0(IOData(np.ones(900), np.ones(900)))

    def test_over_gaps_the_kalman_filter_predicts(self, rng):
        model = InnovationsModel([[0.8]], [[1.0]], [[1.0]], K=[[0.4]])
        y, u = rng.standard_normal((2, 30, 1))
        with pytest.raises(DataError, match=r"predict: 1 outputs of this record are missing.*kalman_filter"):
            model.predict(IOData(np.where(np.arange(30)[:, None] == 7, np.nan, y), u, missing=True))
        x0 = model.estimate_x0(IOData(y, u), focus="prediction")
        again = kalman_filter(model, IOData(y, u), x0=x0, steady=True).outputs
        assert_close(again, model.predict(IOData(y, u)))

    def test_no_states_predicts_the_mean_and_the_gain(self):
        model = InnovationsModel(
            np.empty((0, 0)), np.empty((0, 1)), np.empty((1, 0)), [[2.0]], u_mean=[1.0], y_mean=[10.0]
        )
        record = IOData([0.0, 0.0], [1.0, 2.0])
        for horizon in (1, 5):
            assert_close(model.predict(record, horizon), [[10.0], [12.0]], "bitwise")
        assert model.estimate_x0(record).shape == (0,)

    def test_what_is_left_out_is_neutral(self):
        model = InnovationsModel([[0.5]], np.empty((1, 0)), [[1.0], [2.0]])
        assert_close(model.K, np.zeros((1, 2)), "bitwise")
        assert_close(model.Re, np.eye(2), "bitwise")
        assert model.u_mean.shape == (0,)
        assert_close(model.y_mean, np.zeros(2), "bitwise")

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"K": np.ones((2, 1))}, ShapeError, "K has shape"),
            ({"Re": np.eye(2)}, ShapeError, "Re has shape"),
            ({"u_mean": [1.0, 2.0]}, ShapeError, "u_mean has shape"),
            ({"y_mean": [1.0, 2.0]}, ShapeError, "y_mean has shape"),
            ({"y_mean": [np.nan]}, DataError, "y_mean has entries that are NaN"),
            ({"K": [[np.inf]]}, DataError, "NaN or infinite"),
            ({"Re": [[-1.0]]}, DataError, "positive semidefinite"),
        ],
    )
    def test_what_is_refused(self, change, error, message):
        with pytest.raises(error, match=message):
            InnovationsModel([[0.5]], [[1.0]], [[1.0]], **change)

    def test_an_asymmetric_covariance_is_refused(self):
        with pytest.raises(DataError, match="not symmetric"):
            InnovationsModel([[0.5]], np.empty((1, 0)), [[1.0], [1.0]], Re=np.array([[1.0, 0.5], [0.0, 1.0]]))

    def test_records_must_fit(self):
        model = InnovationsModel([[0.5]], [[1.0]], [[1.0]])
        for wrong in (
            np.ones((5, 1)),
            IOData(np.ones((5, 2)), np.ones(5)),
            IOData(np.ones(5), np.ones((5, 2))),
        ):
            with pytest.raises(ShapeError, match="the record has"):
                model.predict(wrong)
        record = IOData(np.ones(5), np.ones(5))
        with pytest.raises(RealizationError, match="horizon=0"):
            model.predict(record, 0)
        with pytest.raises(ShapeError, match="x0 has shape"):
            model.predict(record, x0=np.ones(2))
        with pytest.raises(RealizationError, match="focus='both'"):
            model.estimate_x0(record, focus="both")

    def test_simulation_needs_what_drives_the_model(self):
        driven = InnovationsModel([[0.5]], [[1.0]], [[1.0]])
        series = InnovationsModel([[0.5]], np.empty((1, 0)), [[1.0]])
        with pytest.raises(ShapeError, match="u is needed"):
            driven.simulate()
        with pytest.raises(ShapeError, match="u is needed"):
            driven.simulate(e=np.ones((3, 1)))
        with pytest.raises(ShapeError, match="innovations e"):
            series.simulate()
        with pytest.raises(ShapeError, match="e has shape"):
            driven.simulate(np.ones((3, 1)), e=np.ones((4, 1)))

    def test_continuous_time_is_not_stepped(self):
        model = InnovationsModel([[-1.0]], [[1.0]], [[1.0]], dt=0.0)
        record = IOData(np.ones(3), np.ones(3))
        for call in (model.predict, model.estimate_x0, lambda record: model.simulate(record.u)):
            with pytest.raises(RealizationError, match="discretize"):
                call(record)
