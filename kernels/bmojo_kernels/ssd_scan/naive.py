"""The recurrence as it is written: the oracle of `ssd_scan`, for torch's autograd too."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ssd_scan_naive"]


def ssd_scan_naive(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, P) and the last state (B, H, P, N) of the scan alone, without skip and gate.

    `B` and `C` are (B, T, G, N); group `g` serves the `H / G` heads from `g H / G` on.
    """
    shared = x.shape[2] // B.shape[2]
    B, C = (m.repeat_interleave(shared, dim=2) for m in (B, C))
    h, outputs = h0, [x[:, :0]]
    for t in range(x.shape[1]):
        h = torch.exp(log_decay[:, t, :, None, None]) * h + x[:, t, :, :, None] * B[:, t, :, None, :]
        outputs.append((h * C[:, t, :, None, :]).sum(-1).unsqueeze(1))
    return torch.cat(outputs, dim=1), h
