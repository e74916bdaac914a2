"""Gramians against sums, fractions and their equations; Hankel singular values of systems that have them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.systems import gramian_factors
from realization.systems.lyapunov import SchurForm, complex_schur, lyapunov_factor
from tests.oracles.gramians import bilinear, gramian_exact, gramian_sum, with_hankel_values
from tests.strategies import innovations_models, matrix_with_radius, seeds, stable_systems
from tests.tolerances import assert_close


def continuous(model):
    """The same matrices in continuous time, moved left until they are stable."""
    return rz.StateSpace(model.A - 1.0 * np.eye(model.n_states), model.B, model.C, model.D, 0.0)


both_times = stable_systems(states=(0, 7)).flatmap(lambda model: st.sampled_from([model, continuous(model)]))


def misfit(model, P):
    A, drive = model.A, model.B @ model.B.T
    left = A @ P + P @ A.T if model.dt == 0 else A @ P @ A.T - P
    return np.abs(left + drive).max(initial=0.0) / max(
        1.0, np.abs(P).max(initial=0.0), np.abs(drive).max(initial=0.0)
    )


@given(both_times)
def test_they_solve_their_equations(model):
    assert misfit(model, rz.controllability_gramian(model)) < 1e-12
    dual = rz.StateSpace(model.A.T, model.C.T, model.B.T, model.D.T, model.dt)
    assert misfit(dual, rz.observability_gramian(model)) < 1e-12


@given(stable_systems(states=(1, 5)))
def test_the_sum_itself(model):
    assert_close(rz.controllability_gramian(model), gramian_sum(model.A, model.B, 1000), "recurrence")
    assert_close(rz.observability_gramian(model), gramian_sum(model.A.T, model.C.T, 1000), "recurrence")


def test_the_integral_itself(rng):
    A, B = matrix_with_radius(rng, 4, 0.9) - np.eye(4), rng.standard_normal((4, 2))
    points, weights = np.polynomial.legendre.leggauss(400)
    times = 200.0 * (points + 1)
    flows = np.array([scipy.linalg.expm(A * t) @ B for t in times])
    integral = np.einsum("t,tij,tkj->ik", 200.0 * weights, flows, flows)
    assert_close(rz.controllability_gramian(rz.StateSpace(A, B, B.T, dt=0.0)), integral, "iterative")


@given(seeds, st.integers(1, 4), st.booleans())
def test_exact_fractions(seed, n, discrete):
    rng = np.random.default_rng(seed)
    A, B = rng.integers(-2, 3, (n, n)), rng.integers(-3, 4, (n, 2))
    if not discrete:
        A = A - 16 * np.eye(n, dtype=int)
    model = rz.StateSpace(A / 16, B, B.T, dt=None if discrete else 0.0)
    assert_close(rz.controllability_gramian(model), gramian_exact(A, B, 16, discrete=discrete), "recurrence")


@given(both_times)
def test_factors_are_factors(model):
    factors = gramian_factors(model)
    assert_close(factors.Lc @ factors.Lc.T, rz.controllability_gramian(model), "exact")
    assert_close(factors.Lo @ factors.Lo.T, rz.observability_gramian(model), "exact")


GRADED = 10.0 ** -np.arange(0.0, 15.0)


@pytest.mark.parametrize("signs", [np.ones(15), (-1.0) ** np.arange(15)], ids=["equal", "alternating"])
@pytest.mark.parametrize("discrete", [False, True])
def test_small_hankel_singular_values_are_right_to_rounding_of_the_largest(rng, signs, discrete):
    gains = np.sqrt(2 * GRADED) * rng.uniform(0.5, 2.0, 15)
    system = with_hankel_values(GRADED, gains, signs)
    system = bilinear(*system) if discrete else system
    model = rz.StateSpace(*system, dt=None if discrete else 0.0)
    assert np.abs(rz.hankel_singular_values(model) - GRADED).max() < 1e-14
    Q = np.linalg.qr(rng.standard_normal((15, 15)))[0]
    turned = rz.hankel_singular_values(model.similarity_transform(Q))
    assert np.abs(turned - GRADED).max() < 1e-14


def test_the_product_of_gramians_would_lose_half_the_digits():
    model = rz.StateSpace(*with_hankel_values(GRADED, np.sqrt(2 * GRADED), np.ones(15)), dt=0.0)
    turned = model.similarity_transform(np.linalg.qr(np.random.default_rng(1).standard_normal((15, 15)))[0])
    product = rz.controllability_gramian(turned) @ rz.observability_gramian(turned)
    squared = np.sort(np.sqrt(np.abs(np.linalg.eigvals(product))))[::-1]
    assert np.abs(squared - GRADED).max() > 1e-10


@given(both_times, seeds)
def test_the_state_basis_does_not_matter(model, seed):
    T = np.eye(model.n_states) + 0.2 * matrix_with_radius(np.random.default_rng(seed), model.n_states, 1.0)
    changed = rz.hankel_singular_values(model.similarity_transform(T))
    assert_close(changed, rz.hankel_singular_values(model), "iterative")


@given(both_times)
def test_units_of_the_state_do_not_matter(model):
    n = model.n_states
    scaled = model.similarity_transform(np.diag(2.0 ** (10.0 * (-1.0) ** np.arange(n))))
    assert_close(rz.hankel_singular_values(scaled), rz.hankel_singular_values(model), "recurrence")


@given(stable_systems(states=(1, 6)))
def test_they_are_the_singular_values_of_a_long_hankel_matrix(model):
    reach, sight = [model.B], [model.C]
    for _ in range(600):
        reach.append(model.A @ reach[-1])
        sight.append(sight[-1] @ model.A)
    expected = np.linalg.svd(
        np.linalg.qr(np.vstack(sight))[1] @ np.linalg.qr(np.hstack(reach).T)[1].T, compute_uv=False
    )
    assert_close(rz.hankel_singular_values(model)[: len(expected)], expected, "recurrence")


@given(seeds, st.integers(1, 6), st.integers(1, 3))
def test_an_all_pass_has_ones(seed, n, m):
    U = np.linalg.qr(np.random.default_rng(seed).standard_normal((n + m, n + m)))[0]
    model = rz.StateSpace(U[:n, :n], U[:n, n:], U[n:, :n], U[n:, n:])
    if np.abs(model.poles).max() < 1 - 1e-6:
        assert_close(rz.hankel_singular_values(model), np.ones(n), "iterative")


def test_a_sliding_mean_by_hand():
    # h = 1, 1: Hankel matrix [[1, 1], [1, 0]], eigenvalues (1 ± √5) / 2.
    model = rz.StateSpace(np.eye(2, k=1), [[0.0], [1.0]], [[1.0, 1.0]])
    golden = (1 + np.sqrt(5)) / 2
    assert_close(rz.hankel_singular_values(model), np.array([golden, golden - 1]))


def test_unreached_and_unseen_states_count_zero():
    model = rz.StateSpace(np.diag([0.5, 0.4, 0.3]), [[1.0], [0.0], [1.0]], [[1.0, 1.0, 0.0]])
    assert_close(rz.hankel_singular_values(model), np.array([1 / 0.75, 0.0, 0.0]))
    assert rz.controllability_gramian(model)[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dt", [None, 0.0])
def test_no_states_and_no_inputs(dt):
    empty = rz.StateSpace(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((1, 0)), dt=dt)
    assert rz.controllability_gramian(empty).shape == rz.observability_gramian(empty).shape == (0, 0)
    assert rz.hankel_singular_values(empty).shape == (0,)
    silent = rz.StateSpace([[-0.5]], np.zeros((1, 0)), [[1.0]], dt=dt)
    assert rz.controllability_gramian(silent).tolist() == [[0.0]]
    assert rz.hankel_singular_values(silent).tolist() == [0.0]


def test_more_inputs_than_states_and_repeated_poles():
    A, B = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, -1.0]]), np.arange(15.0).reshape(3, 5)
    model = rz.StateSpace(A, B, np.eye(3), dt=0.0)
    expected = scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T)
    assert_close(rz.controllability_gramian(model), expected, "recurrence")


@pytest.mark.parametrize(
    "call", [rz.controllability_gramian, rz.observability_gramian, rz.hankel_singular_values, gramian_factors]
)
@pytest.mark.parametrize(("A", "dt"), [([[1.0]], None), ([[1.5]], 1.0), ([[0.0]], 0.0), ([[0.1]], 0.0)])
def test_an_unstable_model_is_refused_with_advice(call, A, dt):
    with pytest.raises(rz.UnstableError, match=r"pole at .*stable_antistable_split"):
        call(rz.StateSpace(A, [[1.0]], [[1.0]], dt=dt))


def test_numbers_out_of_range_are_refused():
    with pytest.raises(rz.ConvergenceError, match="units"):
        rz.controllability_gramian(rz.StateSpace([[0.5]], [[1e200]], [[1.0]]))


@given(innovations_models(states=(1, 5), inputs=(0, 0)))
def test_a_time_series_model_is_driven_by_its_innovations(model):
    drive = model.K @ scipy.linalg.sqrtm(model.Re).real
    expected = gramian_sum(model.A, drive, 1000)
    assert_close(rz.controllability_gramian(model), expected, "iterative")


@given(innovations_models(states=(1, 5), inputs=(1, 2)))
def test_a_model_with_inputs_is_driven_by_them(model):
    plain = rz.controllability_gramian(model.deterministic)
    assert_close(rz.controllability_gramian(model), plain, "bitwise")


@given(seeds, st.integers(1, 8))
def test_the_schur_form(seed, n):
    rng = np.random.default_rng(seed)
    A, B, C = rng.standard_normal((n, n)), rng.standard_normal((n, 2)), rng.standard_normal((2, n))
    A[0] *= 2.0**40
    form = SchurForm.of(A)
    basis = form.scale[:, None] * form.Z
    assert_close(np.linalg.solve(basis, A @ basis), form.T, "iterative")
    assert_close(np.linalg.solve(basis, B), form.inward(B), "iterative")
    assert_close(C @ basis, form.outward(C), "iterative")
    S, drive, read = complex_schur(form.T, form.inward(B), form.outward(C))
    assert np.abs(np.tril(S, -1)).max() <= 1e-14 * np.abs(S).max()
    assert_close(S.diagonal(), form.eigenvalues, "iterative")
    point = 1j * np.abs(form.eigenvalues).max() + 1.0
    expected = C @ np.linalg.solve(point * np.eye(n) - A, B)
    assert_close(read @ np.linalg.solve(point * np.eye(n) - S, drive), expected, "iterative")


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("m", [1, 7, 90])
def test_many_states(rng, discrete, transposed, m):
    A = matrix_with_radius(rng, 60, 0.95) - (0 if discrete else 1.0) * np.eye(60)
    B = rng.standard_normal((60, m))
    T = SchurForm.of(A).T
    factor = lyapunov_factor(T, B, discrete=discrete, transposed=transposed)
    matrix = T.T if transposed else T
    solve = scipy.linalg.solve_discrete_lyapunov if discrete else scipy.linalg.solve_continuous_lyapunov
    assert_close(factor @ factor.T, solve(matrix, B @ B.T if discrete else -B @ B.T), "recurrence")
