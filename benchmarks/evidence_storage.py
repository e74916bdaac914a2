"""Evidence, question 6: pairs read into a store beforehand, up to ten thousand: accuracy and time per token.

Trained on few pairs with the places of its set, then given a store (`bmojo.storage.attach`) and asked about
all pairs that it read; the weights stay as they are. Beside it the same model without the store.

Run: python benchmarks/evidence_storage.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_storage.py --size full --device cuda
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _evidence import Job, Record, best_of, run_jobs, write_records
from _results import Row, write_results
from _streamed import losses_of

from bmojo.storage import FlatStore, StoredMemory, Stream, attach, detach
from bmojo.tasks import GapRecall


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    vocabulary : int
        Half of it has to hold the keys of all pairs.
    width, heads, window, state, pairs, gap, steps, batch : int
        Of training; the set holds `2 * pairs`.
    rates, seeds : tuple
    stored : tuple of int
        Pairs that are read in.
    asked, sequences : int
        Queries of a sequence, and sequences, at each number of pairs.
    read : int
        Rows that each query finds, per head.
    piece : int
        Tokens read at a time.
    timed : int
        Steps that are timed.
    """

    vocabulary: int
    width: int
    heads: int
    window: int
    state: int
    pairs: int
    gap: int
    steps: int
    batch: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    stored: tuple[int, ...]
    asked: int
    sequences: int
    read: int
    piece: int
    timed: int


SIZES = {
    "quick": Size(
        20_480, 64, 2, 16, 16, 8, 48, 700, 32, (1e-2,), (0, 1),
        (8, 100, 1000, 10_000), 256, 1, 8, 512, 128,
    ),
    "full": Size(
        20_480, 128, 2, 16, 16, 16, 96, 3000, 64, (3e-3, 1e-2), (0, 1, 2),
        (16, 100, 1000, 10_000), 256, 2, 8, 512, 256,
    ),
}  # fmt: skip


def jobs_of(size: Size) -> list[Job]:
    """One model, at every rate and seed; a curriculum of fewer pairs and shorter gaps comes first."""
    task = {
        "kind": "gap_recall",
        "pairs": size.pairs,
        "gap": size.gap,
        "queries": 2 * size.pairs,
        "vocabulary": size.vocabulary,
    }
    part = size.steps * 2 // 7
    curriculum = [
        {"steps": part, "pairs": size.pairs // 4, "gap": size.gap // 3, "queries": size.pairs // 2},
        {"steps": part, "pairs": size.pairs // 2, "gap": 2 * size.gap // 3, "queries": size.pairs},
    ]
    model = {
        "d_model": size.width,
        "heads": size.heads,
        "mlp_ratio": 0.0,
        "window": size.window,
        "state_size": size.state,
        "eidetic": 2 * size.pairs,
        "eidetic_position": "edge",
    }
    jobs = []
    for rate in size.rates:
        for seed in size.seeds:
            train = {
                "steps": size.steps,
                "batch": size.batch,
                "rate": rate,
                "seed": seed,
                "sequences": 256,
                "checkpoint_every": 100,
            }
            name = "B'MOJO with a store"
            config = {"name": name, "task": task, "curriculum": curriculum, "model": model, "train": train}
            jobs.append(Job(name, config))
    return jobs


def measure(model: Any, size: Size) -> dict[str, Any]:
    """Accuracy, and seconds per token of reading and of going on, with and without the store.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    table = []
    for pairs in size.stored:
        task = GapRecall(pairs=pairs, gap=size.gap, queries=size.asked, vocabulary=size.vocabulary)
        drawn = task.sample(size.sequences, torch.Generator().manual_seed(pairs))
        found: dict[str, Any] = {"pairs": pairs, "tokens": task.length}
        found["without"] = asked(model, drawn, size)
        with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
            memories = attach(model, store, read=size.read)
            try:
                found["with"] = asked(model, drawn, size, memories)
                found["rows"] = sum(store.rows(Stream(layer, 0)) for layer in range(len(memories)))
                found["bytes"] = store.nbytes
            finally:
                detach(model)
        table.append(found)
    return {"stored": table}


@torch.no_grad()
def asked(model: Any, drawn: Any, size: Size, memories: Sequence[StoredMemory] = ()) -> dict[str, float]:
    """Accuracy, milliseconds per token of reading in, and per token of going on one by one.

    Parameters
    ----------
    model : BMojoLM
    drawn : Batch
    size : Size
    memories : sequence of StoredMemory
        What is read in is committed before going on is timed, and rows that follow are few.
    """
    began = time.perf_counter()
    right = losses_of(model, drawn, size.piece)[1]
    took = time.perf_counter() - began
    one = drawn.tokens[:1].to(next(model.parameters()).device)
    state = model.init_state(1)
    for start in range(0, one.shape[1], size.piece):
        state = model.hidden(one[:, start : start + size.piece], state)[1]
    for memory in memories:
        memory.flush()
    times = []
    for t in range(size.timed):
        began = time.perf_counter()
        hidden, state = model.hidden(one[:, t : t + 1], state)
        hidden.sum().item()  # a GPU has finished once a number is there
        times.append(time.perf_counter() - began)
    return {
        "accuracy": float(right[drawn.mask].float().mean()),
        "read_ms": 1e3 * took / drawn.tokens.numel(),
        "step_ms": 1e3 * float(np.median(times)),
    }


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy and time per token by the number of pairs, beside the same model without the store."""
    made = []
    runs = next(iter(best_of(records).values()))
    made.append(
        Row(
            f"trained on {size.pairs} pairs, no store (rate {runs[0].rate:g}, {len(runs)} seeds)",
            100 * float(np.mean([run.accuracy for run in runs])),
            "%",
        )
    )
    tables = [run.measured["stored"] for run in runs]
    for found in zip(*tables, strict=True):
        pairs = found[0]["pairs"]

        def mean(which: str, what: str, found: Sequence[Any] = found) -> float:
            return float(np.mean([one[which][what] for one in found]))

        peer = "the same without a store"
        case = f"{pairs} pairs read in"
        made += [
            Row(
                f"{case}: accuracy",
                100 * mean("with", "accuracy"),
                "%",
                peer,
                100 * mean("without", "accuracy"),
            ),
            Row(f"{case}: worst accuracy", 100 * min(one["with"]["accuracy"] for one in found), "%"),
            Row(f"{case}: reading", mean("with", "read_ms"), "ms/token", peer, mean("without", "read_ms")),
            Row(f"{case}: going on", mean("with", "step_ms"), "ms/token", peer, mean("without", "step_ms")),
            Row(f"{case}: rows in the store", float(np.mean([one["rows"] for one in found])), "rows"),
            Row(f"{case}: size of the store", float(np.mean([one["bytes"] for one in found])), "bytes"),
        ]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="quick", help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, help="models trained at a time (default: one per core)")
    options = parser.parse_args()
    size, name = SIZES[options.size], f"storage_{options.size}"
    jobs = jobs_of(size)
    judge = functools.partial(measure, size=size)
    records = run_jobs(name, jobs, device=options.device, workers=options.workers, measure=judge)
    write_records(name, jobs, records)
    write_results(f"evidence_{name}", rows(size, records))


if __name__ == "__main__":
    main()
