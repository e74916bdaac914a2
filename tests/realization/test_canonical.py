"""Canonical forms: the entries that each fixes, the system that it keeps, windows to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RankError, RealizationError, UnstableError
from realization.systems import (
    InnovationsModel,
    StateSpace,
    canonical_form,
    controllability_gramian,
    controllability_indices,
    hankel_singular_values,
    observability_gramian,
    observability_indices,
)
from tests.strategies import innovations_models, matrix_with_radius, seeds, stable_systems, systems
from tests.tolerances import assert_close, assert_same_system

FORMS = ("controllable", "observable", "shift", "modal", "schur")


def window(w, m):
    """Shift matrix of the last `w` inputs of dimension `m`, and where they enter."""
    return np.kron(np.eye(w, k=1), np.eye(m)), np.kron(np.eye(w)[:, -1:], np.eye(m))


def mild_basis(rng, n):
    """A random basis with condition number up to 4."""
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return U * rng.uniform(0.5, 2, n) @ V


@pytest.mark.parametrize("form", FORMS)
class TestEveryForm:
    @given(model=systems(states=(0, 5), radius=(0.3, 1.2), dt=0.1))
    def test_it_is_the_same_system(self, form, model):
        found = canonical_form(model, form)
        assert found.form == form
        assert sum(found.blocks) == model.n_states
        kind = "iterative" if found.condition < 1e4 else "optimum"  # a digit goes with each power of ten
        assert_same_system(found.model, model, kind=kind)
        if model.n_states:
            moved = model.similarity_transform(found.T)
            for name in "ABC":
                assert_close(getattr(found.model, name), getattr(moved, name), kind, what=name)

    @given(model=innovations_models(states=(1, 4)))
    def test_an_innovations_model_stays_one(self, form, model):
        found = canonical_form(model, form).model
        assert_same_system(found, model, kind="iterative")
        assert_close(found.Re, model.Re, "bitwise")
        assert_close(found.y_mean, model.y_mean, "bitwise")

    def test_continuous_time(self, form):
        model = StateSpace([[-1.0, 2.0], [0.0, -3.0]], [[0.0], [1.0]], [[1.0, 0.0]], dt=0.0)
        assert_same_system(canonical_form(model, form).model, model)

    def test_options_of_other_forms_are_refused(self, form):
        model = StateSpace([[0.5]], [[1.0]], [[1.0]])
        wrong = {"tol": 1e-8} if form in ("modal", "schur") else {"coupling": 10.0}
        with pytest.raises(RealizationError, match="belongs to"):
            canonical_form(model, form, **wrong)


class TestCompanion:
    def test_characteristic_polynomial_and_numerator_of_a_rational_system(self):
        A = sp.Matrix([[1, 2, 0], [0, -1, 1], [1, 0, 3]]) / 4
        b, c, z = sp.Matrix([1, 0, 1]), sp.Matrix([[1, 1, 0]]), sp.Symbol("z")
        denominator = sp.Poly((z * sp.eye(3) - A).det(), z)
        numerator = sp.Poly(sp.expand((c * (z * sp.eye(3) - A).adjugate() * b)[0]), z)
        model = StateSpace(*(np.array(matrix, dtype=float) for matrix in (A, b, c)))
        low_first = [float(coefficient) for coefficient in denominator.all_coeffs()[:0:-1]]
        found = canonical_form(model, "controllable").model
        assert_close(found.A[-1], -np.array(low_first))
        expected = [float(x) for x in numerator.all_coeffs()[::-1]]
        assert_close(found.C[0], np.array(expected + [0.0] * (3 - len(expected))))
        dual = canonical_form(model, "observable").model
        assert_close(dual.A, found.A.T)
        assert_close(dual.B[:, 0], found.C[0])
        assert_close(dual.C[0], np.array([0.0, 0.0, 1.0]), "bitwise")

    @given(model=systems(states=(1, 5), radius=(0.3, 1.2)))
    def test_several_inputs_and_outputs(self, model):
        for form, index in (("controllable", controllability_indices), ("observable", observability_indices)):
            found = canonical_form(model, form)
            A, B = (
                (found.model.A, found.model.B)
                if form == "controllable"
                else (found.model.A.T, found.model.C.T)
            )
            sizes = index(model)
            assert found.blocks == tuple(sizes[sizes > 0])
            last = np.cumsum(sizes)[sizes > 0] - 1
            shift = np.delete(np.arange(len(A)), last)
            assert_close(A[shift], np.eye(len(A), k=1)[shift], "bitwise")
            assert not B[shift].any()
            assert_close(np.diag(B[last][:, sizes > 0]), np.ones(len(last)), "bitwise")
            assert_close(np.tril(B[last][:, sizes > 0], -1), np.zeros((len(last),) * 2), "bitwise")

    def test_the_form_does_not_depend_on_the_basis(self, rng):
        model = StateSpace(
            matrix_with_radius(rng, 4, 0.8), rng.standard_normal((4, 2)), rng.standard_normal((1, 4))
        )
        moved = model.similarity_transform(mild_basis(rng, 4))
        for form in ("controllable", "observable", "shift"):
            one, other = (canonical_form(each, form).model for each in (model, moved))
            for name in "ABC":
                assert_close(getattr(other, name), getattr(one, name), "iterative", what=name)

    def test_a_system_that_is_not_reached_or_seen_is_refused(self):
        idle = StateSpace(np.diag([0.5, 0.2]), [[1.0], [0.0]], [[0.0, 1.0]])
        with pytest.raises(RankError, match=r"inputs determine every state; here they determine 1 of 2"):
            canonical_form(idle, "controllable")
        with pytest.raises(RankError, match="outputs determine"):
            canonical_form(idle, "observable")
        with pytest.raises(RankError, match="shift form needs"):
            canonical_form(idle, "shift")

    def test_an_ill_conditioned_one_is_refused(self):
        n = 24
        model = StateSpace(np.diag(np.linspace(0.1, 0.9, n)), np.ones((n, 1)), np.ones((1, n)))
        with pytest.raises(RankError):
            canonical_form(model, "controllable", tol=1e-300)


class TestShift:
    @given(w=st.integers(1, 5), m=st.integers(1, 2), seed=seeds)
    def test_a_window_is_found_in_any_basis(self, w, m, seed):
        rng = np.random.default_rng(seed)
        A, B = window(w, m)
        model = StateSpace(A, B, rng.standard_normal((2, w * m)))
        found = canonical_form(model.similarity_transform(mild_basis(rng, w * m)), "shift")
        assert_close(found.model.A, A, "bitwise")
        assert_close(found.model.B, B, "bitwise")
        assert_close(found.model.C, model.C, "iterative")
        assert found.blocks == (w,) * m
        assert not np.linalg.matrix_power(found.model.A, w).any()

    def test_belts_of_different_lengths(self, rng):
        A = scipy.linalg.block_diag(np.eye(3, k=1), np.zeros((1, 1)))
        B = np.zeros((4, 2))
        B[2, 0] = B[3, 1] = 1.0
        model = StateSpace(A, B, rng.standard_normal((1, 4))).similarity_transform(mild_basis(rng, 4))
        found = canonical_form(model, "shift")
        assert found.blocks == (3, 1)
        expected = np.zeros((4, 4))
        expected[0, 1] = expected[1, 2] = 1.0  # oldest first; the two newest side by side at the end
        assert_close(found.model.A, expected, "bitwise")
        assert_close(found.model.B, np.array([[0, 0], [0, 0], [1.0, 0], [0, 1.0]]), "bitwise")

    @given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=seeds)
    def test_a_nilpotent_matrix_shows_its_jordan_structure(self, lengths, seed):
        rng = np.random.default_rng(seed)
        jordan = scipy.linalg.block_diag(*(np.eye(k, k=1) for k in lengths))
        n = len(jordan)
        model = StateSpace(jordan, rng.standard_normal((n, 1)), rng.standard_normal((1, n)))
        found = canonical_form(model.similarity_transform(mild_basis(rng, n)), "shift")
        A = found.model.A
        assert found.blocks == tuple(sorted(lengths, reverse=True))
        assert set(np.unique(A)) <= {0.0, 1.0}
        assert max(A.sum(axis=0).max(), A.sum(axis=1).max()) <= 1
        for k in range(1, max(lengths) + 1):
            assert np.linalg.matrix_rank(np.linalg.matrix_power(A, k)) == sum(max(j - k, 0) for j in lengths)
        assert not np.linalg.matrix_power(A, max(lengths)).any()
        assert_same_system(found.model, model, kind="iterative")

    def test_the_state_is_the_last_inputs(self, rng):
        A, B = window(4, 2)
        model = StateSpace(A, B, np.eye(8)).similarity_transform(mild_basis(rng, 8))
        found = canonical_form(model, "shift").model
        u = rng.standard_normal((20, 2))
        states = StateSpace(found.A, found.B, np.eye(8)).simulate(u)
        for t in range(4, 20):
            assert_close(states[t], u[t - 4 : t].ravel(), "bitwise")

    def test_a_row_that_is_not_zero_fades(self, rng):
        last = np.array([0.2, -0.1, 0.5])
        A = np.eye(3, k=1)
        A[-1] = last
        model = StateSpace(A, np.eye(3)[:, -1:], np.ones((1, 3)))
        found = canonical_form(model.similarity_transform(mild_basis(rng, 3)), "shift").model
        assert_close(found.A, A, "iterative")
        assert_close(found.A[:-1], A[:-1], "bitwise")

    def test_several_belts_that_fade_lie_side_by_side(self, rng):
        m, w = 2, 3
        A = np.eye(m * w, k=m)
        A[-m:] = 0.2 * rng.standard_normal((m, m * w))
        B = window(w, m)[1]
        model = StateSpace(A, B, np.ones((1, m * w)))
        found = canonical_form(model.similarity_transform(mild_basis(rng, m * w)), "shift").model
        assert_close(found.A, A, "iterative")
        assert_close(found.A[:-m], A[:-m], "bitwise")
        assert_close(found.B, B, "bitwise")


class TestModal:
    @given(model=stable_systems(states=(1, 6)))
    def test_blocks_are_modes_slowest_first(self, model):
        found = canonical_form(model, "modal")
        ends = np.cumsum([0, *found.blocks])
        slowest = []
        for begin, stop in itertools.pairwise(ends):
            block = found.model.A[begin:stop, begin:stop]
            slowest.append(np.abs(np.linalg.eigvals(block)).max())
            rest = found.model.A[begin:stop].copy()
            rest[:, begin:stop] = 0
            assert not rest.any()
            if block.shape == (2, 2) and block[1, 0] != 0:
                assert_close(block[0, 0], block[1, 1])
                assert_close(block[0, 1], -block[1, 0])
        assert np.all(np.diff(slowest) < 1e-9)
        assert_close(np.sort(np.abs(found.model.poles)), np.sort(np.abs(model.poles)), "iterative")

    @pytest.mark.parametrize("size", [2, 3])
    def test_a_defective_pole_is_one_block(self, size, rng):
        A = scipy.linalg.block_diag(0.5 * np.eye(size) + np.eye(size, k=1), [[0.1]], [[-0.7]])
        n = size + 2
        model = StateSpace(A, np.ones((n, 1)), np.ones((1, n))).similarity_transform(mild_basis(rng, n))
        found = canonical_form(model, "modal")
        assert found.blocks == (1, size, 1)
        assert found.condition < 100
        assert_close(found.model.A[0, 0], -0.7, "iterative")

    def test_a_defective_pair_is_one_block(self, rng):
        pair = np.array([[0.3, 0.4], [-0.4, 0.3]])
        A = scipy.linalg.block_diag(np.block([[pair, np.eye(2)], [np.zeros((2, 2)), pair]]), [[0.9]])
        model = StateSpace(A, np.ones((5, 1)), np.ones((1, 5))).similarity_transform(mild_basis(rng, 5))
        assert canonical_form(model, "modal").blocks == (1, 4)

    def test_coupling_decides_between_parting_and_keeping(self):
        A = np.array([[0.5, 1.0], [0.0, 0.51]])
        model = StateSpace(A, np.ones((2, 1)), np.ones((1, 2)))
        apart, together = canonical_form(model, "modal"), canonical_form(model, "modal", coupling=50.0)
        assert apart.blocks == (1, 1)
        assert together.blocks == (2,)
        assert apart.condition > 100 > 2 > together.condition

    def test_equal_poles_that_are_not_defective_are_parted(self):
        model = StateSpace(0.5 * np.eye(3), np.ones((3, 1)), np.ones((1, 3)))
        assert canonical_form(model, "modal").condition == pytest.approx(1.0)

    def test_what_is_refused(self):
        with pytest.raises(DataError, match="coupling=0"):
            canonical_form(StateSpace([[0.5]], [[1.0]], [[1.0]]), "modal", coupling=0)


class TestSchurAndBalanced:
    @given(model=systems(states=(1, 6), radius=(0.3, 1.2)))
    def test_schur_is_orthogonal_and_quasi_triangular(self, model):
        found = canonical_form(model, "schur")
        assert_close(found.T.T @ found.T, np.eye(model.n_states))
        assert not np.tril(found.model.A, -2).any()
        assert max(found.blocks) <= 2

    @given(model=stable_systems(states=(1, 4)))
    def test_balanced_gramians_are_the_hankel_singular_values(self, model):
        hsv = hankel_singular_values(model)
        if hsv[-1] < 1e-6 * hsv[0]:
            return
        found = canonical_form(model, "balanced").model
        assert_close(controllability_gramian(found), np.diag(hsv), "iterative")
        assert_close(observability_gramian(found), np.diag(hsv), "iterative")

    def test_balanced_needs_a_stable_minimal_model(self):
        with pytest.raises(UnstableError):
            canonical_form(StateSpace([[1.5]], [[1.0]], [[1.0]]), "balanced")
        with pytest.raises(RankError, match="minimal"):
            canonical_form(StateSpace([[0.5]], [[0.0]], [[1.0]]), "balanced")


def test_what_is_refused():
    model = StateSpace([[0.5]], [[1.0]], [[1.0]])
    with pytest.raises(RealizationError, match="form='jordan' came"):
        canonical_form(model, "jordan")
    with pytest.raises(DataError, match="0 <= tol < 1"):
        canonical_form(model, "shift", tol=-1.0)


def test_innovations_complete_what_the_inputs_do_not_reach():
    model = InnovationsModel(np.diag([0.5, 0.9]), [[1.0], [0.0]], [[1.0, 1.0]], K=[[0.0], [0.2]])
    assert canonical_form(model, "controllable").blocks == (1, 1)
