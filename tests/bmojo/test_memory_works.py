"""The claim: a token that could not be predicted is there, exactly, however long ago it came."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bmojo import BMojo, BMojoConfig
from bmojo.demo.contenders import CONTENDERS, compete
from bmojo.tasks import GapRecall

V = 24  # token 0 is filler, 1 to 11 are keys, 12 to 23 are values


def by_hand(*, eidetic, rule="top"):
    """A layer for one-hot tokens whose weights are written down: it looks a key up in the eidetic set.

    The convolution binds a value to the key before it, the projections ask for keys and answer with values,
    and the predictor expects each token to come again, so that filler is no news.
    """
    options = {"mixer": "none", "qk_norm": False, "rotary": False, "short_conv": 2}
    layer = BMojo(BMojoConfig(d_model=V, heads=1, window=2, eidetic=eidetic, rule=rule, **options)).eval()
    with torch.no_grad():
        layer.short_conv.weight.copy_(torch.tensor([2.0, 1.0]).expand(V, 2))
        keys, values = torch.zeros(V, V), torch.zeros(V, V)
        keys[range(1, V // 2), range(1, V // 2)] = 10.0
        values[range(V // 2, V), range(V // 2, V)] = 1.0
        layer.in_proj.weight.copy_(torch.cat([keys, keys, values]))
        layer.out_proj.weight.copy_(torch.eye(V))
        layer.predictor.weight[:, -1] = 1.0
    return layer


@torch.no_grad()
def accuracy(layer, task):
    tokens, queries, answers = task.sample(50, torch.Generator().manual_seed(0))
    output = layer(torch.nn.functional.one_hot(tokens, V).float())
    return float((output[:, queries].argmax(-1) == answers).float().mean())


@pytest.mark.parametrize("gap", [0, 3, 40, 1000])
def test_recall_is_exact_at_any_gap(gap):
    task = GapRecall(pairs=8, gap=gap, queries=8, vocabulary=V, spacing=1)
    assert accuracy(by_hand(eidetic=40), task) == 1.0
    assert accuracy(by_hand(eidetic=17), task) == 1.0


def test_it_is_what_was_kept_that_is_recalled():
    task = GapRecall(pairs=8, gap=100, queries=8, vocabulary=V, spacing=1)
    assert accuracy(by_hand(eidetic=17, rule="random"), task) < 0.5
    assert accuracy(by_hand(eidetic=17, rule="fifo"), task) < 0.2
    assert 0.4 < accuracy(by_hand(eidetic=9), task) < 0.8


def test_a_lead_of_filler_costs_no_place():
    task = GapRecall(pairs=8, gap=100, queries=8, vocabulary=V, spacing=1, lead=300)
    assert accuracy(by_hand(eidetic=17), task) == 1.0


def test_a_streamed_layer_recalls_too():
    layer, task = by_hand(eidetic=17), GapRecall(pairs=8, gap=300, queries=8, vocabulary=V, spacing=1)
    tokens, queries, answers = task.sample(4, torch.Generator().manual_seed(1))
    state, outputs = layer.init_state(4), []
    with torch.no_grad():
        for token in torch.nn.functional.one_hot(tokens, V).float().unbind(1):
            output, state = layer.step(token, state)
            outputs.append(output)
    assert torch.equal(torch.stack(outputs, dim=1)[:, queries].argmax(-1), answers)


@pytest.mark.slow
def test_a_trained_layer_recalls_what_others_of_its_size_cannot():
    by_name = {contender.name: contender for contender in CONTENDERS}
    names = ("B'MOJO, m = 16", "random, m = 16", "stack, state 4")
    reached = {name: compete(dataclasses.replace(by_name[name], growth=False)).accuracy for name in names}
    assert reached[names[0]] >= 0.95, reached
    assert all(reached[names[0]] - reached[name] >= 0.5 for name in names[1:]), reached
