r"""$2^x$ in Numba code that compiles to vector instructions, which the library's `exp` does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

__all__ = ["LOG2_E", "exp2"]

LOG2_E = 1.4426950408889634


def exp2(x: Any) -> Any:
    """Power of two; in float32 to 2e-7 relative, exactly 1 at 0, and not below 2^-126. Compiled code only."""
    raise NotImplementedError


@overload(exp2, inline="always")
def _exp2(x):
    if x != types.float32:
        return lambda x: np.exp2(x)

    # Adding and taking off 1.5 * 2^23 rounds to a whole number k; 2^k is its bits moved into the exponent,
    # and 2^(x - k) the polynomial of degree 5 that is exact at 0, so that what does not fade stays as it is,
    # with the smallest largest error on [-1/2, 1/2]: 9.2e-8.
    def single(x):
        x = max(x, np.float32(-126.0))
        k = np.float32(x + np.float32(12582912.0)) - np.float32(12582912.0)
        f = np.float32(x - k)
        p = np.float32(1.326472763e-3)
        p = p * f + np.float32(9.671512646e-3)
        p = p * f + np.float32(5.550733742e-2)
        p = p * f + np.float32(2.402224209e-1)
        p = p * f + np.float32(6.931469776e-1)
        p = p * f + np.float32(1.0)
        return p * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)

    return single
