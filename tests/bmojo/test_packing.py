"""Packed and padded sequences are what each of them alone is, and so is the state after them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bmojo import BMojo, BMojoConfig
from bmojo.fading import register_mixer
from tests.layers import MIXERS, configs, perturbed, predictors_of, tokens
from tests.strategies import seeds
from tests.tolerances import assert_close

lengths = st.lists(st.integers(1, 17), min_size=1, max_size=5)


def pieces(lengths, *, width=8, seed=0):
    """A sequence (1, T, D) of each length."""
    return [tokens(1, length, width, seed=seed + i) for i, length in enumerate(lengths)]


def edges(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def padded(parts, where):
    """Side by side, padding in front or behind or between; and the mask."""
    longest = max(part.shape[1] for part in parts)
    u, mask = tokens(len(parts), longest, seed=99), torch.zeros(len(parts), longest, dtype=torch.bool)
    generator = torch.Generator().manual_seed(3)
    for row, part in enumerate(parts):
        length = part.shape[1]
        at = {
            "left": torch.arange(longest - length, longest),
            "right": torch.arange(length),
            "between": torch.randperm(longest, generator=generator)[:length].sort().values,
        }[where]
        u[row, at], mask[row, at] = part[0], True
    return u, mask


def check(config, lengths, *, seed=0):
    layer, parts = perturbed(config, seed=seed), pieces(lengths, seed=seed)
    alone = [layer(part) for part in parts]
    whole, state = layer(torch.cat(parts, 1), layer.init_state(len(parts)), cu_seqlens=edges(lengths))
    for found, expected in zip(whole.split(lengths, dim=1), alone, strict=True):
        assert_close(found, expected)
    more = tokens(len(parts), 9, seed=seed + 50)
    further, _ = layer(more, state)
    for row, part in enumerate(parts):
        expected = layer(torch.cat([part, more[row : row + 1]], dim=1))[:, part.shape[1] :]
        assert_close(further[row : row + 1], expected, "recurrence")


class TestPacked:
    @settings(max_examples=40, deadline=None)
    @given(config=configs(), lengths=lengths, seed=seeds)
    def test_any_options(self, config, lengths, seed):
        with torch.no_grad():
            check(config, lengths, seed=seed)

    @pytest.mark.parametrize(("mixer", "predictor"), [(m, p) for m in MIXERS for p in predictors_of(m)])
    def test_every_mixer_and_predictor(self, mixer, predictor):
        options = {} if mixer == "none" else {"state_size": 3}
        with torch.no_grad():
            check(
                BMojoConfig(
                    d_model=8, heads=2, window=4, chunk=3, eidetic=3, mixer=mixer, predictor=predictor,
                    rule="random", write_gate=True, **options,
                ),
                [5, 1, 16, 9],
            )  # fmt: skip

    def test_a_mixer_alone(self):
        for mixer in MIXERS[1:]:
            check(BMojoConfig(d_model=8, heads=2, window=0, eidetic=0, mixer=mixer, state_size=3), [4, 1, 7])

    def test_gradients_are_those_of_each_alone(self):
        config = BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3, write_gate=True)
        layer, parts = perturbed(config), pieces([6, 13, 2])
        sum(layer(part).square().sum() for part in parts).backward()
        expected = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        layer.zero_grad()
        layer(torch.cat(parts, 1), cu_seqlens=edges([6, 13, 2])).square().sum().backward()
        for name, p in layer.named_parameters():
            if name in expected:
                assert_close(p.grad, expected[name], "recurrence", what=name)

    def test_stored_keys_are_of_each_sequence(self):
        config = BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3)
        layer, parts = perturbed(config), pieces([6, 5])
        stored = [torch.randn(2, 4, 2, 4, dtype=torch.float64) for _ in range(2)]
        whole = layer(torch.cat(parts, 1), cu_seqlens=edges([6, 5]), retrieved=tuple(stored))
        for row, found in enumerate(whole.split([6, 5], dim=1)):
            assert_close(found, layer(parts[row], retrieved=tuple(x[row : row + 1] for x in stored)))


class TestPadded:
    @pytest.mark.parametrize("where", ["left", "right", "between"])
    @settings(max_examples=15, deadline=None)
    @given(config=configs(), lengths=lengths)
    def test_wherever_the_padding_is(self, where, config, lengths):
        layer, parts = perturbed(config), pieces(lengths)
        u, mask = padded(parts, where)
        with torch.no_grad():
            output, state = layer(u, layer.init_state(len(parts)), mask=mask)
            more = tokens(len(parts), 3, seed=5)
            further, _ = layer(more, state)
        for row, part in enumerate(parts):
            assert_close(output[row][mask[row]], layer(part)[0])
            rest = layer(torch.cat([part, more[row : row + 1]], dim=1))[0, part.shape[1] :]
            assert_close(further[row], rest, "recurrence")
        assert float(output.abs().masked_fill(mask.unsqueeze(-1), 0).max()) == 0

    def test_a_row_of_padding_alone_is_a_fresh_state(self):
        layer = perturbed(BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3))
        u, mask = tokens(2, 6), torch.ones(2, 6, dtype=torch.bool)
        mask[1] = False
        _, state = layer(u, layer.init_state(2), mask=mask)
        more = tokens(2, 5, seed=1)
        assert_close(layer(more, state)[0][1:], layer(more[1:]))

    def test_rows_are_chosen_among_sequences_of_several_lengths(self):
        layer = perturbed(BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3))
        u, mask = padded(pieces([4, 11, 7]), "left")
        rows, more = torch.tensor([2, 0, 2]), tokens(3, 4, seed=1)
        _, state = layer(u, layer.init_state(3), mask=mask)
        _, chosen = layer(u[rows], layer.init_state(3), mask=mask[rows])
        assert_close(layer(more, state.select(rows))[0], layer(more, chosen)[0])


class Unpacked(torch.nn.Module):
    """A mixer that knows nothing of packing."""

    def __init__(self, d_model, heads, state_size):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(d_model))

    def init_state(self, batch):
        return ()

    def forward(self, u, state=None):
        return self.scale * u, ()


class TestWhatIsRefused:
    config = BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, state_size=3)

    def test_a_state_that_has_seen_tokens(self):
        layer, u = perturbed(self.config), tokens(1, 6)
        _, state = layer(u, layer.init_state(1))
        with pytest.raises(ValueError, match="a state that has seen 6 tokens"):
            layer(u, state, cu_seqlens=torch.tensor([0, 6]))

    @pytest.mark.parametrize("shape", [(1, 5), (2, 6), (6,)])
    def test_a_mask_of_another_shape(self, shape):
        with pytest.raises(ValueError, match="a mask"):
            perturbed(self.config)(tokens(1, 6), mask=torch.ones(shape, dtype=torch.bool))

    def test_a_mask_of_numbers(self):
        with pytest.raises(ValueError, match="of bool is needed"):
            perturbed(self.config)(tokens(1, 6), mask=torch.ones(1, 6))

    def test_both(self):
        with pytest.raises(ValueError, match="packed sequences have no padding"):
            perturbed(self.config)(
                tokens(1, 6), mask=torch.ones(1, 6, dtype=torch.bool), cu_seqlens=torch.tensor([0, 6])
            )

    def test_a_batch_of_packed_sequences(self):
        with pytest.raises(ValueError, match="a batch of 1"):
            perturbed(self.config)(tokens(2, 6), cu_seqlens=torch.tensor([0, 6]))

    @pytest.mark.parametrize("wrong", [[0, 5], [1, 6], [0, 4, 3, 6], [0, 7]])
    def test_edges_that_are_none(self, wrong):
        with pytest.raises(ValueError, match="begin at 0, end at 6 and never fall"):
            perturbed(self.config)(tokens(1, 6), cu_seqlens=torch.tensor(wrong))

    def test_a_mixer_without_packing(self):
        register_mixer("unpacked", Unpacked)
        layer = BMojo(BMojoConfig(d_model=8, heads=2, window=3, eidetic=3, mixer="unpacked")).double()
        assert layer(tokens(1, 6)).shape == (1, 6, 8)
        with pytest.raises(ValueError, match="takes no `cu_seqlens`"):
            layer(tokens(1, 6), cu_seqlens=torch.tensor([0, 6]))
