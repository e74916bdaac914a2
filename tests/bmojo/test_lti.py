"""The linear layer: stable for every value of its parameters, any stable model has its form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from bmojo.fading import LTI
from bmojo.fading.lti import lti_states
from tests.layers import in_pieces, tokens
from tests.oracles.dense_mixers import schur_matrix
from tests.strategies import matrix_with_radius, seeds
from tests.tolerances import assert_close


def random_layer(n, seed, *, size=1.0, dtype=torch.float64):
    """Parameters that are normal numbers times `size`."""
    torch.manual_seed(seed)
    layer = LTI(2, 3, n).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(size * torch.randn_like(parameter))
    return layer


def schur_of(n, radius, seed):
    A = matrix_with_radius(np.random.default_rng(seed), n, radius)
    return torch.from_numpy(scipy.linalg.schur(A, output="real")[0] if n else A)


class TestStability:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @given(n=st.integers(1, 7), seed=seeds, size=st.sampled_from([0.1, 1.0, 10.0, 1e3, 1e6]))
    def test_for_every_value(self, dtype, n, seed, size):
        layer = random_layer(n, seed, size=size, dtype=dtype)
        with torch.no_grad():
            layer.upper.div_(size)
        A = layer.A().detach()
        assert torch.isfinite(A).all()
        for start, two in layer.blocks:
            block = A[start : start + 1 + two, start : start + 1 + two].double().numpy()
            assert np.abs(np.linalg.eigvals(block)).max() < 1
        assert torch.count_nonzero(A.tril(-1)) <= sum(two for _, two in layer.blocks)

    @given(n=st.integers(1, 7), seed=seeds)
    def test_its_matrix(self, n, seed):
        layer = random_layer(n, seed)
        values = (x.detach().numpy() for x in (layer.rho, layer.theta, layer.skew, layer.upper))
        assert_close(layer.A(), schur_matrix(*values))

    def test_it_starts_with_slow_and_quick_modes(self):
        radius = torch.linalg.eigvals(LTI(1, 1, 12).A().detach()).abs()
        assert_close(radius.max(), np.exp(-1 / 200), "recurrence")
        assert_close(radius.min(), np.exp(-1 / 2), "recurrence")

    def test_white_input_gives_states_of_unit_variance(self):
        torch.manual_seed(0)
        layer = LTI(64, 1, 8).double()
        P = scipy.linalg.solve_discrete_lyapunov(
            *(x.detach().numpy() for x in (layer.A(), layer.B @ layer.B.mT))
        )
        assert 0.5 < np.trace(P) / 8 < 2


class TestSchurForm:
    @given(n=st.integers(0, 7), radius=st.floats(0.01, 0.999), seed=seeds)
    def test_there_and_back(self, n, radius, seed):
        A = schur_of(n, radius, seed)
        B, C, D = (torch.randn(shape, dtype=torch.float64) for shape in ((n, 2), (3, n), (3, 2)))
        layer = LTI.from_schur(A, B, C, D)
        assert_close(layer.A(), A, scale=1.0 + float(A.abs().max() if n else 0))
        for own, given_ in ((layer.B, B), (layer.C, C), (layer.D, D)):
            assert_close(own, given_, "bitwise")

    @pytest.mark.parametrize("radius", [1 - 1e-6, 1 - 1e-12, 1 - 1e-15, np.nextafter(1, 0)])
    def test_poles_near_the_circle(self, radius):
        c, s = 0.6 * radius, 0.8 * radius
        A = torch.tensor([[radius, 1.0, 2.0], [0.0, c, s], [0.0, -s, c]], dtype=torch.float64)
        found = LTI.from_schur(A, torch.ones(3, 1), torch.ones(1, 3), torch.zeros(1, 1)).A().detach()
        assert_close(found, A)
        assert float(torch.linalg.eigvals(found).abs().max()) < 1

    @pytest.mark.parametrize(
        "A",
        [
            [[1.0]],
            [[-1.5]],
            [[0.6, 0.8], [-0.8, 0.6]],
            [[0.5, 3.0], [-1.0, 0.5]],
        ],
    )
    def test_poles_on_and_outside_the_circle(self, A):
        A = torch.tensor(A, dtype=torch.float64)
        with pytest.raises(ValueError, match="eigenvalue of modulus"):
            LTI.from_schur(A, torch.ones(len(A), 1), torch.ones(1, len(A)), torch.zeros(1, 1))

    @pytest.mark.parametrize(
        "A",
        [
            [[0.5, 0.1], [-0.1, 0.3]],
            [[0.5, 0.1], [0.1, 0.5]],
            [[0.5, 0.1, 0.0], [-0.1, 0.5, 0.0], [0.3, 0.0, 0.2]],
            [[0.5, 0.1, 0.0], [-0.1, 0.5, 0.0], [0.0, 0.3, 0.2]],
        ],
    )
    def test_other_forms(self, A):
        A = torch.tensor(A, dtype=torch.float64)
        with pytest.raises(ValueError, match="not in real Schur form"):
            LTI.from_schur(A, torch.ones(len(A), 1), torch.ones(1, len(A)), torch.zeros(1, 1))


class TestRecurrence:
    @given(n=st.integers(0, 5), T=st.integers(1, 70), seed=seeds)
    def test_doubling_is_the_loop(self, n, T, seed):
        rng = np.random.default_rng(seed)
        A = torch.from_numpy(matrix_with_radius(rng, n, 0.9))
        drive, x = tokens(2, T, n, seed=seed), torch.from_numpy(rng.standard_normal((2, n)))
        states, last = lti_states(A, drive, x)
        for t in range(T):
            assert_close(states[:, t], x, "recurrence", scale=10.0)
            x = x @ A.T + drive[:, t]
        assert_close(last, x, "recurrence", scale=10.0)

    @given(n=st.integers(1, 6), cuts=st.lists(st.integers(1, 49), max_size=5), seed=seeds)
    def test_steps_and_pieces_are_the_full_pass(self, n, cuts, seed):
        layer, u = random_layer(n, seed), tokens(2, 50, 2, seed=seed)
        full, (last,) = layer(u, layer.init_state(2))
        for places in (cuts, range(1, 50)):
            output, (end,) = in_pieces(layer, u, layer.init_state(2), list(places))
            assert_close(output, full, "recurrence")
            assert_close(end, last, "recurrence")

    def test_no_states_is_a_gain(self):
        layer, u = random_layer(0, seed=1), tokens(2, 5, 2)
        assert_close(layer(u, layer.init_state(2))[0], u @ layer.D.mT)


class TestParameters:
    def test_there_and_back(self, tmp_path):
        layer, u = (
            LTI.from_schur(schur_of(5, 0.9, 0), *map(torch.randn, ((5, 2), (3, 5), (3, 2)))),
            tokens(1, 9, 2),
        )
        torch.save(layer.state_dict(), tmp_path / "lti.pt")
        fresh = LTI(2, 3, 5, blocks=[two for _, two in layer.blocks]).double()
        fresh.load_state_dict(torch.load(tmp_path / "lti.pt", weights_only=True))
        assert_close(fresh(u, fresh.init_state(1))[0], layer(u, layer.init_state(1))[0], "bitwise")

    def test_those_of_other_blocks_are_refused(self):
        pair_first, pair_last = LTI(1, 1, 3, blocks=[True, False]), LTI(1, 1, 3, blocks=[False, True])
        with pytest.raises(ValueError, match="Make it with the same blocks"):
            pair_first.load_state_dict(pair_last.state_dict())

    def test_blocks_that_do_not_add_up(self):
        with pytest.raises(ValueError, match="blocks of 3 rows came for 4 states"):
            LTI(1, 1, 4, blocks=[True, False])

    def test_gradients_against_finite_differences(self):
        layer = random_layer(3, seed=4)
        u = tokens(1, 6, 2).requires_grad_()
        names, parameters = zip(*layer.named_parameters(), strict=True)

        def function(u, *values):
            called = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (u, start))
            return called[0]

        start = (torch.ones(1, 3, dtype=torch.float64),)
        inputs = [u, *(p.detach().clone().requires_grad_() for p in parameters)]
        assert torch.autograd.gradcheck(function, inputs)
