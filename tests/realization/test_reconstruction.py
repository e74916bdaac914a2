"""What is remembered of a record: error covariances and stored states, against dense conditioning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError
from realization.filtering import reconstruct, reconstruction_curve, select_innovations
from realization.signals import IOData
from realization.systems import InnovationsModel
from tests.oracles.gaussian import conditional, stacked_maps
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close

# States that forget slowly: what has faded below rounding is not determined by a stored state.
slow = innovations_models(states=(0, 3), inputs=(0, 1), radius=(0.8, 0.95))


def drawn(model, T, seed):
    rng = np.random.default_rng(seed)
    u, e = rng.standard_normal((T, model.n_inputs)), rng.standard_normal((T, model.n_outputs))
    x0 = rng.standard_normal(model.n_states)
    return IOData(model.simulate(u, x0, e=e), u), x0


@given(
    model=slow,
    T=st.integers(2, 10),
    budget=st.integers(0, 8),
    chunk=st.one_of(st.none(), st.integers(1, 10)),
    seed=seeds,
)
def test_means_and_covariances_are_conditional(model, T, budget, chunk, seed):
    data, x0 = drawn(model, T, seed)
    chosen = select_innovations(model, data, budget=budget, rule="random", x0=x0)
    rebuilt = reconstruct(model, data, chosen, chunk=chunk)
    states, outputs, innovations = (
        maps[..., model.n_states :] for maps in stacked_maps(model.A, model.C, model.K, T)
    )
    ends = [*range(chunk or T, T, chunk or T), T]
    known = np.vstack(
        [innovations[chosen.kept].reshape(-1, states.shape[2]), states[ends].reshape(-1, states.shape[2])]
    )
    # Rows of unit length: a state in small units is known as well as any other.
    lengths = np.linalg.norm(known, axis=1, keepdims=True)
    known = np.divide(known, lengths, out=np.zeros_like(known), where=lengths > 0)
    covariance, e = np.kron(np.eye(T), model.Re), chosen.e.ravel()
    scale = np.abs(model.Re).max()
    for t in range(T):
        mean, spread = conditional(covariance, known, known @ e, innovations[t])
        assert_close(rebuilt.e[t], mean, "optimum", scale=10.0 * scale)
        assert_close(rebuilt.innovation_covariances[t], spread, "optimum", scale=10.0 * scale)
        _, spread = conditional(covariance, known, known @ e, outputs[t])
        assert_close(
            rebuilt.output_covariances[t], spread, "optimum", scale=10.0 * np.abs(outputs).max() ** 2 * scale
        )
    assert rebuilt.floats == (len(ends) + 1) * model.n_states + chosen.kept.sum() * (model.n_outputs + 1)


@given(model=innovations_models(states=(0, 4), radius=(0.5, 0.95)), seed=seeds)
def test_what_is_expected_to_be_lost_shrinks_too(model, seed):
    """Keeping one innovation more, or one state more, never makes any output less certain."""
    data, x0 = drawn(model, 24, seed)
    before = None
    for budget in (0, 3, 6, 12, 24):
        rebuilt = reconstruct(model, data, select_innovations(model, data, budget=budget, x0=x0))
        now = np.diagonal(rebuilt.output_covariances, axis1=1, axis2=2)
        assert before is None or (now <= before + 1e-6 * before.max()).all()
        before = now
    chosen = select_innovations(model, data, budget=4, x0=x0)
    errors = [reconstruct(model, data, chosen, chunk=chunk).error for chunk in (24, 12, 6, 3, 1)]
    assert (np.diff(errors) <= 1e-8 * errors[0] + 1e-12).all()


@given(model=innovations_models(states=(1, 4)), seed=seeds)
def test_stored_states_are_met(model, seed):
    data, x0 = drawn(model, 20, seed)
    rebuilt = reconstruct(model, data, select_innovations(model, data, budget=3, x0=x0), chunk=5)
    u = data.inputs - model.u_mean
    exact = reached = x0
    for t in range(20):
        e = data.y[t] - model.y_mean - model.C @ exact - model.D @ u[t]
        exact = model.A @ exact + model.B @ u[t] + model.K @ e
        reached = model.A @ reached + model.B @ u[t] + model.K @ rebuilt.e[t]
        if (t + 1) % 5 == 0:
            assert_close(reached, exact, "iterative", scale=10.0)


def test_a_constant_output_has_no_fit_but_all_else():
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    y = np.full(12, 3.0)
    rebuilt = reconstruct(model, y, select_innovations(model, y, budget=12))
    assert_close(rebuilt.y[:, 0], y)
    with pytest.raises(DataError, match=r"output 0 .* is constant"):
        _ = rebuilt.fit
    with pytest.raises(DataError, match=r"output 0 .* is constant"):
        reconstruction_curve(model, y, [0, 12])


def test_chunks_are_positive():
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    y = np.arange(5.0)
    with pytest.raises(DataError, match="chunk=0"):
        reconstruct(model, y, select_innovations(model, y), chunk=0)
