"""A nonlinear simulator: its floor, its loop against finite differences, steps, files, seeds, the tanks."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

import realization as rz
from bmojo import BMojoConfig, SignalModel
from bmojo.bridge import FloorWarning
from bmojo.bridge.signal_model.loop import Loop
from bmojo.bridge.signal_model.memory import Member, MemoryCorrection, _Simulation
from bmojo.bridge.signal_model.static import saturation, without
from realization.errors import DataError, RealizationError, ShapeError
from tests.tolerances import assert_close

SMALL = {"folds": 3, "candidates": 2, "keep": 1, "memory_steps": 10}


def random_loop(rng, *, states=2, inputs=2, outputs=2, units=3, limit=np.inf):
    A = rng.standard_normal((states, states))
    A *= 0.8 / np.abs(np.linalg.eigvals(A)).max()
    shapes = (
        (states, inputs), (outputs, states), (outputs, inputs), (units, states + inputs), (units,),
        (states, units), (outputs, units),
    )  # fmt: skip
    others = (0.5 * rng.standard_normal(shape) for shape in shapes)
    return Loop(A, *others, np.full(outputs, -limit), np.full(outputs, limit))


def tank(rng, samples=480):
    """One tank whose outflow is the root of its level, with what overflows lost."""
    u = np.repeat(rng.uniform(0, 1, samples // 16), 16)[:, None]
    y = np.zeros((samples, 1))
    for t in range(samples - 1):
        y[t + 1] = np.clip(y[t, 0] + 0.4 * u[t, 0] - 0.2 * np.sqrt(y[t, 0]), 0.0, 1.5)
    return rz.IOData(np.minimum(y + 0.005 * rng.standard_normal(y.shape), 1.5), u)


def linear_record(rng, samples=240):
    plant = rz.StateSpace([[0.9, 0.2], [-0.2, 0.7]], [[1.0], [0.3]], [[1.0, 0.5]], [[0.1]])
    u = rng.standard_normal((samples, 1))
    y = plant.simulate(u)
    return rz.IOData(y + 0.2 * y.std() * rng.standard_normal(y.shape), u)


def linear_of(data):
    return rz.n4sid(data, order=2).model


@pytest.fixture(scope="module")
def two_tanks():
    rng = np.random.default_rng(3)
    return tank(rng), tank(rng)


@pytest.fixture(scope="module")
def model(two_tanks):
    found = SignalModel.fit(two_tanks[0], linear=linear_of(two_tanks[0]), **SMALL, progress=False)
    assert found.corrected
    return found


def with_memories(model, seed=0):
    """The model, each member with a memory that does something."""
    torch.manual_seed(seed)
    config = BMojoConfig(d_model=4, heads=1, window=3, eidetic=2, mixer="lti", state_size=2)
    members = []
    for member in model.members:
        memory = MemoryCorrection(config, 1, len(member.loop.A), 1)
        torch.nn.init.normal_(memory.readout.weight, std=0.1)
        memory.eval().requires_grad_(False)
        members.append(Member(member.loop, memory, member.hold, member.fits))
    return SignalModel(model.linear, members, model.scales, floor=0.0, fit_percent=1.0)


class TestLoop:
    def test_simulation_is_the_definition(self, rng):
        loop, u = random_loop(rng, limit=0.8), rng.standard_normal((20, 2))
        w, v, x = rng.standard_normal((20, 2)), rng.standard_normal((20, 2)), np.array([0.3, -0.2])
        found, states = loop.simulate(u, x, (w, v))
        for t in range(20):
            h = np.tanh(loop.W @ np.concatenate([x, u[t]]) + loop.b)
            y = np.clip(loop.C @ x + loop.D @ u[t] + loop.F @ h + v[t], -0.8, 0.8)
            assert_close(found[t], y)
            x = loop.A @ x + loop.B @ u[t] + loop.E @ h + w[t]
            assert_close(states[t + 1], x)

    @pytest.mark.parametrize("limit", [np.inf, 0.8])
    def test_sensitivities_are_central_differences(self, rng, limit):
        loop, u, x0 = random_loop(rng, limit=limit), rng.standard_normal((15, 2)), np.array([0.3, -0.2])
        y, x = loop.simulate(u, x0)
        J, z, step = loop.sensitivities(u, x, y), np.concatenate([loop.parameters, x0]), 1e-6
        size = len(loop.parameters)
        for k in range(len(z)):
            ends = []
            for sign in (1, -1):
                moved = z.copy()
                moved[k] += sign * step
                ends.append(loop.with_parameters(moved[:size]).simulate(u, moved[size:])[0])
            np.testing.assert_allclose(J[..., k], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("limit", [np.inf, 0.8])
    def test_gradient_through_the_loop_by_gradcheck(self, rng, limit):
        loop, u = random_loop(rng, limit=limit), rng.standard_normal((2, 7, 2))
        x0 = rng.standard_normal((2, 2))
        w, v = (torch.tensor(rng.standard_normal((2, 7, 2)), requires_grad=True) for _ in range(2))
        assert torch.autograd.gradcheck(lambda w, v: _Simulation.apply(w, v, loop, u, x0), (w, v))

    def test_it_stays_bounded_for_all_inputs(self, rng):
        loop = random_loop(rng)
        y, _ = loop.simulate(1e6 * np.sign(rng.standard_normal((5000, 2))), np.zeros(2))
        plain, _ = Loop(*loop.matrices[:6], 0 * loop.E, 0 * loop.F, loop.low, loop.high).simulate(
            np.zeros((5000, 2)), np.zeros(2)
        )
        assert np.isfinite(y).all()
        assert np.isfinite(plain).all()

    def test_first_state_is_found(self, rng):
        loop, u, x0 = random_loop(rng), rng.standard_normal((40, 2)), np.array([0.4, -0.7])
        y, _ = loop.simulate(u, x0)
        assert_close(loop.first_state(u, y), x0, "optimum")


class TestFloor:
    def test_on_a_linear_record_the_model_is_linear_exactly(self, rng):
        train, validation = linear_record(rng), linear_record(rng)
        linear = linear_of(train)
        with pytest.warns(FloorWarning, match="the linear model is returned"):
            found = SignalModel.fit(train, linear=linear, **SMALL, progress=False)
        assert not found.corrected
        assert "correction was no better" in found.report()
        x0 = found.estimate_x0(validation)
        assert_close(x0, linear.estimate_x0(validation), "bitwise")
        assert_close(found.simulate(validation.u, x0=x0), linear.simulate(validation.u, x0), "bitwise")

    def test_a_validation_record_decides_where_given(self, rng, two_tanks):
        spoiled = rz.IOData(rng.standard_normal((200, 1)).cumsum(axis=0), rng.standard_normal((200, 1)))
        options = SMALL | {"memory": None, "linear": linear_of(two_tanks[0])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for validation in (two_tanks[1], spoiled):
                found = SignalModel.fit(two_tanks[0], validation, **options, progress=False)
                x0 = found.estimate_x0(validation)
                own = rz.fit_percent(validation.y, found.simulate(validation.u, x0=x0)).mean()
                first = found.linear.estimate_x0(validation)
                floor = rz.fit_percent(validation.y, found.linear.simulate(validation.u, first)).mean()
                assert own >= floor - 1e-9
                assert_close(found.floor, floor, "iterative")

    def test_no_member_is_below_its_linear_start_on_what_it_held_out(self, model):
        for member in model.members:
            linear, static, with_memory = member.fits
            assert linear <= static <= with_memory

    def test_it_finds_the_nonlinearity_of_a_tank(self, model, two_tanks):
        validation = two_tanks[1]
        own = rz.fit_percent(validation.y, model.simulate(validation.u, x0=model.estimate_x0(validation)))
        first = model.linear.estimate_x0(validation)
        linear = rz.fit_percent(validation.y, model.linear.simulate(validation.u, first))
        assert own[0] > linear[0] + 10
        assert model.simulate(validation.u).max() <= 1.5 + 1e-9  # where the record saturates


class TestSimulation:
    def test_steps_are_the_simulation(self, model, two_tanks):
        data = two_tanks[1][:40]
        for which in (
            with_memories(model),
            SignalModel(model.linear, (), model.scales, floor=0, fit_percent=0),
        ):
            x0 = which.estimate_x0(data)
            whole, state, found = which.simulate(data.u, x0=x0), which.init_state(x0), []
            for u_t in data.inputs:
                y, state = which.step(u_t, state)
                found.append(y)
            assert_close(np.array(found), whole, "recurrence")

    def test_nothing_measured_goes_in_but_the_input_and_x0(self, model, two_tanks):
        data, which = two_tanks[1], with_memories(model)
        x0 = which.estimate_x0(data, stretch=30)
        spoiled = data.y.copy()
        spoiled[30:] = 0.0
        assert_close(which.estimate_x0(rz.IOData(spoiled, data.u), stretch=30), x0, "bitwise")
        longer = which.simulate(data.u, x0=x0)
        assert_close(which.simulate(data.u[:100], x0=x0), longer[:100], "recurrence")

    def test_a_memory_is_felt_and_can_be_taken_out(self, model, two_tanks):
        data, which = two_tanks[1], with_memories(model)
        x0 = model.estimate_x0(data)
        bare = model.without_memory().simulate(data.u, x0=x0)
        assert np.abs(which.simulate(data.u, x0=x0) - bare).max() > 1e-3
        assert_close(which.without_memory().simulate(data.u, x0=x0), bare, "bitwise")


def test_the_same_seed_gives_the_same_model_and_leaves_torch_alone(two_tanks, model):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    again = SignalModel.fit(two_tanks[0], linear=model.linear, **SMALL, progress=False)
    assert torch.equal(torch.rand(1), expected)
    u = two_tanks[1].u
    assert_close(again.simulate(u), model.simulate(u), "bitwise")
    other = SignalModel.fit(two_tanks[0], linear=model.linear, **SMALL, memory=None, seed=1, progress=False)
    assert not np.array_equal(other.simulate(u), model.simulate(u))


@pytest.mark.parametrize("kind", ["as fitted", "with memories", "linear"])
def test_what_is_read_is_what_was_written(model, two_tanks, tmp_path, kind):
    which = {
        "as fitted": model,
        "with memories": with_memories(model),
        "linear": SignalModel(model.linear, (), model.scales, floor=50.0, fit_percent=50.0),
    }[kind]
    which.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    again = SignalModel.load(tmp_path / "model")
    data = two_tanks[1]
    x0 = which.estimate_x0(data)
    assert_close(again.estimate_x0(data), x0, "bitwise")
    assert_close(again.simulate(data.u, x0=x0), which.simulate(data.u, x0=x0), "bitwise")
    assert again.report() == which.report()


def test_a_folder_with_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        SignalModel.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"kind": "other"}))
    with pytest.raises(DataError, match="holds other"):
        SignalModel.load(tmp_path)


def test_what_does_not_fit_is_refused(model, two_tanks):
    train = two_tanks[0]
    with pytest.raises(DataError, match="without inputs"):
        SignalModel.fit(rz.IOData(train.y))
    with pytest.raises(ShapeError, match="folds"):
        SignalModel.fit(train[:60], folds=4)
    with pytest.raises(RealizationError, match="keep=3"):
        SignalModel.fit(train, keep=3, candidates=2)
    with pytest.raises(ShapeError, match="x0 has shape"):
        model.simulate(train.u, x0=np.zeros((1, 7)))
    with pytest.raises(ShapeError, match="inputs of shape"):
        model.simulate(np.zeros((5, 3)))
    holes = train.y.copy()
    holes[3] = np.nan
    with pytest.raises(DataError, match="missing"):
        SignalModel.fit(rz.IOData(holes, train.u, missing=True))


def test_several_experiments_are_never_joined(two_tanks):
    first, second = two_tanks
    both = rz.IOData(
        np.concatenate([first.y, second.y]), np.concatenate([first.u, second.u]), starts=(0, first.length)
    )
    found = SignalModel.fit(
        both, linear=linear_of(both), folds=2, candidates=1, keep=1, memory=None, progress=False
    )
    assert {member.hold for member in found.members} <= {(0, 480), (480, 960)}
    assert found.corrected


def test_limits_are_where_a_record_stays():
    y = np.column_stack([np.minimum(np.linspace(0, 2, 100), 1.0), np.linspace(0, 1, 100)])
    low, high = saturation(y)
    assert high[0] == 1.0
    assert np.isinf([*low, high[1]]).all()
    assert without([(0, 100), (100, 200)], (90, 130)) == [(0, 90), (130, 200)]


@pytest.mark.slow
def test_the_floor_when_left_out_is_identify(rng):
    train = linear_record(rng)
    with pytest.warns(FloorWarning):
        found = SignalModel.fit(train, folds=2, candidates=1, keep=1, memory=None, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linear = rz.identify(train, progress=False).model
    assert_close(found.simulate(train.u), linear.simulate(train.u), "bitwise")


@pytest.mark.slow
def test_the_cascaded_tanks():
    """At least ten points of fit above the best linear peer (72.8 %), from the first record alone."""
    train, validation = rz.load_data("cascaded_tanks"), rz.load_data("cascaded_tanks", part="validation")
    found = SignalModel.fit(train, memory_steps=60, progress=False)
    assert found.corrected
    for stretch in (None, 50):
        x0 = found.estimate_x0(validation, stretch=stretch)
        assert rz.fit_percent(validation.y, found.simulate(validation.u, x0=x0))[0] > 82.8
