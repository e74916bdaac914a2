"""Kalman's parts, minimal realizations, indices, similarity, zeros: against exact ranks and polynomials."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RankError, RealizationError, ShapeError, UnstableError
from realization.systems import (
    InnovationsModel,
    StateSpace,
    are_similar,
    canonical_form,
    controllability_indices,
    controllability_matrix,
    kalman_decomposition,
    minimal,
    observability_indices,
    observability_matrix,
    similarity,
    zeros,
)
from realization.systems.reachability import chains
from tests.strategies import innovations_models, matrix_with_radius, seeds, stable_systems, systems
from tests.tolerances import assert_close, assert_same_system

# Entry (i, j): may the state j of one part act on the state i of another? Order: both, c, o, neither.
ACTS = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)


def whole_number_system(rng, sizes, m=2, p=2):
    """Integer matrices with hidden parts, hidden once more by an integer basis of determinant 1."""
    part, n = np.repeat(np.arange(4), sizes), sum(sizes)
    A = rng.integers(-2, 3, (n, n)) * ACTS[np.ix_(part, part)]
    B = rng.integers(-2, 3, (n, m)) * (part < 2)[:, None]
    C = rng.integers(-2, 3, (p, n)) * (part % 2 == 0)
    lower = np.tril(rng.integers(-1, 2, (n, n)), -1) + np.eye(n, dtype=int)
    T, inverse = sp.Matrix(lower), sp.Matrix(lower).inv()
    return (
        np.array(inverse * sp.Matrix(A) * T, dtype=int).reshape(n, n),
        np.array(inverse * sp.Matrix(B), dtype=int).reshape(n, m),
        np.array(sp.Matrix(C) * T, dtype=int).reshape(p, n),
    )


def exact_powers(A, B):
    blocks, block = [], sp.Matrix(B)
    for _ in range(len(A)):
        blocks.append(block)
        block = sp.Matrix(A) * block
    return sp.Matrix.hstack(*blocks)


def exact_dimensions(A, B, C):
    """Dimensions of the four parts from ranks of integer matrices."""
    reach, sight = exact_powers(A, B), exact_powers(A.T, C.T).T
    r, s, both = reach.rank(), sight.rank(), (sight * reach).rank()
    return both, r - both, s - both, len(A) - r - s + both


def exact_indices(A, B):
    """Columns of `[B, A B, ...]` in turn; one is kept where it raises the exact rank."""
    powers, kept, rank = exact_powers(A, B), [], 0
    for j in range(powers.shape[1]):
        trial = [*kept, j]
        if powers[:, trial].rank() > rank:
            kept, rank = trial, rank + 1
    return np.bincount([j % B.shape[1] for j in kept], minlength=B.shape[1])


class TestKalmanDecomposition:
    @given(sizes=st.tuples(*[st.integers(0, 2)] * 4).filter(lambda sizes: sum(sizes) > 0), seed=seeds)
    def test_dimensions_are_the_exact_ones(self, sizes, seed):
        A, B, C = whole_number_system(np.random.default_rng(seed), sizes)
        found = kalman_decomposition(StateSpace(A, B, C))
        assert tuple(found.dimensions) == exact_dimensions(A, B, C)

    @given(sizes=st.tuples(*[st.integers(0, 3)] * 4).filter(lambda sizes: sum(sizes) > 0), seed=seeds)
    def test_the_form_is_the_system_with_exact_zeros(self, sizes, seed):
        rng = np.random.default_rng(seed)
        model = hidden_parts(rng, sizes)
        found = kalman_decomposition(model)
        part = np.repeat(np.arange(4), found.dimensions)
        assert not found.model.A[~ACTS[np.ix_(part, part)]].any()
        assert not found.model.B[part >= 2].any()
        assert not found.model.C[:, part % 2 == 1].any()
        assert found.residual < 1e-12
        moved = model.similarity_transform(found.T)
        for name in "ABCD":
            assert_close(getattr(found.model, name), getattr(moved, name), what=name, scale=10.0)

    @given(model=systems(states=(1, 6), radius=(0.3, 1.2)))
    def test_where_nothing_is_hidden_the_basis_is_orthogonal(self, model):
        found = kalman_decomposition(model)
        assert found.dimensions.co == model.n_states
        assert_close(found.T.T @ found.T, np.eye(model.n_states))

    def test_units_of_inputs_and_outputs_do_not_matter(self, rng):
        model = hidden_parts(rng, (2, 1, 1, 1))
        scaled = StateSpace(
            model.A, model.B * [1e-9, 1e9], model.C * np.array([[1e9], [1e-9]]), [[1, 2], [3, 4]]
        )
        assert kalman_decomposition(scaled).dimensions == (2, 1, 1, 1)

    def test_a_coarser_tolerance_hides_more(self):
        model = StateSpace(np.diag([0.9, 0.5]), [[1.0], [1e-6]], [[1.0, 1.0]])
        assert kalman_decomposition(model).dimensions == (2, 0, 0, 0)
        assert kalman_decomposition(model, tol=1e-4).dimensions == (1, 0, 1, 0)

    def test_no_states(self):
        model = StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((2, 0)))
        assert kalman_decomposition(model).dimensions == (0, 0, 0, 0)

    @pytest.mark.parametrize("tol", [-1e-3, 1.0, np.nan])
    def test_what_is_refused(self, tol):
        with pytest.raises(DataError, match="0 <= tol < 1"):
            kalman_decomposition(StateSpace([[0.5]], [[1.0]], [[1.0]]), tol=tol)


def hidden_parts(rng, sizes):
    """A stable random system with parts of given sizes, in a random basis."""
    part, n = np.repeat(np.arange(4), sizes), sum(sizes)
    A = rng.standard_normal((n, n)) * ACTS[np.ix_(part, part)]
    A *= 0.9 / np.abs(np.linalg.eigvals(A)).max()
    B = rng.standard_normal((n, 2)) * (part < 2)[:, None]
    C = rng.standard_normal((2, n)) * (part % 2 == 0)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n)
    return StateSpace(A, B, C, rng.standard_normal((2, 2))).similarity_transform(basis)


class TestMinimal:
    @given(sizes=st.tuples(*[st.integers(0, 3)] * 4).filter(lambda sizes: sum(sizes) > 0), seed=seeds)
    def test_markov_parameters_stay_and_hidden_states_go(self, sizes, seed):
        model = hidden_parts(np.random.default_rng(seed), sizes)
        reduced = minimal(model)
        assert reduced.n_states == sizes[0]
        assert_same_system(reduced, model, 20, "recurrence")
        assert minimal(reduced).n_states == sizes[0]

    @given(model=innovations_models(states=(1, 4)))
    def test_an_innovations_model_keeps_both_paths(self, model):
        n, more = model.n_states, 2
        A = np.block([[model.A, np.ones((n, more))], [np.zeros((more, n)), 0.3 * np.eye(more)]])
        zero = np.zeros((more, 1))
        wide = InnovationsModel(
            A,
            np.vstack([model.B, zero.repeat(model.n_inputs, 1)]),
            np.hstack([model.C, np.ones((model.n_outputs, more))]),
            model.D,
            K=np.vstack([model.K, zero.repeat(model.n_outputs, 1)]),
            Re=model.Re,
            u_mean=model.u_mean,
            y_mean=model.y_mean,
        )
        reduced = minimal(wide)
        assert reduced.n_states == n
        assert_same_system(reduced, model, kind="recurrence")
        assert_close(reduced.y_mean, model.y_mean, "bitwise")
        assert_close(reduced.Re, model.Re, "bitwise")

    def test_a_state_that_only_noise_reaches_stays(self):
        model = InnovationsModel(np.diag([0.5, 0.9]), [[1.0], [0.0]], [[1.0, 1.0]], K=[[0.0], [0.2]])
        assert minimal(model).n_states == 2
        assert minimal(model.deterministic).n_states == 1


class TestIndices:
    @given(seed=seeds, n=st.integers(1, 5), m=st.integers(1, 3))
    def test_they_are_the_exact_ones(self, seed, n, m):
        rng = np.random.default_rng(seed)
        A = np.eye(n, k=1, dtype=int) * rng.integers(0, 2, n) + (rng.random((n, n)) < 0.2)
        A, B = A.astype(int), rng.integers(-1, 2, (n, m))
        model = StateSpace(A, B, B.T)
        assert controllability_indices(model).tolist() == exact_indices(A, B).tolist()
        dual = StateSpace(A.T, B, B.T)
        assert observability_indices(dual).tolist() == exact_indices(A, B).tolist()

    @given(model=stable_systems(states=(1, 6)), seed=seeds)
    def test_a_change_of_state_leaves_them(self, model, seed):
        T = np.linalg.qr(np.random.default_rng(seed).standard_normal((model.n_states,) * 2))[0]
        moved = model.similarity_transform(T)
        assert controllability_indices(moved).tolist() == controllability_indices(model).tolist()
        assert observability_indices(moved).tolist() == observability_indices(model).tolist()

    def test_the_basis_is_orthonormal_where_columns_nearly_depend(self, rng):
        b, d = rng.standard_normal((2, 6, 1))
        basis = chains(rng.standard_normal((6, 6)), np.hstack([b, b + 1e-8 * d]), 1e-12).basis
        assert basis.shape == (6, 6)
        assert_close(basis.T @ basis, np.eye(6))

    def test_matrices(self, rng):
        A, B, C = rng.standard_normal((3, 3)), rng.standard_normal((3, 2)), rng.standard_normal((1, 3))
        model = StateSpace(A, B, C)
        assert_close(controllability_matrix(model), np.hstack([B, A @ B, A @ A @ B]))
        assert_close(observability_matrix(model, 2), np.vstack([C, C @ A]))
        noisy = InnovationsModel(A, B, C, K=np.ones((3, 1)))
        assert controllability_matrix(noisy, 1).shape == (3, 3)

    def test_what_is_refused(self):
        model = StateSpace([[1e200]], [[1.0]], [[1.0]])
        with pytest.raises(UnstableError, match="overflows"):
            controllability_matrix(model, 4)
        for count in (-1, 1.5):
            with pytest.raises(ShapeError, match="count="):
                observability_matrix(model, count)


class TestSimilarity:
    @given(model=innovations_models(states=(1, 5), inputs=(1, 2)), seed=seeds)
    def test_the_change_of_state_comes_back(self, model, seed):
        rng = np.random.default_rng(seed)
        n = model.n_states
        T = np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.3, 3, n)
        found = similarity(model, model.similarity_transform(T))
        assert_close(found.T, T, "iterative")
        assert found.residual < 1e-8

    def test_many_states(self, rng):
        n = 60
        model = StateSpace(
            matrix_with_radius(rng, n, 0.95), rng.standard_normal((n, 3)), rng.standard_normal((2, n))
        )
        T = rng.standard_normal((n, n))
        assert_close(similarity(model, model.similarity_transform(T)).T, T, "iterative")

    def test_another_system_is_told_apart(self, rng):
        A, B, C = matrix_with_radius(rng, 4, 0.9), rng.standard_normal((4, 2)), rng.standard_normal((2, 4))
        model = StateSpace(A, B, C)
        for other in (StateSpace(A, 1.01 * B, C), StateSpace(0.99 * A, B, C), StateSpace(A, B, C, np.eye(2))):
            assert not are_similar(model, other)
            with pytest.raises(RealizationError, match="not the same system"):
                similarity(model, other)
        assert not are_similar(model, StateSpace(A, B, C, dt=0.1))
        assert are_similar(model, StateSpace(A, (1 + 1e-9) * B, C))

    def test_what_is_refused(self):
        a = StateSpace([[0.5]], [[1.0]], [[1.0]])
        idle = StateSpace([[0.5]], [[0.0]], [[1.0]])
        with pytest.raises(RankError, match=r"not minimal \(0 of its 1 states"):
            are_similar(idle, a)
        with pytest.raises(ShapeError, match="n_states is 1 and 0"):
            similarity(a, StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0))))
        with pytest.raises(RealizationError, match="one kind"):
            similarity(a, InnovationsModel([[0.5]], [[1.0]], [[1.0]]))
        with pytest.raises(DataError, match="tol=0"):
            similarity(a, a, tol=0)


def system_matrix(model, z):
    return np.block([[model.A - z * np.eye(model.n_states), model.B], [model.C, model.D]])


def by_real_part(values):
    return np.sort_complex(np.round(values, 12))


class TestZeros:
    @given(roots=st.lists(st.integers(-4, 4), max_size=4), poles=st.integers(0, 3), seed=seeds)
    def test_those_of_a_given_numerator(self, roots, poles, seed):
        numerator = np.atleast_1d(np.poly([r / 4 for r in dict.fromkeys(roots)]))
        n = len(numerator) - 1 + poles
        last = np.random.default_rng(seed).uniform(-1, 1, n)
        if n == 0:
            return
        A = np.eye(n, k=1)
        A[-1] = last
        padded = np.r_[np.zeros(n + 1 - len(numerator)), numerator]
        D = padded[0]
        C = padded[:0:-1] + D * last
        model = StateSpace(A, np.eye(n)[:, -1:], C[None], [[D]])
        if np.abs(np.polyval(np.poly(model.poles), np.unique(roots) / 4)).min(initial=1) < 1e-2:
            return  # a zero cancels a pole
        assert_close(by_real_part(zeros(model)), by_real_part(np.roots(numerator)), "optimum", scale=1.0)

    @given(seed=seeds, n=st.integers(1, 4), wide=st.booleans())
    def test_a_common_factor_of_a_system_that_is_not_square(self, seed, n, wide):
        # One channel (z - 0.25) / (z + 0.5) before (after) a system of three outputs (inputs) without zeros.
        rng = np.random.default_rng(seed)
        A, b, C = matrix_with_radius(rng, n, 0.9), rng.standard_normal((n, 1)), rng.standard_normal((3, n))
        cascade = StateSpace(
            np.block([[np.array([[-0.5]]), np.zeros((1, n))], [-0.75 * b, A]]),
            np.vstack([[[1.0]], b]),
            np.hstack([np.zeros((3, 1)), C]),
        )
        model = StateSpace(cascade.A.T, cascade.C.T, cascade.B.T) if wide else cascade
        nothing = StateSpace(A.T, C.T, b.T) if wide else StateSpace(A, b, C)
        if n > 1:
            assert zeros(nothing).shape == (0,)
        assert_close(zeros(model), np.array([0.25 + 0j]), "optimum")

    @given(model=systems(states=(1, 5), inputs=(2, 2), outputs=(2, 2), radius=(0.3, 1.2)))
    def test_square_with_a_direct_term_they_are_the_poles_of_the_inverse(self, model):
        if np.linalg.cond(model.D) > 1e3:
            return
        expected = np.linalg.eigvals(model.A - model.B @ np.linalg.solve(model.D, model.C))
        assert_close(by_real_part(zeros(model)), by_real_part(expected), "optimum")

    def test_square_and_strictly_proper_against_the_determinant(self):
        A = sp.Matrix([[0, 1, 0, 0], [0, 0, 1, 0], [2, 0, 1, 1], [1, -1, 0, 3]])
        B, C = sp.Matrix([[0, 0], [0, 0], [1, 0], [0, 1]]), sp.Matrix([[1, 3, 1, 0], [0, 1, 0, 1]])
        z = sp.Symbol("z")
        pencil = sp.Matrix(sp.BlockMatrix([[A - z * sp.eye(4), B], [C, sp.zeros(2)]]))
        expected = np.roots([float(x) for x in sp.Poly(pencil.det(), z).all_coeffs()])
        found = zeros(StateSpace(*(np.array(matrix, dtype=float) for matrix in (A, B, C))))
        assert_close(by_real_part(found), by_real_part(expected), "iterative")

    def test_the_rank_drops_at_a_zero_and_units_do_not_matter(self, rng):
        A, B, C = matrix_with_radius(rng, 5, 0.9), rng.standard_normal((5, 2)), rng.standard_normal((2, 5))
        model = StateSpace(A, B, C)
        found = zeros(model)
        assert len(found) == 3
        for z in found:
            values = np.linalg.svd(system_matrix(model, z), compute_uv=False)
            assert values[-1] < 1e-12 * values[0]
        scaled = StateSpace(A, B * [1e-8, 1e6], C * np.array([[1e7], [1e-5]]))
        assert_close(by_real_part(zeros(scaled)), by_real_part(found), "iterative")

    def test_hidden_modes_count_until_they_are_taken_off(self):
        model = StateSpace(np.diag([0.5, 0.2]), [[1.0], [0.0]], [[1.0, 1.0]])
        assert_close(zeros(model).real, np.array([0.2]))
        assert zeros(minimal(model)).shape == (0,)

    def test_zeros_of_the_noise_path_are_the_predictors_poles(self, rng):
        model = InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.3]])
        assert_close(zeros(model.noise).real, np.array([0.2]))

    def test_what_is_refused(self):
        with pytest.raises(DataError, match="tol=2"):
            zeros(StateSpace([[0.5]], [[1.0]], [[1.0]]), tol=2)


def test_minimal_realizations_of_one_system_share_a_canonical_form(rng):
    a = hidden_parts(rng, (3, 1, 1, 0))
    b = a.similarity_transform(rng.standard_normal((5, 5)))
    assert are_similar(minimal(a), minimal(b))
    first, second = (canonical_form(minimal(model), "controllable").model for model in (a, b))
    assert_close(first.A, second.A, "iterative")
    assert_close(first.C, second.C, "iterative", scale=100.0)
