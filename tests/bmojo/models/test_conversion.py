"""Weights of the authors' layout give the authors' layer; what does not fit is listed."""

from __future__ import annotations

import itertools
import re

import pytest
import torch

from bmojo.models import ConversionError, HeadwiseDeltaNet, HeadwiseMamba2, convert_layer, convert_layers
from tests.authors import HEAD, INNER, MIXERS, PREFIX, D, H, state_dict
from tests.layers import in_pieces, tokens
from tests.oracles.bmojo_f import bmojo_f
from tests.tolerances import assert_close

BASE = {"window": 3, "rotary_base": 500.0}


def expected(weights, u, window=3, base=500.0):
    plain = {name[len(PREFIX) + 1 :]: x.double().numpy() for name, x in weights.items()}
    return bmojo_f(u.numpy(), plain, window=window, base=base)


VARIANTS = [
    {"tied": tied, "norms": norms, "bias": bias}
    for tied, norms, bias in itertools.product([True, False], [True, False], [False, True])
]


@pytest.mark.parametrize("options", VARIANTS, ids=[str(tuple(v.values())) for v in VARIANTS])
def test_the_layer_is_that_of_the_authors(options):
    weights, u = state_dict("mamba", **options), tokens(2, 11, D)
    layer = convert_layer(weights, PREFIX, **BASE).eval()
    for b in range(2):
        assert_close(layer(u)[b], expected(weights, u[b]), what=str(options))


@pytest.mark.parametrize("norms", [True, False])
def test_gated_deltanet(norms):
    weights, u = state_dict("gdn", norms=norms), tokens(1, 11, D)
    assert_close(convert_layer(weights, PREFIX, **BASE)(u)[0], expected(weights, u[0]))


def test_gated_kalmanet():
    """The regression is solved by iteration, to some 1e-4 of the solution."""
    weights, u = state_dict("gka"), tokens(1, 11, D)
    assert_close(
        convert_layer(weights, PREFIX, **BASE)(u)[0], expected(weights, u[0]), "iterative", dtype="float32"
    )


@pytest.mark.parametrize("kind", MIXERS)
def test_it_streams_and_learns(kind):
    layer, u = convert_layer(state_dict(kind, tied=False), PREFIX, **BASE, eidetic=2), tokens(2, 17, D)
    layer.eval()
    assert_close(in_pieces(layer, u, layer.init_state(2), [1, 5, 6, 13])[0], layer(u), "recurrence")
    layer.train()(u).square().sum().backward()
    lacking = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not lacking


@pytest.mark.parametrize("kind", MIXERS)
def test_packed_sequences(kind):
    layer, u = convert_layer(state_dict(kind), PREFIX, **BASE).eval(), tokens(1, 12, D)
    packed = layer(u, cu_seqlens=torch.tensor([0, 5, 12]))
    assert_close(packed, torch.cat([layer(u[:, :5]), layer(u[:, 5:])], dim=1), "recurrence")


def test_every_layer_of_a_model_is_found():
    tensors = {"model.norm.weight": torch.ones(D), "model.layers.1.self_attn.q_proj.weight": torch.ones(3)}
    for index in (0, 3, 12):
        tensors |= state_dict("gdn", dtype=torch.bfloat16, prefix=f"model.layers.{index}.bmojo_f")
    layers = convert_layers(tensors, **BASE)
    assert list(layers) == [0, 3, 12]
    assert all(p.dtype is torch.bfloat16 for p in layers[3].parameters())


def test_frequencies_of_the_model_are_taken():
    weights, u = state_dict("mamba"), tokens(1, 11, D)
    powers = (500.0 ** (-torch.arange(0, HEAD, 2).double() / HEAD)).tolist()
    plain = convert_layer(weights, PREFIX, **BASE)
    scaled = convert_layer(weights, PREFIX, window=3, rotary_base=1e6, frequencies=powers)
    assert_close(scaled(u), plain(u))


def faulty(change):
    weights = state_dict("gdn")
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{PREFIX}.gdn.o_proj.weight"), r"missing gdn.o_proj.weight \(12, 24\)"),
        (lambda w: w.update({f"{PREFIX}.gdn.k_rep": torch.ones(2)}), "left over gdn.k_rep"),
        (
            lambda w: w.update({f"{PREFIX}.bmojo_attn.v_proj.weight": torch.ones(3, D)}),
            r"bmojo_attn.v_proj.weight: \(3, 12\) came, \(12, 12\) is needed",
        ),
        (
            lambda w: w.update({f"{PREFIX}.gka.A_log": torch.ones(H)}),
            "one of mamba, gdn, gka is needed, gdn and gka",
        ),
        (lambda w: w.pop(f"{PREFIX}.gdn.A_log"), "missing gdn.A_log"),
        (lambda w: w.pop(f"{PREFIX}.bmojo_attn.q_proj.weight"), "missing bmojo_attn.q_proj.weight"),
        (lambda w: w.update({f"{PREFIX}.gdn.A_log": torch.ones(5)}), "do not fit together"),
        (
            lambda w: w.update({f"{PREFIX}.bmojo_attn.q_proj_.weight": torch.ones(INNER, D)}),
            "missing bmojo_attn.k_proj_.*missing bmojo_attn.v_proj_.*missing bmojo_attn.q_norm_",
        ),
    ],
)
def test_what_does_not_fit_is_listed(change, message):
    with pytest.raises(ConversionError, match=message):
        convert_layer(faulty(change), PREFIX, **BASE)


def test_what_the_weights_tell_is_not_to_be_said():
    with pytest.raises(ConversionError, match="heads, mixer came, which the weights tell"):
        convert_layer(state_dict("gdn"), PREFIX, **BASE, mixer="mamba2", heads=2)


def test_all_faults_are_told_at_once():
    weights = state_dict("gka")
    del weights[f"{PREFIX}.gka.a_proj.weight"], weights[f"{PREFIX}.bmojo_attn.k_norm.weight"]
    weights[f"{PREFIX}.gka.extra"] = torch.ones(1)
    with pytest.raises(ConversionError) as caught:
        convert_layer(weights, PREFIX, **BASE)
    found = str(caught.value)
    assert found.startswith(PREFIX)
    assert all(
        re.search(x, found)
        for x in ("missing gka.a_proj", "missing bmojo_attn.k_norm", "left over gka.extra")
    )


@pytest.mark.parametrize("mixer", [HeadwiseMamba2, HeadwiseDeltaNet])
def test_a_step_is_a_pass_over_one_token(mixer):
    torch.manual_seed(0)
    mixer, u = mixer(D, H, HEAD).double(), tokens(2, 9, D)
    whole, last = mixer(u, mixer.init_state(2))
    state, outputs = mixer.init_state(2), []
    for t in range(9):
        f, state = mixer.step(u[:, t], state)
        outputs.append(f)
    assert_close(torch.stack(outputs, dim=1), whole, "recurrence")
    assert_close(state[1], last[1], "recurrence")
