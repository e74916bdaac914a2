"""Evidence, question 7: trained on few pairs with few places, asked for many; only the budget is raised.

Every model learns gap recall of `K` pairs. Then, with the weights as they are, it is asked for up to 128
times as many, over gaps up to 16 times as long: B'MOJO with two places a pair (`init_state(eidetic=...)`),
with the places of training, and with these and a store; states that training has fixed; and full attention.
The vocabulary is large enough for the most pairs from the start. The rate is swept for every model alike.

Run: python benchmarks/evidence_growth.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_growth.py --size full --device cuda
"""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _evidence import Job, Record, best_of, run_evidence
from _results import Row

from bmojo.tasks import GapRecall
from bmojo.training import recall_accuracy

RAISED, SHARP, KEPT, STORED, FULL = "raised", "raised, sharpened", "kept", "stored", "sharpened"
TITLES = {
    RAISED: "B'MOJO, m = 2 K",
    SHARP: "B'MOJO, m = 2 K, sharpened",
    KEPT: "B'MOJO, m as trained",
    STORED: "B'MOJO, m as trained, and a store",
    FULL: "Transformer, sharpened",
}


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    pairs, gap, width, heads, window, state, steps, batch, vocabulary : int
        Of training; the set holds `2 * pairs`.
    rates : tuple of float
    seeds : tuple of int
    fixed : dict of str to int
        State sizes of the models whose state is all that they have, or has a window beside it.
    asked : tuple of int
        Pairs that are asked for.
    gaps : tuple of int
        Over gaps how many times as long.
    queries : int
        In a sequence of judging, at most.
    tokens : int
        Of judging, at each number of pairs; four sequences at least.
    read : int
        Rows that a query reads from the store.
    """

    pairs: int
    gap: int
    width: int
    heads: int
    window: int
    state: int
    steps: int
    batch: int
    vocabulary: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    fixed: dict[str, int]
    asked: tuple[int, ...]
    gaps: tuple[int, ...]
    queries: int
    tokens: int
    read: int


ASKED = (8, 16, 32, 64, 128, 256, 512, 1024)
SIZES = {
    "quick": Size(
        8, 48, 128, 2, 8, 16, 800, 32, 2304, (1e-2,), (0, 1, 2),
        {"Mamba-2": 64, "gated delta": 64, "stack": 64}, ASKED, (1, 16), 64, 16_384, 4,
    ),
    "full": Size(
        8, 48, 128, 2, 8, 16, 4000, 64, 2304, (1e-3, 3e-3), (0, 1, 2, 3, 4),
        {"Mamba-2": 128, "gated delta": 128, "stack": 128}, ASKED, (1, 4, 16), 64, 65_536, 4,
    ),
}  # fmt: skip


def models(size: Size) -> dict[str, dict[str, Any]]:
    """Layers of each model by its name.

    Full attention has no rotary positions: with them it would be asked at distances that it has never met.
    """
    near = {"window": size.window}
    found: dict[str, dict[str, Any]] = {
        "B'MOJO": {
            "eidetic": 2 * size.pairs,
            "eidetic_position": "edge",
            "state_size": size.state,
            **near,
        },
        "Transformer": {
            "preset": "transformer",
            "qk_norm": True,
            "short_conv": 4,
            "rotary": False,
            "length": task_of(size, max(size.asked), max(size.gaps)).length,
        },
    }
    for name, mixer in (("Mamba-2", "mamba2"), ("gated delta", "gated_deltanet")):
        found[f"{name}, N = {size.fixed[name]}"] = {
            "preset": "bare_mixer",
            "mixer": mixer,
            "state_size": size.fixed[name],
        }
    state = size.fixed["stack"]
    both = [{"window": 0, "eidetic": 0, "state_size": state}, {"mixer": "none", "eidetic": 0, **near}]
    found[f"stack, N = {state}"] = {"layers": both * 2}
    return found


def task_of(size: Size, pairs: int, times: int) -> GapRecall:
    """What is asked: so many pairs, twice each at most, over a gap so many times that of training."""
    return GapRecall(pairs, times * size.gap, min(size.queries, 2 * pairs), size.vocabulary)


def jobs_of(size: Size) -> list[Job]:
    """Every model with every rate and seed; a curriculum of fewer pairs and shorter gaps comes first."""
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
    common = {"d_model": size.width, "heads": size.heads, "mlp_ratio": 0.0}
    train = {
        "steps": size.steps,
        "batch": size.batch,
        "sequences": 512,
        "checkpoint_every": 100,
    }
    return [
        Job(
            name,
            {
                "name": name,
                "task": task,
                "curriculum": curriculum,
                "model": common | layers,
                "train": train | {"rate": rate, "seed": seed},
            },
        )
        for rate in reversed(size.rates)
        for seed in size.seeds
        for name, layers in models(size).items()
    ]


def measure(model: Any, *, size: Size) -> dict[str, Any]:
    """Accuracy and bytes by times the gap and pairs, for each way to ask the model.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    ways: dict[str, Callable[[GapRecall, int], tuple[float, int]]] = {"as it is": _as_it_is(model)}
    if any(block.layer.config.eidetic for block in model.blocks):
        ways = {RAISED: _raised(model), SHARP: _sharpened(model, 2 * size.pairs), KEPT: _as_it_is(model)}
        ways[STORED] = _stored(model, size.read)
    elif all(block.layer.config.window > size.window for block in model.blocks):
        ways[FULL] = _sharpened(model, task_of(size, size.pairs, 1).length, by_places=False)
    found: dict[str, Any] = {}
    for way, answer in ways.items():
        for times in size.gaps:
            for pairs in size.asked:
                task = task_of(size, pairs, times)
                accuracy, count = answer(task, max(4, min(64, size.tokens // task.length)))
                curve = found.setdefault(way, {"accuracy": {}, "bytes": {}})
                curve["accuracy"].setdefault(str(times), {})[str(pairs)] = accuracy
                curve["bytes"].setdefault(str(times), {})[str(pairs)] = count
    return found


def _as_it_is(model: Any) -> Callable[[GapRecall, int], tuple[float, int]]:
    def answer(task: GapRecall, sequences: int) -> tuple[float, int]:
        state = model.init_state(1)
        count = sum(part.nbytes for part in state)
        rings = [block.layer.config.window for block in model.blocks]
        if max(rings) >= task.length:  # full attention: of a ring, what the sequence fills
            count = sum(part.nbytes * task.length // ring for part, ring in zip(state, rings, strict=True))
        return recall_accuracy(model, task, sequences=sequences), count

    return answer


def _raised(model: Any) -> Callable[[GapRecall, int], tuple[float, int]]:
    def answer(task: GapRecall, sequences: int) -> tuple[float, int]:
        places = 2 * task.pairs
        count = sum(part.nbytes for part in model.init_state(1, eidetic=places))
        return recall_accuracy(model, task, sequences=sequences, eidetic=places), count

    return answer


def _sharpened(
    model: Any, trained: int, *, by_places: bool = True
) -> Callable[[GapRecall, int], tuple[float, int]]:
    """With the places raised, or, of full attention, with all tokens; `trained` is how many there were."""
    plain = _raised(model) if by_places else _as_it_is(model)

    def answer(task: GapRecall, sequences: int) -> tuple[float, int]:
        keys = 2 * task.pairs if by_places else task.length
        with sharpened(model, max(1.0, math.log(keys) / math.log(trained))):
            return plain(task, sequences)

    return answer


@contextlib.contextmanager
def sharpened(model: Any, factor: float) -> Iterator[None]:
    r"""Queries `factor` times as long, for as long as the context lasts.

    Among `m` keys at random the softmax keeps its mass on the one that is meant if the logits grow as
    $\log m$ (the factor is then $\log m / \log m_0$ for a model trained with $m_0$).

    Parameters
    ----------
    model : BMojoLM
    factor : float

    References
    ----------
    K. Nakanishi, Scalable-Softmax Is Superior for Attention, 2025.
    """
    norms = [block.layer.query_norm.weight for block in model.blocks]
    before = [weight.detach().clone() for weight in norms]
    try:
        for weight in norms:
            weight.data.mul_(factor)
        yield
    finally:
        for weight, old in zip(norms, before, strict=True):
            weight.data.copy_(old)


def _stored(model: Any, read: int) -> Callable[[GapRecall, int], tuple[float, int]]:
    from bmojo.storage import FlatStore, attach, detach

    def answer(task: GapRecall, sequences: int) -> tuple[float, int]:
        count = sum(part.nbytes for part in model.init_state(1))
        with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
            attach(model, store, read=read)
            try:
                return recall_accuracy(model, task, sequences=min(sequences, 8)), count
            finally:
                detach(model)

    return answer


def curves(records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    """By line of the picture, each seed's accuracy and bytes.

    Parameters
    ----------
    records : sequence of Record
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, runs in best_of(records).items():
        for run in runs:
            for way, curve in run.measured.items():
                found.setdefault(TITLES.get(way, name), []).append(curve)
    return found


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy of each line against the pairs asked for, and what was pre-registered."""
    made: list[Row] = []
    aim, fixed = 64 * size.pairs, set(models(size)) - {"B'MOJO", "Transformer"}
    for name, own in curves(records).items():
        for times in map(str, size.gaps):
            for pairs in map(str, size.asked):
                accuracy = [100 * curve["accuracy"][times][pairs] for curve in own]
                goal = 90.0 if name in (TITLES[RAISED], TITLES[SHARP]) and pairs == str(aim) else None
                case = f"{name}: K = {pairs}, gap {times} x, mean of {len(own)} seeds"
                made.append(Row(case, float(np.mean(accuracy)), "%", goal=goal))
                if times == str(size.gaps[0]):
                    made.append(Row(f"{name}: K = {pairs}, bytes", own[0]["bytes"][times][pairs], "bytes"))
                if name in fixed and pairs == str(aim):
                    case = f"{name}: K = {pairs}, gap {times} x, a fixed state"
                    value = float(np.mean(accuracy))
                    made.append(Row(case, value, "%", goal=50.0, larger_is_better=False))
    for record in best_of(records).values():
        values = [100 * run.accuracy for run in record]
        made.append(Row(f"{record[0].model}: as trained, worst", min(values), "%"))
    return made


def main() -> None:
    """Train what is not trained yet, and write what came out."""
    run_evidence("growth", __doc__, SIZES, jobs_of, rows, lambda size: functools.partial(measure, size=size))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
