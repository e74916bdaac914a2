"""A layer with a store: nothing is forgotten, whichever way the tokens come, and the store may be away."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bmojo import BMojo, BMojoConfig, BMojoLM
from bmojo.storage import (
    FlatStore,
    MilvusStore,
    StorageError,
    StorageWarning,
    StoreAway,
    Stream,
    attach,
    detach,
)
from bmojo.tasks import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall
from tests.bmojo.storage.fake_milvus import FakeMilvus
from tests.layers import configs, in_pieces, perturbed, stepped, tokens
from tests.tolerances import assert_close

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)


@pytest.fixture
def store(tmp_path):
    with FlatStore(tmp_path / "store", durable=False) as opened:
        yield opened


def plain(**options):
    """A layer with two places for what leaves a window of four."""
    base = {"d_model": 8, "heads": 2, "window": 4, "eidetic": 2, "state_size": 2}
    return perturbed(BMojoConfig(**(base | options)))


@one_folder
@given(
    config=configs().filter(lambda config: config.eidetic),
    length=st.integers(1, 24),
    cuts=st.lists(st.integers(1, 23), max_size=3),
)
def test_set_and_store_hold_what_a_set_without_bound_holds(tmp_path_factory, config, length, cuts):
    """Read in full, a store is a larger set: to the rounding of its float16, in any options and pieces."""
    layer = perturbed(config)
    unbounded = BMojo(dataclasses.replace(config, eidetic=length)).double().eval()
    unbounded.load_state_dict(layer.state_dict())
    u = tokens(2, length)
    expected = unbounded(u)
    with FlatStore(tmp_path_factory.mktemp("s") / "store", durable=False) as store:
        attach(layer, store, read=length)
        full = layer(u)
        cut, _ = in_pieces(layer, u, layer.init_state(2), cuts)
        one, _ = stepped(layer, u, layer.init_state(2))
        detach(layer)
    for found in (full, cut, one):
        assert_close(found, expected, dtype=torch.float16)
    assert_close(cut, full, "recurrence")
    assert_close(one, full, "recurrence")


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_few_rows_are_read_the_same_however_the_tokens_come(store, chunk):
    layer, u = plain(chunk=chunk), tokens(2, 60)
    attach(layer, store, read=2)
    full = layer(u)
    cut, state = in_pieces(layer, u, layer.init_state(2), [7, 8, 30])
    one, _ = stepped(layer, u, layer.init_state(2))
    assert_close(cut, full, "recurrence")
    assert_close(one, full, "recurrence")
    assert state.place.tolist() == [[0, store.rows((0, 0))], [1, store.rows((0, 1))]]
    detach(layer)
    assert not torch.allclose(layer(u), full, atol=1e-3)


def test_an_older_state_goes_on_as_before(store):
    layer, u = plain(), tokens(1, 60)
    attach(layer, store, read=2)
    expected = layer(u)
    head, state = layer(u[:, :30], layer.init_state(1))
    layer(tokens(1, 40, seed=9), state)  # another continuation writes to the same stream
    tail, _ = layer(u[:, 30:], state)
    detach(layer)
    assert_close(torch.cat([head, tail], 1), expected, "recurrence")


def test_a_sequence_may_find_what_another_one_left(store):
    layer, u = plain(), tokens(1, 40)
    attach(layer, store, read=4, anew=False)
    first = layer(u)
    rows = store.rows((0, 0))
    second = layer(u)
    detach(layer)
    assert store.rows((0, 0)) == 2 * rows
    assert not torch.allclose(first, second, atol=1e-3)


def test_sequences_may_change_places_but_not_share_a_stream(store):
    layer, u = plain(), tokens(2, 50)
    attach(layer, store, read=2)
    expected = layer(u)
    _, state = layer(u[:, :30], layer.init_state(2))
    swapped, _ = layer(u[[1, 0], 30:], state.select(torch.tensor([1, 0])))
    assert_close(swapped, expected[[1, 0], 30:], "recurrence")
    with pytest.raises(StorageError, match="cannot follow beams"):
        stepped(layer, u[[0, 0], 30:], state.select(torch.tensor([0, 0])))
    detach(layer)


def test_gradients_stop_at_the_store(store):
    layer, u = plain().train(), tokens(2, 60).requires_grad_()
    attach(layer, store, read=2)
    layer(u).square().sum().backward()
    layer.storage.flush()
    detach(layer)
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert u.grad is not None
    assert u.grad.isfinite().all()


def test_a_pass_that_is_computed_once_more_finds_the_same(store):
    """Activations that are not kept: the backward pass runs the layer again, and appends again."""
    layer, u = plain().train(), tokens(2, 60)
    attach(layer, store, read=2)
    gradients = []
    for again in (False, True):
        layer.zero_grad()
        output = checkpoint(layer, u, use_reentrant=False) if again else layer(u)
        output.square().sum().backward()
        gradients.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    detach(layer)
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected, "recurrence")


def test_under_autocast_the_store_is_read_too(store):
    layer, u = plain().float(), tokens(2, 60).float()
    attach(layer, store, read=40)
    expected = layer(u)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = layer(u)
        steps, _ = stepped(layer, u, layer.init_state(2))
    detach(layer)
    assert_close(narrow, expected, "recurrence", dtype=torch.bfloat16)
    assert_close(steps, expected, "recurrence", dtype=torch.bfloat16)


def test_packed_and_padded_batches_are_refused(store):
    layer, u = plain(), tokens(2, 10)
    attach(layer, store)
    with pytest.raises(ValueError, match="packed sequences or a mask came to a layer with storage"):
        layer(u, mask=torch.ones(2, 10, dtype=torch.bool))
    with pytest.raises(ValueError, match="detach the storage"):
        layer(u[:1], cu_seqlens=torch.tensor([0, 4, 10]))
    detach(layer)


class TestAhead:
    """Each chunk reads what the queries of the chunk before found."""

    @pytest.mark.parametrize("chunk", [1, 3, 4])
    def test_however_the_tokens_come(self, store, chunk):
        layer, u = plain(chunk=chunk), tokens(2, 60)
        bare = layer(u)
        attach(layer, store, read=2, ahead=True)
        full = layer(u)
        cut, _ = in_pieces(layer, u, layer.init_state(2), [7, 8, 30])
        one, _ = stepped(layer, u, layer.init_state(2))
        detach(layer)
        assert_close(cut, full, "recurrence")
        assert_close(one, full, "recurrence")
        # Something leaves at the start of chunk 1 or later; it is found by that chunk, and read by the next.
        first = 2 * chunk if chunk > 1 else 5
        assert_close(full[:, :first], bare[:, :first], "recurrence")
        assert not torch.allclose(full[:, 20:], bare[:, 20:], atol=1e-3)

    def test_a_search_for_each_chunk_and_none_for_a_token(self, store, monkeypatch):
        layer, u, asked = plain(), tokens(1, 41), []
        search = FlatStore.search
        monkeypatch.setattr(
            FlatStore, "search", lambda self, *a, **o: (asked.append(o["limit"]), search(self, *a, **o))[1]
        )
        attach(layer, store, read=2, ahead=True)
        stepped(layer, u, layer.init_state(1))
        detach(layer)
        # Of ten whole chunks the first has nothing to find; at its start the third one has 2 of 8 in the set.
        assert asked == [2, 6, 10, 14, 18, 22, 26, 30, 34]

    def test_what_was_asked_for_others_is_not_read(self, store):
        layer, u = plain(), tokens(3, 60)
        attach(layer, store, read=2, ahead=True)
        full = layer(u)
        _, state = layer(u[:, :30], layer.init_state(3))
        kept, _ = layer(u[[1, 2, 0], 30:], state.select(torch.tensor([1, 2, 0])))
        _, state = layer(u[:, :30], layer.init_state(3))
        fewer, _ = layer(u[:1, 30:], state.select(torch.tensor([0])))
        detach(layer)
        bare_after = 36  # chunks 7 and 8 were to read what chunks 6 and 7 asked, in another order
        for found, order in ((kept, [1, 2, 0]), (fewer, [0])):
            assert_close(found[:, bare_after - 30 :], full[order, bare_after:], "recurrence")
            assert found.isfinite().all()

    def test_an_older_state_reads_nothing_at_first_and_then_goes_on(self, store):
        layer, u = plain(), tokens(1, 60)
        attach(layer, store, read=2, ahead=True)
        full = layer(u)
        _, state = layer(u[:, :32], layer.init_state(1))
        layer(u[:, 32:], state)
        again, _ = layer(u[:, 32:], state)
        detach(layer)
        assert not torch.allclose(again[:, :4], full[:, 32:36], atol=1e-3)
        assert_close(again[:, 4:], full[:, 36:], "recurrence")


def test_a_token_that_is_read_from_the_store_gets_no_gradient(store):
    layer = perturbed(BMojoConfig(d_model=8, heads=2, window=4, eidetic=2, mixer="none", short_conv=0))
    u = tokens(1, 40).requires_grad_()
    attach(layer, store, read=40)  # the last query reads every token
    layer(u)[0, -1].sum().backward()
    kept = layer.trace(u.detach()).eidetic_index[0, -1].tolist()
    detach(layer)
    assert u.grad is not None
    reached = u.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert reached == sorted({*kept, 36, 37, 38, 39})


def test_attention_mass_of_the_store_is_shown(store):
    layer, u = plain(), tokens(2, 40)
    attach(layer, store, read=2)
    trace = layer.trace(u)
    assert_close(trace.output, layer(u), "recurrence")
    detach(layer)
    assert trace.segments == ("window", "fading", "eidetic", "stored")
    assert_close(trace.attention_mass.sum(-1), torch.ones(2, 2, 40))
    assert (trace.attention_mass[..., 3] > 0).any()
    assert (trace.attention_mass[:, :, :4, 3] == 0).all()  # nothing has left the window yet


def test_a_layer_goes_on_without_its_store_and_says_so_once(store, monkeypatch):
    layer, u = plain(), tokens(1, 60)
    expected = layer(u)

    def away(*arguments, **options):
        raise StoreAway("the store is away")

    (memory,) = attach(layer, store, read=2)
    layer(u[:, :30])
    for name in ("append", "search"):
        monkeypatch.setattr(store, name, away)
    with pytest.warns(StorageWarning) as said:
        found = layer(u)
    assert [str(each.message).split(":")[0] for each in said] == ["layer 0 goes on without storing"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, _ = in_pieces(layer, u, layer.init_state(1), [20])
    detach(layer)
    assert_close(found, expected, "bitwise")
    assert_close(again, expected, "recurrence")
    assert memory.lost > 0


def test_a_layer_catches_up_with_a_store_that_was_away(store, tmp_path):
    """Rows wait in the journal meanwhile: none is lost, and the answers are those of an undisturbed store."""
    pytest.importorskip("pymilvus")
    layer, u, away = plain(), tokens(2, 80), [False]
    attach(layer, store, read=2)
    expected, _ = in_pieces(layer, u, layer.init_state(2), [20, 40, 60])
    detach(layer)
    client = FakeMilvus(lambda: "before" if away[0] else None)
    journal = tmp_path / "journal"
    options = {"half": True, "retry": 1e-4, "longest_retry": 1e-3, "patience": 10.0}
    with MilvusStore("http://fake", journal=journal, client=client, **options) as milvus:
        (memory,) = attach(layer, milvus, read=2)
        state, outputs = layer.init_state(2), []
        for start in range(0, 80, 20):
            away[0] = start == 40
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                output, state = layer(u[:, start : start + 20], state)
            memory.flush()
            away[0] = False
            milvus.drain(10.0)
            outputs.append(output)
            assert ("without retrieval" in " ".join(str(each.message) for each in said)) == (start == 40)
        detach(layer)
        assert memory.lost == 0
        for entry in range(2):
            (piece,) = store._view(Stream(0, entry), None)
            assert milvus.rows(Stream(0, entry)) == len(piece)
            found = milvus.search(Stream(0, entry), torch.zeros(1, 2, 4), len(piece))
            places = found.positions[0, 0][found.ordinals[0, 0].argsort()]
            assert places.tolist() == piece.positions.tolist()
    # While it was away a piece read less. What stands in state and store afterwards is the same.
    assert not torch.allclose(outputs[2], expected[:, 40:60], atol=1e-3)


def test_copies_have_no_store_and_models_number_their_layers(store):
    model = BMojoLM(12, [plain().config, plain(eidetic=0).config, plain().config]).eval()
    memories = attach(model, store, read=2)
    assert [memory.layer for memory in memories] == [0, 1]
    assert all(
        memory.storage is None for memory in copy.deepcopy(model).modules() if hasattr(memory, "storage")
    )
    batch = torch.randint(12, (2, 40), generator=torch.Generator().manual_seed(0))
    full = model(batch)
    first, state = model(batch[:, :25], model.init_state(2))
    rest, _ = model(batch[:, 25:], state)
    assert_close(torch.cat([first, rest], 1), full, "recurrence")
    detach(model)
    store.flush()
    assert sorted({stream.layer for stream in store.streams()}) == [0, 1]
    with pytest.raises(StorageError, match="no layer has an eidetic set"):
        attach(torch.nn.Linear(2, 2), store)


def recalling(width, places):
    """A layer made by hand that recalls: a key's token is bound to the value's behind it, queries find it.

    Tokens are `[key code, value code]`. The convolution moves the key's code one token on, so that the token
    of the value has it as its key; queries ask by the code that they carry.
    """
    config = BMojoConfig(
        d_model=2 * width,
        heads=1,
        head_dim=2 * width,
        window=4,
        mixer="none",
        eidetic=places,
        rule="fifo",
        rotary=False,
        qk_norm=False,
        short_conv=2,
    )
    layer = BMojo(config).eval()
    eye, zero = torch.eye(width), torch.zeros(width, width)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.short_conv.weight[:, 1] = 1.0
        layer.short_conv.weight[:width, 0] = 1.0  # the key's code, one token late
        query = torch.cat([torch.cat([eye, zero], 1), torch.cat([zero, zero], 1)])
        value = torch.cat([torch.cat([zero, zero], 1), torch.cat([zero, eye], 1)])
        sharp = 60.0
        layer.in_proj.weight.copy_(torch.cat([sharp * query, query, value]))
        layer.out_proj.weight.copy_(torch.eye(2 * width))
    return layer


@pytest.mark.parametrize("piece", [None, 500, 1])
def test_it_recalls_far_more_pairs_than_all_other_memories_hold(store, piece):
    """A window of 4, a set of 8, no state, and 1000 pairs: the store has the rest."""
    pairs, width = (1000, 32) if piece != 1 else (200, 32)
    generator = torch.Generator().manual_seed(1)
    keys, values = (F.normalize(torch.randn(pairs, width, generator=generator), dim=-1) for _ in range(2))
    nothing = torch.zeros(pairs, width)
    told = torch.stack([torch.cat([keys, nothing], 1), torch.cat([nothing, values], 1)], 1).flatten(0, 1)
    asked = torch.randperm(pairs, generator=generator)[:100]
    questions = torch.cat([keys[asked], nothing[:100]], 1)
    # Between two questions a token of nothing, so that the convolution does not mix them.
    questions = torch.stack([questions, torch.zeros_like(questions)], 1).flatten(0, 1)
    u = torch.cat([told, torch.zeros(40, 2 * width), questions])[None]
    layer = recalling(width, places=8)

    def accuracy():
        if piece is None:
            answers = layer(u)
        elif piece == 1:
            answers, _ = stepped(layer, u, layer.init_state(1))
        else:
            answers, _ = in_pieces(layer, u, layer.init_state(1), list(range(piece, u.shape[1], piece)))
        answers = answers[0, -200::2, width:]
        return ((answers @ values.T).argmax(1) == asked).float().mean().item()

    with torch.no_grad():
        assert accuracy() < 0.05
        attach(layer, store, read=4)
        assert accuracy() > 0.99
    detach(layer)


@pytest.mark.slow
def test_what_was_trained_on_few_pairs_recalls_many(store):
    """Trained on 8 pairs with 16 places: of 100 pairs a fifth without storage, all of them with it."""
    torch.manual_seed(0)
    sizes = {"d_model": 64, "heads": 2, "window": 8, "state_size": 16, "eidetic": 16}
    model = BMojoLM(256, [BMojoConfig(**sizes, eidetic_position="edge")] * 2)
    few, some, many = (
        GapRecall(pairs=pairs, gap=gap, queries=queries, vocabulary=256)
        for pairs, gap, queries in ((4, 12, 8), (8, 24, 16), (100, 50, 32))
    )
    train_recall(model, [Stage(few, 200), Stage(some, 400)], seed=0)
    assert recall_accuracy(model, some, sequences=16) > 0.95
    assert recall_accuracy(model, many, sequences=16) < 0.5
    attach(model, store, read=4)
    assert recall_accuracy(model, many, sequences=16) > 0.95
    detach(model)
