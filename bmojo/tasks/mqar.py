r"""Multi-query associative recall as in Zoology: pairs, then their keys again, after gaps of a power law."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bmojo.tasks.protocol import Batch, describe, require, without_replacement

__all__ = ["MQAR"]


@dataclass(frozen=True)
class MQAR:
    r"""$k_1 v_1 \dots k_K v_K$, then every key once more, at even offsets $2 g_i$ behind the pairs.

    $$\Pr(g = i) \propto (i + 1)^{a - 1}, \qquad 0 \le i < \tfrac12 (T - 2K),$$

    drawn one key after the other without replacement. The value is due where its key stands. Keys are drawn
    from `1 .. V/2 - 1`, values from `V/2 .. V - 1`, both without replacement.

    Parameters
    ----------
    pairs : int
        `K`.
    length : int
        `T`, even and at least `2K passes + 2K`.
    vocabulary : int
        `V`, more than `length`.
    power : float
        `a`; 1 makes all gaps alike.
    filler : {"random", "zero"}
        What stands where no key does: any token of the vocabulary, or token 0.
    passes : int
        How often the pairs are read out before the queries begin.

    Raises
    ------
    ValueError
        If pairs and queries do not fit the length, or the pairs the vocabulary.

    References
    ----------
    S. Arora, S. Eyuboglu et al., *Zoology: Measuring and Improving Recall in Efficient Language Models*, ICLR
    2024, and its published generator.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import MQAR
    >>> task = MQAR(pairs=2, length=16, vocabulary=32, filler="zero")
    >>> batch = task.sample(1, torch.Generator().manual_seed(0))
    >>> row = batch.tokens[0]
    >>> [bool(row[t] in row[:4:2]) for t in batch.mask[0].nonzero()]
    [True, True]
    """

    pairs: int = 8
    length: int = 64
    vocabulary: int = 8192
    power: float = 0.01
    filler: str = "random"
    passes: int = 1

    def __post_init__(self) -> None:
        need = 2 * self.pairs * (self.passes + 1)
        require("MQAR", self.pairs >= 1 and self.passes >= 1, "pairs and passes must be at least 1.")
        require(
            "MQAR",
            self.length % 2 == 0 and self.length >= need,
            f"length={self.length} came; it must be even and hold pairs and queries, at least {need}.",
        )
        require(
            "MQAR",
            self.vocabulary % 2 == 0 and self.vocabulary > self.length and self.pairs < self.vocabulary // 2,
            f"vocabulary={self.vocabulary} came with length={self.length}, pairs={self.pairs}; it must be "
            "even, larger than the length, and hold the pairs in each half.",
        )
        require("MQAR", self.power > 0, f"power={self.power} came; it must be positive.")
        require(
            "MQAR", self.filler in ("random", "zero"), f"filler={self.filler!r} came; 'random' or 'zero'."
        )

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the number of values."""
        return 2 / self.vocabulary

    @property
    def description(self) -> str:
        """The task in one line."""
        return describe(
            "MQAR",
            pairs=self.pairs,
            length=self.length,
            vocabulary=self.vocabulary,
            filler=self.filler,
            power=self.power,
        )

    @property
    def held_out(self) -> MQAR:
        """Itself: every sequence is new."""
        return self

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` sequences."""
        half, context = self.vocabulary // 2, 2 * self.pairs * self.passes
        keys = 1 + without_replacement(batch, self.pairs, half - 1, generator)
        values = half + without_replacement(batch, self.pairs, half, generator)
        places = context + 2 * self._gaps(batch, generator)
        tokens = torch.zeros(batch, self.length, dtype=torch.int64)
        tokens[:, :context] = torch.stack([keys, values], dim=-1).flatten(1).repeat(1, self.passes)
        tokens.scatter_(1, places, keys)
        if self.filler == "random":
            noise = torch.randint(self.vocabulary, tokens.shape, generator=generator)
            tokens = torch.where(tokens == 0, noise, tokens)
        targets = torch.zeros_like(tokens).scatter(1, places, values)
        mask = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, places, True)
        return Batch(tokens, targets, mask)

    def _gaps(self, batch: int, generator: torch.Generator) -> Tensor:
        r"""Slot of each pair's query (B, K): successive draws without replacement with unequal chances.

        The K largest of $\log u_i / p_i$ in falling order are such draws (Efraimidis and Spirakis 2006).
        """
        slots = (self.length - 2 * self.pairs * self.passes) // 2
        weight = torch.arange(1, slots + 1, dtype=torch.float64) ** (self.power - 1)
        uniform = torch.rand(batch, slots, generator=generator, dtype=torch.float64)
        return (uniform.log() / weight).topk(self.pairs, dim=1).indices
