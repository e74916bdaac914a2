"""How well a model does a task: loss, accuracy, by part and by position."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bmojo.tasks.protocol import Batch, Drawn, Task
from bmojo.training.parallel.context import ContextParallel
from bmojo.training.parallel.ranks import Ranks

__all__ = ["Evaluation", "Score", "autocast", "evaluate"]


@dataclass(frozen=True)
class Score:
    """Loss in nats and accuracy over a number of answers.

    Parameters
    ----------
    loss : float
    accuracy : float
    count : int
    """

    loss: float
    accuracy: float
    count: int

    @property
    def bits(self) -> float:
        """Loss in bits."""
        return self.loss / math.log(2)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Parameters
    ----------
    loss : float
        Cross-entropy of the answers, in nats.
    accuracy : float
        Share of right answers.
    macro_accuracy : float
        Mean over the answers' tokens of the share that is right, each token counted alike (as MAD does).
    count : int
        Answers.
    parts : dict of str to Score
        The same over the batch's parts.
    position_loss : list of float
        Mean loss by position, NaN where nothing counted.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> from bmojo.tasks import MQAR
    >>> from bmojo.training import evaluate
    >>> task = MQAR(pairs=2, length=16, vocabulary=32)
    >>> model = BMojoLM(32, [BMojoConfig(d_model=8, heads=2, window=4, eidetic=2, state_size=2)])
    >>> found = evaluate(model, task, sequences=10)
    >>> found.count, len(found.position_loss), found.accuracy < 0.5
    (20, 16, True)
    """

    loss: float
    accuracy: float
    macro_accuracy: float
    count: int
    parts: dict[str, Score] = field(default_factory=dict)
    position_loss: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the loss by position."""
        plain = {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "macro_accuracy": self.macro_accuracy,
            "count": self.count,
        }
        parts = {
            name: {"loss": s.loss, "accuracy": s.accuracy, "count": s.count} for name, s in self.parts.items()
        }
        return plain | ({"parts": parts} if parts else {})


def autocast(device: torch.device, precision: str) -> Any:
    """Passes in bfloat16 where that is asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    *,
    sequences: int = 256,
    seed: int = 12345,
    batch: int = 64,
    eidetic: int | None = None,
    precision: str = "float32",
    ranks: Ranks | None = None,
) -> Evaluation:
    """Judge a model on sequences of a task, as they are: give `task.held_out` for those of judging.

    Parameters
    ----------
    model : BMojoLM
        Or what else has `hidden` and `readout`.
    task : Task
    sequences : int
    seed : int
        Of the sequences.
    batch : int
        Sequences of a pass.
    eidetic : int, optional
        Places of the eidetic sets, where the model has them; those of training when left out.
    precision : {"float32", "bfloat16"}
        Of the passes.
    ranks : Ranks, optional
        The processes that share the sequences, each of which calls this and gets the same.

    Returns
    -------
    Evaluation

    Examples
    --------
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> from bmojo.tasks import GapRecall
    >>> from bmojo.training import evaluate
    >>> model = BMojoLM(64, [BMojoConfig(d_model=8, heads=2, window=4, eidetic=2, state_size=2)])
    >>> evaluate(model, GapRecall(), sequences=4, eidetic=16).count
    32
    """
    was_training, tally = model.training, _Tally(task.vocabulary)
    model.eval()
    try:
        device = next(model.parameters()).device
        for whole in _batches(task, sequences, batch, torch.Generator().manual_seed(seed)):
            drawn, first, along = _own(whole, model, ranks)
            index = drawn.mask.flatten().nonzero()[:, 0]
            with along, autocast(device, precision):
                hidden = _hidden(model, drawn.tokens.to(device), eidetic)
                logits = model.readout(hidden.flatten(0, 1)[index.to(device)])  # pyright: ignore[reportCallIssue]
            tally.add(drawn, index, logits.float(), first, whole.tokens.shape[1])
    finally:
        model.train(was_training)
        if ranks is not None and hasattr(model, "reshard"):
            # Parameters that are left whole would have no gradient in the next pass.
            model.reshard()  # pyright: ignore[reportCallIssue]
    if ranks is not None and ranks.size > 1:
        tally.join(ranks)
    return tally.result()


def _own(drawn: Drawn, model: nn.Module, ranks: Ranks | None) -> tuple[Drawn, int, Any]:
    """The process's own sequences, its part of them, the part's first position, and what joins the parts."""
    if ranks is None or ranks.size == 1:
        return drawn, 0, nullcontext()
    batch, length = drawn.tokens.shape
    rows, part, along = ranks.rows(batch), ranks.columns(length), nullcontext()
    if ranks.context > 1:
        along = ContextParallel(ranks.line).along(model, length=length)
    mask = drawn.mask
    if rows.start == rows.stop:  # no sequence is left for this process: it goes along, and counts nothing
        rows, mask = slice(0, 1), torch.zeros_like(mask)
    parts = {name: (x & mask)[rows, part] for name, x in drawn.parts.items()}
    tokens = drawn.tokens[rows, part].contiguous()
    return Batch(tokens, drawn.targets[rows, part], mask[rows, part], parts), part.start, along


def _batches(task: Task, sequences: int, batch: int, generator: torch.Generator) -> Iterator[Drawn]:
    for start in range(0, sequences, batch):
        yield task.sample(min(batch, sequences - start), generator)


def _hidden(model: Any, tokens: Tensor, eidetic: int | None) -> Tensor:
    if eidetic is None:
        return model.hidden(tokens)
    return model.hidden(tokens, model.init_state(len(tokens), eidetic=eidetic))[0]


class _Tally:
    """Sums over batches, kept in float64."""

    def __init__(self, vocabulary: int) -> None:
        self.right_of = torch.zeros(vocabulary, dtype=torch.float64)
        self.count_of = torch.zeros(vocabulary, dtype=torch.float64)
        self.loss = 0.0
        self.by_position = torch.zeros(0, dtype=torch.float64)
        self.count_by_position = torch.zeros(0, dtype=torch.float64)
        self.parts: dict[str, list[float]] = {}

    def add(self, drawn: Drawn, index: Tensor, logits: Tensor, first: int, whole: int) -> None:
        """Count the answers (N, V) due at the flat positions `index` (N,) of sequences' part.

        The part begins at `first` of `whole` positions.
        """
        targets = drawn.targets.flatten()[index]
        losses = cross_entropy(logits, targets.to(logits.device), reduction="none").double().cpu()
        right = (logits.argmax(-1).cpu() == targets).double()
        self.loss += float(losses.sum())
        self.right_of.index_add_(0, targets, right)
        self.count_of.index_add_(0, targets, torch.ones_like(right))
        length = drawn.tokens.shape[1]
        if not len(self.by_position):
            self.by_position = torch.zeros(whole, dtype=torch.float64)
            self.count_by_position = torch.zeros(whole, dtype=torch.float64)
        self.by_position.index_add_(0, first + index % length, losses)
        self.count_by_position.index_add_(0, first + index % length, torch.ones_like(losses))
        for name, part in drawn.parts.items():
            inside = part.flatten()[index]
            sums = self.parts.setdefault(name, [0.0, 0.0, 0.0])
            for i, values in enumerate((losses, right, torch.ones_like(right))):
                sums[i] += float(values[inside].sum())

    def join(self, ranks: Ranks) -> None:
        """Add what the other processes counted."""
        names = list(self.parts)
        sums = torch.tensor([self.loss, *(x for n in names for x in self.parts[n])], dtype=torch.float64)
        counted = (self.right_of, self.count_of, self.by_position, self.count_by_position)
        self.right_of, self.count_of, self.by_position, self.count_by_position = map(ranks.total, counted)
        self.loss, *rest = ranks.total(sums).tolist()
        self.parts = {name: rest[3 * i : 3 * i + 3] for i, name in enumerate(names)}

    def result(self) -> Evaluation:
        """The means."""
        count, there = int(self.count_of.sum()), self.count_of > 0
        parts = {
            name: Score(loss / n if n else math.nan, right / n if n else math.nan, int(n))
            for name, (loss, right, n) in self.parts.items()
        }
        return Evaluation(
            self.loss / count,
            float(self.right_of.sum()) / count,
            float((self.right_of[there] / self.count_of[there]).mean()),
            count,
            parts,
            (self.by_position / self.count_by_position).tolist(),
        )
