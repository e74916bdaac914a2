"""The layer is its definition: against a dense one, token by token, with a list of keys for every query."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bmojo import BMojoConfig
from tests.layers import MIXERS, RULES, configs, effective, perturbed, predictors_of, tokens
from tests.oracles.dense_bmojo import dense_bmojo
from tests.strategies import seeds
from tests.tolerances import assert_close


def check(config, *, length, seed, stored=0, batch=2, budget=None):
    layer, u = perturbed(config, seed=seed), tokens(batch, length, config.d_model, seed=seed)
    retrieved = None
    if stored:
        shape = (batch, stored, config.kv_heads, config.head_dim)
        retrieved = tuple(torch.randn(shape, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        output, _ = layer(u, layer.init_state(batch, eidetic=budget), retrieved=retrieved)
    trace = layer.trace(u, retrieved=retrieved) if budget is None else None
    for row in range(batch):
        own = None if retrieved is None else tuple(part[row].numpy() for part in retrieved)
        dense = dense_bmojo(layer, u[row].numpy(), retrieved=own, budget=budget)
        assert_close(output[row], dense.output, "recurrence", what="output")
        if trace is not None:
            assert_close(trace.output[row], dense.output, "recurrence")
            assert_close(trace.fading[row], dense.fading, "recurrence")
            assert_close(trace.scores[row], dense.scores)
            assert_close(trace.attention_mass[row], dense.mass.transpose(1, 0, 2), "recurrence")
            assert [[j for j in kept if j >= 0] for kept in trace.eidetic_index[row].tolist()] == dense.sets


@settings(max_examples=150)
@given(config=configs(), length=st.integers(1, 24), stored=st.integers(0, 3), seed=seeds)
def test_any_options(config, length, stored, seed):
    check(config, length=length, stored=stored, seed=seed)


COMBINATIONS = [(m, p, r) for m in MIXERS for p in predictors_of(m) for r in RULES]


@pytest.mark.parametrize(("mixer", "predictor", "rule"), COMBINATIONS)
def test_every_mixer_predictor_and_rule(mixer, predictor, rule):
    options = {
        "d_model": 8, "heads": 2, "window": 4, "chunk": 3, "mixer": mixer, "state_size": 3, "eidetic": 4,
        "rule": rule, "false_alarm": 0.5, "predictor": predictor, "rotary": True,
    }  # fmt: skip
    check(BMojoConfig(**effective(options)), length=26, seed=1)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("packed", [False, True])
def test_where_there_is_no_kernel_the_definitions_run(mixer, packed, monkeypatch):
    """As for float64 on a GPU."""
    state = {} if mixer == "none" else {"state_size": 3}
    layer = perturbed(BMojoConfig(d_model=8, heads=2, window=4, chunk=3, eidetic=3, mixer=mixer, **state))
    u, options = tokens(1, 14), {"cu_seqlens": torch.tensor([0, 5, 14])} if packed else {}
    with torch.no_grad():
        compiled = layer(u, **options)
        for name, module in list(sys.modules.items()):
            if name.startswith("bmojo.") and hasattr(module, "backend_of"):
                monkeypatch.setattr(module, "backend_of", lambda x: "naive")
        assert_close(layer(u, **options), compiled)


@given(config=configs(eidetic=2), budget=st.integers(1, 12), seed=seeds)
def test_any_budget_of_the_state(config, budget, seed):
    check(config, length=20, seed=seed, batch=1, budget=budget)


@given(length=st.integers(1, 80), seed=seeds)
def test_a_mixer_alone(length, seed):
    for mixer in MIXERS[1:]:
        check(
            BMojoConfig(d_model=8, heads=2, window=0, eidetic=0, mixer=mixer, state_size=5),
            length=length,
            seed=seed,
        )
