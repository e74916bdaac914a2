"""The store in Milvus: rows arrive once, whatever fails on the way, and wait in the journal meanwhile."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmojo.storage import (
    EideticStore,
    FlatStore,
    MilvusStore,
    StorageError,
    StorageWarning,
    StoreAway,
    Stream,
)
from bmojo.storage.journal import Journal, Segment
from bmojo.storage.protocol import checked_rows
from tests.bmojo.storage.fake_milvus import FakeMilvus
from tests.tolerances import assert_close

pytest.importorskip("pymilvus")

HERE, THERE = Stream(0, 0), Stream(7, 3)
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
QUICK = {"retry": 1e-4, "longest_retry": 1e-3, "patience": 10.0}


def opened(folder, client, **options):
    """A store of a cluster that is the fake client."""
    journal = folder / "journal"
    return MilvusStore("http://fake", journal=journal, client=client, **(QUICK | {"half": True} | options))


def positions_there(client, stream, heads=2):
    """Positions by ordinal that the server has, once every head of every row is there once."""
    found = {}
    for _, entities in client.collections.values():
        for entity in entities.values():
            if entity["stream"] == stream.layer << 20 | stream.entry:
                found.setdefault(entity["ordinal"], []).append((entity["head"], entity["position"]))
    for rows in found.values():
        assert sorted(head for head, _ in rows) == list(range(heads))
        assert len({position for _, position in rows}) == 1
    assert sorted(found) == list(range(len(found)))
    return [found[ordinal][0][1] for ordinal in range(len(found))]


def test_it_is_an_eidetic_store(tmp_path):
    with opened(tmp_path, FakeMilvus()) as store:
        assert isinstance(store, EideticStore)


@pytest.mark.parametrize("half", [True, False])
def test_it_finds_what_the_embedded_store_finds(tmp_path, rows, half):
    queries = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
    with (
        opened(tmp_path, FakeMilvus(), half=half) as store,
        FlatStore(tmp_path / "flat", durable=False) as flat,
    ):
        for stream, seed in ((HERE, 0), (THERE, 1)):
            for low, high in ((0, 4), (4, 5), (5, 30)):
                store.append(stream, *rows(low, high, seed=seed))
                flat.append(stream, *rows(low, high, seed=seed))
        store.drain()
        for stream, limit in itertools.product((HERE, THERE, Stream(1, 1)), (None, 0, 3, 100)):
            found, expected = (s.search(stream, queries, 4, limit=limit) for s in (store, flat))
            there = expected.ordinals >= 0
            assert torch.equal(found.ordinals, expected.ordinals)
            assert_close(found.scores[there], expected.scores[there])
            if there.any():
                for name in ("positions", "keys", "values"):
                    assert torch.equal(getattr(found, name), getattr(expected, name)), name


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 12), st.integers(0, 6), st.integers(0, 1)),
        st.tuples(st.sampled_from(["flush", "drain", "restart"])),
    ),
    max_size=14,
)
FAULTS = st.lists(st.sampled_from([None, "before", "after", "half"]), max_size=40)


@one_folder
@given(steps=STEPS, faults=FAULTS)
def test_no_row_twice_and_none_lost(tmp_path_factory, rows, steps, faults):
    """Whatever fails, before, in the middle or behind a change, in any order, over restarts."""
    folder = tmp_path_factory.mktemp("milvus")
    plan = iter(faults)
    client = FakeMilvus(lambda: next(plan, None))
    expected: list[int] = []
    store = opened(folder, client, batch=5)
    for step in [*steps, ("drain",)]:
        if step[0] == "append":
            _, first, n, seed = step
            first = min(first, len(expected))
            while True:  # a stream that the journal never saw: the store asks, and may hear nothing
                try:
                    store.append(HERE, *rows(first, first + n, seed=seed), first=first)
                    break
                except StoreAway:
                    time.sleep(2e-3)
            positions = [3 * ordinal + seed for ordinal in range(first, first + n)]
            same = expected[first : first + n] == positions[: len(expected) - first]
            expected = expected[:first] + positions + (expected[first + n :] if same else [])
            assert store.rows(HERE) == len(expected)
        elif step[0] == "restart":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StorageWarning)
                store.patience = 0.0
                store.close()
            store = opened(folder, client, batch=5)
        else:
            getattr(store, step[0])(20.0)
        if step[0] != "append" and expected:
            assert store.committed(HERE) == len(expected)
    assert store.waiting == 0
    assert positions_there(client, HERE) == expected
    store.close()
    assert not list((folder / "journal").glob("*.rows"))


def test_while_it_is_away_rows_wait_and_searches_end_at_once(tmp_path, rows):
    away = [False]
    client = FakeMilvus(lambda: "before" if away[0] else None)
    with opened(tmp_path, client, retry=0.2, longest_retry=0.2) as store:
        store.append(HERE, *rows(0, 4))
        store.drain()
        away[0] = True
        with pytest.raises(StoreAway, match="http://fake is away: a fault before the change"):
            store.search(HERE, torch.ones(1, 2, 4), 1)
        store.append(HERE, *rows(4, 8))
        store.flush()
        assert (store.committed(HERE), store.waiting) == (8, 1)
        calls = client.calls
        for _ in range(50):
            with pytest.raises(StoreAway):
                store.search(HERE, torch.ones(1, 2, 4), 1)
        assert client.calls <= calls + 3  # not one call for each question
        with pytest.raises(StoreAway, match="segments still wait"):
            store.drain(0.05)
        away[0] = False
        store.drain(10.0)
        assert store.search(HERE, torch.ones(1, 2, 4), 8).ordinals.sort().values[0, 0].tolist() == list(
            range(8)
        )
    assert positions_there(client, HERE) == list(range(0, 24, 3))


def test_no_call_waits_for_longer_than_the_time_out(tmp_path, rows):
    """Whatever is asked: a server that hangs would hold up the one call that has none."""
    given = []

    class Noting(FakeMilvus):
        def __getattribute__(self, name):
            found = super().__getattribute__(name)
            if name not in (
                "has_collection",
                "list_collections",
                "describe_collection",
                "create_collection",
                "load_collection",
                "upsert",
                "delete",
                "query",
                "search",
            ):
                return found  # fmt: skip

            def called(*arguments, **options):
                given.append((name, options.get("timeout")))
                return found(*arguments, **options)

            return called

    with opened(tmp_path, Noting(), timeout=3.5) as store:
        store.append(HERE, *rows(0, 6))
        store.drain(10.0)
        store.append(HERE, *rows(4, 8, seed=1), first=4)
        store.drain(10.0)
        store.search(HERE, torch.ones(1, 2, 4), 2)
        store.search(THERE, torch.ones(1, 2, 4), 2)
        store.snapshot(tmp_path / "copy")
    assert {name for name, _ in given} >= {"list_collections", "upsert", "delete", "query", "search"}
    assert {timeout for _, timeout in given} == {3.5}


def test_a_full_journal_holds_appends_back(tmp_path, rows):
    away = [False]
    client = FakeMilvus(lambda: "before" if away[0] else None)
    store = opened(tmp_path, client, capacity=600, patience=0.05)
    store.append(HERE, *rows(0, 4))
    store.drain()
    away[0] = True
    more = (rows(low, low + 4) for low in range(4, 400, 4))
    with pytest.raises(StoreAway, match="capacity=600"):
        any(store.append(HERE, *part) is None for part in more)
    held = store.rows(HERE)
    assert sum(path.stat().st_size for path in (tmp_path / "journal").glob("*.rows")) <= 600
    with pytest.raises(StoreAway, match="capacity=600"):
        store.flush()
    away[0] = False
    while store.waiting or store.committed(HERE) < held:  # by itself, without a call
        time.sleep(1e-3)
    assert store.append(HERE, *rows(held, held + 4)) == held
    store.drain(10.0)
    store.close()
    assert positions_there(client, HERE) == list(range(0, 3 * held + 12, 3))


def test_closing_says_what_waits_and_the_next_store_sends_it(tmp_path, rows):
    away = [False]
    client = FakeMilvus(lambda: "before" if away[0] else None)
    store = opened(tmp_path, client, patience=0.05)
    store.append(HERE, *rows(0, 4))
    store.drain()
    away[0] = True
    store.append(HERE, *rows(4, 6))
    with pytest.warns(StorageWarning, match="1 segments wait in"):
        store.close()
    with pytest.raises(StorageError, match="is closed"):
        store.append(HERE, *rows(6, 7))
    away[0] = False
    with opened(tmp_path, client) as store:
        assert store.rows(HERE) == 6
        store.drain(10.0)
    assert positions_there(client, HERE) == list(range(0, 18, 3))


def test_another_journal_goes_on_where_the_server_stands(tmp_path, rows):
    client = FakeMilvus()
    with opened(tmp_path, client) as store:
        store.append(HERE, *rows(0, 4))
    (tmp_path / "other").mkdir()
    with opened(tmp_path / "other", client) as store:
        assert store.search(HERE, torch.ones(1, 2, 4), 9).ordinals.max() == 3
        assert store.append(HERE, *rows(4, 6)) == 4
        with pytest.raises(StorageError, match=r"first=5 .* \(2, 5, 3\) came; .* of \(2, 4, 3\)"):
            store.append(HERE, *rows(5, 6, width=5), first=5)
    assert positions_there(client, HERE) == list(range(0, 18, 3))


def test_a_snapshot_opens_as_an_embedded_store(tmp_path, rows):
    with opened(tmp_path, FakeMilvus(), batch=4) as store:
        store.append(HERE, *rows(0, 9))
        store.append(THERE, *rows(0, 2, heads=3))
        store.snapshot(tmp_path / "copy")
        with pytest.raises(StorageError, match="is there already"):
            store.snapshot(tmp_path / "copy")
    with FlatStore(tmp_path / "copy", mode="r") as copy:
        assert copy.streams() == [HERE, THERE]
        (piece,) = copy._view(HERE, None)
        assert piece.same(checked_rows(HERE, *rows(0, 9)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"journal": None}, "came without journal="),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, said):
    with pytest.raises(StorageError, match=said):
        MilvusStore("http://fake", **({"journal": tmp_path / "j", "client": FakeMilvus()} | options))


@one_folder
@given(start=st.integers(0, 400), junk=st.binary(max_size=30), cut=st.one_of(st.none(), st.integers(0, 300)))
def test_a_damaged_segment_is_never_taken_for_rows(tmp_path_factory, rows, start, junk, cut):
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    journal.add(Segment(HERE, checked_rows(HERE, *rows(0, 5))))
    journal.close()
    (path,) = folder.glob("*.rows")
    content = path.read_bytes()
    start %= len(content)
    changed = (content[:start] + junk + content[start + len(junk) :])[:cut]
    path.write_bytes(changed)
    try:
        ((_, segment),) = Journal(folder).next(1)
    except StorageError as error:
        said = str(error)
        assert changed != content, said
        return
    assert changed == content
    assert segment.rows.same(checked_rows(HERE, *rows(0, 5)))


def test_a_damaged_list_of_digests_is_an_error(tmp_path, rows):
    journal = Journal(tmp_path)
    journal.add(Segment(HERE, checked_rows(HERE, *rows(0, 5))))
    with pytest.raises(StorageError, match="another store writes to it"):
        Journal(tmp_path)
    journal.close()
    (path,) = tmp_path.glob("*.digests")
    path.write_bytes(b"x" * 50)
    with pytest.raises(StorageError, match="no list of digests"):
        Journal(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="it is a link"):
        Journal(tmp_path)


def served(folder):
    """What starts a server of Milvus Lite, always at the same address; and the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start():
        where = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
        server = subprocess.Popen(
            [sys.executable, "-m", "milvus_lite", "server", *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return server
            time.sleep(0.1)
        server.kill()
        raise AssertionError("the server did not start")

    return start, f"http://127.0.0.1:{port}"


class TestMilvusLite:
    """The real thing: a local file in this process, and a server that is killed."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("milvus_lite")

    def test_a_local_file_keeps_rows(self, tmp_path, rows):
        queries = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
        with (
            MilvusStore(tmp_path / "memory.db") as store,
            FlatStore(tmp_path / "flat", durable=False) as flat,
        ):
            for low, high in ((0, 5), (5, 20)):
                store.append(HERE, *rows(low, high))
                flat.append(HERE, *rows(low, high))
            store.append(HERE, *rows(12, 16, seed=1), first=12)
            flat.append(HERE, *rows(12, 16, seed=1), first=12)
            store.drain(30.0)
            expected = flat.search(HERE, queries, 3)
            found = store.search(HERE, queries, 3)
            store.snapshot(tmp_path / "copy")
        with MilvusStore(tmp_path / "memory.db") as store:
            again = store.search(HERE, queries, 3)
            assert store.rows(HERE) == 16
        for answer in (found, again):
            assert torch.equal(answer.ordinals, expected.ordinals)
            assert torch.equal(answer.values, expected.values)
        with FlatStore(tmp_path / "copy", mode="r") as copy:
            assert torch.equal(copy.search(HERE, queries, 3).keys, expected.keys)

    @pytest.mark.slow
    def test_a_server_that_is_killed_and_comes_back_gets_every_row_once(self, tmp_path, rows):
        start, uri = served(tmp_path / "data")
        server, low = start(), 0
        options = {"half": False, "timeout": 2.0, "retry": 0.2, "longest_retry": 0.5, "patience": 60.0}
        store = MilvusStore(uri, journal=tmp_path / "journal", batch=16, **options)
        try:
            for _ in range(4):
                for _ in range(6):
                    store.append(HERE, *rows(low, low + 20))
                    low += 20
                    time.sleep(0.02)
                os.kill(server.pid, signal.SIGKILL)
                server.wait()
                store.append(HERE, *rows(low, low + 20))
                low += 20
                store.flush()
                assert store.committed(HERE) == low
                with pytest.raises(StoreAway, match="is away"):
                    store.search(HERE, torch.ones(1, 2, 4), 1)
                server = start()
            store.drain(60.0)
            found = store.search(HERE, torch.ones(1, 2, 4), low)
            assert store._line.collection((2, 4, 3)).count(HERE) == low
            assert torch.equal(found.ordinals[0, 0].sort().values, torch.arange(low))
            keys, values, _ = rows(0, low)
            assert torch.equal(found.keys[0, 1].float(), keys[found.ordinals[0, 1], 1])
            assert torch.equal(found.values[0, 1].float(), values[found.ordinals[0, 1], 1])
            store.close()
        finally:
            server.kill()
            server.wait()

    @pytest.mark.slow
    def test_a_server_that_hangs_is_left_alone_and_gets_every_row_once(self, tmp_path, rows):
        """It takes connections and does not answer, until it goes on."""
        start, uri = served(tmp_path / "data")
        server = start()
        options = {"half": False, "timeout": 2.0, "retry": 0.2, "longest_retry": 0.5, "patience": 60.0}
        with MilvusStore(uri, journal=tmp_path / "journal", **options) as store:
            try:
                store.append(HERE, *rows(0, 20))
                store.drain(60.0)
                server.send_signal(signal.SIGSTOP)
                with pytest.raises(StoreAway, match="is away"):
                    store.search(HERE, torch.ones(1, 2, 4), 1)
                store.append(HERE, *rows(20, 40))
                store.flush()
                assert (store.committed(HERE), store.waiting) == (40, 1)
                time.sleep(0.6)  # past the pause after a failure: a stream that is not known is asked for
                with pytest.raises(StoreAway, match="is away"):
                    store.search(THERE, torch.ones(1, 2, 4), 1)
                server.send_signal(signal.SIGCONT)
                store.drain(60.0)
                found = store.search(HERE, torch.ones(1, 2, 4), 40)
                assert torch.equal(found.ordinals[0, 0].sort().values, torch.arange(40))
                assert store._line.collection((2, 4, 3)).count(HERE) == 40
            finally:
                server.kill()
                server.wait()
