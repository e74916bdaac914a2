"""Norms against closed forms, frequency grids, sums, and each other."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import block_diag, expm

import realization as rz
from realization.systems import norms
from realization.systems.rounding import gain_rounding
from tests.oracles.gramians import bilinear, largest_gain_on_a_grid, with_hankel_values
from tests.strategies import innovations_models, seeds, stable_systems
from tests.tolerances import assert_close


def continuous(model):
    """The same matrices in continuous time, moved left until they are stable."""
    return rz.StateSpace(model.A - 1.0 * np.eye(model.n_states), model.B, model.C, model.D, 0.0)


both_times = stable_systems(states=(0, 6)).flatmap(lambda model: st.sampled_from([model, continuous(model)]))


def near(actual, expected, kind):
    assert_close(np.array(float(actual)), np.array(float(expected)), kind)


def matrices(model):
    return model.A, model.B, model.C, model.D


def oscillator(damping, frequency=1.0):
    """`1 / (s² + 2 ζ ω s + ω²)`."""
    A = [[0.0, 1.0], [-(frequency**2), -2 * damping * frequency]]
    return rz.StateSpace(A, [[0.0], [1.0]], [[1.0, 0.0]], dt=0.0)


class TestHinf:
    @given(both_times)
    def test_no_grid_finds_more_and_the_place_is_right(self, model):
        norm = rz.hinf_norm(model)
        points = np.linspace(0, np.pi, 400) if model.dt is None else np.r_[0.0, np.logspace(-3, 3, 400)]
        grid = largest_gain_on_a_grid(*matrices(model), points, model.dt is None)
        assert norm.value >= grid * (1 - 1e-12)
        assert norm.value <= grid * 1.05
        if np.isfinite(norm.omega):
            near(norm.value, np.linalg.norm(model.frequency_response([norm.omega])[0], 2), "recurrence")

    @pytest.mark.parametrize("damping", [0.6, 0.1, 1e-3, 1e-6])
    @pytest.mark.parametrize("frequency", [1e-3, 1.0, 1e4])
    def test_a_resonance(self, damping, frequency):
        norm = rz.hinf_norm(oscillator(damping, frequency))
        peak = 1 / (2 * damping * np.sqrt(1 - damping**2) * frequency**2)
        near(norm.value, peak, "iterative")
        near(norm.omega, frequency * np.sqrt(1 - 2 * damping**2), "optimum")

    def test_an_overdamped_one_peaks_at_zero(self):
        norm = rz.hinf_norm(oscillator(0.9))
        near(norm.value, 1.0, "exact")
        assert norm.omega == 0.0

    @pytest.mark.parametrize(("a", "omega"), [(0.9, 0.0), (-0.9, np.pi / 0.1)])
    def test_first_order_in_discrete_time(self, a, omega):
        norm = rz.hinf_norm(rz.StateSpace([[a]], [[1.0]], [[1.0]], dt=0.1))
        near(norm.value, 10.0, "exact")
        near(norm.omega, omega, "exact")

    def test_a_high_pass_peaks_at_infinity(self):
        norm = rz.hinf_norm(rz.StateSpace([[-1.0]], [[1.0]], [[-1.0]], [[1.0]], dt=0.0))
        near(norm.value, 1.0, "iterative")

    def test_the_peak_between_resonances_is_found(self):
        # Two modes far from the peak of their difference: the gain is largest at neither.
        A = np.array([[-1.0, 3.0], [-3.0, -1.0]])
        B = np.array([[1.0], [1.0]])
        model = rz.StateSpace(A, B, [[1.0, -2.0]], [[0.3]], dt=0.0)
        norm = rz.hinf_norm(model)
        points = np.r_[np.linspace(0.0, 20.0, 1001), norm.omega + np.linspace(-0.02, 0.02, 1001)]
        near(norm.value, largest_gain_on_a_grid(*matrices(model), points, False), "iterative")

    @given(stable_systems(states=(1, 6)))
    def test_time_does_not_matter_under_the_bilinear_transform(self, model):
        model = continuous(model)
        turned = rz.StateSpace(*bilinear(*matrices(model)))
        slow, fast = rz.hinf_norm(model), rz.hinf_norm(turned)
        near(slow.value, fast.value, "iterative")

    @given(seeds, st.integers(1, 6), st.integers(1, 3))
    def test_an_all_pass_is_one(self, seed, n, m):
        U = np.linalg.qr(np.random.default_rng(seed).standard_normal((n + m, n + m)))[0]
        model = rz.StateSpace(U[:n, :n], U[:n, n:], U[n:, :n], U[n:, n:])
        if np.abs(model.poles).max() < 1 - 1e-6:
            near(rz.hinf_norm(model).value, 1.0, "iterative")

    @given(both_times, st.floats(1e-6, 1e6))
    def test_it_scales(self, model, factor):
        scaled = rz.StateSpace(model.A, factor * model.B, model.C, factor * model.D, model.dt)
        near(rz.hinf_norm(scaled).value, factor * rz.hinf_norm(model).value, "iterative")

    @given(both_times, both_times)
    def test_a_sum_has_at_most_the_sum(self, one, other):
        if one.dt != other.dt or one.D.shape != other.D.shape:
            return
        both = rz.StateSpace(
            block_diag(one.A, other.A),
            np.vstack([one.B, other.B]),
            np.hstack([one.C, other.C]),
            one.D + other.D,
            one.dt,
        )
        assert rz.hinf_norm(both).value <= (rz.hinf_norm(one).value + rz.hinf_norm(other).value) * (1 + 1e-9)

    def test_poles_at_both_ends(self):
        model = rz.StateSpace(np.diag([0.999999, -0.999999]), [[1e-6], [3e-6]], [[1.0, 1.0]])
        norm = rz.hinf_norm(model)
        near(norm.value, 3.0 - 0.5e-6, "optimum")
        near(norm.omega, np.pi, "exact")

    def test_a_nilpotent_state(self):
        model = rz.StateSpace(np.eye(8, k=1), np.eye(8)[:, -1:], np.full((1, 8), 1 / 8))
        near(rz.hinf_norm(model).value, 1.0, "iterative")

    @pytest.mark.parametrize("dt", [None, 0.0])
    def test_nothing_and_only_a_gain(self, dt):
        silent = rz.StateSpace([[-0.5]], [[1.0]], [[0.0]], dt=dt)
        assert rz.hinf_norm(silent).value == 0.0
        gain = rz.StateSpace(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), [[3.0, 4.0]], dt)
        near(rz.hinf_norm(gain).value, 5.0, "exact")
        assert rz.hinf_norm(rz.StateSpace([[-0.5]], np.zeros((1, 0)), [[1.0]], dt=dt)).value == 0.0

    @given(both_times)
    def test_the_difference_of_equal_models_is_rounding(self, model):
        doubled = rz.StateSpace(
            block_diag(model.A, model.A),
            np.vstack([model.B, model.B]),
            np.hstack([model.C, -model.C]),
            None,
            model.dt,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rz.ConvergenceWarning)
            assert rz.hinf_norm(doubled).value <= 1e-11 * (1e-3 + rz.hinf_norm(model).value)

    def test_a_peak_lost_in_rounding_warns(self, monkeypatch):
        monkeypatch.setattr(norms, "_reciprocal_condition", lambda matrix: 0.0)
        with pytest.warns(rz.ConvergenceWarning, match="cannot be told"):
            norm = rz.hinf_norm(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]))
        near(norm.value, 2.0, "exact")

    def test_an_unstable_model_is_refused(self):
        with pytest.raises(rz.UnstableError, match="hinf_norm"):
            rz.hinf_norm(rz.StateSpace([[1.1]], [[1.0]], [[1.0]]))

    @pytest.mark.parametrize("tol", [0.0, -1.0, 1.0, math.nan])
    def test_a_senseless_tolerance_is_refused(self, tol):
        with pytest.raises(rz.DataError, match="tol"):
            rz.hinf_norm(oscillator(0.1), tol=tol)

    def test_a_loose_tolerance_is_a_lower_bound_within_it(self):
        exact, loose = rz.hinf_norm(oscillator(0.01)).value, rz.hinf_norm(oscillator(0.01), tol=1e-2).value
        assert exact * (1 - 2.1e-2) <= loose <= exact * (1 + 1e-9)


def exact_peak(model, omega, width):
    """Largest gain near a frequency, one input and one output, at forty digits."""
    mp = mpmath.mp.clone()
    mp.dps = 40
    A, B, C = (mp.matrix(matrix.tolist()) for matrix in (model.A, model.B, model.C))

    def gain(w):
        point = mp.mpc(0, w) if model.dt == 0 else mp.expj(w * mp.mpf(model.dt))
        return abs((C * mp.lu_solve(point * mp.eye(A.rows) - A, B))[0])

    low, high, ratio = mp.mpf(omega) - width, mp.mpf(omega) + width, (mp.sqrt(5) - 1) / 2
    for _ in range(70):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if gain(left) > gain(right) else (left, high)
    return float(gain((low + high) / 2))


class TestLight:
    @pytest.mark.parametrize("discrete", [False, True])
    @pytest.mark.parametrize("damping", [1e-3, 1e-6, 1e-9])
    def test_against_forty_digits(self, damping, discrete):
        rng = np.random.default_rng(1)
        A = block_diag([[0.0, 1.0], [-1.0, -2 * damping]], [[0.0, 9.0], [-9.0, -0.3]])
        Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
        A = Q @ (expm(0.2 * A) if discrete else A) @ Q.T
        model = rz.StateSpace(A, rng.standard_normal((4, 1)), rng.standard_normal((1, 4)), dt=0.2 * discrete)
        norm = rz.hinf_norm(model)
        exact = exact_peak(model, norm.omega, damping)
        assert abs(norm.value - exact) <= gain_rounding(model)
        assert gain_rounding(model) <= 1e-12 / damping * exact

    def test_slicot_finds_the_same(self, rng):
        pytest.importorskip("ctrlsys")
        models = [oscillator(1e-6)]
        for n, p, m, gain in ((0, 2, 3, 1.0), (6, 2, 3, 1e6), (12, 3, 2, 1.0)):
            A = rng.standard_normal((n, n)) / np.sqrt(max(n, 1))
            rest = (
                rng.standard_normal((n, m)),
                rng.standard_normal((p, n)),
                gain * rng.standard_normal((p, m)),
            )
            models += [rz.StateSpace(0.6 * A, *rest), rz.StateSpace(A - 1.5 * np.eye(n), *rest, dt=0.0)]
        sent = [[m.dt == 0, *(x.tolist() for x in matrices(m)), m.n_inputs, m.n_outputs] for m in models]
        answer = subprocess.run(
            [sys.executable, "-c", PEER], input=json.dumps(sent), capture_output=True, text=True, check=True
        )
        found = json.loads(answer.stdout.splitlines()[-1])
        for model, theirs in zip(models, found, strict=True):
            near(rz.hinf_norm(model).value, theirs, "iterative")


PEER = """
import json, sys, numpy as np, ctrlsys
norms = []
for continuous, A, B, C, D, m, p in json.load(sys.stdin):
    n = len(A)
    shapes = (n, n), (n, m), (p, n), (p, m)
    A, B, C, D = (np.asfortranarray(np.reshape(x, s)) for x, s in zip((A, B, C, D), shapes))
    start, E = np.array([0.0, 1.0]), np.eye(n, order="F")
    found = ctrlsys.ab13dd("C" if continuous else "D", "I", "N", "D", n, m, p, start, A, E, B, C, D, 1e-10)
    assert found[-1] == 0
    norms.append(float(found[0][0]))
print(json.dumps(norms))
"""


class TestH2:
    @given(stable_systems(states=(0, 5)))
    def test_it_is_the_energy_of_the_impulse_response(self, model):
        energy = np.linalg.norm(model.impulse_response(1000))
        near(rz.h2_norm(model), energy, "iterative")

    @pytest.mark.parametrize("damping", [0.5, 1e-3])
    def test_a_resonance(self, damping):
        # Impulse response exp(-ζ t) sin(w t) / w, energy 1 / (4 ζ) at frequency one.
        near(rz.h2_norm(oscillator(damping)), np.sqrt(1 / (4 * damping)), "recurrence")

    def test_a_direct_term_in_continuous_time_is_infinite(self):
        assert rz.h2_norm(rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], [[0.1]], dt=0.0)) == math.inf

    def test_an_unstable_model_is_refused(self):
        with pytest.raises(rz.UnstableError, match="h2_norm"):
            rz.h2_norm(rz.StateSpace([[0.0]], [[1.0]], [[1.0]], dt=0.0))

    @given(innovations_models(inputs=(0, 0)))
    def test_of_a_time_series_it_is_the_output_power(self, model):
        state = rz.controllability_gramian(model)
        power = np.trace(model.C @ state @ model.C.T + model.Re)
        near(rz.h2_norm(model), np.sqrt(power), "iterative")


class TestOrder:
    @given(both_times)
    def test_hankel_below_hinf_below_twice_the_sum(self, model):
        strict = rz.StateSpace(model.A, model.B, model.C, None, model.dt)
        hankel, hinf = rz.hankel_norm(strict), rz.hinf_norm(strict).value
        hsv = rz.hankel_singular_values(strict)
        assert hankel == (hsv[0] if len(hsv) else 0.0)
        assert hankel <= hinf * (1 + 1e-9)
        assert hinf <= 2 * hsv.sum() * (1 + 1e-9)

    def test_the_upper_limit_is_reached(self):
        # Balanced with equal signs: the response at zero is twice the sum.
        hsv = np.array([3.0, 1.0, 0.2])
        model = rz.StateSpace(*with_hankel_values(hsv, np.array([1.0, 2.0, 0.5]), np.ones(3)), dt=0.0)
        near(rz.hinf_norm(model).value, 2 * hsv.sum(), "recurrence")
        near(rz.hankel_norm(model), 3.0, "exact")
