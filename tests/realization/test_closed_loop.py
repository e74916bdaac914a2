"""Closed loop: right where open-loop methods are biased, and the same system where the loop is open."""

from __future__ import annotations

import numpy as np
import pytest

from realization.errors import DataError, ExcitationError, RankError, StabilityWarning
from realization.identification import cva, pbsid, ssarx
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.tolerances import assert_close

METHODS = (ssarx, pbsid)
PLANT = StateSpace([[1.5, -0.7], [1.0, 0.0]], [[1.0], [0.0]], [[0.1, 0.05]])


def closed_loop(T, seed):
    """A plant with coloured noise under PI feedback."""
    rng = np.random.default_rng(seed)
    x, y, u, total, v = np.zeros(2), np.zeros(T), np.zeros(T), 0.0, 0.0
    reference = np.repeat(rng.standard_normal(T // 10 + 1), 10)[:T]
    for t in range(T):
        v = 0.9 * v + 0.08 * rng.standard_normal()
        y[t] = PLANT.C[0] @ x + v
        total += reference[t] - y[t]
        u[t] = 0.4 * (reference[t] - y[t]) + 0.08 * total
        x = PLANT.A @ x + PLANT.B[:, 0] * u[t]
    return IOData(y, u)


def frequency_error(model):
    z = np.exp(1j * np.linspace(0.02, np.pi, 100))
    found, true = (
        np.array([(g.C @ np.linalg.solve(point * np.eye(len(g.A)) - g.A, g.B) + g.D)[0, 0] for point in z])
        for g in (model, PLANT)
    )
    return np.linalg.norm(found - true) / np.linalg.norm(true)


@pytest.mark.parametrize("method", METHODS)
def test_feedback_does_not_bias_it(method):
    data = closed_loop(20_000, 0)
    assert frequency_error(method(data, 3).model) < 0.03
    assert frequency_error(cva(data, 3).model) > 0.09


@pytest.mark.parametrize("method", METHODS)
def test_the_order_is_found(method):
    assert method(closed_loop(10_000, 1)).order == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("feedthrough", [True, False])
def test_noise_free_records_are_exact(method, feedthrough):
    rng = np.random.default_rng(2)
    D = rng.standard_normal((2, 2)) if feedthrough else np.zeros((2, 2))
    system = StateSpace(
        np.diag([0.8, -0.5, 0.3]), rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), D
    )
    u = rng.standard_normal((600, 2))
    result = method(IOData(3 + system.simulate(u), u), 3, block_rows=6, feedthrough=feedthrough)
    assert_close(result.model.impulse_response(30), system.impulse_response(30), "iterative")


@pytest.mark.parametrize("method", METHODS)
def test_long_records_give_the_noise_model_too(method):
    rng = np.random.default_rng(3)
    truth = InnovationsModel(
        [[0.8, 0.3], [-0.3, 0.7]],
        [[1.0], [0.5]],
        [[1.0, 0.2], [0.0, 1.0]],
        K=[[0.4, 0.1], [0.0, 0.3]],
        Re=[[1.0, 0.3], [0.3, 0.5]],
    )
    u = rng.standard_normal((40_000, 1))
    e = rng.standard_normal((40_000, 2)) @ np.linalg.cholesky(truth.Re).T
    found = method(IOData(truth.simulate(u, e=e), u), 2, block_rows=12).model
    assert np.abs(found.impulse_response(20) - truth.impulse_response(20)).max() < 0.05
    assert np.abs(found.noise.impulse_response(20) - truth.noise.impulse_response(20)).max() < 0.05
    assert np.abs(found.Re - truth.Re).max() < 0.03


@pytest.mark.parametrize("method", METHODS)
def test_a_time_series(method):
    rng = np.random.default_rng(4)
    truth = InnovationsModel([[0.9, 0.2], [-0.2, 0.8]], np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.5], [0.3]])
    result = method(truth.simulate(e=rng.standard_normal((20_000, 1))))
    assert result.order == 2
    assert np.abs(result.model.noise.impulse_response(15) - truth.noise.impulse_response(15)).max() < 0.08


@pytest.mark.parametrize("method", METHODS)
def test_an_unstable_plant(method):
    rng = np.random.default_rng(5)
    y, u = np.zeros(2000), np.zeros(2000)
    for t in range(1999):
        u[t] = -0.6 * y[t] + rng.standard_normal()
        y[t + 1] = 1.1 * y[t] + u[t] + 0.1 * rng.standard_normal()
    free = method(IOData(y, u), 1, stable=False)
    assert abs(free.model.poles[0] - 1.1) < 0.02
    assert not free.stabilized
    with pytest.warns(StabilityWarning, match="mirror image"):
        assert method(IOData(y, u), 1).model.is_stable


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": -1}, DataError, "order=-1"),
        ({"block_rows": 1}, DataError, "block_rows=1"),
        ({"max_order": 0}, DataError, "max_order=0"),
        ({"order": 30, "block_rows": 4}, RankError, "block_rows of at least"),
        ({"block_rows": 60}, ExcitationError, "samples are needed"),
    ],
)
def test_what_cannot_be_identified_says_why(method, options, error, message):
    rng = np.random.default_rng(6)
    with pytest.raises(error, match=message):
        method(IOData(rng.standard_normal(200), rng.standard_normal(200)), **options)
