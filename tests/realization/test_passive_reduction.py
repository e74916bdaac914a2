"""Reductions that keep a property: gain below one, passivity, a normalized coprime factorization."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from tests.oracles.gramians import bilinear
from tests.strategies import innovations_models, matrix_with_radius, seeds
from tests.tolerances import assert_close, assert_same_system

OPTIONS = [
    {"method": method, "match_dc": match_dc}
    for method in ("square-root", "balancing-free")
    for match_dc in (False, True)
]
options, orders = st.sampled_from(OPTIONS), st.integers(0, 5)


def in_time(system, discrete):
    return rz.StateSpace(*bilinear(*system)) if discrete else rz.StateSpace(*system, dt=0.0)


@st.composite
def contractions(draw):
    """Models with a gain between 0.3 and 0.98."""
    n, p, m = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(seeds))
    A = matrix_with_radius(rng, n, draw(st.floats(0.2, 0.9))) - np.eye(n)
    B, C, D = rng.standard_normal((n, m)), rng.standard_normal((p, n)), rng.standard_normal((p, m))
    scale = draw(st.floats(0.3, 0.98)) / rz.hinf_norm(rz.StateSpace(A, B, C, D, 0.0)).value
    return in_time((A, scale * B, C, scale * D), draw(st.booleans()))


@st.composite
def impedances(draw):
    """Collocated inputs and outputs on a lossy system: strictly positive real by construction."""
    n, p = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(seeds))
    J, B = rng.standard_normal((n, n)), rng.standard_normal((n, p))
    A, D = J - J.T - np.diag(rng.uniform(0.1, 2.0, n)), rng.standard_normal((p, p))
    return in_time((A, B, B.T, D - D.T + rng.uniform(0.05, 1.0) * np.eye(p)), draw(st.booleans()))


@st.composite
def plants(draw):
    """Stable or not."""
    n, p, m = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(seeds))
    A = matrix_with_radius(rng, n, draw(st.floats(0.2, 1.5))) - np.eye(n)
    return in_time(
        (A, rng.standard_normal((n, m)), rng.standard_normal((p, n)), rng.standard_normal((p, m))),
        draw(st.booleans()),
    )


def response(model):
    omega = np.linspace(0, np.pi, 60) if model.dt is None else np.r_[0.0, np.logspace(-2, 3, 90)]
    return model.frequency_response(omega)


def largest(difference):
    return np.linalg.norm(difference, 2, axis=(1, 2)).max(initial=0.0)


def reduced(kind, model, order, **chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rz.OrderWarning)
        return kind(model, order, **chosen)


@given(contractions(), orders, options)
def test_a_gain_below_one_stays_below_one(model, order, chosen):
    result = reduced(rz.bounded_real_truncation, model, order, **chosen)
    assert result.model.is_stable
    assert rz.hinf_norm(result.model).value < 1 + 1e-9
    assert largest(response(model) - response(result.model)) <= result.error + 1e-9
    assert result.error <= result.bound + 1e-9
    assert np.all(result.hsv < 1)


@given(contractions())
def test_bounded_real_values_exceed_those_of_the_model(model):
    # P and Q exceed the gramians: there is more to reach and to see.
    hsv = reduced(rz.bounded_real_truncation, model, None).hsv
    assert np.all(hsv >= rz.hankel_singular_values(model) - 1e-8)


@given(impedances(), orders, options)
def test_a_passive_model_stays_passive(model, order, chosen):
    result = reduced(rz.positive_real_truncation, model, order, **chosen)
    whole, few = response(model), response(result.model)
    assert result.model.is_stable
    assert np.linalg.eigvalsh(few + few.conj().swapaxes(1, 2)).min() > -1e-9

    def scattering(G):
        return (np.eye(G.shape[1]) - G) @ np.linalg.inv(np.eye(G.shape[1]) + G)

    assert largest(scattering(whole) - scattering(few)) <= result.error + 1e-9
    assert result.error <= result.bound + 1e-9


@given(plants(), orders, options)
def test_coprime_factors_are_normalized_and_within_the_bound(model, order, chosen):
    result = reduced(rz.lqg_balanced_truncation, model, order, **chosen)
    assert result.error <= result.bound * (1 + 1e-9) + 1e-9
    for factors, of in ((result._whole, model), (result._part, result.model)):
        omega = np.logspace(-2, 2, 40)
        both, m = factors.frequency_response(omega), model.n_inputs
        assert_close(
            both @ both.conj().swapaxes(1, 2), np.tile(np.eye(model.n_outputs), (40, 1, 1)), "optimum"
        )
        at = omega if model.dt == 0 else 2 * np.arctan(omega)
        assert_close(np.linalg.solve(both[:, :, m:], both[:, :, :m]), of.frequency_response(at), "optimum")


@given(plants())
def test_the_values_are_those_of_both_riccati_equations(model):
    if model.dt is None:
        return
    A, B, C, D = model.A, model.B, model.C, model.D
    R, S = np.eye(len(C)) + D @ D.T, np.eye(B.shape[1]) + D.T @ D
    P = scipy.linalg.solve_continuous_are(A.T, C.T, B @ B.T, R, s=B @ D.T)
    Q = scipy.linalg.solve_continuous_are(A, B, C.T @ C, S, s=C.T @ D)
    expected = np.sort(np.sqrt(np.abs(np.linalg.eigvals(P @ Q))))[::-1]
    assert_close(reduced(rz.lqg_balanced_truncation, model, None).hsv, expected, "optimum")


@pytest.mark.parametrize("kind", ["bounded", "positive", "lqg"])
@given(impedances())
def test_the_full_order_is_the_same_system(kind, model):
    scaled = rz.StateSpace(model.A, model.B, model.C, model.D, model.dt)
    call = {
        "bounded": rz.bounded_real_truncation,
        "positive": rz.positive_real_truncation,
        "lqg": rz.lqg_balanced_truncation,
    }[kind]
    if kind == "bounded":
        norm = 1.1 * rz.hinf_norm(model).value
        scaled = rz.StateSpace(model.A, model.B / norm, model.C, model.D / norm, model.dt)
    assert_same_system(reduced(call, scaled, None).model, scaled, kind="optimum")


@given(innovations_models(states=(2, 4)), st.integers(1, 3))
def test_an_innovations_model_stays_one(model, order):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rz.StabilityWarning)
        result = reduced(rz.lqg_balanced_truncation, model, order)
    assert isinstance(result.model, rz.InnovationsModel)
    assert result.error <= result.bound + 1e-9


def test_by_hand():
    # G = 1 / (s + 1): P² + 2 P - 1 = 0, Q the same, μ = √2 - 1.
    result = rz.lqg_balanced_truncation(rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0), 1)
    assert_close(result.hsv, np.array([np.sqrt(2) - 1]))
    # G = k / (s + 1): (k P)² - 2 P + 1 = 0 with k = 0.6 has P = (1 - 0.8) / 0.36, Q = 0.36 P.
    result = rz.bounded_real_truncation(rz.StateSpace([[-1.0]], [[1.0]], [[0.6]], dt=0.0), 1)
    assert_close(result.hsv, np.array([0.6 * 0.2 / 0.36]))
    # G = 1 + 1 / (s + 1): (1 - P)² = 4 P has P = 3 - 2 √2, Q the same.
    result = rz.positive_real_truncation(rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], [[1.0]], 0.0), 1)
    assert_close(result.hsv, np.array([3 - 2 * np.sqrt(2)]))


def test_one_unstable_state():
    # G = 1 / (s - 1): P² - 2 P - 1 = 0, P = Q = 1 + √2.
    result = rz.lqg_balanced_truncation(rz.StateSpace([[1.0]], [[1.0]], [[1.0]], dt=0.0), 1)
    assert_close(result.hsv, np.array([1 + np.sqrt(2)]), "recurrence")


def test_what_is_not_so_is_refused():
    loud = rz.StateSpace([[-1.0]], [[1.0]], [[2.0]], dt=0.0)
    with pytest.raises(rz.DataError, match="gain 2"):
        rz.bounded_real_truncation(loud, 1)
    with pytest.raises(rz.DataError, match="least eigenvalue"):
        rz.positive_real_truncation(loud, 1)
    with pytest.raises(rz.DataError, match="strictly positive real"):
        rz.positive_real_truncation(rz.StateSpace([[-1.0]], [[1.0]], [[-3.0]], [[1.0]], 0.0), 1)
    with pytest.raises(rz.ShapeError, match="as many of both"):
        rz.positive_real_truncation(rz.StateSpace([[-1.0]], [[1.0, 1.0]], [[1.0]], dt=0.0), 1)
    with pytest.raises(rz.UnstableError, match="1 poles"):
        rz.bounded_real_truncation(rz.StateSpace([[1.0]], [[1.0]], [[2.0]], dt=0.0), 1)
    with pytest.raises(rz.ConvergenceError, match="stabilizing"):
        rz.lqg_balanced_truncation(
            rz.StateSpace(np.diag([1.0, -1.0]), [[0.0], [1.0]], [[1.0, 1.0]], dt=0.0), 1
        )
