r"""MAD's tasks without queries: selective copying, compression, memorization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bmojo.tasks.mad import MadTask
from bmojo.tasks.mad_recall import SIZES
from bmojo.tasks.protocol import Batch, require

__all__ = ["Compression", "Memorization", "SelectiveCopying"]


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(MadTask):
    """Tokens strewn among blanks are to be told again, in their order, after a copy token.

    Each blank falls before one of the tokens, each as likely. The last `tokens` places are blanks whose
    targets are the tokens. The last token of the vocabulary asks for the copy, the one before it is blank.

    Parameters
    ----------
    vocabulary, length, examples, seed, answers_only
        As for `MadTask`.
    tokens : int
        Tokens to be copied.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import SelectiveCopying
    >>> task = SelectiveCopying(length=12, tokens=3, examples=0)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> batch.tokens[0].tolist(), batch.targets[batch.mask].tolist()
    ([14, 14, 4, 14, 14, 14, 3, 7, 15, 14, 14, 14], [4, 3, 7])
    """

    name: ClassVar[str] = "selective_copying"
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "vocabulary": (32, 64, 128),
        "length": (512, 1024),
        "examples": SIZES,
        "tokens": (32, 64, 96),
    }

    length: int = 256
    tokens: int = 16

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the tokens that may be copied."""
        return 1 / (self.vocabulary - 2)

    def _check(self) -> None:
        require(self.name, self.vocabulary >= 3, "vocabulary must be at least 3.")
        require(
            self.name,
            self.tokens >= 1 and self.length > 2 * self.tokens + 1,
            f"length={self.length} came with tokens={self.tokens}; more than {2 * self.tokens + 1} places "
            "are needed.",
        )

    def new(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` new sequences."""
        blank, copy, count = self.vocabulary - 2, self.vocabulary - 1, self.tokens
        wanted = torch.randint(blank, (batch, count), generator=generator)
        blanks = torch.randint(count, (batch, self.length - 2 * count - 1), generator=generator)
        before = torch.zeros(batch, count, dtype=torch.int64)
        before.scatter_add_(1, blanks, torch.ones_like(blanks))
        sequence = torch.full((batch, self.length), blank)
        sequence.scatter_(1, torch.arange(count) + before.cumsum(dim=1), wanted)
        sequence[:, -count - 1] = copy
        targets, mask = torch.zeros_like(sequence), torch.zeros_like(sequence, dtype=torch.bool)
        targets[:, -count:], mask[:, -count:] = wanted, True
        return Batch(sequence, targets, mask)


@dataclass(frozen=True, kw_only=True)
class Compression(MadTask):
    """The whole sequence is to be rebuilt from the hidden state at its last token.

    Random tokens, then the compression token; every token is its own target, and `pooled` tells the model to
    answer from the last hidden state alone (`bmojo.training.PooledLM`).

    Parameters
    ----------
    vocabulary, length, examples, seed, answers_only
        As for `MadTask`.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import Compression
    >>> batch = Compression(length=6).sample(1, torch.Generator().manual_seed(0))
    >>> torch.equal(batch.tokens, batch.targets), batch.tokens[0, -1].item(), bool(batch.mask.all())
    (True, 15, True)
    """

    name: ClassVar[str] = "compression"
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "vocabulary": (32, 64, 128),
        "length": (64, 128, 256),
        "examples": SIZES,
    }
    pooled: ClassVar[bool] = True

    length: int = 32

    @property
    def chance(self) -> float:
        """Accuracy of one token said everywhere: one over the tokens, where the last is not among them."""
        return max(1.0, (self.length - 1) / (self.vocabulary - 1)) / self.length

    def _check(self) -> None:
        require(self.name, self.vocabulary >= 2, "vocabulary must be at least 2.")

    def new(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` new sequences."""
        last = self.vocabulary - 1
        sequence = torch.randint(last, (batch, self.length), generator=generator)
        sequence[:, -1] = last
        return Batch(sequence, sequence, torch.ones_like(sequence, dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class Memorization(MadTask):
    """A fixed map from keys to values, to be learned by heart: what is in weights.

    Keys, each followed by an insert token at which the key's value is due. The map is that of the seed, in
    training and in judging; values never stand in the sequence.

    Parameters
    ----------
    vocabulary, length, examples, seed, answers_only
        As for `MadTask`.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import Memorization
    >>> task = Memorization(length=4)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> batch.tokens[0, 1::2].tolist(), batch.mask[0].tolist()
    ([255, 255], [False, True, False, True])
    """

    name: ClassVar[str] = "memorization"
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {"vocabulary": (512, 1024, 2048, 4096, 8192)}

    vocabulary: int = 256
    length: int = 32
    examples: int = 256

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the keys, each with a value of its own."""
        return 1 / len(self.values)

    @property
    def values(self) -> Tensor:
        """Value of each key, int64 (keys,)."""
        plain = self.vocabulary - 1
        order = torch.randperm(plain - plain // 2, generator=torch.Generator().manual_seed(self.seed))
        return plain // 2 + order[: plain // 2]

    def _check(self) -> None:
        require(self.name, self.vocabulary >= 3, "vocabulary must be at least 3.")
        require(self.name, self.length % 2 == 0, f"length={self.length} came; it must be even.")

    def new(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` new sequences."""
        values = self.values
        keys = torch.randint(len(values), (batch, self.length // 2), generator=generator)
        insert, blank = torch.full_like(keys, self.vocabulary - 1), torch.zeros_like(keys)
        sequence = torch.stack([keys, insert], dim=-1).flatten(1)
        targets = torch.stack([blank, values[keys]], dim=-1).flatten(1)
        mask = torch.zeros_like(sequence, dtype=torch.bool)
        mask[:, 1::2] = True
        return Batch(sequence, targets, mask)
