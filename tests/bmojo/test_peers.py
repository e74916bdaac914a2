"""The layer's special cases against modules of others, with the same weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from bmojo import BMojo, BMojoLM, bare_mixer, bmojo_f, sliding_window, stacked_hybrid, transformer
from bmojo.fading import Mamba
from tests.layers import perturbed, tokens
from tests.tolerances import assert_close


def half_turn(x, base=10_000.0):
    """Rotary positions as they are usually coded: the vector, and the vector with its halves swapped."""
    T, d = x.shape[-2:]
    angles = torch.outer(torch.arange(T).double(), base ** (-torch.arange(0, d, 2).double() / d))
    angles = torch.cat([angles, angles], dim=-1)
    swapped = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], dim=-1)
    return x * angles.cos() + swapped * angles.sin()


def heads_of(layer, x):
    """Queries, keys and values (B, heads, T, d) by the layer's projection."""
    return [
        part.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
        for part in layer.in_proj(x).split(layer.widths, dim=-1)
    ]


def band(T, window):
    return torch.ones(T, T, dtype=torch.bool).tril().triu(1 - window)


class TestAttention:
    @given(T=st.integers(1, 33), rotary=st.booleans(), kv_heads=st.sampled_from([1, 2, 4]))
    def test_transformer(self, T, rotary, kv_heads):
        layer, u = perturbed(transformer(16, length=33, rotary=rotary, kv_heads=kv_heads)), tokens(2, T, 16)
        q, k, v = heads_of(layer, u)
        q, k = (half_turn(q), half_turn(k)) if rotary else (q, k)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        assert_close(layer(u), layer.out_proj(out.transpose(1, 2).flatten(-2)))

    @given(T=st.integers(1, 33), window=st.integers(1, 33), base=st.sampled_from([1e4, 5e5]))
    def test_sliding_window(self, T, window, base):
        layer, u = perturbed(sliding_window(16, window=window, rotary_base=base)), tokens(2, T, 16)
        q, k, v = heads_of(layer, u)
        mask = band(T, window)
        out = F.scaled_dot_product_attention(half_turn(q, base), half_turn(k, base), v, attn_mask=mask)
        assert_close(layer(u), layer.out_proj(out.transpose(1, 2).flatten(-2)))


class TestMixers:
    """`transformers` has its own Mamba and Mamba-2, without compiled kernels here."""

    @pytest.mark.parametrize("T", [1, 5, 40])
    def test_mamba2(self, T):
        peers = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
        from transformers import Mamba2Config

        layer, u = perturbed(bare_mixer(16, "mamba2", heads=2, state_size=6)), tokens(2, T, 16)
        config = Mamba2Config(
            hidden_size=16, num_heads=2, head_dim=8, state_size=6, expand=1, n_groups=1, conv_kernel=4,
            use_conv_bias=True, use_bias=False, chunk_size=8, layer_norm_epsilon=1e-5,
        )  # fmt: skip
        peer = peers.Mamba2Mixer(config, layer_idx=0).double().eval()
        peer.load_state_dict(
            renamed(layer.mixer, {"conv.weight": "conv1d.weight", "conv.bias": "conv1d.bias"})
        )
        # The peer computes its scan in single precision.
        assert_close(layer(u), peer(u), dtype="float32")

    @pytest.mark.parametrize("T", [1, 5, 40])
    @pytest.mark.parametrize("expand", [1, 2])
    def test_mamba(self, T, expand):
        peers = pytest.importorskip("transformers.models.mamba.modeling_mamba")
        from transformers import MambaConfig

        layer, u = perturbed(bare_mixer(16, "mamba", state_size=6)), tokens(2, T, 16)
        if expand > 1:
            torch.manual_seed(0)
            layer.mixer = Mamba(16, 6, expand=expand).double()
        config = MambaConfig(
            hidden_size=16, state_size=6, expand=expand, conv_kernel=4, use_conv_bias=True, use_bias=False,
            time_step_rank=1,
        )  # fmt: skip
        peer = peers.MambaMixer(config, layer_idx=0).double().eval()
        peer.load_state_dict(
            renamed(layer.mixer, {"conv.weight": "conv1d.weight", "conv.bias": "conv1d.bias"})
        )
        assert_close(layer(u), peer(u), dtype="float32")


def renamed(mixer, names):
    """Parameters by a peer's names; its convolutions have an axis more."""
    found = {names.get(name, name): value for name, value in mixer.state_dict().items()}
    return {name: x.unsqueeze(1) if name == "conv1d.weight" else x for name, x in found.items()}


class TestBMojoF:
    @staticmethod
    def by_definition(layer, u):
        """One softmax over the window's keys and the fading ones, for all queries at once by masks."""
        T, w = u.shape[1], layer.config.window
        f = layer.mixer(u)[0]
        q, k, v = heads_of(layer, u)
        _, kf, vf = heads_of(layer, f)
        q, k = layer.query_norm(q), layer.key_norm(k)
        q, k, kf = half_turn(q), half_turn(k), half_turn(layer.key_norm(kf))
        back = torch.arange(T)[:, None] - torch.arange(T)
        see = torch.cat([(back >= 0) & (back < w), (back >= w) & (back < 2 * w)], dim=1)
        out = F.scaled_dot_product_attention(q, torch.cat([k, kf], 2), torch.cat([v, vf], 2), attn_mask=see)
        return layer.out_proj(out.transpose(1, 2).flatten(-2))

    @given(T=st.integers(1, 40), window=st.integers(1, 9), mixer=st.sampled_from(["mamba", "mamba2", "lti"]))
    def test_it_is_its_definition(self, T, window, mixer):
        layer, u = perturbed(bmojo_f(16, window=window, mixer=mixer, state_size=3)), tokens(2, T, 16)
        assert_close(layer(u), self.by_definition(layer, u), "recurrence")

    def test_a_layer_with_places_that_nothing_fills_is_it(self):
        """While no token has left the window, and beyond it where no score passes."""
        torch.manual_seed(0)
        plain = perturbed(bmojo_f(16, window=4, state_size=3))
        options = plain.config.to_dict() | {
            "eidetic": 3, "rule": "threshold", "false_alarm": 1e-12, "chunk": 4,
        }  # fmt: skip
        layer = BMojo(type(plain.config)(**options)).double().eval()
        layer.load_state_dict(plain.state_dict(), strict=False)
        u = tokens(2, 30, 16)
        assert_close(layer(u), plain(u))


def test_a_stacked_hybrid_takes_turns():
    configs = stacked_hybrid(16, layers=4, window=5, mixer="lti", state_size=3, heads=2)
    torch.manual_seed(0)
    model = BMojoLM(11, configs, mlp_ratio=0.0).double()
    sequence = torch.randint(11, (2, 20))
    x = model.embedding(sequence)
    for i, block in enumerate(model.blocks):
        u = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        if i % 2 == 0:
            x = x + block.layer.mixer(u)[0]
            continue
        q, k, v = heads_of(block.layer, u)
        out = F.scaled_dot_product_attention(half_turn(q), half_turn(k), v, attn_mask=band(20, 5))
        x = x + block.layer.out_proj(out.transpose(1, 2).flatten(-2))
    x = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    assert_close(model(sequence), x @ model.embedding.weight.T)


def test_a_stack_too_small_for_a_window_is_refused():
    with pytest.raises(ValueError, match="layers >= every >= 2"):
        stacked_hybrid(16, layers=2, window=4, every=3)
