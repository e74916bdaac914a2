"""What a run carries from step to step: where it stands, its optimizer, its generator, its files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmojo.tasks.protocol import Task
from bmojo.training.errors import CheckpointError, DivergedError
from bmojo.training.evaluation import evaluate
from bmojo.training.logs import Board, JsonLines, Watch
from bmojo.training.options import TrainOptions
from bmojo.training.parallel.checkpoint import RankedCheckpoints
from bmojo.training.parallel.ranks import Ranks
from realization.files import folder_size

AVERAGES = ("exp_avg", "exp_avg_sq")  # of AdamW

__all__ = ["Fitted", "Run", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A task, for a number of steps: a curriculum is a list of stages.

    Parameters
    ----------
    task : Task
    steps : int
    """

    task: Task
    steps: int


@dataclass(eq=False)
class Fitted:
    """How training went, and all that changes while it does, but for the model and the optimizer.

    Parameters
    ----------
    step : int
        Steps taken.
    losses : list of float
        Cross-entropy of each step, in nats.
    evaluations : list of dict
        Each with its `step`, and `loss`, `accuracy`, ... on held-out sequences.
    best : float, optional
        Best value of the metric so far.
    waited : int
        Evaluations since then.
    seconds : float
        Time that the steps took, over all interruptions.
    ended : str
        Why training ended: `"steps"`, `"patience"` or `"target"`; empty before.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    waited: int = 0
    seconds: float = 0.0
    ended: str = ""


class Run:
    """A run's optimizer, generator, files, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        options: TrainOptions,
        folder: str | os.PathLike[str] | None,
        board: bool,
        ranks: Ranks,
    ) -> None:
        self.model, self.stages, self.options, self.ranks = model, stages, options, ranks
        self.passes = range(options.accumulate)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.optimizer = _optimizer(model, options)
        self.told, self.known = Fitted(), math.nan
        self._pending: list[Tensor] = []
        self.checkpoints = self._log = self._board = None
        if folder is not None:
            place = Path(folder)
            folder_size(place)  # looks for links
            self.checkpoints = RankedCheckpoints(place / "checkpoints", ranks, keep=options.keep)
            self.restore()
            if ranks.main:
                self._log = JsonLines(place / "log.jsonl", after=self.told.step)
                self._board = Board(place / "tensorboard", after=self.told.step) if board else None

    def take(self, loss: Tensor, *, wait: bool) -> None:
        """Note a loss; until one waits for it, it stays on its device and is no number."""
        self._pending.append(loss)
        if not wait:
            self.told.losses.append(math.nan)  # not known yet
            return
        first = self.told.step - len(self._pending)
        del self.told.losses[first:]
        for value in torch.stack(self._pending).tolist():
            self.told.losses.append(value)
            if not math.isfinite(value):
                raise DivergedError(len(self.told.losses), value, self.options.rate)
        self._pending.clear()
        self.known = self.told.losses[-1]

    def take_evaluation(self, watch: Watch | None) -> None:
        """Judge the model, and say whether training ends here."""
        options, told = self.options, self.told
        found = evaluate(
            self.model,
            self.stages[-1].task.held_out,
            sequences=options.sequences,
            seed=options.evaluation_seed,
            precision=options.precision,
            ranks=self.ranks,
        )
        line = {"step": told.step} | found.to_dict()
        told.evaluations.append(line)
        if self._log is not None:
            self._log.write({"step": told.step, "held_out": found.to_dict()})
        if self._board is not None:
            self._board.write(told.step, {"held_out/loss": found.loss, "held_out/accuracy": found.accuracy})
        if watch is not None:
            watch.say(
                f"step {told.step}: held-out loss {found.loss:.4f}, accuracy {100 * found.accuracy:.1f} %"
            )
        better = max if options.metric == "accuracy" else min
        value = line[options.metric]
        if told.best is None or (value != told.best and better(value, told.best) == value):
            told.best, told.waited = value, 0
        else:
            told.waited += 1
        if options.target is not None and better(value, options.target) == value:
            told.ended = "target"
        elif options.patience and told.waited >= options.patience:
            told.ended = "patience"

    def log(self, norm: Tensor) -> None:
        """A line of the log, a point of each curve."""
        told, every = self.told, self.options.log_every
        recent = told.losses[(told.step - 1) // every * every :]
        values = {
            "loss": sum(recent) / len(recent),
            "rate": self.options.rate_at(told.step - 1),
            "gradient_norm": float(norm),
            "steps_per_second": told.step / max(told.seconds, 1e-9),
        }
        if self._log is not None:
            self._log.write({"step": told.step} | values | {"losses": recent, "seconds": told.seconds})
        if self._board is not None:
            self._board.write(told.step, {f"train/{name}": value for name, value in values.items()})

    def save(self) -> None:
        """Write a checkpoint."""
        if self.checkpoints is None:
            return
        self.settle()
        told = self.told
        tensors = self._tensors()
        tensors["generator.data"] = self.generator.get_state()
        for rank, drawn in enumerate(self.ranks.gathered(torch.get_rng_state())):
            tensors[f"generator.torch.{rank}" if rank else "generator.torch"] = drawn
        if next(self.model.parameters()).device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(next(self.model.parameters()).device)
        tensors["losses"] = torch.tensor(told.losses, dtype=torch.float64)
        values = {
            "run": self.about(),
            "evaluations": told.evaluations,
            "best": told.best,
            "waited": told.waited,
            "seconds": told.seconds,
            "ended": told.ended,
        }
        self.checkpoints.write(told.step, tensors, values)

    def _tensors(self) -> dict[str, Tensor]:
        """Those of the model and the optimizer, by name."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state = self.optimizer.state_dict()["state"]
        for i, name in enumerate(_in_order(self.optimizer, self.model)):
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.get(i, {}).items()}
        return tensors

    def _shared_out(self) -> dict[str, Tensor] | None:
        """Tensors of which each process holds a share, to be read in place; `None` where there are none."""
        like = {}
        for name, p in self.model.named_parameters():
            if hasattr(p, "full_tensor"):
                like[f"model.{name}"] = p.detach()
                if p.requires_grad:
                    like |= {f"optimizer.{name}.{key}": torch.zeros_like(p.detach()) for key in AVERAGES}
        return like or None

    def restore(self) -> None:
        """Go on from the newest checkpoint, where there is one."""
        found = None if self.checkpoints is None else self.checkpoints.newest(like=self._shared_out())
        if found is None:
            return
        tensors, values = found
        place = self.checkpoints.folder if self.checkpoints else ""
        try:
            self._take_up(tensors, values, place)
        except CheckpointError:
            raise
        except (ArithmeticError, LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise CheckpointError(f"{place} holds no run: {reason}; remove it to begin anew.") from None

    def _take_up(self, tensors: dict[str, Tensor], values: dict[str, Any], place: object) -> None:
        """Tensors and values of a checkpoint, which anyone may have written."""
        if values["run"] != self.about():
            raise CheckpointError(
                f"{place} is of another run: {_difference(values['run'], self.about())}. Name another "
                "folder, or begin anew."
            )
        told = _fitted(values, tensors["losses"])
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = tensor
        self.model.load_state_dict(parts["model"])
        self._restore_optimizer(parts.get("optimizer", {}))
        self.generator.set_state(parts["generator"]["data"])
        own = parts["generator"].get(f"torch.{self.ranks.rank}" if self.ranks.rank else "torch")
        if own is not None:
            torch.set_rng_state(own)
        if "cuda" in parts["generator"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(parts["generator"]["cuda"])
        self.told = told

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for i, name in enumerate(_in_order(self.optimizer, self.model)):
            own = {key.rpartition(".")[2]: x for key, x in tensors.items() if key.rpartition(".")[0] == name}
            if own:
                state[i] = own
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def about(self) -> dict[str, Any]:
        """What a checkpoint has to agree in."""
        options = self.options.to_dict()
        for name in ("checkpoint_every", "keep", "log_every"):
            del options[name]  # these change no loss
        tasks = [f"{stage.steps} steps of {_told(stage.task)}" for stage in self.stages]
        shapes = {name: list(p.shape) for name, p in self.model.named_parameters()}
        return {"options": options, "tasks": tasks, "parameters": shapes}

    def where(self) -> str:
        """What an interrupted run says last."""
        if self.checkpoints is None:
            return f"interrupted at step {self.told.step}"
        return f"interrupted at step {self.told.step}; the same call goes on from {self.checkpoints.folder}"

    def settle(self) -> None:
        """Losses that are still on the device, in numbers."""
        if self._pending:
            last = self._pending.pop()
            self.told.losses.pop()
            self.take(last, wait=True)

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._log, self._board):
            if file is not None:
                file.close()


def _told(task: Task) -> str:
    """A task with all its options, where it lists them; what it says of itself otherwise."""
    return repr(task) if is_dataclass(task) else task.description


def _optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.rate, betas=(options.beta1, options.beta2))


def _in_order(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of the parameters in the optimizer's order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Where two descriptions of a run part."""
    found = []
    for name in one["options"]:
        was, now = one["options"][name], other["options"].get(name)
        if was != now:
            found.append(f"{name} was {was} and is {now}")
    if one["tasks"] != other["tasks"]:
        found.append(f"the tasks were {one['tasks']} and are {other['tasks']}")
    if one["parameters"] != other["parameters"]:
        found.append("the model has other parameters")
    return "; ".join(found)


def _fitted(values: dict[str, Any], losses: Tensor) -> Fitted:
    """How far a checkpoint says that a run has come, if it says so as `Run.save` does."""
    names = ("step", "evaluations", "best", "waited", "seconds", "ended")
    step, evaluations, best, waited, seconds, ended = (values[name] for name in names)
    forms = [
        type(step) is int and losses.shape == (step,) and losses.is_floating_point(),
        isinstance(evaluations, list) and all(isinstance(line, dict) for line in evaluations),
        best is None or isinstance(best, float | int),
        type(waited) is int,
        isinstance(seconds, float | int),
        isinstance(ended, str),
    ]
    if not all(forms):
        raise ValueError(f"its {names[forms.index(False)]} is not as it was written")
    return Fitted(step, losses.tolist(), evaluations, best, waited, seconds, ended)
