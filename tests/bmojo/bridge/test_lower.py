"""A layer lowered along an input: its mixer to rounding, by matrices that are those of its definition."""

from __future__ import annotations

import bmojo_kernels as bk
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import realization as rz
from bmojo import BMojo, BMojoConfig, BMojoLM, OutputMap, TimeVaryingRealization, lift, lift_layer, lower
from bmojo.bridge import register_lowering
from bmojo.fading import LTI, make_mixer
from bmojo.storage import FlatStore, attach, detach
from realization.errors import RealizationError, ShapeError
from tests.layers import MIXERS, perturbed, tokens
from tests.oracles.dense_mixers import MIXER_LOOPS
from tests.tolerances import assert_close

NAMES = MIXERS[1:]
DEPENDENT = tuple(name for name in NAMES if not name.startswith("lti"))


def layer_with(mixer, *, heads=2, states=3, seed=0):
    options = {"d_model": 8, "heads": heads, "window": 3, "mixer": mixer, "state_size": states}
    return perturbed(BMojoConfig(eidetic=0, **options), seed=seed)


def fading(mixer, u, state=None):
    with torch.no_grad():
        return mixer(u, state)


@pytest.mark.parametrize("mixer", NAMES)
class TestExact:
    def test_its_simulation_is_the_mixer(self, mixer):
        layer, u = layer_with(mixer), tokens(1, 40)
        realization = lower(layer, u)
        f, state = fading(layer.mixer, u)
        assert_close(realization.output_map(realization.simulate()), f[0])
        assert_close(realization.states()[-1].swapaxes(-1, -2).reshape(-1), state[-1].flatten())

    def test_it_is_the_mixers_definition(self, mixer):
        layer, u = layer_with(mixer), tokens(1, 40)[0]
        parameters = {
            name: x.numpy() for name, x in layer.mixer.state_dict().items() if x.is_floating_point()
        }
        realization = lower(layer.mixer, u)
        found = realization.output_map(realization.simulate())
        assert_close(found, MIXER_LOOPS[mixer](parameters, u.numpy())[0], "recurrence")

    def test_it_goes_on_from_a_state(self, mixer):
        layer, u = layer_with(mixer), tokens(1, 40)
        whole = lower(layer, u)
        _, state = fading(layer.mixer, u[:, :17])
        rest = lower(layer, u[:, 17:], state=state)
        assert_close(rest.simulate(), whole.simulate()[17:])
        of_layer = layer(u[:, :17], layer.init_state(1))[1]
        assert_close(lower(layer, u[:, 17:], state=of_layer).simulate(), rest.simulate())
        part = whole.part(17, 40)
        for name in ("A", "B", "C", "D", "x0", "inputs"):
            assert_close(getattr(part, name), getattr(rest, name), what=name)
        assert_close(part.output_map(part.simulate()), rest.output_map(rest.simulate()))

    def test_one_flat_system_is_the_same(self, mixer):
        layer, u = layer_with(mixer), tokens(1, 25)
        realization = lower(layer, u)
        flat, finished = realization.flat(), realization.flat(finished=True)
        assert flat.n_states == realization.groups * realization.n_states * realization.copies
        assert_close(flat.simulate(), realization.simulate())
        assert_close(finished.output_map(finished.simulate()), fading(layer.mixer, u)[0][0])

    def test_the_layer_is_left_as_it_is(self, mixer):
        layer = layer_with(mixer).float()
        before = {name: x.clone() for name, x in layer.state_dict().items()}
        realization = lower(layer, tokens(1, 9).float())
        assert all(torch.equal(x, before[name]) for name, x in layer.state_dict().items())
        assert {x.dtype for x in layer.state_dict().values() if x.is_floating_point()} == {torch.float32}
        f = fading(layer.mixer, tokens(1, 9).float())[0]
        assert_close(realization.output_map(realization.simulate()), f[0], "recurrence", dtype="float32")


@pytest.mark.parametrize("mixer", ["lti_modal", "lti_diagonal"])
def test_the_other_time_invariant_mixers(mixer):
    layer, u = layer_with(mixer), tokens(1, 30)
    realization = lower(layer, u)
    assert_close(realization.output_map(realization.simulate()), fading(layer.mixer, u)[0][0])
    assert_close(lower(layer).simulate(u[0].numpy()), fading(layer.mixer, u)[0][0])


@pytest.mark.parametrize(
    ("mixer", "options"),
    [
        ("mamba2", {"features": 5}),
        ("mamba2", {"features": 5, "map_groups": 2}),
        ("gated_deltanet", {"features": 5}),
        ("gated_kalmanet", {"features": 5}),
        ("gated_kalmanet", {"steps": 4}),
    ],
)
def test_with_options_of_their_own(mixer, options):
    torch.manual_seed(0)
    module = make_mixer(mixer, d_model=8, heads=2, state_size=3, **options).double()
    realization = lower(module, tokens(1, 30))
    assert realization.n_states == 3
    assert_close(realization.output_map(realization.simulate()), fading(module, tokens(1, 30))[0][0])


class TestTimeInvariant:
    @pytest.mark.parametrize("parametrization", ["schur", "modal", "diagonal"])
    def test_what_was_lifted_comes_back(self, rng, parametrization):
        A = np.diag([0.9, -0.5, 0.3]) + np.diag([0.4, 0.2], k=1)
        model = rz.StateSpace(A, rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), np.eye(2), dt=0.1)
        found = lower(lift(model, parametrization=parametrization), dt=0.1)
        for name in ("A", "B", "C", "D"):
            assert_close(getattr(found, name), getattr(model, name), "iterative", what=name)

    def test_the_operating_point_and_the_start_are_kept(self, rng):
        u = rng.standard_normal((40, 1))
        model = rz.InnovationsModel(
            [[0.8, 0.2], [-0.2, 0.7]], [[1.0], [0.5]], [[1.0, 0.0]], [[0.3]], K=[[0.1], [0.2]],
            Re=[[0.1]], u_mean=[2.0], y_mean=[-3.0],
        )  # fmt: skip
        layer, x0 = lift(model), [1.0, -2.0]
        realization = lower(layer, u, state=layer.init_state(1, x0))
        assert_close(realization.output_map(realization.simulate()), model.simulate(u, x0=x0))
        assert_close(lower(layer).simulate(u - 2.0, x0=x0) - 3.0, model.simulate(u, x0=x0))

    def test_a_lifted_layer_is_the_predictor(self):
        model = rz.InnovationsModel(
            [[0.8, 0.2], [-0.2, 0.7]], [[1.0], [0.5]], [[1.0, 0.0]], K=[[0.1], [0.2]], Re=[[0.1]]
        )
        found = lower(lift_layer(model, window=4, eidetic=2))
        assert_close(found.A, model.predictor.A)
        assert_close(found.B, model.predictor.B)
        assert_close(found.C[-1:], model.predictor.C)

    def test_of_an_input_dependent_layer_there_is_no_model(self):
        with pytest.raises(RealizationError, match="a Mamba2 came without u"):
            lower(layer_with("mamba2"))


class TestModel:
    def test_each_layer_along_what_reaches_it(self):
        torch.manual_seed(1)
        configs = [
            BMojoConfig(d_model=8, heads=2, window=3, mixer="mamba2", state_size=3, eidetic=2),
            BMojoConfig(d_model=8, heads=2, window=3, mixer="none", eidetic=0),
            BMojoConfig(d_model=8, heads=2, window=3, mixer="gated_deltanet", state_size=3, eidetic=2),
        ]
        model = BMojoLM(11, configs).double().eval()
        numbers = torch.arange(30)[None] % 11
        found = lower(model, numbers)
        assert found[1] is None
        for realization, trace in zip(found, model.trace(numbers), strict=True):
            if realization is not None:
                assert_close(realization.output_map(realization.simulate()), trace.fading[0])
        _, state = model(numbers[:, :12], model.init_state(1))
        rest = lower(model, numbers[0, 12:], state=state)
        for whole, part in zip(found, rest, strict=True):
            if whole is not None and part is not None:
                assert_close(part.simulate(), whole.simulate()[12:])

    def test_what_a_store_gives_reaches_the_layers_behind(self, tmp_path):
        torch.manual_seed(1)
        config = BMojoConfig(d_model=8, heads=2, window=3, mixer="mamba2", state_size=3, eidetic=1)
        model, numbers = BMojoLM(11, [config] * 2).double().eval(), torch.arange(40)[None] ** 2 % 11
        alone = lower(model, numbers)[1]
        with FlatStore(tmp_path / "store", durable=False) as store:
            attach(model, store, read=4)
            found, trace = lower(model, numbers)[1], model.trace(numbers)[1]
            detach(model)
        assert found is not None
        assert alone is not None
        assert_close(found.output_map(found.simulate()), trace.fading[0])
        assert np.abs(found.simulate() - alone.simulate()).max() > 1e-6

    def test_several_sequences_are_refused(self):
        model = BMojoLM(5, [BMojoConfig(d_model=8, heads=2, window=3, eidetic=0)])
        with pytest.raises(ShapeError, match="2 sequences came"):
            lower(model, torch.zeros(2, 4, dtype=torch.int64))
        with pytest.raises(ShapeError, match="one sequence"):
            lower(model.blocks[0].get_submodule("layer"), torch.zeros(2, 4, 8))


class TestStructure:
    def test_other_inputs_are_those_of_the_frozen_system(self, rng):
        """Superposition: linear in the inputs and the first state together."""
        realization = lower(layer_with("gated_kalmanet"), tokens(1, 20))
        u, v = rng.standard_normal((2, *realization.inputs.shape))
        x, z = rng.standard_normal((2, *realization.x0.shape))
        both = realization.simulate(2 * u - v, 2 * x - z)
        assert_close(both, 2 * realization.simulate(u, x) - realization.simulate(v, z))

    @given(st.sampled_from(DEPENDENT), st.integers(0, 1000))
    def test_a_change_of_state_in_time_keeps_the_outputs(self, mixer, seed):
        realization = lower(layer_with(mixer), tokens(1, 15))
        rng, n = np.random.default_rng(seed), realization.n_states
        S = np.eye(n) + 0.3 * rng.standard_normal((16, realization.groups, n, n))
        moved = realization.projected(S, np.linalg.inv(S))
        assert_close(moved.simulate(), realization.simulate(), "iterative")

    def test_transitions_compose(self):
        realization = lower(layer_with("gated_deltanet"), tokens(1, 20))
        whole = realization.transition(15, 20) @ realization.transition(3, 15)
        assert_close(realization.transition(3, -1), whole)
        free = realization.states(np.zeros(realization.inputs.shape), np.ones(realization.x0.shape))
        moved = realization.transition(0, 9) @ np.ones(realization.x0.shape)
        assert_close(free[9], moved)

    def test_shapes_that_do_not_fit_are_named(self):
        one = lower(layer_with("mamba2"), tokens(1, 5))
        with pytest.raises(ShapeError, match=r"C has shape \(4,"):
            TimeVaryingRealization(
                A=one.A, B=one.B, C=one.C[1:], D=one.D, x0=one.x0, inputs=one.inputs, output_map=OutputMap()
            )
        with pytest.raises(ShapeError, match="u has shape"):
            one.simulate(np.zeros((4, 8)))
        with pytest.raises(ShapeError, match="time 6 came"):
            one.part(0, 6)
        with pytest.raises(ShapeError, match="time runs forward"):
            one.transition(3, 1)
        with pytest.raises(ShapeError, match="projected: left"):
            one.projected(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))


class TestOnesOwn:
    def test_an_unknown_mixer_is_refused_by_name(self):
        class Unknown(nn.Identity):
            pass

        with pytest.raises(RealizationError, match="a Unknown came, whose matrices are not known"):
            lower(Unknown(), torch.zeros(3, 2))

    def test_a_registered_one_is_lowered(self):
        class Doubling(nn.Identity):
            def init_state(self, batch):
                return ()

        def lowered(mixer, u, state):
            return lower(LTI(2, 2, 3), u)

        register_lowering(Doubling, lowered)
        assert lower(Doubling(), torch.zeros(3, 2)).n_states == 3

    def test_without_a_mixer_there_is_nothing_to_lower(self):
        layer = BMojo(BMojoConfig(d_model=8, heads=2, window=3, mixer="none", eidetic=2))
        with pytest.raises(RealizationError, match="mixer='none'"):
            lower(layer, tokens(1, 5))


@pytest.mark.parametrize("mixer", DEPENDENT)
def test_the_operator_is_the_jacobian_with_frozen_gates(mixer):
    """Of the scan itself by automatic differentiation, values entering anew and all else held."""
    torch.manual_seed(3)
    module, u = make_mixer(mixer, d_model=8, heads=2, state_size=3).double(), tokens(1, 12, seed=4)
    realization = lower(module, u)
    flat, values = realization.flat(), torch.from_numpy(realization.inputs)
    jacobian = torch.autograd.functional.jacobian(core_of(module, u), values)
    jacobian = torch.as_tensor(jacobian).reshape(12 * 8, 12 * 8).numpy()
    assert_close(flat.operator()[0], jacobian)
    assert_close(jacobian @ realization.inputs.ravel(), realization.simulate().ravel())


def core_of(module, u):
    """The mixer's kernel as a function of the values (T, 8) alone: `y` (T, 8)."""
    with torch.no_grad():
        projected = module.in_proj(u)
    if hasattr(module, "x_proj"):
        x = module.conv(projected.chunk(2, dim=-1)[0])[0].detach()
        step, B, C = module.x_proj(x).detach().split([module.rank, 3, 3], dim=-1)
        step = torch.nn.functional.linear(step, module.dt_proj.weight).detach()
        options = {"D": module.D, "delta_bias": module.dt_proj.bias, "delta_softplus": True}
        return lambda v: bk.selective_scan(v[None], step, -module.A_log.exp(), B, C, **options)[0][0]
    if hasattr(module, "dt_bias") and hasattr(module, "head_dim"):
        _, xBC, dt = projected.split(module.widths, dim=-1)
        xBC = module.conv(xBC)[0].detach()
        dt = torch.nn.functional.softplus(dt + module.dt_bias).detach()

        def scanned(v):
            x = v.view(1, 12, 2, 4)
            decay = -dt * module.A_log.exp().detach()
            B, C = xBC[..., 8:].unsqueeze(2).split(3, dim=-1)
            y, _ = bk.ssd_scan(x * dt.unsqueeze(-1), decay, B, C)
            return (y + module.D.detach().unsqueeze(-1) * x).reshape(12, 8)

        return scanned
    mixed, _, gates = module._parts(projected)
    q, k, _ = (x.detach() for x in module._heads(module.conv(mixed)[0]))
    numbers = [x.detach() for x in module._numbers(gates)]
    return lambda v: module._scan(q, k, v.view(1, 12, 2, 4), numbers, (), None, False)[0].reshape(12, 8)
