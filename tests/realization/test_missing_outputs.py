"""Missing outputs inside the estimators: against dense Gaussian conditioning, and against the truth."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import DataError, ExcitationError
from realization.identification.coordinates import LocalCoordinates
from realization.identification.factorization import scale
from realization.identification.gaps import filtered_over_gaps, noise_over_gaps
from realization.identification.likelihood_search import _likelihood, _Problem, _records
from realization.identification.noise import one_step_innovations
from realization.identification.realization import Realization, errors, fits
from realization.identification.sensitivities import Blocks, Point
from tests.oracles.gaussian import conditional, log_density, output_covariance
from tests.strategies import seeds
from tests.tolerances import assert_close

TRUTH = rz.InnovationsModel(
    [[0.8, 0.4], [-0.4, 0.7]],
    [[1.0], [0.5]],
    [[1.0, 0.3]],
    [[0.0]],
    K=[[0.5], [0.2]],
    Re=[[0.04]],
    u_mean=[1.0],
    y_mean=[5.0],
)
TWO = rz.InnovationsModel(
    [[0.7, 0.3], [-0.3, 0.6]],
    [[1.0], [0.4]],
    [[1.0, 0.0], [0.4, 1.0]],
    [[0.0], [0.0]],
    K=[[0.4, 0.1], [0.0, 0.3]],
    Re=[[0.04, 0.02], [0.02, 0.09]],
)


def record(length, share, seed, model=TRUTH, *, rows=False):
    """A simulated record with a share of its outputs taken away, whole samples where `rows`."""
    rng = np.random.default_rng(seed)
    u = 1 + rng.standard_normal((length, 1))
    e = rng.standard_normal((length, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    y = model.simulate(u, x0=[1.0, 2.0], e=e)
    y[
        rng.random((length, 1 if rows else model.n_outputs)).repeat(model.n_outputs if rows else 1, 1) < share
    ] = np.nan
    return rz.IOData(y, u, missing=True)


class TestGapFree:
    @given(seed=seeds, length=st.integers(2, 40), cuts=st.lists(st.integers(1, 39), max_size=3))
    def test_windows_are_those_without_a_gap(self, seed, length, cuts):
        rng = np.random.default_rng(seed)
        y = rng.standard_normal((length, 2))
        y[rng.random((length, 2)) < 0.2] = np.nan
        starts = (0, *sorted({c for c in cuts if c < length}))
        data = rz.IOData(y, np.arange(length), missing=True, starts=starts)
        complete = ~np.isnan(y).any(axis=1)
        if not complete.any():
            with pytest.raises(DataError, match="none of the"):
                rz.gap_free(data)
            return
        found = rz.gap_free(data)
        assert_close(found.u[:, 0], np.flatnonzero(complete).astype(float), "bitwise")
        assert_close(found.y, y[complete], "bitwise")
        windows = {
            tuple(found.u[t : t + 3, 0]) for span in found.spans for t in range(span.start, span.stop - 2)
        }
        expected = {
            (t, t + 1, t + 2)
            for span in data.spans
            for t in range(span.start, span.stop - 2)
            if complete[t : t + 3].all()
        }
        assert windows == expected

    def test_nothing_happens_without_gaps(self):
        data = record(20, 0.0, 0)
        assert rz.gap_free(data) is data

    def test_missing_inputs_are_an_error_that_says_what_to_do(self):
        with pytest.raises(DataError, match=r"hold_inputs=True.*concatenate"):
            rz.IOData([1.0, 2.0], [1.0, np.nan], missing=True)


class TestFilter:
    @pytest.mark.parametrize("model", [TRUTH, TWO], ids=["one output", "two"])
    def test_innovations_are_what_dense_conditioning_leaves(self, model):
        T, p = 14, model.n_outputs
        data = record(T, 0.3, 3, model)
        u, y = data.u - model.u_mean, data.y - model.y_mean
        found = filtered_over_gaps(model.A, model.B, model.C, model.D, model.K, model.Re, u, y)
        mean = model.deterministic.simulate(u, found.x0)
        S = output_covariance(model.A, model.C, model.K, model.Re, np.zeros((2, 2)), T)
        there = ~np.isnan(y)
        for t in range(T):
            past = np.flatnonzero(there[:t].ravel())
            now = np.eye(T * p)[t * p : (t + 1) * p]
            guess, spread = conditional(S, np.eye(T * p)[past], (y - mean).ravel()[past], now)
            expected = np.where(there[t], y[t] - mean[t] - guess, 0.0)
            assert_close(found.e[t], expected, "iterative", scale=1.0)
            assert_close(found.covariances[t], spread, "iterative")

    def test_the_first_state_is_the_best(self):
        data = record(60, 0.3, 4)
        u, y = data.u - 1.0, data.y - 5.0
        matrices = (TRUTH.A, TRUTH.B, TRUTH.C, TRUTH.D, TRUTH.K)
        e, _ = one_step_innovations(*matrices, u, y)
        for x0 in np.random.default_rng(0).standard_normal((20, 2)):
            other = rz.kalman_filter(TRUTH, data, x0=x0, steady=True).innovations
            assert np.nansum(other**2) > (e**2).sum()

    def test_experiments_and_simulation(self):
        parts = [record(40, 0.2, 5), record(30, 0.3, 6)]
        data = rz.IOData.concatenate(parts)
        matrices = (TRUTH.A, TRUTH.B, TRUTH.C, TRUTH.D)
        for K in (TRUTH.K, 0 * TRUTH.K):
            e, x0 = one_step_innovations(*matrices, K, data.u, data.y, data.starts)
            alone = [one_step_innovations(*matrices, K, part.u, part.y) for part in parts]
            assert_close(e, np.vstack([a[0] for a in alone]), "bitwise")
            assert_close(x0, np.stack([a[1] for a in alone]), "bitwise")
        # Without a gain a gap takes nothing but its own rows.
        model = rz.InnovationsModel(*matrices)
        assert_close(np.where(data.observed, data.y - model.simulate(data.u, x0, starts=data.starts), 0.0), e)

    def test_what_overflows_is_no_error(self):
        data = record(400, 0.2, 29)
        one, none = np.ones((1, 1)), np.zeros((1, 1))
        e, _ = one_step_innovations(60 * one, one, one, none, none, data.u, data.y)
        assert np.isinf(e[data.observed]).all()
        # With noise on the state a gap makes it uncertain, and the gain that follows is a stable one.
        e, _ = one_step_innovations(60 * one, one, one, none, one, data.u, data.y)
        assert np.isfinite(e).all()

    def test_errors_and_fits_over_gaps(self):
        data = record(300, 0.3, 7)
        scaled = scale(data, "test")
        unit = (scaled.u_scale, scaled.y_scale)
        found = Realization(
            TRUTH.A, TRUTH.B * unit[0], TRUTH.C / unit[1][:, None], np.zeros((1, 1)), TRUTH.K * unit[1],
            (TRUTH.y_mean - scaled.y_mean) / unit[1], np.zeros(2), False, False,
        )  # fmt: skip
        scaled = scaled._replace(u=(data.u - 1.0) / unit[0])
        simulated, predicted = errors(found, scaled)
        assert not simulated[~data.observed].any()
        assert not predicted[~data.observed].any()
        expected = TRUTH.simulate(data.u, TRUTH.estimate_x0(data))
        measured = data.observed[:, 0]
        fit = rz.fit_percent(data.y[measured], expected[measured])
        assert_close(fits(found, scaled)[0], fit, "iterative")

    def test_the_innovation_covariance_is_found(self):
        for model in (TRUTH, TWO):
            data = record(4000, 0.25, 8, model)
            matrices = (model.A, model.B, model.C, model.D, model.K)
            found = noise_over_gaps(*matrices, data.u - model.u_mean, data.y - model.y_mean, (0,))
            assert np.abs(found - model.Re).max() < 0.006


class TestLikelihood:
    @pytest.mark.parametrize("model", [TRUTH, TWO], ids=["one output", "two"])
    def test_value_and_gradient_are_those_of_the_dense_density(self, model):
        parts = [record(9, 0.3, 9, model), record(7, 0.3, 10, model)]
        scaled = scale(rz.IOData.concatenate(parts), "test")
        rng = np.random.default_rng(0)
        D = 0.3 * rng.standard_normal(model.D.shape)
        level, first = rng.standard_normal(model.n_outputs), rng.standard_normal((2, 2))
        point = Point(model.A, model.B, model.C, D, model.K, level, first)
        Re = model.Re * 10

        def dense(at, covariance):
            total = 0.0
            for span, x0 in zip(scaled.spans, at.start):
                y, T = scaled.y[span], span.stop - span.start
                there = ~np.isnan(y).ravel()
                mean = at.offset + rz.StateSpace(at.A, at.B, at.C, at.D).simulate(scaled.u[span], x0)
                S = output_covariance(at.A, at.C, at.K, covariance, np.zeros((2, 2)), T)
                total -= log_density(S[np.ix_(there, there)], (y - mean).ravel()[there, None])
            return total

        value, gradient, by_Re = _likelihood(point, Re, scaled, _records(scaled))
        assert_close(value, dense(point, Re), "iterative")
        entries, step = point.entries, 1e-6
        numeric = [
            (dense(point.replaced(entries + s), Re) - dense(point.replaced(entries - s), Re)) / (2 * step)
            for s in step * np.eye(len(entries))
        ]
        assert_close(gradient, numeric, "optimum", scale=np.abs(numeric).max())
        turn = np.array([[0.3]]) if len(Re) == 1 else np.array([[0.3, 0.1], [0.1, -0.2]])
        along = (dense(point, Re + step * turn) - dense(point, Re - step * turn)) / (2 * step)
        assert_close(np.sum(by_Re * turn), along, "optimum", scale=max(1.0, abs(along)))

    def test_the_gradient_in_the_search_s_own_variables(self):
        data = record(60, 0.3, 11, TWO)
        from realization.identification.uncertainty import scaled_point

        scaled, point = scaled_point(TWO, data, "test", silent=False)
        free = np.ones(point.entries.size, dtype=bool)
        free[point.places["D"]] = False
        problem = _Problem(point, 0.3 * np.eye(2), LocalCoordinates(free), scaled, Blocks())
        z = 0.1 * np.random.default_rng(0).standard_normal(len(problem.origin))
        here = problem.at(z, lambda _: True)
        numeric = []
        for shift in 1e-5 * np.eye(len(z)):
            ahead, behind = (problem.at(z + s, lambda _: True).loss for s in (shift, -shift))
            numeric.append((ahead - behind) / 2e-5)
        assert_close(here.gradient, numeric, "optimum", scale=np.abs(numeric).max())


class TestPem:
    @pytest.mark.parametrize("share", [0.1, 0.3])
    @pytest.mark.parametrize("focus", ["prediction", "simulation"])
    def test_the_truth_lies_within_its_stated_covariance(self, share, focus):
        omega = np.array([0.1, 0.5, 1.5])
        truth = np.array([
            (TRUTH.C @ np.linalg.solve(np.exp(1j * w) * np.eye(2) - TRUTH.A, TRUTH.B))[0, 0] for w in omega
        ])  # fmt: skip
        distances = []
        for seed in range(4):
            fit = rz.pem(record(600, share, 20 + seed), order=2, focus=focus)
            bands = fit.uncertainty.frequency_response(omega)
            apart = bands.response[:, 0, 0] - truth
            d = np.stack([apart.real, apart.imag], axis=1)
            distances += [x @ np.linalg.solve(S, x) for x, S in zip(d, bands.covariance[:, 0, 0])]
            assert np.abs(apart).max() < 0.1 * np.abs(truth).max()
        # Chi-squared with two degrees of freedom: 99.9 % lie below 13.8, the mean is 2.
        assert max(distances) < 13.8
        assert np.mean(distances) < 5

    def test_nothing_nearby_is_more_likely(self):
        data = record(80, 0.25, 14)
        fit = rz.pem(data, order=2, guard=False, tolerance=1e-5, iterations=200)
        assert fit.converged
        model = fit.model

        def dense(A, B, C, K, Re):
            mean = rz.InnovationsModel(A, B, C, u_mean=model.u_mean, y_mean=model.y_mean).simulate(
                data.u, fit.x0
            )
            there = data.observed.ravel()
            S = output_covariance(A, C, K, Re, np.zeros((2, 2)), data.length)
            return log_density(S[np.ix_(there, there)], (data.y - mean).ravel()[there, None])

        parts = [model.A, model.B, model.C, model.K, model.Re]
        best = dense(*parts)
        assert_close(best, rz.kalman_filter(model, data, x0=fit.x0, steady=True).log_likelihood, "iterative")
        rng = np.random.default_rng(0)
        for _ in range(40):
            moved = [part * (1 + 1e-3 * rng.standard_normal(part.shape)) for part in parts]
            assert dense(*moved) < best + 1e-6

    def test_one_gap_in_a_long_record_changes_next_to_nothing(self):
        whole = record(600, 0.0, 13)
        y = whole.y.copy()
        y[300] = np.nan
        fits_ = [rz.pem(d, order=2) for d in (whole, rz.IOData(y, whole.u, missing=True))]
        one, other = (f.uncertainty.frequency_response([0.1, 1.0]) for f in fits_)
        assert np.abs(one.response - other.response).max() < 0.1 * np.sqrt(one.covariance.max())
        assert_close(other.covariance, one.covariance, "optimum", scale=1e5 * one.covariance.max())
        assert np.abs(fits_[0].model.Re - fits_[1].model.Re).max() < 0.001

    def test_single_outputs_may_be_missing_of_two(self):
        data = record(1200, 0.25, 14, TWO)
        fit = rz.pem(data, order=2)
        assert np.linalg.norm(fit.model.impulse_response(15) - TWO.impulse_response(15)) < 0.1
        assert np.abs(fit.model.Re - TWO.Re).max() < 0.012
        assert np.abs(fit.model.noise.impulse_response(8) - TWO.noise.impulse_response(8)).max() < 0.15

    def test_gaps_in_several_experiments(self):
        data = rz.IOData.concatenate([record(250, 0.2, 15), record(200, 0.3, 16), record(300, 0.0, 17)])
        fit = rz.pem(data, order=2)
        assert fit.x0.shape == (3, 2)
        assert np.linalg.norm(fit.model.impulse_response(15) - TRUTH.impulse_response(15)) < 0.1
        again = rz.pem(rz.IOData.concatenate(data.experiments[::-1]), order=2)
        assert_close(again.model.impulse_response(15), fit.model.impulse_response(15), "optimum", scale=1e3)

    def test_half_of_all_samples_missing_leave_no_window_and_are_enough(self):
        data = record(800, 0.5, 18)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = rz.pem(data, order=2)
        assert np.linalg.norm(fit.model.impulse_response(15) - TRUTH.impulse_response(15)) < 0.2

    def test_every_third_sample(self):
        """No two neighbours were measured together: straight lines are what there is to begin with."""
        whole = record(900, 0.0, 19)
        thinned = np.where((np.arange(900) % 3 == 0)[:, None], whole.y, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = rz.pem(rz.IOData(thinned, whole.u, missing=True), order=2)
        assert np.linalg.norm(fit.model.impulse_response(15) - TRUTH.impulse_response(15)) < 0.2

    def test_too_little_is_said(self):
        with pytest.raises(ExcitationError, match="Give `model`"):
            rz.pem(record(12, 0.5, 28), order=4)


class TestOtherEstimators:
    def test_arx_leaves_out_rows_with_a_gap(self):
        data = record(200, 0.15, 21)
        model = rz.arx(data, na=2, nb=2, stable=False).model
        y, u = data.y[:, 0], data.u[:, 0]
        rows = [
            [y[t - 1], y[t - 2], u[t - 1], u[t - 2], 1.0]
            for t in range(2, 200)
            if np.isfinite(y[t - 2 : t + 1]).all()
        ]
        targets = [y[t] for t in range(2, 200) if np.isfinite(y[t - 2 : t + 1]).all()]
        theta = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
        h = model.impulse_response(3)[:, 0, 0]
        assert_close(h[1:], [theta[2], theta[3] + theta[0] * theta[2]], "iterative")
        assert_close(model.noise.impulse_response(2)[1, 0, 0], theta[0], "iterative")

    @pytest.mark.parametrize(
        "method",
        [
            lambda d: rz.n4sid(d, 2).model,
            lambda d: rz.moesp(d).model,
            lambda d: rz.ssarx(d, 2).model,
            lambda d: rz.pbsid(d, 2).model,
            lambda d: rz.subspace_orders(d, [2]).models[2],
            lambda d: rz.arx(d).model,
        ],
        ids=["n4sid", "moesp", "ssarx", "pbsid", "orders", "arx"],
    )
    def test_linear_methods_take_the_stretches_without_gaps(self, method):
        data = record(600, 0.03, 22)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one, other = method(data), method(rz.gap_free(data))
        assert_close(one.impulse_response(10), other.impulse_response(10), "bitwise")

    def test_taps_need_the_inputs_alone(self):
        data = record(400, 0.5, 23)
        found = rz.regularized_fir(data, 25)
        h = TRUTH.impulse_response(25)
        assert np.linalg.norm(found.impulse_response - h) < 0.15 * np.linalg.norm(h)

    @pytest.mark.parametrize("kind", ["armax", "oe", "bj"])
    def test_polynomial_models(self, kind):
        data = record(900, 0.25, 24)
        fit = {
            "armax": lambda: rz.armax(data, 2, 2, 2),
            "oe": lambda: rz.oe(data, 2, 2),
            "bj": lambda: rz.bj(data, 2, 2, 2, 2),
        }[kind]()
        name = "a" if kind == "armax" else "f"
        found, spread = getattr(fit, name), fit.standard_errors[name]
        found, spread = (found, spread) if kind == "armax" else (found[0], spread[0])
        truth = np.poly(TRUTH.A)
        assert np.abs((found - truth)[1:] / spread[1:]).max() < 4
        assert spread.max() < 0.1

    def test_uncertainty_of_a_given_model(self):
        data = record(700, 0.2, 25)
        fit = rz.pem(data, order=2)
        again = rz.uncertainty(fit.model, data).frequency_response([0.3]).covariance
        assert_close(again, fit.uncertainty.frequency_response([0.3]).covariance, "optimum", scale=2e4)

    def test_residuals(self):
        data = record(1500, 0.25, 26)
        tests = rz.residual_tests(TRUTH, data)
        assert tests.whiteness.p_value > 0.01
        assert tests.dynamics[0, 0] > 0.01
        assert (np.isnan(tests.residuals) == ~data.observed).all()
        # After a gap errors are larger, and are brought to the size of the others.
        assert abs(np.nanvar(tests.residuals) / TRUTH.Re[0, 0] - 1) < 0.15
        slow = rz.InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.1]], Re=[[0.3]], u_mean=[1], y_mean=[5])
        assert rz.residual_tests(slow, data).dynamics[0, 0] < 1e-6

    def test_methods_that_need_every_sample_still_say_so(self):
        data = record(100, 0.1, 27)
        for call in (TRUTH.predict, rz.frequency_subspace):
            with pytest.raises(DataError, match="missing"):
                call(data)
