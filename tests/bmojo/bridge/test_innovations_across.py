"""Innovations across fields: a signal's selection and the lifted layer's keep the same samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import realization as rz
from bmojo import lift_layer
from tests.strategies import seeds
from tests.tolerances import assert_close

ALPHA = 0.2
RULES = ("top", "threshold", "fifo", "random", "norm")
# Outputs, inputs, states; the norm of a token is that of the output where there are no inputs alone.
SIZES = {
    "time series": (1, 0, 3),
    "one output": (1, 1, 2),
    "several": (3, 2, 4),
    "several, no input": (2, 0, 3),
}


def plant(outputs, inputs, states, rng):
    """A stable model in innovations form whose outputs move together and are in far units."""
    A = rng.standard_normal((states, states))
    A *= 0.9 / np.abs(np.linalg.eigvals(A)).max()
    units = np.diag(10.0 ** np.arange(outputs))
    C, B = units @ rng.standard_normal((outputs, states)), rng.standard_normal((states, inputs))
    mixing = units @ (np.eye(outputs) + 0.5 * rng.standard_normal((outputs, outputs)))
    Re, D = mixing @ mixing.T, rng.standard_normal((outputs, inputs))
    noisy = rz.innovations_form(A, C, np.eye(states), Re, np.zeros((states, outputs)))
    means = rng.standard_normal(inputs), rng.standard_normal(outputs)
    return rz.InnovationsModel(A, B, C, D, K=noisy.K, Re=noisy.Re, u_mean=means[0], y_mean=means[1])


def recorded(sizes, length, seed):
    """A model, and a record of it with surprises."""
    rng = np.random.default_rng(seed)
    model = plant(*sizes, rng)
    e = rng.standard_t(3, (length, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    u = rng.standard_normal((length, model.n_inputs)) if model.n_inputs else None
    return model, rz.IOData(model.simulate(u, e=e), u)


def both(model, data, *, rule, budget, window, chunk, **options):
    """The layer, and the selection of the signal, from the same state and seed."""
    given = {"false_alarm": ALPHA} if rule == "threshold" else {}
    layer = lift_layer(model, window=window, chunk=chunk, eidetic=budget, rule=rule, **given, **options)
    seed = 0 if layer.seed is None else int(layer.seed)
    start = np.zeros(model.n_states)
    chosen = rz.select_innovations(
        model, data, budget=budget, rule=rule, alpha=ALPHA, window=window, chunk=chunk, x0=start, seed=seed
    )
    return layer.eval(), chosen


def said(rule, sizes):
    return rule != "norm" or sizes[1] == 0


CASES = [(rule, name) for rule in RULES for name in SIZES if said(rule, SIZES[name])]


@pytest.mark.parametrize(("rule", "sizes"), [(rule, SIZES[name]) for rule, name in CASES])
@settings(max_examples=15)
@given(
    data=st.data(), length=st.integers(1, 90), budget=st.integers(1, 9), window=st.integers(1, 12), seed=seeds
)
def test_the_same_samples_are_kept(rule, sizes, data, length, budget, window, seed):
    """Every set of every chunk, place by place."""
    chunk = data.draw(st.integers(1, window))
    model, record = recorded(sizes, length, seed)
    layer, chosen = both(model, record, rule=rule, budget=budget, window=window, chunk=chunk)
    trace = layer.trace(layer.tokens(record))
    assert trace.eidetic_index[0].tolist() == chosen.history.tolist()
    if rule != "norm":
        assert_close(
            trace.scores[0], rz.innovations(model, record, x0=chosen.x0).normalized_squared, "recurrence"
        )


@pytest.mark.parametrize("parametrization", ["schur", "modal", "diagonal"])
def test_in_every_parametrization(parametrization):
    model, record = recorded(SIZES["several"], 300, 5)
    layer, chosen = both(
        model, record, rule="top", budget=8, window=16, chunk=4, parametrization=parametrization
    )
    assert layer.trace(layer.tokens(record)).eidetic_index[0].tolist() == chosen.history.tolist()


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15)
@given(pieces=st.lists(st.integers(1, 30), min_size=1, max_size=5), seed=seeds)
def test_what_a_stream_has_kept(rule, pieces, seed):
    """The state after any pieces holds the selection among the samples that have left the window."""
    window, length = 6, sum(pieces)
    model, record = recorded(SIZES["several, no input"], length, seed)
    layer, whole = both(model, record, rule=rule, budget=5, window=window, chunk=3)
    tokens, state, start = layer.tokens(record), layer.init_state(1), 0
    with torch.no_grad():
        for piece in pieces:
            _, state = layer(tokens[:, start : start + piece], state)
            start += piece
    kept = [j for j in state.eidetic_index[0].tolist() if j >= 0]
    if length <= window:
        assert kept == []
        return
    left = rz.select_innovations(
        model,
        record[: length - window],
        budget=5,
        rule=rule,
        alpha=ALPHA,
        x0=whole.x0,
        seed=0 if layer.seed is None else int(layer.seed),
    )
    assert kept == left.index.tolist()


def test_one_step_at_a_time():
    model, record = recorded(SIZES["one output"], 60, 11)
    layer, chosen = both(model, record, rule="top", budget=4, window=5, chunk=1)
    tokens, state = layer.tokens(record), layer.init_state(1)
    with torch.no_grad():
        for t in range(60):
            _, state = layer.step(tokens[:, t], state)
    left = rz.select_innovations(model, record[:55], budget=4, x0=chosen.x0)
    assert [j for j in state.eidetic_index[0].tolist() if j >= 0] == left.index.tolist()


def test_from_another_state_than_zero():
    """What the record says of its first state can be handed to the layer; then scores and sets agree too."""
    model, record = recorded(SIZES["several"], 120, 3)
    chosen = rz.select_innovations(model, record, budget=6)
    assert np.abs(chosen.x0).max() > 0.01
    layer = lift_layer(model, window=8, chunk=8, eidetic=6).eval()
    with torch.no_grad():
        _, state = layer(layer.tokens(record), layer.init_state(1, x0=chosen.x0))
    left = rz.select_innovations(model, record[:112], budget=6, x0=chosen.x0)
    assert [j for j in state.eidetic_index[0].tolist() if j >= 0] == left.index.tolist()


def test_measured_series_and_what_they_rebuild():
    """Sunspots, identified: the layer's set rebuilds the record as well as the signal's."""
    pytest.importorskip("statsmodels")
    record = rz.load_series("sunspots")
    model = rz.n4sid(record[:155], order=6).model
    held = record[155:]
    layer, chosen = both(model, held, rule="top", budget=16, window=8, chunk=4)
    sets = layer.trace(layer.tokens(held)).eidetic_index[0]
    assert sets.tolist() == chosen.history.tolist()
    padded = torch.nn.functional.pad(layer.tokens(held), (0, 0, 0, 8))
    with torch.no_grad():
        _, state = layer(padded, layer.init_state(1))
    assert [j for j in state.eidetic_index[0].tolist() if j >= 0] == chosen.index.tolist()
    assert (
        rz.reconstruct(model, held, chosen).fit[0]
        > rz.reconstruct(model, held, rz.select_innovations(model, held, budget=0)).fit[0] + 10
    )
