"""A training loop that one reads in one sitting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bmojo.tasks.protocol import Drawn, Task
from bmojo.training.interruption import Interruption
from bmojo.training.logs import Watch
from bmojo.training.options import TrainOptions
from bmojo.training.parallel.ranks import Ranks
from bmojo.training.parallel.step import Gradient, sharded
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
    ranks: Ranks | None = None,
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
    ranks : Ranks, optional
        The processes that share the work, each of which calls this; this one alone when left out.

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
    ranks = Ranks(device=next(model.parameters()).device) if ranks is None else ranks
    for stage in stages:
        ranks.check(options.batch, stage.task.length)
    gradient = Gradient(sharded(model, ranks), ranks, options)
    run = ranks.run = Run(model, stages, options, folder, board, ranks)
    told, step = run.told, run.told.step
    reads = on_step is not None or _at_once(model)
    model.train()
    with Interruption(same=1.0 if ranks.size > 1 else 0.0) as interruption:
        try:
            while not told.ended:
                began = time.monotonic()
                for group in run.optimizer.param_groups:
                    group["lr"] = options.rate_at(step)
                drawn = [_task_at(stages, step).sample(options.batch, run.generator) for _ in run.passes]
                loss, norm = _step(gradient, run.optimizer, drawn)
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
                asked = ranks.agreed(interruption.asked)
                if run.checkpoints and (
                    asked or told.ended or (options.checkpoint_every and step % options.checkpoint_every == 0)
                ):
                    run.save()
                if asked:
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
    gradient: Gradient, optimizer: torch.optim.Optimizer, drawn: Sequence[Drawn]
) -> tuple[Tensor, Tensor]:
    """One step on the batches of its passes: the loss, and the norm of its gradient, still on the device."""
    parameters, clip = list(gradient.model.parameters()), gradient.options.clip
    optimizer.zero_grad(set_to_none=True)
    loss = gradient.take(drawn)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    optimizer.step()
    return loss, norm.full_tensor() if isinstance(norm, DTensor) else norm
