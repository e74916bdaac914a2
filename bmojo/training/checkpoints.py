"""Checkpoints: a folder each, whole or not there, tensors and values with a checksum, never a pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bmojo.tensors import read_json, read_tensors
from bmojo.training.errors import CheckpointError, CheckpointWarning
from realization.files import file_within, write_whole

__all__ = ["SHARDS", "Checkpoints", "digest", "sync_folder", "write_json"]

TENSORS, VALUES, FORMAT = "tensors.safetensors", "state.json", "bmojo checkpoint 1"
SHARDS = "shards"  # in the values: names and checksums of the files that several processes wrote


class Checkpoints:
    """The newest checkpoints of a run, in a folder.

    Each is a folder `step-00000120` with `tensors.safetensors` and `state.json`, which holds the SHA-256 of
    the tensors. It is written under another name and renamed once the disk has it, so that a process that is
    killed at any moment leaves the one before.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    keep : int
        How many are kept.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.training import Checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder)
    ...     for step in (1, 2, 3):
    ...         checkpoints.write(step, {"x": torch.full((2,), step)}, {"note": "fine"})
    ...     tensors, values = checkpoints.newest()
    ...     tensors["x"].tolist(), values["step"], checkpoints.steps()
    ([3, 3], 3, [2, 3])
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        names = (path.name for path in self.folder.iterdir())
        return sorted(int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdecimal())

    def write(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Write a checkpoint, and remove those that are too many.

        Parameters
        ----------
        step : int
        tensors : dict of str to Tensor
        values : dict
            Plain values.

        Raises
        ------
        CheckpointError
            If the disk is full or refuses; the checkpoints that were there stay.
        """
        part = self.folder / f".{self._path(step).name}.{os.getpid()}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            self.complete(part, step, tensors, values)
        except OSError as error:
            raise self.refused(step, error) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def complete(self, part: Path, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Write what is missing in a folder, give it the checkpoint's name, and remove those too many.

        Parameters
        ----------
        part : Path
            In the same folder.
        step : int
        tensors : dict of str to Tensor
        values : dict
        """
        from safetensors.torch import save_file

        whole = self._path(step)
        plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(plain, part / TENSORS, metadata={"format": "pt"})
        told = {"format": FORMAT, "step": step, "sha256": digest(part / TENSORS)} | values
        write_json(part / VALUES, told)
        _sync(part / TENSORS)
        sync_folder(part)
        if whole.exists():  # the same step again, after a run went back to an older checkpoint
            shutil.rmtree(whole)
        os.replace(part, whole)
        sync_folder(self.folder)
        torn = self.folder.glob(".step-*.part")  # of processes that were killed
        for old in [*torn, *map(self._path, self.steps()[: -self.keep])]:
            shutil.rmtree(old, ignore_errors=True)

    def refused(self, step: int, error: OSError) -> CheckpointError:
        """What is raised where the disk refuses.

        Parameters
        ----------
        step : int
        error : OSError
        """
        reason = (error.strerror or str(error)).lower()
        return CheckpointError(
            f"cannot write {self._path(step)}: {reason}; make room, then run again: it goes on from the "
            "checkpoint before."
        )

    def newest(self, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and values of the newest checkpoint that is whole; `None` if there is none.

        Parameters
        ----------
        device : str or torch.device
            Where the tensors go.

        Raises
        ------
        CheckpointError
            If there are checkpoints, and none of them is whole.
        """
        step = self.whole()
        return None if step is None else self.read(step, device)

    def whole(self) -> int | None:
        """Step of the newest checkpoint whose files are all there and unchanged.

        Raises
        ------
        CheckpointError
            If there are checkpoints, and none of them is whole.
        """
        faults = []
        for step in reversed(self.steps()):
            try:
                _verify(self._path(step))
            except (OSError, ValueError) as error:
                faults.append(f"{self._path(step).name}: {error}")
                continue
            if faults:
                warnings.warn(
                    f"{self.folder}: passed over {'; '.join(faults)}. Training goes on from step {step}.",
                    CheckpointWarning,
                    stacklevel=3,
                )
            return step
        if faults:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint that is whole ({'; '.join(faults)}); remove the folder "
                "to begin anew."
            )
        return None

    def read(self, step: int, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and values of a checkpoint that is whole; what was shared out is put together.

        Parameters
        ----------
        step : int
        device : str or torch.device

        Raises
        ------
        CheckpointError
            If it is not what `write` writes.
        """
        path = self._path(step)
        try:
            values = read_json(file_within(path, VALUES))
            tensors, _ = read_tensors(file_within(path, TENSORS), device)
            shards = [file_within(path, name) for name in values.get(SHARDS, {})]
            return tensors | _joined(shards, device), values
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}; remove it to go on without it.") from None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file that is there once it is complete, and on the disk.

    Parameters
    ----------
    path : Path
    values : dict
        Plain values.
    """
    write_whole(path, json.dumps(values, indent=1) + "\n")


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows the names in a folder.

    Parameters
    ----------
    folder : Path
    """
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Parameters
    ----------
    path : Path
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path) -> None:
    """Refuse a checkpoint of which a file is missing, or is not what was written."""
    if path.is_symlink() or not path.is_dir():
        raise ValueError("it is no folder")
    values = read_json(file_within(path, VALUES))
    if values.get("format") != FORMAT:
        raise ValueError(f"its format is {values.get('format')!r}, not {FORMAT!r}")
    shards = values.get(SHARDS, {})
    if not isinstance(shards, dict) or values.get("step") != int(path.name.removeprefix("step-")):
        raise ValueError("it is of another step")
    for name, expected in {TENSORS: values.get("sha256"), **shards}.items():
        if digest(file_within(path, name)) != expected:
            raise ValueError("wrong checksum")


def _joined(paths: list[Path], device: str | torch.device) -> dict[str, Tensor]:
    """Tensors of which each file holds a part, with the offset where it lies."""
    parts: dict[str, list[tuple[list[int], Tensor]]] = {}
    for path in paths:
        tensors, about = read_tensors(path, device)
        offsets = json.loads(about["DCP_SHARDING_INFO"])
        for name, x in tensors.items():
            parts.setdefault(name, []).append((offsets[name]["saved_offsets"], x))
    joined = {}
    for name, found in parts.items():
        sizes = [max(o[i] + x.shape[i] for o, x in found) for i in range(found[0][1].ndim)]
        if min((min(o, default=0) for o, _ in found)) < 0 or math.prod(sizes) != sum(
            x.numel() for _, x in found
        ):
            raise ValueError(f"the parts of {name} do not fit each other")
        joined[name] = whole = found[0][1].new_empty(sizes)
        for offset, part in found:
            whole[tuple(slice(o, o + n) for o, n in zip(offset, part.shape, strict=True))] = part
    return joined
