"""The store with an index: the same rows, found the same way up to what the index misses."""

from __future__ import annotations

import pytest
import torch

from bmojo.storage import FaissStore, FlatStore, StorageError, Stream
from tests.tolerances import assert_close

pytest.importorskip("faiss")

HERE = Stream(0, 0)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(3)
    keys, values = (torch.randn(3000, 2, 16, generator=generator).half().float() for _ in range(2))
    return keys, values, torch.arange(3000) * 2


@pytest.fixture
def queries():
    return torch.randn(20, 4, 16, generator=torch.Generator().manual_seed(4))


def agreement(found, exact):
    """Share of the truly best rows that were found."""
    return (found.ordinals.unsqueeze(-1) == exact.ordinals.unsqueeze(-2)).any(-1).float().mean()


@pytest.mark.parametrize("limit", [None, 0, 1, 700, 1501, 2999])
@pytest.mark.parametrize(("factory", "least"), [("Flat", 1.0), ("HNSW32", 0.9), ("IVF16,Flat", 0.9)])
def test_it_finds_what_the_exact_search_finds(tmp_path, drawn, queries, factory, least, limit):
    with FaissStore(tmp_path / "store", factory=factory, train=1000, durable=False) as store:
        store.append(HERE, *(x[:1500] for x in drawn))
        store.flush()
        assert store.indexed(HERE) == 1500
        store.append(HERE, *(x[1500:] for x in drawn))
        found = store.search(HERE, queries, 5, limit=limit)
        exact = FlatStore._top(store, HERE, store._view(HERE, limit), queries, 5)
        assert agreement(found, type(found)(exact[0], exact[1], *[exact[1]] * 3)) >= least
        there = found.ordinals >= 0
        assert there.sum() == exact[1].ge(0).sum()
        assert there.sum() == 20 * 4 * min(5, 3000 if limit is None else limit)
        keys = drawn[0][found.ordinals.clamp_min(0), torch.arange(4)[:, None] // 2]
        product = torch.einsum("nhd,nhrd->nhr", queries, keys)
        assert_close(found.scores[there], product[there])
        assert torch.equal(found.keys[there].float(), keys[there])
        assert torch.equal(found.positions[there], 2 * found.ordinals[there])
        if limit is not None:
            assert found.ordinals.max() < max(limit, 1)


def test_a_folder_opens_as_either_store(tmp_path, drawn, queries):
    with FlatStore(tmp_path / "store", durable=False) as store:
        store.append(HERE, *drawn)
        exact = store.search(HERE, queries, 3)
    for mode in ("a", "r"):
        with FaissStore(tmp_path / "store", mode=mode) as store:
            store.flush()
            assert store.indexed(HERE) == 3000
            assert agreement(store.search(HERE, queries, 3), exact) > 0.9


def test_replaced_rows_leave_the_index(tmp_path, drawn, queries):
    keys, values, positions = drawn
    with FaissStore(tmp_path / "store", factory="Flat", durable=False) as store:
        store.append(HERE, *drawn)
        store.flush()
        store.append(HERE, -keys[100:200], values[100:200], positions[100:200], first=100)
        for _ in range(2):  # on their way, and written
            found = store.search(HERE, queries, 4)
            assert found.ordinals.max() < 200
            old = torch.cat([keys[:100], -keys[100:200]])
            best = torch.einsum("nhd,jhd->nhj", queries, old.repeat_interleave(2, dim=1)).topk(4)
            assert torch.equal(found.ordinals, best.indices)
            store.flush()
        assert store.indexed(HERE) == 200


def test_too_few_rows_to_learn_from_are_searched_exactly(tmp_path, drawn, queries):
    with FaissStore(tmp_path / "store", factory="IVF16,Flat", train=5000, durable=False) as store:
        store.append(HERE, *drawn)
        store.flush()
        assert store.indexed(HERE) == 0
        assert (store.search(HERE, queries, 3).ordinals >= 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"factory": "nonsense"}, "factory='nonsense' came, of which Faiss says"),
        ({"breadth": 0}, "breadth=0"),
        ({"mode": "x"}, "mode='x'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, said):
    with pytest.raises(StorageError, match=said):
        FaissStore(tmp_path / "store", **options)
