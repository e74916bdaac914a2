"""Evidence, question 6: pairs read into a store beforehand, up to ten thousand: accuracy and time per token.

Trained on a few pairs of a small vocabulary with the places of its set, then given a store and as many new
names as there are pairs: embeddings that no training saw, drawn like those of the keys that it saw. All pairs
are read in once; every block of queries goes on from there. Beside it the same model without the store.

Run: python benchmarks/evidence_storage.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_storage.py --size full --device cuda
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _evidence import Job, Record, best_of, parser_of, run_jobs, show_jobs, write_records
from _results import Row, write_results

from bmojo import BMojoLM
from bmojo.storage import FlatStore, StoredMemory, Stream, attach, detach


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    vocabulary : int
        Of training.
    heads : tuple of int
        One model each.
    width, window, state, pairs, gap, steps, batch : int
        Of training; the set holds `2 * pairs`.
    rates, seeds : tuple
    stored : tuple of int
        Pairs that are read in.
    blocks : int
        Of `2 * pairs` queries, as in training, that are asked at each number of pairs.
    read : int
        Rows that each query finds, per head.
    piece : int
        Tokens read at a time.
    timed : int
        Steps that are timed.
    """

    vocabulary: int
    width: int
    heads: tuple[int, ...]
    window: int
    state: int
    pairs: int
    gap: int
    steps: int
    batch: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    stored: tuple[int, ...]
    blocks: int
    read: int
    piece: int
    timed: int


SIZES = {
    "quick": Size(
        256, 64, (1, 2), 8, 16, 8, 24, 600, 32, (6e-3,), (0, 1),
        (8, 100, 1000, 10_000), 32, 8, 512, 128,
    ),
    "full": Size(
        1024, 128, (1, 2), 16, 16, 16, 96, 3000, 64, (3e-3, 6e-3), (0, 1, 2),
        (16, 100, 1000, 10_000), 64, 8, 512, 256,
    ),
}  # fmt: skip


def jobs_of(size: Size) -> list[Job]:
    """Every model at every rate and seed; a curriculum of fewer pairs and a shorter gap comes first."""
    task = {
        "kind": "gap_recall",
        "pairs": size.pairs,
        "gap": size.gap,
        "queries": 2 * size.pairs,
        "vocabulary": size.vocabulary,
    }
    early = {"pairs": size.pairs // 2, "gap": size.gap // 2, "queries": size.pairs}
    jobs = []
    for heads in size.heads:
        model = {
            "d_model": size.width,
            "heads": heads,
            "mlp_ratio": 0.0,
            "window": size.window,
            "state_size": size.state,
            "eidetic": 2 * size.pairs,
            "eidetic_position": "edge",
        }
        name = "one head" if heads == 1 else f"{heads} heads"
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
                config = {
                    "name": name,
                    "task": task,
                    "curriculum": [{"steps": size.steps // 3, **early}],
                    "model": model,
                    "train": train,
                }
                jobs.append(Job(name, config))
    return jobs


def with_names(model: Any, count: int, seed: int) -> BMojoLM:
    """The same model with further tokens, whose embeddings have the mean and covariance of the keys'.

    Parameters
    ----------
    model : BMojoLM
        Trained on gap recall, where keys are the first half of the vocabulary, but for the filler.
    count : int
        New tokens, behind the others.
    seed : int
        Of what is drawn.
    """
    trained = dict(model.state_dict())
    rows = trained["embedding.weight"]
    keys = rows[1 : len(rows) // 2]
    drawn = torch.randn(count, len(keys), generator=torch.Generator().manual_seed(seed)).to(rows)
    new = keys.mean(0) + drawn @ (keys - keys.mean(0)) / math.sqrt(len(keys) - 1)
    trained["embedding.weight"] = torch.cat([rows, new])
    found = BMojoLM(len(rows) + count, model.options["layers"], mlp_ratio=model.options["mlp_ratio"])
    found.load_state_dict(trained)
    return found.to(rows.device).eval()


def measure(model: Any, size: Size) -> dict[str, Any]:
    """Accuracy, and milliseconds per token of reading and of going on, with and without the store.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    named, table = with_names(model, max(size.stored), 0), []
    for pairs in size.stored:
        found: dict[str, Any] = {"pairs": pairs, "without": asked(named, pairs, size)}
        with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
            memories = attach(named, store, read=size.read)
            try:
                found["with"] = asked(named, pairs, size, memories)
                found["rows"] = sum(store.rows(Stream(layer, 0)) for layer in range(len(memories)))
                found["bytes"] = store.nbytes
            finally:
                detach(named)
        table.append(found)
    return {"stored": table}


@torch.no_grad()
def asked(model: Any, pairs: int, size: Size, memories: Sequence[StoredMemory] = ()) -> dict[str, float]:
    """Accuracy among all values, milliseconds per token of reading, and of going on one by one.

    Parameters
    ----------
    model : BMojoLM
        With as many new names as there are pairs.
    pairs : int
    size : Size
    memories : sequence of StoredMemory
        What is read in is committed before queries come.
    """
    generator, half = torch.Generator().manual_seed(pairs), size.vocabulary // 2
    device = next(model.parameters()).device
    keys = size.vocabulary + torch.arange(pairs)
    values = torch.randint(half, size.vocabulary, (pairs,), generator=generator)
    text = torch.cat([torch.stack([keys, values], dim=1).flatten(), keys.new_zeros(size.gap)])
    state, began = model.init_state(1), time.perf_counter()
    for piece in text.to(device).split(size.piece):
        state = model.hidden(piece[None], state)[1]
    for memory in memories:
        memory.flush()
    read_ms = 1e3 * (time.perf_counter() - began) / len(text)
    right = 0
    for _ in range(size.blocks):
        chosen = torch.randint(pairs, (2 * size.pairs,), generator=generator)
        hidden, _ = model.hidden(keys[chosen][None].to(device), state)
        told = model.readout(hidden[0])[:, half : size.vocabulary].argmax(-1).cpu()
        right += int((told + half == values[chosen]).sum())
    times = []
    for t in torch.randint(pairs, (size.timed,), generator=generator).tolist():
        began = time.perf_counter()
        hidden, state = model.hidden(keys[t].view(1, 1).to(device), state)
        hidden.sum().item()  # a GPU has finished once a number is there
        times.append(time.perf_counter() - began)
    return {
        "accuracy": right / (size.blocks * 2 * size.pairs),
        "read_ms": read_ms,
        "step_ms": 1e3 * float(np.median(times)),
    }


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy and time per token by the number of pairs, beside the same model without the store."""
    made = []
    for name, runs in best_of(records).items():
        own = 100 * float(np.mean([run.accuracy for run in runs]))
        at = f"{size.pairs} pairs, rate {runs[0].rate:g}, {len(runs)} seeds"
        made.append(Row(f"{name}: trained on {at}, no store", own, "%"))
        for found in zip(*(run.measured["stored"] for run in runs), strict=True):
            made += _rows_of(f"{name}, {found[0]['pairs']} new pairs", found)
    return made


def _rows_of(case: str, found: Sequence[dict[str, Any]]) -> list[Row]:
    """Those of one number of pairs, over the seeds."""

    def mean(which: str, what: str) -> float:
        return float(np.mean([one[which][what] for one in found]))

    peer = "the same without a store"
    whole, part = 100 * mean("with", "accuracy"), 100 * mean("without", "accuracy")
    return [
        Row(f"{case}: accuracy", whole, "%", peer, part),
        Row(f"{case}: worst accuracy", 100 * min(one["with"]["accuracy"] for one in found), "%"),
        Row(f"{case}: reading", mean("with", "read_ms"), "ms/token", peer, mean("without", "read_ms")),
        Row(f"{case}: going on", mean("with", "step_ms"), "ms/token", peer, mean("without", "step_ms")),
        Row(f"{case}: rows in the store", float(np.mean([one["rows"] for one in found])), "rows"),
        Row(f"{case}: size of the store", float(np.mean([one["bytes"] for one in found])), "bytes"),
    ]


def main() -> None:
    options = parser_of(__doc__, SIZES).parse_args()
    size, name = SIZES[options.size], f"storage_{options.size}"
    jobs = jobs_of(size)
    if options.dry:
        show_jobs(jobs)
        return
    judge = functools.partial(measure, size=size)
    records = run_jobs(name, jobs, device=options.device, workers=options.workers, measure=judge)
    write_records(name, jobs, records)
    write_results(f"evidence_{name}", rows(size, records))


if __name__ == "__main__":
    main()
