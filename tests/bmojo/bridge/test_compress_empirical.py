"""Empirical gramians: the recurrence is the mixer's own, and their product is the operator's spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bmojo import compress, lower
from bmojo.bridge import empirical_gramians
from bmojo.bridge.compress.empirical import recurrence_of, weights_of
from bmojo.fading import LTI, make_mixer
from realization.errors import ShapeError
from tests.layers import tokens
from tests.tolerances import assert_close

MIXERS = ("mamba", "mamba2", "gated_deltanet", "gated_kalmanet")


def made(name, states=5, *, seed=0, **options):
    torch.manual_seed(seed)
    return make_mixer(name, d_model=8, heads=2, state_size=states, **options).double().eval()


def operators_and_queries(mixer, u, weight=None):
    """Of each head all read operators below each other, rows as they enter the output, and all queries."""
    recurrence, weight = recurrence_of(mixer, u), weights_of(weight, u)
    Z = torch.stack(list(recurrence.operators()), dim=1) * recurrence.density(weight).sqrt().unsqueeze(-1)
    c = recurrence.queries * weight.sqrt()[..., None, None]
    return Z.permute(2, 0, 1, 3, 4).flatten(1, 3), c.permute(2, 0, 1, 3).flatten(1, 2)


@pytest.mark.parametrize("name", MIXERS)
class TestRecurrence:
    @pytest.mark.parametrize("features", [None, 6])
    def test_it_is_the_lowered_mixer(self, name, features):
        """Against the matrices that `lower` finds by itself."""
        if name == "mamba" and features:
            pytest.skip("mamba has no maps")
        mixer, u = made(name, **({} if features is None else {"features": features})), tokens(1, 20)
        found, lowered = recurrence_of(mixer, u), lower(mixer, u[0])
        skip = lowered.simulate(x0=np.zeros_like(lowered.x0)) - found.read_outs()[0].flatten(1).numpy()
        if name.startswith("gated"):
            assert_close(skip, np.zeros_like(skip), scale=1.0)
        else:
            D = mixer.D.detach().repeat_interleave(8 // len(mixer.D)).numpy()
            assert_close(skip, lowered.inputs * D)

    def test_its_gain_is_the_way_to_the_output(self, name):
        """The mixer's output is a linear map of what is read (and skipped), scaled by the gain."""
        mixer, u = made(name), tokens(2, 20)
        found = recurrence_of(mixer, u)
        read = found.read_outs()
        if not name.startswith("gated"):
            lowered = [lower(mixer, row) for row in u]
            laid = np.stack([x.simulate().reshape(20, *read.shape[2:]) for x in lowered])
            read = torch.from_numpy(laid)
        with torch.no_grad():
            assert_close(mixer.out_proj((found.gain * read).flatten(2)), mixer(u)[0], "recurrence")


class TestGramians:
    @settings(max_examples=15)
    @given(st.sampled_from(MIXERS), st.integers(0, 1000), st.booleans())
    def test_their_product_is_the_spectrum_of_the_operator(self, name, seed, weighted):
        """Direct SVD of the operator from all queries to all read-outs."""
        mixer, u = made(name, seed=seed), tokens(2, 25, seed=seed)
        weight = torch.rand(2, 25, dtype=torch.float64) if weighted else None
        gramians = empirical_gramians(mixer, u, weight=weight)
        for head, (Z, c) in enumerate(zip(*operators_and_queries(mixer, u, weight), strict=True)):
            direct = torch.linalg.svdvals(Z @ c.mT)[:5]
            assert_close(gramians.hsv[head], direct, "optimum")
            assert_close(gramians.reach[head], Z.mT @ Z, "recurrence")

    def test_a_shared_pair_is_that_of_all_heads_as_one(self):
        mixer, u = made("mamba2"), tokens(2, 25)
        Z, c = (x.flatten(0, 1) for x in operators_and_queries(mixer, u))
        shared = empirical_gramians(mixer, u, shared=True)
        assert_close(shared.reach[0], Z.mT @ Z, "recurrence")
        assert_close(shared.sight[0], c.mT @ c)
        each = Z.unflatten(0, (2, 2, 25, 4)).transpose(0, 1).transpose(1, 2).flatten(2, 3) * 50**0.5
        highest = torch.linalg.eigvals(torch.linalg.solve(shared.reach[0], each.mT @ each)).real.max()
        assert_close(shared.peak[0], highest, "iterative")

    @pytest.mark.parametrize("name", MIXERS)
    def test_the_peak_is_the_least_number_that_bounds_all_times(self, name):
        mixer, u = made(name), tokens(2, 25)
        gramians = empirical_gramians(mixer, u)
        Z, _ = operators_and_queries(mixer, u)
        each = Z.unflatten(1, (50, -1)) * 50**0.5
        for head, reach in enumerate(gramians.reach):
            bounded = gramians.peak[head] * reach - each[head].mT @ each[head]
            least = torch.linalg.eigvalsh(bounded).amin(-1)
            assert least.min() > -1e-9 * reach.trace()
            highest = torch.linalg.eigvals(torch.linalg.solve(reach, each[head].mT @ each[head])).real
            assert_close(gramians.peak[head], highest.max(), "optimum")


class TestBalancedMaps:
    @settings(max_examples=15)
    @given(st.integers(0, 1000), st.integers(1, 4))
    def test_over_all_pairs_no_map_of_that_rank_leaves_less(self, seed, order):
        """Eckart and Young: the operator through the maps is the nearest one of rank `r`."""
        mixer, u = made("mamba2", seed=seed), tokens(2, 25, seed=seed)
        small = compress(mixer, u, order=order)
        maps, hsv = small.model.key_map, small.reports[0].hsv
        for head, (Z, c) in enumerate(zip(*operators_and_queries(mixer, u), strict=True)):
            U, s, Vt = torch.linalg.svd(Z @ c.mT, full_matrices=False)
            nearest = U[:, :order] * s[:order] @ Vt[:order]
            through = Z @ maps.write[head].detach() @ maps.read[head].detach().mT @ c.mT
            assert_close(through, nearest, "optimum")
            assert_close((through - Z @ c.mT).norm(), hsv[head, order:].norm(), "optimum")

    def test_what_is_predicted_is_met_where_states_and_queries_do_not_depend_on_each_other(self):
        """Every state of one half of the tokens is read by every query of the other half."""
        mixer, u = made("mamba2"), tokens(1, 12)
        small = compress(mixer, u, order=2)
        Z, c = operators_and_queries(mixer, u)
        maps = small.model.key_map
        with torch.no_grad():
            lost = torch.eye(5) - maps.write @ maps.read.mT
            left = (Z @ lost @ c.mT).square().sum() / (
                recurrence_of(mixer, u).gain * recurrence_of(mixer, u).read_outs()
            ).square().mean((0, 1)).sum()
        assert_close(small.reports[0].predicted, left.sqrt(), "iterative")

    def test_the_smaller_operator_is_the_projected_one(self):
        """Dense operator from values to read-outs, by the matrices of the lowered mixers."""
        mixer, u = made("mamba2"), tokens(1, 15)
        small = compress(mixer, u, order=2).model
        large, less = (impulses(lower(x, u[0])) for x in (mixer, small))
        found, maps = recurrence_of(mixer, u), small.key_map
        for head in range(2):
            k, q = (x[0, :, head] for x in (found.keys, found.queries))
            moved = q @ maps.read[head].detach() @ maps.write[head].detach().mT @ k.mT
            decays = found.decay[0, :, head, 0, 0].log().cumsum(0)
            faded = torch.exp(decays[:, None] - decays[None, :]).tril()
            step = found.values[0, :, head, 0] / torch.from_numpy(
                lower(mixer, u[0]).inputs.reshape(15, 2, 4)[:, head, 0]
            )
            skip = torch.eye(15) * mixer.D[head].detach()
            assert_close(less[head], (moved * faded * step + skip).numpy(), "iterative")
            assert_close(large[head], (q @ k.mT * faded * step + skip).numpy(), "recurrence")


def impulses(realization):
    """Of each head the matrix from values to read-outs, (T, T), one impulse after the other."""
    steps, groups, copies = realization.length, realization.groups, realization.copies
    found = np.zeros((groups, steps, steps))
    for s in range(steps):
        pulse = np.zeros((steps, groups, copies))
        pulse[s, :, 0] = 1.0
        answer = realization.simulate(pulse.reshape(steps, -1), np.zeros_like(realization.x0))
        found[:, :, s] = answer.reshape(steps, groups, copies)[:, :, 0].T
    return found


class TestRefusals:
    def test_other_mixers(self):
        with pytest.raises(TypeError, match="a LTI came; Mamba, Mamba2"):
            empirical_gramians(LTI(8, 8, 4), tokens(1, 5))

    def test_weights(self):
        with pytest.raises(ShapeError, match=r"shape \(3,\) came for tokens \(B, T\) = \(1, 5\)"):
            empirical_gramians(made("mamba2"), tokens(1, 5), weight=torch.ones(3))
