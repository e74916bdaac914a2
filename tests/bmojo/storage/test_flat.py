"""The embedded store: exact search, rows that come back bit for bit, appends that may be repeated."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmojo.storage import EideticStore, FlatStore, StorageError, StoreAway, Stream
from tests.tolerances import assert_close

HERE = Stream(0, 0)
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def store(tmp_path):
    with FlatStore(tmp_path / "store", durable=False) as opened:
        yield opened


def brute_force(keys, queries, count, limit):
    """All inner products in float64, sorted; equal ones by age."""
    keys = keys[:limit].double()
    group = queries.shape[1] // keys.shape[1]
    scores = torch.einsum("nhd,jhd->nhj", queries.double(), keys.repeat_interleave(group, dim=1))
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return scores[..., :count], order[..., :count]


def test_it_is_an_eidetic_store(store):
    assert isinstance(store, EideticStore)


@one_folder
@given(
    heads=st.integers(1, 3),
    group=st.integers(1, 3),
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    asked=st.integers(0, 5),
    count=st.integers(1, 6),
    limit=st.one_of(st.none(), st.integers(0, 100)),
    flushed=st.booleans(),
)
def test_search_is_exact(tmp_path_factory, rows, heads, group, counts, asked, count, limit, flushed):
    with FlatStore(tmp_path_factory.mktemp("s") / "store", durable=False) as store:
        total = 0
        for n in counts:
            store.append(HERE, *rows(total, total + n, heads=heads))
            total += n
            if flushed:
                store.flush()
        keys, values, positions = rows(0, total, heads=heads)
        queries = torch.from_numpy(np.random.default_rng(total).standard_normal((asked, heads * group, 4)))
        found = store.search(HERE, queries, count, limit=limit)
    limit = total if limit is None else min(limit, total)
    there = min(count, limit)
    scores, order = brute_force(keys, queries.float(), there, limit)
    assert found.scores.shape == (asked, heads * group, count)
    assert_close(found.scores[..., :there], scores)
    assert torch.equal(found.ordinals[..., :there], order)
    assert torch.equal(found.positions[..., :there], positions[order])
    head = torch.arange(heads * group)[:, None] // group
    assert torch.equal(found.keys[..., :there, :].float(), keys[order, head])
    assert torch.equal(found.values[..., :there, :].float(), values[order, head])
    assert (found.ordinals[..., there:] == -1).all()
    assert (found.scores[..., there:] == -torch.inf).all()
    assert (found.positions[..., there:] == -1).all()


@pytest.mark.parametrize("count", [1, 7])
def test_search_over_many_blocks_is_exact(store, count):
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(20_000, 2, 8, generator=generator).half().float()
    store.append(HERE, keys, keys, torch.arange(20_000))
    queries = torch.randn(40, 4, 8, generator=generator)
    found = store.search(HERE, queries, count, limit=19_999)
    scores, order = brute_force(keys, queries, count, 19_999)
    assert_close(found.scores, scores)
    assert (found.ordinals == order).float().mean() > 0.999  # where two products agree to rounding


def test_many_queries_are_answered_as_few_are(store, rows):
    store.append(HERE, *rows(0, 50))
    queries = torch.randn(600, 2, 4, generator=torch.Generator().manual_seed(1))
    whole = store.search(HERE, queries, 3)
    parts = [store.search(HERE, part, 3) for part in queries.split(100)]
    assert torch.equal(whole.ordinals, torch.cat([part.ordinals for part in parts]))


def test_equal_scores_stand_by_age(store):
    keys = torch.ones(5, 1, 2)
    store.append(HERE, keys, keys, torch.arange(5))
    assert store.search(HERE, torch.ones(1, 1, 2), 5).ordinals.tolist() == [[[0, 1, 2, 3, 4]]]


def test_rows_come_back_bit_for_bit(tmp_path, rows):
    streams = [Stream(0, 0), Stream(0, 1), Stream(4095, 1048575)]
    with FlatStore(tmp_path / "store") as store:
        for number, stream in enumerate(streams):
            for low, high in ((0, 3), (3, 4), (4, 30)):
                assert store.append(stream, *rows(low, high, heads=1 + number, seed=number)) == low
        store.flush()
        assert [store.committed(stream) for stream in streams] == [30, 30, 30]
        size = store.nbytes
    with FlatStore(tmp_path / "store", mode="r") as store:
        assert store.streams() == streams
        assert store.nbytes == size == sum((2 * 7 * heads + 8) * 30 for heads in (1, 2, 3))
        assert size == sum(path.stat().st_size for path in store.folder.glob("*-*/*.*"))
        for number, stream in enumerate(streams):
            keys, values, positions = rows(0, 30, heads=1 + number, seed=number)
            found = store.search(stream, keys[:1], 30)
            order = found.ordinals[0]
            assert torch.equal(order.sort(dim=-1).values, torch.arange(30).expand(1 + number, -1))
            head = torch.arange(1 + number)[:, None]
            assert torch.equal(found.keys[0].float(), keys[order, head])
            assert torch.equal(found.values[0].float(), values[order, head])
            assert torch.equal(found.positions[0], positions[order])


@one_folder
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 1), st.booleans()), max_size=12
    )
)
def test_a_repeated_append_changes_nothing_and_another_one_replaces(tmp_path_factory, rows, steps):
    """Against a list: `first` names where the rows belong, whatever was there."""
    folder = tmp_path_factory.mktemp("s") / "store"
    expected: list[int] = []
    with FlatStore(folder, durable=False) as store:
        for first, n, seed, flushed in steps:
            first = min(first, len(expected))
            positions = [3 * ordinal + seed for ordinal in range(first, first + n)]
            if expected[first : first + n] != positions[: len(expected) - first]:
                expected = expected[:first] + positions
            else:
                expected = expected[:first] + positions + expected[first + n :]
            store.append(HERE, *rows(first, first + n, seed=seed), first=first)
            if flushed:
                store.flush()
            assert store.rows(HERE) == len(expected)
            found = store.search(HERE, torch.ones(1, 2, 4), 20)
            assert sorted(found.positions[0, 0, : len(expected)].tolist()) == sorted(expected)
        store.flush()
        assert store.committed(HERE) == len(expected)
    with FlatStore(folder, mode="r") as store:
        found = store.search(HERE, torch.ones(1, 2, 4), 20)
        assert sorted(found.positions[0, 0, : len(expected)].tolist()) == sorted(expected)
        assert store.rows(HERE) == len(expected)


def test_truncate_forgets_the_rest(tmp_path, rows):
    with FlatStore(tmp_path / "store") as store:
        store.append(HERE, *rows(0, 10))
        store.truncate(HERE, 4)
        assert store.rows(HERE) == store.committed(HERE) == 4
        store.append(HERE, *rows(4, 6, seed=1))
    with FlatStore(tmp_path / "store") as store:
        found = store.search(HERE, torch.ones(1, 2, 4), 10)
        assert sorted(found.positions[0, 0].tolist()) == [-1] * 4 + [0, 3, 6, 9, 13, 16]
        store.truncate(HERE, 0)
        store.append(HERE, *rows(0, 2, heads=1, width=6))  # an empty stream takes rows of another shape
    with FlatStore(tmp_path / "store") as store:
        assert store.shape(HERE) == (1, 6, 3)


def test_a_snapshot_is_a_store_of_what_was_committed(tmp_path, rows):
    with FlatStore(tmp_path / "store") as store:
        store.append(HERE, *rows(0, 10))
        store.append(Stream(2, 1), *rows(0, 3))
        store.flush()
        store.snapshot(tmp_path / "copy")
        store.append(HERE, *rows(10, 20))
        with pytest.raises(StorageError, match="is there already"):
            store.snapshot(tmp_path / "copy")
        with pytest.raises(StorageError, match=r"cannot write .*no such file"):
            store.snapshot(tmp_path / "nowhere" / "copy")
    with FlatStore(tmp_path / "copy") as copy:
        assert [copy.rows(HERE), copy.rows(Stream(2, 1))] == [10, 3]
        copy.append(HERE, *rows(10, 12, seed=5))
    with FlatStore(tmp_path / "store", mode="r") as store:
        assert store.rows(HERE) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]


def test_gradients_stop_at_the_store(store, rows):
    keys, values, positions = rows(0, 4)
    keys.requires_grad_()
    store.append(HERE, keys, values, positions)
    queries = torch.ones(1, 2, 4, requires_grad=True)
    found = store.search(HERE, queries, 2)
    assert not found.keys.requires_grad
    assert not found.scores.requires_grad


def test_what_was_handed_over_may_change_afterwards(store, rows):
    keys, values, positions = rows(0, 4)
    keys, values = keys.half(), values.half()
    kept = keys.clone()
    store.append(HERE, keys, values, positions)
    keys.zero_()
    found = store.search(HERE, torch.ones(1, 2, 4), 4)
    assert torch.equal(found.keys[0], kept[found.ordinals[0], torch.arange(2)[:, None]])


def test_threads_may_append_and_search_at_once(store, rows):
    per_thread, batch = 40, 3
    failures = []

    def work(entry):
        try:
            for step in range(per_thread):
                store.append(Stream(0, entry), *rows(step * batch, (step + 1) * batch))
                found = store.search(Stream(0, entry), torch.ones(1, 2, 4), 1000)
                assert (found.ordinals[0, 0] >= 0).sum() == (step + 1) * batch
                store.append(Stream(1, 0), *rows(0, 1, seed=entry))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(entry,)) for entry in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    store.flush()
    assert [store.committed(Stream(0, entry)) for entry in range(4)] == [per_thread * batch] * 4
    assert store.committed(Stream(1, 0)) == 4 * per_thread


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": torch.zeros(2, 2)}, r"keys \(2, 2\)"),
        ({"values": torch.zeros(3, 2, 3)}, r"values \(3, 2, 3\)"),
        ({"positions": torch.zeros(3)}, r"positions \(3,\)"),
        ({"keys": torch.full((2, 2, 4), torch.nan)}, "not finite in float16"),
        ({"keys": torch.full((2, 2, 4), 1e5)}, "beyond 65504"),
        ({"values": torch.full((2, 2, 3), -torch.inf)}, "values that are not finite"),
        ({"keys": torch.zeros(2, 2, 5)}, r"\(2, 5, 3\) came; .* of \(2, 4, 3\)"),
        ({"keys": torch.zeros(2, 70_000, 4), "values": torch.zeros(2, 70_000, 4)}, "at most 65536"),
        ({"stream": Stream(4096, 0)}, "layer < 4096"),
        ({"stream": Stream(0, -1)}, "0 <= entry"),
        ({"first": 5}, "first=5 .* has 4 rows"),
        ({"first": -1}, "first=-1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(store, rows, change, said):
    store.append(HERE, *rows(0, 4))
    keys, values, positions = rows(4, 6)
    good = {"stream": HERE, "keys": keys, "values": values, "positions": positions, "first": None}
    with pytest.raises(StorageError, match=said):
        store.append(**(good | change))
    assert store.rows(HERE) == 4
    store.flush()


@pytest.mark.parametrize(
    ("queries", "count", "limit", "said"),
    [
        (torch.zeros(1, 3, 4), 1, None, r"\(n, a multiple of 2, 4\)"),
        (torch.zeros(1, 2, 5), 1, None, r"queries \(1, 2, 5\)"),
        (torch.zeros(2, 4), 1, None, r"queries \(2, 4\)"),
        (torch.zeros(1, 2, 4), 0, None, "count=0"),
        (torch.zeros(1, 2, 4), 1, -1, "limit=-1"),
    ],
)
def test_questions_that_do_not_fit_are_refused(store, rows, queries, count, limit, said):
    store.append(HERE, *rows(0, 4))
    with pytest.raises(StorageError, match=said):
        store.search(HERE, queries, count, limit=limit)


def test_an_empty_stream_finds_nothing(store):
    found = store.search(HERE, torch.zeros(3, 2, 4), 2)
    assert found.keys.shape == (3, 2, 2, 4)
    assert (found.ordinals == -1).all()


def test_a_full_queue_waits_then_says_so(tmp_path, rows, monkeypatch):
    gate = threading.Event()
    write = FlatStore._write
    monkeypatch.setattr(FlatStore, "_write", lambda self, jobs: (gate.wait(), write(self, jobs))[1])
    store = FlatStore(tmp_path / "store", durable=False, capacity=200, patience=0.05)
    store.append(HERE, *rows(0, 4))
    with pytest.raises(StoreAway, match="capacity=200 has no room"):
        store.append(HERE, *rows(4, 8))
    assert store.rows(HERE) == 4
    with pytest.raises(StoreAway, match="still waited after"):
        store.flush(timeout=0.01)
    gate.set()
    store.flush()
    assert store.append(HERE, *rows(4, 8)) == 4
    store.close()


def test_one_writer_at_a_time_and_none_after_closing(tmp_path, rows):
    store = FlatStore(tmp_path / "store")
    with pytest.raises(StorageError, match="another store writes to it"):
        FlatStore(tmp_path / "store")
    reader = FlatStore(tmp_path / "store", mode="r")
    with pytest.raises(StorageError, match="opened to read"):
        reader.append(HERE, *rows(0, 1))
    with pytest.raises(StorageError, match="opened to read"):
        reader.truncate(HERE, 0)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="is closed"):
        store.append(HERE, *rows(0, 1))
    FlatStore(tmp_path / "store").close()


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(StorageError, match="mode='w'"):
        FlatStore(tmp_path / "store", mode="w")
