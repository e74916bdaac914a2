"""Letters against numbers: the closed forms hold, and are exact oracles of the numeric library."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import realization as rz
from realization import symbolic
from realization.errors import DataError, RankError, ShapeError, UnstableError
from tests.oracles.systems import markov_exact
from tests.source import run_python
from tests.strategies import seeds
from tests.tolerances import assert_close

z, s = sp.symbols("z s")
a, b, c, g = sp.symbols("a b c g", real=True)
few = settings(max_examples=15, deadline=None)


@st.composite
def fractional_systems(draw, *, states=(1, 3)):
    """Stable systems of small fractions: the moduli in a row of `A` sum to less than 1."""
    n, m, p = draw(st.integers(*states)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(seeds))

    def fractions(rows, cols):
        return sp.Matrix(rows, cols, lambda i, j: sp.Rational(int(rng.integers(-4, 5)), 4 * n + 1))

    return symbolic.SymbolicSystem(fractions(n, n), fractions(n, m), fractions(p, n), fractions(p, m))


def floats(matrix):
    return np.array(matrix.tolist(), dtype=float).reshape(matrix.shape)


def test_importing_the_package_leaves_sympy_alone():
    code = (
        "import sys, realization as rz; before = 'sympy' in sys.modules; "
        "rz.symbolic.companion([0]); print(before, 'sympy' in sys.modules)"
    )
    assert run_python(code).stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'symbolics'"):
        getattr(rz, "symbolics")  # noqa: B009


class TestSystem:
    def test_floats_stay_what_they_are(self):
        model = rz.StateSpace([[0.1, 1 / 3], [0.0, -0.7]], [[1.0], [0.3]], [[1e-3, 2.0]], [[0.9]], dt=0.0)
        exact = symbolic.SymbolicSystem.from_numeric(model)
        assert exact.A[0, 0] == sp.Rational(*Fraction(0.1).as_integer_ratio())
        again = exact.to_numeric()
        for name in "ABCD":
            assert_close(getattr(again, name), getattr(model, name), "bitwise")
        assert again.dt == 0.0

    def test_letters_and_values(self):
        system = symbolic.SymbolicSystem([[a]], [[b]], [[1]])
        assert system.letters == (a, b)
        assert system.subs({b: a}).letters == (a,)
        assert system.to_numeric({a: sp.sqrt(2) / 2, b: 3}, dt=0.5).A[0, 0] == np.sqrt(0.5)

    def test_what_is_refused(self):
        system = symbolic.SymbolicSystem([[a]], [[1]], [[1]])
        with pytest.raises(DataError, match="a has no value"):
            system.to_numeric()
        with pytest.raises(DataError, match="not real"):
            system.to_numeric({a: sp.I})
        with pytest.raises(DataError, match="continuous"):
            system.to_numeric({a: 0}, dt=0.0)
        with pytest.raises(DataError, match="infinite"):
            symbolic.SymbolicSystem([[np.nan]], [[1]], [[1]])
        with pytest.raises(ShapeError, match="B has shape"):
            symbolic.SymbolicSystem([[a]], [[1], [1]], [[1]])
        with pytest.raises(DataError, match="variable"):
            symbolic.SymbolicSystem([[a]], [[1]], [[1]], variable="w")


class TestForms:
    @pytest.mark.parametrize("w", [1, 2, 5])
    def test_the_last_row_is_the_characteristic_polynomial(self, w):
        row = sp.symbols(f"a:{w}")
        p = symbolic.characteristic_polynomial(symbolic.companion(row))
        assert p.all_coeffs() == [1, *(-entry for entry in row[::-1])]

    @pytest.mark.parametrize(("w", "d"), [(1, 1), (3, 1), (3, 2)])
    def test_a_window_is_nilpotent_of_its_length_and_holds_its_inputs(self, w, d):
        window = symbolic.shift_form(w, d)
        assert symbolic.nilpotency_index(window.A) == w
        assert symbolic.controllability_gramian(window) == sp.eye(w * d)
        u = sp.Matrix(d, w, lambda i, k: sp.Symbol(f"u{i}_{k}"))
        x = sp.zeros(w * d, 1)
        for k in range(w):
            x = window.A * x + window.B * u[:, k]
        assert list(x) == list(u.T)

    def test_the_family_has_a_window_at_one_end_and_fades_at_the_other(self):
        blocks = [sp.Matrix(2, 2, sp.symbols(f"m{k}_:4")) for k in range(3)]
        family = symbolic.block_companion(blocks, strength=g)
        assert family.subs({g: 0}).A == symbolic.shift_form(3, 2).A
        assert symbolic.nilpotency_index(family.A) is None
        lam = sp.Symbol("lambda")
        of_blocks = (lam**3 * sp.eye(2) - g * (lam**2 * blocks[2] + lam * blocks[1] + blocks[0])).det()
        assert sp.expand(symbolic.characteristic_polynomial(family.A).as_expr() - of_blocks) == 0

    def test_a_ring_gives_back_a_share_of_what_leaves(self):
        ring = symbolic.block_companion([1, 0, 0, 0], strength=g)
        assert (ring.A**4 - g * sp.eye(4)).is_zero_matrix

    def test_forms_of_the_numeric_library(self):
        system = symbolic.from_transfer_function(
            (z + sp.Rational(4, 5)) / (z**2 - z * sp.Rational(7, 10) + sp.Rational(1, 10))
        )
        hidden = system.to_numeric().similarity_transform([[1.0, 2.0], [0.5, -1.0]])
        for form in ("controllable", "observable"):
            exact = symbolic.from_transfer_function(
                symbolic.transfer_function(system), form=form
            ).to_numeric()
            found = rz.canonical_form(hidden, form).model
            for name in "ABC":
                assert_close(getattr(found, name), getattr(exact, name))

    def test_a_window_of_the_numeric_library(self, rng):
        window = symbolic.shift_form(4, C=[[1, 2, 3, 4]]).to_numeric()
        found = rz.canonical_form(window.similarity_transform(rng.standard_normal((4, 4))), "shift").model
        assert_close(found.A, window.A, "bitwise")
        assert_close(found.C, window.C)

    def test_refused(self):
        with pytest.raises(ShapeError, match="square"):
            symbolic.block_companion([[[1, 2]]])
        with pytest.raises(ShapeError, match="square"):
            symbolic.block_companion([])
        with pytest.raises(ShapeError, match="w=0"):
            symbolic.shift_form(0)
        with pytest.raises(ShapeError, match="square"):
            symbolic.nilpotency_index([[1, 2]])


class TestTransferFunction:
    @pytest.mark.parametrize("form", ["controllable", "observable"])
    @pytest.mark.parametrize("variable", ["z", "s"])
    def test_there_and_back(self, form, variable):
        x = sp.Symbol(variable)
        G = sp.Matrix([[(x + b) / (x**2 - a), 1 / (x - 2)], [c, x / (x - a)]])
        system = symbolic.from_transfer_function(G, variable, form=form)
        assert system.variable == variable
        assert (symbolic.transfer_function(system) - G).applyfunc(sp.cancel).is_zero_matrix

    def test_order(self):
        G = sp.Matrix([[1 / (z - a), 1 / (z - b)]])
        assert symbolic.from_transfer_function(G, form="observable").n_states == 2
        wide = symbolic.from_transfer_function(G)
        assert wide.n_states == 4
        assert symbolic.minimal_order(wide) == 2

    def test_a_gain_has_no_state(self):
        gain = symbolic.from_transfer_function(a)
        assert (gain.n_states, gain.D[0, 0]) == (0, a)
        assert symbolic.transfer_function(gain)[0, 0] == a
        assert symbolic.minimal_order(gain) == 0

    @pytest.mark.parametrize(
        ("G", "message"), [(z, "grows"), (sp.exp(z), "rational"), (1 / sp.sqrt(z), "rational")]
    )
    def test_refused(self, G, message):
        with pytest.raises(DataError, match=message):
            symbolic.from_transfer_function(G)

    @few
    @given(fractional_systems())
    def test_frequency_response_of_the_numeric_library(self, system):
        omega = np.array([0.3, 1.1])
        G = symbolic.transfer_function(system)
        exact = np.array([np.array(G.subs(z, sp.exp(sp.I * w)).evalf(), dtype=complex) for w in omega])
        assert_close(system.to_numeric().frequency_response(omega), exact)


class TestNumbers:
    """The symbolic result, rounded once, is what the numeric library must give."""

    @few
    @given(fractional_systems(), st.integers(1, 7))
    def test_markov_parameters(self, system, count):
        exact = np.array([floats(h) for h in symbolic.markov_parameters(system, count)])
        assert_close(rz.markov_parameters(system.to_numeric(), count), exact)
        denominator = 4 * system.n_states + 1
        parts = [
            np.array(M * denominator, dtype=np.int64).reshape(M.shape)
            for M in (system.A, system.B, system.C, system.D)
        ]
        # With B, C, D in units of the denominator, h_k is so for D and its square for the others.
        by_fractions = markov_exact(*parts, count, denominator)
        by_fractions[0] /= denominator
        by_fractions[1:] /= denominator**2
        assert_close(by_fractions, exact)

    @few
    @given(fractional_systems(), st.booleans())
    def test_gramians(self, system, continuous):
        if continuous:
            system = symbolic.SymbolicSystem(
                system.A - sp.eye(system.n_states), system.B, system.C, variable="s"
            )
        model = system.to_numeric()
        assert symbolic.is_stable(system)
        assert_close(rz.controllability_gramian(model), floats(symbolic.controllability_gramian(system)))
        assert_close(rz.observability_gramian(model), floats(symbolic.observability_gramian(system)))

    @few
    @given(fractional_systems(states=(1, 3)))
    def test_hankel_matrix_and_order(self, system):
        H = symbolic.hankel_matrix(system, 3, 4)
        h = rz.markov_parameters(system.to_numeric(), 8)
        assert_close(rz.hankel(h[1:], 3, 4), floats(H))
        assert symbolic.minimal_order(system) == sp.Matrix(H).rank()
        assert rz.minimal(system.to_numeric()).n_states == symbolic.minimal_order(system)

    def test_memory_of_a_fading_state(self):
        system = symbolic.block_companion([0, sp.Rational(1, 2)])
        W = symbolic.controllability_gramian(system)
        reach = [system.A**k * system.B for k in range(6)]
        exact = [float((r.T * W.inv() * r)[0]) for r in reach]
        assert_close(rz.memory_curve(system.to_numeric(), 6).memory, np.array(exact))


class TestGramians:
    @pytest.mark.parametrize("variable", ["z", "s"])
    def test_with_letters_the_equation_holds(self, variable):
        system = symbolic.SymbolicSystem([[a, 1], [0, b]], [[0], [1]], [[c, 1]], variable=variable)
        for W, A, M in (
            (symbolic.controllability_gramian(system), system.A, system.B * system.B.T),
            (symbolic.observability_gramian(system), system.A.T, system.C.T * system.C),
        ):
            left = A * W * A.T - W + M if variable == "z" else A * W + W * A.T + M
            assert left.applyfunc(sp.cancel).is_zero_matrix

    def test_refused(self):
        for pole, variable in ((1, "z"), (sp.Rational(-7, 5), "z"), (0, "s"), (1, "s")):
            with pytest.raises(UnstableError):
                symbolic.controllability_gramian(
                    symbolic.SymbolicSystem([[pole]], [[1]], [[1]], variable=variable)
                )
        mirrored = symbolic.SymbolicSystem([[a, 0], [0, 1 / a]], [[1], [1]], [[1, 1]])
        with pytest.raises(RankError, match="mirrored"):
            symbolic.controllability_gramian(mirrored)

    @few
    @given(seeds, st.integers(1, 5), st.booleans())
    def test_stability_is_that_of_the_poles(self, seed, n, continuous):
        A = np.random.default_rng(seed).integers(-9, 10, (n, n)) / (8 * np.sqrt(n)) - (
            0.6 if continuous else 0
        ) * np.eye(n)
        model = rz.StateSpace(A, np.ones((n, 1)), np.ones((1, n)), dt=0.0 if continuous else None)
        assert symbolic.is_stable(symbolic.SymbolicSystem.from_numeric(model)) is model.is_stable

    def test_letters_leave_stability_open(self):
        assert symbolic.is_stable(symbolic.SymbolicSystem([[a]], [[1]], [[1]])) is None

    def test_a_pole_on_the_border_is_not_stable(self):
        edge = 1 - sp.Rational(1, 10**30)
        for pole, variable, stable in (
            (edge, "z", True),
            (1, "z", False),
            (edge - 1, "s", True),
            (0, "s", False),
        ):
            system = symbolic.SymbolicSystem([[pole]], [[1]], [[1]], variable=variable)
            assert symbolic.is_stable(system) is stable


class TestInnovations:
    def test_the_riccati_equation_holds_with_letters(self):
        q, r = sp.symbols("q r", positive=True)
        form = symbolic.innovations_form(a, c, q, r, b)
        right = a**2 * form.P + q - (a * c * form.P + b) ** 2 / (c**2 * form.P + r)
        for values in ({a: 0.9, c: 2, q: 3, r: 0.5, b: 1}, {a: -1.5, c: 1, q: 0.1, r: 2, b: -0.4}):
            assert abs((right - form.P).subs(values).evalf(30)) < 1e-14

    @few
    @given(seeds)
    def test_against_the_numeric_solution(self, seed):
        rng = np.random.default_rng(seed)
        A, C = rng.uniform(-1.5, 1.5), rng.uniform(0.2, 2)
        root = np.round(rng.standard_normal((2, 2)), 3)
        joint = root @ root.T + 0.01 * np.eye(2)
        exact = symbolic.innovations_form(A, C, joint[0, 0], joint[1, 1], joint[0, 1])
        found = rz.dare([[A]], [[C]], [[joint[0, 0]]], [[joint[1, 1]]], [[joint[0, 1]]])
        for name in ("P", "K", "Re"):
            assert_close(getattr(found, name), np.array([[float(getattr(exact, name))]]))
        assert abs(float(exact.predictor_pole)) < 1
        model = exact.to_numeric(dt=0.5)
        assert (model.dt, model.n_inputs) == (0.5, 0)

    @pytest.mark.parametrize("root", [0, sp.Rational(1, 3), sp.Rational(-4, 5), 2, sp.Rational(-5, 2)])
    def test_arma_is_the_riccati_solution(self, root):
        pole, variance = sp.Rational(7, 10), sp.Rational(3, 2)
        closed = symbolic.arma11_innovations(pole, root, variance)
        gain = pole + root
        riccati = symbolic.innovations_form(pole, 1, gain**2 * variance, variance, gain * variance)
        for name in ("K", "Re", "P"):
            assert sp.simplify(getattr(closed, name) - getattr(riccati, name)) == 0, name
        assert abs(closed.predictor_pole) < 1

    @pytest.mark.parametrize("value", [0.4, 2.5])
    def test_arma_with_letters_against_the_numeric_library(self, value):
        closed = symbolic.arma11_innovations(a, c, b).to_numeric({a: 0.8, c: value, b: 2.0})
        gain = 0.8 + value
        found = rz.innovations_form([[0.8]], [[1.0]], [[gain**2 * 2]], [[2.0]], [[gain * 2]])
        assert_close(found.K, closed.K, "iterative")
        assert_close(found.Re, closed.Re, "iterative")

    def test_both_roots_have_the_same_covariances(self):
        def covariances(form):
            start = form.K**2 * form.Re / (1 - form.A**2)
            return sp.simplify(start + form.Re), sp.simplify(form.A * start + form.K * form.Re)

        outside = symbolic.arma11_innovations(a, 4, 1)
        inside = symbolic.arma11_innovations(a, sp.Rational(1, 4), 16)
        assert covariances(outside) == covariances(inside)
        variance = sp.cancel(1 + (a + 4) ** 2 / (1 - a**2))
        assert sp.simplify(covariances(outside)[0] - variance) == 0

    def test_refused(self):
        with pytest.raises(RankError, match="C is zero"):
            symbolic.innovations_form(a, 0, 1, 1)
        with pytest.raises(RankError, match="no noise"):
            symbolic.innovations_form(sp.Rational(1, 2), 1, 0, 0)
        with pytest.raises(DataError, match="semidefinite"):
            symbolic.innovations_form(a, 1, 1, 1, 2)
        with pytest.raises(DataError, match="positive"):
            symbolic.arma11_innovations(a, c, 0)
