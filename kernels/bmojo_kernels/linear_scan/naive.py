"""The recurrence as it is written: the oracle of `linear_scan`, for torch's autograd too."""

from __future__ import annotations

from typing import Any

__all__ = ["linear_scan_naive"]


def linear_scan_naive(a: Any, b: Any, h0: Any) -> tuple[list[Any], Any]:
    """States of `h[t] = a[t] h[t-1] + b[t]`: one (B, C) for each step, and the last of them."""
    h, states = h0, []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return states, h
