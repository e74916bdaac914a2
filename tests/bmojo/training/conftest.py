"""Small models and tasks, so that a training run takes a second."""

from __future__ import annotations

import pytest
import torch

from bmojo import BMojoConfig, BMojoLM
from bmojo.tasks import GapRecall

TASK = GapRecall(pairs=2, gap=4, queries=4, vocabulary=8)
LONGER = GapRecall(pairs=2, gap=12, queries=4, vocabulary=8)


@pytest.fixture
def make():
    """A model by its seed."""

    def made(seed=0, *, vocabulary=8, **options):
        torch.manual_seed(seed)
        given = {"d_model": 16, "heads": 2, "window": 4, "eidetic": 4, "state_size": 4} | options
        return BMojoLM(vocabulary, [BMojoConfig(**given)] * 2, mlp_ratio=0.0)

    return made
