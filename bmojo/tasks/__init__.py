"""Tasks that tell memories apart: small generators behind one protocol, so that one loop trains any."""

from bmojo.tasks.corpus import Corpus, standard_library
from bmojo.tasks.mad import MadTask, mad_sweep
from bmojo.tasks.mad_copy import Compression, Memorization, SelectiveCopying
from bmojo.tasks.mad_recall import FuzzyRecall, InContextRecall, NoisyRecall
from bmojo.tasks.mqar import MQAR
from bmojo.tasks.needle import Needle
from bmojo.tasks.protocol import Batch, Drawn, Task
from bmojo.tasks.recall import GapRecall, RecallBatch
from bmojo.tasks.registry import TASKS, make_task
from bmojo.tasks.shocks import LinearShocks, Shocked
from bmojo.tasks.text import SourceText, recalled_names

__all__ = [
    "MQAR",
    "TASKS",
    "Batch",
    "Compression",
    "Corpus",
    "Drawn",
    "FuzzyRecall",
    "GapRecall",
    "InContextRecall",
    "LinearShocks",
    "MadTask",
    "Memorization",
    "Needle",
    "NoisyRecall",
    "RecallBatch",
    "SelectiveCopying",
    "Shocked",
    "SourceText",
    "Task",
    "mad_sweep",
    "make_task",
    "recalled_names",
    "standard_library",
]
