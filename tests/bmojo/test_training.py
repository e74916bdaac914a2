"""What training needs: scales that bear depth, and a predictor's loss that comes along however it is run."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bmojo import BMojo, BMojoConfig
from tests.layers import MIXERS, perturbed, predictors_of, tokens
from tests.tolerances import assert_close

DEPTH, WIDTH = 24, 64


def stack(mixer, **options):
    """Layers for residual blocks, as they are when they are made."""
    torch.manual_seed(0)
    state = {} if mixer == "none" else {"state_size": 16}
    config = BMojoConfig(d_model=WIDTH, heads=4, window=16, eidetic=8, mixer=mixer, **state | options)
    return [BMojo(config).train() for _ in range(DEPTH)]


def normed(x):
    return nn.functional.rms_norm(x, x.shape[-1:])


def rms(x):
    return float(x.detach().square().mean().sqrt())


class TestScales:
    """Pre-norm residual blocks $x + \\mathrm{layer}(\\mathrm{norm}(x))$, 24 of them, on white tokens."""

    @pytest.mark.parametrize("mixer", MIXERS)
    def test_activations_and_gradients_bear_depth(self, mixer):
        stream = [torch.randn(2, 96, WIDTH).requires_grad_()]
        for layer in stack(mixer):
            stream.append(stream[-1] + layer(normed(stream[-1])))
            stream[-1].retain_grad()
        (normed(stream[-1]) * torch.randn_like(stream[-1])).mean().backward()
        sizes = [rms(x) for x in stream]
        slopes = [rms(x.grad) for x in stream]
        assert max(sizes) < 5 * sizes[0], sizes
        assert min(sizes) > 0.5 * sizes[0], sizes
        assert max(slopes) < 20 * min(slopes), slopes

    @pytest.mark.parametrize(("mixer", "predictor"), [(m, p) for m in MIXERS for p in predictors_of(m)])
    def test_every_parameter_learns_from_the_first_step(self, mixer, predictor):
        layer = stack(mixer, predictor=predictor, write_gate=True, eidetic_norm=True)[0]
        u = torch.randn(2, 96, WIDTH)
        (layer(u) * torch.randn_like(u)).sum().backward()
        idle = {
            name
            for name, p in layer.named_parameters()
            if p.grad is None or not float(p.grad.abs().max()) > 0
        }
        assert not idle
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


CONFIG = BMojoConfig(d_model=8, heads=2, window=4, chunk=3, eidetic=3, state_size=3, write_gate=True)


def expected(layer, u):
    """Gradients of an ordinary pass in training."""
    reference = copy.deepcopy(layer)
    reference(u).square().sum().backward()
    found = {name: p.grad for name, p in reference.named_parameters()}
    assert all(grad is not None for grad in found.values())
    return found


class TestThePredictorsLoss:
    """It comes along with any loss, however the layer is run."""

    def check(self, layer, run, u):
        wanted = expected(layer, u)
        run(u).square().sum().backward()
        for name, p in layer.named_parameters():
            assert_close(p.grad, wanted[name], "recurrence", what=name)

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_with_activations_computed_anew(self, reentrant):
        layer, u = perturbed(CONFIG).train(), tokens(2, 20).requires_grad_()
        self.check(layer, lambda u: checkpoint(layer, u, use_reentrant=reentrant), u)

    def test_compiled(self):
        layer, u = perturbed(CONFIG).train(), tokens(2, 20)
        self.check(layer, torch.compile(layer, fullgraph=True, backend="aot_eager"), u)

    def test_distributed(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # one process, which needs no network
        layer, u = perturbed(CONFIG).train(), tokens(2, 20)
        store = f"file://{tmp_path / 'store'}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        try:
            wanted = expected(layer, u)
            parallel = nn.parallel.DistributedDataParallel(layer)
            for _ in range(2):  # the second pass fails where a parameter got no gradient in the first
                layer.zero_grad()
                parallel(u).square().sum().backward()
            for name, p in layer.named_parameters():
                assert_close(p.grad, wanted[name], what=name)
        finally:
            torch.distributed.destroy_process_group()

    def test_frozen_predictors_are_left_alone(self):
        layer, u = perturbed(CONFIG).train(), tokens(2, 20)
        layer.predictor.requires_grad_(False)
        layer(u).square().sum().backward()
        assert all(p.grad is None for p in layer.predictor.parameters())

    def test_a_step_of_learning_makes_tokens_less_surprising(self):
        torch.manual_seed(0)
        layer = BMojo(BMojoConfig(d_model=8, heads=2, window=4, eidetic=3, state_size=3)).train()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
        u = torch.randn(1, 1, 8) + torch.randn(4, 200, 8).cumsum(1) / 10
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            layer(u).square().mean().backward()
            optimizer.step()
            losses.append(float(layer.last_prediction_loss))
        assert losses[-1] < losses[0] - 0.5


class TestPrecision:
    @pytest.mark.parametrize(("mixer", "predictor"), [(m, p) for m in MIXERS for p in predictors_of(m)])
    def test_autocast(self, mixer, predictor):
        state = {} if mixer == "none" else {"state_size": 4}
        torch.manual_seed(0)
        config = BMojoConfig(
            d_model=16, heads=2, window=4, eidetic=3, mixer=mixer, predictor=predictor, **state
        )
        layer, u = BMojo(config).train(), torch.randn(2, 24, 16)
        plain = layer.eval()(u).detach()
        with torch.autocast("cpu", torch.bfloat16):
            output = layer.train()(u)
            state = layer.init_state(2)
            _, state = layer(u[:, :20], state)
            step, state = layer.step(u[:, 20], state)
        output.float().square().sum().backward()
        assert output.dtype is step.dtype is torch.bfloat16
        assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in layer.parameters())
        # A choice of other places is no error of rounding: most tokens agree.
        error = (output.float() - plain).abs().amax(-1) / plain.abs().max()
        assert float(error.detach().median()) < 0.03

    @pytest.mark.parametrize("mixer", MIXERS)
    def test_a_layer_in_bfloat16_carries_its_recurrence_in_float32(self, mixer):
        state = {} if mixer == "none" else {"state_size": 4}
        config = BMojoConfig(d_model=16, heads=2, window=4, eidetic=3, mixer=mixer, **state)
        layer, u = BMojo(config).bfloat16(), torch.randn(2, 12, 16).bfloat16()
        output, state = layer(u, layer.init_state(2))
        step, state = layer.step(u[:, 0], state)
        assert output.dtype is step.dtype is state.window.keys.dtype is torch.bfloat16
        assert mixer == "none" or state.mixer[-1].dtype is torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "predictor"), [(m, p) for m in MIXERS for p in predictors_of(m)])
def test_compiled_whole(mixer, predictor):
    """One graph for a pass and its gradients, for a piece from a state, and for a step."""
    torch._dynamo.reset()  # each layer is a new one to compile, not another shape of the last
    state = {} if mixer == "none" else {"state_size": 3}
    config = BMojoConfig(
        d_model=8, heads=2, window=4, chunk=3, eidetic=3, mixer=mixer, predictor=predictor, **state
    )
    layer, u = perturbed(config, dtype=torch.float32).train(), tokens(2, 20, dtype=torch.float32)
    wanted = expected(layer, u)
    compiled = torch.compile(layer, fullgraph=True)
    output = compiled(u)
    output.square().sum().backward()
    assert_close(output, layer(u))
    scale = max(float(grad.abs().max()) for grad in wanted.values())
    for name, p in layer.named_parameters():
        assert_close(p.grad, wanted[name], "recurrence", scale=scale, what=name)
    layer.eval()
    with torch.no_grad():
        _, state = layer(u, layer.init_state(2))
        for call in (layer.__call__, layer.step):
            x = u[:, :7] if call == layer.__call__ else u[:, 0]
            found, _ = torch.compile(call, fullgraph=True, backend="aot_eager")(x, state)
            assert_close(found, call(x, state)[0])


@pytest.mark.slow
def test_compiled_steps_are_few_graphs():
    """The first token, until the window is full, until the fading one is, and from then on."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    layer, u = perturbed(CONFIG), tokens(1, 40)
    counter = CompileCounter()
    step = torch.compile(layer.step, backend=counter, fullgraph=True)
    state = expected = layer.init_state(1)
    with torch.no_grad():
        for t in range(40):
            found, state = step(u[:, t], state)
            wanted, expected = layer.step(u[:, t], expected)
            assert_close(found, wanted)
    assert counter.frame_count == 4
