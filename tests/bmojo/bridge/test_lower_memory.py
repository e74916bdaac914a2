"""Memory curves and time constants of lowered layers, against regressions and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

import realization as rz
from bmojo import BMojoConfig, lift, lower, memory_curves, time_constants
from realization.errors import DataError, ShapeError
from tests.layers import MIXERS, perturbed, tokens
from tests.tolerances import assert_close

NAMES = MIXERS[1:]


def lowered(mixer, length=24, states=3, **options):
    config = BMojoConfig(d_model=8, heads=2, window=3, mixer=mixer, state_size=states, eidetic=0)
    return lower(perturbed(config), tokens(1, length), **options)


@pytest.fixture
def model(rng):
    A = np.diag([0.8, -0.6, 0.5]) + np.diag([0.3, 0.3], k=1)
    return rz.StateSpace(A, rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), dt=0.1)


class TestCurves:
    @pytest.mark.parametrize("noise", [0.0, 0.05])
    def test_of_a_time_invariant_layer_they_are_the_models(self, model, noise):
        curves = memory_curves(lower(lift(model), np.zeros((300, 2))), 20, noise=noise)
        wanted = rz.memory_curve(model, 20, noise=noise * np.eye(3))
        assert_close(curves.memory[0, 0], wanted.memory, "iterative")
        assert_close(curves.capacity.item(), wanted.capacity, "iterative")

    @pytest.mark.parametrize("mixer", NAMES)
    def test_they_are_explained_variances(self, mixer):
        """Estimates of each input from the state, by the covariances of all inputs since the start."""
        realization, noise = lowered(mixer), 0.02
        curves = memory_curves(realization, 12, at=[3, 20], noise=noise)
        m = realization.B.shape[-1]
        for i, t in enumerate([3, 20]):
            paths = [realization.transition(s + 1, t) for s in range(t)]
            R = np.concatenate([path @ realization.B[s] for s, path in enumerate(paths)], axis=2)
            W = R @ R.swapaxes(1, 2) + noise * sum(path @ path.swapaxes(1, 2) for path in paths)
            explained = np.einsum("gnk,gnk->gk", R, np.linalg.solve(W, R)).reshape(-1, t, m).sum(axis=2)
            wanted = np.zeros((realization.groups, 12))
            wanted[:, : min(t, 12)] = explained[:, ::-1][:, :12]
            assert_close(curves.memory[i], wanted, "iterative")
            assert_close(curves.capacity[i], explained.sum(axis=1), "iterative")

    @pytest.mark.parametrize("mixer", NAMES)
    def test_without_noise_a_state_holds_as_much_as_it_has_numbers(self, mixer):
        realization = lowered(mixer)
        curves = memory_curves(realization, 24, at=[1, 24])
        n, m = realization.n_states, realization.B.shape[-1]
        assert_close(curves.capacity, np.array([[min(n, m)], [n]]) * np.ones(realization.groups))
        assert_close(curves.memory.sum(axis=2), curves.capacity, "iterative")

    def test_a_change_of_state_in_time_leaves_them(self):
        realization, rng = lowered("gated_deltanet"), np.random.default_rng(3)
        S = np.eye(3) + 0.3 * rng.standard_normal((25, 2, 3, 3))
        moved = realization.projected(S, np.linalg.inv(S))
        assert_close(memory_curves(moved, 9).memory, memory_curves(realization, 9).memory, "iterative")

    def test_what_cannot_be_is_refused(self):
        realization = lowered("mamba2", length=4)
        with pytest.raises(ShapeError, match="lags=0"):
            memory_curves(realization, 0)
        with pytest.raises(DataError, match="noise=-1"):
            memory_curves(realization, 3, noise=-1.0)
        with pytest.raises(ShapeError, match="time 9 came"):
            memory_curves(realization, 3, at=9)


class TestTimeConstants:
    def test_of_a_time_invariant_layer_they_are_the_models(self, model):
        found = time_constants(lower(lift(model), np.zeros((5, 2)), dt=0.1))
        wanted = rz.memory_curve(model, 1).time_constants
        assert_close(found.along[0], wanted)
        assert_close(found.instant[3, 0], wanted)
        assert "s)" in repr(found)

    def test_of_one_decay_for_each_head_it_is_the_mean_exponent(self):
        realization = lowered("mamba2", dt=0.5)
        found, decay = time_constants(realization), realization.A[..., 0]
        assert_close(found.instant[..., 0], -0.5 / np.log(decay))
        product = np.prod(decay, axis=0)
        assert_close(found.along, np.repeat(-0.5 * 24 / np.log(product), 3).reshape(2, 3))

    def test_of_a_delta_rule_they_multiply_to_the_determinant(self):
        """Sum of the exponents: the mean logarithm of det A_t, whatever the directions did."""
        realization = lowered("gated_deltanet")
        found = time_constants(realization)
        volume = np.log(np.abs(np.linalg.det(realization.A))).mean(axis=0)
        assert_close((-1 / found.along).sum(axis=1), volume)
        assert (np.diff(found.along, axis=1) <= 0).all()

    def test_the_slowest_is_how_the_transition_shrinks(self):
        """Over a long input: -T / log of the largest singular value, up to a constant over T."""
        realization = lowered("gated_deltanet", length=400)
        shrunk = np.linalg.norm(realization.transition(0, -1), ord=2, axis=(1, 2))
        rate = 1 / time_constants(realization).along[:, 0]
        assert np.abs(rate + np.log(shrunk) / 400).max() < 5 / 400

    def test_what_is_kept_for_ever_and_what_is_forgotten_at_once(self):
        realization = lowered("mamba2")
        kept = type(realization)(
            A=np.array([1.0, 0.0, 2.0]) * np.ones((24, 2, 3)),
            **{name: getattr(realization, name) for name in ("B", "C", "D", "x0", "inputs", "output_map")},
        )
        assert time_constants(kept).along[0][1:].tolist() == [np.inf, 0.0]
        assert time_constants(kept).along[0][0] < 0
