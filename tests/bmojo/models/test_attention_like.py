"""What attention layers of other models have: nothing more, nothing else, where it is left out."""

from __future__ import annotations

import itertools

import pytest
import torch

from bmojo import BMojo, BMojoConfig
from bmojo.models import AttentionLike
from tests.layers import in_pieces, perturbed, stepped, tokens
from tests.tolerances import assert_close

OPTIONS = {"d_model": 8, "heads": 2, "head_dim": 6, "window": 3, "eidetic": 3, "state_size": 3}
POWERS = (10_000.0 ** (-torch.arange(0, 6, 2).double() / 6)).tolist()


def full(config, **options):
    """A layer with every peculiarity, whose parameters are random."""
    torch.manual_seed(0)
    layer = AttentionLike(config, bias=True, out_bias=True, **options).double().eval()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter += (0.05 if name.endswith("dt_bias") else 0.3) * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize(("tied", "place"), list(itertools.product([True, False], ["own", "edge", "none"])))
def test_without_peculiarities_it_is_the_layer(tied, place):
    config = BMojoConfig(**OPTIONS, tie_projections=tied, eidetic_position=place)
    plain, u = perturbed(config), tokens(2, 14)
    layer = AttentionLike(config).double().eval()
    layer.load_state_dict(plain.state_dict())
    assert_close(layer(u), plain(u), "bitwise")
    layer = AttentionLike(config, frequencies=POWERS).double().eval()
    layer.load_state_dict(plain.state_dict())
    assert_close(layer(u), plain(u))


@pytest.mark.parametrize("tied", [True, False])
def test_it_streams_and_every_parameter_learns(tied):
    config = BMojoConfig(**OPTIONS, tie_projections=tied, eidetic_norm=True, write_gate=True)
    layer, u = full(config, frequencies=[0.5, 0.2, 0.03], fading_norms=not tied), tokens(2, 14)
    assert_close(in_pieces(layer, u, layer.init_state(2), [1, 5, 6])[0], layer(u))
    assert_close(stepped(layer, u, layer.init_state(2))[0], layer(u))
    layer.train()(u).square().sum().backward()
    lacking = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not lacking


def test_a_bias_is_that_of_a_constant_channel():
    """With a channel that is always one, a column of the projection is a bias; without mixer."""
    config = BMojoConfig(**(OPTIONS | {"short_conv": 0, "mixer": "none", "state_size": 16, "eidetic": 0}))
    layer, u = full(config), tokens(2, 14)
    wider = BMojo(BMojoConfig(**(config.to_dict() | {"d_model": 9, "chunk": None}))).double().eval()
    with torch.no_grad():
        wider.in_proj.weight.copy_(torch.cat([layer.in_proj.weight, layer.in_proj.bias[:, None]], dim=1))
        wider.out_proj.weight[:8].copy_(layer.out_proj.weight)
        for name in ("query_norm", "key_norm"):
            getattr(wider, name).weight.copy_(getattr(layer, name).weight)
    expected = wider(torch.cat([u, torch.ones_like(u[..., :1])], dim=-1))[..., :8] + layer.out_proj.bias
    assert_close(layer(u), expected)


def test_gradients():
    config = BMojoConfig(**(OPTIONS | {"window": 2, "eidetic": 2}), tie_projections=False)
    layer, u = full(config, frequencies=[0.5, 0.2, 0.03], fading_norms=True), tokens(1, 5)
    torch.autograd.gradcheck(layer, (u.requires_grad_(),))


@pytest.mark.parametrize("mixer", ["mamba2", "mamba2_normed", "gated_deltanet", "gated_kalmanet"])
def test_under_autocast(mixer):
    options = OPTIONS | {"mixer": f"headwise_{mixer}", "state_size": 6, "qk_norm": False}
    layer, u = full(BMojoConfig(**options)).float(), tokens(2, 14, dtype=torch.float32)
    expected = layer(u)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer.train()(u)
        found.float().square().sum().backward()
    assert_close(found.float(), expected, "recurrence", dtype="bfloat16")
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"window": 0, "eidetic": 0, "head_dim": None}, {}, "window=0"),
        ({}, {"fading_norms": True}, "tie_projections=False"),
        ({"tie_projections": False, "qk_norm": False}, {"fading_norms": True}, "qk_norm=True"),
        ({}, {"frequencies": [1.0, 0.1]}, "2 frequencies came.*head_dim=6"),
        ({"rotary": False}, {"frequencies": POWERS}, "rotary=False"),
    ],
)
def test_what_is_refused(options, given, message):
    with pytest.raises(ValueError, match=message):
        AttentionLike(BMojoConfig(**(OPTIONS | options)), **given)
