"""MATLAB's .mat files: records and models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realization.archives import RATIO
from realization.errors import DataError, ShapeError
from realization.files import write_atomically
from realization.interop.common import library
from realization.signals.data import IOData
from realization.systems import InnovationsModel, StateSpace

__all__ = ["read_mat", "read_mat_model", "write_mat"]

Array = NDArray[np.float64]
NOISE = ("K", "Re", "u_mean", "y_mean")
STEPS = ("Ts", "dt")


def read_mat(
    path: str | os.PathLike[str],
    *,
    outputs: str | Sequence[str],
    inputs: str | Sequence[str] = (),
    dt: float | str | None = None,
    time_axis: int = 0,
) -> IOData:
    """A record from the variables of a MATLAB file.

    Parameters
    ----------
    path : str or path
        Versions 4 to 7.2; 7.3 (HDF5) where h5py is installed.
    outputs, inputs : str or sequence of str
        Names of variables: vectors, or matrices whose columns are channels.
    dt : float or str, optional
        Seconds between samples, or the name of the variable that holds them. When left out, `Ts` or `dt` of
        the file, if there is one (-1 there: an unnamed step).
    time_axis : {0, 1}
        1 where time runs along the rows of each matrix.

    Returns
    -------
    IOData
        Channels of a matrix `y` of several columns are called `y1, y2, ...`.

    Raises
    ------
    DataError
        If the file is missing or no MATLAB file, a variable is not there or holds no real numbers, or h5py is
        needed and not installed.
    ShapeError
        If a variable has more than two axes, or lengths differ.

    References
    ----------
    *MAT-File Format*, The MathWorks.

    Examples
    --------
    >>> import pathlib, tempfile, realization as rz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "record.mat")
    ...     rz.interop.write_mat(path, rz.IOData([1.0, 2.0, 3.0], dt=0.5))
    ...     rz.interop.read_mat(path, outputs="y")
    IOData(3 samples, 1 output, 0 inputs, dt=0.5 s)
    """
    if time_axis not in (0, 1):
        raise DataError(f"read_mat: time_axis={time_axis} came; it must be 0 or 1.")
    place = Path(path)
    content = _content(place, "read_mat")
    y, output_names = _signals(content, outputs, time_axis, place)
    u, input_names = _signals(content, inputs, time_axis, place)
    if y is None:
        raise DataError("read_mat: name at least one output variable.")
    if isinstance(dt, str):
        step = float(_variable(content, dt, place, "read_mat").reshape(-1)[0])
    else:
        step = _step(content, place, "read_mat") if dt is None else dt
    return IOData(y, u, step, output_names=output_names, input_names=input_names)


def read_mat_model(path: str | os.PathLike[str], *, dt: float | None = None) -> StateSpace:
    """A model from the variables `A, B, C` (and `D, K, Re`, ... if they are there) of a MATLAB file.

    Parameters
    ----------
    path : str or path
        Versions 4 to 7.2; 7.3 (HDF5) where h5py is installed. Sparse matrices become dense.
    dt : float, optional
        Seconds between samples, 0.0 for continuous time; goes before the file's own `Ts` or `dt` (there 0 is
        continuous time, -1 an unnamed step).

    Returns
    -------
    StateSpace, or InnovationsModel where there is a `K`

    Raises
    ------
    DataError
        If the file is missing or no MATLAB file, a matrix is not there, nothing says what time is, or there
        is a descriptor matrix `E` other than the identity.
    ShapeError
        If the matrices do not fit together.

    References
    ----------
    *MAT-File Format*, The MathWorks.

    Examples
    --------
    >>> import pathlib, tempfile, realization as rz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.mat")
    ...     rz.interop.write_mat(path, rz.StateSpace([[0.5]], [[1.0]], [[2.0]]))
    ...     rz.interop.read_mat_model(path)
    StateSpace(order 1, 1 in, 1 out, dt=None, stable)
    """
    caller, place = "read_mat_model", Path(path)
    content = _content(place, caller)
    A, B, C = (_variable(content, name, place, caller) for name in "ABC")
    D = _variable(content, "D", place, caller) if "D" in content else None
    if "E" in content and not np.array_equal(_variable(content, "E", place, caller), np.eye(len(A))):
        raise DataError(f"{caller}: {place} holds a descriptor matrix E; fold it into A and B first.")
    if dt is None and not any(name in content for name in STEPS):
        raise DataError(f"{caller}: {place} has no Ts or dt; give dt (0.0 for continuous time).")
    step = _step(content, place, caller) if dt is None else dt
    if "K" not in content:
        return StateSpace(A, B, C, D, step)
    noise: dict[str, Any] = {
        name: _variable(content, name, place, caller) for name in NOISE if name in content
    }
    noise |= {name: noise[name].reshape(-1) for name in ("u_mean", "y_mean") if name in noise}
    return InnovationsModel(A, B, C, D, step, **noise)


def write_mat(path: str | os.PathLike[str], content: StateSpace | IOData) -> None:
    """A model or a record as a MATLAB file (version 5), to be read there with `load`.

    Parameters
    ----------
    path : str or path
        Ends in `.mat`.
    content : StateSpace, InnovationsModel or IOData
        Written as `A, B, C, D` (and `K, Re, u_mean, y_mean`), or as `y, u, output_names, input_names`; with
        `Ts` in seconds, -1 for an unnamed step, as MATLAB has it.

    Raises
    ------
    DataError
        If something else came, the ending is another one, or the place cannot be written.

    References
    ----------
    *MAT-File Format*, The MathWorks.

    Examples
    --------
    >>> import pathlib, scipy.io, tempfile, realization as rz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.mat")
    ...     rz.interop.write_mat(path, rz.StateSpace([[0.5]], [[1.0]], [[2.0]], dt=0.1))
    ...     float(scipy.io.loadmat(path)["Ts"][0, 0])
    0.1
    """
    place = Path(path)
    if place.suffix.lower() != ".mat":
        raise DataError(f"write_mat: {place.name!r} does not end in .mat.")
    if isinstance(content, IOData):
        variables: dict[str, Any] = {"y": content.y, "u": content.inputs}
        for side in ("output_names", "input_names"):
            variables[side] = np.array(getattr(content, side), dtype=object)
    elif isinstance(content, StateSpace):
        names = ("A", "B", "C", "D", *(NOISE if isinstance(content, InnovationsModel) else ()))
        variables = {name: getattr(content, name) for name in names}
    else:
        raise DataError(f"write_mat: a {type(content).__name__} came; a model or an IOData is needed.")
    variables["Ts"] = -1.0 if content.dt is None else content.dt
    buffer = BytesIO()
    library("scipy.io", "SciPy").savemat(buffer, variables)
    write_atomically(place, buffer.getvalue())


def _content(place: Path, caller: str) -> dict[str, Any]:
    """Variables of a file by name."""
    scipy_io = library("scipy.io", "SciPy")
    try:
        raw = place.read_bytes()
        if raw[512:520] == b"\x89HDF\r\n\x1a\n" or raw[:8] == b"\x89HDF\r\n\x1a\n":
            return _hdf5(raw, place, caller)
        found = scipy_io.loadmat(BytesIO(raw))
    except FileNotFoundError:
        raise DataError(f"{caller}: there is no file {place}.") from None
    except OSError as error:
        raise DataError(f"{caller}: {place} cannot be read: {error}.") from error
    except DataError:
        raise
    except Exception as error:  # the reader raises nearly anything on a file that is none
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise DataError(f"{caller}: {place} is damaged or no MATLAB file: {reason}.") from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _hdf5(raw: bytes, place: Path, caller: str) -> dict[str, Any]:
    """Numeric variables of version 7.3, in which every array lies transposed."""
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(
            f"{caller}: {place} is of MATLAB version 7.3 (HDF5). Install h5py (pip install "
            "'realization[interop]'), or save it there with -v7."
        ) from None
    with h5py.File(BytesIO(raw), "r") as file:
        # A link may lead into another file, and so may the data behind a name.
        names = [str(name) for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        found: dict[str, Any] = {}
        for name in names:
            if file.get(name, getclass=True) is not h5py.Dataset:
                continue
            entry: Any = file[name]
            if entry.external is not None or entry.is_virtual:
                raise DataError(f"{caller}: {name!r} of {place} lies in another file; save it whole.")
            if entry.nbytes > RATIO * len(raw):
                raise DataError(f"{caller}: {name!r} of {place} promises {entry.nbytes} bytes in {len(raw)}.")
            if entry.dtype.kind in "fiub":
                found[name] = np.asarray(entry[()]).T
        return found


def _variable(content: dict[str, Any], name: str, place: Path, caller: str) -> Array:
    if name not in content:
        raise DataError(f"{caller}: {place} has no variable {name!r}, only {', '.join(sorted(content))}.")
    value = content[name]
    value = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
    if value.dtype.kind not in "fiub":
        raise DataError(f"{caller}: {name!r} of {place} holds no real numbers (type {value.dtype}).")
    if value.ndim > 2:
        raise ShapeError(
            f"{caller}: {name!r} of {place} has shape {value.shape}; at most two axes are needed."
        )
    return np.atleast_2d(value.astype(float))


def _signals(
    content: dict[str, Any], names: str | Sequence[str], time_axis: int, place: Path
) -> tuple[Array | None, list[str]]:
    """Columns side by side, and what each is called."""
    columns, labels = [], []
    for name in [names] if isinstance(names, str) else names:
        values = _variable(content, name, place, "read_mat")
        values = values.T if time_axis == 1 or 1 in values.shape[:1] else values
        columns.append(values)
        many = values.shape[1] > 1
        labels += [f"{name}{k + 1}" for k in range(values.shape[1])] if many else [name] * values.shape[1]
    if len({len(values) for values in columns}) > 1:
        lengths = ", ".join(str(len(values)) for values in columns)
        raise ShapeError(f"read_mat: the variables of {place} have {lengths} samples; is time along axis 1?")
    return (np.hstack(columns), labels) if columns else (None, [])


def _step(content: dict[str, Any], place: Path, caller: str) -> float | None:
    for name in STEPS:
        if name in content:
            value = float(_variable(content, name, place, caller).reshape(-1)[0])
            return None if value == -1 else value
    return None
