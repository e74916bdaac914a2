"""bfloat16 in Numba, which has no such type: the upper half of a float32, passed as its 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

__all__ = ["narrow", "widen"]


def widen(x: Any) -> Any:
    """A number to compute with: bits of a bfloat16 become a float32, others stay. Compiled code only."""
    raise NotImplementedError


def narrow(x: Any, like: Any) -> Any:
    """A number to store where `like` stands, a bfloat16 rounded to nearest even. Compiled code only."""
    raise NotImplementedError


@overload(widen, inline="always")
def _widen(x):
    if x == types.uint16:
        return lambda x: np.int32(np.int32(x) << 16).view(np.float32)
    return lambda x: x


@overload(narrow, inline="always")
def _narrow(x, like):
    if like != types.uint16:
        return lambda x, like: x

    def rounded(x, like):
        bits = np.float32(x).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return rounded
