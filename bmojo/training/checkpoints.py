"""Checkpoints: a folder each, whole or not there, tensors and values with a checksum, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bmojo.training.errors import CheckpointError, CheckpointWarning
from realization.files import write_whole

__all__ = ["Checkpoints", "write_json"]

TENSORS, VALUES, FORMAT = "tensors.safetensors", "state.json", "bmojo checkpoint 1"


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
        from safetensors.torch import save_file

        whole = self._path(step)
        part = self.folder / f".{whole.name}.{os.getpid()}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(plain, part / TENSORS, metadata={"format": "pt"})
            told = {"format": FORMAT, "step": step, "sha256": _digest(part / TENSORS)} | values
            write_json(part / VALUES, told)
            _sync(part / TENSORS)
            _sync_folder(part)
            if whole.exists():  # the same step again, after a run went back to an older checkpoint
                shutil.rmtree(whole)
            os.replace(part, whole)
            _sync_folder(self.folder)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise CheckpointError(
                f"cannot write {whole}: {reason}; make room, then run again: it goes on from the checkpoint "
                "before."
            ) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)

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
        faults = []
        for step in reversed(self.steps()):
            try:
                found = self._read(self._path(step), device)
            except (OSError, ValueError, KeyError) as error:
                faults.append(f"{self._path(step).name}: {error}")
                continue
            if faults:
                warnings.warn(
                    f"{self.folder}: passed over {'; '.join(faults)}. Training goes on from step {step}.",
                    CheckpointWarning,
                    stacklevel=2,
                )
            return found
        if faults:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint that is whole ({'; '.join(faults)}); remove the folder "
                "to begin anew."
            )
        return None

    def _read(self, path: Path, device: str | torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
        from safetensors.torch import load_file

        values = json.loads((path / VALUES).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, not {FORMAT!r}")
        if _digest(path / TENSORS) != values["sha256"]:
            raise ValueError("wrong checksum")
        return load_file(path / TENSORS, device=str(device)), values

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


def _sync_folder(folder: Path) -> None:
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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
