"""A lifted model is the model, for every kind of pole and in every role; and it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo import lift
from realization.errors import RealizationError, ShapeError, UnstableError
from realization.systems import InnovationsModel, StateSpace
from tests.layers import stepped
from tests.strategies import innovations_models, seeds, stable_systems
from tests.tolerances import assert_close

ROLES = ("simulator", "predictor", "generator")


def shift(n):
    return np.eye(n, k=-1)


def jordan(pole, n):
    return pole * np.eye(n) + np.eye(n, k=1)


def turned(angle, radius):
    return radius * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


SPECIAL = {
    "no state": np.zeros((0, 0)),
    "nilpotent": shift(5),
    "zero": np.zeros((3, 3)),
    "defective": jordan(0.7, 4),
    "defective pairs": np.kron(np.eye(2), turned(0.4, 0.8)) + np.kron(np.eye(2, k=1), np.eye(2)),
    "complex pair": turned(1.0, 0.95),
    "fast pair": turned(3.1, 0.9),
    "real": np.diag([0.9, -0.5, 0.1]),
    "repeated": 0.5 * np.eye(3),
    "near the circle": np.diag([1 - 1e-9, -1 + 1e-9, 0.3]),
    "pair near the circle": turned(0.01, 1 - 1e-10),
    "badly scaled": np.array([[0.5, 1e6, 0.0], [-1e-8, 0.5, 1.0], [0.0, 0.0, 0.2]]),
}


def model_with(A, *, inputs=2, outputs=2, seed=0):
    rng, n = np.random.default_rng(seed), len(A)
    return StateSpace(
        A, rng.standard_normal((n, inputs)), rng.standard_normal((outputs, n)), np.ones((outputs, inputs))
    )


def run(layer, drive, x0=None):
    """Output and state of the layer for one record."""
    with torch.no_grad():
        output, state = layer(torch.tensor(np.array(drive))[None], layer.init_state(1, x0))
    return output[0], state


class TestSameOutput:
    @given(model=stable_systems(), T=st.integers(1, 80), seed=seeds)
    def test_state_space(self, model, T, seed):
        rng = np.random.default_rng(seed)
        u, x0 = rng.standard_normal((T, model.n_inputs)), rng.standard_normal(model.n_states)
        assert_close(run(lift(model), u)[0], model.simulate(u))
        assert_close(run(lift(model), u, x0)[0], model.simulate(u, x0))

    @given(model=innovations_models(inputs=(1, 2)), T=st.integers(1, 80), seed=seeds)
    def test_innovations_model_in_every_role(self, model, T, seed):
        rng = np.random.default_rng(seed)
        u, e = rng.standard_normal((T, model.n_inputs)), rng.standard_normal((T, model.n_outputs))
        y, x0 = 10 * rng.standard_normal((T, model.n_outputs)), rng.standard_normal(model.n_states)
        expected = {
            "simulator": (u, model.simulate(u, x0)),
            "predictor": (np.hstack([u, y]), model.predict(record(y, u), x0=x0)),
            "generator": (np.hstack([u, e]), model.simulate(u, x0, e=e)),
        }
        for role, (drive, output) in expected.items():
            assert_close(run(lift(model, role=role), drive, x0)[0], output, "recurrence", what=role)

    @given(model=innovations_models(inputs=(0, 0)), T=st.integers(1, 80), seed=seeds)
    def test_time_series(self, model, T, seed):
        y = 10 * np.random.default_rng(seed).standard_normal((T, model.n_outputs))
        x0 = np.zeros(model.n_states)
        assert_close(run(lift(model, role="predictor"), y)[0], model.predict(record(y), x0=x0), "recurrence")
        assert_close(run(lift(model, role="generator"), y)[0], model.simulate(x0=x0, e=y), "recurrence")

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_every_kind_of_pole(self, kind, rng):
        model = model_with(SPECIAL[kind])
        u, x0 = rng.standard_normal((200, 2)), rng.standard_normal(model.n_states)
        layer = lift(model)
        assert_close(run(layer, u, x0)[0], model.simulate(u, x0), "recurrence")
        assert_close(
            stepped(layer, torch.tensor(u)[None], layer.init_state(1, x0))[0][0],
            model.simulate(u, x0),
            "recurrence",
        )

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_in_the_same_coordinates(self, kind, rng):
        """The change of state is orthogonal, so the layer's state is the model's seen from another side."""
        model = model_with(SPECIAL[kind])
        layer, u = lift(model), rng.standard_normal((30, 2))
        basis = layer.basis
        assert_close(basis.mT @ basis, np.eye(model.n_states))
        assert_close(basis @ layer.core.A() @ basis.mT, model.A, scale=1 + np.abs(model.A).max(initial=0))
        _, (state,) = run(layer, u)
        x = np.zeros(model.n_states)
        for sample in u:
            x = model.A @ x + model.B @ sample
        assert_close(basis @ state[0], x, "recurrence")

    def test_a_batch_is_many_records(self, rng):
        model, u = model_with(turned(0.5, 0.9)), rng.standard_normal((3, 40, 2))
        expected = np.array([model.simulate(row) for row in u])
        assert_close(lift(model)(torch.from_numpy(u)), expected)

    def test_single_precision(self, rng):
        model, u = model_with(turned(0.5, 0.9)), rng.standard_normal((50, 2))
        output = lift(model, dtype=torch.float32)(torch.from_numpy(u).float()[None])[0]
        assert output.dtype == torch.float32
        assert_close(output, model.simulate(u), "recurrence")


def record(y, u=None):
    from realization.signals import IOData

    return IOData(y, u)


class TestErrors:
    def test_continuous_time(self):
        with pytest.raises(RealizationError, match="discretize it first"):
            lift(StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0))

    @pytest.mark.parametrize("pole", [1.0, -1.2])
    def test_unstable(self, pole):
        with pytest.raises(UnstableError, match="role='predictor'"):
            lift(StateSpace([[pole]], [[1.0]], [[1.0]]))

    def test_an_unstable_predictor(self):
        model = InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[2.0]])
        with pytest.raises(UnstableError, match="Reduce or refit it"):
            lift(model, role="predictor")

    def test_the_predictor_of_an_unstable_model(self):
        model = InnovationsModel([[1.2]], [[1.0]], [[1.0]], K=[[0.9]])
        y = np.random.default_rng(0).standard_normal((20, 1))
        expected = model.predict(record(y, y), x0=[0.0])
        assert_close(run(lift(model, role="predictor"), np.hstack([y, y]))[0], expected, "recurrence")

    @pytest.mark.parametrize("role", ROLES[1:])
    def test_roles_that_need_a_noise_model(self, role):
        with pytest.raises(RealizationError, match="needs an InnovationsModel"):
            lift(StateSpace([[0.5]], [[1.0]], [[1.0]]), role=role)

    def test_an_unknown_role(self):
        with pytest.raises(RealizationError, match="role='smoother'"):
            lift(StateSpace([[0.5]], [[1.0]], [[1.0]]), role="smoother")

    def test_nothing_to_simulate_from(self):
        with pytest.raises(RealizationError, match="no inputs"):
            lift(InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]]))

    def test_a_state_of_the_wrong_size(self):
        with pytest.raises(ShapeError, match="x0 has shape"):
            lift(model_with(np.eye(2) / 2)).init_state(1, np.zeros(3))


class TestTraining:
    def test_it_finds_back_to_a_model(self, rng):
        """A layer lifted from a wrong model learns the right one, and stays stable on the way."""
        true, wrong = model_with(turned(0.5, 0.9), seed=1), model_with(turned(0.7, 0.6), seed=2)
        u = torch.from_numpy(rng.standard_normal((4, 60, 2)))
        y = torch.from_numpy(np.array([true.simulate(row) for row in u.numpy()]))
        layer = lift(wrong)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
        errors = []
        for _ in range(250):
            optimizer.zero_grad()
            error = (layer(u) - y).square().mean()
            error.backward()
            optimizer.step()
            errors.append(error.item())
            assert float(torch.linalg.eigvals(layer.core.A().detach()).abs().max()) < 1
        assert errors[-1] < 1e-3 * errors[0]

    @pytest.mark.parametrize("parametrization", ["schur", "modal", "diagonal"])
    def test_a_predictor_never_learns_to_pass_on_its_target(self, parametrization, rng):
        """Whatever its parameters are, the prediction of a sample does not depend on that sample."""
        model = InnovationsModel([[0.5, 0.2], [-0.1, 0.4]], [[1.0], [0.3]], [[1.0, 0.5]], K=[[0.3], [0.1]])
        layer = lift(model, role="predictor", parametrization=parametrization)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)
        z = torch.from_numpy(rng.standard_normal((1, 6, 2))).requires_grad_()
        (seen,) = torch.autograd.grad(layer(z)[0, 3, 0], z)
        assert seen[0, 3, 1] == 0
        assert seen[0, 3, 0] != 0
        assert seen[0, 2, 1] != 0

    def test_parameters_are_stored_and_read(self, rng, tmp_path):
        model = model_with(np.diag([0.9, 0.5, -0.2]))
        layer, other = lift(model), lift(model_with(np.diag([0.1, 0.2, 0.3]), seed=5))
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
        u = torch.from_numpy(rng.standard_normal((1, 30, 2)))
        assert_close(other(u), layer(u), "bitwise")

    def test_what_is_trained(self):
        layer = lift(InnovationsModel([[0.5]], [[1.0]], [[1.0]], u_mean=[3.0], y_mean=[2.0]))
        trained = {name for name, _ in layer.named_parameters()}
        assert trained == {f"core.{name}" for name in ("rho", "theta", "skew", "upper", "B", "C", "D")}
        assert {"input_mean", "output_mean", "basis"} <= set(layer.state_dict())
