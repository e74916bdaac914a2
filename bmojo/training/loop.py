"""A training loop that one reads in one sitting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from bmojo.models.language_model import BMojoLM
from bmojo.tasks.recall import GapRecall

__all__ = ["Stage", "recall_accuracy", "train_recall"]


@dataclass(frozen=True)
class Stage:
    """A task, for a number of steps: a curriculum is a list of stages.

    Parameters
    ----------
    task : GapRecall
    steps : int
    """

    task: GapRecall
    steps: int


def train_recall(
    model: BMojoLM,
    stages: Sequence[Stage],
    *,
    seed: int,
    rate: float = 6e-3,
    batch: int = 32,
    warmup: int = 30,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    r"""Train on recall, stage after stage, with one cosine schedule over all of them.

    The loss is the cross-entropy at the queries; the layers attach that of their predictors themselves.

    Parameters
    ----------
    model : BMojoLM
    stages : sequence of Stage
    seed : int
        Of the data.
    rate : float
        Peak learning rate of AdamW; 5 % of it at the end.
    batch : int
        Sequences a step.
    warmup : int
        Steps of linear warm-up.
    on_step : callable, optional
        Called with the step's number (from 1) and its loss.

    Returns
    -------
    losses : list of float
        Cross-entropy at each step, in nats.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    total = sum(stage.steps for stage in stages)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / max(1, warmup)) * (0.525 + 0.475 * math.cos(math.pi * i / total)),
    )
    losses: list[float] = []
    model.train()
    for stage in stages:
        for _ in range(stage.steps):
            tokens, queries, answers = stage.task.sample(batch, generator)
            hidden = model.hidden(tokens)
            loss = cross_entropy(model.readout(hidden[:, queries]).flatten(0, 1), answers.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"the loss is {losses[-1]} at step {len(losses)}; lower the rate ({rate})."
                )
            if on_step is not None:
                on_step(len(losses), losses[-1])
    model.eval()
    return losses


@torch.no_grad()
def recall_accuracy(
    model: BMojoLM, task: GapRecall, *, sequences: int = 256, seed: int = 12345, eidetic: int | None = None
) -> float:
    """Fraction of queries answered right, on sequences of its own seed.

    Parameters
    ----------
    model : BMojoLM
    task : GapRecall
    sequences : int
    seed : int
    eidetic : int, optional
        Budget of the eidetic sets, where the model has them; that of training when left out.
    """
    was_training = model.training
    model.eval()
    tokens, queries, answers = task.sample(sequences, torch.Generator().manual_seed(seed))
    right = 0
    for part, due in zip(tokens.split(64), answers.split(64), strict=True):
        hidden, _ = model.hidden(part, model.init_state(len(part), eidetic=eidetic))
        right += int((model.readout(hidden[:, queries]).argmax(-1) == due).sum())
    model.train(was_training)
    return right / answers.numel()
