"""One call: good on data that has a truth, whole on measured data, clear about what it cannot do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from realization.errors import DataError, ExcitationError, StabilityWarning
from realization.identification import delay_inputs, fit_percent, identify, n4sid
from realization.identification.candidates import Recipe, Stretch
from realization.identification.combination import mean_path, mean_predictor, without_path
from realization.identification.disturbance import DISTURBANCES, with_disturbance
from realization.identification.factorization import scale, without_gaps
from realization.identification.judging import folds
from realization.identification.likely_start import errors_on
from realization.identification.noise import one_step_innovations
from realization.identification.realization import fits, part, reflect_poles
from realization.identification.reduction import Balanced
from realization.identification.refinement import refine
from realization.signals import IOData, load_data, load_series
from realization.systems import InnovationsModel, StateSpace
from tests.tolerances import assert_close

TRUTH = InnovationsModel(
    [[0.8, 0.4], [-0.4, 0.7]],
    [[1.0, 0.0], [0.5, 1.0]],
    [[1.0, 0.0]],
    [[0.3, 0.0]],
    K=[[0.5], [0.2]],
    Re=[[0.05]],
    u_mean=[1.0, 2.0],
    y_mean=[10.0],
)
SETS = ("dryer", "robot_arm", "CD_player_arm", "powerplant", "evaporator", "steamgen", "cascaded_tanks")


def record(T, seed, model=TRUTH):
    rng = np.random.default_rng(seed)
    u = model.u_mean + rng.standard_normal((T, model.n_inputs))
    e = rng.standard_normal((T, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    return IOData(model.simulate(u, e=e), u, dt=0.1)


def quiet(data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return identify(data, **options)


def judged(model, data):
    """Simulation and one-step fit on a record that the model has not seen."""
    simulated = model.simulate(data.inputs, model.estimate_x0(data))
    return fit_percent(data.y, simulated).mean(), fit_percent(data.y, model.predict(data)).mean()


class TestOnATruth:
    @pytest.mark.parametrize("seed", range(3))
    def test_it_comes_close_to_the_best_that_is_possible(self, seed):
        train, test = record(800, seed), record(4000, 100 + seed)
        result = quiet(train)
        found, best = judged(result.model, test), judged(TRUTH, test)
        assert min(np.subtract(found, best)) > -1.5
        assert result.order <= 20
        assert result.order == result.model.n_states
        assert result.model.is_stable
        assert np.abs(result.model.predictor.poles).max() < 1

    def test_few_states_are_enough_where_they_explain_all(self):
        train, test = record(800, 1), record(4000, 101)
        result = quiet(train)
        assert result.order == 2
        assert "2 states by prediction error" in result.method
        assert min(np.subtract(judged(result.model, test), judged(TRUTH, test))) > -0.5

    def test_noise_free_records_are_exact(self):
        silent = StateSpace(TRUTH.A, TRUTH.B, TRUTH.C, TRUTH.D)
        u = np.random.default_rng(0).standard_normal((300, 2))
        result = quiet(IOData(silent.simulate(u), u))
        assert result.order == 2
        assert np.abs(result.model.impulse_response(30) - silent.impulse_response(30)).max() < 1e-3

    def test_a_given_order_is_kept(self):
        result = quiet(record(400, 1), order=3)
        assert result.order == result.model.n_states == 3
        assert quiet(record(400, 1), max_order=1).order == 1

    def test_feedthrough_can_be_ruled_out(self):
        assert not quiet(record(400, 2), feedthrough=False).model.D.any()

    def test_a_time_series(self):
        model = InnovationsModel([[0.8, 0.5], [-0.5, 0.8]], np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.7], [0.1]])
        data = IOData(model.simulate(e=np.random.default_rng(3).standard_normal((1500, 1))))
        result = quiet(data)
        assert np.isnan(result.simulation_fit).all()
        assert np.abs(result.model.noise.impulse_response(10) - model.noise.impulse_response(10)).max() < 0.2
        assert "none (a time series)" in result.report()

    @staticmethod
    def unstable_plant(seed):
        """A plant with a pole at 1.1 under proportional feedback."""
        rng, x, u, y = np.random.default_rng(seed), 0.0, [], []
        for reference, e in zip(rng.standard_normal(600), 0.1 * rng.standard_normal(600)):
            y.append(x + e)
            u.append(reference - 0.6 * y[-1])
            x = 1.1 * x + u[-1] + 1.1 * e
        return IOData(y, u)

    @pytest.mark.parametrize("seed", [4, 5])
    def test_an_unstable_plant_is_kept_and_said_so(self, seed):
        data = self.unstable_plant(seed)
        with pytest.warns(StabilityWarning, match="the plant is unstable"):
            result = identify(data)
        assert abs(np.abs(result.model.poles).max() - 1.1) < 0.05
        assert any("unstable" in note for note in result.notes)
        assert result.inspection.of("feedback")

    def test_stability_is_kept_or_not_as_asked(self):
        data = self.unstable_plant(4)
        assert abs(quiet(data, stable=False, order=1).model.poles[0] - 1.1) < 0.05
        with pytest.warns(StabilityWarning):
            assert identify(data, order=1, stable=True).model.is_stable

    @pytest.mark.parametrize("seed", range(3))
    def test_a_stable_plant_never_comes_out_unstable(self, seed):
        """Nor does one that integrates: 0.999 is not clearly outside."""
        slow = StateSpace([[0.999]], [[1.0]], [[0.1]])
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((400, 1))
        assert quiet(IOData(slow.simulate(u) + 0.1 * rng.standard_normal((400, 1)), u)).model.is_stable

    def test_the_same_call_gives_the_same_model(self):
        first, second = quiet(record(300, 5)), quiet(record(300, 5))
        assert_close(first.model.A, second.model.A, "bitwise")


class TestFocus:
    def test_the_score_is_the_fit_that_was_asked_for(self):
        data = record(300, 13)
        for focus in ("prediction", "simulation"):
            rows = [row for row in quiet(data, order=2, focus=focus).candidates if row.order == 2]
            best = max(rows, key=lambda row: getattr(row, focus))
            assert rows[0].method == best.method
            assert rows[0].score == pytest.approx(getattr(rows[0], focus))

    def test_what_cannot_be_is_refused(self, rng):
        with pytest.raises(DataError, match="focus='both of them'"):
            identify(record(100, 1), focus="both of them")
        with pytest.raises(DataError, match="nothing to simulate"):
            identify(IOData(rng.standard_normal(100)), focus="simulation")


class TestReport:
    def test_what_is_made_on_demand(self, tmp_path):
        result = quiet(record(400, 14), order=2)
        assert 0.5 < result.singular_values[0] <= 1 + 1e-9
        assert (np.diff(result.singular_values) <= 1e-12).all()
        bands = result.uncertainty.poles()
        truth = TRUTH.poles.real + 1j * np.abs(TRUTH.poles.imag) * np.sign(bands.poles.imag)
        assert bands.covers(truth).all()
        assert result.residuals.whiteness.is_white
        text = result.save_report(tmp_path / "fit.html").read_text(encoding="utf-8")
        assert text.count("data:image/png") == 5  # record, poles, two responses, residuals
        assert "http" not in text.replace("http-equiv", "")
        assert result.method in text

    def test_it_says_what_was_done(self):
        data = record(400, 6)
        result = quiet(data)
        text = result.report()
        for word in ("400 samples", "u1, u2", result.method, "pole", "one step", "Candidates", "white"):
            assert word in text
        assert max(len(line) for line in text.splitlines()) <= 120
        assert len(result.candidates) > 20
        scores = [candidate.score for candidate in result.candidates]
        assert scores == sorted(scores, reverse=True)
        assert result.data is data

    def test_doubts_are_in_it(self):
        t = np.arange(300.0)
        u = np.sin(0.3 * t)
        y = StateSpace([[0.5]], [[1.0]], [[1.0]]).simulate(u)
        y = y + 0.01 * np.random.default_rng(7).standard_normal(y.shape)
        result = quiet(IOData(y, u))
        assert any("excite" in note for note in result.notes)
        assert "Doubtful" in result.report()


class TestRecords:
    """Gaps and experiments."""

    def test_experiments_are_kept_apart(self):
        train, test = [record(300, seed) for seed in (1, 2)], record(3000, 50)
        joint = IOData.concatenate(train)
        result = quiet(joint)
        found, best = judged(result.model, test), judged(TRUTH, test)
        assert min(np.subtract(found, best)) > -2
        assert result.data is joint

    def test_missing_outputs(self):
        whole, test = record(900, 3), record(3000, 51)
        y = whole.y.copy()
        for begin in range(80, 900, 100):
            y[begin : begin + 7] = np.nan
        result = quiet(IOData(y, whole.u, whole.dt, missing=True))
        found, best = judged(result.model, test), judged(TRUTH, test)
        assert min(np.subtract(found, best)) > -2
        assert result.inspection.of("missing")
        assert "missing" in result.report()

    def test_scattered_gaps_leave_hardly_a_stretch(self):
        whole, test = record(500, 4), record(3000, 52)
        y = np.where(np.random.default_rng(4).random(whole.y.shape) < 0.2, np.nan, whole.y)
        result = quiet(IOData(y, whole.u, whole.dt, missing=True))
        found, best = judged(result.model, test), judged(TRUTH, test)
        assert min(np.subtract(found, best)) > -3

    def test_held_back_parts_of_a_record_and_of_its_stretches_are_the_same(self):
        """Quarters of what is there, cut where they lie in the record with gaps."""
        y = record(100, 1).y.copy()
        y[10:30] = np.nan
        scaled = scale(IOData(y, missing=True), "test")
        options = {"feedthrough": True, "stable": True, "counted": (1,)}
        apart = folds(without_gaps(scaled), **options)
        there = np.flatnonzero(~np.isnan(y[:, 0]))
        for whole, fold in zip(folds(scaled, **options, rows=there), apart, strict=True):
            held = whole.held.y[~np.isnan(whole.held.y[:, 0])]
            assert_close(held, fold.held.y, "bitwise")
            assert len(whole.held.y) + len(whole.stretch.scaled.y) == 100


class TestRefusals:
    @pytest.mark.parametrize(
        ("y", "u", "options", "error", "message"),
        [
            (np.arange(5.0), None, {}, ExcitationError, "at least 12"),
            (np.ones(50), None, {}, DataError, "output 'y1' is constant"),
            (np.arange(50.0), np.ones(50), {}, DataError, "input 'u1' is constant"),
            (np.arange(50.0), None, {"order": 0}, DataError, "order=0"),
            (np.arange(50.0), None, {"stable": "perhaps"}, DataError, "stable='perhaps'"),
            (np.arange(50.0), None, {"delay": 3}, DataError, "delay=3"),
            (np.arange(50.0), None, {"order": 3, "max_order": 2}, DataError, "above max_order"),
            (np.sin(np.arange(20.0)), None, {"order": 15}, ExcitationError, "order 15"),
        ],
    )
    def test_what_cannot_be_identified_says_why(self, y, u, options, error, message):
        with pytest.raises(error, match=message):
            identify(IOData(y, u), **options)


class TestHardRecords:
    """Whatever comes in, a stable and finite model or a named error goes out."""

    @staticmethod
    def check(data):
        result = quiet(data)
        model = result.model
        assert model.is_stable
        for matrix in (model.A, model.B, model.C, model.D, model.K, model.Re):
            assert np.isfinite(matrix).all()
        assert np.isfinite(model.predict(data)).all()
        assert np.isfinite(model.simulate(data.inputs)).all()
        assert result.report()

    def test_more_outputs_than_samples_allow(self, rng):
        drift = rng.standard_normal((45, 3)).cumsum(axis=0)
        self.check(IOData(drift @ rng.standard_normal((3, 28)) + 0.1 * rng.standard_normal((45, 28))))

    def test_strong_drift(self, rng):
        t = np.linspace(0, 1, 120)
        u = rng.standard_normal((120, 2))
        self.check(IOData(u @ [[1.0], [0.3]] + 50 * t[:, None], u))

    def test_a_step_for_an_input(self, rng):
        u = (np.arange(100) > 20).astype(float)
        self.check(
            IOData(
                StateSpace([[0.8]], [[1.0]], [[1.0]]).simulate(u) + 0.01 * rng.standard_normal((100, 1)), u
            )
        )

    def test_white_noise_that_has_nothing_to_do_with_the_input(self, rng):
        self.check(IOData(rng.standard_normal((80, 2)), rng.standard_normal((80, 1))))

    @pytest.mark.parametrize("length", [12, 15, 20, 30])
    def test_very_short_ones(self, rng, length):
        self.check(IOData(rng.standard_normal((length, 1)).cumsum(axis=0), rng.standard_normal((length, 1))))

    def test_equal_outputs(self, rng):
        u = rng.standard_normal((200, 1))
        y = StateSpace([[0.8]], [[1.0]], [[1.0]]).simulate(u) + 0.1 * rng.standard_normal((200, 1))
        self.check(IOData(np.hstack([y, y]), u))

    def test_huge_and_tiny_units(self, rng):
        u = rng.standard_normal((200, 2)) * [1e9, 1e-9]
        y = 1e12 + 1e6 * StateSpace([[0.8]], [[1e-9, 1e9]], [[1.0]]).simulate(u)
        self.check(IOData(y + 1e5 * rng.standard_normal((200, 1)), u))


class TestPieces:
    def test_reflected_poles_keep_their_angle_and_the_stable_ones_their_place(self, rng):
        A = rng.standard_normal((6, 6))
        A *= 1.5 / np.abs(np.linalg.eigvals(A)).max()
        before, after = np.linalg.eigvals(A), np.linalg.eigvals(reflect_poles(A))
        expected = [p if abs(p) < 1 else p / abs(p) * min(1 / abs(p), 0.9999) for p in before]
        assert_close(np.sort_complex(after), np.sort_complex(expected), "iterative")

    @pytest.mark.parametrize("kind", [kind for kind in DISTURBANCES if kind != "own"])
    def test_a_noise_model_leaves_the_simulation_and_helps_the_prediction(self, kind):
        data = record(1000, 8)
        scaled = scale(data, "test")
        stretch = Stretch(scaled, feedthrough=True, stable=True)
        plain = stretch.make(Recipe("moesp", 2))
        coloured = with_disturbance(plain, scaled, kind)
        assert len(coloured.A) > 2
        assert np.abs(np.linalg.eigvals(coloured.A - coloured.K @ coloured.C)).max() < 1
        u = scaled.u[:50]
        paths = [StateSpace(f.A, f.B, f.C, f.D).simulate(u) for f in (plain, coloured)]
        assert_close(paths[1], paths[0])
        silent = plain._replace(K=plain.K * 0)
        if kind in ("short", "smooth", "wandering", "integrated"):
            assert fits(coloured, scaled)[1].mean() > fits(silent, scaled)[1].mean() + 2

    def test_integrated_noise_is_the_autoregression_of_the_changes(self):
        """One step ahead it says what ARMA arithmetic says: difference, predict, add the level back."""
        rng = np.random.default_rng(3)
        w = np.zeros((400, 1))
        for t in range(1, 400):
            w[t] = 0.6 * w[t - 1] + rng.standard_normal()
        scaled = scale(IOData(w.cumsum(axis=0)), "test")
        none = without_path(Stretch(scaled, feedthrough=True, stable=True).make(Recipe("arx", 1)))
        model = with_disturbance(none, scaled, "integrated")
        y = scaled.y - model.offset
        e, _ = one_step_innovations(*model[:5], scaled.u, y)
        fast = model.A[: len(model.A) - 1, : len(model.A) - 1], model.C[:, :-1], model.K[:-1]
        changes = y[1:] - 0.9995 * y[:-1]
        expected = one_step_innovations(
            fast[0], np.zeros((len(fast[0]), 0)), fast[1], np.zeros((1, 0)), fast[2], scaled.u[1:], changes
        )[0]
        assert_close(e[60:], expected[59:], "optimum")

    def test_the_mean_of_models_simulates_as_their_mean(self):
        scaled = scale(record(500, 9), "test")
        stretch = Stretch(scaled, feedthrough=True, stable=True)
        members = [stretch.make(Recipe("cva", n)) for n in (1, 2, 3)]
        outputs = [
            StateSpace(f.A, f.B, f.C, f.D).simulate(scaled.u) + f.offset
            for f in (*members, mean_path(members), without_path(mean_path(members)))
        ]
        assert_close(outputs[3], np.mean(outputs[:3], axis=0))
        assert_close(outputs[4], np.broadcast_to(np.mean([f.offset for f in members], axis=0), (500, 1)))

    def test_the_mean_of_predictors_predicts_as_their_mean(self):
        scaled = scale(record(500, 9), "test")
        stretch = Stretch(scaled, feedthrough=True, stable=True)
        members = [stretch.make(Recipe("cva", n))._replace(offset=np.zeros(1)) for n in (1, 2, 3)]
        outputs = [scaled.y - self.from_rest(f, scaled) for f in (*members, mean_predictor(members))]
        assert_close(outputs[3], np.mean(outputs[:3], axis=0))

    @staticmethod
    def from_rest(found, scaled):
        """One-step errors from a first state of zero, by the recursion as it is written."""
        x, e = np.zeros(len(found.A)), np.empty_like(scaled.y)
        for t, (u, y) in enumerate(zip(scaled.u, scaled.y)):
            e[t] = y - found.C @ x - found.D @ u
            x = found.A @ x + found.B @ u + found.K @ e[t]
        return e

    def test_a_path_from_changes_is_the_path(self):
        """Where the noise is a random walk, changes show the path and levels do not."""
        rng = np.random.default_rng(2)
        system = StateSpace([[0.8]], [[1.0]], [[0.5]])
        u = rng.standard_normal((600, 1))
        y = system.simulate(u) + rng.standard_normal((600, 1)).cumsum(axis=0)
        scaled = scale(IOData(y, u), "test")
        stretch = Stretch(scaled, feedthrough=True, stable=True)
        wrong = {}
        for changes in (False, True):
            f = stretch.make(Recipe("cva", 1, "simulation", changes=changes))
            found = StateSpace(f.A, f.B / scaled.u_scale, f.C * scaled.y_scale, f.D * 0.0)
            wrong[changes] = np.abs(found.impulse_response(30) - system.impulse_response(30)).max()
        assert wrong[True] < 0.3
        assert wrong[True] < 0.5 * wrong[False]

    def test_a_path_behind_dead_times_is_exact(self):
        rng = np.random.default_rng(3)
        plant = delay_inputs(StateSpace([[0.8]], [[1.0, -0.5]], [[0.5]]), [0, 7])
        parts = [IOData(plant.simulate(u), u) for u in rng.standard_normal((2, 150, 2))]
        scaled = scale(IOData.concatenate(parts), "test")
        recipe = Recipe("moesp", 1, "simulation", wide=False, dead=(0, 7))
        f = Stretch(scaled, feedthrough=True, stable=True).make(recipe)
        assert len(f.A) == 8
        found = StateSpace(f.A, f.B / scaled.u_scale, f.C * scaled.y_scale, f.D * scaled.y_scale)
        assert_close(found.impulse_response(30), plant.impulse_response(30), "recurrence")

    def test_many_states_do_not_fit_their_way_through_few_samples(self):
        """With first states free, 30 states leave nothing of 15 samples; the probable ones explain little."""
        rng = np.random.default_rng(6)
        scaled = scale(IOData(rng.standard_normal(115)), "test")
        seen, held = part(scaled, 0, 100), part(scaled, 100, 115)
        found = Stretch(seen, feedthrough=True, stable=True).make(Recipe("arx", 12))
        many = with_disturbance(found, seen, "smooth")
        e, _ = one_step_innovations(*many[:5], held.u, held.y - many.offset)
        likely = errors_on(many, seen, held)[1]
        assert np.sqrt((e**2).mean()) < 0.5 < 0.7 < np.sqrt((likely**2).mean())

    def test_truncation_of_what_is_not_needed_costs_nothing(self):
        scaled = scale(record(500, 10), "test")
        base = Stretch(scaled, feedthrough=True, stable=True).make(Recipe("cva", 2))
        double = mean_path([base, base])._replace(K=np.vstack([base.K, base.K]))
        short = Balanced(double, scaled).truncated(2)
        h = [StateSpace(f.A, f.B, f.C, f.D).impulse_response(20) for f in (base, short)]
        assert_close(h[1], h[0], "optimum")

    @pytest.mark.parametrize("criterion", ["prediction", "simulation", "gain"])
    def test_refinement_lowers_what_it_says(self, criterion):
        data = record(400, 11)
        scaled = scale(data, "test")
        base = Stretch(scaled, feedthrough=True, stable=True).make(Recipe("moesp", 2, wide=False))
        rough = base._replace(B=base.B * 1.1, K=base.K * 0.5, C=base.C + 0.02)
        fine = refine(rough, scaled, criterion)
        before, after = fits(rough, scaled), fits(fine, scaled)
        gained = [a.mean() - b.mean() for a, b in zip(after, before)]
        wanted = {"prediction": (1,), "simulation": (0,), "gain": (1,)}[criterion]
        assert all(gained[k] > 0.1 for k in wanted)
        if criterion == "gain":
            assert_close(np.array(gained[0]), np.array(0.0), scale=100.0)

    def test_a_refined_model_is_at_a_stationary_point(self):
        """No small change of any entry predicts better: central differences of the sum of squares."""
        scaled = scale(record(300, 12), "test")
        base = Stretch(scaled, feedthrough=True, stable=True).make(Recipe("cva", 2))
        fine = refine(base, scaled, "prediction", iterations=100, tolerance=1e-6)

        def squares(found):
            return sum((100 - fit.mean()) ** 2 for fit in fits(found, scaled)[1:])

        least = squares(fine)
        for name in ("A", "B", "C", "D", "K"):
            matrix = getattr(fine, name)
            for place in np.ndindex(matrix.shape):
                for step in (1e-3, -1e-3):
                    moved = matrix.copy()
                    moved[place] += step
                    assert squares(fine._replace(**{name: moved})) > least - 1e-9 * least


@pytest.mark.parametrize("name", SETS)
def test_measured_records_at_several_orders(name, measured_data):
    """No crash, no NaN, nothing unstable, at any order and weighting."""
    train, validation = halves(name)
    for order in (1, 3, 6, 12):
        for weighting in ("cva", "n4sid", "moesp"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    model = n4sid(train, order, weighting=weighting).model
                except ExcitationError:
                    assert name == "powerplant"
                    continue
            assert model.is_stable
            assert np.isfinite(model.simulate(validation.inputs)).all()
            assert np.isfinite(model.predict(validation)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_one_call_on_measured_records(name, measured_data):
    train, validation = halves(name)
    model = quiet(train).model
    assert model.is_stable
    simulation, prediction = judged(model, validation)
    assert prediction > 60
    assert simulation > 20


def halves(name):
    if name == "cascaded_tanks":
        return load_data(name), load_data(name, part="validation")
    return load_data(name).split(0.5)


def test_rounding_does_not_choose_among_predictors():
    """The mean of predictors has copies of the same states, whose own fit would be one of rounding."""
    y = load_series("sunspots").y[:154]
    noise = np.random.default_rng(0).standard_normal(y.shape)
    orders = {quiet(IOData(y * (1 + size * noise))).order for size in (0.0, 1e-13, -1e-13)}
    assert len(orders) == 1
