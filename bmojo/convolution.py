"""Causal depthwise convolution that can be cut anywhere: the tail of one piece is the head of the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["CausalConv", "depthwise", "latest"]


class CausalConv(nn.Module):
    r"""Depthwise causal convolution $y_t = b + \sum_{k=0}^{K-1} w_k \odot u_{t-k}$.

    Parameters
    ----------
    channels : int
    taps : int
        `K`, at least 1.

    Examples
    --------
    >>> import torch
    >>> from bmojo.convolution import CausalConv
    >>> conv = CausalConv(channels=2, taps=3)
    >>> y, tail = conv(torch.randn(1, 5, 2), conv.init_tail(1))
    >>> y.shape, tail.shape
    (torch.Size([1, 5, 2]), torch.Size([1, 2, 2]))
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(taps)
        self.weight = nn.Parameter(torch.empty(taps, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def init_tail(self, batch: int) -> Tensor:
        """The last `taps - 1` inputs before the first, zero: shape (B, K - 1, channels)."""
        return self.weight.new_zeros(batch, len(self.weight) - 1, self.weight.shape[1])

    def forward(self, u: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, channels) and the new tail."""
        padded = torch.cat([tail, u], dim=1)
        return depthwise(padded, self.weight, self.bias, u.shape[1]), latest(padded, tail.shape[1])


def depthwise(padded: Tensor, weight: Tensor, bias: Tensor, length: int) -> Tensor:
    r"""$y_t = b + \sum_k w_k \odot x_{t-k}$ for `length` outputs; `padded` holds the taps' past in front.

    Parameters
    ----------
    padded : Tensor, shape (B, length + K - 1, channels) or longer at the end
    weight : Tensor, shape (K, channels)
    bias : Tensor, shape (channels,)
    length : int
    """
    y, latest = bias, len(weight) - 1
    for k, tap in enumerate(weight):
        y = torch.addcmul(y, tap, padded[:, latest - k : latest - k + length])
    return y


def latest(x: Tensor, length: int) -> Tensor:
    """The last `length` positions of `x` (B, T, ...), copied: a view would keep all `T` of them in memory."""
    return x[:, x.shape[1] - length :].clone()
