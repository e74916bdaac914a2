"""The convolution as it is written: the oracle of `causal_conv1d`, for torch's autograd too."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

__all__ = ["causal_conv1d_naive"]


def causal_conv1d_naive(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d`, output by output."""
    taps, edges = weight.shape[1], [0, x.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    entries = len(x) if cu_seqlens is None else len(edges) - 1
    if initial_state is None:
        initial_state = x.new_zeros(entries, taps - 1, x.shape[2])
    pieces, tails = [], []
    for sequence, (low, high) in enumerate(itertools.pairwise(edges)):
        before = initial_state if cu_seqlens is None else initial_state[sequence : sequence + 1]
        padded = torch.cat([before, x[:, low:high]], dim=1)
        y = [(padded[:, t : t + taps] * weight.T).sum(1) for t in range(high - low)]
        pieces.append(torch.stack(y, 1) if y else x[:, low:high])
        tails.append(padded[:, high - low :])
    y = torch.cat(pieces, 1) if pieces else x
    y = y if bias is None else y + bias
    y = torch.nn.functional.silu(y) if activation == "silu" else y
    return y.to(x.dtype), torch.cat(tails) if tails else initial_state
