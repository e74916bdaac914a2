"""A mixer that starts from a realization: it predicts what it was told of, and it can be stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are

from bmojo import BMojo, BMojoConfig, BMojoLM, initialize_from
from bmojo.fading import LTI, DiagonalLTI, ModalLTI
from realization.errors import DataError, RealizationError
from tests.tolerances import assert_close

LINEAR = {"lti": LTI, "lti_modal": ModalLTI, "lti_diagonal": DiagonalLTI}


def layer_with(mixer, *, d_model=6, state_size=6, **options):
    torch.manual_seed(0)
    window = {"window": 0, "eidetic": 0} | options
    return BMojo(BMojoConfig(d_model=d_model, heads=1, mixer=mixer, state_size=state_size, **window))


def process(rng, T, *, sequences=3, width=6):
    """A process of two slow modes seen through noise in `width` channels, and its best predictor's error."""
    c, s = 0.97 * np.cos(0.3), 0.97 * np.sin(0.3)
    A, C = np.array([[c, -s], [s, c]]), rng.standard_normal((width, 2))
    Q, R = np.eye(2), 4 * np.eye(width)
    P = solve_discrete_are(A.T, C.T, Q, R)
    x, y = np.zeros((sequences, 2)), np.zeros((sequences, T, width))
    for t in range(T):
        y[:, t] = x @ C.T + 2 * rng.standard_normal((sequences, width))
        x = x @ A.T + rng.standard_normal((sequences, 2))
    return torch.from_numpy(y).float(), float(np.trace(C @ P @ C.T + R))


@pytest.mark.parametrize("mixer", LINEAR)
def test_it_starts_as_the_kalman_predictor_of_what_it_sees(mixer, rng):
    """Against the Riccati equation of the process that made the sample, which no identification knows."""
    hidden, least = process(rng, 1500)
    fresh, _ = process(np.random.default_rng(7), 1500)
    layer = layer_with(mixer)
    (start,) = initialize_from(layer, hidden)
    assert type(layer.mixer) is LINEAR[mixer]
    assert 2 <= start.model.n_states <= 6
    assert len(layer.mixer.B) == 6
    with torch.no_grad():
        error = (layer(hidden)[:, :-1] - hidden[:, 1:])[:, 50:].square().sum(-1).mean()
    assert 0.95 * least < float(error) < 1.05 * least
    total = hidden.var(dim=(0, 1)).sum()
    assert abs(start.explained - (1 - float(error / total))) < 0.02
    assert fresh.shape == hidden.shape


def test_it_stays_good_on_other_sequences_of_the_process():
    make = np.random.default_rng(3)
    hidden, least = process(make, 1500, sequences=4)
    layer = layer_with("lti")
    initialize_from(layer, hidden[:3])
    with torch.no_grad():
        error = (layer(hidden[3:])[:, :-1] - hidden[3:, 1:])[:, 50:].square().sum(-1).mean()
    assert float(error) < 1.1 * least


@pytest.mark.parametrize("mixer", LINEAR)
def test_with_a_target_it_starts_as_the_path_to_it(mixer, rng):
    hidden = torch.from_numpy(rng.standard_normal((2, 800, 6))).float()
    truth = LTI(6, 6, 4, blocks=[True, False, False]).double()
    with torch.no_grad():
        truth.C.mul_(3.0)
        target = truth(hidden.double())[0].float()
    layer = layer_with(mixer)
    (start,) = initialize_from(layer, hidden, target, order=4)
    assert start.explained > 0.999
    with torch.no_grad():
        assert (layer(hidden) - target)[:, 100:].square().mean() < 1e-3 * target.square().mean()


def test_a_mean_of_the_hidden_sequence_is_not_added_up(rng):
    """Every channel has a level of its own, as large as the signal; slow modes must not see it."""
    hidden, least = process(rng, 1500, width=32)
    level = 20.0 * torch.from_numpy(rng.standard_normal(32)).float()
    layer = layer_with("lti", d_model=32)
    (start,) = initialize_from(layer, hidden + level)
    with torch.no_grad():
        output = layer(hidden + level)
    assert start.captured > 0.8
    away = (output[:, :-1] - hidden[:, 1:])[:, 50:].square().sum(-1).mean()
    assert away < 1.2 * least


def test_room_that_is_left_puts_out_nothing_and_learns(rng):
    hidden, _ = process(rng, 600)
    layer = layer_with("lti_modal", state_size=8)
    (start,) = initialize_from(layer, hidden, order=2)
    reads = torch.linalg.norm(layer.mixer.C.detach(), dim=0)
    assert start.model.n_states == 2
    assert int((reads == 0).sum()) == 6
    layer(hidden[:, :50]).square().mean().backward()
    assert (layer.mixer.C.grad.norm(dim=0) > 0).all()


def test_states_have_unit_variance_under_the_sample(rng):
    hidden, _ = process(rng, 1500)
    layer = layer_with("lti")
    (start,) = initialize_from(layer, 1000 * hidden, order=2)
    kept = torch.linalg.norm(layer.mixer.C.detach(), dim=0) > 0
    x, (state,) = [], layer.mixer.init_state(3)
    with torch.no_grad():
        for token in (1000 * hidden).unbind(1):
            _, (state,) = layer.mixer.step(token, (state,))
            x.append(state[:, kept])
    covariance = torch.cat(x[100:]).T.cov()
    assert start.model.n_states == int(kept.sum())
    assert (covariance.diagonal() - 1).abs().max() < 0.1  # the first hundred tokens are left out


@pytest.mark.parametrize("mixer", ["mamba2", "mamba", "gated_deltanet", "gated_kalmanet"])
def test_decay_rates_at_rest_are_those_of_the_poles(mixer, rng):
    hidden, _ = process(rng, 1000, width=8)
    layer = layer_with(mixer, d_model=8, state_size=4)
    before = {name: p.clone() for name, p in layer.mixer.named_parameters() if name != "A_log"}
    (start,) = initialize_from(layer, hidden, order=2)
    parameters = dict(layer.mixer.named_parameters())
    assert all(torch.equal(parameters[name], p) for name, p in before.items())
    bias = parameters["dt_proj.bias"] if mixer == "mamba" else parameters["dt_bias"]
    step = torch.nn.functional.softplus(bias)
    step = step.unsqueeze(-1) if parameters["A_log"].ndim == 2 else step
    tau = 1 / (step * parameters["A_log"].exp())
    assert torch.isfinite(tau).all()
    assert float(tau.detach().max()) <= start.time_constants.max() * 1.001
    assert float(tau.detach().min()) >= start.time_constants.min() / 1.001
    assert np.isnan(start.explained)


def test_a_model_is_started_layer_by_layer_as_it_runs():
    """The second layer's sample is what reaches it once the first is started."""
    torch.manual_seed(0)
    config = BMojoConfig(d_model=8, heads=1, window=4, eidetic=2, mixer="lti", state_size=3)
    model, tokens = BMojoLM(20, [config] * 2), torch.randint(20, (2, 400))
    starts = initialize_from(model, tokens, order=3)
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        for layer in model.modules()
        if isinstance(layer, BMojo)
    ]
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    for start, hidden in zip(starts, seen, strict=True):
        z = hidden.double().numpy() @ start.components
        assert_close(np.cov(z.reshape(-1, z.shape[-1]).T), np.eye(z.shape[-1]), "optimum", dtype="float32")
    assert len(starts) == 2


@pytest.mark.parametrize("mixer", LINEAR)
def test_what_was_started_is_stored_and_read(mixer, tmp_path):
    config = BMojoConfig(d_model=6, heads=1, window=4, eidetic=2, head_dim=4, mixer=mixer, state_size=5)
    model, tokens = BMojoLM(20, [config] * 2), torch.randint(20, (2, 300))
    initialize_from(model, tokens)
    model.save(tmp_path / "model")
    fresh = BMojoLM.load(tmp_path / "model")
    alone = BMojo(model.blocks[1].layer.config)
    alone.load_state_dict(model.blocks[1].layer.state_dict())
    with torch.no_grad():
        assert_close(fresh.eval()(tokens), model.eval()(tokens), "bitwise")


class TestErrors:
    def test_no_mixer(self):
        with pytest.raises(DataError, match="mixer='none'"):
            initialize_from(BMojo(BMojoConfig(d_model=8, mixer="none", window=2)), torch.randn(1, 50, 8))
        with pytest.raises(DataError, match="without a B'MOJO layer's mixer"):
            initialize_from(torch.nn.Linear(2, 2), torch.randn(1, 50, 2))

    def test_nothing_happens_in_the_sample(self):
        with pytest.raises(DataError, match="does not vary"):
            initialize_from(layer_with("lti"), torch.ones(1, 100, 6))

    def test_targets(self):
        hidden = torch.randn(1, 200, 6)
        with pytest.raises(DataError, match="one for each token"):
            initialize_from(layer_with("lti"), hidden, hidden[:, 1:])
        with pytest.raises(DataError, match="targets are those of a linear mixer"):
            initialize_from(layer_with("mamba2"), hidden, hidden)
        config = BMojoConfig(d_model=8, heads=1, window=4, eidetic=2, mixer="lti", state_size=3)
        with pytest.raises(DataError, match="a single layer"):
            initialize_from(BMojoLM(20, [config]), torch.randint(20, (1, 99)), hidden)

    def test_an_order_without_room(self):
        with pytest.raises(DataError, match="room for 1 to 6"):
            initialize_from(layer_with("lti"), torch.randn(1, 200, 6), order=7)

    def test_a_mixer_of_another_kind(self):
        layer = layer_with("lti")
        layer.mixer = torch.nn.Linear(6, 6)
        with pytest.raises(RealizationError, match="a mixer Linear came"):
            initialize_from(layer, torch.randn(1, 200, 6))
