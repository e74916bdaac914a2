"""Evidence, question 5: bits per byte of Python's standard library, at equal parameters and at equal time.

Every model has two rounds: the same steps, and as many steps as take the time of the slowest model's round;
what a step takes is measured beforehand, all models in turn, so that other load on the machine strikes alike.
Names that stood before, but further back than a window, are measured apart (`bmojo.tasks.recalled_names`).

Run: python benchmarks/evidence_language.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_language.py --size full --device cuda
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _evidence import (
    RUNS,
    Job,
    Record,
    best_of,
    once,
    parser_of,
    run_jobs,
    show_jobs,
    write_plain,
    write_records,
)
from _results import Row, write_results
from _streamed import losses_of
from torch import nn
from tqdm import tqdm

from bmojo.tasks import SourceText, make_task, recalled_names
from bmojo.training import build_model
from bmojo.training.evaluation import autocast


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    length, window, eidetic, state, layers, width, steps, batch : int
        `window` is that of the layers, and the distance from which names count as recalled.
    rates, seeds : tuple
    sequences : int
        Held-out sequences that are judged.
    precision : str
    """

    length: int
    window: int
    eidetic: int
    state: int
    layers: int
    width: int
    steps: int
    batch: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    sequences: int
    precision: str = "float32"


SIZES = {
    "quick": Size(512, 64, 64, 16, 2, 64, 800, 8, (4e-3,), (0, 1), 192),
    "full": Size(2048, 128, 128, 16, 4, 256, 2500, 16, (2e-3,), (0,), 256, "bfloat16"),
}


def models(size: Size) -> dict[str, dict[str, Any]]:
    """Layers of each model by its name; perceptrons give all of them the Transformer's parameters."""
    near, state = {"window": size.window}, {"state_size": size.state}
    half = size.layers // 2
    both = [{"window": 0, "eidetic": 0, **state}, {"mixer": "none", "eidetic": 0, **near}] * half
    made: dict[str, dict[str, Any]] = {
        "Transformer": {"preset": "transformer", "qk_norm": True, "short_conv": 4, "layers": size.layers},
        "Mamba-2": {"preset": "bare_mixer", "mixer": "mamba2", **state, "layers": size.layers},
        "stack of Mamba-2 and window": {"layers": both},
        "B'MOJO-F": {"preset": "bmojo_f", "mixer": "mamba2", **state, **near, "layers": size.layers},
        "B'MOJO": {
            "eidetic": size.eidetic,
            "eidetic_position": "edge",
            **state,
            **near,
            "layers": size.layers,
        },
    }
    task = make_task(**_task(size))
    plain = {
        name: {"d_model": size.width, "mlp_ratio": 2.0, **layers, "heads": 4} for name, layers in made.items()
    }
    wanted = parameters(task, plain["B'MOJO"])
    for options in plain.values():
        missing = (wanted - parameters(task, options)) / (3 * size.width**2 * size.layers)
        options["mlp_ratio"] = round((2.0 + missing) * size.width) / size.width
    return plain


def parameters(task: Any, options: dict[str, Any]) -> int:
    """Numbers that a model learns.

    Parameters
    ----------
    task : Task
    options : dict
        As `build_model` takes them.
    """
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(task, options).parameters())


def jobs_of(size: Size, steps: dict[str, int] | None = None) -> list[Job]:
    """Every model with every rate and seed, for the same steps or for its own.

    Parameters
    ----------
    size : Size
    steps : dict, optional
        Steps by model, of those that are trained; all of them for the size's when left out.
    """
    jobs = []
    for name, model in models(size).items():
        if steps is not None and name not in steps:
            continue
        for rate in size.rates:
            for seed in size.seeds:
                train = {
                    "steps": size.steps if steps is None else steps[name],
                    "batch": size.batch,
                    "rate": rate,
                    "seed": seed,
                    "sequences": size.sequences,
                    "checkpoint_every": 100,
                    "metric": "loss",
                    "schedule": "wsd",
                    "warmup": 50,
                    "weight_decay": 0.1,
                    "beta2": 0.95,
                    "precision": size.precision,
                }
                config = {"name": name, "task": _task(size), "model": model, "train": train}
                jobs.append(Job(name, config))
    return jobs


def _task(size: Size) -> dict[str, Any]:
    return {"kind": "source_text", "length": size.length, "window": size.window}


def steps_in(size: Size, took: Mapping[str, float]) -> dict[str, int]:
    """How many steps each model does in the time of the slowest model's round; the slowest is left out.

    Parameters
    ----------
    size : Size
    took : mapping of str to float
        Seconds that a step of each model takes.
    """
    slowest = max(took.values())
    steps = {name: round(size.steps * slowest / seconds) for name, seconds in took.items()}
    return {name: count for name, count in steps.items() if count > size.steps}


def step_seconds(size: Size, device: str, *, rounds: int = 12) -> dict[str, float]:
    """What a step of training takes: the median over rounds in which every model has its turn.

    Parameters
    ----------
    size : Size
    device : str
    rounds : int
    """
    task, generator = make_task(**_task(size)), torch.Generator().manual_seed(0)
    made = {}
    for name, options in models(size).items():
        model = build_model(task, options).to(device)
        made[name] = (model, torch.optim.AdamW(model.parameters(), 1e-3), [])
    for _ in tqdm(range(rounds + 1), desc="seconds a step", unit="round"):
        for model, optimizer, seconds in made.values():
            drawn = task.sample(size.batch, generator)
            tokens, targets = drawn.tokens.to(device), drawn.targets.to(device)
            began = _now(device)
            with autocast(torch.device(device), size.precision):
                loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(_now(device) - began)
    return {name: float(np.median(seconds[1:])) for name, (_, _, seconds) in made.items()}


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(model: Any, size: Size) -> dict[str, Any]:
    """Bits per byte: all, by position, on recalled names by how far back they stood, on the rest.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    task = SourceText(length=size.length, window=size.window, part="held")
    drawn = task.sample(size.sequences, torch.Generator().manual_seed(12345))
    bits = torch.cat(
        [losses_of(model, type(drawn)(*part), size.length)[0] for part in _parted(drawn, 16)]
    ) / math.log(2)
    reaches = [size.window * 2**i for i in range(int(math.log2(size.length // size.window)))]
    beyond = [recalled_beyond(drawn, reach) for reach in reaches]
    bands = {"recalled": beyond[0], "the rest": ~beyond[0]}
    for low, near, far in zip(reaches, beyond, [*beyond[1:], torch.zeros_like(beyond[0])], strict=True):
        bands[f"from {low}"] = near & ~far
    each = size.length // 16
    return {
        "bits": float(bits.mean()),
        "error": float(bits.mean(dim=1).std() / math.sqrt(len(bits))),
        "parts": {name: _score(bits, where) for name, where in bands.items()},
        "by_position": [round(float(x), 4) for x in bits.mean(0).view(-1, each).mean(1)],
        "by_sequence": [round(float(x), 4) for x in bits.mean(1)],
    }


def recalled_beyond(drawn: Any, reach: int) -> torch.Tensor:
    """Targets that belong to a name which stood before, but further back than `reach` bytes, bool (B, T).

    Parameters
    ----------
    drawn : Batch
    reach : int
    """
    whole = torch.cat([drawn.tokens, drawn.targets[:, -1:]], dim=1)
    return torch.stack([recalled_names(bytes(text.tolist()), reach)[1:] for text in whole])


def _parted(drawn: Any, count: int) -> list[Any]:
    return list(
        zip(drawn.tokens.split(count), drawn.targets.split(count), drawn.mask.split(count), strict=True)
    )


def _score(bits: torch.Tensor, where: torch.Tensor) -> dict[str, float]:
    inside = bits[where]
    return {"bits": float(inside.mean()) if len(inside) else math.nan, "count": len(inside)}


def rows(size: Size, records: Sequence[Record], round_: str) -> list[Row]:
    """Bits per byte of each model, on recalled names and on the rest, and what was pre-registered."""
    best, made = best_of(records), []
    bits, recalled = {}, {}
    for name, runs in best.items():
        bits[name] = float(np.mean([run.measured["bits"] for run in runs]))
        parts = [run.measured["parts"] for run in runs]
        recalled[name] = float(np.mean([part["recalled"]["bits"] for part in parts]))
        rest = float(np.mean([part["the rest"]["bits"] for part in parts]))
        steps = f"{len(runs[0].losses)} steps, {runs[0].parameters} parameters, {runs[0].seconds:.0f} s"
        made.append(Row(f"{round_}, {name}: bits per byte ({steps})", bits[name], "bits/byte"))
        made.append(Row(f"{round_}, {name}: on recalled names", recalled[name], "bits/byte"))
        made.append(Row(f"{round_}, {name}: on the rest", rest, "bits/byte"))
    own, full = "B'MOJO", "Transformer"
    made.append(
        Row(
            f"{round_}, {own} above the Transformer",
            100 * (bits[own] / bits[full] - 1),
            "%",
            goal=1.0,
            larger_is_better=False,
        )
    )
    for other in ("Mamba-2", "stack of Mamba-2 and window", "B'MOJO-F"):
        goal = None if other == "B'MOJO-F" else 0.0
        above = recalled[own] - recalled[other]
        case = f"{round_}, {own} above {other} on recalled names"
        made.append(Row(case, above, "bits/byte", goal=goal, larger_is_better=False))
    return made


def main() -> None:
    options = parser_of(__doc__, SIZES).parse_args()
    size = SIZES[options.size]
    if options.dry:
        show_jobs(jobs_of(size))
        return
    judge = functools.partial(measure, size=size)

    def trained(name: str, jobs: Sequence[Job]) -> list[Record]:
        found = run_jobs(name, jobs, device=options.device, workers=options.workers, measure=judge)
        write_records(name, jobs, found)
        return found

    same = trained(f"language_{options.size}", jobs_of(size))
    path = RUNS / f"language_{options.size}" / "seconds a step.json"
    took = once(path, functools.partial(step_seconds, size, options.device))
    write_plain(f"language_{options.size}_steps", took)
    steps = steps_in(size, took)
    best = {name: runs[0].rate for name, runs in best_of(same).items()}
    longer = [job for job in jobs_of(size, steps) if job.rate == best[job.model]]
    timed = trained(f"language_time_{options.size}", longer)
    kept = [run for run in same if run.model not in steps and run.rate == best[run.model]]
    told = rows(size, same, "equal steps") + rows(size, [*timed, *kept], "equal time")
    write_results(f"evidence_language_{options.size}", told)


if __name__ == "__main__":
    main()
