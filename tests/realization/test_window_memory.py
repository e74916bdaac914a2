"""What windows and states know of the future: dense Gaussian vectors, closed forms, and bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RealizationError, ShapeError, UnstableError
from realization.memory import window_memory
from realization.realize import mutual_information
from realization.systems import InnovationsModel
from tests.oracles.gaussian import output_covariance
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close

processes = innovations_models(states=(1, 4), inputs=(0, 0), outputs=(1, 2), radius=(0.2, 0.8))


def shared_nats(covariance, split):
    """Mutual information of the first `split` numbers of a Gaussian vector and the others."""
    blocks = covariance[:split, :split], covariance[split:, split:], covariance
    first, second, both = (np.linalg.slogdet(block)[1] for block in blocks)
    return 0.5 * (first + second - both)


def stationary(model):
    n = model.n_states
    drive = (model.K @ model.Re @ model.K.T).ravel()
    return np.linalg.solve(np.eye(n * n) - np.kron(model.A, model.A), drive).reshape(n, n)


@given(model=processes)
def test_dense_window_and_future(model):
    p, future = model.n_outputs, 50
    held = window_memory(model, 5)
    whole = output_covariance(model.A, model.C, model.K, model.Re, stationary(model), 5 + future)
    for w in range(6):
        last = whole[(5 - w) * p :, (5 - w) * p :]
        assert_close(np.array(held.window[w]), np.array(shared_nats(last, w * p)), "optimum", scale=1.0)


@given(model=processes)
def test_a_window_never_knows_more_than_the_best_state_of_its_size(model):
    held = window_memory(model, 12)
    best = held.state[np.minimum(np.arange(13) * model.n_outputs, model.n_states)]
    assert (held.window <= best + 1e-9).all()
    assert (np.diff(held.window) >= -1e-12).all()
    assert held.total == pytest.approx(mutual_information(model))
    assert held.state[-1] == held.total


@given(model=processes, seed=seeds)
def test_neither_basis_nor_units_matter(model, seed):
    rng = np.random.default_rng(seed)
    n, p = model.n_states, model.n_outputs
    T = np.linalg.qr(rng.standard_normal((n, n)))[0] * rng.uniform(0.5, 2, n)
    S = np.diag(10.0 ** rng.uniform(-3, 3, p))
    moved = model.similarity_transform(T)
    other = InnovationsModel(moved.A, moved.B, S @ moved.C, K=moved.K @ np.linalg.inv(S), Re=S @ moved.Re @ S)
    assert_close(window_memory(other, 6).window, window_memory(model, 6).window, "iterative", scale=1.0)


@given(coefficients=st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=3))
def test_an_autoregression_is_known_from_as_many_samples_as_it_has_states(coefficients):
    n = len(coefficients)
    A = np.eye(n, k=-1)
    A[0] = coefficients
    model = InnovationsModel(A, np.zeros((n, 0)), [coefficients], K=np.eye(n)[:, :1])
    held = window_memory(model, n + 2)
    assert_close(held.window[n:], np.full(3, held.total), "iterative", scale=1.0)
    window, state = held.equal_size()
    assert window == pytest.approx(state, abs=1e-9)


def test_a_moving_average_is_known_from_one_number_or_from_no_window():
    """The estimate of the last innovation from w samples: a geometric series in the zero."""
    c = 0.9
    model = InnovationsModel([[0.0]], np.zeros((1, 0)), [[1.0]], K=[[c]])
    held = window_memory(model, 60)
    w = np.arange(61)
    known = c * c * (1 - c ** (2 * w)) / (1 - c ** (2 * w + 2))  # variance of the estimate of the state
    assert_close(held.window, -0.5 * np.log1p(-known), "iterative", scale=1.0)
    assert held.equal_size() == (pytest.approx(held.window[1]), pytest.approx(held.total))
    assert held.length_for(0.5) == np.flatnonzero(held.window >= held.total / 2)[0]
    assert held.length_for(1 - 1e-12) is None


def test_white_noise_and_its_window():
    none = np.zeros((0, 0))
    held = window_memory(InnovationsModel(none, none, np.zeros((1, 0)), np.zeros((1, 0))), 2)
    assert not held.window.any()
    assert held.total == 0.0


def test_what_is_refused():
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.3]])
    for length in (-1, 1.5):
        with pytest.raises(ShapeError, match=f"length={length}"):
            window_memory(model, length)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match="longest here has 2"):
        window_memory(model, 2).equal_size(3)
    with pytest.raises(ShapeError, match="numbers=-1"):
        window_memory(model, 2).equal_size(-1)
    with pytest.raises(DataError, match="share=1"):
        window_memory(model, 2).length_for(1)
    with pytest.raises(UnstableError):
        window_memory(InnovationsModel([[1.0]], np.zeros((1, 0)), [[1.0]], K=[[0.3]]), 2)
    with pytest.raises(RealizationError, match="has 1 inputs"):
        window_memory(InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.3]]), 2)
