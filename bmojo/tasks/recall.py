r"""Gap recall: key-value pairs, a gap of filler longer than any window reaches, then the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["GapRecall", "RecallBatch"]


class RecallBatch(NamedTuple):
    """Token sequences with the places where an answer is due.

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


@dataclass(frozen=True)
class GapRecall:
    r"""$k_1 v_1 \dots k_K v_K$, filler, then keys whose values are asked for.

    Keys and values are drawn without replacement from the two halves of the vocabulary; token 0 is filler.

    Parameters
    ----------
    pairs : int
        `K`.
    gap : int
        Filler tokens between the last pair and the first query.
    queries : int
        `Q`: keys asked for, without replacement while `queries <= pairs`.
    vocabulary : int
        Even; `vocabulary / 2` values, one key less.
    lead : int
        Filler tokens before the first pair.
    spacing : int
        Filler tokens after each query.

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

    def __post_init__(self) -> None:
        if self.vocabulary % 2 or not 1 <= self.pairs < self.vocabulary // 2:
            raise ValueError(
                f"GapRecall: pairs={self.pairs} came with vocabulary={self.vocabulary}; an even vocabulary "
                "with more than `pairs` tokens in each half is needed."
            )
        if min(self.gap, self.lead, self.spacing) < 0 or self.queries < 1:
            raise ValueError("GapRecall: gap, lead and spacing must be at least 0, queries at least 1.")

    @property
    def length(self) -> int:
        """Tokens in a sequence, `T`."""
        return self.lead + 2 * self.pairs + self.gap + self.queries * (1 + self.spacing)

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: one over the number of values."""
        return 2 / self.vocabulary

    def sample(self, batch: int, generator: torch.Generator) -> RecallBatch:
        """Draw `batch` sequences."""
        half = self.vocabulary // 2

        def draw(count: int, of: int) -> Tensor:
            return torch.rand(batch, of, generator=generator).topk(count, dim=1).indices

        keys, values = 1 + draw(self.pairs, half - 1), half + draw(self.pairs, half)
        rounds = -(-self.queries // self.pairs)
        asked = torch.cat([draw(self.pairs, self.pairs) for _ in range(rounds)], dim=1)[:, : self.queries]
        start = self.lead + 2 * self.pairs + self.gap
        positions = start + torch.arange(self.queries) * (1 + self.spacing)
        tokens = torch.zeros(batch, self.length, dtype=torch.int64)
        tokens[:, self.lead : self.lead + 2 * self.pairs] = torch.stack([keys, values], dim=-1).flatten(1)
        tokens[:, positions] = keys.gather(1, asked)
        return RecallBatch(tokens, positions, values.gather(1, asked))
