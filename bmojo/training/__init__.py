"""Training."""

from bmojo.training.loop import Stage, recall_accuracy, train_recall

__all__ = ["Stage", "recall_accuracy", "train_recall"]
