"""Training and judging on gap recall: the loop with the options that the demo and its benchmarks use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bmojo.models.language_model import BMojoLM
from bmojo.tasks.recall import GapRecall
from bmojo.training.loop import Stage, fit
from bmojo.training.options import TrainOptions

__all__ = ["recall_accuracy", "train_recall"]


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

    `fit` with its usual options and no files.

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
    steps = sum(stage.steps for stage in stages)
    options = TrainOptions(steps=steps, rate=rate, batch=batch, warmup=warmup, seed=seed, sequences=0)
    return fit(model, stages, options, on_step=on_step).losses


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
