"""Training: one loop for every task, checkpoints that go on bit for bit, runs over rates and seeds."""

from bmojo.training.checkpoints import Checkpoints
from bmojo.training.config import Configuration, read_configuration
from bmojo.training.errors import (
    CheckpointError,
    CheckpointWarning,
    ConfigurationError,
    DivergedError,
    LostProcessError,
)
from bmojo.training.evaluation import Evaluation, Score, evaluate
from bmojo.training.loop import Fitted, Stage, fit
from bmojo.training.models import PRESETS, build_model, load_model
from bmojo.training.options import TrainOptions
from bmojo.training.pooled import PooledLM
from bmojo.training.recall import recall_accuracy, train_recall
from bmojo.training.run import Outcome, RunResult, train

__all__ = [
    "PRESETS",
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "Configuration",
    "ConfigurationError",
    "DivergedError",
    "Evaluation",
    "Fitted",
    "LostProcessError",
    "Outcome",
    "PooledLM",
    "RunResult",
    "Score",
    "Stage",
    "TrainOptions",
    "build_model",
    "evaluate",
    "fit",
    "load_model",
    "read_configuration",
    "recall_accuracy",
    "train",
    "train_recall",
]
