"""Attention, the bare mixer, B'MOJO-F and the stack are special cases; causality; no token falls between."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bmojo import BMojo, BMojoConfig, BMojoLM
from bmojo.fading import LTI, Mamba2, make_mixer
from tests.layers import MIXERS, RULES, configs, perturbed, tokens
from tests.oracles.dense_mixers import lti_loop, mamba2_loop
from tests.strategies import seeds
from tests.tolerances import assert_close

windows = st.integers(1, 30)


def plain_attention(window, *, rotary, kv_heads=4, **options):
    chosen = {"mixer": "none", "eidetic": 0, "short_conv": 0, "qk_norm": False} | options
    return perturbed(
        BMojoConfig(d_model=16, heads=4, kv_heads=kv_heads, window=window, rotary=rotary, **chosen)
    )


def half_turn(x, base=10_000.0):
    """Rotary positions as they are usually coded: the vector, and the vector with its halves swapped."""
    T, d = x.shape[-2:]
    angles = torch.outer(torch.arange(T).double(), base ** (-torch.arange(0, d, 2).double() / d))
    angles = torch.cat([angles, angles], dim=-1)
    swapped = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], dim=-1)
    return x * angles.cos() + swapped * angles.sin()


def masked_attention(layer, u, mask):
    """Projections of the layer, the softmax of torch."""
    q, k, v = (
        part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in layer.in_proj(u).split(layer.widths, dim=-1)
    )
    if layer.config.rotary:
        q, k = half_turn(q), half_turn(k)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return layer.out_proj(out.transpose(1, 2).flatten(-2))


def band(T, window):
    return torch.ones(T, T, dtype=torch.bool).tril().triu(1 - window)


class TestAttention:
    @given(window=windows, T=st.integers(1, 30), rotary=st.booleans(), kv_heads=st.sampled_from([1, 2, 4]))
    def test_sliding_window(self, window, T, rotary, kv_heads):
        layer, u = plain_attention(window, rotary=rotary, kv_heads=kv_heads), tokens(2, T, 16)
        assert_close(layer(u), masked_attention(layer, u, band(T, window)))

    @pytest.mark.parametrize("rotary", [False, True])
    def test_full_causal_attention(self, rotary):
        layer, u = plain_attention(40, rotary=rotary), tokens(2, 33, 16)
        assert_close(layer(u), masked_attention(layer, u, band(33, 33)))

    @pytest.mark.parametrize("rule", [*RULES[2:], "top"])
    @given(window=st.integers(1, 9), chunk=st.integers(1, 9), T=st.integers(1, 30), rotary=st.booleans())
    def test_a_window_and_places_for_all_is_full_attention(self, rule, window, chunk, T, rotary):
        """So no token is ever neither in the window nor in the set that it is eligible for."""
        layer = plain_attention(window, rotary=rotary, eidetic=T, chunk=min(chunk, window), rule=rule)
        u = tokens(1, T, 16)
        assert_close(layer(u), masked_attention(layer, u, band(T, T)))

    def test_the_output_is_not_the_windows_alone(self):
        layer, u = plain_attention(3, rotary=True, eidetic=4), tokens(1, 20, 16)
        assert float((layer(u) - masked_attention(layer, u, band(20, 3))).detach().abs().max()) > 0.01


class TestMixerAlone:
    @given(T=st.integers(1, 150), seed=seeds)
    def test_mamba2(self, T, seed):
        layer = perturbed(BMojoConfig(d_model=8, heads=2, window=0, eidetic=0, state_size=3), seed=seed)
        u = tokens(2, T, seed=seed)
        alone = Mamba2(8, 2, 3).double()
        alone.load_state_dict(layer.mixer.state_dict())
        assert_close(layer(u), alone(u, alone.init_state(2))[0], "bitwise")
        parameters = {name: value.numpy() for name, value in alone.state_dict().items()}
        assert_close(layer(u)[1], mamba2_loop(parameters, u[1].numpy()), "recurrence")

    @given(n=st.integers(1, 7), T=st.integers(1, 150), seed=seeds)
    def test_lti(self, n, T, seed):
        layer = perturbed(BMojoConfig(d_model=8, window=0, eidetic=0, mixer="lti", state_size=n), seed=seed)
        u = tokens(2, T, seed=seed)
        alone = LTI(8, 8, n).double()
        alone.load_state_dict(layer.mixer.state_dict())
        assert_close(layer(u), alone(u, alone.init_state(2))[0], "bitwise")
        parameters = {name: value.numpy() for name, value in alone.state_dict().items()}
        assert_close(layer(u)[1], lti_loop(parameters, u[1].numpy()), "recurrence")

    def test_what_mixers_refuse(self):
        with pytest.raises(
            ValueError, match="the mixers are 'mamba2', 'mamba', 'gated_deltanet', 'gated_kalmanet', 'lti'"
        ):
            make_mixer("mamba3", d_model=8, heads=2, state_size=3)
        with pytest.raises(ValueError, match="does not divide"):
            Mamba2(d_model=8, heads=3, state_size=3)


class Remembered(nn.Module):
    """A mixer that puts out tokens given beforehand: what reaches the output through them is told apart."""

    def __init__(self, f):
        super().__init__()
        self.f, self.anchor = f, nn.Parameter(torch.zeros(1, dtype=f.dtype))

    def init_state(self, batch):
        return (torch.zeros(batch, 0),)

    def forward(self, u, state):
        return self.f, state


def met_by_query(t, *, window, T=14, **options):
    """Positions of tokens and of fading tokens on which the output at `t` depends."""
    config = BMojoConfig(
        d_model=8, heads=2, window=window, eidetic=0, short_conv=0, fading_readout="none", **options
    )
    layer = perturbed(config)
    u, f = tokens(1, T).requires_grad_(), tokens(1, T, seed=1).requires_grad_()
    layer.mixer = Remembered(f)
    found = torch.autograd.grad(layer(u)[0, t].square().sum(), (u, f))
    return tuple(grad[0].abs().amax(-1).nonzero().flatten().tolist() for grad in found)


class TestBMojoF:
    def test_windows_of_the_authors(self):
        """With a window of 3, query 6 meets tokens 4, 5, 6 and fading tokens 1, 2, 3."""
        assert met_by_query(6, window=3) == ([4, 5, 6], [1, 2, 3])

    @given(t=st.integers(0, 13), window=st.integers(1, 6), tied=st.booleans())
    def test_windows(self, t, window, tied):
        near, far = met_by_query(t, window=window, tie_projections=tied)
        assert near == list(range(max(0, t - window + 1), t + 1))
        assert far == list(range(max(0, t - 2 * window + 1), max(0, t - window + 1)))

    def test_read_out_adds_the_fading_token(self):
        added = perturbed(BMojoConfig(d_model=8, heads=2, window=3, eidetic=0, fading_readout="add"))
        bare = BMojo(BMojoConfig(d_model=8, heads=2, window=3, eidetic=0, fading_readout="none")).double()
        bare.load_state_dict(added.state_dict())
        u = tokens(2, 20)
        assert_close(added(u) - added.trace(u).fading, bare(u))


class TestOrderOfTime:
    @given(config=configs(), T=st.integers(2, 24), data=st.data())
    def test_nothing_is_known_in_advance(self, config, T, data):
        layer, u, t = perturbed(config), tokens(1, T), data.draw(st.integers(1, T - 1))
        changed = u.clone()
        changed[:, t:] = 10 * tokens(1, T - t, seed=5)
        assert_close(layer(changed)[:, :t], layer(u)[:, :t], "bitwise")

    @given(config=configs(window=3, eidetic=2), T=st.integers(1, 24))
    def test_sets_hold_what_has_left_the_window(self, config, T):
        trace = perturbed(config).trace(tokens(2, T))
        for row in trace.eidetic_index.tolist():
            for c, places in enumerate(row):
                kept = [position for position in places if position >= 0]
                assert kept == sorted(set(kept))
                assert places[len(kept) :] == [-1] * (len(places) - len(kept))
                assert not kept or kept[-1] < (c + 1) * config.chunk - config.window

    @given(config=configs(), T=st.integers(1, 24))
    def test_attention_is_divided_among_the_memories(self, config, T):
        mass = perturbed(config).trace(tokens(2, T)).attention_mass
        assert_close(mass.sum(-1), torch.ones_like(mass[..., 0]))
        assert float(mass.min()) >= 0


def test_a_stacked_hybrid_is_a_list_of_layers():
    """A mixer alone and a window alone take turns, in residual blocks."""
    mixer = BMojoConfig(d_model=16, window=0, eidetic=0, state_size=3)
    window = BMojoConfig(d_model=16, heads=4, window=5, mixer="none", eidetic=0, short_conv=0, qk_norm=False)
    torch.manual_seed(0)
    model = BMojoLM(11, [mixer, window], mlp_ratio=0.0).double()
    sequence = torch.randint(11, (2, 20))

    def norm(x):
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    x = model.embedding(sequence)
    first, second = (block.layer for block in model.blocks)
    x = x + first.mixer(norm(x), first.mixer.init_state(2))[0]
    x = x + masked_attention(second, norm(x), band(20, 5))
    assert_close(model(sequence), norm(x) @ model.embedding.weight.T)


@pytest.mark.parametrize("mixer", MIXERS)
def test_an_odd_length_and_width(mixer):
    """Nothing relies on round sizes."""
    config = BMojoConfig(
        d_model=15,
        heads=3,
        head_dim=6,
        window=7,
        chunk=5,
        eidetic=3,
        mixer=mixer,
        **{} if mixer == "none" else {"state_size": 5},
    )
    layer, u = perturbed(config), tokens(3, 63, 15)
    assert torch.isfinite(layer(u)).all()
    assert_close(layer(u)[1:2, :40], layer(u[1:2, :40]))
