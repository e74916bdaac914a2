"""Exact realization: rational systems come back, ranks prove the order, and what is not fixed is said."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, ShapeError, UnstableError
from realization.realize import exact_realization, ho_kalman, markov_parameters
from tests.strategies import seeds
from tests.tolerances import assert_close, assert_same_system

FIBONACCI = [0, 1, 1, 2, 3, 5, 8, 13, 21]


def catalan(count):
    return [0] + [comb(2 * k, k) // (k + 1) for k in range(count)]


def rational(rng, *shape):
    """Small fractions, zeros among them."""
    tops, bottoms = rng.integers(-2, 3, shape), rng.integers(1, 4, shape)
    return np.array([Fraction(int(a), int(b)) for a, b in zip(tops.flat, bottoms.flat)], object).reshape(
        shape
    )


def sequence(A, B, C, D, count):
    """`D, C B, C A B, ...` by products of fractions."""
    h, reached = [D], B
    for _ in range(count):
        h.append(C.dot(reached) if len(A) else 0 * D)
        reached = A.dot(reached) if len(A) else reached
    return h


def as_tuples(h):
    return tuple(tuple(tuple(Fraction(x) for x in row) for row in block) for block in h)


def shortest_recurrence(s):
    """Length and coefficients of the shortest linear recurrence, by Berlekamp and Massey's algorithm."""
    current, previous, length, shift, last = [Fraction(1)], [Fraction(1)], 0, 1, Fraction(1)
    for k in range(len(s)):
        wrong = sum((current[i] * s[k - i] for i in range(min(length, len(current) - 1) + 1)), Fraction(0))
        if wrong == 0:
            shift += 1
            continue
        kept, size = list(current), shift + len(previous)
        current = current + [Fraction(0)] * (size - len(current))
        for i, x in enumerate(previous):
            current[i + shift] -= wrong / last * x
        if 2 * length <= k:
            length, previous, last, shift = k + 1 - length, kept, wrong, 1
        else:
            shift += 1
    return length, (current + [Fraction(0)] * (length + 1))[: length + 1]


@given(seed=seeds, n=st.integers(0, 4), m=st.integers(1, 3), p=st.integers(1, 3), count=st.integers(1, 11))
def test_rational_systems_come_back(seed, n, m, p, count):
    rng = np.random.default_rng(seed)
    A, B, C, D = (rational(rng, *shape) for shape in ((n, n), (n, m), (p, n), (p, m)))
    h = sequence(A, B, C, D, count + 20)
    found = exact_realization(np.array(h[: count + 1], dtype=object))
    assert found.order == sum(found.observability_indices) <= n
    assert found.markov(count + 1) == as_tuples(h[: count + 1])
    if not found.determined:
        assert found.rival_order == found.order
        # Kalman's count of the smallest order, from ranks that an elimination of its own has found.
        assert found.order == sum(found.ranks[i, count + 1 - i] for i in range(1, count + 1)) - sum(
            found.ranks[i, count - i] for i in range(1, count)
        )
        return
    assert set(found.ranks.values()) == {found.order}
    (r, c), below, beside = found.ranks
    assert (r + c, below, beside) == (count, (r + 1, c), (r, c + 1))
    # A system that is not the one found differs from it by entry 2 n + 1 at the latest, and is larger.
    same = found.markov(count + 21) == as_tuples(h)
    assert same or n >= found.rival_order > found.order


@given(seed=seeds, n=st.integers(0, 5), m=st.integers(1, 2), p=st.integers(1, 2))
def test_long_sequences_determine_their_system(seed, n, m, p):
    rng = np.random.default_rng(seed)
    A, B, C, D = (rational(rng, *shape) for shape in ((n, n), (n, m), (p, n), (p, m)))
    found = exact_realization(np.array(sequence(A, B, C, D, 2 * n + 1), dtype=object))
    assert found.determined
    assert found.markov(30) == as_tuples(sequence(A, B, C, D, 29))
    O, R = [C], [B]
    for _ in range(n):
        O.append(O[-1].dot(A) if n else O[-1])
        R.append(A.dot(R[-1]) if n else R[-1])
    product = sympy.Matrix(np.vstack(O).tolist()) * sympy.Matrix(np.hstack(R).tolist()) if n else None
    assert found.order == (product.rank() if product is not None else 0)


@given(h=st.lists(st.integers(-2, 2), min_size=1, max_size=13))
def test_one_channel_agrees_with_berlekamp_and_massey(h):
    length, connection = shortest_recurrence([Fraction(x) for x in h])
    found = exact_realization([7, *h])
    assert found.order == length
    assert found.determined == (2 * length <= len(h))
    assert found.rival_order == max(length, len(h) + 1 - length)
    if found.determined:
        assert list(found.transfer_function()[1]) == connection


@given(h=st.lists(st.integers(-1, 1), min_size=1, max_size=8), wrong=st.integers(1, 3))
def test_the_next_entry_costs_a_rival_what_is_said(h, wrong):
    found = exact_realization([0, *h])
    following = found.markov(len(h) + 2)[-1][0][0]
    rival = exact_realization([0, *h, following + wrong])
    assert rival.order == found.rival_order
    assert exact_realization([0, *h, following]).order == found.order


def test_a_rival_with_several_channels(rng):
    lines = [np.array(x) for x in ((1, 0), (0, 1), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))]
    reached = 0
    for _ in range(20):
        h = rng.integers(-1, 2, (6, 2, 2)) * rng.integers(0, 2, (6, 1, 1))
        found = exact_realization(h)
        following = np.array(found.markov(7)[6], dtype=object)
        orders = [
            exact_realization(np.array([*h.astype(object), following + np.outer(a, b)])).order
            for a in lines
            for b in lines
        ]
        assert min(orders) >= found.rival_order
        reached += min(orders) == found.rival_order
    assert reached >= 15  # the direction that costs least need not be among these lines


def test_fibonacci():
    found = exact_realization(FIBONACCI)
    assert (found.order, found.determined, found.rival_order) == (2, True, 7)
    assert [block[0][0] for block in found.markov(31)][-1] == 832040
    assert found.transfer_function() == ((0, 1, 0), (1, -1, -1))
    assert_same_system(found.to_state_space(), ho_kalman(FIBONACCI).model)


def test_catalan_numbers_never_settle():
    for count in range(1, 25):
        found = exact_realization(catalan(count))
        # All their Hankel determinants are one: every second entry asks for a state more.
        assert found.order == (count + 1) // 2
        assert found.determined == (count % 2 == 0)
        assert found.rival_order == (found.order + 1 if found.determined else found.order)


def test_an_unstable_system_that_floating_point_does_not_hold():
    poles = [Fraction(7), Fraction(1, 3), Fraction(-1, 5)]
    h = [Fraction(0)] + [sum(x**k for x in poles) for k in range(400)]
    found = exact_realization(h)
    assert found.order == 3
    assert found.determined
    assert_close(np.sort(found.to_state_space().poles.real), np.array([-0.2, 1 / 3, 7]), "iterative")


@given(seed=seeds, m=st.integers(1, 2), p=st.integers(1, 2))
def test_the_model_in_floating_point_is_that_of_ho_kalman(seed, m, p):
    rng = np.random.default_rng(seed)
    # Orthogonal dynamics: reachable and observable with a margin.
    A = np.array([[0, -1, 0], [1, 0, 0], [0, 0, -1]])
    h = sequence(A, rng.integers(1, 4, (3, m)), rng.integers(1, 4, (p, 3)), np.ones((p, m), int), 12)
    model = exact_realization(np.array(h, dtype=object)).to_state_space(dt=0.5)
    other = ho_kalman(np.array(h, dtype=float), dt=0.5).model
    assert model.n_states == other.n_states
    assert_same_system(model, other, kind="recurrence")
    assert_close(markov_parameters(model, 13), np.array(h, dtype=float))


@pytest.mark.parametrize(
    "h",
    [
        [Fraction(0), Fraction(1), Fraction(1, 10), Fraction(1, 100)],
        [sympy.Integer(0), sympy.Integer(1), sympy.Rational(1, 10), sympy.Rational(1, 100)],
        [Decimal(0), Decimal(1), Decimal("0.1"), Decimal("0.01")],
        [[0], [1], [Fraction(1, 10)], [Fraction(1, 100)]],
    ],
)
def test_rational_numbers_of_every_kind(h):
    found = exact_realization(h)
    assert (found.order, found.A) == (1, ((Fraction(1, 10),),))
    assert type(found.A[0][0].numerator) is int


def test_numpy_integers():
    assert exact_realization(np.array(FIBONACCI)).order == 2


def test_no_states():
    found = exact_realization(np.zeros((4, 2, 3), dtype=int))
    assert (found.order, found.determined, found.A, found.rival_order) == (0, True, (), 4)
    model = found.to_state_space()
    assert (model.n_states, model.n_outputs, model.n_inputs) == (0, 2, 3)
    assert exact_realization([Fraction(5, 2), 0]).transfer_function() == ((Fraction(5, 2),), (1,))


@pytest.mark.parametrize(
    ("h", "error", "message"),
    [
        ([0, 1, 0.5], DataError, r"h\[2\] holds 0.5 of type float; .* Fraction\('0.1'\)"),
        (np.ones(4), DataError, r"h\[0\] holds 1.0"),
        ([0, float("nan")], DataError, "nan"),
        ([0, Decimal("NaN")], DataError, "NaN"),
        ([0, 1, True], DataError, "bool"),
        ([0, "1"], DataError, "str"),
        ([0, 1j], DataError, "complex"),
        ([0], ShapeError, r"h\[0\] and h\[1\] at least"),
        ([[1], [1, 2]], DataError, "type list"),
        (np.ones((3, 0), int), ShapeError, "shape"),
    ],
)
def test_what_is_refused(h, error, message):
    with pytest.raises(error, match=message):
        exact_realization(h)


def test_what_a_result_refuses():
    found = exact_realization([0, 10**400, 1])
    with pytest.raises(UnstableError, match="larger than floating point holds"):
        found.to_state_space()
    with pytest.raises(ShapeError, match="count=0"):
        found.markov(0)
    with pytest.raises(ShapeError, match="2 outputs"):
        exact_realization([[0, 0], [1, 2]]).transfer_function()
