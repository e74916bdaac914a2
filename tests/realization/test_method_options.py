"""Weightings and options of the subspace methods: as their definitions say, exact, right where claimed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.errors import DataError
from realization.identification.factorization import factorize, scale
from tests.strategies import seeds
from tests.tolerances import assert_close

PLANT = rz.StateSpace([[0.8, 0.4], [-0.4, 0.7]], [[1.0], [0.5]], [[1.0, 0.3]], [[0.5]])
NEW = ("pi_moesp", "ivm")


def record(length, seed, noise=0.0, direct=True):
    """Output error: the noise is coloured, and no state of the plant carries it."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((length, 1))
    plant = PLANT if direct else rz.StateSpace(PLANT.A, PLANT.B, PLANT.C)
    coloured = rz.StateSpace([[0.9]], [[1.0]], [[0.9]], [[1.0]]).simulate(rng.standard_normal((length, 1)))
    return rz.IOData(plant.simulate(u, x0=[1.0, -2.0]) + noise * coloured, u)


def windows(data, i):
    """Hankel matrices with their means taken off: future inputs, past, past inputs, future outputs."""
    moving = scale(data, "example")
    columns = data.length - 2 * i + 1

    def stacked(values, first):
        rows = np.hstack([values[first + k : first + k + columns] for k in range(i)]).T
        return rows - rows.mean(axis=1, keepdims=True)

    u, y = moving.u, moving.y
    return stacked(u, i), np.vstack([stacked(u, 0), stacked(y, 0)]), stacked(u, 0), stacked(y, i)


def across(rows, others):
    """What is left of some rows once others are projected out."""
    return rows - rows @ np.linalg.pinv(others) @ others


@given(seed=seeds, i=st.integers(2, 5))
def test_weightings_are_what_their_authors_wrote(seed, i):
    """Singular values and directions of dense Hankel matrices; directions up to sign."""
    data = record(150, seed, 0.3)
    future_u, past, past_u, future = windows(data, i)
    clean = across(future, future_u)
    half = np.real(scipy.linalg.sqrtm(clean @ clean.T))
    instrument = np.linalg.inv(np.real(scipy.linalg.sqrtm(past @ past.T)))
    basis = scipy.linalg.orth(across(past_u, future_u).T)
    columns = future.shape[1]
    expected = {
        "ivm": (np.linalg.inv(half) @ clean @ past.T @ instrument, half, 1.0),
        "pi_moesp": (clean @ basis, np.eye(i), 1 / np.sqrt(columns)),
    }
    found = factorize(scale(data, "example"), i, "example")
    for weighting, (matrix, back, unit) in expected.items():
        left, values, _ = np.linalg.svd(matrix)
        directions, singular = found.subspace(weighting)
        assert_close(singular[:i], values[:i] * unit, "iterative")
        assert_close(np.abs(np.linalg.solve(back, directions[:, 0]) @ left[:, 0]), np.array(1.0), "iterative")


@pytest.mark.parametrize("weighting", NEW)
@given(seed=seeds, order=st.sampled_from([None, 2]))
def test_noise_free_records_are_exact(weighting, seed, order):
    found = rz.n4sid(record(200, seed), order, weighting=weighting)
    assert found.order == 2
    assert_close(found.model.impulse_response(40), PLANT.impulse_response(40), "recurrence", scale=10.0)


@pytest.mark.parametrize("weighting", NEW)
def test_all_orders_and_streams_take_them(weighting):
    data = record(3000, 0, 0.1)
    many = rz.subspace_orders(data, [2], weighting=weighting, block_rows=8)
    stream = rz.stream.StreamingFactorization(1, 1, block_rows=8)
    stream.update(data.y, data.inputs)
    one = rz.n4sid(data, 2, weighting=weighting, block_rows=8).model
    for other in (many.models[2], stream.n4sid(2, weighting=weighting)):
        assert np.abs(other.impulse_response(30) - one.impulse_response(30)).max() < 0.1


def test_past_inputs_need_no_model_of_the_noise():
    """Strongly coloured noise, two states: past outputs bring a third that the order has no room for."""
    errors = {"PO": [], "PI": []}
    h = PLANT.impulse_response(40)
    for seed in range(6):
        data = record(20_000, seed, 2.0)
        for instruments, found in errors.items():
            model = rz.moesp(data, 2, instruments=instruments).model
            found.append(np.linalg.norm(model.impulse_response(40) - h) / np.linalg.norm(h))
    assert np.median(errors["PI"]) < 0.1
    assert np.median(errors["PI"]) < 0.5 * np.median(errors["PO"])


def test_what_moesp_refuses(rng):
    with pytest.raises(DataError, match="'PO' or 'PI'"):
        rz.moesp(record(100, 0), 1, instruments="YP")
    with pytest.raises(DataError, match="the record has none"):
        rz.moesp(rz.IOData(rng.standard_normal(200)), 1, instruments="PI")


@pytest.mark.parametrize("method", [rz.ssarx, rz.pbsid])
@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("direct", [True, False])
def test_feedthrough_is_decided_for_closed_loop_methods(method, noise, direct):
    data = record(2000, 3, noise, direct)
    found = method(data, 3 if noise else 2, feedthrough="auto").model
    assert bool(found.D.any()) == direct
    if direct:
        assert_close(found.D, PLANT.D, "iterative" if not noise else "optimum", dtype="float32", scale=5.0)


def test_feedthrough_of_a_time_series_is_none(rng):
    y = np.zeros(500)
    for t in range(1, 500):
        y[t] = 0.8 * y[t - 1] + rng.standard_normal()
    assert rz.ssarx(y, 1, feedthrough="auto").model.n_inputs == 0
    with pytest.raises(DataError, match="'auto'"):
        rz.pbsid(y, 1, feedthrough="yes")


@pytest.mark.parametrize("name", ["n4sid", "moesp", "cva", "pem"])
def test_errors_and_warnings_name_the_call(name, rng):
    method = getattr(rz, name)
    with pytest.raises(rz.ExcitationError, match=f"^{name}: 10 samples"):
        method(rz.IOData(np.arange(10.0)), order=3)
    with pytest.raises(DataError, match=f"^{name}: order=-1"):
        method(rz.IOData(rng.standard_normal(200)), order=-1)
    walk = rz.IOData(1.01 ** np.arange(200)[:, None] + 1e-3 * rng.standard_normal((200, 1)))
    with pytest.warns(rz.StabilityWarning, match=f"^{name}: "):
        method(walk, order=1)
