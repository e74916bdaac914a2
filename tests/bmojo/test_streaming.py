"""Full pass, any chunking of it and single steps are one function; the state does not grow."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from bmojo import BMojo, BMojoConfig, prediction_loss
from bmojo.chunks import Chunks
from tests.layers import (
    MIXERS,
    RULES,
    configs,
    effective,
    in_pieces,
    perturbed,
    predictors_of,
    stepped,
    tensors_of,
    tokens,
)
from tests.strategies import seeds
from tests.tolerances import assert_close

COMBINATIONS = list(itertools.product(MIXERS, RULES))
PAIRS = [(m, p) for m in MIXERS for p in predictors_of(m)]
# Every mixer and predictor with one of the rules in turn, and all of them where there is time.
PRODUCT = [
    pytest.param(*pair, rule, marks=() if i % len(RULES) == k else pytest.mark.slow)
    for i, pair in enumerate(PAIRS)
    for k, rule in enumerate(RULES)
]
cuts = st.lists(st.integers(1, 39), max_size=6)


def layer_of(mixer="mamba2", rule="top", *, dtype=torch.float64, **options):
    """All memories, every option that has a part in the state."""
    chosen = {
        "d_model": 8,
        "heads": 2,
        "window": 5,
        "chunk": 3,
        "eidetic": 4,
        "state_size": 3,
        "write_gate": True,
        "eidetic_norm": True,
        "false_alarm": 0.5,
    }
    given = {"mixer": mixer, "rule": rule, "rotary": True} | chosen | options
    return perturbed(BMojoConfig(**effective(given)), seed=3, dtype=dtype)


def gradients(layer, loss, *inputs):
    """By parameter name, then of the inputs; zero where there is none."""
    names, parameters = zip(*layer.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, [*parameters, *inputs], allow_unused=True)
    whole = zip((*names, *range(len(inputs))), found, (*parameters, *inputs), strict=True)
    return {name: torch.zeros_like(of) if grad is None else grad for name, grad, of in whole}


class TestOneFunction:
    @settings(max_examples=60)
    @given(config=configs(), length=st.integers(1, 40), cuts=cuts, seed=seeds)
    def test_any_options_any_cuts(self, config, length, cuts, seed):
        layer, u = perturbed(config, seed=seed), tokens(2, length, seed=seed)
        with torch.no_grad():
            full, end = layer(u, layer.init_state(2))
            assert_close(layer(u), full, "bitwise")
            pieces, last = in_pieces(layer, u, layer.init_state(2), cuts)
        assert_close(pieces, full)
        for name, value in tensors_of(last).items():
            assert_close(
                value.nan_to_num(neginf=-1.0), tensors_of(end)[name].nan_to_num(neginf=-1.0), what=name
            )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("mixer", "predictor", "rule"), PRODUCT)
    def test_full_in_pieces_and_stepped(self, mixer, predictor, rule, dtype):
        layer = layer_of(mixer, rule, predictor=predictor, dtype=dtype)
        u = tokens(2, 33, dtype=dtype)
        with torch.no_grad():
            output, state = stepped(layer, u, layer.init_state(2))
            pieces, last = in_pieces(layer, u, layer.init_state(2), [1, 6, 7, 19])
            full, end = layer(u, layer.init_state(2))
        assert_close(output, full)
        assert_close(pieces, full)
        for found in (state, last):
            assert_close(found.eidetic_index, end.eidetic_index, "bitwise")
            assert found.position == end.position == 33

    @settings(max_examples=4)
    @given(cuts=cuts)
    def test_cuts_in_single_precision(self, cuts):
        for mixer, rule in COMBINATIONS:
            layer, u = layer_of(mixer, rule, dtype=torch.float32), tokens(2, 40, dtype=torch.float32)
            with torch.no_grad():
                assert_close(in_pieces(layer, u, layer.init_state(2), cuts)[0], layer(u))

    def test_steps_of_a_mixer_alone(self):
        for mixer in MIXERS[1:]:
            layer = perturbed(BMojoConfig(d_model=8, heads=2, window=0, eidetic=0, mixer=mixer))
            u = tokens(2, 70)
            assert_close(stepped(layer, u, layer.init_state(2))[0], layer(u))

    def test_stored_keys_are_seen_in_every_piece(self):
        layer, u = layer_of(), tokens(2, 11)
        stored = (torch.randn(2, 3, 2, 4, dtype=torch.float64), torch.randn(2, 3, 2, 4, dtype=torch.float64))
        full = layer(u, retrieved=stored)
        head, state = layer(u[:, :10], layer.init_state(2), retrieved=stored)
        tail, _ = layer.step(u[:, 10], state, retrieved=stored)
        assert_close(torch.cat([head, tail.unsqueeze(1)], dim=1), full)
        assert float((full - layer(u)).detach().abs().max()) > 0.01


def converged(layer):
    """With a regression solved to the last digit: gradients are those of the exact solution."""
    if hasattr(layer.mixer, "steps"):
        layer.mixer.steps = 160
    return layer


class TestGradients:
    @pytest.mark.parametrize(("mixer", "rule"), COMBINATIONS)
    def test_pieces_have_the_gradient_of_the_whole(self, mixer, rule):
        layer, weights = converged(layer_of(mixer, rule)), tokens(2, 23, seed=9)
        u = tokens(2, 23).requires_grad_()
        full = gradients(layer, (layer(u) * weights).sum(), u)
        pieces, _ = in_pieces(layer, u, layer.init_state(2), [4, 5, 14])
        cut = gradients(layer, (pieces * weights).sum(), u)
        for name, expected in full.items():
            assert_close(cut[name], expected, "recurrence", scale=float(full[0].abs().max()), what=str(name))

    @pytest.mark.parametrize(
        "options", [{}, {"tie_projections": False, "eidetic_position": "edge"}, {"kv_heads": 1}]
    )
    @pytest.mark.parametrize("mixer", MIXERS)
    def test_against_finite_differences(self, mixer, options):
        layer = converged(layer_of(mixer, d_model=4, window=3, chunk=2, eidetic=2, **options))
        names, parameters = zip(*layer.named_parameters(), strict=True)

        def function(u, *values):
            return functional_call(layer, dict(zip(names, values, strict=True)), (u,))

        inputs = [
            tokens(1, 9, 4).requires_grad_(),
            *(p.detach().clone().requires_grad_() for p in parameters),
        ]
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)

    def test_detach_cuts_the_past_and_leaves_the_output(self):
        layer = layer_of()
        u = tokens(1, 24).requires_grad_()
        whole, _ = in_pieces(layer, u, layer.init_state(1), [12])
        cut, _ = in_pieces(layer, u, layer.init_state(1), [12], detach=True)
        assert_close(cut, whole, "bitwise")
        past = [torch.autograd.grad(o[:, 12:].sum(), u)[0][:, :12].abs().max() for o in (whole, cut)]
        assert past[0] > 0
        assert past[1] == 0


class TestState:
    @given(config=configs(), lengths=st.lists(st.integers(1, 50), min_size=1, max_size=4))
    def test_its_size_is_constant_and_nothing_is_held_behind_it(self, config, lengths):
        layer = perturbed(config)
        state = layer.init_state(2)
        size = state.nbytes
        assert size == sum(state.memory().values())
        for length in lengths:
            with torch.no_grad():
                _, state = layer(tokens(2, length), state)
            assert state.nbytes == size
            held = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in tensors_of(state).values()
            }
            assert sum(held.values()) == size  # no tensor is a view of a longer one

    def test_every_tensor_is_counted(self):
        layer = layer_of()
        state = layer(tokens(2, 9), layer.init_state(2))[1]
        assert state.nbytes == sum(t.numel() * t.element_size() for t in tensors_of(state).values())
        assert all(state.memory()[part] > 0 for part in ("in_context", "in_state", "eidetic"))

    @pytest.mark.parametrize("mixer", MIXERS)
    def test_rows_are_chosen_repeated_and_dropped(self, mixer):
        layer, u, rows = layer_of(mixer), tokens(3, 30), torch.tensor([2, 0, 2, 1])
        with torch.no_grad():
            _, state = layer(u[:, :17], layer.init_state(3))
            rest, _ = layer(u[rows, 17:], state.select(rows))
        assert_close(rest, layer(u[rows])[:, 17:])

    def test_rows_stay_alive_when_others_are_added(self):
        layer = layer_of()
        _, state = layer(tokens(1, 9), layer.init_state(1))
        assert state.select(torch.tensor([0, 0])).nbytes == 2 * state.nbytes

    def test_a_state_can_be_used_twice(self):
        layer, u = layer_of(), tokens(2, 30)
        _, state = layer(u[:, :20], layer.init_state(2))
        first, _ = layer(u[:, 20:], state)
        assert_close(layer(u[:, 20:], state)[0], first, "bitwise")

    def test_a_raised_budget_is_that_of_a_larger_layer(self):
        small, large = layer_of(eidetic=2), layer_of(eidetic=9)
        large.load_state_dict(small.state_dict())
        u = tokens(2, 40)
        raised, state = small(u, small.init_state(2, eidetic=9))
        assert state.eidetic_index.shape == (2, 9)
        assert_close(raised, large(u), "bitwise")
        assert_close(in_pieces(small, u, small.init_state(2, eidetic=9), [7, 8])[0], raised)
        assert float((raised - small(u)).detach().abs().max()) > 1e-3

    @pytest.mark.parametrize(("made", "asked"), [(0, 3), (3, 0), (3, -1), (0, -1)])
    def test_budgets_that_a_layer_cannot_have(self, made, asked):
        with pytest.raises(ValueError, match="init_state: eidetic"):
            layer_of(eidetic=made).init_state(1, eidetic=asked)


class TestChunks:
    @given(position=st.integers(0, 20), length=st.integers(1, 20), chunk=st.integers(1, 7))
    def test_they_hold_the_piece_once(self, position, length, chunk):
        chunks = Chunks.of(position=position, length=length, chunk=chunk, device=torch.device("cpu"))
        piece = torch.arange(position, position + length)
        assert torch.equal(chunks.tokens(), piece)
        assert torch.equal(chunks.join(chunks.queries().unsqueeze(0)), piece.unsqueeze(0))
        cut = chunks.cut(piece.unsqueeze(0) + 1)
        assert torch.equal(chunks.join(cut), piece.unsqueeze(0) + 1)
        assert int((cut > 0).sum()) == length
        assert all(len(set((row // chunk).tolist())) == 1 for row in chunks.queries())

    @pytest.mark.parametrize("position", [0, 3, 7])
    def test_a_step_costs_one_query(self, position):
        chunks = Chunks.of(position=position, length=1, chunk=8, device=torch.device("cpu"))
        assert chunks.queries().tolist() == [[position]]
        assert chunks.keys(4, 5).tolist() == [list(range(position - 4, position + 1))]


class TestUse:
    @pytest.mark.parametrize("shape", [(2, 5), (2, 5, 7), (2, 0, 8), (5, 8, 2, 8)])
    def test_tokens_of_a_wrong_shape(self, shape):
        with pytest.raises(ValueError, match="tokens of shape"):
            layer_of()(torch.zeros(shape, dtype=torch.float64))

    def test_a_state_of_another_batch(self):
        layer = layer_of()
        with pytest.raises(ValueError, match="state for 3 sequences"):
            layer(tokens(2, 4), layer.init_state(3))

    @pytest.mark.parametrize("shape", [(2, 3, 2, 5), (1, 3, 2, 4), (2, 3, 4), (2,)])
    def test_stored_keys_of_a_wrong_shape(self, shape):
        with pytest.raises(ValueError, match="retrieved keys"):
            layer_of()(tokens(2, 4), retrieved=(torch.zeros(shape), torch.zeros(shape)))

    def test_a_mixer_alone_cannot_read_stored_keys(self):
        layer = BMojo(BMojoConfig(d_model=8, window=0, eidetic=0, state_size=2))
        stored = torch.zeros(1, 3, 4, 2)
        with pytest.raises(ValueError, match="window=0"):
            layer(torch.zeros(1, 4, 8), retrieved=(stored, stored))

    def test_a_layer_is_copied_and_stored_after_a_pass(self, tmp_path):
        layer, u = layer_of(), tokens(1, 12)
        expected = layer.train()(u)
        layer.eval()
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert_close(other(u), layer(u), "bitwise")
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        fresh = BMojo(layer.config).double().eval()
        fresh.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
        assert_close(fresh(u), layer(u), "bitwise")
        assert expected.shape == u.shape

    def test_dropout_acts_in_training_alone(self):
        layer, u = layer_of(dropout=0.5), tokens(1, 40)
        assert_close(layer(u), layer(u), "bitwise")
        dropped = layer.train()(u) == 0
        assert 0.3 < float(dropped.double().mean()) < 0.7

    def test_a_trace_leaves_the_layer_as_it_was(self):
        layer, u = layer_of().train(), tokens(2, 12)
        loss = layer(u).sum()
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        told = prediction_loss(layer)
        trace = layer.trace(u)
        loss.backward()
        assert told > 0
        assert_close(prediction_loss(layer), told, "bitwise")
        assert not trace.output.requires_grad
        for name, value in layer.state_dict().items():
            assert_close(value, before[name], "bitwise", what=name)
