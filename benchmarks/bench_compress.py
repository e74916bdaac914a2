"""Smaller states of trained layers: error and accuracy by order, beside truncation and projection at random.

Models of two blocks, each a mixer and a window of 4, are trained on gap recall, whose gap of 16 only the
state can bridge. Then the states of both mixers are reduced, without any training.

Run: python benchmarks/bench_compress.py [--seeds 3] (about 7 minutes on two free cores)
"""

from __future__ import annotations

import argparse
import copy
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from _results import Row, write_results
from torch import Tensor
from torch.nn import functional as F

from bmojo import BMojoConfig, BMojoLM, compress
from bmojo.bridge import Compression
from bmojo.fading import LTI
from bmojo.tasks import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall

STATES, ORDERS = 16, (12, 8, 4)
METHODS = ("balanced", "all tokens alike", "first states", "random")


@dataclass(frozen=True)
class Trained:
    """A mixer, and how the model around it is trained."""

    mixer: str
    heads: int
    pairs: int
    steps: int
    rate: float

    @property
    def task(self) -> GapRecall:
        """What it is trained on."""
        return GapRecall(pairs=self.pairs, gap=16, queries=self.pairs, vocabulary=32)

    def model(self, seed: int, steps: int | None = None) -> BMojoLM:
        """The trained model."""
        torch.manual_seed(seed)
        mixed = BMojoConfig(
            d_model=64, heads=self.heads, window=0, eidetic=0, mixer=self.mixer, state_size=STATES
        )
        window = BMojoConfig(d_model=64, window=4, mixer="none", eidetic=0)
        model = BMojoLM(self.task.vocabulary, [mixed, window] * 2, mlp_ratio=0.0)
        count = self.steps if steps is None else steps
        easy = GapRecall(pairs=max(1, self.pairs // 2), gap=8, queries=self.pairs, vocabulary=32)
        stages = [Stage(easy, count // 3), Stage(self.task, count - count // 3)]
        train_recall(model, stages, seed=seed, rate=self.rate)
        return model.eval()


TRAINED = (
    Trained("mamba2", heads=2, pairs=4, steps=2000, rate=1e-2),
    Trained("gated_kalmanet", heads=1, pairs=4, steps=1200, rate=6e-3),
    Trained("gated_deltanet", heads=1, pairs=6, steps=700, rate=6e-3),
    Trained("mamba", heads=1, pairs=2, steps=1500, rate=1e-2),
)


def reduced(model: BMojoLM, task: GapRecall, order: int, method: str, seed: int) -> Compression:
    """The model with smaller states; of the controls, with maps or states that nothing was asked about."""
    batch = task.sample(64, torch.Generator().manual_seed(10_000 + seed))
    weight = torch.zeros(task.length)
    weight[batch.queries] = 1.0
    small = compress(
        model, batch.tokens, order=order, weight=None if method == "all tokens alike" else weight
    )
    if method in ("first states", "random"):
        generator = torch.Generator().manual_seed(20_000 + seed)
        for block, own in zip(small.model.blocks, model.blocks, strict=True):
            if own.layer.mixer is not None:
                _replace(block.layer.mixer, own.layer.mixer, order, method, generator)
    return small


@torch.no_grad()
def _replace(mixer, own, order: int, method: str, generator: torch.Generator) -> None:
    if not hasattr(mixer, "key_map"):
        kept = torch.arange(order)
        if method == "random":
            kept = torch.randperm(STATES, generator=generator)[:order].sort().values
        low, B, C = own.x_proj.weight.split([own.rank, STATES, STATES])
        mixer.x_proj.weight.copy_(torch.cat([low, B[kept], C[kept]]))
        mixer.A_log.copy_(own.A_log[:, kept])
        return
    maps = torch.eye(STATES)[:, :order].expand_as(mixer.key_map.write)
    if method == "random":
        drawn = torch.randn(mixer.key_map.write.shape, generator=generator)
        maps = torch.linalg.qr(drawn).Q
    mixer.key_map.write.copy_(maps)
    scale = (order / STATES) ** 0.5 if type(mixer).__name__ == "GatedDeltaNet" else 1.0
    mixer.key_map.read.copy_(maps * scale)


@torch.no_grad()
def output_error(model: BMojoLM, small: BMojoLM, tokens: Tensor) -> float:
    """Relative error of the logits, root mean square over all tokens, none of which was used before."""
    full, less = model(tokens), small(tokens)
    return float((full - less).norm() / full.norm())


def rows_of(trained: Trained, seeds: int, steps: int | None) -> list[Row]:
    torch.set_num_threads(1)
    name, task = trained.mixer, trained.task
    accuracy: dict[tuple[int, str], list[float]] = {}
    error: dict[tuple[int, str], list[float]] = {}
    whole, again = [], []
    for seed in range(seeds):
        model = trained.model(seed, steps)
        whole.append(100 * recall_accuracy(model, task, sequences=512))
        fresh = task.sample(64, torch.Generator().manual_seed(30_000 + seed)).tokens
        for order in ORDERS:
            for method in METHODS:
                small = reduced(model, task, order, method, seed).model
                found = 100 * recall_accuracy(small, task, sequences=512)
                accuracy.setdefault((order, method), []).append(found)
                error.setdefault((order, method), []).append(100 * output_error(model, small, fresh))
        small = copy.deepcopy(reduced(model, task, ORDERS[-1], "balanced", seed).model)
        train_recall(small, [Stage(task, 100 if steps is None else 2)], seed=seed + 1, rate=2e-3)
        again.append(100 * recall_accuracy(small, task, sequences=512))
    half = np.array(whole) - np.array(accuracy[STATES // 2, "balanced"])
    made = [
        Row(f"{name}: accuracy with {STATES} states, median of {seeds} seeds", float(np.median(whole)), "%"),
        Row(f"{name}: lost at half the state, worst of {seeds} seeds", float(half.max()), "points",
            goal=1.0, larger_is_better=False),
        Row(f"{name}: lost at half the state, median of {seeds} seeds", float(np.median(half)), "points"),
    ]  # fmt: skip
    for order in ORDERS:
        for method in METHODS:
            case = f"{name}: {order} states, {method}"
            made.append(Row(f"{case}: accuracy, median", float(np.median(accuracy[order, method])), "%"))
            made.append(Row(f"{case}: accuracy, worst", float(np.min(accuracy[order, method])), "%"))
            made.append(
                Row(f"{case}: error of the logits, median", float(np.median(error[order, method])), "%")
            )
    last = f"{name}: {ORDERS[-1]} states, balanced, 100 more steps of training: accuracy, median"
    made.append(Row(last, float(np.median(again)), "%"))
    return made


def linear_rows(seeds: int, steps: int) -> list[Row]:
    """A linear layer of 32 states that was trained to be three echoes: error and bound by order."""
    torch.set_num_threads(1)
    echo = torch.zeros(64)
    for delay, size in ((3, 1.0), (9, -0.6), (17, 0.4)):
        echo[delay : delay + 24] += size * 0.75 ** torch.arange(24)
    made: dict[int, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        layer = LTI(1, 1, 32)
        optimizer = torch.optim.Adam(layer.parameters(), lr=5e-3)

        def batch(count: int) -> tuple[Tensor, Tensor]:
            u = torch.randn(count, 128, 1)
            return u, F.conv1d(F.pad(u.mT, (63, 0)), echo.flip(0)[None, None]).mT

        for _ in range(steps):
            u, y = batch(16)
            loss = (layer(u)[0] - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        u, y = batch(64)
        with torch.no_grad():
            fitted = float((layer(u)[0] - y).norm() / y.norm())
        for order in (24, 16, 12, 8):
            report = compress(layer, u, order=order).reports[0]
            bound = report.gain_bound * float(u.norm() / layer(u)[0].detach().norm())
            made.setdefault(order, []).append((100 * report.error, 100 * bound, 100 * fitted))
    rows = [
        Row(
            "lti: error of the trained layer, 32 states, median",
            float(np.median([x[2] for x in made[24]])),
            "%",
        )
    ]
    for order, found in made.items():
        error, bound = (float(np.median([x[i] for x in found])) for i in (0, 1))
        rows.append(Row(f"lti: {order} states: error, median", error, "%", "bound", bound))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few steps of training: does it run")
    asked = parser.parse_args()
    steps = 6 if asked.quick else None
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(rows_of, trained, asked.seeds, steps) for trained in TRAINED]
        running.append(pool.submit(linear_rows, asked.seeds, 20 if asked.quick else 1500))
        made = [row for found in running for row in found.result()]
    write_results("compress", made)


if __name__ == "__main__":
    main()
