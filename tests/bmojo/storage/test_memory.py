"""Between a layer and its store: rows go out, answers come back, one softmax, and the store may be away."""

from __future__ import annotations

import itertools
import threading
import warnings

import pytest
import torch
from torch.nn import functional as F

from bmojo.storage import FlatStore, StorageError, StorageWarning, StoreAway, StoredMemory, Stream
from bmojo.storage.protocol import joined
from bmojo.storage.retrieved import Retrieved, joint_softmax
from tests.tolerances import assert_close

B, P, H, G, D = 2, 12, 4, 2, 8


@pytest.fixture
def store(tmp_path):
    with FlatStore(tmp_path / "store", durable=False) as opened:
        yield opened


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(5)
    keys, values = (torch.randn(B, P, G, D, generator=generator).half().float() for _ in range(2))
    return keys, values, torch.arange(P).expand(B, -1)


@pytest.fixture
def queries():
    return torch.randn(B, 6, H, D, generator=torch.Generator().manual_seed(6))


ROWS = torch.tensor([[0, -1, 3, 4, 5], [2, 3, -1, -1, 7]])


def kept(memory, pool, rows=ROWS):
    """Rows in two batches, as two chunks would hand them over."""
    place = memory.begin(B)
    for part in rows.split(3, dim=1):
        place = memory.keep(place, part, *pool)
    return place


def asked(memory, place, queries):
    """The answer for queries that see all that their streams count."""
    limit = place[:, 1:].expand(-1, queries.shape[1])
    return memory.ask(place, queries, limit, torch.full_like(limit, 99)).result()


def rows_of(store, stream):
    """All rows of a stream, whether the writer is done with them or not."""
    return joined(store._view(stream, None))


def full(*shape, value=0):
    return torch.full(shape, value)


def test_rows_go_to_their_streams_in_order(store, pool):
    memory = StoredMemory(store, layer=3, entries=[7, 4])
    assert kept(memory, pool).tolist() == [[7, 4], [4, 3]]
    memory.flush()
    assert store.streams() == [Stream(3, 4), Stream(3, 7)]
    piece = rows_of(store, Stream(3, 7))
    assert piece.positions.tolist() == [0, 3, 4, 5]
    assert torch.equal(torch.from_numpy(piece.keys.copy()).float(), pool[0][0, [0, 3, 4, 5]])
    assert store.committed(Stream(3, 4)) == 3
    memory.close()


def test_each_query_sees_what_it_may(store, pool, queries):
    memory = StoredMemory(store, read=3)
    place = kept(memory, pool)
    limit = torch.tensor([[0, 0, 2, 2, 4, 4], [1, 1, 1, 2, 3, 3]])
    newest = torch.tensor([[9, 9, 9, 2, 4, 9], [9, 1, 9, 9, 9, 3]])
    found = memory.ask(place, queries, limit, newest).result()
    memory.close()
    assert found is not None
    for b, t, h in itertools.product(range(B), range(6), range(H)):
        rows = ROWS[b][ROWS[b] >= 0][: limit[b, t]]
        keys, values = (x[b, rows, h // (H // G)] for x in pool[:2])
        best = (keys @ queries[b, t, h]).argsort(descending=True)[:3]
        hidden = rows[best] > newest[b, t]
        n = len(best)
        assert_close(found.keys[b, t, h, :n], keys[best], "bitwise")
        assert_close(found.values[b, t, h, :n], values[best], "bitwise")
        assert (found.bias[b, t, h, :n] == torch.where(hidden, -torch.inf, 0.0)).all()
        assert (found.bias[b, t, h, n:] == -torch.inf).all()


def test_one_answer_for_all_queries_holds_the_rows_that_are_best_for_any(store):
    generator = torch.Generator().manual_seed(9)
    keys = torch.randn(1, 40, G, D, generator=generator).half().float()
    queries = torch.randn(1, 5, H, D, generator=generator)
    memory = StoredMemory(store, read=6)
    rows = torch.arange(40)[None]
    place = memory.keep(memory.begin(1), rows, keys, 2 * keys, rows)
    for limit, count in ((30, 6), (4, 4), (0, 0)):
        found = memory.ask_for_all(place, queries, torch.tensor([limit])).result()
        if not count:
            assert found is None
            continue
        assert found is not None
        scores = torch.einsum("thd,jhd->htj", queries[0], keys[0, :limit].repeat_interleave(2, dim=1)).amax(1)
        for head in range(H):
            best = scores[head].topk(count).indices
            assert_close(found.keys[0, 0, head, :count], keys[0, best, head // 2], "bitwise")
            assert_close(found.values[0, 0, head, :count], 2 * keys[0, best, head // 2], "bitwise")
        assert (found.bias[..., :count] == 0).all()
        assert (found.bias[..., count:] == -torch.inf).all()
    memory.close()


def test_with_nothing_stored_there_is_no_answer(store, queries):
    memory = StoredMemory(store)
    assert asked(memory, memory.begin(B), queries) is None
    memory.close()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_softmax_over_all_keys(dtype):
    generator = torch.Generator().manual_seed(7)
    q, k, v, out = (torch.randn(1, 3, 2, 5, 4, generator=generator, dtype=dtype) for _ in range(4))
    q, scale = q[..., 0, :], 0.3
    bias = torch.zeros(1, 3, 2, 5, dtype=dtype)
    bias[0, 1, :, 2:] = -torch.inf
    seen_k, seen_v = k.flip(-1), v.roll(1, -1)
    logits = (seen_k @ q.unsqueeze(-1)).squeeze(-1) * scale
    out, lse = (logits.softmax(-1).unsqueeze(-2) @ seen_v).squeeze(-2), logits.logsumexp(-1)
    lse[0, 2], out[0, 2] = -torch.inf, 0.0  # a query that saw nothing else
    found, mass = joint_softmax(out, lse, q, Retrieved(k, v, bias), scale=scale)
    stored = (k @ q.unsqueeze(-1)).squeeze(-1) * scale + bias
    logits[0, 2] = -torch.inf
    weights = torch.cat([logits, stored], -1).softmax(-1)
    assert_close(found, (weights.unsqueeze(-2) @ torch.cat([seen_v, v], -2)).squeeze(-2), dtype=dtype)
    assert_close(mass, weights[..., 5:].sum(-1), dtype=dtype)


def test_what_is_shared_is_read_as_if_each_query_had_its_own():
    generator = torch.Generator().manual_seed(11)
    out, q = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    lse = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    keys, values = (torch.randn(2, 1, 4, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    bias = torch.where(torch.rand(2, 1, 4, 6, generator=generator) < 0.3, -torch.inf, 0.0).double()
    one = joint_softmax(out, lse, q, Retrieved(keys, values, bias), scale=0.4)
    own = [x.expand(-1, 3, -1, -1, -1) for x in (keys, values)]
    each = joint_softmax(out, lse, q, Retrieved(*own, bias.expand(-1, 3, -1, -1)), scale=0.4)
    for found, expected in zip(one, each, strict=True):
        assert_close(found, expected)


def test_the_gradient_is_that_of_one_softmax_and_stays_finite():
    generator = torch.Generator().manual_seed(8)
    out, q = (torch.randn(1, 2, 1, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    lse = torch.randn(1, 2, 1, generator=generator, dtype=torch.float64)
    keys, values = (torch.randn(1, 2, 1, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    bias = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    bias[0, 0] = -torch.inf  # nothing was found for the first query
    for x in (out, q, lse):
        x.requires_grad_()
    torch.autograd.gradcheck(
        lambda *x: joint_softmax(x[0], x[1], x[2], Retrieved(keys, values, bias), scale=0.5)[0], (out, lse, q)
    )


def test_gradients_stop_at_the_store(store, pool, queries):
    keys, values, positions = pool
    keys.requires_grad_()
    queries.requires_grad_()
    memory = StoredMemory(store, read=2)
    found = asked(memory, memory.keep(memory.begin(B), ROWS, keys, values, positions), queries)
    memory.close()
    assert found is not None
    assert not found.keys.requires_grad
    out, _ = joint_softmax(torch.zeros(B, 6, H, D), torch.zeros(B, 6, H), queries, found, scale=1.0)
    out.sum().backward()
    assert keys.grad is None
    assert queries.grad is not None
    assert queries.grad.abs().sum() > 0


def test_handing_over_does_not_wait(store, pool, queries, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(store, "append", lambda *a, **o: (gate.wait(), FlatStore.append(store, *a, **o))[1])
    memory = StoredMemory(store, read=2)
    place = kept(memory, pool)
    question = memory.ask(place, queries, full(B, 6, value=3), full(B, 6, value=99))
    assert store.rows(Stream(0, 0)) == 0  # all of this came back while the store stood still
    gate.set()
    assert question.result() is not None
    memory.close()


def test_an_older_state_goes_on_as_if_nothing_had_been_stored_since(store, pool, queries):
    memory = StoredMemory(store, read=2)
    keys, values, positions = pool
    first = memory.keep(memory.begin(B), ROWS[:, :3], *pool)
    before = asked(memory, first, queries)
    memory.keep(first, ROWS[:, 3:], *pool)
    again = asked(memory, first, queries)
    other = memory.keep(first, ROWS[:, 3:], -keys, values, positions)  # another continuation
    after = asked(memory, other, queries)
    memory.close()
    assert before is not None
    assert again is not None
    assert after is not None
    assert torch.equal(before.keys, again.keys)
    stored = rows_of(store, Stream(0, 0))
    assert torch.equal(torch.from_numpy(stored.keys[2:].copy()).float(), -keys[0, [4, 5]])


def test_a_sequence_begins_anew_or_goes_on(store, pool):
    memory = StoredMemory(store)
    kept(memory, pool)
    memory.close()
    assert StoredMemory(store).begin(B).tolist() == [[0, 0], [1, 0]]
    assert StoredMemory(store, anew=False).begin(B).tolist() == [[0, 4], [1, 3]]


class Away:
    """A store that comes and goes."""

    def __init__(self, store):
        self.store, self.away = store, False

    def append(self, *arguments, **options):
        return self._through("append", *arguments, **options)

    def search(self, *arguments, **options):
        return self._through("search", *arguments, **options)

    def _through(self, name, *arguments, **options):
        if self.away:
            raise StoreAway("the store is away: it was switched off")
        return getattr(self.store, name)(*arguments, **options)


def test_without_the_store_it_goes_on_and_says_so_once(store, pool, queries):
    away = Away(store)
    memory = StoredMemory(away, read=2)
    place = memory.keep(memory.begin(B), ROWS[:, :3], *pool)
    assert asked(memory, place, queries) is not None
    away.away = True
    with pytest.warns(StorageWarning, match="layer 0 goes on without retrieval: the store is away"):
        assert asked(memory, place, queries) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert asked(memory, place, queries) is None
    lost = memory.keep(place, ROWS[:, 3:4], *pool)
    with pytest.warns(StorageWarning, match="layer 0 goes on without storing: the store is away"):
        assert asked(memory, lost, queries) is None
    away.away = False
    with pytest.warns(StorageWarning, match="goes on with retrieval, the store is back"):
        assert asked(memory, lost, queries) is not None
    end = memory.keep(lost, ROWS[:, 4:], *pool)
    with pytest.warns(StorageWarning, match="with storing, the store is back; 1 rows were not stored"):
        found = asked(memory, end, queries)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asked(memory, end, queries) is not None
    memory.close()
    assert end.tolist() == [[0, 4], [1, 3]]  # as the sequence counts
    assert [store.rows(Stream(0, 0)), store.rows(Stream(0, 1))] == [3, 3]
    piece = rows_of(store, Stream(0, 0))
    assert piece.positions.tolist() == [0, 3, 5]
    assert found is not None
    assert memory.lost == 1


def test_an_error_of_the_store_is_raised_by_the_next_call(store, pool, queries):
    memory = StoredMemory(store)
    keys, values, positions = pool
    memory.keep(memory.begin(B), ROWS, keys * torch.nan, values, positions)
    with pytest.raises(StorageError, match="not finite"):
        memory.flush()
    memory.keep(memory.begin(B), ROWS, keys, values, positions)
    memory.flush()
    wrong = memory.begin(B) + torch.tensor([0, 1])
    with pytest.raises(StorageError, match="queries"):
        asked(memory, wrong, queries[..., :3])
    memory.close()


def test_two_sequences_cannot_go_on_in_one_stream(store, pool):
    memory = StoredMemory(store)
    place = memory.begin(B)[[1, 1]]
    memory.keep(place, ROWS, *pool)
    with pytest.raises(StorageError, match="a store cannot follow beams"):
        memory.flush()
    memory.close()


def test_a_batch_without_streams_is_refused(store, pool):
    memory = StoredMemory(store, entries=[1, 2, 3])
    with pytest.raises(StorageError, match="a batch of 2 came; entries= names the streams of 3"):
        memory.begin(2)
    memory.close()
    with pytest.raises(StorageError, match="read=0"):
        StoredMemory(store, read=0)


def test_the_softmax_over_a_whole_store_is_attention_over_everything(store, pool, queries):
    """With as many rows read as there are, the join is plain attention over window and store together."""
    keys, values, positions = pool
    memory = StoredMemory(store, read=9)
    rows = torch.arange(9).expand(B, -1)
    found = asked(memory, memory.keep(memory.begin(B), rows, keys, values, positions), queries)
    memory.close()
    assert found is not None
    wide = [x.repeat_interleave(H // G, dim=2).transpose(1, 2) for x in (keys, values)]
    q = queries.transpose(1, 2)
    logits = q @ wide[0][:, :, 9:].mT * D**-0.5
    lse, out = logits.logsumexp(-1).transpose(1, 2), (logits.softmax(-1) @ wide[1][:, :, 9:]).transpose(1, 2)
    joined, _ = joint_softmax(out, lse, queries, found, scale=D**-0.5)
    assert_close(joined, F.scaled_dot_product_attention(q, *wide).transpose(1, 2))
