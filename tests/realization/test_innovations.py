"""Innovations, their tests, which are kept, and what they remember."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, ExcitationError, RankError, ShapeError, UnstableError
from realization.filtering import (
    innovations,
    reconstruct,
    reconstruction_curve,
    select_innovations,
    whiteness_test,
)
from realization.signals import IOData
from realization.systems import InnovationsModel
from tests.oracles.gaussian import conditional_innovations
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close

RULES = ("top", "threshold", "fifo", "random", "norm", "oracle")


def drawn(model, T, seed):
    """A record of the model itself, its innovations and its first state."""
    rng = np.random.default_rng(seed)
    e = rng.standard_normal((T, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    u, x0 = rng.standard_normal((T, model.n_inputs)), rng.standard_normal(model.n_states)
    return IOData(model.simulate(u, x0, e=e), u), e, x0


def autoregression(a=0.5, **changes):
    fields = {"A": [[a]], "B": np.zeros((1, 0)), "C": [[1.0]], "K": [[a]]}
    return InnovationsModel(**(fields | changes))


class TestInnovations:
    @given(model=innovations_models(), T=st.integers(1, 40), seed=seeds)
    def test_simulated_innovations_come_back(self, model, T, seed):
        data, e, x0 = drawn(model, T, seed)
        found = innovations(model, data, x0=x0)
        assert_close(found.e, e, "recurrence", scale=np.abs(data.y).max() + 1)
        squared = np.einsum("ti,ij,tj->t", found.e, np.linalg.inv(model.Re), found.e)
        assert_close(found.normalized_squared, squared, "iterative")

    def test_the_first_state_is_estimated(self, rng):
        model = autoregression(K=[[0.1]])
        data, e, x0 = drawn(model, 400, 1)
        found = innovations(model, data)
        assert (found.e**2).sum() <= (e**2).sum()
        assert abs(found.x0 - x0)[0] < 3

    def test_code_length_is_the_gaussian_one(self):
        from scipy.stats import multivariate_normal

        Re = np.array([[2.0, 0.5], [0.5, 1.0]])
        model = InnovationsModel(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((2, 0)), Re=Re)
        found = innovations(model, [[1.0, 2.0], [0.0, -1.0]])
        density = multivariate_normal(np.zeros(2), Re)
        assert_close(found.code_length, -density.logpdf(found.e) / np.log(2))

    def test_threshold_is_the_false_alarm_rate(self):
        model = autoregression(Re=[[3.0]])
        data, _, x0 = drawn(model, 20000, 2)
        found = innovations(model, data, x0=x0)
        rate = (found.normalized_squared > found.threshold(0.05)).mean()
        assert abs(rate - 0.05) < 0.01
        with pytest.raises(DataError, match="probability"):
            found.threshold(1.5)

    def test_a_singular_covariance_is_refused(self):
        with pytest.raises(RankError, match="singular"):
            innovations(autoregression(Re=[[0.0]]), np.ones(4))


class TestWhiteness:
    def test_one_output_is_ljung_box(self, rng):
        from statsmodels.stats.diagnostic import acorr_ljungbox

        e = rng.standard_normal(200)
        found = whiteness_test(e, lags=7)
        expected = acorr_ljungbox(e - e.mean(), lags=[7])
        # Ljung-Box weighs with T (T + 2), Hosking with T².
        assert_close(found.statistic * 202 / 200, float(expected["lb_stat"].iloc[0]))
        assert found.degrees == 7

    def test_false_alarms_are_as_many_as_asked_for(self, rng):
        draws = [whiteness_test(rng.standard_normal((300, 2)), lags=5, alpha=0.1) for _ in range(300)]
        assert 0.05 < np.mean([not test.is_white for test in draws]) < 0.15
        outside = [np.abs(test.autocorrelations[1:]) > test.bound for test in draws]
        assert 0.08 < np.mean(outside) < 0.12

    def test_units_and_mixing_of_outputs_do_not_matter(self, rng):
        e, T = rng.standard_normal((100, 3)), rng.standard_normal((3, 3))
        assert_close(whiteness_test(e @ T).statistic, whiteness_test(e).statistic, "iterative")

    def test_coloured_noise_is_found(self):
        data, _, _ = drawn(autoregression(0.5), 300, 3)
        test = whiteness_test(data.y)
        assert not test.is_white
        assert test.is_independent is None
        assert abs(test.autocorrelations[1, 0, 0]) > test.bound

    def test_dependence_on_inputs_is_found_and_its_absence_too(self, rng):
        u, e = rng.standard_normal((500, 2)), rng.standard_normal((500, 2))
        free = whiteness_test(e, u=u, lags=4)
        late = whiteness_test(e + 0.3 * np.roll(u, 2, axis=0), u=u, lags=4)
        assert free.is_independent
        assert not late.is_independent
        assert np.argmax(np.abs(late.cross_correlations[:, 0, 0])) == 2
        rates = [
            whiteness_test(rng.standard_normal(200), u=u[:200], lags=3).cross_p_value for _ in range(200)
        ]
        assert 0.02 < np.mean(np.array(rates) < 0.1) < 0.2

    def test_inputs_that_do_not_move_leave_no_doubt(self, rng):
        assert whiteness_test(rng.standard_normal(50), u=np.ones(50)).cross_p_value == 1.0

    @pytest.mark.parametrize(
        ("e", "options", "error", "message"),
        [
            (np.ones(50), {}, DataError, "constant"),
            (np.arange(5.0), {"lags": 10}, ExcitationError, "5 samples"),
            (np.array([1.0, np.nan]), {}, DataError, "NaN"),
            (np.ones((2, 2, 2)), {}, ShapeError, "shape"),
            (np.arange(50.0), {"u": np.ones(9)}, ShapeError, "9"),
            (np.arange(50.0), {"alpha": 0.0}, DataError, "alpha"),
        ],
    )
    def test_what_cannot_be_tested(self, e, options, error, message):
        with pytest.raises(error, match=message):
            whiteness_test(e, **options)


class TestSelection:
    @given(model=innovations_models(), T=st.integers(1, 30), budget=st.integers(0, 40), seed=seeds)
    def test_top_keeps_the_largest(self, model, T, budget, seed):
        data, _, x0 = drawn(model, T, seed)
        chosen = select_innovations(model, data, budget=budget, x0=x0)
        order = sorted(range(T), key=lambda t: (-chosen.scores[t], t))
        assert chosen.index.tolist() == sorted(order[:budget])
        assert chosen.kept.sum() == len(chosen.index) == min(T, budget)

    @pytest.mark.parametrize("rule", RULES)
    def test_the_choice_is_causal_whatever_the_rule(self, rule, rng):
        """What was kept at a time does not depend on what came later."""
        data, _, x0 = drawn(autoregression(), 80, 5)
        worth = rng.standard_normal(80)

        def chosen(length):
            scores = worth[:length] if rule == "oracle" else None
            return select_innovations(
                autoregression(), data[:length], budget=6, rule=rule, x0=x0, alpha=0.3, scores=scores
            )

        history = chosen(80).history
        for length in (1, 2, 7, 40, 79):
            known = history[length]
            assert chosen(length).index.tolist() == known[known >= 0].tolist()

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(("window", "chunk"), [(1, 1), (8, 8), (9, 4)])
    def test_the_last_set_does_not_depend_on_the_chunks(self, rule, window, chunk):
        data, _, x0 = drawn(autoregression(), 37, 6)
        scores = np.arange(37.0) if rule == "oracle" else None
        options = {"budget": 5, "rule": rule, "x0": x0, "scores": scores}
        chosen = select_innovations(autoregression(), data, window=window, chunk=chunk, **options)
        assert chosen.index.tolist() == select_innovations(autoregression(), data, **options).index.tolist()
        assert chosen.history.shape == (-(-37 // chunk), 5)

    def test_rules_do_what_they_say(self):
        data, e, x0 = drawn(autoregression(Re=[[4.0]]), 200, 7)
        data = IOData(data.y, dt=0.5)

        def index(rule, **options):
            return select_innovations(
                autoregression(Re=[[4.0]]), data, budget=10, rule=rule, x0=x0, **options
            ).index.tolist()

        assert index("fifo") == list(range(190, 200))
        assert index("norm") == sorted(np.argsort(-(data.y[:, 0] ** 2))[:10].tolist())
        assert index("oracle", scores=-np.arange(200.0)) == list(range(10))
        assert index("threshold", alpha=0.1) == np.flatnonzero(e[:, 0] ** 2 / 4 > 2.7055)[-10:].tolist()
        assert index("random") == index("random") != index("random", seed=1)
        chosen = select_innovations(autoregression(), data, budget=2, rule="fifo")
        assert_close(chosen.times, np.array([99.0, 99.5]))

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"rule": "best"}, DataError, "one of top"),
            ({"budget": -1}, DataError, "whole number"),
            ({"chunk": 4, "window": 2}, DataError, "chunk <= window"),
            ({"rule": "oracle"}, DataError, "needs scores"),
            ({"scores": np.ones(5)}, DataError, "does not use scores"),
            ({"rule": "oracle", "scores": np.ones(4)}, ShapeError, "scores has shape"),
            ({"rule": "oracle", "scores": np.full(5, np.nan)}, DataError, "NaN"),
            ({"rule": "threshold", "alpha": 2.0}, DataError, "alpha"),
        ],
    )
    def test_options_out_of_range(self, options, error, message):
        with pytest.raises(error, match=message):
            select_innovations(autoregression(), np.arange(5.0), **options)


class TestReconstruction:
    @given(model=innovations_models(), T=st.integers(2, 40), seed=seeds)
    def test_with_everything_kept_the_record_comes_back(self, model, T, seed):
        data, _, x0 = drawn(model, T, seed)
        rebuilt = reconstruct(model, data, select_innovations(model, data, budget=T, x0=x0))
        assert_close(rebuilt.y, data.y, "recurrence")
        assert rebuilt.error == 0

    @given(
        # States that forget slowly: what has faded below rounding is not determined by the last state.
        model=innovations_models(states=(0, 3), inputs=(0, 1), radius=(0.8, 0.95)),
        T=st.integers(2, 12),
        budget=st.integers(0, 12),
        seed=seeds,
    )
    def test_missing_innovations_are_at_their_conditional_mean(self, model, T, budget, seed):
        data, _, x0 = drawn(model, T, seed)
        chosen = select_innovations(model, data, budget=budget, rule="random", x0=x0)
        expected = conditional_innovations(model.A, model.K, model.Re, chosen.e, chosen.kept)
        rebuilt = reconstruct(model, data, chosen)
        assert_close(rebuilt.e, expected, "optimum")
        assert_close(rebuilt.y, model.simulate(data.inputs, x0, e=expected), "optimum")

    @given(model=innovations_models(), seed=seeds)
    def test_more_is_never_worse(self, model, seed):
        data, _, _ = drawn(model, 30, seed)
        curve = reconstruction_curve(model, data, [0, 1, 2, 4, 8, 16, 30])
        assert (np.diff(curve.error) <= 1e-9 * curve.error[0]).all()
        assert curve.floats.tolist() == [
            2 * model.n_states + kept * (model.n_outputs + 1) for kept in (0, 1, 2, 4, 8, 16, 30)
        ]
        assert curve.fit.shape == (7, model.n_outputs)

    def test_the_last_state_is_remembered_too(self):
        """With nothing kept the rebuilt record still ends where the record did."""
        model = InnovationsModel(
            [[0.9, 1.0], [0.0, 0.8]], np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.5], [0.4]], Re=[[2.0]]
        )
        data, _, x0 = drawn(model, 60, 8)
        rebuilt = reconstruct(model, data, select_innovations(model, data, budget=0, x0=x0))

        def last(e):
            x = x0
            for sample in e:
                x = model.A @ x + model.K @ sample
            return x

        assert_close(last(rebuilt.e), last(innovations(model, data, x0=x0).e), "iterative")

    def test_surprises_are_remembered_better_than_what_came_last(self):
        rng = np.random.default_rng(9)
        model = autoregression(0.95, Re=[[0.01]])
        e = 0.1 * rng.standard_normal((300, 1))
        e[rng.integers(0, 300, 8)] += 5.0
        y = model.simulate(e=e)
        fits = {
            rule: reconstruct(model, y, select_innovations(model, y, budget=10, rule=rule)).fit[0]
            for rule in ("top", "fifo", "random")
        }
        assert fits["top"] > 70 > 50 > max(fits["fifo"], fits["random"])

    def test_a_selection_of_another_record_is_refused(self):
        chosen = select_innovations(autoregression(), np.arange(5.0))
        with pytest.raises(ShapeError, match="selection is of a record"):
            reconstruct(autoregression(), np.arange(6.0), chosen)

    def test_an_overflow_is_an_error(self):
        model = InnovationsModel([[3.0]], np.zeros((1, 0)), [[1.0]], K=[[2.9]])
        y = np.random.default_rng(0).standard_normal(1000)
        with pytest.raises(UnstableError, match="overflow"):
            reconstruct(model, y, select_innovations(model, y, budget=3))
