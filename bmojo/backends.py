"""Which kernels a layer runs on, and the precision in which it carries states."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["backend_of", "state_dtype"]


def backend_of(x: Tensor) -> str | None:
    """The compiled kernel of the device (`None`); for float64 on a GPU, which has none, the definition."""
    return "naive" if x.dtype is torch.float64 and x.device.type != "cpu" else None


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a recurrence is carried in: at least float32."""
    return torch.promote_types(dtype, torch.float32)
