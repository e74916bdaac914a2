"""Records from files by their ending: text, Parquet, NumPy, MATLAB."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realization.archives import load_arrays
from realization.errors import DataError
from realization.signals import readers
from realization.signals.data import IOData
from realization.signals.dates import KNOWN_DATES, read_dates
from realization.signals.sampling import Gaps, regular_record

__all__ = ["read_data"]

Array = NDArray[np.float64]
Column = str | int
Table = dict[str, Any]
PACKED, SPARED = 10_000, 1 << 28  # bytes of Parquet that one byte may stand for, and that any file may


def read_data(
    path: str | os.PathLike[str],
    *,
    outputs: Column | Sequence[Column],
    inputs: Column | Sequence[Column] = (),
    dt: float | None = None,
    time: Column | None = None,
    gaps: Gaps = "missing",
    hold_inputs: bool = False,
    missing: bool = False,
    units: Mapping[str, str] | None = None,
) -> IOData:
    r"""Read a record from a file: `.csv`, `.tsv`, `.txt`, `.dat`, `.parquet`, `.npz`, `.npy` or `.mat`.

    Parameters
    ----------
    path : str or path
        Parquet needs pandas and pyarrow. Of NumPy and MATLAB files, a vector is a column under its own name,
        a matrix `x` the columns `x1, x2, ...`; a `.npy` file without field names has columns 0, 1, ...
    outputs, inputs : sequence of str or int
        Names of columns, or their numbers from 0.
    dt : float, optional
        Seconds between samples (of the grid, where there is a column of times).
    time : str or int, optional
        Column of times in seconds, or dates; then the samples are put on a grid as `regular_record` does,
        which also says how irregular they are.
    gaps : {"missing", "split"}
        With `time`: what becomes of grid points without a sample.
    hold_inputs : bool
        With `time`: whether inputs keep their value over them.
    missing : bool
        Whether empty cells and NaN in outputs are samples that were not measured. Without it, they are an
        error.
    units : mapping from str to str, optional
        Units of columns by name; those in a data frame's `attrs["units"]` are taken too.

    Returns
    -------
    IOData

    Raises
    ------
    DataError
        If the file is missing, of another kind or damaged, or a column is not there (with what is), not
        numeric, or of another length.
    ImportError
        If what a format needs is not installed.

    References
    ----------
    *Apache Parquet file format*; *NumPy Enhancement Proposal 1: a simple file format for NumPy arrays*, 2007.

    Examples
    --------
    >>> import pathlib, tempfile, numpy as np, realization as rz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "record.npz")
    ...     np.savez(path, t=[0.0, 0.1, 0.3, 0.4], speed=[1.0, 2.0, 3.0, 4.0])
    ...     rz.read_data(path, outputs="speed", time="t", dt=0.1)
    IOData(5 samples, 1 output, 0 inputs, dt=0.1 s, 1 value missing)
    """
    place = Path(path)
    reader = _READERS.get(place.suffix.lower())
    if reader is None:
        raise DataError(
            f"read_data: {place.name!r} ends in {place.suffix!r}; known are {', '.join(sorted(_READERS))}."
        )
    if not place.is_file():
        raise DataError(f"read_data: there is no file {place}.")
    chosen = {"outputs": _list(outputs), "inputs": _list(inputs)}
    if not chosen["outputs"]:
        raise DataError("read_data: name at least one output.")
    wanted = [*chosen["outputs"], *chosen["inputs"], *([] if time is None else [time])]
    table, found_units = reader(place, wanted)
    names = {side: [_name(table, column, place) for column in taken] for side, taken in chosen.items()}
    known = {**found_units, **(units or {})}
    unknown = sorted(set(units or {}) - set(table))
    if unknown:
        raise DataError(f"read_data: units came for {unknown}, which no column is called.")
    y, u = (_columns(table, names[side], place) for side in ("outputs", "inputs"))
    about: dict[str, Any] = {}
    for side, short in (("outputs", "output"), ("inputs", "input")):
        about[f"{short}_names"] = names[side]
        about[f"{short}_units"] = [str(known.get(name, "")) for name in names[side]]
    if u is not None and not np.isfinite(u).all():
        raise DataError(f"read_data: an input of {place} has empty cells or NaN; no method takes those.")
    if y is not None and not missing and np.isnan(y).any():
        row, column = np.argwhere(np.isnan(y))[0]
        raise DataError(
            f"read_data: column {names['outputs'][column]!r} of {place} is empty or NaN at sample {row} "
            f"({int(np.isnan(y).sum())} such values). missing=True reads them as samples not measured."
        )
    assert y is not None
    if time is None:
        return IOData(y, u, dt, missing=missing, **about)
    times = table[_name(table, time, place)]
    return regular_record(times, y, u, dt=dt, gaps=gaps, hold_inputs=hold_inputs, **about).data


def _list(columns: Column | Sequence[Column]) -> list[Column]:
    return [columns] if isinstance(columns, str | int) else list(columns)


def _name(table: Table, column: Column, place: Path) -> str:
    names = list(table)
    if isinstance(column, str) and column in table:
        return column
    if not isinstance(column, str) and 0 <= column < len(names):
        return names[int(column)]
    raise DataError(f"read_data: column {column!r} is not there; {place} has: {', '.join(names)}.")


def _columns(table: Table, names: Sequence[str], place: Path) -> Array | None:
    found = []
    for name in names:
        try:
            found.append(np.asarray(table[name], dtype=float))
        except (TypeError, ValueError):
            raise DataError(f"read_data: column {name!r} of {place} is not numeric.") from None
    lengths = {name: len(column) for name, column in zip(names, found)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"read_data: the columns of {place} differ in length: {lengths}.")
    return np.column_stack(found) if found else None


def _from_text(place: Path, wanted: Sequence[Column]) -> tuple[Table, dict[str, str]]:
    header, rows, delimiter = readers._table(place, wanted)
    width = readers.check_width(place, header, rows)
    names = header or [str(number) for number in range(width)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if any(name in twice for name in wanted):
        raise DataError(f"read_data: {place} has more than one column {twice[0]!r}; name it by its number.")
    labels = [f"{name}#{k}" if name in twice else name for k, name in enumerate(names)]
    table = {
        label: readers.with_points([cells[k] for _, cells in rows], delimiter)
        for k, label in enumerate(labels)
    }
    taken = {_name(table, column, place) for column in wanted}
    return {
        label: _cells(cells, label, [number for number, _ in rows], place) if label in taken else cells
        for label, cells in table.items()
    }, {}


def _cells(cells: Sequence[str], name: str, rows: Sequence[int], place: Path) -> Any:
    """Numbers with NaN for empty cells, or dates where the first cell is one."""
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        pass
    try:
        return read_dates(cells)
    except DataError as error:
        raise DataError(f"read_data: column {name!r} of {place}: {error}") from None
    except ValueError:
        row = next(row for row, cell in zip(rows, cells) if cell and not readers._is_number(cell))
        cell = cells[list(rows).index(row)]
        fault = readers._fault(cell)
        if re.search(r"\d[-./:]\d", cell):
            fault += f"; {KNOWN_DATES}, and without a column of time dt gives the step"
        raise DataError(f"read_data: row {row}, column {name!r} of {place} {fault}.") from None


def _from_parquet(place: Path, wanted: Sequence[Column]) -> tuple[Table, dict[str, str]]:
    try:
        import pandas as pd
        import pyarrow.parquet as pq

        with pq.ParquetFile(place) as file:
            promised = 8 * file.metadata.num_rows * file.metadata.num_columns
        if not 0 <= promised <= PACKED * place.stat().st_size + SPARED:
            raise ValueError(f"it promises {promised} bytes in {place.stat().st_size}")
        frame = pd.read_parquet(place)
    except ImportError as error:
        raise ImportError(
            "read_data: Parquet needs pandas and pyarrow: pip install pandas pyarrow."
        ) from error
    except Exception as error:  # the reader raises nearly anything on a file that is none
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise DataError(f"read_data: {place} is damaged or no Parquet file: {reason}.") from error
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    units = frame.attrs.get("units")
    units = units if isinstance(units, Mapping) else {}
    return {str(name): frame[name].to_numpy() for name in frame.columns}, dict(units)


def _from_numpy(place: Path, wanted: Sequence[Column]) -> tuple[Table, dict[str, str]]:
    try:
        content = load_arrays(place)
        if isinstance(content, np.ndarray):
            if content.dtype.names:
                return {name: content[name] for name in content.dtype.names}, {}
            columns = content[:, None] if content.ndim == 1 else content
            if columns.ndim != 2:
                raise DataError(f"read_data: {place} has shape {content.shape}; at most two axes are needed.")
            return {str(k): column for k, column in enumerate(columns.T)}, {}
        return _spread(content), {}
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"read_data: {place} is damaged or no NumPy file: {error}.") from error


def _from_matlab(place: Path, wanted: Sequence[Column]) -> tuple[Table, dict[str, str]]:
    # The bridges to other programs stand above this folder.
    from realization.interop.matlab import _content

    content = _content(place, "read_data")
    numeric = {name: np.asarray(value) for name, value in content.items() if not hasattr(value, "toarray")}
    return _spread({name: value for name, value in numeric.items() if value.dtype.kind in "fiub"}), {}


def _spread(variables: Mapping[str, NDArray[Any]]) -> Table:
    """Vectors under their names, matrices as numbered columns; what has more axes is no column."""
    table: Table = {}
    for name, value in variables.items():
        if value.ndim == 2 and 1 in value.shape:
            value = value.reshape(-1)
        if value.ndim == 1:
            table[name] = value
        elif value.ndim == 2:
            table |= {f"{name}{k + 1}": column for k, column in enumerate(value.T)}
    return table


_READERS: dict[str, Callable[[Path, Sequence[Column]], tuple[Table, dict[str, str]]]] = {
    ".csv": _from_text,
    ".tsv": _from_text,
    ".txt": _from_text,
    ".dat": _from_text,
    ".parquet": _from_parquet,
    ".npz": _from_numpy,
    ".npy": _from_numpy,
    ".mat": _from_matlab,
}
