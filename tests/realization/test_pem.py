"""Prediction error: right gradients, right optimum, right uncertainty, known entries kept."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import ConvergenceWarning, DataError, ShapeError, UnstableError
from realization.identification.coordinates import LocalCoordinates, orbit_tangent
from realization.identification.search import whitener_of
from realization.identification.sensitivities import (
    Blocks,
    Point,
    Run,
    errors_of,
    normal_equations,
    sensitivities,
)
from tests.oracles.gaussian import output_covariance
from tests.strategies import matrix_with_radius, seeds
from tests.tolerances import assert_close

TRUTH = rz.InnovationsModel(
    [[0.8, 0.4], [-0.4, 0.7]],
    [[1.0, 0.0], [0.5, 1.0]],
    [[1.0, 0.0]],
    [[0.3, 0.0]],
    K=[[0.5], [0.2]],
    Re=[[0.5]],
    u_mean=[1.0, 2.0],
    y_mean=[10.0],
)


def record(T, seed, model=TRUTH):
    rng = np.random.default_rng(seed)
    u = model.u_mean + rng.standard_normal((T, model.n_inputs))
    e = rng.standard_normal((T, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    return rz.IOData(model.simulate(u, e=e), u)


def point_and_record(seed, n, m, p, T=40):
    rng = np.random.default_rng(seed)
    A = matrix_with_radius(rng, n, 0.8)
    point = Point(
        A,
        rng.standard_normal((n, m)),
        rng.standard_normal((p, n)),
        rng.standard_normal((p, m)),
        0.1 * rng.standard_normal((n, p)),
        rng.standard_normal(p),
        rng.standard_normal(n),
    )
    return point, rng.standard_normal((T, m)), rng.standard_normal((T, p))


class TestGradient:
    @pytest.mark.parametrize("blocks", [Blocks(), Blocks(gain=False), Blocks(path=False)])
    @given(n=st.integers(0, 4), m=st.integers(0, 2), p=st.integers(1, 3), seed=seeds)
    def test_sensitivities_are_the_derivatives(self, blocks, n, m, p, seed):
        point, u, y = point_and_record(seed, n, m, p)
        e, states = errors_of(point, u, y)
        J = sensitivities(point, Run(u, e, states), blocks)
        entries, step = point.entries, 1e-6
        for column, place in enumerate(blocks.chosen(point)):
            shift = step * np.eye(1, len(entries), place)[0]
            ahead, behind = (errors_of(point.replaced(entries + s), u, y)[0] for s in (shift, -shift))
            numeric = (behind - ahead) / (2 * step)
            assert_close(J[:, :, column], numeric, "optimum", scale=max(1.0, np.abs(J).max()))

    @given(n=st.integers(1, 4), m=st.integers(0, 2), p=st.integers(1, 3), seed=seeds)
    def test_normal_equations_are_their_products(self, n, m, p, seed):
        point, u, y = point_and_record(seed, n, m, p, T=700)
        e, states = errors_of(point, u, y)
        run = Run(u, e, states)
        W = whitener_of(run)
        H, g = normal_equations(point, run, W, Blocks())
        J = np.einsum("kl,tlq->tkq", W, sensitivities(point, run, Blocks()))
        assert_close(H, np.einsum("tkq,tkr->qr", J, J), "recurrence")
        assert_close(g, np.einsum("tkq,tk->q", J, e @ W.T), "recurrence", scale=np.abs(H).max())


class TestLocalCoordinates:
    @given(n=st.integers(1, 4), m=st.integers(0, 2), p=st.integers(1, 3), seed=seeds)
    def test_along_the_orbit_nothing_changes_and_the_rest_is_orthogonal(self, n, m, p, seed):
        point, u, y = point_and_record(seed, n, m, p)
        e, states = errors_of(point, u, y)
        J = sensitivities(point, Run(u, e, states), Blocks()).reshape(e.size, -1)
        tangent = orbit_tangent(point)
        assert_close(J @ tangent, np.zeros((e.size, n * n)), "iterative", scale=np.abs(J).max())
        slope = LocalCoordinates(np.ones(point.entries.size, dtype=bool)).slope(point)
        assert slope.shape[1] == n * (m + 2 * p) + p * m + p + n
        assert_close(slope.T @ tangent, np.zeros((slope.shape[1], n * n)), scale=10.0)

    def test_the_tangent_is_the_orbits_derivative(self):
        point, _, _ = point_and_record(3, 3, 1, 2)
        X = np.random.default_rng(4).standard_normal((3, 3))

        def turned(size):
            T = scipy.linalg.expm(size * X)
            back = np.linalg.inv(T)
            parts = (T @ point.A @ back, T @ point.B, point.C @ back, point.D, T @ point.K, point.offset)
            return Point(*parts, T @ point.start).entries

        numeric = (turned(1e-5) - turned(-1e-5)) / 2e-5
        assert_close(orbit_tangent(point) @ X.ravel(), numeric, "optimum")


class TestOptimum:
    def test_it_is_the_gaussian_likelihoods(self):
        """At the estimate no nearby model of a time series is more likely, by dense Gaussian algebra."""
        model = rz.InnovationsModel([[0.8]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
        y = model.simulate(e=np.random.default_rng(1).standard_normal((120, 1)))
        found = rz.pem(y, order=1, guard=False, tolerance=1e-7).model

        def least_squares(a, k):
            """Squares of the whitened record, less what a level and a first state explain."""
            covariance = output_covariance(
                np.array([[a]]), np.eye(1), np.array([[k]]), np.eye(1), np.zeros((1, 1)), len(y)
            )
            root = np.linalg.cholesky(covariance)
            basis = np.linalg.solve(root, np.column_stack([np.ones(len(y)), a ** np.arange(len(y))]))
            target = np.linalg.solve(root, y[:, 0])
            return np.sum((target - basis @ np.linalg.lstsq(basis, target)[0]) ** 2)

        a, k = found.A[0, 0], found.K[0, 0] * found.C[0, 0]
        least = least_squares(a, k)
        for step_a, step_k in ((2e-3, 0), (-2e-3, 0), (0, 2e-3), (0, -2e-3)):
            assert least_squares(a + step_a, k + step_k) > least

    @pytest.mark.parametrize("focus", ["prediction", "simulation"])
    def test_it_does_not_depend_on_the_state(self, focus):
        data = record(300, 2)
        start = rz.n4sid(data, 2, feedthrough=True).model
        other = start.similarity_transform([[3.0, 1.0], [-1.0, 0.2]])
        fits = [rz.pem(data, model, focus=focus, tolerance=1e-7) for model in (start, other)]
        assert_close(fits[1].model.impulse_response(20), fits[0].model.impulse_response(20), "optimum")
        bands = [fit.uncertainty.frequency_response([0.3, 1.0]) for fit in fits]
        assert_close(bands[1].covariance, bands[0].covariance, "optimum")
        poles = [fit.uncertainty.poles() for fit in fits]
        assert_close(poles[1].covariance, poles[0].covariance, "optimum")

    def test_it_predicts_its_record_better_than_its_start(self):
        data = record(400, 3)
        for focus in ("prediction", "simulation"):
            fit = rz.pem(data, order=2, focus=focus, guard=False)
            assert fit.converged
            judge = {"prediction": lambda m: m.predict(data), "simulation": None}[focus]
            judge = judge or (lambda m: m.simulate(data.inputs, m.estimate_x0(data)))
            assert rz.fit_percent(data.y, judge(fit.model)) > rz.fit_percent(data.y, judge(fit.start))
        assert not fit.model.K.any()

    def test_records_without_noise_are_exact(self):
        u = np.random.default_rng(4).standard_normal((200, 2))
        silent = rz.StateSpace(TRUTH.A, TRUTH.B, TRUTH.C, TRUTH.D)
        found = rz.pem(rz.IOData(silent.simulate(u), u), order=2).model
        assert_close(found.impulse_response(30), silent.impulse_response(30), "iterative")


class TestUncertainty:
    def test_bands_cover(self):
        omega = np.linspace(0.1, 3.0, 6)
        G, poles = TRUTH.frequency_response(omega), TRUTH.poles
        responses, held = [], []
        for seed in range(40):
            found = rz.pem(record(400, seed), order=2, feedthrough=True, guard=False).uncertainty
            bands, near = found.frequency_response(omega), found.poles()
            responses.append((bands.lower <= np.abs(G)) & (np.abs(G) <= bands.upper))
            held.append(near.covers(poles[np.argmin(np.abs(near.poles[:, None] - poles), axis=1)]))
        assert 0.88 < np.mean(responses) < 0.985
        assert np.mean(held) > 0.88

    def test_the_covariance_is_least_squares_where_the_model_is_linear(self):
        """`A`, `C` known and no gain: only `B` moves, and its covariance is that of a regression."""
        rng = np.random.default_rng(5)
        u = rng.standard_normal((500, 1))
        y = rz.StateSpace([[0.9]], [[0.3]], [[1.0]]).simulate(u) + 0.1 * rng.standard_normal((500, 1))
        guess = rz.InnovationsModel([[0.9]], [[1.0]], [[1.0]])
        fixed = {"A": True, "C": True, "K": True}
        fit = rz.pem(rz.IOData(y, u), guess, fixed=fixed)
        x = rz.StateSpace([[0.9]], [[1.0]], [[1.0]]).simulate(u)
        X = np.column_stack([x, np.ones(500), 0.9 ** np.arange(500)])
        theta, squares, *_ = np.linalg.lstsq(X, y[:, 0])
        error = np.sqrt(squares[0] / 497 * np.linalg.inv(X.T @ X)[0, 0])
        assert_close(fit.model.B[0, 0], theta[0], "optimum")
        assert_close(fit.uncertainty.standard_errors["B"][0, 0], error, "optimum", scale=1.0)
        assert not fit.uncertainty.standard_errors["A"].any()

    def test_coloured_errors_widen_simulation_bands(self):
        rng = np.random.default_rng(6)
        u = np.zeros((2000, 1))
        slow = rz.StateSpace([[0.9]], [[1.0]], [[1.0]])
        u[:, 0] = slow.simulate(rng.standard_normal((2000, 1)))[:, 0]
        errors = []
        for noise in (rng.standard_normal((2000, 1)), 0.44 * slow.simulate(rng.standard_normal((2000, 1)))):
            y = rz.StateSpace([[0.5]], [[1.0]], [[1.0]]).simulate(u) + noise
            fit = rz.pem(rz.IOData(y, u), order=1, focus="simulation", feedthrough=False)
            bands = fit.uncertainty.frequency_response([0.0])
            errors.append(bands.upper - bands.lower)
        assert errors[1] > 2 * errors[0]


class TestGreyBox:
    def test_fixed_entries_stay_and_the_others_are_found(self):
        data = record(3000, 7)
        guess = rz.InnovationsModel(
            [[0.6, 0.4], [-0.4, 0.7]],
            [[0.5, 0.0], [0.2, 0.7]],
            [[1.0, 0.0]],
            [[0.1, 0.0]],
            K=[[0.3], [0.0]],
            Re=[[1.0]],
        )
        fixed = {
            "A": [[False, True], [True, True]],
            "B": [[False, True], [False, False]],
            "C": True,
            "D": [[False, True]],
        }
        fit = rz.pem(data, guess, fixed=fixed)
        for name, mask in fixed.items():
            mask = np.broadcast_to(mask, getattr(guess, name).shape)
            assert_close(getattr(fit.model, name)[mask], getattr(guess, name)[mask], "exact", scale=1.0)
            assert not fit.uncertainty.standard_errors[name][mask].any()
        for name in ("A", "B", "D", "K"):
            error = getattr(fit.model, name) - getattr(TRUTH, name)
            assert (np.abs(error) <= 4 * fit.uncertainty.standard_errors[name] + 1e-9).all(), name

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"fixed": {"A": True}}, DataError, "none came"),
            ({"model": TRUTH, "fixed": {"Q": True}}, DataError, "only A, B, C, D, K"),
            ({"model": TRUTH, "fixed": {"A": [True]}}, ShapeError, "the matrix has"),
            ({"model": TRUTH, "order": 3}, DataError, "give only one"),
            ({"focus": "control"}, DataError, "focus='control'"),
            ({"model": rz.InnovationsModel([[1.5]], [[1.0, 1.0]], [[1.0]])}, UnstableError, "unstable"),
            ({"model": rz.InnovationsModel([[0.5]], [[1.0]], [[1.0]])}, ShapeError, "1 inputs"),
        ],
    )
    def test_refusals(self, options, error, message):
        with pytest.raises(error, match=message):
            rz.pem(record(100, 8), **options)

    def test_too_few_steps_warn(self):
        with pytest.warns(ConvergenceWarning, match="no minimum"):
            assert not rz.pem(record(200, 9), order=2, iterations=0).converged

    def test_a_refinement_that_does_harm_is_refused(self):
        """The level shifts where the guard's part of the record begins: what was learned before is wrong."""
        rng = np.random.default_rng(10)
        truth = rz.InnovationsModel([[0.8]], [[1.0]], [[1.0]], K=[[0.3]], Re=[[0.01]])
        u = rng.standard_normal((200, 1))
        y = truth.simulate(u, e=0.1 * rng.standard_normal((200, 1)))
        y[:150] *= 0.5
        late = rz.pem(rz.IOData(y, u), truth, guard=True)
        assert not late.accepted
        assert_close(late.model.impulse_response(9), truth.impulse_response(9), "exact")
        assert rz.pem(rz.IOData(y, u), truth, guard=False).accepted
