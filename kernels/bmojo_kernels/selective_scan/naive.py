"""The recurrence as it is written: the oracle of `selective_scan`, for torch's autograd too."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["selective_scan_naive"]


def selective_scan_naive(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, d) and the last state (B, d, N) of the scan alone, without skip, gate and softplus."""
    h, outputs = h0, [u[:, :0]]
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]
        h = torch.exp(step * A) * h + step * u[:, t, :, None] * B[:, t, None, :]
        outputs.append((h * C[:, t, None, :]).sum(-1).unsqueeze(1))
    return torch.cat(outputs, dim=1), h
