"""Gramians of a band or an interval against quadrature and sums, and the reduction that they give."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from tests.strategies import innovations_models, matrix_with_radius, seeds, stable_systems
from tests.tolerances import assert_close, assert_same_system


@st.composite
def with_band(draw, states=(1, 6)):
    """A stable model in either time, and a band in rad/s."""
    model = draw(stable_systems(states=states, dt=None))
    dt = draw(st.sampled_from([None, 0.1, 0.0]))
    A = model.A - np.eye(model.n_states) if dt == 0 else model.A
    step = dt or 1.0
    low, width = draw(st.floats(0, 1.5)), draw(st.floats(0.1, 1.6))
    return rz.StateSpace(A, model.B, model.C, model.D, dt), (low / step, (low + width) / step)


def integral(A, B, band, dt, points=600):
    """Gauss-Legendre quadrature of the definition, on both sides of zero."""
    places, weights = np.polynomial.legendre.leggauss(points)
    half, step = (band[1] - band[0]) / 2, 1.0 if dt is None else dt
    omega = band[0] + half * (places + 1)
    z = 1j * omega if dt == 0 else np.exp(1j * omega * step)
    reached = np.linalg.solve(z[:, None, None] * np.eye(len(A)) - A, B.astype(complex))
    total = np.einsum("t,tij,tkj->ik", weights * half, reached, reached.conj()).real / np.pi
    return total if dt == 0 else total * step


@given(with_band())
def test_they_are_the_integral(drawn):
    model, band = drawn
    found = rz.frequency_limited_gramians(model, band)
    reach, sight = (integral(A, B, band, model.dt) for A, B in ((model.A, model.B), (model.A.T, model.C.T)))
    whole = np.abs(rz.controllability_gramian(model)).max(), np.abs(rz.observability_gramian(model)).max()
    assert_close(found.Wc, reach, "iterative", scale=whole[0])
    assert_close(found.Wo, sight, "iterative", scale=whole[1])


@given(with_band(), st.floats(0.1, 3.0))
def test_adjacent_bands_add_up_to_the_whole(drawn, cut):
    model, _ = drawn
    cut = cut / (model.dt or 1.0)
    parts = [rz.frequency_limited_gramians(model, band) for band in ((0.0, cut), (cut, np.inf))]
    assert_close(parts[0].Wc + parts[1].Wc, rz.controllability_gramian(model), "iterative")
    assert_close(parts[0].Wo + parts[1].Wo, rz.observability_gramian(model), "iterative")


def test_one_state_by_hand():
    # 1 / (s + 1): the integral of 1 / (1 + ω²) over π is atan(ω) / π.
    model = rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0)
    for omega in (0.1, 1.0, 30.0):
        expected = np.array([[np.arctan(omega) / np.pi]])
        assert_close(rz.frequency_limited_gramians(model, (0, omega)).Wc, expected)


@pytest.mark.parametrize("damping", [1e-2, 1e-6])
def test_a_resonance_counts_where_it_is(damping):
    A = np.array([[-damping, 1.0], [-1.0, -damping]])
    model = rz.StateSpace(A, [[0.0], [1.0]], [[1.0, 0.0]], dt=0.0)
    whole = np.trace(rz.controllability_gramian(model))
    inside = np.trace(rz.frequency_limited_gramians(model, (0.9, 1.1)).Wc)
    # A Lorentzian line of this width leaves two tails outside.
    assert_close(
        np.array(inside / whole),
        np.array(1 - 2 * damping / 0.1 / np.pi),
        "optimum",
        scale=10 * damping**2 / 1e-6 + 1,
    )


@given(stable_systems(states=(1, 5)), st.integers(1, 12))
def test_a_number_of_samples(model, count):
    found = rz.time_limited_gramians(model, count)
    expected, reached = np.zeros_like(model.A), model.B
    for _ in range(count):
        expected, reached = expected + reached @ reached.T, model.A @ reached
    scale = np.abs(rz.controllability_gramian(model)).max()
    assert_close(found.Wc, expected, "recurrence", scale=scale)


def test_a_stretch_of_time(rng):
    A, B = matrix_with_radius(rng, 4, 0.9) - np.eye(4), rng.standard_normal((4, 2))
    places, weights = np.polynomial.legendre.leggauss(60)
    flows = np.array([scipy.linalg.expm(A * t) @ B for t in 1.5 * (places + 1)])
    expected = np.einsum("t,tij,tkj->ik", 1.5 * weights, flows, flows)
    assert_close(rz.time_limited_gramians(rz.StateSpace(A, B, B.T, dt=0.0), 3.0).Wc, expected, "recurrence")


@pytest.mark.parametrize("duration", [0.0, -1.0, np.nan, np.inf, 0.25])
def test_a_senseless_duration(duration):
    with pytest.raises(rz.DataError, match="duration"):
        rz.time_limited_gramians(rz.StateSpace([[0.5]], [[1.0]], [[1.0]], dt=0.1), duration)


@pytest.mark.parametrize("band", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (np.nan, 1.0), 3.0, (4.0, 5.0)])
def test_a_senseless_band(band):
    model = rz.StateSpace([[0.5]], [[1.0]], [[1.0]])
    for call in (
        lambda: rz.frequency_limited_gramians(model, band),
        lambda: rz.frequency_limited_truncation(model, 1, band=band),
        lambda: rz.hinf_norm(model, band=band),
    ):
        with pytest.raises(rz.DataError, match="band"):
            call()


def test_an_unstable_model_has_none():
    for call in (
        lambda model: rz.frequency_limited_gramians(model, (0, 1)),
        lambda model: rz.time_limited_gramians(model, 1),
    ):
        with pytest.raises(rz.UnstableError, match="limited_gramians"):
            call(rz.StateSpace([[1.1]], [[1.0]], [[1.0]]))


def gains(model, omega):
    return np.linalg.norm(model.frequency_response(omega), 2, axis=(1, 2))


@given(with_band())
def test_the_norm_of_a_band(drawn):
    model, band = drawn
    norm = rz.hinf_norm(model, band=band)
    assert band[0] <= norm.omega <= band[1]
    on_a_grid = gains(
        model,
        np.linspace(band[0], min(band[1], np.pi / (model.dt or 1.0)) if model.dt != 0 else band[1], 400),
    )
    assert norm.value >= on_a_grid.max() * (1 - 1e-12)
    assert norm.value <= on_a_grid.max() * 1.01 + 1e-12
    assert_close(gains(model, [norm.omega])[0], np.array(norm.value), "iterative")
    assert norm.value <= rz.hinf_norm(model).value * (1 + 1e-9)


def test_the_norm_of_a_band_of_an_unstable_model():
    model = rz.StateSpace([[1.0]], [[1.0]], [[1.0]], dt=0.0)
    assert_close(np.array(rz.hinf_norm(model, band=(2.0, 5.0)).value), np.array(1 / np.sqrt(5)), "iterative")


def reduced(model, order, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rz.frequency_limited_truncation(model, order, **options)


@given(with_band(), st.integers(0, 6))
def test_all_frequencies_are_balanced_truncation(drawn, order):
    model, _ = drawn
    plain = rz.balanced_truncation(model, min(order, model.n_states))
    if (
        plain.order
        and plain.hsv[plain.order - 1] - np.append(plain.hsv, 0.0)[plain.order] < 1e-3 * plain.hsv[0]
    ):
        return
    for modified in (False, True):
        result = reduced(model, plain.order, band=(0.0, np.inf), modified=modified)
        omega = np.linspace(0, 3, 40)
        assert_close(
            result.model.frequency_response(omega),
            plain.model.frequency_response(omega),
            "optimum",
            scale=1 + plain.hsv[0],
        )
        if modified:
            assert_close(np.array(result.bound), np.array(plain.bound), "optimum", scale=1 + plain.hsv[0])


@given(with_band(), st.integers(0, 6))
def test_the_modified_one_is_stable_and_within_its_bound(drawn, order):
    model, band = drawn
    result = reduced(model, min(order, model.n_states), band=band, modified=True)
    assert result.model.is_stable
    assert result.error <= result.bound * (1 + 1e-6) + 1e-9
    assert result.band_error <= result.error * (1 + 1e-9) + 1e-12


@given(with_band(), st.integers(0, 6), st.sampled_from(["square-root", "balancing-free"]))
def test_the_error_in_the_band_is_what_is_seen(drawn, order, method):
    model, band = drawn
    result = reduced(model, min(order, model.n_states), band=band, method=method)
    omega = np.linspace(*result.band, 300)
    off = model.frequency_response(omega) - result.model.frequency_response(omega)
    seen = np.linalg.norm(off, 2, axis=(1, 2)).max()
    scale = 1e-9 * (1 + gains(model, omega).max())
    if result.model.is_stable:
        assert seen <= result.band_error * (1 + 1e-9) + scale
        assert result.band_error <= result.error * (1 + 1e-9) + scale
    else:
        assert result.error == np.inf
    assert result.bound == np.inf


def two_modes(dt=0.0):
    blocks = [[[-0.05, w], [-w, -0.05]] for w in (1.0, 3.0, 8.0)]
    A = scipy.linalg.block_diag(*blocks)
    B, C = np.tile([[0.0], [1.0]], (3, 1)), np.array([[1.0, 0, 0.6, 0, 0.1, 0]])
    return rz.StateSpace(A, B, C, dt=dt)


def test_the_weak_mode_of_the_band_stays():
    model, band = two_modes(), (7.0, 9.0)
    plain, limited = rz.balanced_truncation(model, 2), reduced(model, 2, band=band)
    assert np.abs(plain.model.poles).max() < 2.0
    assert_close(np.abs(limited.model.poles), np.full(2, 8.0), "optimum", scale=1e4)
    missed = rz.hinf_norm(
        rz.StateSpace(
            scipy.linalg.block_diag(model.A, plain.model.A),
            np.vstack([model.B, plain.model.B]),
            np.hstack([model.C, -plain.model.C]),
            dt=0.0,
        ),
        band=band,
    ).value
    assert limited.band_error < missed / 10
    assert limited.error > 5.0


def test_lost_stability_is_said(rng):
    for seed in range(300):
        generator = np.random.default_rng(seed)
        A = matrix_with_radius(generator, 5, 0.98)
        model = rz.StateSpace(A, generator.standard_normal((5, 1)), generator.standard_normal((1, 5)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = rz.frequency_limited_truncation(model, 2, band=(0.4, 0.6))
        assert result.model.is_stable == (not any(w.category is rz.StabilityWarning for w in caught))
        if not result.model.is_stable:
            assert result.error == np.inf
            assert reduced(model, 2, band=(0.4, 0.6), modified=True).model.is_stable
            return
    pytest.fail("none of the models lost its stability")


@given(innovations_models(states=(1, 4)), st.floats(0.1, 2.0))
def test_an_innovations_model_stays_one(model, low):
    result = reduced(model, None, band=(low, low + 1.0), modified=True)
    assert isinstance(result.model, rz.InnovationsModel)
    if result.order == model.n_states:
        assert_same_system(result.model, model, kind="optimum")


def test_unstable_poles_are_kept():
    model = rz.StateSpace(np.diag([1.0, 0.9, 0.3, -0.5]), np.ones((4, 1)), [[1.0, 1.0, 0.2, 0.1]])
    result = rz.frequency_limited_truncation(model, 2, band=(0.1, 1.0))
    assert (result.unstable, result.order, result.hsv.shape) == (1, 2, (3,))
    assert 1.0 in result.model.poles.round(12)


@given(seeds)
def test_no_states_and_no_order(seed):
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((1, 2))
    empty = rz.StateSpace(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), D, 0.0)
    result = rz.frequency_limited_truncation(empty, 0, band=(0.0, 1.0))
    assert (result.order, result.error, result.band_error) == (0, 0.0, 0.0)
