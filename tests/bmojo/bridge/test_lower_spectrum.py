"""Hankel operators of lowered layers, by factors, against matrices made from impulse responses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from bmojo import BMojoConfig, OutputMap, TimeVaryingRealization, hankel_spectrum, lift, lower
from bmojo.bridge import HankelSpectrum, gramian_factors_along, hankel_operator
from bmojo.fading import Mamba2
from realization.errors import ShapeError
from tests.layers import MIXERS, perturbed, tokens
from tests.tolerances import assert_close

NAMES = MIXERS[1:]


def lowered(mixer, length=24, states=3, seed=0):
    config = BMojoConfig(d_model=8, heads=2, window=3, mixer=mixer, state_size=states, eidetic=0)
    return lower(perturbed(config, seed=seed), tokens(1, length, seed=seed))


def pulses(realization):
    """Responses to one pulse in each input of each group's first copy, by simulation: (G, T, p, T, m)."""
    T, G, P = realization.length, realization.groups, realization.copies
    m, p = realization.B.shape[-1], realization.C.shape[2]
    found = np.empty((G, T, p, T, m))
    for s in range(T):
        for i in range(m):
            u = np.zeros((T, G, m, P))
            u[s, :, i, 0] = 1.0
            y = realization.simulate(u.reshape(T, -1), np.zeros(realization.x0.shape))
            found[:, :, :, s, i] = y.reshape(T, G, p, P)[..., 0].transpose(1, 0, 2)
    return found


def dense_values(realization, t, *, gap=0, past=None, future=None):
    """Singular values of the future rows and past columns of the pulses' matrix."""
    h, T = pulses(realization), realization.length
    first = 0 if past is None else max(0, t - past)
    last = T if future is None else min(T, t + gap + future)
    block = h[:, t + gap : last, :, first:t]
    G, F, p, L, m = block.shape
    values = np.linalg.svd(block.reshape(G, F * p, L * m), compute_uv=False)
    n = realization.n_states
    return np.pad(values, ((0, 0), (0, max(0, n - values.shape[1]))))[:, :n]


@pytest.mark.parametrize("mixer", NAMES)
class TestValues:
    def test_they_are_those_of_the_dense_operator(self, mixer):
        realization = lowered(mixer)
        times = [0, 1, 5, 12, 23, 24]
        spectrum = hankel_spectrum(realization, times)
        assert spectrum.values.shape == (6, realization.groups, realization.n_states)
        for found, t in zip(spectrum.values, times, strict=True):
            assert_close(found, dense_values(realization, t), "iterative", what=f"t = {t}")

    @pytest.mark.parametrize("limits", [{"past": 4}, {"future": 3}, {"past": 2, "future": 5}, {"gap": 6}])
    def test_of_parts_of_past_and_future(self, mixer, limits):
        realization = lowered(mixer)
        found = hankel_spectrum(realization, [3, 14], **limits).values
        wanted = [dense_values(realization, t, **limits) for t in (3, 14)]
        assert_close(found, np.array(wanted), "iterative")

    def test_the_operator_is_made_of_pulses(self, mixer):
        realization = lowered(mixer, length=10)
        h = pulses(realization)
        G, T, p, _, m = h.shape
        assert_close(realization.operator(), h.reshape(G, T * p, T * m))
        wanted = h[:, 5:8, :, [3, 2, 1]]
        found = hankel_operator(realization, 4, gap=1, past=3, future=3)
        assert_close(found, wanted.reshape(G, 3 * p, 3 * m))

    def test_a_change_of_state_in_time_leaves_them(self, mixer):
        realization, rng = lowered(mixer), np.random.default_rng(5)
        n = realization.n_states
        S = np.eye(n) + 0.3 * rng.standard_normal((25, realization.groups, n, n))
        moved = realization.projected(S, np.linalg.inv(S))
        same = hankel_spectrum(moved, [7, 20]).values
        assert_close(same, hankel_spectrum(realization, [7, 20]).values, "iterative")

    def test_what_they_say_of_the_whole_mixer(self, mixer):
        """All groups and value channels as one system: the same values, each as often as there are copies."""
        realization = lowered(mixer, length=12)
        spectrum = hankel_spectrum(realization, 6)
        whole = hankel_spectrum(realization.flat(), 6).values[0, 0]
        assert_close(whole, np.sort(np.repeat(spectrum.values.ravel(), spectrum.copies))[::-1], "iterative")

    def test_the_gramians_obey_their_equations(self, mixer):
        realization = lowered(mixer)
        Lc, Lo = gramian_factors_along(realization, np.arange(25))
        A, B, C = realization.dense_A(), realization.B, realization.C
        Wc, Wo = (L @ L.swapaxes(-1, -2) for L in (Lc, Lo))
        assert not Wc[0].any()
        assert not Wo[-1].any()
        assert_close(Wc[1:], A @ Wc[:-1] @ A.swapaxes(-1, -2) + B @ B.swapaxes(-1, -2))
        assert_close(Wo[:-1], A.swapaxes(-1, -2) @ Wo[1:] @ A + C.swapaxes(-1, -2) @ C)


def test_far_from_both_ends_they_are_those_of_the_model(rng):
    A = np.diag([0.8, -0.6, 0.5, 0.2]) + np.diag([0.3, 0.3, 0.3], k=1)
    model = rz.StateSpace(A, rng.standard_normal((4, 2)), rng.standard_normal((3, 4)))
    spectrum = hankel_spectrum(lower(lift(model), np.zeros((400, 2))), [200])
    assert_close(spectrum.values[0, 0], rz.hankel_singular_values(model), "iterative")


def test_through_the_output_map_they_are_those_of_the_fading_tokens():
    """Gate, norm and projection frozen: against finite differences of the fading tokens."""
    torch.manual_seed(0)
    realization = lower(Mamba2(d_model=8, heads=2, state_size=3).double(), tokens(1, 12)[0])
    frozen = realization.output_map.matrix(realization.simulate())
    base = (frozen @ realization.simulate()[..., None])[..., 0]
    rows = np.empty((12, 8, 12 * 8))
    for i in range(12 * 8):
        u = realization.inputs.copy()
        u.ravel()[i] += 1.0  # linear: a whole step has no error
        rows[..., i] = (frozen @ realization.simulate(u)[..., None])[..., 0] - base
    wanted = np.linalg.svd(rows[6:].reshape(48, 96)[:, :48], compute_uv=False)[:24]
    found = hankel_spectrum(realization.flat(finished=True), 6).values[0, 0]
    assert_close(found, wanted, "iterative")


def constant(A, B, C, length):
    n, shape = len(A), (length, 1)
    return TimeVaryingRealization(
        A=np.broadcast_to(A, (*shape, n, n)),
        B=np.broadcast_to(B, (*shape, n, 1)),
        C=np.broadcast_to(C, (*shape, 1, n)),
        D=np.zeros((*shape, 1, 1)),
        x0=np.zeros((1, n, 1)),
        inputs=np.zeros((length, 1)),
        output_map=OutputMap(),
    )


class TestOrder:
    def test_a_window_has_as_many_as_it_has_places_and_all_are_equal(self):
        """A belt that reads out its last place: what enters comes out n tokens later."""
        belt = constant(np.eye(4, k=1), np.eye(4)[:, 3:], np.eye(4)[:1], 20)
        spectrum = hankel_spectrum(belt, [10, 2])
        assert_close(spectrum.values[0, 0], np.ones(4))
        assert spectrum.order().tolist() == [[4], [2]]
        assert_close(spectrum.effective_order, np.array([[4.0], [2.0]]))

    def test_states_that_nothing_reads_do_not_count(self):
        realization = constant(np.diag([0.5, 0.6]), np.ones((2, 1)), np.array([[1.0, 0.0]]), 30)
        assert hankel_spectrum(realization, 15).order(1e-6).tolist() == [[1]]

    def test_nothing_passes_before_the_first_token_and_after_the_last(self):
        spectrum = hankel_spectrum(lowered("mamba2"), [0, -1])
        assert not spectrum.order().any()
        assert not spectrum.effective_order.any()

    @given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), st.floats(0.1, 10.0))
    def test_the_effective_order_lies_between_one_and_all_whatever_the_scale(self, values, scale):
        sigma = np.sort(values)[::-1]
        one = HankelSpectrum(np.zeros(1, int), sigma[None, None], 1).effective_order.item()
        other = HankelSpectrum(np.zeros(1, int), scale * sigma[None, None], 1).effective_order.item()
        assert 1 - 1e-12 <= one <= len(sigma) + 1e-12
        assert_close(other, one)


def test_times_outside_are_refused():
    realization = lowered("mamba2", length=5)
    with pytest.raises(ShapeError, match="time 6 came"):
        hankel_spectrum(realization, 6)
    with pytest.raises(ShapeError, match="gap=3 came"):
        hankel_spectrum(realization, 3, gap=3)
    with pytest.raises(ShapeError, match="whole numbers"):
        hankel_spectrum(realization, [0.5])  # pyright: ignore[reportArgumentType]
