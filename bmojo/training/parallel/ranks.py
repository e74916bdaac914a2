"""The processes of a run: which sequences, and which part of them, each of them computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bmojo.training.errors import CheckpointError, ConfigurationError, LostProcessError
from bmojo.training.parallel.lost import Roll, last_words, lost, of_contact
from bmojo.training.parallel.options import ParallelOptions

__all__ = ["Ranks", "ranks_here"]

T = TypeVar("T")


class Ranks:
    """One process among those of a run; alone when made without a process group.

    Ranks form a grid: `data` rows of `context` processes each. A row shares sequences of the batch, the
    processes in a row follow one another along these.

    Parameters
    ----------
    options : ParallelOptions, optional
    device : torch.device, optional
        Where this process computes; the CPU when left out.

    Raises
    ------
    ConfigurationError
        If `context` does not divide the number of processes.

    Examples
    --------
    >>> from bmojo.training.parallel import Ranks
    >>> ranks = Ranks()
    >>> ranks.size, ranks.main, ranks.rows(8), ranks.agreed(False)
    (1, True, slice(0, 8, None), False)
    """

    def __init__(self, options: ParallelOptions | None = None, device: torch.device | None = None) -> None:
        self.options = ParallelOptions() if options is None else options
        self.device = torch.device("cpu") if device is None else device
        grouped = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
        context = self.options.context
        if self.size % context:
            raise ConfigurationError(
                f"[parallel] context = {context} came with {self.size} process"
                f"{'es' if self.size > 1 else ''}; it must divide their number. Start them with `torchrun "
                "--nproc-per-node N -m bmojo.train CONFIG.toml`."
            )
        self.run: Any = None
        """The run in progress, which knows where it stands."""
        self.mesh: Any = None
        self.data, self.context = self.size // context, context
        if self.size > 1:
            from torch.distributed.device_mesh import init_device_mesh

            shape, names = (self.data, context), ("data", "context")
            self.mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)

    @property
    def main(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    @property
    def line(self) -> Any:
        """The process group along this process's sequences."""
        return None if self.mesh is None else self.mesh["context"].get_group()

    @property
    def place(self) -> tuple[int, int]:
        """Row, and place in it."""
        return divmod(self.rank, self.context)

    def rows(self, batch: int) -> slice:
        """Sequences of a batch that are this process's.

        Parameters
        ----------
        batch : int
            Of all processes together.
        """
        return _share(batch, self.place[0], self.data)

    def columns(self, length: int) -> slice:
        """Positions of a sequence that are this process's.

        Parameters
        ----------
        length : int
        """
        return _share(length, self.place[1], self.context)

    def check(self, batch: int, length: int) -> None:
        """Refuse batches and sequences that leave a process without work.

        Parameters
        ----------
        batch, length : int
            Sequences of a pass, tokens of a sequence.
        """
        least = self.data * self.options.pieces
        if batch < least:
            raise ConfigurationError(
                f"[train] batch = {batch} came for {self.data} processes that share the batch in "
                f"{self.options.pieces} pieces each; at least {least} sequences are needed."
            )
        if self.context > 1 and length < 2 * self.context:
            raise ConfigurationError(
                f"[parallel] context = {self.context} came with sequences of {length} tokens; at least 2 for "
                "each process are needed."
            )

    def agreed(self, asked: bool) -> bool:
        """Whether any process asks, the same answer in each.

        Parameters
        ----------
        asked : bool
        """
        if self.size == 1:
            return asked
        flag = torch.tensor([asked], dtype=torch.int32)  # on the CPU: a GPU is not made to wait
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes.

        Parameters
        ----------
        values : Tensor, shape (...)
        """
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in order of rank.

        Parameters
        ----------
        value : object
            Small and plain.
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def first(self, call: Callable[[], T]) -> T:
        """What the first process finds, in each; its errors are raised in each too.

        Parameters
        ----------
        call : callable
            Run in the first process alone; what it returns is plain.
        """
        return self.each(call if self.main else _nothing)[0]

    def each(self, call: Callable[[], T]) -> list[T]:
        """What a call finds in each process; an error of one is raised in all.

        Parameters
        ----------
        call : callable
        """
        if self.size == 1:
            return [call()]
        found: Any = None
        error: Exception | None = None
        try:
            found = call()
        except (OSError, ValueError, KeyError, RuntimeError) as raised:
            error = raised
        told = self.gathered((found, None if error is None else str(error)))
        faults = [text for _, text in told if text is not None]
        if error is not None:
            raise error
        if faults:
            raise CheckpointError(faults[0])
        return [value for value, _ in told]


def _nothing() -> Any:
    return None


def _share(count: int, place: int, among: int) -> slice:
    return slice(place * count // among, (place + 1) * count // among)


@contextmanager
def ranks_here(options: ParallelOptions, device: str | None = None) -> Iterator[Ranks]:
    """The processes that `torchrun` started, or this one alone.

    Messages go by NCCL between GPUs and by gloo between CPUs; each process takes the GPU of its
    `LOCAL_RANK`. A process group that is there already is used as it is.

    Parameters
    ----------
    options : ParallelOptions
    device : str, optional
        A GPU if there is one when left out.

    Yields
    ------
    Ranks

    Raises
    ------
    LostProcessError
        If another process is gone: who, which checkpoint lies where, and what makes the run go on.

    Examples
    --------
    >>> from bmojo.training.parallel import ParallelOptions, ranks_here
    >>> with ranks_here(ParallelOptions(), "cpu") as ranks:
    ...     ranks.size
    1
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if kind == "cuda" and several:
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = torch.device(kind)
    if not several or dist.is_initialized():
        yield Ranks(options, place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    backend = "gloo" if place.type == "cpu" else f"cpu:gloo,{place.type}:nccl"
    dist.init_process_group(backend, **_meeting(timedelta(seconds=options.patience)))
    roll = Roll(_store(), dist.get_rank(), dist.get_world_size())
    whole = True
    try:
        ranks = Ranks(options, place)
        with _in_contact(roll, ranks):
            yield ranks
    except LostProcessError:
        whole = False  # to take leave of one that is gone may take for ever
        raise
    finally:
        roll.close()
        if whole:
            dist.destroy_process_group()


@contextmanager
def _in_contact(roll: Roll, ranks: Ranks) -> Iterator[None]:
    """What goes wrong because another process is gone is said as that; what else does, to the others."""
    try:
        yield
    except Exception as error:
        if of_contact(error):
            checkpoints = None if ranks.run is None else ranks.run.checkpoints
            folder, steps = (None, []) if checkpoints is None else (checkpoints.folder, checkpoints.steps())
            step = 0 if ranks.run is None else ranks.run.told.step
            with last_words():
                raise lost(roll, folder, steps, step) from None
        roll.leave_word(f"{type(error).__name__}: {error}")
        raise


def _meeting(timeout: timedelta) -> dict[str, Any]:
    """How the processes find each other.

    `torchrun --standalone` may start them again with the same store, in which the addresses of those before
    still stand; then they meet under a name of their own.
    """
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if again == "0":
        return {"timeout": timeout}
    from torch.distributed import distributed_c10d as c10d
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=timeout))
    named = c10d.PrefixStore(f"start {again}", store)
    return {"timeout": timeout, "store": named, "rank": rank, "world_size": size}


def _store() -> Any:
    """Where the processes found each other."""
    from torch.distributed import distributed_c10d as c10d  # not in every build of torch

    return c10d.PrefixStore("bmojo", c10d._get_default_store())
