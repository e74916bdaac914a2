r"""The six tasks of mechanistic architecture design (MAD), at their baseline settings and over their sweeps.

A task is trained on a fixed set of `examples` sequences, drawn from `seed`; `held_out` draws new ones, and
counts answers alone where training predicts every next token.

References
----------
M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024, section 3
and appendix; its published generators.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from bmojo.tasks.protocol import Batch, describe, require

__all__ = ["MadTask", "mad_sweep", "pool"]

Made = TypeVar("Made", bound="MadTask")


@dataclass(frozen=True, kw_only=True)
class MadTask:
    """What the six have in common: a fixed training set, and new sequences to be judged on.

    Parameters
    ----------
    vocabulary : int
    length : int
        Length in MAD's count.
    examples : int
        Sequences of the training set; 0 draws new ones at each step.
    seed : int
        Of the training set.
    answers_only : bool
        Whether only answers count, as in judging; else every target that there is.
    """

    name: ClassVar[str]
    changes: ClassVar[Mapping[str, tuple[Any, ...]]]  # difficulty, one option at a time
    pooled: ClassVar[bool] = False  # whether all answers are read out of the last hidden state

    vocabulary: int = 16
    length: int = 128
    examples: int = 12_800
    seed: int = 12345
    answers_only: bool = False

    def __post_init__(self) -> None:
        require(self.name, self.examples >= 0, f"examples={self.examples} came; at least 0 is needed.")
        require(self.name, self.length >= 2, f"length={self.length} came; at least 2 is needed.")
        self._check()

    @property
    def description(self) -> str:
        """The task in one line."""
        own = asdict(self)
        shown = {key: own[key] for key in ("vocabulary", "length", "examples", *self.changes)}
        return describe(f"MAD {self.name.replace('_', ' ')}", **shown)

    @property
    def held_out(self: Made) -> Made:
        """New sequences, of which only the answers count."""
        return replace(self, examples=0, answers_only=True)

    @property
    def chance(self) -> float:
        """Accuracy of the best answer that looks at no token."""
        raise NotImplementedError

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` sequences: of the training set with replacement, or new ones."""
        if not self.examples:
            return self.new(batch, generator)
        whole = pool(self)
        rows = torch.randint(self.examples, (batch,), generator=generator)
        return Batch(whole.tokens[rows].long(), whole.targets[rows].long(), whole.mask[rows])

    def new(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` sequences that are not of the training set."""
        raise NotImplementedError

    def _check(self) -> None:
        """Refuse options that do not fit together."""

    def _next_tokens(self, sequence: Tensor, answers: Tensor) -> Batch:
        """Sequences and where answers stand in them (B, T + 1), as next-token prediction (B, T)."""
        mask = answers[:, 1:] if self.answers_only else torch.ones_like(answers[:, 1:])
        return Batch(sequence[:, :-1].contiguous(), sequence[:, 1:].contiguous(), mask.contiguous())


@functools.lru_cache(maxsize=8)
def pool(task: MadTask) -> Batch:
    """The training set of a task, in small integers.

    Parameters
    ----------
    task : MadTask
    """
    generator, parts = torch.Generator().manual_seed(task.seed), []
    for start in range(0, task.examples, 256):
        parts.append(task.new(min(256, task.examples - start), generator))
    kind = torch.int16 if task.vocabulary < 1 << 15 else torch.int32
    return Batch(
        torch.cat([part.tokens for part in parts]).to(kind),
        torch.cat([part.targets for part in parts]).to(kind),
        torch.cat([part.mask for part in parts]),
    )


def mad_sweep(task: Made) -> Iterator[Made]:
    """The task, then each of its changes of difficulty, one option at a time.

    Parameters
    ----------
    task : MadTask
        The baseline.

    Examples
    --------
    >>> from bmojo.tasks import Memorization, mad_sweep
    >>> [task.vocabulary for task in mad_sweep(Memorization())]
    [256, 512, 1024, 2048, 4096, 8192]
    """
    yield task
    for option, values in task.changes.items():
        for value in values:
            yield replace(task, **{option: value})
