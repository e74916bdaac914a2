"""Modal and diagonal coordinates: the model's output, stable for every parameter, refused where defective."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo import BMojo, BMojoConfig, lift
from bmojo.bridge.lift.parametrizations import coordinates
from bmojo.fading import LTI, DiagonalLTI, ModalLTI
from realization.errors import DataError, RankError
from realization.systems import InnovationsModel, StateSpace
from tests.bmojo.bridge.test_lift import SPECIAL, jordan, model_with, run, turned
from tests.layers import in_pieces, stepped, tokens
from tests.strategies import innovations_models, matrix_with_radius, seeds, stable_systems
from tests.tolerances import assert_close

FORMS = ("schur", "modal", "diagonal")
DEFECTIVE = ("nilpotent", "defective", "defective pairs")
SPLIT = [(kind, form) for kind in SPECIAL for form in FORMS if form != "diagonal" or kind not in DEFECTIVE]


def separable(rng, n, radius):
    """A matrix whose eigenvectors are well conditioned, with pairs and real poles."""
    while True:
        A = matrix_with_radius(rng, n, radius)
        if n == 0 or np.linalg.cond(np.linalg.eig(A)[1]) < 1e3:
            return A


def random_core(kind, n, seed, *, size=1.0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    layer = kind(2, 3, n, **options).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(size * torch.randn_like(parameter))
    return layer


class TestSameOutput:
    """Forward, in pieces and by steps, against the model's own simulation."""

    @pytest.mark.parametrize("form", FORMS)
    @given(n=st.integers(0, 9), radius=st.floats(0.2, 0.99), T=st.integers(1, 120), seed=seeds)
    def test_separable_models(self, form, n, radius, T, seed):
        rng = np.random.default_rng(seed)
        model = model_with(separable(rng, n, radius), seed=seed)
        u, x0 = rng.standard_normal((T, 2)), rng.standard_normal(n)
        layer, expected = lift(model, parametrization=form), model.simulate(u, x0)
        drive, start = torch.from_numpy(u)[None], layer.init_state(1, x0)
        assert_close(layer(drive, start)[0][0], expected)
        assert_close(stepped(layer, drive, start)[0][0], expected)
        cuts = sorted(set(rng.integers(1, T, 3).tolist())) if T > 1 else []
        assert_close(in_pieces(layer, drive, start, cuts)[0][0], expected)

    @given(model=stable_systems(states=(0, 8)), T=st.integers(1, 80), seed=seeds)
    def test_every_model_has_a_modal_form(self, model, T, seed):
        rng = np.random.default_rng(seed)
        u, x0 = rng.standard_normal((T, model.n_inputs)), rng.standard_normal(model.n_states)
        assert_close(run(lift(model, parametrization="modal"), u, x0)[0], model.simulate(u, x0), "recurrence")

    @pytest.mark.parametrize(("kind", "form"), SPLIT)
    def test_every_kind_of_pole(self, kind, form, rng):
        model = model_with(SPECIAL[kind])
        u, x0 = rng.standard_normal((200, 2)), rng.standard_normal(model.n_states)
        layer = lift(model, parametrization=form)
        assert_close(run(layer, u, x0)[0], model.simulate(u, x0))
        assert_close(layer.basis @ layer.inverse, np.eye(model.n_states))

    @pytest.mark.parametrize("form", FORMS[1:])
    @given(model=innovations_models(inputs=(1, 2)), T=st.integers(1, 60), seed=seeds)
    def test_in_every_role(self, form, model, T, seed):
        rng = np.random.default_rng(seed)
        u, e, y = (rng.standard_normal((T, k)) for k in (model.n_inputs, *(model.n_outputs,) * 2))
        x0 = rng.standard_normal(model.n_states)
        from realization.signals import IOData

        expected = {
            "simulator": (u, model.simulate(u, x0)),
            "predictor": (np.hstack([u, y]), model.predict(IOData(y, u), x0=x0)),
            "generator": (np.hstack([u, e]), model.simulate(u, x0, e=e)),
        }
        for role, (drive, output) in expected.items():
            try:
                layer = lift(model, role=role, parametrization=form)
            except RankError:
                assert form == "diagonal"
                continue
            assert_close(run(layer, drive, x0)[0], output, "recurrence", what=role)

    @pytest.mark.parametrize("form", FORMS)
    def test_long_and_close_to_the_circle(self, form, rng):
        poles = [turned(0.02, 0.9995), turned(1.3, 0.999), np.array([[0.9999]]), np.array([[-0.3]])]
        T = rng.standard_normal((6, 6))
        model = model_with(T @ scipy.linalg.block_diag(*poles) @ np.linalg.inv(T))
        u = rng.standard_normal((20_000, 2))
        assert_close(run(lift(model, parametrization=form), u)[0], model.simulate(u), "recurrence")

    @pytest.mark.parametrize("form", FORMS)
    def test_packed_sequences(self, form, rng):
        layer = lift(model_with(separable(rng, 5, 0.9)), parametrization=form).core
        lengths = [3, 1, 0, 7, 0]
        u, start = tokens(1, sum(lengths), 2), torch.from_numpy(rng.standard_normal((5, 5)))
        edges = torch.tensor([0, *np.cumsum(lengths)])
        for first in (None, (start,)):
            y, (last,) = layer(u, first, cu_seqlens=edges)
            for s, (low, high) in enumerate(pairwise(edges)):
                own = torch.zeros(1, 5, dtype=torch.float64) if first is None else start[s : s + 1]
                if low == high:
                    assert_close(last[s], own[0], "bitwise")
                    continue
                expected, (end,) = layer(u[:, low:high], (own,))
                assert_close(y[:, low:high], expected)
                assert_close(last[s], end[0])


class TestStability:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("kind", [ModalLTI, DiagonalLTI])
    @given(n=st.integers(1, 7), seed=seeds, size=st.sampled_from([0.1, 1.0, 10.0, 1e3, 1e6]))
    def test_for_every_value(self, kind, dtype, n, seed, size):
        layer = random_core(kind, n, seed, size=size, dtype=dtype)
        A = layer.A().detach()
        assert torch.isfinite(A).all()
        for start, two in layer.blocks:
            block = A[start : start + 1 + two, start : start + 1 + two].double().numpy()
            assert np.abs(np.linalg.eigvals(block)).max() < 1
        for i, (start, two) in enumerate(layer.blocks):
            for other, _ in layer.blocks[i + 1 :]:
                assert not A[start : start + 1 + two, other:].any()
                assert not A[other:, start : start + 1 + two].any()

    @pytest.mark.parametrize("form", FORMS)
    @given(model=stable_systems(states=(1, 5)), seed=seeds, size=st.sampled_from([0.01, 1.0, 100.0]))
    def test_after_any_change_of_a_lifted_models_parameters(self, form, model, seed, size):
        try:
            layer = lift(model, parametrization=form, max_condition=1e12)
        except RankError:
            return
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in layer.core.parameters():
                parameter += size * torch.randn_like(parameter)
        A = layer.core.A().detach().numpy()
        blocks = [A[s : s + 1 + two, s : s + 1 + two] for s, two in layer.core.blocks]
        assert max(np.abs(np.linalg.eigvals(block)).max() for block in blocks) < 1
        below = np.tril(A, -1)
        for s, two in layer.core.blocks:
            if two:
                below[s + 1, s] = 0
        assert not below.any()


class TestGradients:
    @pytest.mark.parametrize("form", FORMS)
    def test_against_finite_differences(self, form):
        A = scipy.linalg.block_diag(turned(0.5, 0.8), [[0.6]], [[-0.3]])
        model = model_with(A + np.triu(np.full((4, 4), 0.1), 2))
        layer = lift(model, parametrization=form)
        start = (torch.ones(1, 4, dtype=torch.float64).requires_grad_(),)
        u = tokens(1, 7, 2).requires_grad_()
        names, parameters = zip(*layer.named_parameters(), strict=True)

        def function(u, x, *values):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (u, (x,)))[0]

        inputs = [u, start[0], *(p.detach().clone().requires_grad_() for p in parameters)]
        assert torch.autograd.gradcheck(function, inputs)

    def test_the_three_forms_have_one_gradient(self, rng):
        """Of a loss with respect to the input: it does not know the coordinates."""
        model = model_with(separable(rng, 5, 0.9))
        u, found = tokens(1, 30, 2), []
        for form in FORMS:
            drive = u.clone().requires_grad_()
            found.append(
                torch.autograd.grad(lift(model, parametrization=form)(drive).square().sum(), drive)[0]
            )
        assert_close(found[1], found[0], "recurrence")
        assert_close(found[2], found[0], "recurrence")

    @pytest.mark.parametrize("form", FORMS[1:])
    def test_it_finds_back_to_a_model(self, form, rng):
        true, wrong = model_with(turned(0.5, 0.9), seed=1), model_with(turned(0.7, 0.6), seed=2)
        u = torch.from_numpy(rng.standard_normal((4, 60, 2)))
        y = torch.from_numpy(np.array([true.simulate(row) for row in u.numpy()]))
        layer = lift(wrong, parametrization=form)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
        errors = []
        for _ in range(250):
            optimizer.zero_grad()
            error = (layer(u) - y).square().mean()
            error.backward()
            optimizer.step()
            errors.append(error.item())
        assert errors[-1] < 1e-3 * errors[0]


class TestCoordinates:
    @given(n=st.integers(1, 8), seed=seeds, spread=st.sampled_from([1.0, 1e-2, 1e-4, 1e-7, 0.0]))
    def test_condition_is_kept_and_blocks_are_as_small_as_that_allows(self, n, seed, spread):
        """Poles that come together are clustered; far apart each has its own block."""
        rng = np.random.default_rng(seed)
        A = np.triu(rng.standard_normal((n, n)), 1) + np.diag(0.3 + spread * np.linspace(0, 0.6, n))
        found = coordinates(A, "modal", 1e4)
        assert found.condition <= 1.01e4
        assert sum(found.groups) == n
        assert_close(found.basis @ found.A @ found.inverse, A, "recurrence", scale=1e2 * np.abs(A).max())
        if spread == 0.0 and n > 1:
            assert found.groups == [n] or max(found.groups) > 1

    def test_far_apart_each_pole_has_its_own(self):
        A = scipy.linalg.block_diag([[0.9]], turned(1.0, 0.7), [[-0.4]]) + np.triu(np.full((4, 4), 0.05), 3)
        assert sorted(coordinates(A, "modal").groups) == [1, 1, 2]

    def test_scales_of_states_do_not_count(self, rng):
        """Units are no ill condition: a model in other units of its states has the same modal form."""
        A = separable(rng, 6, 0.9)
        scale = 2.0 ** np.array([0, 30, -20, 10, -40, 5])
        for form in FORMS[1:]:
            plain, scaled = coordinates(A, form), coordinates(A * scale / scale[:, None], form)
            assert scaled.condition < 4 * plain.condition
            assert scaled.groups == plain.groups

    def test_blocks_weigh_their_input_and_output_alike(self, rng):
        A = np.diag([0.9, 0.5, -0.3])
        model = StateSpace(
            A, rng.standard_normal((3, 2)) * [[1e6], [1.0], [1e-6]], rng.standard_normal((2, 3))
        )
        for form in FORMS[1:]:
            core = lift(model, parametrization=form).core
            ratio = torch.linalg.norm(core.B, dim=1) / torch.linalg.norm(core.C, dim=0)
            assert float(ratio.detach().max()) <= 2.0
            assert float(ratio.detach().min()) >= 0.5


class TestRefusals:
    @pytest.mark.parametrize("kind", DEFECTIVE)
    def test_defective_models(self, kind):
        with pytest.raises(RankError, match=r"defective or close to it.*'schur'.*'modal'"):
            lift(model_with(SPECIAL[kind]), parametrization="diagonal")

    def test_it_names_the_condition_and_gives_way_to_a_larger_one(self, rng):
        close = np.array([[0.5, 1.0], [0.0, 0.5 + 1e-6]])
        with pytest.raises(RankError, match=r"at most 3e\+03, and they have \d(\.\d+)?e\+0\d") as refused:
            lift(model_with(close), parametrization="diagonal")
        assert "0.5 and 0.500001" in str(refused.value) or "0.500001 and 0.5" in str(refused.value)
        model, u = model_with(close), rng.standard_normal((50, 2))
        layer = lift(model, parametrization="diagonal", max_condition=1e9)
        assert_close(run(layer, u)[0], model.simulate(u), "iterative")

    @pytest.mark.parametrize("n", [2, 4, 8])
    def test_modal_keeps_them_together(self, n, rng):
        model, u = model_with(jordan(0.8, n)), rng.standard_normal((60, 2))
        layer = lift(model, parametrization="modal")
        assert layer.core.groups == [n]
        assert_close(run(layer, u)[0], model.simulate(u))

    def test_unknown(self):
        with pytest.raises(DataError, match="parametrization='companion'"):
            lift(model_with(np.eye(1) / 2), parametrization="companion")
        with pytest.raises(DataError, match=r"max_condition=0\.5"):
            lift(model_with(np.eye(1) / 2), parametrization="modal", max_condition=0.5)

    @pytest.mark.parametrize(
        ("groups", "blocks"), [([1, 2], [True, False]), ([2], [True, False]), ([2, 1, 0], [True, False])]
    )
    def test_groups_that_do_not_fit(self, groups, blocks):
        with pytest.raises(ValueError, match="hold whole blocks"):
            ModalLTI(1, 1, 3, blocks=blocks, groups=groups)

    def test_other_forms(self):
        full = torch.tensor([[0.5, 0.1], [0.0, 0.2]])
        B, C, D = torch.ones(2, 1), torch.ones(1, 2), torch.zeros(1, 1)
        with pytest.raises(ValueError, match="parametrization='diagonal'"):
            DiagonalLTI.from_diagonal(full, B, C, D)
        with pytest.raises(ValueError, match="parametrization='modal'"):
            ModalLTI.from_modal(full, B, C, D, groups=[1, 1])
        with pytest.raises(ValueError, match="eigenvalue of modulus 1"):
            DiagonalLTI.from_diagonal(torch.eye(2), B, C, D)


class TestAsMixers:
    @pytest.mark.parametrize("mixer", ["lti_modal", "lti_diagonal"])
    def test_in_a_layer(self, mixer):
        torch.manual_seed(0)
        config = BMojoConfig(d_model=8, heads=2, window=4, eidetic=3, mixer=mixer, state_size=5)
        layer, u = BMojo(config).double().eval(), tokens(2, 30)
        full, last = layer(u, layer.init_state(2))
        output, state = in_pieces(layer, u, layer.init_state(2), [3, 11])
        assert_close(output, full, "recurrence")
        assert_close(state.mixer[0], last.mixer[0], "recurrence")

    def test_it_starts_as_the_dense_one(self):
        for kind in (ModalLTI, DiagonalLTI):
            torch.manual_seed(0)
            started = kind(3, 2, 5)
            torch.manual_seed(0)
            assert_close(started.A(), LTI(3, 2, 5).A(), "exact")

    def test_parameters_of_other_groups_are_refused(self):
        one, other = ModalLTI(1, 1, 4, groups=[4]), ModalLTI(1, 1, 4, groups=[2, 2])
        with pytest.raises(ValueError, match="same blocks and groups"):
            one.load_state_dict(other.state_dict())
        ModalLTI(1, 1, 4, groups=[4]).load_state_dict(one.state_dict())

    def test_poles(self):
        layer = random_core(DiagonalLTI, 5, 3)
        poles = layer.poles().detach().numpy()
        both = np.concatenate([poles[:2], poles[:2].conj(), poles[2:]])
        expected = np.linalg.eigvals(layer.A().detach().numpy())
        assert_close(np.sort_complex(both), np.sort_complex(expected), "iterative")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_narrow_tokens_are_carried_in_float32(self, dtype):
        layer = random_core(DiagonalLTI, 5, 3, dtype=dtype)
        y, (state,) = layer(tokens(1, 9, 2, dtype=dtype), layer.init_state(1))
        assert y.dtype == dtype
        assert state.dtype == torch.float32


def test_a_scan_does_not_form_the_dense_recurrence(rng):
    """The diagonal pass against a loop over one pole at a time, in complex numbers."""
    A = separable(rng, 6, 0.95)
    model = model_with(A)
    u = rng.standard_normal((40, 2))
    poles, V = np.linalg.eig(A)
    B, C = np.linalg.solve(V, model.B), model.C @ V
    y = np.zeros((40, 2), complex)
    for pole, b, c in zip(poles, B, C.T):
        z = 0j
        for t, sample in enumerate(u):
            y[t] += c * z
            z = pole * z + b @ sample
    y += u @ model.D.T
    assert math.isclose(np.abs(y.imag).max(), 0.0, abs_tol=1e-10)
    assert_close(run(lift(model, parametrization="diagonal"), u)[0], y.real, "recurrence")


def test_models_without_inputs_in_their_own_role(rng):
    model = InnovationsModel(
        separable(rng, 3, 0.8), np.zeros((3, 0)), rng.standard_normal((1, 3)), K=np.zeros((3, 1))
    )
    e = rng.standard_normal((30, 1))
    for form in FORMS:
        assert_close(
            run(lift(model, role="generator", parametrization=form), e)[0], model.simulate(e=e), "recurrence"
        )
