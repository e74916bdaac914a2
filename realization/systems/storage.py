"""Models on disk: JSON or NPZ by the file's ending, exact to the last bit, never pickle."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realization.archives import load_arrays
from realization.errors import DataError, RealizationError
from realization.files import write_atomically
from realization.systems.models import InnovationsModel, StateSpace

__all__ = ["load_model", "save_model"]

FORMAT = "realization-model"
VERSION = 1
KINDS: dict[str, type[StateSpace]] = {"StateSpace": StateSpace, "InnovationsModel": InnovationsModel}
HEADER = "header"

Array = NDArray[np.float64]
Content = tuple[dict[str, object], dict[str, Array]]


def save_model(model: StateSpace, path: str | os.PathLike[str]) -> None:
    """Write a model to a file; `load_model` gives it back to the last bit.

    The file is complete or absent: it is written beside its place and then moved there.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        Of exactly one of these kinds.
    path : str or path
        Ends in `.json` (text, readable everywhere) or `.npz` (NumPy's archive, smaller).

    Raises
    ------
    DataError
        If the ending is another one, or the place cannot be written.

    Examples
    --------
    >>> import tempfile, realization as rz
    >>> model = rz.StateSpace([[0.1]], [[1.0]], [[1 / 3]], dt=0.08)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rz.save_model(model, f"{folder}/model.json")
    ...     again = rz.load_model(f"{folder}/model.json")
    >>> again
    StateSpace(order 1, 1 in, 1 out, dt=0.08 s, stable)
    >>> bool(again.C == model.C)
    True
    """
    kind = type(model).__name__
    if KINDS.get(kind) is not type(model):
        raise RealizationError(f"save_model: a {kind} came; {' and '.join(KINDS)} can be saved.")
    place = Path(os.path.realpath(path))
    arrays = {name: getattr(model, name) for name in _array_fields(type(model))}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "dt": None if model.dt is None else float(model.dt),
    }
    encode = {".json": _encode_json, ".npz": _encode_npz}[_ending(place, "save_model")]
    write_atomically(place, encode(header, arrays))


def load_model(path: str | os.PathLike[str]) -> StateSpace:
    """Read a model that `save_model` wrote.

    Parameters
    ----------
    path : str or path
        Ends in `.json` or `.npz`.

    Returns
    -------
    model : StateSpace or InnovationsModel
        Of the kind that was saved.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another program, or of a newer version of this one.

    Examples
    --------
    >>> import tempfile, numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.3]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rz.save_model(model, f"{folder}/model.npz")
    ...     rz.load_model(f"{folder}/model.npz")
    InnovationsModel(order 1, 0 in, 1 out, dt=None, stable)
    """
    place = Path(path)
    decode = {".json": _decode_json, ".npz": _decode_npz}[_ending(place, "load_model")]
    try:
        raw = place.read_bytes()
    except FileNotFoundError:
        raise DataError(f"load_model: there is no file {place}.") from None
    except OSError as error:
        raise DataError(f"load_model: {place} cannot be read: {error.strerror}.") from error
    header, arrays = decode(raw, place)
    kind = KINDS[str(header["kind"])]
    missing, unknown = set(_array_fields(kind)) - set(arrays), set(arrays) - set(_array_fields(kind))
    if missing or unknown:
        raise _damaged(place, f"missing entries {sorted(missing)}, unknown entries {sorted(unknown)}")
    try:
        return kind(**arrays, dt=_checked_dt(header, place))  # pyright: ignore[reportArgumentType]
    except RealizationError as error:
        raise _damaged(place, str(error)) from error


def _array_fields(kind: type[StateSpace]) -> list[str]:
    return [name for name in kind.__dataclass_fields__ if name != "dt"]


def _ending(path: Path, caller: str) -> str:
    ending = path.suffix.lower()
    if ending not in (".json", ".npz"):
        raise DataError(f"{caller}: {path.name!r} ends in {ending!r}; name the file .json or .npz.")
    return ending


def _encode_json(header: dict[str, object], arrays: dict[str, Array]) -> bytes:
    # The shape stands beside the values because nested lists lose it where a side is empty.
    entries = {name: {"shape": x.shape, "values": x.ravel().tolist()} for name, x in arrays.items()}
    return (json.dumps(header | {"arrays": entries}, allow_nan=False, indent=1) + "\n").encode()


def _encode_npz(header: dict[str, object], arrays: dict[str, Array]) -> bytes:
    buffer = io.BytesIO()
    entries: dict[str, Any] = {HEADER: np.array(json.dumps(header)), **arrays}
    np.savez(buffer, **entries)
    return buffer.getvalue()


def _decode_json(raw: bytes, place: Path) -> Content:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"load_model: {place} is damaged or not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise _foreign(place)
    _check_header(content, place)
    entries = content.get("arrays")
    if not isinstance(entries, dict):
        raise _damaged(place, "no arrays")
    return content, {name: _json_array(name, entry, place) for name, entry in entries.items()}


def _json_array(name: str, entry: object, place: Path) -> Array:
    if not isinstance(entry, dict):
        raise _damaged(place, f"{name} is no array")
    shape, values = entry.get("shape"), entry.get("values")
    if not (isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)):
        raise _damaged(place, f"{name} has no shape")
    if not (isinstance(values, list) and all(type(value) in (float, int) for value in values)):
        raise _damaged(place, f"{name} has entries that are no numbers")
    try:
        return np.array(values, dtype=float).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise _damaged(place, f"{name}: {error}") from error


def _decode_npz(raw: bytes, place: Path) -> Content:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            # Checksums first: a damaged array header could otherwise ask for any amount of memory.
            if archive.testzip() is not None:
                raise _damaged(place, "a checksum does not match")
        entries = load_arrays(raw)
        if not isinstance(entries, dict) or HEADER not in entries:
            raise _foreign(place)
        header = json.loads(str(entries[HEADER]))
        arrays = {name: array for name, array in entries.items() if name != HEADER}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"load_model: {place} is damaged or not an NPZ archive of arrays: {error}."
        ) from error
    if not isinstance(header, dict):
        raise _foreign(place)
    _check_header(header, place)
    wrong = [name for name, x in arrays.items() if x.dtype != np.float64]
    if wrong:
        raise _damaged(place, f"{', '.join(wrong)} not of float64")
    return header, arrays


def _check_header(header: dict[str, object], place: Path) -> None:
    if header.get("format") != FORMAT:
        raise _foreign(place)
    version, kind = header.get("version"), header.get("kind")
    if type(version) is not int or version < 1:
        raise _damaged(place, f"version {version!r}")
    if version > VERSION:
        raise DataError(
            f"load_model: {place} has format version {version}; this installation reads up to {VERSION}. "
            "Upgrade realization."
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise _damaged(place, f"kind {kind!r}, which is none of {', '.join(KINDS)}")


def _checked_dt(header: dict[str, object], place: Path) -> float | None:
    dt = header.get("dt", "missing")
    if dt is None:
        return None
    if isinstance(dt, bool) or not isinstance(dt, float | int):
        raise _damaged(place, f"dt {dt!r}, which is no number of seconds")
    return float(dt)


def _foreign(place: Path) -> DataError:
    return DataError(f"load_model: {place} was not written by save_model (no format {FORMAT!r}).")


def _damaged(place: Path, what: str) -> DataError:
    return DataError(f"load_model: {place} is damaged: {what}. Save the model again.")
