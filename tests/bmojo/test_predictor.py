"""What is surprising: the predictor, its scores, and the gate that learns what is worth a place."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
import torch

from bmojo import BMojo, BMojoConfig, BMojoLM, prediction_loss
from bmojo.eidetic.predictor import ConvPredictor, Evidence
from tests.layers import perturbed, tokens
from tests.tolerances import assert_close

A = np.array([[0.9, -0.5, 0.2], [-0.3, 0.2, 0.4]])  # of one and of two samples before, by channel
DEVIATION = np.array([0.5, 1.0, 3.0])


def autoregression(batch, length, *, seed, start=200):
    """Channels that predict themselves from two samples back, driven by white noise."""
    e = np.random.default_rng(seed).standard_normal((batch, start + length, 3)) * DEVIATION
    u = np.zeros_like(e)
    for t in range(e.shape[1]):
        u[:, t] = e[:, t] + (A[0] * u[:, t - 1] if t > 0 else 0) + (A[1] * u[:, t - 2] if t > 1 else 0)
    return torch.from_numpy(u[:, start:])


def perfect():
    predictor = ConvPredictor(3, taps=2).double()
    with torch.no_grad():
        predictor.weight.copy_(torch.from_numpy(A[::-1].T.copy()))
        predictor.score.log_variance.copy_(torch.from_numpy(np.log(DEVIATION**2)))
    return predictor.eval()


class TestPredictor:
    def test_scores_of_what_is_predicted_well_follow_chi_squared(self):
        u = autoregression(4, 3000, seed=1)
        scores, _, _ = perfect()(Evidence(u[:, 2:]), (u[:, :2],))
        found = scores.numpy().ravel()
        assert abs(found.mean() - 3) < 4 * np.sqrt(6 / found.size)
        assert scipy.stats.kstest(found, scipy.stats.chi2(3).cdf).pvalue > 1e-3

    def test_innovations_come_back_exactly(self):
        u = autoregression(2, 50, seed=2)
        errors, _ = perfect().errors(u[:, 2:], (u[:, :2],))
        by_hand = A[0] * u[:, 1:-1].numpy() + A[1] * u[:, :-2].numpy()
        assert_close(errors, u[:, 2:].numpy() - by_hand)

    def test_it_learns_from_its_own_error(self):
        predictor = ConvPredictor(3, taps=2).double()
        u = autoregression(1, 20_000, seed=3)
        optimizer = torch.optim.LBFGS(predictor.parameters(), max_iter=100)

        def closure():
            optimizer.zero_grad()
            loss = predictor(Evidence(u[:, 2:]), (u[:, :2],))[1]
            loss.backward()
            return loss

        optimizer.step(closure)
        # Standard error of such an estimate: at most 1 / sqrt(T), of a variance sqrt(2 / T) of itself.
        assert np.abs(predictor.weight.detach().numpy()[:, ::-1].T - A).max() < 4 / np.sqrt(20_000)
        variance = predictor.score.log_variance.detach().exp().numpy()
        assert np.abs(variance / DEVIATION**2 - 1).max() < 4 * np.sqrt(2 / 20_000)

    def test_the_loss_is_the_code_length_of_gaussian_innovations(self):
        u = autoregression(1, 60, seed=4)
        _, loss, _ = perfect()(Evidence(u[:, 2:]), (u[:, :2],))
        errors = perfect().errors(u[:, 2:], (u[:, :2],))[0].detach().numpy()
        nats = -scipy.stats.norm(scale=DEVIATION).logpdf(errors).mean()
        assert_close(loss, nats - 0.5 * np.log(2 * np.pi))

    def test_a_silent_channel_is_no_news(self):
        scores, loss, _ = ConvPredictor(3)(Evidence(torch.zeros(1, 5, 3)))
        assert float(scores.abs().max()) == float(loss.detach()) == 0


def own_loss(layer, u):
    """The predictor's loss at tokens, by itself."""
    return layer.predictor(Evidence(u.detach()))[1]


class TestWhoLearnsFromWhat:
    config = BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3, write_gate=True)

    PARTS: ClassVar = {"predictor.weight", "predictor.bias", "predictor.score.log_variance"}

    def test_the_task_does_not_reach_the_predictor(self):
        layer, u = perturbed(self.config), tokens(2, 20).requires_grad_()
        layer(u).square().mean().backward()
        assert {name for name, p in layer.named_parameters() if p.grad is None} == self.PARTS

    @pytest.mark.parametrize("weight", [1.0, 0.0])
    def test_in_training_its_own_loss_comes_along_whatever_the_task_weighs(self, weight):
        layer, u = perturbed(self.config), tokens(2, 20).requires_grad_()
        own_loss(layer, u).backward()
        alone = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        assert set(alone) == self.PARTS
        layer.zero_grad()
        layer.train()
        (weight * layer(u).square().mean()).backward()
        for name, p in layer.named_parameters():
            if name in self.PARTS:
                assert_close(p.grad, alone[name], what=name)
            elif weight == 0:
                assert float(p.grad.abs().max()) == 0
        assert weight or float(u.grad.abs().max()) == 0

    def test_its_value_is_told(self):
        layer, u = perturbed(self.config).train(), tokens(2, 20)
        layer(u)
        assert_close(prediction_loss(layer), own_loss(layer, u))

    def test_nothing_is_attached_where_nothing_is_learnt(self):
        layer, u = perturbed(self.config), tokens(2, 20)
        trained = layer(u)
        with torch.no_grad():
            layer.train()(u)
        assert float(prediction_loss(layer)) == 0
        assert_close(trained, layer(u), "bitwise")

    def test_it_is_summed_over_layers_that_have_one(self):
        torch.manual_seed(0)
        plain = BMojoConfig(d_model=8, heads=2, window=3, eidetic=0, mixer="none")
        model = BMojoLM(9, [self.config, plain, self.config]).train()
        assert float(prediction_loss(model)) == 0
        model(torch.randint(9, (1, 12)))
        parts = [prediction_loss(block.layer) for block in model.blocks]
        assert float(parts[1]) == 0
        assert_close(prediction_loss(model), parts[0] + parts[2])


class TestWriteGate:
    @staticmethod
    def layer(**options):
        chosen = {"d_model": 8, "heads": 2, "window": 3, "eidetic": 4, "state_size": 3, "rule": "fifo"}
        return perturbed(BMojoConfig(**chosen | {"write_gate": True} | options))

    def test_it_learns_from_the_eidetic_logits_alone(self):
        layer, u = self.layer(), tokens(1, 20)
        layer(u[:, :3]).square().sum().backward()  # every query's set is empty yet
        assert float(layer.gate.weight.grad.abs().max()) == 0
        layer(u).square().sum().backward()
        assert float(layer.gate.weight.grad.abs().max()) > 1e-6

    def test_it_learns_through_a_state(self):
        layer, u = self.layer(), tokens(1, 20)
        _, state = layer(u[:, :14], layer.init_state(1))
        layer(u[:, 14:15], state)[0].square().sum().backward()
        assert float(layer.gate.weight.grad.abs().max()) > 1e-6

    def test_open_it_is_not_there(self):
        gated, plain = self.layer(rule="top"), self.layer(rule="top", write_gate=False)
        with torch.no_grad():
            gated.gate.weight.zero_()
            gated.gate.bias.fill_(60.0)
        plain.load_state_dict(gated.state_dict(), strict=False)
        u = tokens(2, 30)
        assert_close(gated(u), plain(u))
        assert_close(gated.trace(u).scores, plain.trace(u).scores)

    def test_closed_it_takes_the_places_out_of_the_softmax(self):
        layer, u = self.layer(), tokens(2, 30)
        with torch.no_grad():
            layer.gate.weight.zero_()
            layer.gate.bias.fill_(-60.0)
        trace = layer.trace(u)
        assert float(trace.attention_mass[..., trace.segments.index("eidetic")].max()) < 1e-15
        assert (trace.eidetic_index[:, -1] >= 0).all()

    def test_it_chooses_what_is_kept(self):
        """A gate that opens for one channel's sign keeps those tokens, however surprising the others are."""
        layer, u = self.layer(rule="top"), tokens(1, 40)
        with torch.no_grad():
            layer.gate.weight.zero_()
            layer.gate.weight[0, 0], layer.gate.bias[0] = 1e3, 0.0
        kept = layer.trace(u).eidetic_index[0, -1]
        assert (u[0, kept, 0] > 0).all()
        open_ = self.layer(rule="top", write_gate=False).trace(u).eidetic_index[0, -1]
        assert (u[0, open_, 0] < 0).any()


def test_a_layer_without_places_has_no_predictor():
    layer = BMojo(BMojoConfig(d_model=8, heads=2, window=3, eidetic=0))
    assert not hasattr(layer, "predictor")
    layer(torch.zeros(1, 4, 8))
    assert float(prediction_loss(layer)) == 0
