"""Training over several processes: the batch, the parameters and the sequence are shared."""

from bmojo.training.parallel.checkpoint import RankedCheckpoints
from bmojo.training.parallel.context import ContextParallel, message_bytes
from bmojo.training.parallel.options import ParallelOptions
from bmojo.training.parallel.ranks import Ranks, ranks_here

__all__ = ["ContextParallel", "ParallelOptions", "RankedCheckpoints", "Ranks", "message_bytes", "ranks_here"]
