"""The gradient of a step, of which each process computes its sequences and its part of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bmojo.layer import BMojo
from bmojo.tasks.protocol import Drawn
from bmojo.training.errors import ConfigurationError
from bmojo.training.evaluation import autocast
from bmojo.training.options import TrainOptions
from bmojo.training.parallel.context import ContextParallel
from bmojo.training.parallel.ranks import Ranks

__all__ = ["Gradient", "sharded"]


class _Answers(nn.Module):
    """The loss of a model on some answers, as a module: so that it can be wrapped."""

    def __init__(self, model: Any, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, tokens: Tensor, index: Tensor, answers: Tensor, total: int) -> Tensor:
        """Sum of the cross-entropies at the flat positions `index` (N,), over the answers of the step."""
        with autocast(tokens.device, self.precision):
            hidden = self.model.hidden(tokens).flatten(0, 1)
            logits = self.model.readout(hidden[index])
        if len(index) == total:
            return cross_entropy(logits.float(), answers)
        return cross_entropy(logits.float(), answers, reduction="sum") / total


def sharded(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model, each parameter shared out over all processes where the options say so.

    Parameters
    ----------
    model : torch.nn.Module
        With `hidden` and `readout`; changed in place.
    ranks : Ranks
    """
    if ranks.size == 1 or ranks.options.data != "fsdp":
        return model
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = ranks.mesh._flatten("shards") if ranks.context > 1 else ranks.mesh["data"]
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in ("hidden", "readout"):
        register_fsdp_forward_method(model, name)
    return model


class Gradient:
    """The gradient of a step's loss, in every process that of the whole batch.

    Parameters
    ----------
    model : torch.nn.Module
        As `sharded` returns it.
    ranks : Ranks
    options : TrainOptions

    Raises
    ------
    ConfigurationError
        If the model answers from its last hidden state alone, and sequences are to be shared out.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, options: TrainOptions) -> None:
        self.model, self.ranks, self.options = model, ranks, options
        self.answers: nn.Module = _Answers(model, options.precision)
        self.context = ContextParallel(ranks.line) if ranks.context > 1 else None
        if self.context is not None and hasattr(model, "decoder"):
            raise ConfigurationError(
                "[parallel] context came with a task that is answered from the last hidden state alone; "
                "share out the batch (context = 1)."
            )
        self.fsdp = ranks.size > 1 and ranks.options.data == "fsdp"
        # A wave over pieces of a batch runs backwards after it ran forwards: the sum is taken behind it.
        self.wrapped = ranks.size > 1 and not self.fsdp and self.context is None
        if self.wrapped:
            from torch.nn.parallel import DistributedDataParallel

            here = [ranks.device] if ranks.device.type == "cuda" else None
            self.answers = DistributedDataParallel(self.answers, device_ids=here)
        self.layers = [layer for layer in model.modules() if isinstance(layer, BMojo)]

    def take(self, drawn: Sequence[Drawn]) -> Tensor:
        """Compute the gradient on the batches of a step's passes; returns the loss, still on its device.

        Parameters
        ----------
        drawn : sequence of Drawn
            Whole batches, the same in every process.
        """
        total = sum(int(batch.mask.sum()) for batch in drawn)
        losses = []
        for number, batch in enumerate(drawn):
            last = number == len(drawn) - 1
            if self.context is None:
                losses.append(self._pass(batch, total, len(drawn), last))
            else:
                losses += self._along(batch, total, len(drawn), last)
        self._share(1.0)
        if self.ranks.size > 1 and not self.fsdp and not self.wrapped:
            self._sum()
        return self.ranks.total(torch.stack(losses).sum())

    def _pass(self, batch: Drawn, total: int, passes: int, last: bool) -> Tensor:
        rows = self.ranks.rows(len(batch.tokens))
        quiet: Any = nullcontext()
        if self.wrapped and not last:
            quiet = self.answers.no_sync()  # pyright: ignore
        if self.fsdp:
            self.model.set_requires_gradient_sync(last)  # pyright: ignore
        self._share((rows.stop - rows.start) / (len(batch.tokens) * passes))
        with quiet:
            loss = self.answers(*self._given(batch, rows, slice(None)), total)
            self._backward(loss)
        return loss.detach()

    def _along(self, batch: Drawn, total: int, passes: int, last: bool) -> list[Tensor]:
        """The sequences in pieces, all of them forwards, then backwards."""
        assert self.context is not None
        rows, pieces = self.ranks.rows(len(batch.tokens)), self.ranks.options.pieces
        edges = [rows.start + i * (rows.stop - rows.start) // pieces for i in range(pieces + 1)]
        losses = []
        with self.context.along(self.model, length=batch.tokens.shape[1]) as part:
            along = (part.stop - part.start) / batch.tokens.shape[1]
            for number in range(pieces):
                own = slice(edges[number], edges[number + 1])
                self.context.piece = number
                self._share(along * (own.stop - own.start) / (len(batch.tokens) * passes))
                losses.append(self.answers(*self._given(batch, own, part), total))
            for number, loss in enumerate(losses):
                self.context.piece = number
                if self.fsdp:
                    self.model.set_requires_gradient_sync(last and number == pieces - 1)  # pyright: ignore
                self._backward(loss)
        return [loss.detach() for loss in losses]

    def _backward(self, loss: Tensor) -> None:
        # Wrapped models take the mean over the processes, where the sum is meant.
        (loss * self.ranks.size if self.fsdp or self.wrapped else loss).backward()

    def _share(self, share: float) -> None:
        """The part of a step's tokens over which the predictors' losses of the next pass are means."""
        scale = self.ranks.size if share < 1.0 and (self.fsdp or self.wrapped) else 1
        for layer in self.layers:
            layer.prediction_share = share * scale

    def _given(self, batch: Drawn, rows: slice, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, places and answers of some sequences' part, on this process's device."""
        device = self.ranks.device
        index = batch.mask[rows, part].flatten().nonzero()[:, 0]
        answers = batch.targets[rows, part].flatten()[index]
        given = batch.tokens[rows, part].contiguous(), index, answers
        tokens, index, answers = (x.to(device, non_blocking=True) for x in given)
        return tokens, index, answers

    def _sum(self) -> None:
        """The sum of the gradients over all processes, of many parameters in one message."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        for kind in {g.dtype for g in gradients}:
            of_kind = [g for g in gradients if g.dtype is kind]
            flat = self.ranks.total(torch.cat([g.flatten() for g in of_kind]))
            for gradient, part in zip(of_kind, flat.split([g.numel() for g in of_kind]), strict=True):
                gradient.copy_(part.view_as(gradient))
