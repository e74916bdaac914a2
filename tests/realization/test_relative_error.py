"""Balanced stochastic truncation: its relative bound, the values of the phase, another library's answer."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.systems import spectral_factor
from realization.systems.doubling import doubled, stabilizing_solutions
from realization.systems.projection import System
from tests.oracles.gramians import bilinear
from tests.strategies import innovations_models, matrix_with_radius, seeds
from tests.tolerances import assert_close, assert_same_system


@st.composite
def right_invertible(draw, states=(1, 6)):
    """Models with at least as many inputs as outputs, gain away from zero at the highest frequency."""
    n, p, extra = draw(st.integers(*states)), draw(st.integers(1, 3)), draw(st.integers(0, 1))
    rng, discrete = np.random.default_rng(draw(seeds)), draw(st.booleans())
    A = matrix_with_radius(rng, n, draw(st.floats(0.2, 0.9))) - np.eye(n)
    U, _, Vt = np.linalg.svd(rng.standard_normal((p, p + extra)), full_matrices=False)
    D = U @ np.diag(rng.uniform(0.5, 2.0, p)) @ Vt
    system = A, rng.standard_normal((n, p + extra)), rng.standard_normal((p, n)), D
    return rz.StateSpace(*bilinear(*system)) if discrete else rz.StateSpace(*system, dt=0.0)


def points(model):
    return np.linspace(0, np.pi, 80) if model.dt is None else np.r_[0.0, np.logspace(-2, 3, 120)]


def relative_errors(model, reduced):
    """Roots of the largest eigenvalues of `(G - Gr)* (G Gᵀ*)⁻¹ (G - Gr)`, one frequency at a time."""
    whole, few = (each.frequency_response(points(model)) for each in (model, reduced))
    off, power = whole - few, whole @ whole.conj().transpose(0, 2, 1)
    squares = off.conj().transpose(0, 2, 1) @ np.linalg.solve(power, off)
    return np.sqrt(np.linalg.norm(squares, 2, axis=(1, 2)))


def reduced(model, order, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rz.OrderWarning)
        return rz.balanced_stochastic_truncation(model, order, **options)


@given(
    right_invertible(), st.integers(0, 6), st.booleans(), st.sampled_from(["square-root", "balancing-free"])
)
def test_the_error_is_measured_and_below_the_bound(model, order, match_dc, method):
    result = reduced(model, min(order, model.n_states), match_dc=match_dc, method=method)
    seen = relative_errors(model, result.model).max()
    assert seen <= result.relative_error * (1 + 1e-6) + 1e-6
    assert result.relative_error <= result.bound * (1 + 1e-6) + 1e-6
    assert np.all(result.hsv <= 1 + 1e-9)
    if np.isfinite(result.bound):
        assert result.model.is_stable


@given(right_invertible())
def test_the_full_order_is_the_same_system(model):
    assert_same_system(reduced(model, None).model, model, kind="optimum")


@given(right_invertible(), seeds)
def test_the_basis_of_the_state_does_not_matter(model, seed):
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal(model.A.shape))[0]
    turned = reduced(model.similarity_transform(Q), None).hsv
    assert_close(turned, reduced(model, None).hsv, "optimum")


@given(right_invertible(states=(2, 5)), st.integers(1, 2), st.floats(0.1, 10.0))
def test_units_of_the_output_do_not_matter(model, order, factor):
    # A relative error does not know the gain: an invertible matrix at the outputs changes nothing.
    turn = factor * np.linalg.qr(np.random.default_rng(0).standard_normal((model.n_outputs,) * 2))[0]
    scaled = rz.StateSpace(model.A, model.B, turn @ model.C, turn @ model.D, model.dt)
    one, other = (reduced(each, order) for each in (model, scaled))
    assert_close(other.hsv, one.hsv, "optimum")
    if one.hsv[order - 1] - np.append(one.hsv, 0.0)[order] > 1e-3:
        assert abs(other.relative_error - one.relative_error) <= 1e-6 * (1 + one.relative_error)


def test_one_state_by_hand():
    # (s + 2) / (s + 1): P = 1/2, Q = 2/9, so σ = 1/3; the error 1 / (s + 2) is 1/2 at zero.
    result = rz.balanced_stochastic_truncation(rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], [[1.0]], 0.0), 0)
    assert_close(result.hsv, np.array([1 / 3]))
    assert_close(np.array(result.bound), np.array(1.0))
    assert_close(np.array(result.relative_error), np.array(0.5), "iterative")


def test_zeros_beyond_the_limit_have_values_of_one():
    # (s - 2) (s + 3) / ((s + 1) (s + 4)): one zero on the right.
    model = rz.StateSpace([[-5.0, -4.0], [1.0, 0.0]], [[1.0], [0.0]], [[-4.0, -10.0]], [[1.0]], 0.0)
    result = rz.balanced_stochastic_truncation(model, 1)
    assert abs(result.hsv[0] - 1) < 1e-9
    assert result.hsv[1] < 0.9
    assert result.relative_error <= result.bound
    assert reduced(model, 0).bound == np.inf


@given(innovations_models(states=(1, 4), inputs=(0, 0)))
def test_of_a_process_they_are_its_canonical_correlations(model):
    # Desai and Pal: past and future of a process correlate as its phase's Hankel matrix says.
    result = reduced(model, None)
    assert isinstance(result.model, rz.InnovationsModel)
    assert_close(result.hsv, rz.canonical_correlations(model)[: model.n_states], "optimum", scale=1.0)
    assert_same_system(result.model, model, kind="optimum")


@given(innovations_models(states=(2, 4)), st.integers(0, 3))
def test_an_innovations_model_stays_one_within_the_bound(model, order):
    result = reduced(model, order)
    assert isinstance(result.model, rz.InnovationsModel)
    root = scipy.linalg.sqrtm(model.Re).real
    joint, few = (
        rz.StateSpace(each.A, np.hstack([each.B, each.K @ gain]), each.C, np.hstack([each.D, gain]))
        for each, gain in ((model, root), (result.model, _gain(model, result.model, root)))
    )
    assert relative_errors(joint, few).max() <= result.relative_error + 1e-6
    assert result.relative_error <= result.bound * (1 + 1e-6) + 1e-6


def _gain(model, few, root):
    """Direct term from the innovations at unit variance, which the bilinear transformation changes."""
    # few.Re = gain Re gainᵀ, and the gain at the Nyquist frequency is that of the whole model.
    at = [np.pi]
    whole = model.noise.frequency_response(at)[0].real @ root
    return np.linalg.solve(few.noise.frequency_response(at)[0].real, whole)


def test_an_unstable_part_is_kept():
    A = np.diag([0.2, -0.3, -1.0, -4.0])
    model = rz.StateSpace(A, np.ones((4, 1)), [[1.0, 1.0, 0.1, 0.1]], [[1.0]], 0.0)
    result = rz.balanced_stochastic_truncation(model, 2)
    assert (result.unstable, result.order, result.hsv.shape) == (1, 2, (3,))
    assert_close(result.model.poles.real.max(), np.array(0.2))
    with pytest.raises(rz.UnstableError, match="at least 1"):
        rz.balanced_stochastic_truncation(model, 0)


def test_without_a_direct_term_alpha_is_needed():
    model = rz.StateSpace(np.diag([-1.0, -5.0]), np.ones((2, 1)), [[1.0, 0.3]], dt=0.0)
    with pytest.raises(rz.RankError, match="alpha"):
        rz.balanced_stochastic_truncation(model, 1)
    result = rz.balanced_stochastic_truncation(model, 1, alpha=0.1)
    omega = points(model)
    off = np.abs(model.frequency_response(omega) - result.model.frequency_response(omega))[:, 0, 0]
    allowed = np.hypot(np.abs(model.frequency_response(omega))[:, 0, 0], 0.1)
    assert_close((off / allowed).max(), np.array(result.relative_error), "optimum", scale=100.0)
    assert (off / allowed).max() <= result.relative_error * (1 + 1e-9) <= result.bound * (1 + 1e-9)


def test_a_large_alpha_is_balanced_truncation():
    rng = np.random.default_rng(4)
    model = rz.StateSpace(
        matrix_with_radius(rng, 6, 0.8) - np.eye(6),
        rng.standard_normal((6, 1)),
        rng.standard_normal((1, 6)),
        dt=0.0,
    )
    plain, weighted = rz.balanced_truncation(model, 3), rz.balanced_stochastic_truncation(model, 3, alpha=1e5)
    assert_close(weighted.hsv * 1e5, plain.hsv, "optimum", scale=10 * plain.hsv[0])
    omega = points(model)
    assert_close(
        weighted.model.frequency_response(omega), plain.model.frequency_response(omega), "optimum", scale=10.0
    )


@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf])
def test_a_senseless_alpha(alpha):
    with pytest.raises(rz.DataError, match="alpha"):
        rz.balanced_stochastic_truncation(rz.StateSpace([[0.5]], [[1.0]], [[1.0]], [[1.0]]), 0, alpha=alpha)


def test_with_a_zero_on_the_limit_no_relative_error_is_finite():
    # (s² + 4) / (s + 1)²
    model = rz.StateSpace([[-2.0, -1.0], [1.0, 0.0]], [[1.0], [0.0]], [[-2.0, 3.0]], [[1.0]], 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rz.StabilityWarning)
        result = rz.balanced_stochastic_truncation(model, 1)
    assert_close(result.hsv, np.ones(2), "optimum")
    assert result.bound == result.relative_error == np.inf


def test_no_states():
    model = rz.StateSpace(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), [[1.0, 2.0]], 0.0)
    result = rz.balanced_stochastic_truncation(model, 0)
    assert (result.bound, result.relative_error, result.order) == (0.0, 0.0, 0)


@given(seeds, st.integers(1, 8))
def test_doubling_solves_both_equations(seed, n):
    rng = np.random.default_rng(seed)
    F, left, right = rng.standard_normal((n, n)), rng.standard_normal((n, 2)), rng.standard_normal((n, 2))
    G, H = left @ left.T, right @ right.T
    X, Y = stabilizing_solutions(F, G, H, "test")
    for P, (f, g, h) in ((X, (F, G, H)), (Y, (F.T, H, G))):
        expected = scipy.linalg.solve_continuous_are(f, _root(g), h, np.eye(n))
        assert_close(P, expected, "optimum")


@given(seeds, st.integers(1, 8))
def test_doubling_in_discrete_time(seed, n):
    rng = np.random.default_rng(seed)
    E, left, right = rng.standard_normal((n, n)), rng.standard_normal((n, 2)), rng.standard_normal((n, 2))
    X, Y = doubled(E, left @ left.T, right @ right.T)
    assert_close(X, scipy.linalg.solve_discrete_are(E, left, right @ right.T, np.eye(2)), "optimum")
    assert_close(Y, scipy.linalg.solve_discrete_are(E.T, right, left @ left.T, np.eye(2)), "optimum")


@given(right_invertible())
def test_the_spectral_factor_has_the_spectrum_and_its_zeros_are_stable(model):
    if model.dt is None:
        return
    system = System(model.A, model.B, model.C, model.D, np.eye(model.n_inputs))
    factor = spectral_factor.spectral_factor(system, "test")
    moved = factor.system
    V = rz.StateSpace(moved.A, factor.write, moved.C, factor.root)
    G = rz.StateSpace(moved.A, moved.B, moved.C, moved.D)
    omega = np.linspace(0, np.pi, 40)
    one, other = (each.frequency_response(omega) for each in (V, G))
    assert_close(one @ one.conj().swapaxes(1, 2), other @ other.conj().swapaxes(1, 2), "iterative")
    assert np.abs(factor.form.eigenvalues).max() < 1


class TestPublishedModel:
    """The compact disc player, whose gain spans nine decades."""

    @pytest.fixture(autouse=True)
    def _files(self, measured_data):
        pass

    @pytest.mark.parametrize(
        ("direct", "alpha"), [(1e-3, 0.0), (1.0, 0.0), (0.0, 1e-3), (0.0, 0.1), (0.0, 10.0)]
    )
    def test_small_direct_terms_and_small_alpha(self, direct, alpha, monkeypatch):
        plain = rz.load_benchmark_model("CDplayer")
        model = rz.StateSpace(plain.A, plain.B, plain.C, direct * np.eye(2), 0.0)
        result = rz.balanced_stochastic_truncation(model, 20, alpha=alpha)
        assert result.hsv[0] <= 1.0
        assert result.relative_error <= result.bound < np.inf
        omega = np.logspace(-2, 7, 900)
        whole, few = (each.frequency_response(omega) for each in (model, result.model))
        power = whole @ whole.conj().swapaxes(1, 2) + alpha**2 * np.eye(2)
        off = np.linalg.solve(np.linalg.cholesky(power), whole - few)
        seen = np.linalg.norm(off, 2, axis=(1, 2)).max()
        assert 0.3 * result.relative_error <= seen <= result.relative_error * (1 + 1e-6)
        # The point at which the Riccati equation is posed does not matter: it is well conditioned.
        monkeypatch.setattr(spectral_factor, "_rate", lambda system: 3e3)
        other = rz.balanced_stochastic_truncation(model, 20, alpha=alpha)
        assert_close(other.hsv, result.hsv, "optimum")


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0.0))


PEER = """
import json, sys, numpy as np, ctrlsys
*matrices, order = json.load(sys.stdin)
A, B, C, D = (np.asfortranarray(x, dtype=float) for x in matrices)
n, m, p = len(A), B.shape[1], len(C)
found = ctrlsys.ab09hd("C", "B", "N", "F", n, m, p, order, 0.0, 0.0, A, B, C, D, 0.0, 0.0)
r = found[4]
parts = found[0][:r, :r], found[1][:r], found[2][:, :r], found[3], found[6][:n]
print(json.dumps([np.asarray(part).tolist() for part in parts]))
"""


def test_slicot_finds_the_same(rng):
    pytest.importorskip("ctrlsys")
    A = matrix_with_radius(rng, 9, 0.9) - np.eye(9)
    model = rz.StateSpace(
        A, rng.standard_normal((9, 3)), rng.standard_normal((2, 9)), rng.standard_normal((2, 3)), 0.0
    )
    sent = json.dumps([model.A.tolist(), model.B.tolist(), model.C.tolist(), model.D.tolist(), 4])
    answer = subprocess.run(
        [sys.executable, "-c", PEER], input=sent, capture_output=True, text=True, check=True
    )
    *matrices, hsv = (np.array(part) for part in json.loads(answer.stdout.splitlines()[-1]))
    result = rz.balanced_stochastic_truncation(model, 4)
    assert_close(result.hsv, hsv, "iterative")
    omega = points(model)
    theirs = rz.StateSpace(*matrices, dt=0.0).frequency_response(omega)
    assert_close(result.model.frequency_response(omega), theirs, "iterative")
