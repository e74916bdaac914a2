"""Several experiments in one record, inside the estimators: nothing crosses a boundary, nothing is lost."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import ConvergenceWarning, ExcitationError, ExcitationWarning, ShapeError
from realization.identification import factorization as rooms
from realization.identification.arx import lagged_regressors, later_rows
from realization.identification.factorization import factorize, hankel_gram, most_block_rows, scale
from realization.identification.noise import first_state_prior, one_step_innovations
from realization.identification.realization import part
from realization.identification.reduction import Balanced
from realization.identification.refinement import refine
from realization.identification.regression import FirstState, input_path
from realization.identification.sensitivities import (
    Blocks,
    Point,
    Run,
    errors_of,
    normal_equations,
    sensitivities,
)
from realization.systems.responses import free_response
from tests.strategies import seeds
from tests.tolerances import assert_close

PLANT = rz.StateSpace(
    [[0.8, 0.4, 0.0], [-0.4, 0.7, 0.2], [0.0, 0.0, -0.5]],
    [[1.0, 0.0], [0.5, -1.0], [0.3, 0.6]],
    [[1.0, -0.5, 0.4], [0.2, 1.0, 1.0]],
    [[0.0, 0.3], [0.2, 0.0]],
)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def experiments(lengths, *, noise=0.0, seed=0, outputs=2):
    """Of one plant, from different first states and at different levels of the inputs."""
    rng = np.random.default_rng(seed)
    parts = []
    for k, length in enumerate(lengths):
        u = 2.0 * (k % 3) - 1 + rng.standard_normal((length, 2))
        y = 5 + PLANT.simulate(u, x0=5 * rng.standard_normal(3)) + noise * rng.standard_normal((length, 2))
        parts.append(rz.IOData(y[:, :outputs], u))
    return parts


def joint(lengths, **options):
    return rz.IOData.concatenate(experiments(lengths, **options))


METHODS = {
    "n4sid": lambda d: rz.n4sid(d, 3, weighting="n4sid").model,
    "cva, order chosen": lambda d: rz.cva(d).model,
    "moesp": lambda d: rz.moesp(d, 3).model,
    "prediction": lambda d: rz.n4sid(d, 3, focus="prediction").model,
    "all orders": lambda d: rz.subspace_orders(d, [2, 3]).models[3],
    "ssarx": lambda d: rz.ssarx(d, 3, feedthrough=True).model,
    "pbsid": lambda d: rz.pbsid(d, 3, feedthrough=True).model,
    "arx": lambda d: rz.arx(d, na=3, nb=4, nk=0).model,
    "pem": lambda d: rz.pem(d, order=3).model,
    "pem, simulation": lambda d: rz.pem(d, order=3, focus="simulation").model,
}
POLYNOMIALS = {
    "armax": lambda d: rz.armax(d, 3, 4, 2, nk=0).model,
    "oe": lambda d: rz.oe(d, 4, 3, nk=0).model,
    "bj": lambda d: rz.bj(d, 4, 1, 1, 3, nk=0).model,
}


class TestExactRecords:
    @pytest.mark.parametrize("lengths", [[300, 200], [70, 55, 90], [60] * 8])
    @pytest.mark.parametrize("method", METHODS)
    def test_each_method_finds_the_system(self, method, lengths):
        model = METHODS[method](joint(lengths))
        assert_close(model.impulse_response(30), PLANT.impulse_response(30), "iterative")

    @pytest.mark.parametrize("weighting", ["cva", "n4sid", "moesp"])
    def test_experiments_too_short_alone_are_enough_together(self, weighting):
        parts = experiments([40] * 5)
        for alone in parts:
            with pytest.raises(ExcitationError, match="at least 80 samples"):
                rz.n4sid(alone, 3, block_rows=8, weighting=weighting)
        model = rz.n4sid(rz.IOData.concatenate(parts), 3, block_rows=8, weighting=weighting).model
        assert_close(model.impulse_response(30), PLANT.impulse_response(30), "iterative")

    @pytest.mark.parametrize("inputs", [True, False])
    def test_no_states_and_no_inputs(self, inputs):
        rng = np.random.default_rng(3)
        parts = [
            rz.IOData(rng.standard_normal(n), rng.standard_normal(n) if inputs else None) for n in (90, 80)
        ]
        data = rz.IOData.concatenate(parts)
        for fit in (rz.n4sid(data, 0), rz.pem(data, order=0)):
            assert fit.x0.shape == (2, 0)
            assert fit.model.predict(data).shape == (170, 1)
        assert rz.n4sid(data, 2, offset=False, focus="prediction").x0.shape == (2, 2)

    def test_operating_point_and_first_states_are_found_too(self):
        data = joint([80, 120, 60])
        model = rz.n4sid(data, 3).model
        x0 = model.estimate_x0(data)
        assert x0.shape == (3, 3)
        assert_close(model.simulate(data.u, x0, starts=data.starts), data.y, "iterative")
        assert_close(model.predict(data), data.y, "iterative")

    @pytest.mark.parametrize("kind", ["armax", "oe", "bj"])
    def test_polynomial_models(self, kind):
        rng = np.random.default_rng(1)
        plant = rz.StateSpace([[1.2, -0.6], [1.0, 0.0]], [[1.0], [0.0]], [[1.0, 0.5]])
        us = [k + rng.standard_normal((length, 1)) for k, length in enumerate((120, 80, 100))]
        parts = [
            rz.IOData(
                plant.simulate(u, x0=3 * rng.standard_normal(2)) + 1e-4 * rng.standard_normal(u.shape), u
            )
            for u in us
        ]
        data = rz.IOData.concatenate(parts)
        fit = {
            "armax": lambda d: rz.armax(d, 2, 2, 2),
            "oe": lambda d: rz.oe(d, 2, 2),
            "bj": lambda d: rz.bj(d, 2, 0, 0, 2),
        }[kind](data)
        denominator = fit.a if kind == "armax" else fit.f[0]
        assert np.abs(denominator - [1.0, -1.2, 0.6]).max() < 1e-3
        assert np.abs(fit.b[0] - [0.0, 1.0, 0.5]).max() < 1e-3

    def test_impulse_response_of_taps_alone(self):
        rng = np.random.default_rng(2)
        h = np.array([0.5, -1.0, 0.3, 0.2])
        spoilt = []
        for length in (3, 40, 1, 60):
            u = rng.standard_normal(length)
            y = 3 + np.convolve(u, h)[:length]
            # Rows that do not have all inputs before them count nothing, whatever is in them.
            y[:3] = 100 * rng.standard_normal(min(3, length))
            spoilt.append(rz.IOData(y, u))
        found = rz.regularized_fir(rz.IOData.concatenate(spoilt), 4).impulse_response[:, 0, 0]
        assert np.abs(found - h).max() < 1e-3


class TestOrderOfExperiments:
    @pytest.mark.parametrize("method", METHODS)
    def test_it_does_not_matter(self, method):
        parts = experiments([150, 90, 120, 60], noise=0.2, seed=3)
        h = [
            METHODS[method](rz.IOData.concatenate(order)).impulse_response(20)
            for order in (parts, parts[::-1])
        ]
        assert_close(h[1], h[0], "optimum" if method.startswith("pem") else "iterative")

    @pytest.mark.parametrize("kind", ["armax", "oe"])
    def test_nor_to_polynomials(self, kind):
        parts = experiments([150, 90, 120, 60], noise=0.2, seed=3, outputs=1)
        h = [
            POLYNOMIALS[kind](rz.IOData.concatenate(order)).impulse_response(20)
            for order in (parts, parts[::-1])
        ]
        assert_close(h[1], h[0], "optimum", scale=100.0)

    def test_nor_to_uncertainty_and_residuals(self):
        parts = experiments([150, 90, 120], noise=0.2, seed=4)
        model = rz.n4sid(rz.IOData.concatenate(parts), 3).model
        for focus in ("prediction", "simulation"):
            one, other = (
                rz.uncertainty(model, rz.IOData.concatenate(order), focus=focus)
                for order in (parts, parts[::-1])
            )
            bands = [u.frequency_response([0.1, 1.0]).upper for u in (one, other)]
            assert_close(bands[1], bands[0], "iterative")
        forward, backward = (
            rz.residual_tests(model, rz.IOData.concatenate(order)).residuals for order in (parts, parts[::-1])
        )
        assert_close(backward[:120], forward[240:], "iterative")


class TestPieces:
    @given(lengths=st.lists(st.integers(2, 90), min_size=1, max_size=4), rows=st.integers(1, 4), seed=seeds)
    def test_windows_are_those_of_each_experiment(self, lengths, rows, seed):
        rng = np.random.default_rng(seed)
        data = rz.IOData.concatenate([
            rz.IOData(rng.standard_normal((n, 1)), rng.standard_normal((n, 1))) for n in lengths
        ])  # fmt: skip
        scaled = scale(data, "test")
        z = np.hstack([scaled.u, scaled.y])
        begins = [t for span in data.spans for t in range(span.start, span.stop - 2 * rows + 1)]
        H = np.array([z[t : t + 2 * rows].ravel() for t in begins]).reshape(-1, 4 * rows)
        if len(H) <= 4 * rows:
            with pytest.raises(ExcitationError, match="supports"):
                factorize(scaled, rows, "test")
            return
        H = H - H.mean(axis=0)
        assert_close(hankel_gram(scaled, rows), H.T @ H, "recurrence")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = factorize(scaled, rows, "test")
        assert found.columns == len(H)
        index = np.arange(4 * rows).reshape(2 * rows, 2)
        order = [*index[rows:, 0], *index[:rows, 0], *index[:rows, 1], *index[rows:, 1]]
        for R in (found.R, rooms._orthogonal_factor(scaled, rows)):
            assert_close(R.T @ R, (H.T @ H)[np.ix_(order, order)], "iterative")

    @given(lengths=LENGTHS, channels=st.integers(1, 4), ratio=st.integers(1, 2))
    def test_most_block_rows(self, lengths, channels, ratio):
        def enough(i):
            return sum(max(0, n - 2 * i) for n in lengths) >= 2 * ratio * i * channels

        found = most_block_rows(lengths, channels, ratio)
        assert enough(found)
        assert not any(enough(i) for i in range(found + 1, 50))
        assert most_block_rows([sum(lengths)], channels, ratio) == sum(lengths) // (2 + 2 * ratio * channels)

    @given(seed=seeds, lengths=LENGTHS, lags=st.integers(1, 3), delay=st.integers(0, 2))
    def test_rows_of_a_regression_stay_in_their_experiment(self, seed, lengths, lags, delay):
        rng = np.random.default_rng(seed)
        data = rz.IOData.concatenate([
            rz.IOData(rng.standard_normal((n + 4, 2)), rng.standard_normal((n + 4, 1))) for n in lengths
        ])  # fmt: skip
        scaled = scale(data, "test")
        start = max(lags, delay + lags - 1)
        expected, targets = [], []
        for span in scaled.spans:
            for t in range(span.start + start, span.stop):
                past = [scaled.y[t - k] for k in range(1, lags + 1)]
                past += [scaled.u[t - k] for k in range(delay, delay + lags)]
                expected.append(np.concatenate(past))
                targets.append(scaled.y[t])
        assert_close(
            lagged_regressors(scaled, lags, lags, delay, start),
            np.array(expected).reshape(-1, 3 * lags),
            "bitwise",
        )
        assert_close(later_rows(scaled, scaled.y, start), np.array(targets).reshape(-1, 2), "bitwise")

    def test_arx_is_least_squares_over_all_rows(self):
        data = joint([30, 3, 50, 1, 20], noise=0.5, seed=5)
        with pytest.warns(ExcitationWarning, match=r"2 of 5 experiments \(4 of 104 samples\)"):
            model = rz.arx(data, na=2, nb=4, nk=0, stable=False).model
        rows, targets = [], []
        for span in data.spans:
            for t in range(span.start + 3, span.stop):
                past = [data.y[t - 1], data.y[t - 2], *(data.u[t - k] for k in range(4)), [1.0]]
                rows.append(np.concatenate(past))
                targets.append(data.y[t])
        theta = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0].T
        # One step from a known past: two samples of outputs are all that the model remembers of them.
        alone = data[55:75]
        predicted = model.predict(alone)[8:]
        expected = [
            theta
            @ np.concatenate([alone.y[t - 1], alone.y[t - 2], *(alone.u[t - k] for k in range(4)), [1.0]])
            for t in range(8, alone.length)
        ]
        assert_close(predicted, expected, "iterative")

    @given(seed=seeds, lengths=LENGTHS)
    def test_innovations_are_those_of_each_experiment_by_itself(self, seed, lengths):
        data = joint(lengths, noise=0.3, seed=seed)
        K = np.array([[0.3, 0.0], [0.0, 0.2], [0.1, 0.1]])
        matrices = (PLANT.A, PLANT.B, PLANT.C, PLANT.D, K)
        e, x0 = one_step_innovations(*matrices, data.u, data.y, data.starts)
        for k, span in enumerate(data.spans):
            alone, first = one_step_innovations(*matrices, data.u[span], data.y[span])
            assert_close(e[span], alone, "bitwise")
            assert_close(np.atleast_2d(x0)[k], first, "bitwise")

    def test_a_part_cuts_experiments(self):
        scaled = scale(joint([10, 20, 15], noise=0.1), "test")
        cut = part(scaled, 5, 33)
        assert (cut.starts, cut.lengths) == ((0, 5, 25), (5, 20, 3))

    @pytest.mark.parametrize("direct", [False, True])
    def test_linear_least_squares_for_inputs_and_first_states(self, direct):
        data = joint([25, 1, 40, 2], noise=0.2, seed=6)
        A, C, p, m, n = PLANT.A, PLANT.C, 2, 2, 3
        constant = np.broadcast_to(np.eye(p), (data.length, p, p))
        found = input_path(A, C, data.u, data.y, feedthrough=direct, constant=constant, starts=data.starts)

        def response(theta):
            """All outputs for all unknowns in one vector, by the model's own simulation."""
            B, rest = theta[: n * m].reshape(n, m), theta[n * m :]
            x0, rest = rest[: 4 * n].reshape(4, n), rest[4 * n :]
            D = rest[p:].reshape(p, m) if direct else np.zeros((p, m))
            model = rz.InnovationsModel(A, B, C, D, y_mean=rest[:p])
            return model.simulate(data.u, x0, starts=data.starts).ravel()

        count = n * m + 4 * n + p + p * m * direct
        design = np.column_stack([response(unit) for unit in np.eye(count)])
        theta = np.linalg.lstsq(design, data.y.ravel(), rcond=None)[0]
        expected = ((data.y.ravel() - design @ theta) ** 2).reshape(-1, p).sum(axis=0)
        assert_close(found.squares, expected, "iterative")
        assert_close(found.B, theta[: n * m].reshape(n, m), "iterative")
        assert found.x0.shape == (4, n)
        assert_close(found.offset, theta[n * m + 4 * n :][:p], "iterative")

    @given(seed=seeds, lengths=LENGTHS, n=st.integers(1, 3))
    def test_sensitivities_are_the_derivatives(self, seed, lengths, n):
        rng = np.random.default_rng(seed)
        T, starts = sum(lengths), tuple(np.cumsum([0, *lengths[:-1]]).tolist())
        point = Point(
            0.5 * rng.standard_normal((n, n)),
            rng.standard_normal((n, 1)),
            rng.standard_normal((2, n)),
            rng.standard_normal((2, 1)),
            0.1 * rng.standard_normal((n, 2)),
            rng.standard_normal(2),
            rng.standard_normal((len(lengths), n)),
        )
        u, y = rng.standard_normal((T, 1)), rng.standard_normal((T, 2))
        e, states = errors_of(point, u, y, starts)
        run = Run(u, e, states, starts)
        J = sensitivities(point, run, Blocks())
        entries, step = point.entries, 1e-6
        for column in range(len(entries)):
            shift = step * np.eye(1, len(entries), column)[0]
            ahead, behind = (errors_of(point.replaced(entries + s), u, y, starts)[0] for s in (shift, -shift))
            numeric = (behind - ahead) / (2 * step)
            assert_close(J[:, :, column], numeric, "optimum", scale=max(1.0, np.abs(J).max()))
        H, g = normal_equations(point, run, np.eye(2), Blocks())
        assert_close(H, np.einsum("tkq,tkr->qr", J, J), "recurrence")
        assert_close(g, np.einsum("tkq,tk->q", J, e), "recurrence", scale=np.abs(H).max())

    def test_refinement_and_balancing_know_of_boundaries(self):
        data = joint([90, 60, 75], noise=0.3, seed=7)
        scaled = scale(data, "test")
        start = rz.n4sid(data, 3)
        found = METHODS["n4sid"](data)
        assert found.n_states == start.order == 3
        from realization.identification.matrices import realize

        base = realize(
            scaled, factorize(scaled, 10, "test"), 3, weighting="cva", feedthrough=True, focus="prediction",
            offset=True, stable=True, caller="test",
        )  # fmt: skip
        assert base.x0.shape == (3, 3)
        refined = refine(base, scaled, "prediction")
        e = [
            one_step_innovations(*f[:5], scaled.u, scaled.y - f.offset, scaled.starts)[0]
            for f in (base, refined)
        ]
        assert np.linalg.slogdet(e[1].T @ e[1])[1] < np.linalg.slogdet(e[0].T @ e[0])[1]
        reach = Balanced(refined, scaled)
        assert reach.truncated(2).x0.shape == (3, 2)

    def test_the_same_experiment_twice_halves_the_covariance(self):
        (alone,) = experiments([200], noise=0.2, seed=8)
        model = rz.n4sid(alone, 3).model
        twice = rz.IOData.concatenate([alone, alone])
        one, two = (rz.uncertainty(model, d).frequency_response([0.2]).covariance for d in (alone, twice))
        entries = 3 * (2 + 4) + 4 + 2  # free directions of the matrices, the level; and first states
        freedom = [(400 - entries - 3) / 400, (800 - entries - 6) / 800]
        assert_close(two * freedom[1], one * freedom[0] / 2, "optimum")


class TestProbableFirstStates:
    """Many states cannot explain short experiments by themselves."""

    MODEL = (PLANT.A, PLANT.B, PLANT.C, PLANT.D, np.zeros((3, 2)))

    def test_most_probable_is_the_posterior_mean(self):
        data = joint([7, 4], noise=0.3, seed=12)
        prior = FirstState(np.random.default_rng(0).standard_normal((3, 3)), np.array([0.3, 0.5]))
        _, x0 = one_step_innovations(*self.MODEL, data.u, data.y - 5, data.starts, prior)
        for span, found in zip(data.spans, x0):
            free = free_response(PLANT.A, PLANT.C, span.stop - span.start).reshape(-1, 3)
            e = (data.y[span] - 5 - PLANT.simulate(data.u[span])).ravel()
            R = np.diag(np.tile(prior.noise**2, len(e) // 2))
            P = prior.root @ prior.root.T
            expected = P @ free.T @ np.linalg.solve(free @ P @ free.T + R, e)
            assert_close(found, expected, "iterative")

    def test_what_a_record_tells_of_its_errors(self):
        data = joint([5] * 150, noise=0.3, seed=13)
        prior = first_state_prior(*self.MODEL, data.u, data.y - 5, data.starts)
        assert np.abs(prior.noise - 0.3).max() < 0.03
        # Free first states spend three of ten values.
        e, _ = one_step_innovations(*self.MODEL, data.u, data.y - 5, data.starts)
        assert np.sqrt((e**2).mean()) < 0.27

    def test_many_states_do_not_explain_short_experiments(self):
        rng = np.random.default_rng(0)
        A = rng.standard_normal((40, 40))
        A *= 0.9 / np.abs(np.linalg.eigvals(A)).max()
        wrong = (A, np.zeros((40, 2)), rng.standard_normal((2, 40)), np.zeros((2, 2)), np.zeros((40, 2)))
        data = joint([15] * 20, noise=0.3, seed=16)
        y = data.y - data.y.mean(axis=0)
        prior = first_state_prior(*wrong, data.u, y, data.starts)
        probable, free = (one_step_innovations(*wrong, data.u, y, data.starts, p)[0] for p in (prior, None))
        assert np.linalg.norm(free) < 1e-6 * np.linalg.norm(y)
        assert np.linalg.norm(probable) > 0.5 * np.linalg.norm(y)

    def test_the_noise_of_short_experiments_is_not_explained_away(self):
        data = joint([6] * 120, noise=0.3, seed=17)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = rz.arx(data, na=3, nb=4, nk=0).model
        assert model.n_states == 6
        # Six states and six samples of two outputs: half of all values would go for first states.
        assert np.linalg.eigvalsh(model.Re)[0] > 0.03
        assert np.linalg.eigvalsh(model.Re)[1] < 1.0

    def test_in_a_long_experiment_it_makes_no_difference(self):
        data = joint([2000], noise=0.3, seed=14)
        prior = first_state_prior(*self.MODEL, data.u, data.y - 5)
        one, other = (
            one_step_innovations(*self.MODEL, data.u, data.y - 5, prior=p)[0] for p in (None, prior)
        )
        assert abs(np.linalg.norm(other) / np.linalg.norm(one) - 1) < 1e-3

    def test_over_gaps(self):
        data = joint([200, 100], noise=0.3, seed=15)
        y = np.where(np.random.default_rng(0).random(data.y.shape) < 0.2, np.nan, data.y - 5)
        K = 0.1 * np.ones((3, 2))
        prior = first_state_prior(*self.MODEL[:4], K, data.u, y, data.starts)
        e, x0 = one_step_innovations(*self.MODEL[:4], K, data.u, y, data.starts, prior)
        free, _ = one_step_innovations(*self.MODEL[:4], K, data.u, y, data.starts)
        assert x0.shape == (2, 3)
        assert (e**2).sum() >= (free**2).sum() * (1 - 1e-12)
        assert (e**2).sum() < 1.05 * (free**2).sum()


class TestModels:
    @pytest.mark.parametrize("horizon", [1, 4])
    def test_each_experiment_is_predicted_by_itself(self, horizon):
        parts = experiments([30, 2, 25], noise=0.3, seed=9)
        data = rz.IOData.concatenate(parts)
        model = rz.InnovationsModel(
            PLANT.A, PLANT.B, PLANT.C, PLANT.D, K=0.2 * np.ones((3, 2)), y_mean=[5, 5]
        )
        assert_close(
            model.predict(data, horizon), np.vstack([model.predict(p, horizon) for p in parts]), "bitwise"
        )
        x0 = model.estimate_x0(data)
        assert_close(x0, np.stack([model.estimate_x0(p) for p in parts]), "bitwise")
        simulated = model.simulate(data.u, x0, starts=data.starts)
        assert_close(simulated, np.vstack([model.simulate(p.u, x) for p, x in zip(parts, x0)]), "bitwise")
        assert_close(
            model.predict(data, x0=x0),
            np.vstack([model.predict(p, x0=x) for p, x in zip(parts, x0)]),
            "bitwise",
        )

    def test_first_states_need_to_know_where_experiments_begin(self):
        data = joint([30, 20])
        model = rz.n4sid(data, 2, block_rows=3).model
        with pytest.raises(ShapeError, match=r"starts=data\.starts"):
            model.simulate(data.u, model.estimate_x0(data))
        with pytest.raises(ShapeError, match="rise, and stay below"):
            model.simulate(data.u, starts=(0, 80))


class TestShortExperiments:
    @pytest.mark.parametrize("method", [*METHODS, *POLYNOMIALS])
    def test_they_are_left_out_with_a_warning(self, method):
        data = joint([200, 1, 5, 150, 2], noise=0.02, seed=10, outputs=1 if method in POLYNOMIALS else 2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = {**METHODS, **POLYNOMIALS}[method](data)
        h = PLANT.impulse_response(20)[:, : model.n_outputs]
        assert np.linalg.norm(model.impulse_response(20) - h) < 0.05 * np.linalg.norm(h)
        told = [str(w.message) for w in caught if w.category is ExcitationWarning]
        assert method in POLYNOMIALS or any("of 5 experiments" in text for text in told)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda d: rz.n4sid(d, 9), "The record supports orders up to 2"),
            (lambda d: rz.n4sid(d, block_rows=9), "supports up to 2, which carry orders up to 2"),
            (lambda d: rz.subspace_orders(d, [9]), "The record supports orders up to 2"),
            (lambda d: rz.ssarx(d, 9), "The record supports orders up to 2"),
            (lambda d: rz.pem(d, order=9), "The record supports orders up to 2"),
            (lambda d: rz.arx(d, na=9), "They support up to 4 lags"),
            (lambda d: rz.regularized_fir(d, 40), "supports at most 14 taps"),
        ],
    )
    def test_what_a_record_supports_is_said(self, call, message):
        lengths = [18, 12]
        with pytest.raises(ExcitationError, match=message):
            call(joint(lengths, noise=0.1))

    @pytest.mark.parametrize("call", [lambda d: rz.armax(d, 6, 6, 6), lambda d: rz.oe(d, 6, 6)])
    def test_and_by_polynomials(self, call):
        with pytest.raises(ExcitationError, match="record supports"):
            call(joint([18, 12], noise=0.1, outputs=1))


def test_many_short_experiments_are_one_good_record():
    data = joint([14] * 60, noise=0.1, seed=11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = rz.pem(data, order=3, focus="simulation", iterations=8)
    h = PLANT.impulse_response(20)
    assert np.linalg.norm(fit.model.impulse_response(20) - h) < 0.02 * np.linalg.norm(h)
    assert fit.x0.shape == (60, 3)
