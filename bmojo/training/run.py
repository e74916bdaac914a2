"""Runs over learning rates and seeds, each in a folder of its own, and what came out."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bmojo.models.files import write_model
from bmojo.tensors import read_json
from bmojo.training.checkpoints import write_json
from bmojo.training.config import Configuration, read_configuration
from bmojo.training.errors import CheckpointError, DivergedError
from bmojo.training.logs import Watch
from bmojo.training.loop import Fitted, Stage, fit
from bmojo.training.models import build_model
from bmojo.training.options import TrainOptions
from bmojo.training.parallel.ranks import Ranks, ranks_here
from realization.files import file_within, folder_size

try:
    import fcntl
except ImportError:  # no such locks there: two processes in one folder are not noticed
    fcntl = None

LOCK, DIVERGED = "lock", "diverged"

__all__ = ["Outcome", "RunResult", "train"]


@dataclass(frozen=True, eq=False)
class RunResult:
    """What one model reached.

    Parameters
    ----------
    rate : float
    seed : int
        Of parameters and data.
    parameters : int
        Numbers that were learned.
    fitted : Fitted
    folder : Path, optional
    """

    rate: float
    seed: int
    parameters: int
    fitted: Fitted
    folder: Path | None = None

    @property
    def held_out(self) -> dict[str, Any]:
        """The last evaluation; of a run that diverged no right answer and an infinite loss."""
        if self.fitted.ended == DIVERGED:
            return {"loss": math.inf, "accuracy": 0.0}
        return self.fitted.evaluations[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        told = self.fitted
        return {
            "rate": self.rate,
            "seed": self.seed,
            "parameters": self.parameters,
            "steps": told.step,
            "ended": told.ended,
            "seconds": told.seconds,
            "held_out": told.evaluations[-1] if told.evaluations else None,
            "evaluations": told.evaluations,
            "losses": told.losses,
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """Every run of a configuration.

    Parameters
    ----------
    config : Configuration
    runs : list of RunResult
    model : torch.nn.Module
        That of the best rate and the first seed, in evaluation mode.
    """

    config: Configuration
    runs: list[RunResult]
    model: nn.Module

    @property
    def best_rate(self) -> float:
        """The rate whose runs are best in the mean of the metric over the seeds."""
        return _best_rate(self.config, self.runs)

    @property
    def best(self) -> list[RunResult]:
        """The runs of the best rate, by seed."""
        return [run for run in self.runs if run.rate == self.best_rate]

    def table(self) -> str:
        """What came out, in lines."""
        task = self.config.made_task()
        lines = [f"{self.config.name}: {task.description}; chance {100 * task.chance:.3g} %"]
        lines.append(f"{'rate':>9} {'seed':>5} {'steps':>7} {'seconds':>8} {'loss':>8} {'accuracy':>9}")
        for run in self.runs:
            told, found = run.fitted, {"loss": math.nan, "accuracy": math.nan}
            if told.evaluations or told.ended == DIVERGED:
                found = run.held_out
            lines.append(
                f"{run.rate:>9.3g} {run.seed:>5} {told.step:>7} {told.seconds:>8.1f} {found['loss']:>8.4f} "
                f"{100 * found['accuracy']:>7.1f} %"
            )
        if len(self.config.rates) > 1:
            lines.append(f"best rate: {self.best_rate:g}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.config.name,
            "task": self.config.made_task().description,
            "chance": self.config.made_task().chance,
            "config": self.config.to_dict(),
            "best_rate": self.best_rate,
            "runs": [run.to_dict() for run in self.runs],
        }


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Configuration,
    *,
    changes: Sequence[str] = (),
    folder: str | os.PathLike[str] | None = None,
    device: str | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Train what a configuration says, over its learning rates and seeds.

    With a folder, each run has one of its own in it, with its checkpoints and its log; the same call goes on
    where an earlier one was interrupted or killed, and takes over what had ended. `results.json` says what
    came out, `model` holds the weights of the best rate and the first seed.

    Parameters
    ----------
    config : path, mapping or Configuration
        A TOML file, or what one holds.
    changes : sequence of str
        Such as `"train.steps=100"`, on top of it.
    folder : path, optional
        Where everything goes; the configuration's own when left out. Without one nothing is written.
    device : str, optional
        Such as `"cpu"` or `"cuda"`; a GPU if there is one when left out, of its own for each process that
        `torchrun` started.
    fresh : bool
        Whether to remove what the folder holds of earlier runs, and begin anew.
    quiet : bool
        Whether to tell nothing on the way.

    Returns
    -------
    Outcome

    Raises
    ------
    ConfigurationError
        If the configuration cannot be done.
    CheckpointError
        If the folder holds runs of another configuration.
    FloatingPointError
        If training diverges, at the one rate or at each of several; where others do better, such a run is
        listed with an infinite loss.
    KeyboardInterrupt
        After Ctrl-C, once a checkpoint is written.

    Examples
    --------
    >>> import bmojo
    >>> outcome = bmojo.train(
    ...     {
    ...         "task": {"kind": "gap_recall", "pairs": 2, "gap": 4, "vocabulary": 8},
    ...         "model": {"d_model": 16, "heads": 2, "window": 4, "eidetic": 4, "state_size": 4},
    ...         "train": {"steps": 3, "batch": 4, "rates": [1e-3, 1e-2], "sequences": 8},
    ...     },
    ...     quiet=True,
    ... )
    >>> len(outcome.runs), outcome.best_rate in (1e-3, 1e-2), outcome.runs[0].held_out["count"]
    (2, True, 64)
    """
    if not isinstance(config, Configuration):
        config = read_configuration(config, changes=changes)
    place = folder if folder is not None else config.folder
    root = None if place is None else Path(place)
    with ExitStack() as open_:
        ranks = open_.enter_context(ranks_here(config.parallel, device))
        if root is not None:
            ranks.first(lambda: _begin(root, config, fresh, open_))
        outcome = _all(config, root, ranks, quiet or not ranks.main)
        if root is not None:
            tensors = _gathered(outcome.model, ranks)
            ranks.first(lambda: _end(root, outcome, tensors))
    return outcome


def _begin(root: Path, config: Configuration, fresh: bool, open_: ExitStack) -> None:
    """Hold the folder, and see that it is this configuration's."""
    open_.enter_context(_held(root))
    _prepare(root, config, fresh)


def _end(root: Path, outcome: Outcome, tensors: dict[str, Tensor]) -> None:
    """Write what came out."""
    options: Any = outcome.model.options
    write_model(root / "model", options, tensors)
    write_json(root / "results.json", outcome.to_dict())


def _gathered(model: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """The model's tensors, whole, in the first process."""
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.main:
            found[name] = whole.cpu()
    return found


def _all(config: Configuration, root: Path | None, ranks: Ranks, quiet: bool) -> Outcome:
    """Every rate with every seed."""
    runs: list[RunResult] = []
    models: dict[float, nn.Module] = {}
    for rate in config.rates:
        for seed in config.seeds:
            own = None if root is None else root / f"rate={rate:g},seed={seed}"
            run, model = _one(config, rate, seed, own, ranks, quiet)
            runs.append(run)
            models.setdefault(rate, model)
    if all(run.fitted.ended == DIVERGED for run in runs):
        raise FloatingPointError(f"training diverged at every rate of {list(config.rates)}; try lower ones.")
    return Outcome(config, runs, models[_best_rate(config, runs)].eval())


def _held(root: Path) -> IO[bytes]:
    """The folder, held against other processes until the file is closed."""
    root.mkdir(parents=True, exist_ok=True)
    lock = file_within(root, LOCK).open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise CheckpointError(
                f"another process trains in {root}; wait for it, or name another folder."
            ) from None
    return lock


def _prepare(root: Path, config: Configuration, fresh: bool) -> None:
    """Look at what the folder holds; refuse one that holds something else."""
    folder_size(root)  # looks for links
    told = root / "config.json"
    others = [path for path in root.iterdir() if path.name != LOCK]
    if fresh and told.is_file():
        for path in others:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        others = []
    plain = json.loads(json.dumps(config.to_dict()))
    if told.is_file():
        before = read_json(file_within(root, told.name))
        differs = [name for name in ("task", "model", "curriculum") if before.get(name) != plain.get(name)]
        if differs:
            raise CheckpointError(
                f"{root} holds runs with another {' and '.join(differs)}; name another folder, or begin anew "
                "(--fresh, fresh=True), which removes them."
            )
    elif others:
        raise CheckpointError(f"{root} is not empty and holds no runs; name another folder.")
    write_json(told, plain)


def _one(
    config: Configuration, rate: float, seed: int, folder: Path | None, ranks: Ranks, quiet: bool
) -> tuple[RunResult, nn.Module]:
    """Train one model, or read what came out where that is done."""
    options, stages = config.options(rate, seed), config.stages()
    watch = None
    if not quiet:
        title = config.name if len(config.rates) * len(config.seeds) == 1 else f"{rate:g}, seed {seed}"
        watch = Watch(title, total=options.steps)
    with torch.random.fork_rng([] if ranks.device.type == "cpu" else [ranks.device]):
        torch.manual_seed(seed)
        model = build_model(config.made_task(), config.model).to(ranks.device)
        if ranks.rank:  # the same parameters, other dropout
            torch.manual_seed(seed + (ranks.rank << 32))
        try:
            fitted = _fitted(model, stages, options, folder, watch, config, ranks)
        finally:
            if watch is not None:
                watch.close()
    count = sum(p.numel() for p in model.parameters())
    return RunResult(rate, seed, count, fitted, folder), model


def _fitted(
    model: nn.Module,
    stages: list[Stage],
    options: TrainOptions,
    folder: Path | None,
    watch: Watch | None,
    config: Configuration,
    ranks: Ranks,
) -> Fitted:
    """Training of one model; where other rates are tried too, one at which it diverges is noted."""
    told = None if folder is None else folder / "diverged.json"
    if told is not None and (before := ranks.first(lambda: _read(told))) is not None:
        return Fitted(ended=DIVERGED, **before)
    try:
        return fit(model, stages, options, folder=folder, watch=watch, board=config.tensorboard, ranks=ranks)
    except DivergedError as error:
        if len(config.rates) == 1:
            raise
        if told is not None and ranks.main:
            told.parent.mkdir(parents=True, exist_ok=True)
            write_json(told, {"step": error.step})
        if watch is not None:
            watch.say(str(error))
        return Fitted(step=error.step, ended=DIVERGED)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    found = read_json(file_within(path.parent, path.name))
    if not isinstance(found.get("step"), int):
        raise CheckpointError(f"{path} does not say at which step a run diverged; remove it.")
    return {"step": found["step"]}


def _best_rate(config: Configuration, runs: Sequence[RunResult]) -> float:
    metric = config.train.metric
    if any(not run.fitted.evaluations and run.fitted.ended != DIVERGED for run in runs):
        return config.rates[0]

    def worth(rate: float) -> tuple[float, float]:
        found = [run.held_out for run in runs if run.rate == rate]
        mean = {name: sum(one[name] for one in found) / len(found) for name in ("loss", "accuracy")}
        return (mean["accuracy"], -mean["loss"]) if metric == "accuracy" else (-mean["loss"], 0.0)

    return max(config.rates, key=worth)
