"""Causal depthwise convolution that can be cut anywhere: the tail of one piece is the head of the next."""

from __future__ import annotations

import math

import bmojo_kernels as bk
import torch
from torch import Tensor, nn

from bmojo.backends import backend_of

__all__ = ["CausalConv", "latest"]


class CausalConv(nn.Module):
    r"""Depthwise causal convolution $y_t = f\big(b + \sum_{i=0}^{K-1} w_i \odot u_{t-K+1+i}\big)$.

    Parameters
    ----------
    channels : int
    taps : int
        `K`, at least 1; the last one meets the present.
    activation : {None, "silu"}
        `f`.

    Examples
    --------
    >>> import torch
    >>> from bmojo.convolution import CausalConv
    >>> conv = CausalConv(channels=2, taps=3)
    >>> y, tail = conv(torch.randn(1, 5, 2), conv.init_tail(1))
    >>> y.shape, tail.shape
    (torch.Size([1, 5, 2]), torch.Size([1, 2, 2]))
    """

    def __init__(self, channels: int, taps: int, *, activation: str | None = None) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(taps)
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(channels, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def init_tail(self, batch: int) -> Tensor:
        """The last `taps - 1` inputs before the first, zero: shape (B, K - 1, channels)."""
        channels, taps = self.weight.shape
        return self.weight.new_zeros(batch, taps - 1, channels)

    def forward(
        self, u: Tensor, tail: Tensor | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, channels) and the new tail."""
        return bk.causal_conv1d(
            u,
            self.weight,
            self.bias,
            activation=self.activation,
            initial_state=None if tail is None else tail.to(u.dtype),
            cu_seqlens=cu_seqlens,
            backend=backend_of(u),
        )

    def step(self, u_t: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """One output (B, channels) and the new tail."""
        return bk.causal_conv1d_step(
            u_t, self.weight, self.bias, state=tail.to(u_t.dtype), activation=self.activation
        )


def latest(x: Tensor, length: int) -> Tensor:
    """The last `length` positions of `x` (B, T, ...), copied: a view would keep all `T` of them in memory."""
    return x[:, x.shape[1] - length :].clone()
