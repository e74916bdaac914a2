"""One factorization: Gram matrix without Hankel, choice of the factor, least squares through one basis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.identification import factorization as rooms
from realization.identification import matrices, n4sid, subspace_orders
from realization.identification.factorization import factorize, hankel_gram, scale
from realization.identification.gram import displaced_gram, lagged_products, standardized, time_last
from realization.identification.matrices import realize
from realization.identification.noise import one_step_innovations
from realization.identification.orthonormal import orthonormal_pair, response_maps
from realization.signals import IOData
from realization.systems import StateSpace
from tests.strategies import seeds
from tests.tolerances import assert_close


def record(T, seed, noise=0.3, m=2, p=2):
    rng = np.random.default_rng(seed)
    A = np.array([[0.8, 0.4, 0.0], [-0.4, 0.7, 0.2], [0.0, 0.0, -0.5]])
    system = StateSpace(
        A, rng.standard_normal((3, m)), rng.standard_normal((p, 3)), rng.standard_normal((p, m))
    )
    u = 1.0 + rng.standard_normal((T, m))
    return system, IOData(5 + system.simulate(u) + noise * rng.standard_normal((T, p)), u)


def windows(z, rows):
    return np.hstack([z[k : len(z) - rows + 1 + k] for k in range(rows)])


@given(
    T=st.integers(12, 1300),
    q=st.integers(1, 6),
    rows=st.integers(2, 6),
    w=st.sampled_from([1.0, 0.98]),
    seed=seeds,
)
def test_the_gram_matrix_is_that_of_the_windows(T, q, rows, w, seed):
    z = np.random.default_rng(seed).standard_normal((T, q))
    H = windows(z, rows)
    count = len(H)
    weights = w ** np.arange(count - 1.0, -1.0, -1.0)
    right = time_last(z[:, : q // 2], z[:, q // 2 :])
    products = lagged_products(right[:, :count] * weights, right, count, rows)[:, :q, :q].copy()
    gram = displaced_gram(products, z[: rows - 1].copy(), z[count:].copy(), w, w**count)
    assert_close(gram, (H * weights[:, None]).T @ H)


@given(T=st.integers(2, 300), q=st.integers(1, 5), seed=seeds)
def test_standardized_columns(T, q, seed):
    values = 100 + np.random.default_rng(seed).standard_normal((T, q)) * np.arange(1, q + 1)
    moved, mean, deviation = standardized(values)
    assert_close(mean, values.mean(axis=0))
    assert_close(deviation, values.std(axis=0), "recurrence")
    assert_close(moved, (values - values.mean(axis=0)) / values.std(axis=0), "iterative")


@pytest.mark.parametrize(("m", "p", "rows"), [(2, 2, 4), (0, 3, 5), (1, 1, 2)])
def test_both_factors_are_factors_of_the_centred_windows(m, p, rows):
    rng = np.random.default_rng(m)
    data = IOData(rng.standard_normal((900, p)).cumsum(axis=0), rng.standard_normal((900, m)) if m else None)
    scaled = scale(data, "test")
    H = windows(np.hstack([scaled.u, scaled.y]), 2 * rows)
    H = H - H.mean(axis=0)
    assert_close(hankel_gram(scaled, rows), H.T @ H)
    found = factorize(scaled, rows, "test")
    index = np.arange(2 * rows * (m + p)).reshape(2 * rows, m + p)
    order = [*index[rows:, :m].flat, *index[:rows, :m].flat, *index[:rows, m:].flat, *index[rows:, m:].flat]
    for R in (found.R, rooms._orthogonal_factor(scaled, rows)):
        assert_close(R.T @ R, (H.T @ H)[np.ix_(order, order)], "recurrence")
        assert_close(R, np.triu(R))


def test_the_condition_number_decides_which_factor():
    assert factorize(scale(record(3000, 0)[1], "test"), 5, "test").regular
    assert not factorize(scale(record(3000, 0, noise=1e-7)[1], "test"), 5, "test").regular
    assert not factorize(scale(record(3000, 0, noise=0.0)[1], "test"), 5, "test").regular


def test_both_factors_give_the_same_model(monkeypatch):
    data = record(2000, 1)[1]
    fast = n4sid(data, 3, block_rows=6)
    monkeypatch.setattr(rooms, "cholesky_factor", lambda *_: None)
    slow = n4sid(data, 3, block_rows=6)
    assert_close(fast.model.impulse_response(30), slow.model.impulse_response(30), "iterative")
    assert_close(fast.model.noise.impulse_response(30), slow.model.noise.impulse_response(30), "iterative")
    assert_close(fast.x0 @ fast.model.C.T, slow.x0 @ slow.model.C.T, "iterative")


@given(
    real=st.lists(st.floats(-0.999, 0.999), max_size=3),
    pairs=st.lists(st.tuples(st.floats(0.05, 0.99), st.floats(0.01, 3.1)), max_size=2),
)
def test_the_basis_is_orthonormal_and_has_the_poles(real, pairs):
    complex_poles = [r * np.exp(1j * w * s) for r, w in pairs for s in (1, -1)]
    poles = np.array([*real, *complex_poles], dtype=complex)
    F, g = orthonormal_pair(poles)
    assert_close(F @ F.T + np.outer(g, g), np.eye(len(poles)), "recurrence")
    assert_close(
        np.poly(F) if len(F) else np.ones(1), np.poly(poles).real if len(F) else np.ones(1), "recurrence"
    )


def test_the_maps_carry_impulse_responses_over_also_for_a_jordan_block():
    A, C = np.array([[0.7, 1.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.3, -0.2]]), np.array([[1.0, 0.5, 2.0]])
    F, g = orthonormal_pair(np.array([0.7, 0.7, -0.2], dtype=complex))
    theta = response_maps(F, g, A, C)[0] @ np.array([0.3, -1.0, 0.5])
    x, z = np.array([0.3, -1.0, 0.5]), g
    for _ in range(30):
        assert abs(C[0] @ x - theta @ z) < 1e-12
        x, z = A @ x, F @ z


@pytest.mark.parametrize("focus", ["simulation", "prediction"])
@pytest.mark.parametrize("feedthrough", [True, False, "auto"])
@pytest.mark.parametrize("offset", [True, False])
def test_the_shared_basis_gives_the_same_least_squares(focus, feedthrough, offset, monkeypatch):
    scaled = scale(record(1500, 2)[1], "test")
    factorization = factorize(scaled, 6, "test")
    options = {
        "weighting": "cva",
        "feedthrough": feedthrough,
        "focus": focus,
        "offset": offset,
        "stable": True,
        "caller": "test",
    }
    fast = realize(scaled, factorization, 4, **options)
    monkeypatch.setattr(matrices, "record_factor", lambda *_, **__: None)
    slow = realize(scaled, factorization, 4, **options)
    for name in ("B", "D", "x0", "offset"):
        assert_close(getattr(fast, name), getattr(slow, name), "iterative", what=name)
    assert fast.feedthrough == slow.feedthrough


@pytest.mark.parametrize("radius", [0.5, 0.999, 1.05])
def test_innovations_are_those_of_the_best_first_state(radius):
    rng = np.random.default_rng(3)
    A, C = radius * np.array([[0.8, 0.6], [-0.6, 0.8]]), np.array([[1.0, 0.3]])
    u, y = np.zeros((90, 0)), rng.standard_normal((90, 1))
    e, x0 = one_step_innovations(A, np.zeros((2, 0)), C, np.zeros((1, 0)), np.zeros((2, 1)), u, y)
    basis = np.array([C[0] @ np.linalg.matrix_power(A, t) for t in range(90)])
    expected = np.linalg.lstsq(basis, y[:, 0], rcond=None)[0]
    assert_close(x0, expected, "iterative")
    assert_close(e[:, 0], y[:, 0] - basis @ expected, "iterative")


@pytest.mark.parametrize("length", [400, 100_000])
def test_markov_parameters_of_noise_free_records_to_twelve_digits(length):
    rng = np.random.default_rng(4)
    A = np.diag([0.9, 0.5, -0.6, 0.2])
    system = StateSpace(A, np.ones((4, 1)), np.array([[1.0, -1.0, 2.0, 0.5]]), [[0.3]])
    u = rng.standard_normal((length, 1))
    h = n4sid(IOData(system.simulate(u), u), 4, block_rows=8).model.impulse_response(40)
    assert np.linalg.norm(h - system.impulse_response(40)) < 1e-12 * np.linalg.norm(h)


def test_markov_parameters_after_a_low_passed_input_to_ten_digits():
    rng = np.random.default_rng(5)
    system = StateSpace([[0.9, 0.2], [-0.2, 0.7]], [[1.0], [0.5]], [[1.0, -1.0]], [[0.3]])
    slow = StateSpace([[1.6, -0.8], [1.0, 0.0]], [[1.0], [0.0]], [[0.05, 0.05]])
    u = slow.simulate(rng.standard_normal((5000, 1)))
    h = n4sid(IOData(system.simulate(u), u), 2, block_rows=6).model.impulse_response(40)
    assert np.linalg.norm(h - system.impulse_response(40)) < 1e-10 * np.linalg.norm(h)


class TestAllOrders:
    @pytest.mark.parametrize("weighting", ["cva", "n4sid", "moesp"])
    def test_the_right_order_is_exact_on_exact_data(self, weighting):
        system, data = record(500, 6, noise=0.0)
        found = subspace_orders(data, [3], block_rows=5, weighting=weighting).models[3]
        assert_close(found.impulse_response(30), system.impulse_response(30), "recurrence")

    def test_it_agrees_with_one_order_at_a_time(self):
        data = record(20_000, 7)[1]
        found = subspace_orders(data, range(1, 11), block_rows=8, stable=False)
        assert list(found.models) == list(range(1, 11))
        for order in (3, 6):
            one = n4sid(data, order, block_rows=8, stable=False)
            assert_close(found.models[order].poles, one.model.poles, "iterative")
            apart = found.models[order].impulse_response(20) - one.model.impulse_response(20)
            assert np.abs(apart).max() < 0.02
            assert np.abs(found.models[order].Re - one.model.Re).max() < 0.02
            assert_close(found.singular_values, one.singular_values)

    def test_refusals(self):
        data = record(500, 8)[1]
        for bad, message in (([], "at least one"), ([-1], "whole number"), ([40], "at most|block_rows")):
            with pytest.raises(ValueError, match=message):
                subspace_orders(data, bad, block_rows=5)
        with pytest.raises(ValueError, match="weighting"):
            subspace_orders(data, [1], weighting="best")  # pyright: ignore[reportArgumentType]


def test_the_order_of_a_short_series_is_found():
    rng = np.random.default_rng(9)
    found = []
    for _ in range(10):
        e, y = rng.standard_normal(150), np.zeros(150)
        for t in range(2, 150):
            y[t] = 1.4 * y[t - 1] - 0.7 * y[t - 2] + e[t]
        found.append(n4sid(IOData(y)).order)
    assert np.median(found) == 2
    assert max(found) <= 4
