"""Does a mixer learn faster from an identified start? Steps to a given loss, over seeds.

Two kinds of task. *Simulation*: the outputs of a system from its inputs alone; the mixer starts as the path
identified from its hidden tokens to what the read-out needs of it (`initialize_from` with a target). *Next
sample*: of a signal from its past; the mixer starts from its hidden sequence alone. Both arms begin with the
same random numbers, see the same batches, and each has its own best learning rate. The given losses come from
the random start: where it ends (its best held loss, the median of the seeds), and half of the way there (the
geometric mean with the loss of predicting the mean). A run that does not get there counts as one evaluation
past the end.

Run: python benchmarks/bench_lift_start.py [--seeds 5] (about 20 minutes on one free core)
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg
import torch
from _results import FOLDER, Row, write_results
from torch import Tensor, nn

import realization as rz
from bmojo import BMojo, BMojoConfig, initialize_from

WIDTH, STATE, LENGTH, WASHOUT, BATCH = 32, 16, 192, 64, 8
STEPS, EVERY = 300, 10
RATES = (1e-3, 3e-3, 1e-2)
BARE = {"mixer": "lti", "window": 0, "eidetic": 0}
FULL = {"mixer": "lti", "window": 16, "eidetic": 8}


class Net(nn.Module):
    """Tokenizer, a normed residual block with a perceptron, read-out: (B, T, inputs) to (B, T, outputs)."""

    def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
        super().__init__()
        self.tokenizer = nn.Sequential(nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.norm = nn.RMSNorm(WIDTH)
        self.layer = BMojo(BMojoConfig(d_model=WIDTH, heads=2, state_size=STATE, **options))
        self.mlp = nn.Sequential(
            nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.readout = nn.Linear(WIDTH, outputs)

    def forward(self, u: Tensor) -> Tensor:
        """Outputs for inputs."""
        x = self.tokenizer(u)
        x = x + self.layer(self.norm(x))
        return self.readout(x + self.mlp(x))

    @torch.no_grad()
    def start(self, u: Tensor, y: Tensor | None) -> None:
        """Identify: to what the read-out turns into `y`, or the hidden sequence itself."""
        x = self.tokenizer(u)
        target = None
        if y is not None:
            target = (y - self.readout(x)) @ torch.linalg.pinv(self.readout.weight).mT
        initialize_from(self.layer, self.norm(x), target)


@dataclass(frozen=True)
class Task:
    """Inputs and outputs (T, channels) of training and held back, of unit variance in training."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    held: tuple[np.ndarray, np.ndarray]
    simulation: bool

    @classmethod
    def of(cls, name: str, u: np.ndarray, y: np.ndarray, *, simulation: bool) -> Task:
        """The first half trains."""
        half = len(y) // 2
        u, y = ((x - x[:half].mean(axis=0)) / x[:half].std(axis=0) for x in (u, y))
        return cls(name, (u[:half], y[:half]), (u[half:], y[half:]), simulation)


@cache
def task(name: str) -> Task:
    """Of a name: `plant`, `process`, or a measured record; `next: ` in front for the next sample."""
    simulation = not name.startswith("next: ")
    kind = name.removeprefix("next: ")
    rng = np.random.default_rng(0)
    pairs = [
        r * np.array([[np.cos(w), -np.sin(w)], [np.sin(w), np.cos(w)]])
        for r, w in ((0.99, 0.15), (0.985, 0.6), (0.97, 1.5))
    ]
    A = scipy.linalg.block_diag(*pairs, [[0.98]])
    if kind == "plant":
        model = rz.StateSpace(A, rng.standard_normal((7, 2)), rng.standard_normal((2, 7)))
        u = rng.standard_normal((8000, 2))
        y = model.simulate(u)
        y = y + 0.1 * y.std(axis=0) * rng.standard_normal(y.shape)
        return Task.of(name, u, y, simulation=True)
    if kind == "process":
        C = rng.standard_normal((4, 7))
        model = rz.innovations_form(A, C, np.eye(7), 100 * np.eye(4), np.zeros((7, 4)))
        y = model.simulate(e=rng.multivariate_normal(np.zeros(4), model.Re, 8001))
        return Task.of(name, y[:-1], y[1:], simulation=False)
    data = rz.load_data(kind)
    assert data.u is not None
    if simulation:
        return Task.of(name, data.u, data.y, simulation=True)
    both = np.hstack([data.u, data.y])
    return Task.of(name, both[:-1], both[1:], simulation=False)


def pieces(record: tuple[np.ndarray, np.ndarray], starts: Any) -> tuple[Tensor, Tensor]:
    u, y = (torch.tensor(np.array([x[s : s + LENGTH] for s in starts]), dtype=torch.float32) for x in record)
    return u, y


def every(record: tuple[np.ndarray, np.ndarray], stride: int) -> tuple[Tensor, Tensor]:
    return pieces(record, range(0, len(record[0]) - LENGTH + 1, stride))


def held_loss(net: Net, u: Tensor, y: Tensor) -> float:
    net.eval()
    with torch.no_grad():
        loss = (net(u) - y)[:, WASHOUT:].square().mean()
    net.train()
    return float(loss)


def curve(
    work: Task, options: dict[str, Any], *, started: bool, rate: float, seed: int, steps: int = STEPS
) -> list[float]:
    """Held losses every `EVERY` steps, the first before any."""
    torch.manual_seed(seed)
    (u, y), held = work.train, every(work.held, LENGTH // 2)
    net = Net(u.shape[1], y.shape[1], **options)
    if started:
        sample = every(work.train, LENGTH)
        net.start(sample[0], sample[1] if work.simulation else None)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
    rng, losses = np.random.default_rng(seed), [held_loss(net, *held)]
    for step in range(1, steps + 1):
        inputs, wanted = pieces(work.train, rng.integers(0, len(u) - LENGTH + 1, BATCH))
        loss = (net(inputs) - wanted)[:, WASHOUT:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % EVERY == 0:
            losses.append(held_loss(net, *held))
    return losses


def steps_to(losses: list[float], given: float) -> float:
    """The first step whose held loss is at most the given one."""
    below = [k for k, loss in enumerate(losses) if loss <= given]
    return float(EVERY * (below[0] if below else len(losses)))


def compared(name: str, net: str, options: dict[str, Any], seeds: int, steps: int = STEPS) -> list[Row]:
    """Rows of one task and one net."""
    work, runs = task(name), {}
    for started in (False, True):
        for rate in RATES:
            runs[started, rate] = [
                curve(work, options, started=started, rate=rate, seed=seed, steps=steps)
                for seed in range(seeds)
            ]
    ends = {key: float(np.median([min(run) for run in found])) for key, found in runs.items()}
    end = min(loss for (started, _), loss in ends.items() if not started)
    case, rows = f"{name}, {net}", []
    for label, given in (("half of the way", float(np.sqrt(end))), ("all of it", end)):
        median, reached = {}, {}
        for started in (False, True):
            counts = {rate: [steps_to(run, given) for run in runs[started, rate]] for rate in RATES}
            best = min(RATES, key=lambda rate: (np.median(counts[rate]), np.mean(counts[rate])))
            median[started] = float(np.median(counts[best]))
            reached[started] = sum(count <= steps for count in counts[best])
        rows.append(
            Row(
                f"{case}: steps to {label} (held loss {given:.3g}; reached by {reached[True]} and "
                f"{reached[False]} of {seeds} seeds)",
                median[True],
                "steps",
                "random start",
                median[False],
            )
        )
    before = {s: float(np.median([run[0] for run in runs[s, RATES[0]]])) for s in (False, True)}
    rows.append(
        Row(f"{case}: held loss before any step", before[True], "variances", "random start", before[False])
    )
    best = min(loss for (started, _), loss in ends.items() if started)
    rows.append(Row(f"{case}: best held loss in {steps} steps", best, "variances", "random start", end))
    return rows


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("plant", "linear mixer", BARE),
    ("robot_arm", "linear mixer", BARE),
    ("CD_player_arm", "linear mixer", BARE),
    ("cascaded_tanks", "linear mixer", BARE),
    ("plant", "diagonal mixer", BARE | {"mixer": "lti_diagonal"}),
    ("robot_arm", "linear mixer, window 16, 8 places", FULL),
    ("next: process", "linear mixer", BARE),
    ("next: CD_player_arm", "linear mixer", BARE),
    ("next: CD_player_arm", "Mamba-2, decay rates alone", BARE | {"mixer": "mamba2"}),
]


def known() -> dict[str, list[Row]]:
    """Rows that are there already, by case."""
    place = FOLDER / "lift_start.json"
    found: dict[str, list[Row]] = {}
    for row in json.loads(place.read_text())["rows"] if place.exists() else ():
        values = {name: row[name] for name in ("case", "value", "unit", "peer", "peer_value")}
        found.setdefault(row["case"].rpartition(": ")[0], []).append(Row(**values))
    return found


def main() -> None:
    """Train, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", help="cases that begin so are measured, the others stay as they are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, net, options in CASES:
        if not f"{name}, {net}".startswith(given.only or ""):
            continue
        measured = compared(name, net, options, given.seeds, given.steps)
        rows = known() | {f"{name}, {net}": measured}
        write_results("lift_start", [row for n, k, _ in CASES for row in rows.get(f"{n}, {k}", ())])


if __name__ == "__main__":
    main()
