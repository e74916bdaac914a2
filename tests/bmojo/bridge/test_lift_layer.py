"""A layer that begins as a model: it puts out the prediction, scores by innovations, learns by likelihood."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bmojo import lift, lift_layer, prediction_loss
from bmojo.eidetic.predictor import Evidence
from realization import innovations
from realization.errors import RankError, RealizationError, ShapeError, UnstableError
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.layers import in_pieces, stepped
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close

FORMS = ("schur", "modal", "diagonal")


def record_of(model, T, seed, x0=None):
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((T, model.n_inputs)) + model.u_mean
    e = rng.standard_normal((T, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
    return IOData(model.simulate(u if model.n_inputs else None, x0, e=e), u if model.n_inputs else None)


def example(seed=0, inputs=1, outputs=2):
    rng = np.random.default_rng(seed)
    A = np.array([[0.8, 0.3, 0.0], [-0.3, 0.8, 0.1], [0.0, 0.0, 0.5]])
    root = np.tril(rng.standard_normal((outputs, outputs)), -1) + np.diag(1.0 + np.arange(outputs))
    return InnovationsModel(
        A,
        rng.standard_normal((3, inputs)),
        rng.standard_normal((outputs, 3)) / 3,
        rng.standard_normal((outputs, inputs)),
        K=rng.standard_normal((3, outputs)) / 10,
        Re=root @ root.T,
        u_mean=rng.standard_normal(inputs),
        y_mean=10 * rng.standard_normal(outputs),
    )


@settings(max_examples=30)
@given(model=innovations_models(), T=st.integers(1, 60), seed=seeds, form=st.sampled_from(("schur", "modal")))
def test_it_begins_as_the_model(model, T, seed, form):
    """Against `realization`, which computes neither output nor scores by a layer."""
    x0 = np.random.default_rng(seed).standard_normal(model.n_states)
    data = record_of(model, T, seed, x0)
    layer = lift_layer(model, window=5, eidetic=4, chunk=2, parametrization=form).eval()
    tokens = layer.tokens(data)
    trace = layer.trace(tokens)
    found = innovations(model, data, x0=np.zeros(model.n_states))
    assert_close(trace.scores[0], found.normalized_squared, "recurrence")
    assert_close(
        layer.outputs(trace.output)[0], model.predict(data, x0=np.zeros(model.n_states)), "recurrence"
    )
    assert not trace.output[..., : model.n_inputs].any()
    output, _ = layer(tokens, layer.init_state(1, x0=x0))
    assert_close(layer.outputs(output)[0], model.predict(data, x0=x0), "recurrence")
    scores, _, _ = layer.predictor(Evidence(tokens), layer.init_state(1, x0=x0).predictor)
    assert_close(scores[0], innovations(model, data, x0=x0).normalized_squared, "recurrence")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inputs", [0, 1])
def test_pieces_and_steps(form, inputs):
    model = example(inputs=inputs)
    layer = lift_layer(model, window=4, eidetic=3, chunk=2, parametrization=form).eval()
    with torch.no_grad():
        layer.out_proj.weight.normal_()
    tokens = layer.tokens(record_of(model, 40, 1))
    start = layer.init_state(1, x0=[1.0, -2.0, 0.5])
    full, last = layer(tokens, start)
    for output, state in (in_pieces(layer, tokens, start, [7, 8, 30]), stepped(layer, tokens, start)):
        assert_close(output, full, "recurrence")
        assert_close(state.mixer[0], last.mixer[0], "recurrence")
        assert_close(state.predictor[0], last.predictor[0], "recurrence")
        assert_close(state.eidetic_index, last.eidetic_index, "bitwise")


@pytest.mark.parametrize("form", FORMS)
def test_its_state_is_the_kalman_state(form):
    model = example()
    data = record_of(model, 50, 2)
    layer = lift_layer(model, parametrization=form)
    _, state = layer(layer.tokens(data), layer.init_state(1, x0=[0.3, 0.2, 0.1]))
    x = np.array([0.3, 0.2, 0.1])
    for u, y in zip(data.u - model.u_mean, data.y - model.y_mean):
        x = model.A @ x + model.B @ u + model.K @ (y - model.C @ x - model.D @ u)
    assert_close(layer.basis @ state.mixer[0][0], x, "recurrence")
    assert_close(layer.basis @ state.predictor[0][0], x, "recurrence")


def test_packed_records_are_apart():
    model = example()
    layer = lift_layer(model, window=4, eidetic=3, parametrization="diagonal").eval()
    records = [layer.tokens(record_of(model, T, T)) for T in (9, 1, 20)]
    packed = layer(torch.cat(records, dim=1), cu_seqlens=torch.tensor([0, 9, 10, 30]))
    assert_close(packed, torch.cat([layer(tokens) for tokens in records], dim=1), "recurrence")


def test_its_loss_is_the_likelihood_and_so_is_its_gradient():
    """Code length per channel in nats; finite differences in every entry of the filter's B."""
    model, p = example(), 2
    data = record_of(model, 60, 3)

    bits = innovations(model, data, x0=np.zeros(3)).code_length.mean()
    layer = lift_layer(model, window=4, eidetic=3)
    layer(layer.tokens(data)).sum().backward()
    assert_close(prediction_loss(layer), bits * np.log(2) / p - 0.5 * np.log(2 * np.pi))
    core = layer.predictor.core
    basis, at_K = layer.basis.numpy(), core.B.grad.numpy()

    # Of B alone, [B - K D, K]: finite differences of the recursion written out.
    def of_B(M):
        x, total = np.zeros(3), 0.0
        white = np.linalg.inv(np.linalg.cholesky(model.Re))
        for u, y in zip(data.u - model.u_mean, data.y - model.y_mean):
            total += np.square(white @ (y - model.C @ x - model.D @ u)).sum()
            x = (model.A - model.K @ model.C) @ x + M @ np.concatenate([u, y])
        return 0.5 * (total / data.length + np.linalg.slogdet(model.Re)[1]) / p

    M = np.hstack([model.B - model.K @ model.D, model.K])
    expected = np.zeros_like(M)
    for i, j in np.ndindex(*M.shape):
        step = np.zeros_like(M)
        step[i, j] = 1e-6
        expected[i, j] = (of_B(M + step) - of_B(M - step)) / 2e-6
    assert_close(basis @ at_K, expected, "optimum")


def test_training_goes_on_identifying():
    """From a wrong gain and covariance the attached loss alone finds better ones."""
    true = example()
    wrong = InnovationsModel(
        true.A, true.B, true.C, true.D, K=0 * true.K, Re=np.eye(2), u_mean=true.u_mean, y_mean=true.y_mean
    )
    data = record_of(true, 400, 4)
    layer = lift_layer(wrong, window=4, eidetic=3)
    tokens, optimizer = layer.tokens(data), torch.optim.Adam(layer.predictor.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        (0 * layer(tokens).sum()).backward()
        optimizer.step()
        losses.append(float(prediction_loss(layer)))
        assert float(torch.linalg.eigvals(layer.predictor.core.A().detach()).abs().max()) < 1
    ideal = innovations(true, data, x0=np.zeros(3)).code_length.mean() * np.log(2) / 2 - 0.5 * np.log(
        2 * np.pi
    )
    assert losses[0] > ideal + 0.2
    assert abs(losses[-1] - ideal) < 0.05
    error = np.linalg.norm(layer.predictor.Re().detach().numpy() - true.Re)
    assert error < 0.2 * np.linalg.norm(true.Re)


@given(seed=seeds, p=st.integers(1, 4))
def test_the_metric_is_the_covariance(seed, p):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((p, p)) + 2 * np.eye(p)
    Re = root @ root.T + 0.01 * np.eye(p)
    model = InnovationsModel(np.zeros((1, 1)), np.zeros((1, 0)), np.zeros((p, 1)), K=np.zeros((1, p)), Re=Re)
    layer = lift_layer(model, window=2, eidetic=1)
    assert_close(layer.predictor.Re(), Re, "recurrence")
    e = rng.standard_normal((7, p))
    scores = layer.predictor(Evidence(torch.from_numpy(e)[None]))[0][0]
    assert_close(scores, np.einsum("ti,ij,tj->t", e, np.linalg.inv(Re), e), "iterative")


def test_a_threshold_counts_the_outputs():
    from scipy.stats import chi2

    layer = lift_layer(example(), rule="threshold", false_alarm=0.05)
    assert_close(layer.threshold, chi2.isf(0.05, 2), "iterative")


def test_other_predictors_and_no_attention():
    model = example()
    assert type(lift_layer(model, predictor="conv").predictor).__name__ == "ConvPredictor"
    bare = lift_layer(model, window=0, eidetic=0)
    data = record_of(model, 30, 5)
    tokens = bare.tokens(data)
    assert_close(bare.outputs(bare(tokens))[0], model.predict(data, x0=np.zeros(3)), "recurrence")
    lifted = lift(model, role="predictor")
    assert_close(bare.outputs(bare(tokens)), lifted(torch.tensor(np.hstack([data.u, data.y]))[None]))


def test_stored_copied_and_read(tmp_path):
    model = example()
    layer, other = lift_layer(model), lift_layer(example(seed=1))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    data = record_of(model, 20, 6)
    tokens = layer.tokens(data)
    assert_close(other.tokens(data), tokens, "bitwise")
    assert_close(other(tokens), layer(tokens), "bitwise")
    assert_close(copy.deepcopy(layer)(tokens), layer(tokens), "bitwise")


class TestErrors:
    def test_a_model_without_noise(self):
        with pytest.raises(RealizationError, match="an InnovationsModel is needed"):
            lift_layer(StateSpace([[0.5]], [[1.0]], [[1.0]]))

    def test_an_unstable_predictor(self):
        with pytest.raises(UnstableError, match="Reduce or refit it"):
            lift_layer(InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[2.0]]))

    def test_a_singular_covariance(self):
        with pytest.raises(RankError, match="Re"):
            lift_layer(InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.1]], Re=[[0.0]]))

    @pytest.mark.parametrize("name", ["d_model", "mixer", "state_size"])
    def test_what_is_the_models(self, name):
        with pytest.raises(ValueError, match="it is the model's"):
            lift_layer(example(), **{name: 3})

    def test_another_record(self):
        with pytest.raises(ShapeError, match="the model has 1 inputs and 2 outputs"):
            lift_layer(example()).tokens(np.zeros((5, 2)))
