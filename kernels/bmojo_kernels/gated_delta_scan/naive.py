"""The recurrence as it is written: the oracle of `gated_delta_scan`, for torch's autograd too."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gated_delta_scan_naive"]


def gated_delta_scan_naive(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (B, T, H, V), innovations (B, T, H, V) and the last state (B, H, V, K)."""
    S, outputs, innovations = h0, [v[:, :0]], [v[:, :0]]
    for t in range(q.shape[1]):
        S = torch.exp(log_decay[:, t, :, None, None]) * S
        predicted = (S * k[:, t, :, None, :]).sum(-1)
        innovation = beta[:, t, :, None] * (v[:, t] - predicted)
        S = S + innovation[..., None] * k[:, t, :, None, :]
        outputs.append((S * q[:, t, :, None, :]).sum(-1).unsqueeze(1))
        innovations.append(innovation.unsqueeze(1))
    return torch.cat(outputs, dim=1), torch.cat(innovations, dim=1), S
