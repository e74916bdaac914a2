r"""A needle in long filler: one fact, told once, asked for at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bmojo.tasks.protocol import Batch, describe, require, without_replacement

__all__ = ["Needle"]

MARK, DIGITS = 0, 10


@dataclass(frozen=True)
class Needle:
    r"""Filler with needles `mark, key, digits` in it; at the end mark and key of one, whose digits are due.

    Filler goes round a phrase of `period` tokens that is drawn anew for each sequence, so that it can be
    predicted once it has been seen, and a needle cannot. With `period=0` it is random, and nothing tells a
    needle from it but the mark.

    Token 0 is the mark, 1 to 10 are digits, then come `keys` keys, then the tokens of filler.

    Parameters
    ----------
    length : int
        `T`; a sequence ends with the last but one digit of the answer.
    needles : int
        Facts, of different keys; each in a stretch of its own, of equal length.
    digits : int
        Of a needle.
    depth : float, optional
        Where the needle that is asked for stands, from 0 (first) to 1 (last place before the question);
        anywhere when left out. With several needles they divide the filler among them instead.
    period : int
        Tokens of the phrase; 0: random filler.
    keys : int
        Different keys.
    vocabulary : int

    Raises
    ------
    ValueError
        If the needles do not fit the length, or options do not fit together.

    References
    ----------
    G. Kamradt, *Needle in a Haystack: Pressure Testing LLMs*, 2023; A. Mohtashami, M. Jaggi, *Landmark
    Attention*, NeurIPS 2023 (the passkey among repeated sentences).

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import Needle
    >>> task = Needle(length=24, digits=2, period=3, depth=0.5)
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> batch.tokens[0, 8:12].tolist(), batch.tokens[0, -3:].tolist()
    ([0, 18, 7, 9], [0, 18, 7])
    >>> batch.targets[batch.mask].tolist()
    [7, 9]
    """

    length: int = 256
    needles: int = 1
    digits: int = 4
    depth: float | None = None
    period: int = 12
    keys: int = 16
    vocabulary: int = 64

    def __post_init__(self) -> None:
        require(
            "Needle",
            self.needles >= 1 and self.digits >= 1 and self.period >= 0,
            "needles and digits must be at least 1, period at least 0.",
        )
        require(
            "Needle",
            1 <= self.needles <= self.keys and self.vocabulary > self._first_filler,
            f"keys={self.keys}, vocabulary={self.vocabulary} came; there must be a key for each needle, and "
            f"tokens of filler beside the mark, {DIGITS} digits and the keys.",
        )
        require(
            "Needle",
            self.room >= self.needles * self._size,
            f"length={self.length} came; {self.needles} needles of {self._size} tokens and the question need "
            f"{self.needles * self._size + self.digits + 1}.",
        )
        require(
            "Needle",
            self.depth is None or (self.needles == 1 and 0 <= self.depth <= 1),
            f"depth={self.depth} came; it must lie in [0, 1], and is for one needle.",
        )

    @property
    def room(self) -> int:
        """Tokens before the question."""
        return self.length - self.digits - 1

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess of a digit."""
        return 1 / DIGITS

    @property
    def description(self) -> str:
        """The task in one line."""
        filler = f"phrases of {self.period}" if self.period else "random"
        return describe(
            "needle", length=self.length, needles=self.needles, digits=self.digits, filler=filler
        ) + ("" if self.depth is None else f", depth {self.depth:g}")

    @property
    def held_out(self) -> Needle:
        """Itself: every sequence is new."""
        return self

    @property
    def _size(self) -> int:
        return self.digits + 2

    @property
    def _first_filler(self) -> int:
        return 1 + DIGITS + self.keys

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` sequences."""
        rows, count = torch.arange(batch), self.needles
        keys = 1 + DIGITS + without_replacement(batch, count, self.keys, generator)
        digits = 1 + torch.randint(DIGITS, (batch, count, self.digits), generator=generator)
        starts = self._starts(batch, generator)
        facts = torch.cat([torch.full((batch, count, 1), MARK), keys.unsqueeze(-1), digits], dim=-1)
        places = starts.unsqueeze(-1) + torch.arange(self._size)
        tokens = self._filler(batch, generator)
        tokens.scatter_(1, places.flatten(1), facts.flatten(1))
        asked = torch.randint(count, (batch,), generator=generator)
        whole = torch.cat([tokens[:, : self.room], facts[rows, asked]], dim=1)
        targets, mask = whole[:, 1:].contiguous(), torch.zeros(batch, self.length, dtype=torch.bool)
        mask[:, -self.digits :] = True
        return Batch(whole[:, :-1].contiguous(), targets, mask)

    def _starts(self, batch: int, generator: torch.Generator) -> Tensor:
        """First position of each needle, (B, needles)."""
        stretch = self.room // self.needles
        free = stretch - self._size
        if self.depth is not None:
            return torch.full((batch, 1), round(self.depth * free))
        offset = torch.randint(free + 1, (batch, self.needles), generator=generator)
        return torch.arange(self.needles) * stretch + offset

    def _filler(self, batch: int, generator: torch.Generator) -> Tensor:
        """Filler everywhere, (B, T)."""
        count = self.period or self.length
        drawn = torch.randint(self._first_filler, self.vocabulary, (batch, count), generator=generator)
        return drawn[:, torch.arange(self.length) % count]
