"""What of a trace is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from realization.errors import DataError

__all__ = ["of_sequence"]


def of_sequence(values: Tensor, sequence: int, caller: str) -> NDArray[Any]:
    """One sequence of a batch as an array."""
    if not 0 <= sequence < len(values):
        raise DataError(f"{caller}: sequence={sequence} came; the trace has 0 to {len(values) - 1}.")
    found = values[sequence].detach().cpu()
    return np.asarray(found.double() if found.is_floating_point() else found)
