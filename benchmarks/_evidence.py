"""What scripts of evidence share: models, rates and seeds side by side, that go on where they were."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _results import FOLDER, Row, write_results
from tqdm import tqdm

__all__ = [
    "Job",
    "Record",
    "best_of",
    "once",
    "parser_of",
    "run_evidence",
    "run_jobs",
    "show_jobs",
    "write_plain",
    "write_records",
]

RUNS = Path(__file__).parents[1] / "out" / "evidence"


@dataclass(frozen=True)
class Job:
    """One model with one learning rate and one seed.

    Parameters
    ----------
    model : str
        As tables and pictures call it.
    config : dict
        As `bmojo.train` takes it, with one rate and one seed.
    shared : pair of str, optional
        Evidence and model under which the same run lies already, or will: it is trained once.
    """

    model: str
    config: dict[str, Any]
    shared: tuple[str, str] | None = None

    @property
    def rate(self) -> float:
        """Learning rate."""
        return self.config["train"]["rate"]

    @property
    def seed(self) -> int:
        """Of parameters and data."""
        return self.config["train"]["seed"]

    def folder(self, evidence: str) -> Path:
        """Where the run lies."""
        name, model = self.shared or (evidence, self.model)
        return RUNS / name / f"{_plain(model)}, rate={self.rate:g}, seed={self.seed}"


@dataclass(frozen=True)
class Record:
    """What one job reached.

    Parameters
    ----------
    model : str
    rate : float
    seed : int
    accuracy, loss : float
        On held-out sequences.
    memory : dict of str to int
        Bytes that outlive a token, over all layers, by memory.
    parameters : int
    seconds : float
        Of training.
    losses : list of float
    measured : dict
        What the script measured besides.
    looks : list of dict
        `step` and `accuracy` of every look at held-out sequences, the last of which is the end.
    """

    model: str
    rate: float
    seed: int
    accuracy: float
    loss: float
    memory: dict[str, int]
    parameters: int
    seconds: float
    losses: list[float]
    measured: dict[str, Any] = field(default_factory=dict)
    looks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """All of the memory."""
        return sum(self.memory.values())


def run_jobs(
    name: str,
    jobs: Sequence[Job],
    *,
    device: str = "cpu",
    workers: int | None = None,
    measure: Callable[[Any], dict[str, Any]] | None = None,
) -> list[Record]:
    """Records of all jobs, in their order; what an earlier call finished or began is taken over.

    Parameters
    ----------
    name : str
        Of the evidence: its runs lie in `out/evidence/<name>`.
    jobs : sequence of Job
        Longest first keeps the cores busy to the end.
    device : str
    workers : int, optional
        Processes, of one thread each; as many as there are cores when left out, one on a GPU.
    measure : callable, optional
        Given a trained model; a function of a module (or a partial one), for it goes to another process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(len(jobs), workers or (cores if device == "cpu" else 1))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare)
    bar = tqdm(total=len(jobs), desc=f"{name}: {count} at a time", unit="model")
    try:
        futures = [pool.submit(_run, name, job, device, measure) for job in jobs]
        waiting: set[Future[Any]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                found = future.result()
                bar.update()
                bar.write(
                    f"  {found.model:<28} rate {found.rate:<8g} seed {found.seed}: "
                    f"{100 * found.accuracy:5.1f} %, {found.seconds:.0f} s"
                )
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()


def parser_of(about: str | None, sizes: Mapping[str, Any]) -> argparse.ArgumentParser:
    """What every script of evidence is asked: its size, where it runs, or `--dry`, which trains nothing.

    Parameters
    ----------
    about : str
        The script's docstring.
    sizes : mapping
        By the names of the sizes.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(sizes), default="quick", help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, help="models trained at a time (default: one per core)")
    parser.add_argument("--dry", action="store_true", help="make every model, train none")
    return parser


def run_evidence(
    question: str,
    about: str | None,
    sizes: Mapping[str, Any],
    jobs_of: Callable[[Any], list[Job]],
    rows: Callable[[Any, list[Record]], list[Row]],
    measure: Callable[[Any], Callable[[Any], dict[str, Any]]] | None = None,
) -> None:
    """What a script of evidence does: train what is not trained yet, and write what came out.

    Parameters
    ----------
    question : str
        Key of the script, `evidence_<question>.py`.
    about : str
        Its docstring.
    sizes : mapping
        By the names of the sizes.
    jobs_of, rows : callable
        Jobs of a size; rows of a size and its records.
    measure : callable, optional
        Gives, for a size, what `run_jobs` takes.
    """
    options = parser_of(about, sizes).parse_args()
    size, name = sizes[options.size], f"{question}_{options.size}"
    jobs = jobs_of(size)
    if options.dry:
        show_jobs(jobs)
        return
    look = None if measure is None else measure(size)
    records = run_jobs(name, jobs, device=options.device, workers=options.workers, measure=look)
    write_records(name, jobs, records)
    write_results(f"evidence_{name}", rows(size, records))


def show_jobs(jobs: Sequence[Job]) -> int:
    """Make every model, and say which there are; returns the number of runs.

    Parameters
    ----------
    jobs : sequence of Job
    """
    from bmojo.training import build_model, read_configuration

    made: dict[str, list[Job]] = {}
    for job in jobs:
        made.setdefault(job.model, []).append(job)
    for name, own in made.items():
        config = read_configuration(own[0].config)
        count = sum(p.numel() for p in build_model(config.made_task(), config.model).parameters())
        print(f"{name:<44} {len(own):>3} runs of {config.train.steps} steps, {count} parameters")
    return len(jobs)


def best_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """For each model the records of the rate that is best in the mean over seeds."""
    found: dict[str, list[Record]] = {}
    for model in dict.fromkeys(record.model for record in records):
        own = [record for record in records if record.model == model]
        rates = {
            rate: [record for record in own if record.rate == rate]
            for rate in dict.fromkeys(record.rate for record in own)
        }
        found[model] = max(
            rates.values(),
            key=lambda of: (sum(r.accuracy for r in of) / len(of), -sum(r.loss for r in of) / len(of)),
        )
    return found


def write_records(name: str, jobs: Sequence[Job], records: Sequence[Record]) -> Path:
    """Every run with the configuration and the seed that made it: `results/evidence/<name>.json`."""
    folder = FOLDER / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "model": job.model,
            "config": job.config,
            "accuracy": record.accuracy,
            "loss": record.loss if math.isfinite(record.loss) else None,
            "memory": record.memory,
            "parameters": record.parameters,
            "seconds": record.seconds,
            "curve": _thinned(record.losses),
            "measured": record.measured,
            **({"looks": record.looks} if len(record.looks) > 1 else {}),
        }
        for job, record in zip(jobs, records, strict=True)
    ]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return path


def write_plain(name: str, content: Any) -> Path:
    """What was measured without training, as JSON: `results/evidence/<name>.json`."""
    folder = FOLDER / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, as JSON has it; taken from the file where it lies, and written there otherwise.

    Parameters
    ----------
    path : Path
        Under `RUNS`.
    make : callable
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.replace(path)
    return json.loads(path.read_text())


def _thinned(losses: Sequence[float], points: int = 50) -> list[float]:
    """Means of equal stretches: enough for a curve."""
    size = max(1, -(-len(losses) // points))
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [round(sum(part) / len(part), 4) for part in parts]


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Without this a worker would train on if the process that started it were killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(name: str, job: Job, device: str, measure: Callable[[Any], dict[str, Any]] | None) -> Record:
    import bmojo

    folder = job.folder(name)
    try:
        outcome = bmojo.train(job.config, folder=folder, device=device, quiet=True)
    except FloatingPointError as error:
        return Record(job.model, job.rate, job.seed, 0.0, math.inf, {}, 0, 0.0, [], {"diverged": str(error)})
    run, model = outcome.runs[0], outcome.model
    told = folder / ("measured.json" if job.shared is None else f"measured_{name}.json")
    if measure is not None and not told.is_file():
        told.write_text(json.dumps(measure(model)))
    state = model.init_state(1)  # pyright: ignore[reportCallIssue]
    return Record(
        job.model,
        run.rate,
        run.seed,
        run.held_out["accuracy"],
        run.held_out["loss"],
        {key: sum(part.memory()[key] for part in state) for key in state[0].memory()},
        run.parameters,
        run.fitted.seconds,
        run.fitted.losses,
        json.loads(told.read_text()) if told.is_file() else {},
        [{key: look[key] for key in ("step", "accuracy")} for look in run.fitted.evaluations],
    )


def _plain(name: str) -> str:
    """A name that a folder may have."""
    return "".join(c if c.isalnum() or c in " =-_.," else "_" for c in name)
