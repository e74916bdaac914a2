"""Mixers: one's own, names, and what each carries."""

from __future__ import annotations

import bmojo_kernels as bk
import pytest
import torch
from torch import nn

from bmojo import BMojo, BMojoConfig
from bmojo.fading import Innovative, make_mixer, register_mixer
from tests.layers import MIXERS, in_pieces, perturbed, stepped, tokens
from tests.oracles.dense_mixers import MIXER_LOOPS
from tests.tolerances import assert_close


class Average(nn.Module):
    """An exponential average per channel that tells what it did not expect."""

    def __init__(self, d_model, heads, state_size):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(d_model))

    def init_state(self, batch):
        return (self.rate.new_zeros(batch, len(self.rate)),)

    def forward(self, u, state=None, *, cu_seqlens=None):
        a = torch.sigmoid(self.rate).expand_as(u)
        h0 = None if state is None else state[0]
        h, last = bk.linear_scan(a, (1 - a) * u, h0, cu_seqlens=cu_seqlens)
        return h, (last,)

    def innovations(self, u, state=None, *, cu_seqlens=None):
        h, last = self.forward(u, state, cu_seqlens=cu_seqlens)
        return h, last, (u - h).unsqueeze(2)


class TestOnesOwn:
    @pytest.mark.parametrize("predictor", ["conv", "state", "kalman", "residual"])
    def test_it_serves_with_every_predictor(self, predictor):
        register_mixer("average", Average)
        config = BMojoConfig(
            d_model=8, heads=2, window=4, chunk=3, eidetic=3, mixer="average", predictor=predictor
        )
        layer, u = perturbed(config), tokens(2, 26)
        with torch.no_grad():
            full = layer(u)
            assert_close(layer.trace(u).output, full)
            assert_close(in_pieces(layer, u, layer.init_state(2), [5, 6, 17])[0], full)
            assert_close(stepped(layer, u, layer.init_state(2))[0], full)
            packed = layer(u.reshape(1, 52, 8), cu_seqlens=torch.tensor([0, 26, 52]))
            assert_close(packed.view(2, 26, 8), full)

    def test_a_taken_name_is_refused(self):
        with pytest.raises(ValueError, match="name='lti' is taken"):
            register_mixer("lti", Average)
        with pytest.raises(ValueError, match="name='none' is taken"):
            register_mixer("none", Average)

    def test_one_that_tells_nothing_cannot_be_listened_to(self):
        register_mixer("silent", lambda *sizes: nn.Identity())
        config = BMojoConfig(d_model=8, heads=2, window=4, eidetic=3, mixer="silent", predictor="residual")
        with pytest.raises(ValueError, match="Give it a method `innovations`"):
            BMojo(config)


@pytest.mark.parametrize("mixer", MIXERS[1:])
class TestEach:
    @staticmethod
    def made(mixer, heads=2):
        torch.manual_seed(0)
        return make_mixer(mixer, d_model=8, heads=heads, state_size=3).double()

    def test_it_is_its_loop(self, mixer):
        module, u = self.made(mixer), tokens(2, 40)
        parameters = {name: x.numpy() for name, x in module.state_dict().items() if x.is_floating_point()}
        for row in range(2):
            f, e = MIXER_LOOPS[mixer](parameters, u[row].numpy())
            assert_close(module(u)[0][row], f, "recurrence")
            if isinstance(module, Innovative):
                assert_close(module.innovations(u)[2][row], e, "recurrence")

    def test_its_state_does_not_grow(self, mixer):
        module = self.made(mixer)
        sizes = {tuple(x.shape for x in module(tokens(2, length))[1]) for length in (1, 2, 63, 64, 65)}
        assert sizes == {tuple(x.shape for x in module.init_state(2))}

    def test_without_a_state_a_sequence_begins(self, mixer):
        module, u = self.made(mixer), tokens(2, 9)
        assert_close(module(u)[0], module(u, module.init_state(2))[0])


def test_a_delta_rule_with_the_tokens_that_it_predicted_worst():
    """State and a bounded set by its own surprise, read sharply: places hold the largest innovations."""
    config = BMojoConfig(
        d_model=16, heads=2, window=4, chunk=1, eidetic=5, mixer="gated_deltanet", state_size=4,
        predictor="residual", eidetic_norm=True,
    )  # fmt: skip
    layer, u = perturbed(config), tokens(1, 40, 16)
    with torch.no_grad():
        trace, e = layer.trace(u), layer.mixer.innovations(u)[2]
    variance = layer.predictor.score.log_variance.detach().exp()
    scores = (e.flatten(2).square() / variance).sum(-1)[0]
    assert_close(trace.scores[0], scores)
    left = scores[: 40 - 4]
    assert trace.eidetic_index[0, -1].tolist() == sorted(left.topk(5).indices.tolist())


def test_each_layer_keeps_a_random_sample_of_its_own():
    torch.manual_seed(0)
    config = BMojoConfig(d_model=8, heads=2, window=4, eidetic=6, state_size=3, rule="random")
    first, second = BMojo(config), BMojo(config)
    u = torch.randn(3, 80, 8)
    kept = [layer.trace(u).eidetic_index[:, -1] for layer in (first, second)]
    assert not torch.equal(*kept)
    assert torch.equal(kept[0][0], kept[0][2])  # a sequence's sample does not depend on its row
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.trace(u).eidetic_index[:, -1], kept[0])
