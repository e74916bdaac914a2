"""Which kernels a layer runs on, and the precision in which it carries states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["backend_of", "narrowed", "normed", "state_dtype"]


def backend_of(x: Tensor) -> str | None:
    """The compiled kernel of the device (`None`); for float64 on a GPU, which has none, the definition."""
    return "naive" if x.dtype is torch.float64 and x.device.type != "cpu" else None


def narrowed(u: Tensor) -> Tensor:
    """Under autocast float32 tokens in its dtype, once for all that is made of them."""
    kind = u.device.type
    if u.dtype is torch.float32 and torch.is_autocast_enabled(kind):
        return u.to(torch.get_autocast_dtype(kind))
    return u


def normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """The norm of `x` in its own dtype, in one kernel: under autocast the weight is wider than `x`."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps).to(x.dtype)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a recurrence is carried in: at least float32."""
    return torch.promote_types(dtype, torch.float32)
