"""Records from text files: comma, semicolon, tab or white space between the columns."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError
from realization.signals.data import IOData

__all__ = [
    "check_width",
    "column_number",
    "form_of_text",
    "read_csv",
    "rows_of_text",
    "values_of",
    "with_points",
]

Column = str | int
Row = tuple[int, list[str]]  # line number in the file, cells
DELIMITERS = ("\t", ";", ",", None)  # None: any white space
SAMPLED_LINES = 50
LONGEST_LINE = 1_000_000
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")


def read_csv(
    path: str | os.PathLike[str],
    *,
    outputs: Column | Sequence[Column],
    inputs: Column | Sequence[Column] = (),
    dt: float | None = None,
) -> IOData:
    r"""Read a record from a text file with one sample per line.

    Columns are named by the header, or by their number. The delimiter (comma, semicolon, tab, white space) is
    found from the file; empty columns at the end of the lines are passed over, and so are blank lines. Where
    no comma parts the columns, decimals may have one; a column that mixes both marks is refused.

    Parameters
    ----------
    path : str or path
        UTF-8 text.
    outputs, inputs : sequence of str or int
        Columns: names from the header, or numbers from 0. No inputs: a time series.
    dt : float, optional
        Seconds between samples; `None` is an unnamed unit step.

    Returns
    -------
    data : IOData
        `y` of shape (T, p), `u` of shape (T, m); channels named by the header where there is one.

    Raises
    ------
    DataError
        In one line, with row and column: a file that is missing or no text, a column that is not there, a
        cell that is empty or no finite number, lines of unequal length, fewer than two samples.

    Examples
    --------
    >>> import pathlib, tempfile, realization as rz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "record.csv")
    ...     _ = path.write_text("time;force;speed\n0;1.0;0.0\n1;0.5;0.1\n")
    ...     rz.read_csv(path, inputs=["force"], outputs=["speed"], dt=1.0)
    IOData(2 samples, 1 output, 1 input, dt=1 s)
    """
    place = Path(path)
    wanted = {"outputs": _wanted(outputs, "outputs"), "inputs": _wanted(inputs, "inputs")}
    if not wanted["outputs"]:
        raise DataError("read_csv: name at least one output column.")
    header, rows, delimiter = _table(place, [*wanted["outputs"], *wanted["inputs"]])
    width = check_width(place, header, rows)
    columns = {
        side: [column_number(place, c, header, width) for c in names] for side, names in wanted.items()
    }
    values = {side: values_of(place, rows, numbers, header, delimiter) for side, numbers in columns.items()}
    names = {side: [header[c] for c in numbers] if header else [] for side, numbers in columns.items()}
    u = values["inputs"] if columns["inputs"] else None
    return IOData(values["outputs"], u, dt, output_names=names["outputs"], input_names=names["inputs"])


def _wanted(columns: Column | Sequence[Column], name: str) -> list[Column]:
    chosen = [columns] if isinstance(columns, str | int) else list(columns)
    for column in chosen:
        if isinstance(column, bool) or not isinstance(column, str | int | np.integer):
            raise DataError(f"read_csv: {name} holds {column!r}; column names or numbers are needed.")
    return chosen


def _table(place: Path, wanted: Sequence[Column]) -> tuple[list[str], list[Row], str | None]:
    """Header (empty where there is none), the rows below it, and what parts their cells."""
    rows, delimiter = _rows(place)
    while rows and not any(rows[-1][1]):
        rows.pop()
    header = _header(place, rows, wanted)
    rows = rows[1:] if header else rows
    if len(rows) < 2:
        raise DataError(f"read_csv: {place} has {len(rows)} rows of data; at least 2 samples are needed.")
    return header, rows, delimiter


def _header(place: Path, rows: Sequence[Row], wanted: Sequence[Column]) -> list[str]:
    """Cells of the first row where it names the columns, else none."""
    if not rows:
        raise DataError(f"read_csv: {place} holds no data.")
    first = rows[0][1]
    by_name = [column for column in wanted if isinstance(column, str)]
    has_header = any(name in first for name in by_name) or not any(
        _is_number(_pointed(cell)) for cell in first
    )
    if by_name and not has_header:
        raise DataError(
            f"read_csv: {place} has no header row to find column {by_name[0]!r} in; name columns by "
            f"number, 0 to {len(_trimmed(first)) - 1}."
        )
    return _trimmed(first) if has_header else []


def form_of_text(place: Path, wanted: Sequence[Column]) -> tuple[list[str], str | None, int]:
    """Header, delimiter and number of columns of a text file, from its first lines."""
    lines = []
    try:
        with place.open(encoding="utf-8-sig") as file:
            while len(lines) < SAMPLED_LINES and (line := file.readline(LONGEST_LINE)):
                if len(line) >= LONGEST_LINE or "\0" in line:
                    raise DataError(f"read_csv: {place} is a binary file; a text file is needed.")
                lines += [line.rstrip("\n")] if line.strip() else []
    except UnicodeDecodeError as error:
        raise DataError(f"read_csv: {place} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    if lines and lines[0].lstrip().startswith("#"):
        lines[0] = lines[0].lstrip().removeprefix("#")
    try:
        delimiter = _delimiter(lines)
        rows = [(number, _cells(line, delimiter)) for number, line in enumerate(lines, start=1)]
    except csv.Error as error:
        raise DataError(f"read_csv: {place} is no table of numbers: {error}.") from None
    header = _header(place, rows, wanted)
    return header, delimiter, len(_trimmed(header or rows[0][1]))


def rows_of_text(place: Path, delimiter: str | None, *, skip_header: bool) -> Iterator[Row]:
    """Numbered cells of a text file, line by line."""
    with place.open(encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) >= LONGEST_LINE:
                raise DataError(f"read_csv: line {number} of {place} has no end; a text file is needed.")
            if not line.strip():
                continue
            if skip_header:
                skip_header = False
                continue
            try:
                yield number, _cells(line.rstrip("\n"), delimiter)
            except csv.Error as error:
                raise DataError(f"read_csv: line {number} of {place}: {error}.") from None


def _text(place: Path) -> str:
    try:
        raw = place.read_bytes()
    except FileNotFoundError:
        raise DataError(f"read_csv: there is no file {place}.") from None
    except IsADirectoryError:
        raise DataError(f"read_csv: {place} is a folder; name the file in it.") from None
    except OSError as error:
        raise DataError(f"read_csv: {place} cannot be read: {error.strerror}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"read_csv: {place} is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from None
    if "\0" in text:
        raise DataError(f"read_csv: {place} is a binary file; a text file is needed.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _rows(place: Path) -> tuple[list[Row], str | None]:
    lines = [(number, line) for number, line in enumerate(_text(place).split("\n"), start=1) if line.strip()]
    if lines and lines[0][1].lstrip().startswith("#"):  # as numpy.savetxt marks its header
        lines[0] = lines[0][0], lines[0][1].lstrip().removeprefix("#")
    try:
        delimiter = _delimiter([line for _, line in lines[:SAMPLED_LINES]])
        return [(number, _cells(line, delimiter)) for number, line in lines], delimiter
    except csv.Error as error:
        raise DataError(f"read_csv: {place} is no table of numbers: {error}.") from None


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return [cell.strip('"') for cell in line.split()]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _delimiter(lines: Sequence[str]) -> str | None:
    """The delimiter that parts most lines; of equals, the one that leaves most numbers, then least else."""

    def merit(delimiter: str | None) -> tuple[int, int, int]:
        table = [[cell for cell in _cells(line, delimiter) if cell] for line in lines]
        parted = sum(len(cells) > 1 for cells in table)
        cells = [cell if delimiter == "," else _pointed(cell) for row in table for cell in row]
        numbers = sum(map(_is_number, cells))
        return parted, numbers, numbers - len(cells)

    # Nothing parts a single column; white space then leaves it whole.
    merits = {delimiter: merit(delimiter) for delimiter in DELIMITERS}
    return max(DELIMITERS, key=merits.__getitem__) if max(merits.values())[0] else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python's digit grouping is no notation of data files


def _pointed(cell: str) -> str:
    """A number with a point where it has a decimal comma; any other cell as it came."""
    pointed = cell.replace(",", ".", 1)
    return pointed if "," in cell and _is_number(pointed) else cell


def with_points(cells: Sequence[str], delimiter: str | None) -> Sequence[str]:
    """Cells of one column with decimal points, where it is written with decimal commas throughout.

    Points and commas in one column stay as they came, and so do commas that may part thousands.
    """
    if delimiter == "," or not any("," in cell for cell in cells) or any("." in cell for cell in cells):
        return cells
    without = any(cell and "," not in cell for cell in cells)
    if without and all(_GROUPED.fullmatch(cell) for cell in cells if "," in cell):
        return cells
    return [_pointed(cell) for cell in cells]


def _trimmed(cells: Sequence[str]) -> list[str]:
    """Cells without the empty ones at the end."""
    last = max((i for i, cell in enumerate(cells) if cell), default=-1)
    return list(cells[: last + 1])


def check_width(place: Path, header: Sequence[str], rows: Sequence[Row], width: int | None = None) -> int:
    """Number of columns; every row must have as many cells, empty ones beyond them apart."""
    first = header or rows[0][1]
    width = len(_trimmed(first)) if width is None else width
    for number, cells in rows:
        if len(cells) < width or any(cells[width:]):
            raise DataError(
                f"read_csv: row {number} of {place} has {len(_trimmed(cells))} cells; "
                f"the {'header' if header else 'first row'} has {width}."
            )
    return width


def column_number(place: Path, column: Column, header: Sequence[str], width: int) -> int:
    """Number of a column given by name or number."""
    if isinstance(column, str):
        if header.count(column) == 1:
            return header.index(column)
        found = "is there more than once; name it by its number" if column in header else "is not there"
        raise DataError(
            f"read_csv: column {column!r} {found}; the columns of {place} are: {', '.join(header)}."
        )
    if not 0 <= column < width:
        named = f" ({', '.join(header)})" if header else ""
        raise DataError(
            f"read_csv: column {column} is not there; {place} has columns 0 to {width - 1}{named}."
        )
    return int(column)


def values_of(
    place: Path, rows: Sequence[Row], columns: Sequence[int], header: Sequence[str], delimiter: str | None
) -> NDArray[np.float64]:
    """Numbers of some columns; a cell that is none is named with its row."""
    values = np.empty((len(rows), len(columns)))
    for j, column in enumerate(columns):
        texts = with_points([cells[column] for _, cells in rows], delimiter)
        for i, ((number, _), cell) in enumerate(zip(rows, texts)):
            value = float(cell) if _is_number(cell) else math.nan
            if not math.isfinite(value):
                name = f"{column} ({header[column]})" if header else f"{column}"
                raise DataError(f"read_csv: row {number}, column {name} of {place} {_fault(cell)}.")
            values[i, j] = value
    return values


def _fault(cell: str) -> str:
    remedy = "fill it, or read an output's gaps by read_data(..., missing=True)"
    if not cell:
        return f"is empty; {remedy}"
    if _is_number(cell):
        return f"holds {cell!r}, which is not finite; {remedy}"
    if _is_number(cell.replace(",", ".")):
        return f"holds {cell!r}, whose comma may part thousands; write decimals with a point"
    return f"holds {cell!r}, which is not a number"
