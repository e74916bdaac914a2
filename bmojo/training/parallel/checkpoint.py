"""Checkpoints of several processes: each writes its share, any number of processes reads them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bmojo.training.checkpoints import SHARDS, TENSORS, VALUES, Checkpoints, digest, sync_folder
from bmojo.training.parallel.ranks import Ranks

__all__ = ["RankedCheckpoints"]


class RankedCheckpoints(Checkpoints):
    """The newest checkpoints of a run of several processes, in a folder that all of them see.

    What each process holds whole is written by the first; of a tensor that is shared out (`DTensor`) each
    process writes its share (`torch.distributed.checkpoint`, in the safetensors format, without a pickle).
    The folder takes its name once all of it is on the disk, and holds the SHA-256 of every file. One
    process, or another number of them, reads it as well, with `ddp` or `fsdp`.

    Parameters
    ----------
    folder : path
    ranks : Ranks
    keep : int

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.training.parallel import RankedCheckpoints, Ranks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = RankedCheckpoints(folder, Ranks())
    ...     checkpoints.write(1, {"x": torch.ones(2)}, {"note": "fine"})
    ...     checkpoints.newest()[1]["note"]
    'fine'
    """

    def __init__(self, folder: str | os.PathLike[str], ranks: Ranks, *, keep: int = 2) -> None:
        self.ranks = ranks
        ranks.first(lambda: Path(folder).mkdir(parents=True, exist_ok=True))
        super().__init__(folder, keep=keep)

    def write(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Write a checkpoint, all processes together.

        Parameters
        ----------
        step : int
        tensors : dict of str to Tensor
            The same names in every process.
        values : dict
            Plain values, those of the first process.

        Raises
        ------
        CheckpointError
            In every process, if the disk of one is full or refuses.
        """
        shared = {name: x for name, x in tensors.items() if _is_shared(x)}
        plain = {name: x for name, x in tensors.items() if name not in shared}
        if not shared:
            self.ranks.first(lambda: Checkpoints.write(self, step, plain, values))
            return
        part = self.folder / f".step-{step:08d}.part"
        try:
            self.ranks.first(lambda: _emptied(part))
            self.ranks.each(lambda: _write_shares(part, shared))
            found = self.ranks.each(lambda: _sums(part, self.ranks.rank))
            sums = {name: value for own in found for name, value in own.items()}
            self.ranks.first(lambda: self.complete(part, step, plain, values | {SHARDS: sums}))
        except OSError as error:
            raise self.refused(step, error) from None
        finally:
            if self.ranks.main:
                shutil.rmtree(part, ignore_errors=True)

    def newest(
        self, device: str | torch.device = "cpu", *, like: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """As `Checkpoints.newest`, the same one in every process.

        Parameters
        ----------
        device : str or torch.device
        like : dict of str to Tensor, optional
            Tensors that are shared out, read in place: each process reads its share alone.
        """
        step = self.ranks.first(self.whole)
        if step is None:
            return None
        tensors, values = self.read(step, device) if like is None else self._shares(step, device, like)
        self.ranks.each(_nothing)  # nobody removes what another one reads
        return tensors, values

    def _shares(
        self, step: int, device: str | torch.device, like: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Of the tensors that are shared out this process's share, and the others whole."""
        from safetensors.torch import load_file

        dcp, path = _library(), self._path(step)
        values = json.loads((path / VALUES).read_text(encoding="utf-8"))
        tensors = load_file(path / TENSORS, device=str(device))
        reader = dcp.HuggingFaceStorageReader(str(path))
        there = reader.read_metadata().state_dict_metadata
        like = {name: x for name, x in like.items() if name in there}
        dcp.load(like, storage_reader=reader)
        return {name: x for name, x in tensors.items() if name not in like} | like, values


def _library() -> Any:
    """Loaded where it is used: a run of one process does without."""
    return importlib.import_module("torch.distributed.checkpoint")


def _nothing() -> None:
    pass


def _is_shared(x: Tensor) -> bool:
    return hasattr(x, "full_tensor")


def _sums(part: Path, rank: int) -> dict[str, str]:
    """Checksums of the files that a process wrote."""
    return {file.name: digest(file) for file in sorted(part.glob(f"shard-{rank + 1:05d}-*"))}


def _emptied(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()


def _write_shares(part: Path, shared: dict[str, Tensor]) -> None:
    dcp = _library()
    try:
        dcp.save(shared, storage_writer=dcp.HuggingFaceStorageWriter(str(part), save_distributed=True))
    except dcp.CheckpointException as error:  # no Exception of Python's
        faults = "; ".join(sorted({str(fault[0]) for fault in error.failures.values()}))
        raise OSError(faults) from None
    sync_folder(part)
