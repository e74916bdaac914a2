"""Balanced truncation: its bound, the singular values, what is kept; and the split of unstable models."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.filtering import innovations_form
from realization.systems.rounding import measured_error
from tests.oracles.gramians import bilinear, with_hankel_values
from tests.strategies import innovations_models, matrix_with_radius, seeds, stable_systems, systems
from tests.tolerances import assert_close, assert_same_system

OPTIONS = [
    {"method": method, "match_dc": match_dc}
    for method in ("square-root", "balancing-free")
    for match_dc in (False, True)
]


def continuous(model):
    """The same matrices in continuous time, moved left until they are stable."""
    return rz.StateSpace(model.A - 1.0 * np.eye(model.n_states), model.B, model.C, model.D, 0.0)


def in_either_time(model):
    return st.sampled_from([model, continuous(model)])


both_times = stable_systems(states=(1, 7)).flatmap(in_either_time)
any_poles = systems(states=(1, 7), radius=(0.5, 1.8)).flatmap(in_either_time)
options = st.sampled_from(OPTIONS)


def gains(model, points=60):
    omega = np.linspace(0, np.pi, points) if model.dt is None else np.r_[0.0, np.logspace(-2, 2, points)]
    return model.frequency_response(omega)


def largest_difference(one, other):
    return np.linalg.norm(gains(one) - gains(other), 2, axis=(1, 2)).max(initial=0.0)


def rounding(result):
    return 1e-10 * result.hsv.max(initial=0.0) + 1e-14


class TestBound:
    @given(both_times, options, st.integers(0, 7))
    def test_no_frequency_exceeds_the_error_and_the_error_not_the_bound(self, model, chosen, order):
        result = rz.balanced_truncation(model, min(order, model.n_states), **chosen)
        assert result.model.n_states == result.order == min(order, model.n_states)
        assert largest_difference(model, result.model) <= result.error + rounding(result)
        assert result.error <= result.bound + rounding(result)
        assert result.error >= result.hsv[result.order :].max(initial=0.0) - rounding(result)
        assert result.rounding <= 1e-9 * (1 + result.hsv[0])
        tail = 2 * result.hsv[result.order :].sum()
        assert_close(np.array(result.bound - result.rounding), np.array(tail), scale=1 + result.hsv[0])

    def test_it_is_reached(self):
        # Balanced with equal signs: the error at frequency zero is the bound.
        hsv = np.array([5.0, 2.0, 0.5, 0.1])
        system = with_hankel_values(hsv, np.array([1.0, 2.0, 0.5, 1.0]), np.ones(4))
        slow, fast = rz.StateSpace(*system, dt=0.0), rz.StateSpace(*bilinear(*system))
        for model, match_dc in ((slow, False), (slow, True), (fast, True)):
            result = rz.balanced_truncation(model, 2, match_dc=match_dc)
            assert_close(result.hsv, hsv, "recurrence")
            assert_close(np.array(result.error), np.array(1.2), "iterative")
            assert_close(np.array(result.bound), np.array(1.2), "recurrence")

    def test_twice_a_single_discarded_value_in_one_step(self):
        # Balanced with equal signs: the error of cutting the last state is twice its value, at zero.
        system = with_hankel_values(np.array([5.0, 2.0, 0.5]), np.array([1.0, 2.0, 0.5]), np.ones(3))
        model = rz.StateSpace(*system, dt=0.0)
        result = rz.balanced_truncation(model, 2)
        assert_close(np.array(result.error), np.array(1.0), "iterative")


class TestReduced:
    @given(both_times, st.integers(1, 6))
    def test_the_result_is_balanced_and_keeps_the_values(self, model, order):
        order = min(order, model.n_states)
        if model.dt is None:
            return  # in discrete time truncation does not keep the values
        result = rz.balanced_truncation(model, order)
        A, B, C = result.model.A, result.model.B, result.model.C
        expected = np.diag(result.hsv[:order])
        misfit = A @ expected + expected @ A.T + B @ B.T, A.T @ expected + expected @ A + C.T @ C
        scale = max(np.abs(A @ expected).max(), np.abs(B @ B.T).max())
        if result.hsv[order - 1] > 1e-6 * result.hsv[0]:
            assert max(np.abs(part).max() for part in misfit) <= 1e-7 * scale
            assert_close(rz.hankel_singular_values(result.model), result.hsv[:order], "iterative")

    @given(both_times, options)
    def test_the_full_order_is_the_same_system(self, model, chosen):
        result = rz.balanced_truncation(model, **chosen)
        assert_same_system(result.model, model, kind="iterative")
        assert result.error <= result.bound <= 1e-9 * (1 + result.hsv[0])

    @given(both_times, st.integers(0, 6))
    def test_both_methods_give_one_transfer_function(self, model, order):
        order = min(order, model.n_states)
        if order and not rz.hankel_singular_values(model)[order - 1] > 1e-5 * rz.hankel_norm(model):
            return
        one, other = (
            rz.balanced_truncation(model, order, method=m) for m in ("square-root", "balancing-free")
        )
        assert_close(gains(one.model), gains(other.model), "iterative")

    @given(both_times, seeds, options)
    def test_the_state_basis_does_not_matter(self, model, seed, chosen):
        hsv = rz.hankel_singular_values(model)
        order = (model.n_states + 1) // 2
        gap = hsv[order - 1] - (hsv[order] if order < len(hsv) else 0.0)
        if gap <= 1e-3 * hsv[0]:
            return
        T = np.linalg.qr(np.random.default_rng(seed).standard_normal(model.A.shape))[0]
        one, other = (
            rz.balanced_truncation(m, order, **chosen) for m in (model, model.similarity_transform(T))
        )
        assert_close(gains(one.model), gains(other.model), "iterative")

    @given(both_times, options, st.integers(0, 6))
    def test_the_gain_that_is_matched(self, model, chosen, order):
        result = rz.balanced_truncation(model, min(order, model.n_states), **chosen)
        if chosen["match_dc"]:
            assert_close(
                result.model.frequency_response([0.0]),
                model.frequency_response([0.0]),
                "iterative",
                scale=1 + result.hsv.sum(),
            )
        else:
            assert_close(result.model.D, model.D, "bitwise")

    @given(both_times, st.integers(0, 6))
    def test_stable_in_stable_out(self, model, order):
        hsv = rz.hankel_singular_values(model)
        order = min(order, model.n_states)
        if 0 < order < model.n_states and hsv[order - 1] - hsv[order] <= 1e-6 * hsv[0]:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("error", rz.StabilityWarning)
            assert rz.balanced_truncation(model, order).model.is_stable

    def test_states_that_do_not_matter_go(self, rng):
        A = matrix_with_radius(rng, 4, 0.9)
        core = rz.StateSpace(A, rng.standard_normal((4, 1)), rng.standard_normal((1, 4)))
        idle = rz.StateSpace(
            scipy.linalg.block_diag(A, matrix_with_radius(rng, 3, 0.8)),
            np.vstack([core.B, np.zeros((3, 1))]),
            np.hstack([core.C, rng.standard_normal((1, 3))]),
        ).similarity_transform(np.linalg.qr(rng.standard_normal((7, 7)))[0])
        result = rz.balanced_truncation(idle)
        assert result.order == 4
        assert_same_system(result.model, core, kind="iterative")

    @given(both_times, st.floats(1e-9, 1e2))
    def test_a_tolerance_bounds_the_error_with_the_lowest_order(self, model, tol):
        result = rz.balanced_truncation(model, tol=tol)
        assert result.bound <= tol + rounding(result)
        assert result.error <= tol + rounding(result)
        if result.order:
            assert 2 * result.hsv[result.order - 1 :].sum() > tol

    def test_a_hidden_value_is_not_lost_in_rounding(self):
        hsv = 10.0 ** -np.arange(0.0, 24.0, 2.0)
        model = rz.StateSpace(*with_hankel_values(hsv, np.sqrt(hsv), np.ones(12)), dt=0.0)
        turned = model.similarity_transform(
            np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
        )
        result = rz.balanced_truncation(turned)
        assert result.order in (7, 8)
        assert result.error <= 1e-12

    def test_more_than_there_is(self):
        model = rz.StateSpace(np.diag([0.5, 0.4]), [[1.0], [0.0]], [[1.0, 1.0]])
        with pytest.warns(rz.OrderWarning, match="only 1 states"):
            result = rz.balanced_truncation(model, 2)
        assert result.order == 1

    def test_a_cut_between_equal_values_warns_if_it_is_not_stable(self):
        # Two lightly coupled copies of an all-pass pair: A of the half that is kept is on the limit.
        A = np.array([[0.0, 1.0], [-1.0, -2.0]])
        model = rz.StateSpace(A, [[0.0], [2.0]], [[0.0, 2.0]], dt=0.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = rz.balanced_truncation(model, 1)
        assert_close(result.hsv, np.ones(2))
        assert (len(caught) == 1) == (not result.model.is_stable)
        assert (
            result.error <= 2.0 + 1e-9
            if result.model.is_stable
            else caught[0].category is rz.StabilityWarning
        )


class TestUnstable:
    @given(any_poles, options)
    def test_unstable_poles_are_kept_as_they_were(self, model, chosen):
        split = rz.stable_antistable_split(model)
        count = split.antistable.n_states
        order = count + split.stable.n_states // 2
        result = rz.balanced_truncation(model, order, **chosen)
        assert (result.unstable, result.order, len(result.hsv)) == (count, order, split.stable.n_states)
        unstable = [p for p in model.poles if (p.real >= 0 if model.dt == 0 else abs(p) >= 1)]
        kept = [p for p in result.model.poles if (p.real >= 0 if model.dt == 0 else abs(p) >= 1)]
        assert_close(np.sort_complex(np.round(kept, 9)), np.sort_complex(np.round(unstable, 9)), "optimum")
        assert result.error <= result.bound + rounding(result)
        assert largest_difference(model, result.model) <= result.bound + 1e-7 * (
            1 + np.abs(gains(model)).max()
        )

    @given(any_poles)
    def test_the_parts_add_up(self, model):
        split = rz.stable_antistable_split(model)
        assert split.stable.n_states + split.antistable.n_states == model.n_states
        assert split.stable.is_stable
        assert not np.any(split.antistable.D)
        limit = split.antistable.poles
        assert np.all(limit.real >= -1e-12 if model.dt == 0 else np.abs(limit) >= 1 - 1e-12)
        total = gains(split.stable) + gains(split.antistable)
        assert_close(total, gains(model), "optimum")

    def test_an_integrator_is_kept(self):
        model = rz.StateSpace(np.diag([1.0, 0.5, 0.1]), np.ones((3, 1)), [[1.0, 1.0, 0.01]])
        result = rz.balanced_truncation(model, 2)
        assert result.unstable == 1
        assert 1.0 in result.model.poles
        assert result.hsv.shape == (2,)

    @given(seeds, st.integers(2, 7), st.booleans())
    def test_an_integrator_is_known_in_any_basis(self, seed, n, discrete):
        # Rounding puts its pole on either side of the limit.
        rng = np.random.default_rng(seed)
        poles = np.r_[1.0, rng.uniform(-0.9, 0.9, n - 1)] - (0.0 if discrete else 1.0)
        Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        model = rz.StateSpace(
            Q @ np.diag(poles) @ Q.T, Q @ np.ones((n, 1)), np.ones((1, n)), dt=float(discrete)
        )
        assert rz.balanced_truncation(model, 1).unstable == 1
        with pytest.raises(rz.UnstableError):
            rz.controllability_gramian(model)

    def test_a_margin_moves_slow_poles_to_the_other_side(self):
        model = rz.StateSpace(np.diag([0.99, 0.5]), np.ones((2, 1)), np.ones((1, 2)))
        assert rz.stable_antistable_split(model).antistable.n_states == 0
        split = rz.stable_antistable_split(model, margin=0.05)
        assert_close(split.antistable.poles, np.array([0.99 + 0j]))

    def test_an_order_below_the_unstable_poles(self):
        with pytest.raises(rz.UnstableError, match="Ask for at least 2"):
            rz.balanced_truncation(
                rz.StateSpace(np.diag([2.0, -3.0, 0.1]), np.ones((3, 1)), np.ones((1, 3))), 1
            )

    @pytest.mark.parametrize("margin", [-1.0, np.nan, np.inf])
    def test_a_senseless_margin(self, margin):
        with pytest.raises(rz.DataError, match="margin"):
            rz.stable_antistable_split(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), margin=margin)


class TestInnovations:
    @given(innovations_models(states=(1, 5)), options)
    def test_the_full_order_is_the_same_model(self, model, chosen):
        result = rz.balanced_truncation(model, **chosen)
        assert isinstance(result.model, rz.InnovationsModel)
        assert_same_system(result.model, model, kind="iterative")
        assert_close(result.model.Re, model.Re, "iterative")
        assert_close(result.model.u_mean, model.u_mean, "bitwise")
        assert_close(result.model.y_mean, model.y_mean, "bitwise")

    @given(innovations_models(states=(2, 5)))
    def test_values_are_those_of_the_joint_path(self, model):
        root = scipy.linalg.sqrtm(model.Re).real
        joint = rz.StateSpace(model.A, np.hstack([model.B, model.K @ root]), model.C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rz.StabilityWarning)
            result = rz.balanced_truncation(model, 1)
        assert_close(result.hsv, rz.hankel_singular_values(joint), "iterative")
        for path, whole in (
            (result.model.deterministic, model.deterministic),
            (result.model.noise, model.noise),
        ):
            scale = 1.0 if whole.n_inputs == model.n_inputs else np.linalg.norm(np.linalg.inv(root), 2)
            if whole.n_inputs:
                assert largest_difference(path, whole) <= (result.bound + 1e-9) * max(scale, 1.0)

    @given(innovations_models(states=(2, 5)), st.integers(1, 4))
    def test_matching_the_gain_leaves_an_innovations_form(self, model, order):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rz.StabilityWarning)
            result = rz.balanced_truncation(model, min(order, model.n_states), match_dc=True).model
        at_zero = [0.0]
        assert_close(
            result.deterministic.frequency_response(at_zero),
            model.deterministic.frequency_response(at_zero),
            "iterative",
        )
        whole = model.noise.frequency_response(at_zero)[0]
        reduced = result.noise.frequency_response(at_zero)[0]
        assert_close(reduced @ result.Re @ reduced.conj().T, whole @ model.Re @ whole.conj().T, "iterative")

    def test_an_unstable_predictor_warns(self):
        model = rz.InnovationsModel(np.diag([0.5, 0.1]), np.zeros((2, 0)), [[1.0, 0.2]], K=[[2.0], [0.1]])
        with pytest.warns(rz.StabilityWarning, match="predictor"):
            rz.balanced_truncation(model, 1)

    def test_few_states_predict_nearly_as_well(self, rng):
        A = scipy.linalg.block_diag([[0.9, 0.3], [-0.3, 0.9]], np.diag([0.1, -0.1, 0.05]))
        model = innovations_form(A, rng.standard_normal((2, 5)), Q=np.eye(5), R=np.eye(2))
        e = rng.multivariate_normal(np.zeros(2), model.Re, 2000)
        data = rz.IOData(model.simulate(e=e))
        few = rz.balanced_truncation(model, 3).model
        whole, reduced = (np.mean((data.y - m.predict(data)) ** 2) for m in (model, few))
        assert whole <= reduced <= 1.05 * whole


def turned(A, seed):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal(A.shape))[0]
    return Q @ A @ Q.T


def beside_the_limit():
    """A pole or a resonance next to the stability limit, in its own coordinates and in turned ones."""
    rng = np.random.default_rng(0)
    B, C = rng.standard_normal((5, 2)), rng.standard_normal((2, 5))
    for distance in (1e-3, 1e-6, 1e-9):
        resonance = [[0.0, 1.0], [-1.0, -2 * distance]]
        slow = scipy.linalg.block_diag(resonance, [[-1.0, 3.0], [-3.0, -1.0]], [[-0.5]])
        fast = np.diag(np.r_[1 - distance / 10, rng.uniform(-0.9, 0.9, 4)])
        for name, A, dt in (("resonance", slow, 0.0), ("pole", fast, None)):
            yield pytest.param(rz.StateSpace(A, B, C, dt=dt), id=f"{name} {distance}")
            yield pytest.param(rz.StateSpace(turned(A, 1), B, C, dt=dt), id=f"{name} {distance}, turned")


class TestRounding:
    @pytest.mark.parametrize("model", list(beside_the_limit()))
    @pytest.mark.parametrize("chosen", OPTIONS, ids=str)
    def test_the_bound_holds_beside_the_stability_limit(self, model, chosen):
        for order in (1, 2, 5):
            result = rz.balanced_truncation(model, order, **chosen)
            assert result.error <= result.bound
            assert result.rounding <= 1e-3 * result.hsv[0]

    @pytest.mark.parametrize("method", ["square-root", "balancing-free"])
    def test_matching_the_gain_of_a_stiff_model(self, method):
        poles = 10.0 ** np.arange(11)
        model = rz.StateSpace(-np.diag(poles), np.ones((11, 1)), np.ones((1, 11)), dt=0.0)
        for order in (1, 5, 11):
            result = rz.singular_perturbation(model, order, method=method)
            assert_close(result.model.frequency_response([0.0]), model.frequency_response([0.0]))
            assert result.error <= result.bound

    def test_a_tolerance_below_rounding_warns(self):
        model = rz.StateSpace(np.diag([1 - 1e-10, 0.5]), np.ones((2, 1)), np.ones((1, 2)))
        with pytest.warns(rz.OrderWarning, match="rounding alone"):
            rz.balanced_truncation(model, tol=1e-6)

    def test_an_unstable_result_has_no_finite_error(self):
        stable, unstable = (rz.StateSpace([[pole]], [[1.0]], [[1.0]]) for pole in (0.5, 1.5))
        assert measured_error(stable, unstable) == np.inf
        assert measured_error(stable, stable) == 0.0


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"order": 1, "tol": 1.0}, "order and tol"),
            ({"order": -1}, "order=-1"),
            ({"order": 1.5}, "order=1.5"),
            ({"tol": -1.0}, "tol=-1"),
            ({"tol": np.nan}, "tol=nan"),
            ({"order": 1, "method": "modal"}, "method='modal'"),
        ],
    )
    def test_senseless_ones_are_refused(self, options, named):
        with pytest.raises(rz.RealizationError, match=named):
            rz.balanced_truncation(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), **options)

    @pytest.mark.parametrize("dt", [None, 0.0, 0.1])
    def test_the_time_step_and_an_empty_model(self, dt):
        model = rz.StateSpace([[-0.5]], [[1.0]], [[1.0]], [[2.0]], dt)
        result = rz.balanced_truncation(model, 0)
        assert result.model.dt == dt
        assert result.model.n_states == 0
        again = rz.balanced_truncation(result.model)
        assert (again.order, again.bound, again.error) == (0, 0.0, 0.0)


class TestPublishedModels:
    """SLICOT's collection: what its working note shows of them."""

    @pytest.fixture(autouse=True)
    def _files(self, measured_data):
        pass

    def test_the_building(self):
        model = rz.load_benchmark_model("build")
        result = rz.balanced_truncation(model, 10)
        assert_close(result.hsv[:1], np.array([2.5035e-3]), "optimum", scale=10.0)
        assert result.hsv[-1] < 1e-5 * result.hsv[0]
        norm = rz.hinf_norm(model)
        assert_close(np.array(norm.omega), np.array(5.206), "optimum", scale=100.0)
        assert result.hsv[10] / 2 < result.error <= result.bound

    def test_a_peak_behind_a_shoulder(self):
        # The error's gain rises slowly over half a decade: where it starts to is lost in rounding.
        model = rz.load_benchmark_model("CDplayer")
        result = rz.balanced_truncation(model, 15)
        omega = np.linspace(15.0, 90.0, 400)
        error = model.frequency_response(omega) - result.model.frequency_response(omega)
        largest = np.linalg.norm(error, 2, axis=(1, 2)).max()
        assert largest <= result.error <= 1.001 * largest

    @pytest.mark.parametrize("order", [2, 12, 40])
    def test_the_player(self, order):
        model = rz.load_benchmark_model("CDplayer")
        result = rz.balanced_truncation(model, order)
        assert result.hsv[order] <= result.error * (1 + 1e-9) <= result.bound * (1 + 1e-9)
        assert result.hsv[-1] < 1e-12 * result.hsv[0]
