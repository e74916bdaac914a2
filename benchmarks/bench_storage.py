"""Storage: rows committed a second, exact search beside Faiss's, what a layer pays for it.

A row is one token of 4 key heads of 64, 1 KB in float16 with its values; `--rows` of them. Searches, layers:
processor time, with one thread of arithmetic. What waits for a disk or a server: wall time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numba
import numpy as np
import torch
from _results import Row, write_results
from _timing import in_turn, seconds

from bmojo import BMojo, BMojoConfig, BMojoState
from bmojo.storage import FaissStore, FlatStore, MilvusStore, Stream, attach, detach

HERE = Stream(0, 0)
GROUPS, HEADS, WIDTH, FOUND = 4, 8, 64, 8


def spent(call: Callable[[], object]) -> float:
    """Seconds of processor time, of all threads, of the best of three calls."""
    return in_turn({"": call}, 3, best=True, clock=time.process_time)[""]


def rows_of(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys around 512 centres, as tokens have them, values and positions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(512, GROUPS, WIDTH, generator=generator)
    chosen = torch.randint(512, (count,), generator=generator)
    keys = centres[chosen] + 0.7 * torch.randn(count, GROUPS, WIDTH, generator=generator)
    return keys.half(), torch.randn(count, GROUPS, WIDTH, generator=generator).half(), torch.arange(count)


def filled(store: FlatStore, rows: tuple[torch.Tensor, ...], piece: int) -> tuple[float, float]:
    """Seconds to hand rows over, and until the last is committed."""
    start = time.perf_counter()
    for part in zip(*(x.split(piece) for x in rows), strict=True):
        store.append(HERE, *part)
    handed = time.perf_counter() - start
    store.flush()
    return handed, time.perf_counter() - start


def searches(store: FlatStore, rows: tuple[torch.Tensor, ...], folder: Path) -> list[Row]:
    """Exact search and a graph, beside Faiss's own exact index in float32."""
    count, found = len(rows[0]), []
    indices = []
    for group in range(GROUPS):
        indices.append(faiss.IndexFlatIP(WIDTH))
        indices[-1].add(np.ascontiguousarray(rows[0][:, group].float().numpy()))
    store.close()
    graph = FaissStore(folder, verify=False)
    start = time.perf_counter()
    graph.flush()
    built = time.perf_counter() - start
    for queries in (1, 64):
        near = rows[0][torch.randint(count, (queries,), generator=torch.Generator().manual_seed(1))]
        asked = near.repeat_interleave(HEADS // GROUPS, dim=1).float()
        asked = asked + 0.3 * torch.randn(asked.shape, generator=torch.Generator().manual_seed(2))
        by_head = [
            np.ascontiguousarray(part.flatten(0, 1).numpy()) for part in asked.split(HEADS // GROUPS, dim=1)
        ]
        times = in_turn(
            {
                "exact": lambda asked=asked: FlatStore._top(
                    graph, HERE, graph._view(HERE, None), asked, FOUND
                ),
                "graph": lambda asked=asked: graph.search(HERE, asked, FOUND),
                "faiss": lambda by_head=by_head: [
                    index.search(part, FOUND) for index, part in zip(indices, by_head, strict=True)
                ],
            },
            3,
            best=True,
            clock=time.process_time,
        )
        exact = FlatStore._top(graph, HERE, graph._view(HERE, None), asked, FOUND)[1]
        share = (graph.search(HERE, asked, FOUND).ordinals[..., None] == exact[..., None, :]).any(-1)
        what = f"{queries} queries of {HEADS} heads, {count} rows"
        peer = "Faiss IndexFlatIP, float32", 1e3 * times["faiss"]
        found += [
            Row(f"exact search, {what}", 1e3 * times["exact"], "ms", *peer),
            Row(f"graph of Faiss (HNSW32), {what}", 1e3 * times["graph"], "ms", *peer),
            Row(
                f"graph: share of the truly best {FOUND} found, {what}",
                100 * share.float().mean().item(),
                "%",
            ),
        ]
    found.append(Row(f"graph: built from {count} rows", built, "s"))
    graph.close()
    return found


def milvus(folder: Path, rows: tuple[torch.Tensor, ...]) -> list[Row]:
    """The local file: rows committed to the journal, sent, and found."""
    count = len(rows[0])
    with MilvusStore(folder / "memory.db", patience=300.0) as store:
        start = time.perf_counter()
        for part in zip(*(x.split(100) for x in rows), strict=True):
            store.append(HERE, *part)
        store.flush()
        committed = time.perf_counter() - start
        store.drain()
        sent = time.perf_counter() - start
        asked = torch.randn(1, HEADS, WIDTH)
        searched = seconds(lambda: store.search(HERE, asked, FOUND), 5)
    return [
        Row("Milvus Lite: rows committed to the journal", count / committed, "rows/s"),
        Row("Milvus Lite: rows sent", count / sent, "rows/s"),
        Row(f"Milvus Lite: exact search, 1 query of {HEADS} heads, {count} rows", 1e3 * searched, "ms"),
    ]


def layers(folder: Path) -> list[Row]:
    """A layer with and without storage: a pass over 4096 tokens, and a step behind them."""
    config = BMojoConfig(d_model=512, heads=HEADS, kv_heads=GROUPS, window=128, chunk=128, eidetic=64)
    layer, u = BMojo(config).eval(), torch.randn(1, 4096, 512)
    found = []
    with torch.no_grad(), FlatStore(folder / "layer", durable=False) as store:
        times = {}
        for name in ("without", "with", "ahead"):
            if name != "without":
                attach(layer, store, read=FOUND, ahead=name == "ahead")
            start = layer(u, layer.init_state(1))[1]

            def steps(state: BMojoState = start) -> None:
                for t in range(256):
                    state = layer.step(u[:, t], state)[1]

            times[name] = (spent(lambda: layer(u)), spent(steps) / 256)
            detach(layer)
    for name, how in (("with", ""), ("ahead", " asked a chunk ahead")):
        for place, what in enumerate(("pass over 4096 tokens", "decode step after 4096 tokens")):
            peer = "the same without storage", 1e3 * times["without"][place]
            case = f"layer with storage{how}: {what}, 512 wide"
            found.append(Row(case, 1e3 * times[name][place], "ms", *peer))
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    count = parser.parse_args().rows
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows, table = rows_of(count), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table += layers(folder)
        for durable in (True, False):
            store = FlatStore(folder / f"flat{durable}", durable=durable)
            handed, committed = filled(store, rows, 128)
            kind = "waiting for the disk" if durable else "outliving the process only"
            table.append(Row(f"rows handed over, 128 at a time, {kind}", count / handed, "rows/s"))
            table.append(Row(f"rows committed, {kind}", count / committed, "rows/s"))
            if durable:
                store.close()
        table.append(Row("bytes of a row", store.nbytes / count, "bytes"))
        table += searches(store, rows, folder / "flatFalse")
        table += milvus(folder, tuple(x[:2000] for x in rows))
    write_results("storage", table)


if __name__ == "__main__":
    main()
