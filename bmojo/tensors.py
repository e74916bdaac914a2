"""Files of tensors and of settings, written by whomever: no pickle, and one line for what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realization.errors import DataError
from realization.files import read_small

__all__ = ["read_json", "read_tensors", "safetensors", "shapes_of"]

LARGEST = 1 << 24  # bytes of settings


def safetensors() -> Any:
    """The library, or an error that names the extra."""
    try:
        import safetensors.torch as files
    except ModuleNotFoundError:
        raise ImportError("tensors are stored by safetensors: pip install 'realization[bmojo]'") from None
    return files


def read_tensors(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the words beside them, of a file in the safetensors format.

    Parameters
    ----------
    path : path
    device : torch.device or str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        In whatever way it is damaged.

    Examples
    --------
    >>> import pathlib, tempfile, realization as rz
    >>> from bmojo.tensors import read_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "x.safetensors")
    ...     _ = path.write_bytes(b"no tensors")
    ...     try:
    ...         read_tensors(path)
    ...     except rz.DataError as error:
    ...         print(error)  # doctest: +ELLIPSIS
    cannot read ...: it is damaged or holds no tensors (...).
    """
    return _opened(path, device, lambda file, name: file.get_tensor(name))


def shapes_of(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """What shape each tensor of a file has; none of them is read.

    Parameters
    ----------
    path : path

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        In whatever way it is damaged.
    """
    return _opened(path, "cpu", lambda file, name: tuple(file.get_slice(name).get_shape()))[0]


def _opened(path: str | os.PathLike[str], device: Any, read: Any) -> tuple[dict[str, Any], dict[str, str]]:
    library, place = safetensors(), Path(path)
    if not place.exists():
        raise FileNotFoundError(f"there is no file {place}.")
    if not place.is_file():
        raise DataError(f"cannot read {place}: it is no file.")
    try:
        with library.safe_open(place, framework="pt", device=str(device)) as file:
            return {name: read(file, name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # the library's own errors derive from no other, and torch adds its own
        reason = str(error).split("\n")[0]
        raise DataError(f"cannot read {place}: it is damaged or holds no tensors ({reason}).") from None


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a JSON file holds, which has to be names and values.

    Parameters
    ----------
    path : path

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        If it is larger than settings are, damaged, or holds something else.
    """
    raw = read_small(path, LARGEST)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {os.fspath(path)}: it is damaged or no JSON ({error}).") from None
    if not isinstance(found, dict):
        raise DataError(f"cannot read {os.fspath(path)}: it holds a {type(found).__name__}, no settings.")
    return found
