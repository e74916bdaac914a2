"""What a task is: sequences, what is to be predicted, and where it counts. One loop trains any."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Batch", "Drawn", "Task", "describe", "require", "without_replacement"]


@runtime_checkable
class Drawn(Protocol):
    """What `sample` returns; `Batch` is the plain one."""

    @property
    def tokens(self) -> Tensor:
        """Tokens, int64 (B, T)."""
        ...

    @property
    def targets(self) -> Tensor:
        """At each position the token that is to be told there, int64 (B, T)."""
        ...

    @property
    def mask(self) -> Tensor:
        """Where that counts, bool (B, T)."""
        ...

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """Parts of the mask that are also measured by themselves, bool (B, T)."""
        ...


class Batch(NamedTuple):
    """Sequences with what is to be predicted at each position, and where that counts.

    Parameters
    ----------
    tokens : Tensor of int64, shape (B, T)
    targets : Tensor of int64, shape (B, T)
        What logits at a position should tell: the next token, or the answer to the query that stands there.
    mask : Tensor of bool, shape (B, T)
        Positions that count; targets elsewhere mean nothing.
    parts : mapping of str to Tensor of bool, shape (B, T)
        Positions among them that are measured by themselves too.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import MQAR
    >>> task = MQAR(pairs=2, length=12, vocabulary=16, filler="zero")
    >>> batch = task.sample(3, torch.Generator().manual_seed(0))
    >>> batch.tokens.shape, batch.mask.sum(dim=1)
    (torch.Size([3, 12]), tensor([2, 2, 2]))
    """

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    parts: Mapping[str, Tensor] = MappingProxyType({})


@runtime_checkable
class Task(Protocol):
    """A generator of sequences.

    A task holds its options and no state: what `sample` draws depends on the options and the generator
    alone, so that the generator's state is all that a checkpoint has to keep.

    Examples
    --------
    >>> from bmojo.tasks import GapRecall, Task
    >>> isinstance(GapRecall(), Task)
    True
    """

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        ...

    @property
    def length(self) -> int:
        """Tokens of a sequence, `T`."""
        ...

    @property
    def chance(self) -> float:
        """Accuracy of the best answer that looks at no token."""
        ...

    @property
    def description(self) -> str:
        """The task and its options in one line."""
        ...

    @property
    def held_out(self) -> Task:
        """The task that judges what was trained on this one: other sequences, answers only."""
        ...

    def sample(self, batch: int, generator: torch.Generator) -> Drawn:
        """Draw `batch` sequences."""
        ...


def describe(name: str, **options: Any) -> str:
    """A name and options in one line.

    Examples
    --------
    >>> from bmojo.tasks.protocol import describe
    >>> describe("MQAR", pairs=8, filler="random")
    'MQAR: pairs 8, filler random'
    """
    return f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.items())


def require(task: str, holds: bool, message: str) -> None:
    """Refuse options that do not fit together, in the name of the task."""
    if not holds:
        raise ValueError(f"{task}: {message}")


def without_replacement(batch: int, count: int, of: int, generator: torch.Generator) -> Tensor:
    """For each of `batch` sequences `count` different numbers below `of`, in random order, (batch, count)."""
    return torch.rand(batch, of, generator=generator).topk(count, dim=1).indices
