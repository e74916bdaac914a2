"""Tasks by the names that configurations call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from bmojo.tasks.mad_copy import Compression, Memorization, SelectiveCopying
from bmojo.tasks.mad_recall import FuzzyRecall, InContextRecall, NoisyRecall
from bmojo.tasks.mqar import MQAR
from bmojo.tasks.needle import Needle
from bmojo.tasks.protocol import Task
from bmojo.tasks.recall import GapRecall
from bmojo.tasks.shocks import LinearShocks
from bmojo.tasks.text import SourceText

__all__ = ["TASKS", "make_task"]

TASKS: Mapping[str, Callable[..., Task]] = {
    "gap_recall": GapRecall,
    "mqar": MQAR,
    "in_context_recall": InContextRecall,
    "fuzzy_recall": FuzzyRecall,
    "noisy_recall": NoisyRecall,
    "selective_copying": SelectiveCopying,
    "compression": Compression,
    "memorization": Memorization,
    "needle": Needle,
    "linear_shocks": LinearShocks,
    "source_text": SourceText,
}


def make_task(kind: str, **options: Any) -> Task:
    """A task by its name.

    Parameters
    ----------
    kind : str
        One of `TASKS`.
    **options
        Those of its class.

    Raises
    ------
    ValueError
        If there is no such task, or its options do not fit together.

    Examples
    --------
    >>> from bmojo.tasks import make_task
    >>> make_task("mqar", pairs=4, length=32).description
    'MQAR: pairs 4, length 32, vocabulary 8192, filler random, power 0.01'
    """
    if kind not in TASKS:
        raise ValueError(f"task {kind!r} came; the tasks are {', '.join(TASKS)}.")
    return cast(Task, TASKS[kind](**options))
