"""Rows to store, the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def rows_of(low, high, *, heads=2, width=4, value_width=3, seed=0):
    """Keys, values and positions of the rows with ordinals `low` to `high - 1`: a function of the ordinal."""
    found = []
    for ordinal in range(low, high):
        draw = np.random.default_rng([seed, ordinal]).standard_normal((heads, width + value_width))
        found.append(torch.from_numpy(draw))
    drawn = torch.stack(found) if found else torch.zeros(0, heads, width + value_width)
    drawn = drawn.to(torch.float16).float()
    return drawn[..., :width], drawn[..., width:], torch.arange(low, high) * 3 + seed


@pytest.fixture
def rows():
    return rows_of
