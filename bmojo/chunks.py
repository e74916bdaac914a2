"""Chunks: the queries of a piece of sequence, cut where the eidetic set may change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Chunks"]


@dataclass(frozen=True)
class Chunks:
    """The `n` chunks of `C` positions that a piece touches; `Chunks.of` makes them.

    Parameters
    ----------
    position, length : int
        The piece: its first position, its number of tokens.
    first : int
        Position where the first chunk starts, at most `position`.
    count, size : int
        `n` and `C`.
    device : torch.device

    Examples
    --------
    >>> import torch
    >>> from bmojo.chunks import Chunks
    >>> chunks = Chunks.of(position=3, length=4, chunk=4, device=torch.device("cpu"))
    >>> chunks.queries().tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    >>> chunks.cut(torch.ones(1, 4, 1)).flatten().tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    """

    position: int
    length: int
    first: int
    count: int
    size: int
    device: torch.device

    @classmethod
    def of(cls, *, position: int, length: int, chunk: int, device: torch.device) -> Chunks:
        """The chunks, multiples of `chunk`, that `length` tokens from `position` on touch."""
        first = position // chunk * chunk
        count = -(-(position + length - first) // chunk)
        if count == 1:  # no more queries than there are: a step costs one
            first, chunk = position, length
        return cls(position, length, first, count, chunk, device)

    def cut(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, n, C, ...), zero where a chunk reaches beyond the piece."""
        front = self.position - self.first
        back = self.count * self.size - front - self.length
        return F.pad(x, (0, 0) * (x.ndim - 2) + (front, back)).unflatten(1, (self.count, self.size))

    def join(self, x: Tensor) -> Tensor:
        """(B, n, C, ...) -> (B, T, ...)."""
        front = self.position - self.first
        return x.flatten(1, 2)[:, front : front + self.length]

    def tokens(self) -> Tensor:
        """Positions of the piece's tokens, shape (T,)."""
        return torch.arange(self.length, device=self.device) + self.position

    def queries(self) -> Tensor:
        """Positions of the queries, shape (n, C)."""
        offsets = torch.arange(self.count * self.size, device=self.device)
        return self.first + offsets.view(self.count, self.size)

    def keys(self, oldest: int, window: int) -> Tensor:
        """Positions from `oldest` before each chunk's first query on, shape (n, window + C - 1)."""
        starts = self.first + torch.arange(self.count, device=self.device) * self.size
        return starts.unsqueeze(1) - oldest + torch.arange(window + self.size - 1, device=self.device)
