"""How a run is spread over processes, as a configuration says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bmojo.training.errors import ConfigurationError

__all__ = ["ParallelOptions"]

DATA = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """The table `[parallel]` of a configuration; none of it changes a loss beyond rounding.

    Parameters
    ----------
    data : {"ddp", "fsdp"}
        Each process holds the whole model (`DistributedDataParallel`), or a share of every parameter, its
        gradient and its averages (`fully_shard`).
    context : int
        Processes along each sequence; the others share the batch. Must divide the number of processes.
    pieces : int
        Parts of a process's batch that follow one another along the sequence, so that later processes have
        work while the earlier ones go on; with `context = 1` it has no use.
    patience : float
        Seconds in which another process has to answer. One that dies is noticed at once; this is for one
        that hangs, or a machine that is cut off, and longer than any process ever works alone.

    Raises
    ------
    ConfigurationError
        If an option is out of range, or has no effect.

    Examples
    --------
    >>> from bmojo.training.parallel import ParallelOptions
    >>> ParallelOptions(data="fsdp", context=2).to_dict()
    {'data': 'fsdp', 'context': 2, 'pieces': 1, 'patience': 1800.0}
    """

    data: str = "ddp"
    context: int = 1
    pieces: int = 1
    patience: float = 1800.0

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ConfigurationError(f"data={self.data!r} came; one of {', '.join(DATA)} is needed.")
        for name in ("context", "pieces"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} came; at least 1 is needed.")
        if not self.patience > 0:
            raise ConfigurationError(f"patience={self.patience} came; more than 0 seconds are needed.")
        if self.pieces > 1 and self.context == 1:
            raise ConfigurationError(
                f"pieces={self.pieces} came with context=1, where it has no effect; leave it out."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
