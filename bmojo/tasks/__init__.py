"""Tasks that tell memories apart."""

from bmojo.tasks.recall import GapRecall, RecallBatch

__all__ = ["GapRecall", "RecallBatch"]
