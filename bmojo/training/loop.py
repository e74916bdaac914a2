"""A training loop that one reads in one sitting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bmojo.layer import BMojo
from bmojo.tasks.protocol import Drawn, Task
from bmojo.training.evaluation import autocast
from bmojo.training.interruption import Interruption
from bmojo.training.logs import Watch
from bmojo.training.options import TrainOptions
from bmojo.training.standing import Fitted, Run, Stage

__all__ = ["Fitted", "Stage", "fit"]


def fit(
    model: nn.Module,
    stages: Sequence[Stage],
    options: TrainOptions,
    *,
    folder: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
    board: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Fitted:
    r"""Train a model on tasks, stage after stage, with one schedule over all of them.

    The loss is the cross-entropy where a batch's mask says so; layers attach that of their predictors
    themselves. With a folder, checkpoints and a log are kept there, and a run that was interrupted, or
    killed, goes on from its newest checkpoint to the same losses, bit for bit on one device.

    Parameters
    ----------
    model : BMojoLM
        Or what else has `hidden` and `readout`. Trained in place; left in evaluation mode.
    stages : sequence of Stage
        Their steps add up to `options.steps`.
    options : TrainOptions
    folder : path, optional
        Of this run alone.
    watch : Watch, optional
        Who is told how it goes; nobody when left out.
    board : bool
        Whether curves are written for TensorBoard, into the folder.
    on_step : callable, optional
        Called with the step's number (from 1) and its loss.

    Returns
    -------
    Fitted

    Raises
    ------
    DivergedError
        If the loss is no longer finite; a `FloatingPointError`.
    KeyboardInterrupt
        After Ctrl-C, once a checkpoint is written.
    CheckpointError
        If the folder holds another run.
    ValueError
        If the stages' steps do not add up.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> from bmojo.tasks import GapRecall
    >>> from bmojo.training import Stage, TrainOptions, fit
    >>> task = GapRecall(pairs=2, gap=4, vocabulary=8)
    >>> model = BMojoLM(8, [BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=4)])
    >>> fitted = fit(model, [Stage(task, 5)], TrainOptions(steps=5, batch=4))
    >>> len(fitted.losses), fitted.ended, fitted.evaluations[-1]["step"]
    (5, 'steps', 5)
    """
    if sum(stage.steps for stage in stages) != options.steps:
        raise ValueError(f"fit: {[stage.steps for stage in stages]} steps came, options say {options.steps}.")
    run = Run(model, stages, options, folder, board)
    told, step = run.told, run.told.step
    reads = on_step is not None or _at_once(model)
    model.train()
    with Interruption() as interruption:
        try:
            while not told.ended:
                began = time.monotonic()
                for group in run.optimizer.param_groups:
                    group["lr"] = options.rate_at(step)
                drawn = [_task_at(stages, step).sample(options.batch, run.generator) for _ in run.passes]
                loss, norm = _step(model, run.optimizer, drawn, options)
                step = told.step = step + 1
                run.take(loss, wait=reads or _due(step, options.log_every, options.steps))
                told.seconds += time.monotonic() - began
                if options.sequences and _due(step, options.evaluate_every, options.steps):
                    run.take_evaluation(watch)
                if step == options.steps:
                    told.ended = "steps"
                if told.ended:
                    run.settle()
                if _due(step, options.log_every, options.steps):
                    run.log(norm)
                if watch is not None:
                    watch.step(step, loss=run.known, tokens=sum(d.tokens.numel() for d in drawn))
                if on_step is not None:
                    on_step(step, told.losses[-1])
                if run.checkpoints and (
                    interruption.asked
                    or told.ended
                    or (options.checkpoint_every and step % options.checkpoint_every == 0)
                ):
                    run.save()
                if interruption.asked:
                    raise KeyboardInterrupt(run.where())
        finally:
            run.close()
            model.eval()
    return told


def _at_once(model: nn.Module) -> bool:
    """Whether reading a loss costs nothing: a GPU would have to finish its work first."""
    return next(model.parameters()).device.type == "cpu"


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _task_at(stages: Sequence[Stage], step: int) -> Task:
    for stage in stages:
        if step < stage.steps:
            return stage.task
        step -= stage.steps
    raise IndexError(step)


def _step(
    model: Any, optimizer: torch.optim.Optimizer, drawn: Sequence[Drawn], options: TrainOptions
) -> tuple[Tensor, Tensor]:
    """One step on the batches of its passes: the loss, and the norm of its gradient, still on the device."""
    device = next(model.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    places = [batch.mask.flatten().nonzero()[:, 0] for batch in drawn]
    total, losses = sum(len(index) for index in places), []
    for batch, index in zip(drawn, places, strict=True):
        answers = batch.targets.flatten()[index].to(device, non_blocking=True)
        with autocast(device, options.precision):
            hidden = model.hidden(batch.tokens.to(device, non_blocking=True)).flatten(0, 1)
            logits = model.readout(hidden[index.to(device, non_blocking=True)])
        loss = cross_entropy(logits.float(), answers)
        if len(drawn) > 1:  # the mean over all answers of the step, however they fall to the passes
            loss = loss * (len(index) / total)
        loss.backward()
        losses.append(loss.detach())
    if len(drawn) > 1:
        _average_predictors(model, len(drawn))
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if options.clip:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), options.clip, norm)
    optimizer.step()
    return torch.stack(losses).sum(), norm


def _average_predictors(model: nn.Module, passes: int) -> None:
    """The loss of a predictor comes whole with each pass, whatever the share of the pass: take the mean."""
    for layer in model.modules():
        if isinstance(layer, BMojo) and layer.config.eidetic:
            for parameter in layer.predictor.parameters():
                if parameter.grad is not None:
                    parameter.grad /= passes
