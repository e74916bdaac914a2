"""Compress: against dense balanced truncation, within its bounds, exact where nothing is lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import realization as rz
from bmojo import BMojo, BMojoConfig, BMojoLM, compress, lift
from bmojo.bridge.compress.empirical import weights_of
from bmojo.bridge.compress.mixers import REDUCTIONS
from bmojo.fading import LTI, make_mixer
from realization.errors import RealizationError
from tests.layers import in_pieces, perturbed, stepped, tokens
from tests.tolerances import assert_close

NONLINEAR = ("mamba", "mamba2", "gated_deltanet", "gated_kalmanet")
MAPPED = NONLINEAR[1:]


def made(name, states=6, *, width=8, heads=2, seed=0, **options):
    torch.manual_seed(seed)
    mixer = make_mixer(name, d_model=width, heads=heads, state_size=states, **options).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return mixer.eval()


def dense_truncation(A, B, C, D, order):
    """Balanced truncation from the definition: Lyapunov equations, symmetric roots, one SVD."""
    Wc = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    Wo = scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    Rc, Ro = (scipy.linalg.sqrtm(W).real for W in (Wc, Wo))
    U, s, Vt = np.linalg.svd(Ro @ Rc)
    T = Rc @ Vt.T[:, :order] / np.sqrt(s[:order])
    W = Ro @ U[:, :order] / np.sqrt(s[:order])
    return W.T @ A @ T, W.T @ B, C @ T, D, s


def response(A, B, C, D, points):
    return np.array([C @ np.linalg.solve(z * np.eye(len(A)) - A, B) + D for z in points])


class TestLinear:
    @staticmethod
    def matrices(mixer):
        return [x.detach().double().numpy() for x in (mixer.A(), mixer.B, mixer.C, mixer.D)]

    @pytest.mark.parametrize("name", ["lti", "lti_modal", "lti_diagonal"])
    def test_it_is_balanced_truncation(self, name):
        mixer = made(name, 7, width=3)
        small = compress(mixer, order=4)
        *reduced, hsv = dense_truncation(*self.matrices(mixer), 4)
        points = np.exp(1j * np.linspace(0, np.pi, 50))
        got = response(*self.matrices(small.model), points)
        assert_close(got, response(*reduced, points), "iterative", scale=1.0)
        (report,) = small.reports
        assert_close(report.hsv[0], hsv, "iterative")
        assert_close(report.gain_bound, 2 * hsv[4:].sum(), "iterative")
        error = np.linalg.norm(got - response(*self.matrices(mixer), points), ord=2, axis=(1, 2))
        assert 0 < error.max() <= report.gain_bound
        assert type(small.model) is type(mixer)

    @settings(max_examples=20)
    @given(st.integers(0, 1000), st.integers(1, 6))
    def test_no_input_errs_more_than_the_bound(self, seed, order):
        mixer, u = made("lti", 7, width=3, seed=seed), tokens(1, 80, 3, seed=seed)
        small = compress(mixer, u, order=order)
        (report,) = small.reports
        with torch.no_grad():
            error = (mixer(u)[0] - small.model(u)[0]).norm()
            assert error <= report.gain_bound * u.norm()
            assert_close(report.error, error / mixer(u)[0].norm())
        assert torch.linalg.eigvals(small.model.A()).abs().max() < 1

    def test_a_lifted_model_stays_one(self):
        rng = np.random.default_rng(0)
        A = 0.9 * np.linalg.qr(rng.standard_normal((6, 6)))[0] * rng.uniform(0.3, 1, 6)
        model = rz.InnovationsModel(
            A, rng.standard_normal((6, 1)), rng.standard_normal((2, 6)), np.zeros((2, 1)),
            K=0.01 * rng.standard_normal((6, 2)), Re=np.eye(2), u_mean=[3.0], y_mean=[1.0, -2.0],
        )  # fmt: skip
        u = torch.from_numpy(3.0 + rng.standard_normal((2, 60, 1)))
        small = compress(lift(model), u, order=4)
        reduced = rz.balanced_truncation(model.deterministic, 4)
        expected = [reduced.model.simulate(x - 3.0) + np.array([1.0, -2.0]) for x in u.numpy()]
        assert_close(small.model(u).detach(), np.array(expected), "recurrence")
        predictor = lift(model, role="predictor")
        z = torch.from_numpy(rng.standard_normal((1, 40, 3)))
        assert_close(compress(predictor, order=6).model(z).detach(), predictor(z).detach())
        fewer = compress(predictor, z, order=3)
        with torch.no_grad():
            ratio = (z - predictor.input_mean).norm() / (predictor(z) - predictor.output_mean).norm()
        assert fewer.reports[0].error <= fewer.reports[0].gain_bound * ratio

    def test_in_single_precision(self):
        mixer = made("lti", 6).float()
        assert compress(mixer, order=3).model.B.dtype is torch.float32


@pytest.mark.parametrize("name", NONLINEAR)
class TestEach:
    def test_its_error_is_the_one_reported(self, name):
        mixer, u = made(name), tokens(2, 30)
        small = compress(mixer, u, order=3)
        with torch.no_grad():
            full, less = mixer(u)[0], small.model(u)[0]
        assert_close(small.reports[0].error, (full - less).norm() / full.norm())
        assert 0 < small.reports[0].error < 1

    def test_all_states_are_the_mixer_itself(self, name):
        mixer, u = made(name), tokens(2, 30)
        small = compress(mixer, u, order=6)
        assert_close(small.model(u)[0].detach(), mixer(u)[0].detach(), "bitwise")
        # Nor do maps that lose nothing change it.
        mapped = REDUCTIONS[type(mixer)](mixer, u, 6, weights_of(None, u)).mixer
        assert mapped is not mixer
        assert_close(mapped(u)[0].detach(), mixer(u)[0].detach(), "iterative")

    def test_more_states_cost_less(self, name):
        mixer, u = made(name), tokens(4, 60)
        errors = [compress(mixer, u, order=r).reports[0] for r in range(1, 7)]
        for measure in ("predicted", "tail"):
            values = [getattr(x, measure) for x in errors if getattr(x, measure) is not None]
            assert values == sorted(values, reverse=True)
        assert errors[0].error > errors[-2].error > errors[-1].error == 0

    def test_it_streams(self, name):
        small, u = compress(made(name), tokens(2, 30), order=3).model, tokens(2, 33, seed=5)
        with torch.no_grad():
            full, last = small(u, small.init_state(2))
            pieces, end = in_pieces(small, u, small.init_state(2), [4, 5, 7, 10, 20])
        assert_close(pieces, full)
        for got, expected in zip(end, last, strict=True):
            assert_close(got, expected)

    def test_what_came_is_not_touched(self, name):
        mixer, u = made(name), tokens(2, 30)
        before = copy.deepcopy(mixer.state_dict())
        small = compress(mixer, u, order=3).model
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.zero_()
        for key, x in mixer.state_dict().items():
            assert torch.equal(x, before[key])

    def test_the_fewest_states_within_a_tolerance(self, name):
        mixer, u = made(name), tokens(2, 30)
        for tol in (0.5, 0.1, 0.01):
            (report,) = compress(mixer, u, tol=tol).reports
            assert report.tail <= tol
            if report.order > 1:
                assert compress(mixer, u, order=report.order - 1).reports[0].tail > tol

    def test_tokens_that_do_not_count(self, name):
        mixer, u = made(name), tokens(2, 30)
        some = torch.zeros(30)
        some[20:] = 1.0
        first = compress(mixer, u, order=3, weight=some)
        same = compress(mixer, u, order=3, weight=7.0 * some.expand(2, -1))
        assert_close(first.model(u)[0].detach(), same.model(u)[0].detach(), "recurrence")
        with torch.no_grad():
            full, less = mixer(u)[0][:, 20:], first.model(u)[0][:, 20:]
        assert_close(first.reports[0].error, (full - less).norm() / full.norm())

    def test_it_learns_on(self, name):
        small = compress(made(name), tokens(2, 30), order=3).model
        small(tokens(1, 10))[0].square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())

    @settings(max_examples=10)
    @given(st.integers(0, 1000), st.integers(1, 5), st.integers(0, 29))
    def test_the_read_out_errs_less_than_the_bound(self, name, seed, order, first):
        mixer, u = made(name, seed=seed), tokens(2, 30, seed=seed)
        weight = torch.ones(30)
        weight[:first] = 0.0
        (report,) = compress(mixer, u, order=order, weight=weight).reports
        if name == "gated_kalmanet":
            assert report.bound is None
        else:
            assert report.read_error <= report.bound * (1 + 1e-9)


@pytest.mark.parametrize("name", MAPPED)
def test_keys_in_a_subspace_need_no_more_states(name):
    """Three of six directions are ever written: three states hold all that the layer knows."""
    mixer, u = made(name, 6, features=7), tokens(2, 40)
    with torch.no_grad():
        flat = torch.randn(len(mixer.key_map.write), 6, 3, dtype=torch.float64)
        mixer.key_map.write.copy_(mixer.key_map.write @ flat @ torch.linalg.pinv(flat))
    small = compress(mixer, u, order=3)
    other = tokens(2, 40, seed=9)
    with torch.no_grad():
        assert_close(small.model(other)[0], mixer(other)[0], "iterative")
        assert compress(mixer, u, order=2).reports[0].tail > 1e-3
    assert small.model.init_state(1)[-1].shape[-1] == 3


@pytest.mark.parametrize("name", MAPPED)
def test_twice_is_once_more(name):
    mixer, u = made(name), tokens(2, 40)
    once = compress(mixer, u, order=4).model
    twice = compress(once, u, order=2)
    assert twice.model.features == once.features == 6
    with torch.no_grad():
        error = (once(u)[0] - twice.model(u)[0]).norm() / once(u)[0].norm()
    assert_close(twice.reports[0].error, error)
    direct = compress(mixer, u, order=2).model
    with torch.no_grad():
        both = [float((mixer(u)[0] - x(u)[0]).norm()) for x in (twice.model, direct)]
    assert both[0] < 1.5 * both[1]


class TestWholeLayers:
    @staticmethod
    def layer(mixer, **options):
        config = BMojoConfig(d_model=8, heads=2, window=4, eidetic=3, mixer=mixer, state_size=6, **options)
        return perturbed(config)

    @pytest.mark.parametrize("name", [*NONLINEAR, "lti", "lti_modal", "lti_diagonal"])
    def test_a_layer_of_the_same_kind(self, name):
        layer, u = self.layer(name), tokens(2, 30)
        small = compress(layer, u, order=3)
        model: BMojo = small.model
        assert model.config.state_size == 3
        assert not model.training
        with torch.no_grad():
            full = model(u)
            assert_close(stepped(model, u, model.init_state(2))[0], full)
            assert_close(in_pieces(model, u, model.init_state(2), [7, 12])[0], full)
            packed = model(u.reshape(1, 60, 8), cu_seqlens=torch.tensor([0, 30, 60]))
            assert_close(packed.view(2, 30, 8), full)
        assert small.reports[0].error == compress(layer.mixer, u, order=3).reports[0].error
        again = BMojo(BMojoConfig(**model.config.to_dict())).double().eval()
        again.load_state_dict(model.state_dict())
        assert_close(again(u).detach(), full, "bitwise")

    def test_everything_else_stays(self):
        layer, u = self.layer("gated_deltanet", predictor="residual", write_gate=True), tokens(2, 30)
        small = compress(layer, u, order=3).model.state_dict()
        for name, x in layer.state_dict().items():
            if not name.startswith("mixer."):
                assert torch.equal(small[name], x)

    @pytest.mark.parametrize("name", [*NONLINEAR, "lti"])
    def test_a_model_that_is_stored(self, name, tmp_path):
        torch.manual_seed(0)
        mixed = BMojoConfig(d_model=16, heads=2, window=0, eidetic=0, mixer=name, state_size=6)
        window = BMojoConfig(d_model=16, heads=2, window=4, eidetic=0, mixer="none")
        model, x = BMojoLM(20, [mixed, window, mixed]).eval(), torch.randint(20, (3, 25))
        small = compress(model, x, order=3)
        assert [report.name for report in small.reports] == [f"blocks.{i}.layer.mixer" for i in (0, 2)]
        assert [layer["state_size"] for layer in small.model.options["layers"]] == [3, 16, 3]
        small.model.save(tmp_path)
        again = BMojoLM.load(tmp_path)
        with torch.no_grad():
            logits = small.model(x)
            assert_close(again(x), logits, "bitwise")
            assert not torch.equal(logits, model(x))
            assert_close(compress(model, x, order=6).model(x), model(x), "bitwise")
        # Each report is about the tokens that reach the layer in the model that came.
        with torch.no_grad():
            hidden = model.blocks[0].norm(model.embedding(x))
        expected = compress(model.blocks[0].layer.mixer, hidden, order=3).reports[0]
        assert_close(small.reports[0].error, expected.error)

    def test_each_mixer_may_need_another_number(self):
        torch.manual_seed(0)
        config = BMojoConfig(d_model=16, heads=2, window=4, eidetic=0, state_size=8)
        small = compress(BMojoLM(20, [config] * 2).eval(), torch.randint(20, (3, 25)), tol=0.05)
        assert all(report.tail <= 0.05 for report in small.reports)
        assert "->" in str(small)


class TestRefusals:
    def test_one_of_order_and_tol(self):
        for options in ({}, {"order": 2, "tol": 0.1}):
            with pytest.raises(RealizationError, match="give one of them"):
                compress(made("lti"), **options)

    def test_orders_that_are_not_there(self):
        for order in (0, 7):
            with pytest.raises(RealizationError, match="from 1 to 6"):
                compress(made("mamba2"), tokens(1, 9), order=order)

    def test_tokens_are_needed(self):
        with pytest.raises(RealizationError, match="depend on its tokens"):
            compress(made("mamba"), order=2)
        with pytest.raises(RealizationError, match="token numbers"):
            compress(BMojoLM(9, [BMojoConfig(d_model=8)]), order=2)

    def test_nothing_to_reduce(self):
        bare = BMojoConfig(d_model=8, window=4, mixer="none", eidetic=0)
        with pytest.raises(TypeError, match="no mixer"):
            compress(BMojo(bare), tokens(1, 9), order=2)
        with pytest.raises(TypeError, match="no layer"):
            compress(BMojoLM(9, [bare]), torch.zeros(1, 5, dtype=torch.int64), order=2)
        with pytest.raises(TypeError, match="a Linear came"):
            compress(torch.nn.Linear(2, 2), order=1)

    @pytest.mark.parametrize("weight", [torch.ones(8), -torch.ones(9), torch.zeros(9)])
    def test_weights_that_do_not_fit(self, weight):
        with pytest.raises(RealizationError, match="not negative and not all zero"):
            compress(made("mamba2"), tokens(1, 9), order=2, weight=weight)


class TestOptionsOfAMixer:
    """What a compressed mixer is made from, by hand."""

    @pytest.mark.parametrize("groups", [1, 2])
    def test_maps_are_products_behind_the_features(self, groups):
        mixer = made("mamba2", 3, features=5, map_groups=groups)
        whole = made("mamba2", 5)
        own = {name: x for name, x in mixer.state_dict().items() if not name.startswith("key_map")}
        whole.load_state_dict(own)
        B, C = torch.randn(2, 2, 7, 5, dtype=torch.float64)
        got = mixer.key_map(B.unsqueeze(-2), C.unsqueeze(-2))
        for x, y, maps in zip((B, C), got, (mixer.key_map.write, mixer.key_map.read), strict=True):
            expected = np.einsum("btf,gfn->btgn", x, maps.detach())
            assert_close(y.detach(), expected)
        # Maps that are the identity change nothing, for any length.
        same = made("mamba2", 5, features=5, map_groups=groups)
        same.load_state_dict({**own, "key_map.write": torch.eye(5).expand(groups, 5, 5),
                              "key_map.read": torch.eye(5).expand(groups, 5, 5)})  # fmt: skip
        for length in (1, 2, 3, 9):
            u = tokens(3, length)
            assert_close(same(u)[0].detach(), whole(u)[0].detach())

    def test_they_are_part_of_a_configuration(self):
        config = BMojoConfig(d_model=8, heads=2, window=4, mixer_options={"features": 20, "conv": 2})
        assert BMojoConfig(**config.to_dict()) == config
        assert BMojo(config).mixer.features == 20
        assert hash(config) == hash(BMojoConfig(**config.to_dict()))

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="came with mixer='none'"):
            BMojoConfig(d_model=8, mixer="none", mixer_options={"conv": 2})
        with pytest.raises(ValueError, match="'rank': 2"):
            BMojo(BMojoConfig(d_model=8, mixer_options={"rank": 2}))
        with pytest.raises(ValueError, match="1 <= size <= features"):
            made("gated_deltanet", 6, features=5)
        with pytest.raises(ValueError, match="none without features"):
            made("mamba2", 6, map_groups=2)


def test_a_linear_mixer_needs_no_tokens():
    (report,) = compress(LTI(2, 2, 6), order=3).reports
    assert report.error is None
    assert report.gain_bound > 0
