r"""MAD's recall tasks: in context, noisy, fuzzy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bmojo.tasks.mad import MadTask
from bmojo.tasks.protocol import Batch, require

__all__ = ["FuzzyRecall", "InContextRecall", "NoisyRecall"]

SIZES = (6400, 3200, 1600, 800)
LENGTHS = (256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class InContextRecall(MadTask):
    r"""Key-value pairs whose keys come back: the value of a key that was shown before is due.

    `length / 2` pairs; keys are drawn alike from the first half of the vocabulary, and each has one value of
    the second half in a sequence. The last key is always one that was shown. Next tokens are predicted in
    training; the values of repeated keys are judged.

    Parameters
    ----------
    vocabulary, length, examples, seed, answers_only
        As for `MadTask`; the sequence has `length - 1` tokens, its last target stands beyond them.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import InContextRecall
    >>> batch = InContextRecall(length=12).held_out.sample(1, torch.Generator().manual_seed(1))
    >>> batch.tokens[0].tolist()
    [5, 9, 3, 8, 4, 8, 0, 11, 7, 15, 7]
    >>> batch.mask[0].nonzero()[:, 0].tolist(), batch.targets[batch.mask].tolist()
    ([10], [15])
    """

    name: ClassVar[str] = "in_context_recall"
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "vocabulary": (32, 64, 128),
        "length": LENGTHS,
        "examples": SIZES,
    }

    @property
    def noise_tokens(self) -> int:
        """Tokens of the vocabulary that are noise."""
        return 0

    @property
    def noise_share(self) -> float:
        """Chance that noise stands in place of a pair."""
        return 0.0

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the number of values."""
        plain = self.vocabulary - self.noise_tokens
        return 1 / (plain - plain // 2)

    def _check(self) -> None:
        require(self.name, self.length % 2 == 0, f"length={self.length} came; it must be even.")
        require(
            self.name,
            self.vocabulary - self.noise_tokens >= 2,
            f"vocabulary={self.vocabulary} came with {self.noise_tokens} tokens of noise; a key and a value "
            "are needed beside them.",
        )

    def new(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` new sequences."""
        plain, count = self.vocabulary - self.noise_tokens, self.length // 2
        keys_of, rows = plain // 2, torch.arange(batch)

        def draw(below: int, *shape: int) -> Tensor:
            return torch.randint(below, shape, generator=generator)

        keys, value_of = draw(keys_of, batch, count), keys_of + draw(plain - keys_of, batch, keys_of)
        noisy = torch.zeros(batch, count, dtype=torch.bool)
        if self.noise_share:
            noisy = torch.rand(batch, count, generator=generator) < self.noise_share
            noisy[rows, draw(count - 1, batch)] = False  # one pair at least, before the last
            noisy[:, -1] = False
        # The last key: any of those that were shown, each as likely.
        shown = torch.zeros(batch, keys_of + 1, dtype=torch.bool)
        shown.scatter_(1, keys[:, :-1].masked_fill(noisy[:, :-1], keys_of), True)
        keys[:, -1] = torch.multinomial(shown[:, :-1].double(), 1, generator=generator)[:, 0]
        own = torch.nn.functional.one_hot(keys, keys_of).bool() & ~noisy.unsqueeze(-1)
        before = (own.cumsum(dim=1) > own).logical_and(own).any(dim=-1)
        pairs = torch.stack([keys, value_of.gather(1, keys)], dim=-1)
        if self.noise_share:
            noise = plain + draw(self.noise_tokens, batch, count, 2)
            pairs = torch.where(noisy.unsqueeze(-1), noise, pairs)
        answers = torch.stack([torch.zeros_like(before), before], dim=-1)
        return self._next_tokens(pairs.flatten(1), answers.flatten(1))


@dataclass(frozen=True, kw_only=True)
class NoisyRecall(InContextRecall):
    """In-context recall with noise of a vocabulary of its own in place of some pairs.

    Parameters
    ----------
    vocabulary, length, examples, seed, answers_only
        As for `MadTask`; the vocabulary includes the noise.
    noise_vocabulary : int
        The last tokens of the vocabulary.
    noise : float
        Chance that two tokens of noise stand in place of a pair.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import NoisyRecall
    >>> batch = NoisyRecall(length=12, noise=0.5).sample(1, torch.Generator().manual_seed(0))
    >>> batch.tokens.shape, round(NoisyRecall().chance, 3)
    (torch.Size([1, 11]), 0.125)
    """

    name: ClassVar[str] = "noisy_recall"
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "vocabulary": (48, 80, 144),
        "length": LENGTHS,
        "examples": SIZES,
        "noise": (0.4, 0.6, 0.8),
    }

    vocabulary: int = 32
    noise_vocabulary: int = 16
    noise: float = 0.2

    @property
    def noise_tokens(self) -> int:
        """Tokens of the vocabulary that are noise."""
        return self.noise_vocabulary

    @property
    def noise_share(self) -> float:
        """Chance that noise stands in place of a pair."""
        return self.noise

    def _check(self) -> None:
        super()._check()
        require(self.name, 0 < self.noise < 1, f"noise={self.noise} came; it must lie in (0, 1).")
        require(self.name, self.noise_vocabulary >= 1, "noise_vocabulary must be at least 1.")
        require(self.name, self.length >= 4, f"length={self.length} came; at least 4 is needed.")


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall(MadTask):
    r"""In-context recall with keys and values of several adjacent tokens, of lengths that vary.

    A key is 1 to `key_size` different tokens of the first half of the vocabulary, a value 1 to `value_size`
    of the second half; the last token pads in front. Judged on keys of the full size. The pair that is asked
    for at the end stands at a random place of the sequence.

    Parameters
    ----------
    vocabulary, length, examples, seed, answers_only
        As for `MadTask`; a sequence has `length` tokens.
    key_size, value_size : int
        Most tokens of a key and of a value.

    Notes
    -----
    In the published generator the pair asked for is, by chance, sometimes never shown; here it always is.

    References
    ----------
    M. Poli, A. W. Thomas et al., *Mechanistic Design and Scaling of Hybrid Architectures*, ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import FuzzyRecall
    >>> batch = FuzzyRecall(length=32).held_out.sample(1, torch.Generator().manual_seed(5))
    >>> int(batch.mask.sum()) >= 1, batch.tokens.shape
    (True, torch.Size([1, 32]))
    """

    name: ClassVar[str] = "fuzzy_recall"
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = InContextRecall.changes

    key_size: int = 3
    value_size: int = 3

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the tokens of values."""
        plain = self.vocabulary - 1
        return 1 / (plain - plain // 2)

    def _check(self) -> None:
        plain, largest = self.vocabulary - 1, self.key_size + self.value_size
        require(self.name, min(self.key_size, self.value_size) >= 1, "key_size, value_size: at least 1.")
        require(
            self.name,
            plain // 2 >= self.key_size and plain - plain // 2 >= self.value_size,
            f"vocabulary={self.vocabulary} came; its halves hold no {self.key_size} and {self.value_size} "
            "different tokens.",
        )
        require(
            self.name,
            self.length > 3 * largest,
            f"length={self.length} came; more than {3 * largest} tokens are needed.",
        )

    def new(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` new sequences."""
        rows, largest = torch.arange(batch), self.key_size + self.value_size
        keys, key_sizes, values, value_sizes = self._pairs(batch, self.length // 2, generator)
        first = self._first_uses(keys)
        values = values.gather(1, first.unsqueeze(-1).expand_as(values))
        value_sizes = value_sizes.gather(1, first)
        sizes = key_sizes + value_sizes
        limit = (self.length - largest - sizes[:, -1]).unsqueeze(1)
        # The pair that is asked for at the end takes the place of the first one behind a random position.
        place = torch.rand(batch, 1, generator=generator) * (limit - largest)
        at = (sizes.cumsum(dim=1) - sizes >= place).long().argmax(dim=1)
        for part in (keys, key_sizes, values, value_sizes):
            part[rows, at] = part[:, -1].clone()
        before = self._first_uses(keys) < torch.arange(keys.shape[1])
        sizes = key_sizes + value_sizes
        shown = sizes.cumsum(dim=1) - sizes < limit
        shown[:, -1] = True
        return self._laid_out(keys, values, before, shown)

    def _pairs(self, batch: int, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Keys (B, P, key_size) and values (B, P, value_size), padded with -1, and their sizes (B, P)."""
        plain, found = self.vocabulary - 1, []
        for lowest, of, size in (
            (0, plain // 2, self.key_size),
            (plain // 2, plain - plain // 2, self.value_size),
        ):
            motif = torch.rand(batch, count, of, generator=generator).topk(size, dim=-1).indices + lowest
            sizes = torch.randint(1, size + 1, (batch, count), generator=generator)
            if self.answers_only and not found:
                sizes = torch.full_like(sizes, size)
            found += [motif.masked_fill(torch.arange(size) >= sizes.unsqueeze(-1), -1), sizes]
        return tuple(found)

    def _first_uses(self, keys: Tensor) -> Tensor:
        """For each pair the first one with its key, (B, P)."""
        code = torch.zeros_like(keys[..., 0])
        for part in keys.unbind(-1):
            code = code * (self.vocabulary + 1) + part + 1
        code, order = code.sort(dim=1, stable=True)
        new = torch.ones_like(code, dtype=torch.bool)
        new[:, 1:] = code[:, 1:] != code[:, :-1]
        leader = torch.where(new, torch.arange(code.shape[1]), 0).cummax(dim=1).values
        return torch.empty_like(order).scatter(1, order, order.gather(1, leader))

    def _laid_out(self, keys: Tensor, values: Tensor, before: Tensor, shown: Tensor) -> Batch:
        """Pairs that are shown behind one another, padded in front, (B, length + 1)."""
        slots = torch.cat([keys, values], dim=-1)
        there = (slots >= 0) & shown.unsqueeze(-1)
        due = torch.zeros_like(there)
        due[..., self.key_size :] = before.unsqueeze(-1)
        there, slots, due = there.flatten(1), slots.flatten(1), due.flatten(1)
        ends = there.sum(dim=1, keepdim=True)
        width = self.length + 1
        # One column more takes what is not shown.
        place = (there.cumsum(dim=1) - 1 + width - ends).masked_fill(~there, width)
        sequence = torch.full((len(slots), width + 1), self.vocabulary - 1)
        sequence.scatter_(1, place, slots)
        answers = torch.zeros(len(slots), width + 1, dtype=torch.bool).scatter(1, place, due & there)
        return self._next_tokens(sequence[:, :-1], answers[:, :-1])
