"""Evidence, question 2: whether it is the innovation that makes kept tokens worth their places.

Gap recall as in question 1, with places for every token of the pairs and nothing else changed: what
chooses them, what foretells a token, how kept keys are read; then filler from the pairs' own vocabulary,
which no surprise can tell from them, and a choice made only when a query comes, over a cache without a
bound. Every model is trained at the rate that question 1 found best for B'MOJO; runs that are the same are
shared with it.

Run: python benchmarks/evidence_selection.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_selection.py --size full --device cuda
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import evidence_recall
import numpy as np
import torch
from _choices import register
from _evidence import Job, Record, best_of, run_evidence
from _results import Row

register()

OTHER = "same vocabulary"  # filler that surprise cannot tell from pairs
BLOCK = 4


@dataclass(frozen=True)
class Size:
    """How much is done, besides what question 1 says.

    Parameters
    ----------
    recall : str
        Size of question 1 that is taken over.
    rate : float
        At which B'MOJO was best there.
    seeds : tuple of int
    """

    recall: str
    rate: float
    seeds: tuple[int, ...]


SIZES = {"quick": Size("quick", 1e-2, (0, 1, 2)), "full": Size("full", 3e-3, (0, 1, 2, 3, 4))}


def variants(places: int, state: int, window: int) -> dict[str, dict[str, Any]]:
    """Options of each variant's layers, by name; every one has `places` and the same window.

    Parameters
    ----------
    places, state, window : int
    """
    base = {"eidetic": places, "eidetic_position": "edge", "state_size": state, "window": window}
    delta = base | {"mixer": "gated_deltanet"}
    blocks = {
        "preset": "bare_mixer",
        "mixer": "query_blocks",
        "mixer_options": {"window": window, "read": places, "block": BLOCK},
        "state_size": state,
    }
    full = {"preset": "transformer", "qk_norm": True, "short_conv": 4}
    rules = {rule: base | {"rule": rule} for rule in ("random", "fifo", "norm")}
    return {
        "top": base,
        **rules,
        "oracle": base | {"predictor": "earliest"},
        "top, eidetic norm": base | {"eidetic_norm": True},
        "predictor state": base | {"predictor": "state"},
        "predictor kalman": base | {"predictor": "kalman"},
        "gated delta, predictor conv": delta,
        "gated delta, predictor residual": delta | {"predictor": "residual"},
        "gated delta, residual and eidetic norm": delta | {"predictor": "residual", "eidetic_norm": True},
        "choice at query time": blocks,
        f"{OTHER}: top": base,
        f"{OTHER}: top, write gate": base | {"write_gate": True},
        f"{OTHER}: random": base | {"rule": "random"},
        f"{OTHER}: oracle": base | {"predictor": "earliest"},
        f"{OTHER}: choice at query time": blocks,
        f"{OTHER}: Transformer": full,
    }


def jobs_of(size: Size) -> list[Job]:
    """Every variant with every seed, at one rate."""
    first = evidence_recall.SIZES[size.recall]
    places = 2 * first.pairs
    known = {
        "top": f"B'MOJO, m = {places}",
        "gated delta, residual and eidetic norm": f"residual, m = {places}",
    }
    jobs = []
    for name, layers in variants(places, first.states[0], first.window).items():
        for seed in size.seeds:
            like = evidence_recall.jobs_of(first, [f"B'MOJO, m = {places}"])[0].config
            task = like["task"] | ({"fillers": 0} if name.startswith(OTHER) else {})
            train = like["train"] | {"rate": size.rate, "seed": seed}
            model = {"d_model": first.width, "mlp_ratio": 0.0, **layers}
            config = like | {"name": name, "task": task, "model": model, "train": train}
            shared = (f"recall_{size.recall}", known[name]) if name in known else None
            jobs.append(Job(name, config, shared))
    return jobs


@torch.no_grad()
def measure(model: Any, *, recall: str) -> dict[str, Any]:
    """Which share of the places holds tokens of the pairs when the first query comes, by layer.

    Parameters
    ----------
    model : BMojoLM
    recall : str
        Size of question 1.
    """
    from bmojo.tasks import GapRecall

    size = evidence_recall.SIZES[recall]
    found: dict[str, Any] = {}
    for name, fillers in (("pairs in the set", 1), (f"pairs in the set, {OTHER}", 0)):
        task = GapRecall(size.pairs, size.gap, 2 * size.pairs, size.vocabulary, fillers=fillers)
        drawn = task.sample(64, torch.Generator().manual_seed(1))
        traces = model.trace(drawn.tokens.to(next(model.parameters()).device))
        layer = model.blocks[0].layer.config
        if layer.eidetic:
            asked_at = int(drawn.queries[0]) // layer.chunk
            sets = [trace.eidetic_index[:, asked_at] for trace in traces]
            found[name] = [
                float(((s >= 0) & (s < 2 * size.pairs)).float().sum(-1).mean()) / s.shape[-1] for s in sets
            ]
    blocks = sum(block.layer.config.mixer == "query_blocks" for block in model.blocks)
    if blocks:  # keys and values of every token
        length = 4 * size.pairs + size.gap
        found["cache"] = blocks * 2 * length * size.width * 4
    return found


def rows(records: Sequence[Record]) -> list[Row]:
    """Accuracy of each variant, the tokens that it kept, and what was pre-registered."""
    made, mean = [], {}
    for name, runs in best_of(records).items():
        accuracy = [100 * run.accuracy for run in runs]
        mean[name] = float(np.mean(accuracy))
        made.append(Row(f"{name}: mean of {len(runs)} seeds", mean[name], "%"))
        made.append(Row(f"{name}: worst", min(accuracy), "%"))
        key = f"pairs in the set, {OTHER}" if name.startswith(OTHER) else "pairs in the set"
        sets = [run.measured[key] for run in runs if key in run.measured]
        for layer, share in enumerate(np.mean(sets, axis=0) if sets else []):
            made.append(Row(f"{name}: places with tokens of pairs, layer {layer}", 100 * float(share), "%"))
        cached = runs[0].measured.get("cache", 0)
        made.append(Row(f"{name}: bytes of all memory", runs[0].bytes + cached, "bytes"))
    for rule in ("random", "fifo"):
        made.append(Row(f"top above {rule}", mean["top"] - mean[rule], "points", goal=10.0))
    for rule in ("norm", "oracle"):
        made.append(Row(f"top above {rule}", mean["top"] - mean[rule], "points"))
    blocks = mean["top"] - mean["choice at query time"]
    made.append(Row("top above choice at query time", blocks, "points"))
    return made


def main() -> None:
    """Train what is not trained yet, and write what came out."""
    run_evidence(
        "selection",
        __doc__,
        SIZES,
        jobs_of,
        lambda _, records: rows(records),
        lambda size: functools.partial(measure, recall=size.recall),
    )


if __name__ == "__main__":
    main()
