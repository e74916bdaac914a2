r"""Gap recall: key-value pairs, a gap of filler longer than any window reaches, then the queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bmojo.tasks.protocol import describe, without_replacement

__all__ = ["GapRecall", "RecallBatch"]


class RecallBatch(NamedTuple):
    """Token sequences with the places where an answer is due, the same in every sequence.

    Parameters
    ----------
    tokens : Tensor of int64, shape (B, T)
    queries : Tensor of int64, shape (Q,)
        Positions of the queries, the same in every sequence.
    answers : Tensor of int64, shape (B, Q)
        Value that belongs to the key at each query.
    """

    tokens: Tensor
    queries: Tensor
    answers: Tensor

    @property
    def targets(self) -> Tensor:
        """The answers where they are due, zero elsewhere, int64 (B, T)."""
        return torch.zeros_like(self.tokens).index_copy(1, self.queries, self.answers)

    @property
    def mask(self) -> Tensor:
        """Where an answer is due, bool (B, T)."""
        due = torch.zeros(self.tokens.shape[1], dtype=torch.bool).index_fill(0, self.queries, True)
        return due.expand(self.tokens.shape)

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """None: the queries are alike."""
        return {}


@dataclass(frozen=True)
class GapRecall:
    r"""$k_1 v_1 \dots k_K v_K$, filler, then keys whose values are asked for.

    Keys and values are drawn without replacement from the two halves of the vocabulary. Filler is token 0, or
    drawn alike from the first `fillers` tokens, which then are no keys, or (`fillers=0`) from all tokens but
    the sequence's own keys: then nothing tells pairs from filler before a query comes, and the answer is
    still unique.

    Parameters
    ----------
    pairs : int
        `K`.
    gap : int
        Filler tokens between the last pair and the first query.
    queries : int
        `Q`: keys asked for, without replacement while `queries <= pairs`.
    vocabulary : int
        Even; `vocabulary / 2` values, one key less (or as many as there are fillers).
    lead : int
        Filler tokens before the first pair.
    spacing : int
        Filler tokens after each query.
    fillers : int
        Tokens that filler is drawn from; 0: the vocabulary of the pairs.

    Raises
    ------
    ValueError
        If the vocabulary does not hold that many pairs.

    References
    ----------
    S. Arora et al., *Zoology: Measuring and Improving Recall in Efficient Language Models*, ICLR 2024 (the
    recall task; the gap is put where windows cannot reach).

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import GapRecall
    >>> batch = GapRecall(pairs=2, gap=3, queries=2, vocabulary=8).sample(1, torch.Generator().manual_seed(0))
    >>> batch.tokens.shape, batch.queries.tolist()
    (torch.Size([1, 9]), [7, 8])
    """

    pairs: int = 8
    gap: int = 24
    queries: int = 8
    vocabulary: int = 64
    lead: int = 0
    spacing: int = 0
    fillers: int = 1

    def __post_init__(self) -> None:
        if self.vocabulary % 2 or not 1 <= self.pairs < self.vocabulary // 2:
            raise ValueError(
                f"GapRecall: pairs={self.pairs} came with vocabulary={self.vocabulary}; an even vocabulary "
                "with more than `pairs` tokens in each half is needed."
            )
        if min(self.gap, self.lead, self.spacing) < 0 or self.queries < 1:
            raise ValueError("GapRecall: gap, lead and spacing must be at least 0, queries at least 1.")
        if not 0 <= self.fillers <= self.vocabulary // 2 - self.pairs:
            raise ValueError(
                f"GapRecall: fillers={self.fillers} came; the half of {self.vocabulary // 2} tokens has to "
                f"hold them and {self.pairs} keys."
            )

    @property
    def length(self) -> int:
        """Tokens in a sequence, `T`."""
        return self.lead + 2 * self.pairs + self.gap + self.queries * (1 + self.spacing)

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the number of values."""
        return 2 / self.vocabulary

    @property
    def description(self) -> str:
        """The task in one line."""
        filler = {0: "as the pairs", 1: "one token"}.get(self.fillers, f"{self.fillers} tokens")
        return describe(
            "gap recall", pairs=self.pairs, gap=self.gap, queries=self.queries, vocabulary=self.vocabulary
        ) + (f", filler {filler}")

    @property
    def held_out(self) -> GapRecall:
        """Itself: every sequence is new."""
        return self

    def sample(self, batch: int, generator: torch.Generator) -> RecallBatch:
        """Draw `batch` sequences."""
        half, first_key = self.vocabulary // 2, max(1, self.fillers)

        def draw(count: int, of: int) -> Tensor:
            return without_replacement(batch, count, of, generator)

        keys, values = first_key + draw(self.pairs, half - first_key), half + draw(self.pairs, half)
        rounds = -(-self.queries // self.pairs)
        asked = torch.cat([draw(self.pairs, self.pairs) for _ in range(rounds)], dim=1)[:, : self.queries]
        start = self.lead + 2 * self.pairs + self.gap
        positions = start + torch.arange(self.queries) * (1 + self.spacing)
        tokens = self._filler(keys, generator)
        tokens[:, self.lead : self.lead + 2 * self.pairs] = torch.stack([keys, values], dim=-1).flatten(1)
        tokens[:, positions] = keys.gather(1, asked)
        return RecallBatch(tokens, positions, values.gather(1, asked))

    def _filler(self, keys: Tensor, generator: torch.Generator) -> Tensor:
        """Filler everywhere (B, T)."""
        shape = len(keys), self.length
        if self.fillers == 1:
            return torch.zeros(shape, dtype=torch.int64)
        if self.fillers:
            return torch.randint(self.fillers, shape, generator=generator)
        # The n-th token that is no key of the sequence: n plus the keys up to it.
        found = torch.randint(self.vocabulary - self.pairs, shape, generator=generator)
        for key in keys.sort(dim=1).values.unbind(1):
            found += (found >= key.unsqueeze(1)).long()
        return found
