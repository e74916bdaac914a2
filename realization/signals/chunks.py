"""Records larger than memory, chunk by chunk: Zarr, Parquet, NumPy, text, and arrays at hand.

A source is cut at the same rows however often it is read, so that work which was interrupted goes on with the
same numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realization.archives import check_array, named_errors
from realization.errors import DataError
from realization.files import folder_size
from realization.signals import readers
from realization.signals.data import IOData

__all__ = ["Column", "Source", "source_of"]

Array = NDArray[np.float64]
Column = str | int
LARGEST_PIECE = 1 << 30  # bytes of a chunk of Zarr
LARGEST_WIDTH = 1 << 20
PACKED = 100_000  # bytes that one byte may stand for
Pieces = Callable[[int], Iterator[Array]]


@dataclass(frozen=True)
class Source:
    """A record that is read in pieces.

    Attributes
    ----------
    name : str
        What messages call it.
    length : int or None
        Samples, where the source knows.
    mark : str
        Differs when the source has changed: its name, size and time of change.
    pieces : callable
        From a first row: arrays of shape (rows, m + p), inputs before outputs, of any lengths.
    """

    name: str
    length: int | None
    mark: str
    pieces: Pieces

    def chunks(self, rows: int, start: int = 0) -> Iterator[Array]:
        """Arrays of exactly `rows` samples (the last may be shorter), from chunk `start` on."""
        held: list[Array] = []
        count = 0
        for piece in self.pieces(start * rows):
            held.append(piece)
            count += len(piece)
            while count >= rows:
                whole = np.concatenate(held) if len(held) > 1 else held[0]
                yield whole[:rows]
                held, count = [whole[rows:]], count - rows
        if count:
            yield np.concatenate(held)


def source_of(place: Any, outputs: Sequence[Column], inputs: Sequence[Column], rows: int) -> Source:
    """The source that a path, an array or a record is.

    Raises
    ------
    DataError
        If the file is missing or of another kind, or a column is not there.
    """
    if isinstance(place, IOData):
        if outputs or inputs:
            raise DataError("stream: a record has its own inputs and outputs; leave the columns out.")
        z = np.hstack([place.inputs, place.y])
        return Source("the record", len(z), f"array {z.shape}", lambda start: _slices(z, start, rows))
    if not outputs:
        raise DataError("stream: name at least one output column.")
    if isinstance(place, np.ndarray):
        table = place[:, None] if place.ndim == 1 else place
        taken = _numbers("the array", [*inputs, *outputs], [str(k) for k in range(table.shape[1])])
        return Source(
            "the array",
            len(table),
            f"array {table.shape}",
            lambda start: (part[:, taken] for part in _slices(table, start, rows)),
        )
    path = Path(place)
    if not path.exists():
        raise DataError(f"stream: there is no file {path}.")
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"stream: {path} is no file; a pipe or device cannot be read twice.")
    opened = _READERS.get(path.suffix.lower())
    if opened is None:
        raise DataError(
            f"stream: {path.name!r} ends in {path.suffix!r}; known are {', '.join(sorted(_READERS))}."
        )
    try:
        length, pieces = opened(path, [*inputs, *outputs], rows)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"stream: {path} is damaged or of another kind: {_first_line(error)}") from error
    return Source(str(path), length, _mark(path), lambda start: _guarded(path, pieces, start))


def _guarded(path: Path, pieces: Pieces, start: int) -> Iterator[Array]:
    """The pieces, with what goes wrong while they are read in one line."""
    try:
        for piece in _named(pieces(start)):
            if piece.dtype.kind not in "iufb":
                raise DataError(f"stream: {path} holds {piece.dtype}; real numbers are needed.")
            yield np.asarray(piece, dtype=float)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"stream: {path} cannot be read on: {_first_line(error)}") from error


def _named(pieces: Iterator[Array]) -> Iterator[Array]:
    """The pieces, with whatever the formats' libraries raise as a `ValueError`."""
    while True:
        with named_errors():
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


def _mark(path: Path) -> str:
    found = os.stat(path)
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"


def _slices(table: Any, start: int, rows: int) -> Iterator[Any]:
    for begin in range(start, len(table), rows):
        yield table[begin : begin + rows]


def _numbers(name: str, wanted: Sequence[Column], there: Sequence[str]) -> list[int]:
    """Places of columns given by name or number."""
    found = []
    for column in wanted:
        place = there.index(column) if column in there else column
        if isinstance(place, str) or not 0 <= place < len(there):
            raise DataError(
                f"stream: column {column!r} is not there; {name} has: {', '.join(there[:20])}"
                f"{', ...' if len(there) > 20 else ''}."
            )
        found.append(int(place))
    return found


def _npy(path: Path, wanted: Sequence[Column], rows: int) -> tuple[int, Pieces]:
    def opened() -> Any:
        # A fresh map for each chunk: pages that were read are given back with it.
        return np.load(path, mmap_mode="r", allow_pickle=False)

    with named_errors():
        with path.open("rb") as file:
            check_array(file, os.fstat(file.fileno()).st_size)
        table = opened()
    if table.dtype.names is None and table.ndim not in (1, 2):
        raise DataError(f"stream: {path} has shape {table.shape}; (T, columns) or (T,) is needed.")
    width = 1 if table.ndim == 1 else table.shape[1]
    names = list(table.dtype.names or map(str, range(width)))
    taken, length = _numbers(str(path), wanted, names), len(table)

    def pieces(start: int) -> Iterator[Array]:
        for begin in range(start, length, rows):
            part = opened()[begin : begin + rows]
            if part.dtype.names:
                yield np.column_stack([part[names[k]] for k in taken])
            else:
                yield np.array(part.reshape(len(part), -1)[:, taken])

    return length, pieces


def _zarr(path: Path, wanted: Sequence[Column], rows: int) -> tuple[int, Pieces]:
    try:
        import zarr
    except ImportError as error:
        raise ImportError("stream: Zarr needs zarr: pip install 'realization[interop]'.") from error
    size = folder_size(path)
    with named_errors():
        store: Any = zarr.open(path, mode="r")
        arrays = [store] if hasattr(store, "shape") else [store[name] for name in store.array_keys()]
    for array in arrays:
        _check_zarr(array, size, path)
    if hasattr(store, "shape"):
        columns = [(store, k) for k in range(1 if store.ndim == 1 else store.shape[1])]
        names = [str(k) for k in range(len(columns))]
    else:
        names = sorted(store.array_keys())
        columns = [(store[name], None) for name in names]
    taken: list[Any] = [columns[k] for k in _numbers(str(path), wanted, names)]
    if not hasattr(store, "shape") and any(array.ndim != 1 for array, _ in taken):
        raise DataError(f"stream: a column of {path} has more than one axis; vectors are needed.")
    lengths = {array.shape[0] for array, _ in taken}
    if len(lengths) != 1:
        raise DataError(
            f"stream: the columns of {path} have {sorted(lengths)} samples; one length is needed."
        )
    (length,) = lengths

    def pieces(start: int) -> Iterator[Array]:
        for begin in range(start, length, rows):
            part = slice(begin, begin + rows)
            if not hasattr(store, "shape"):
                yield np.column_stack([array[part] for array, _ in taken])
            else:
                block: Any = np.asarray(store[part])
                yield block.reshape(len(block), -1)[:, [k for _, k in taken]]

    return length, pieces


def _check_zarr(array: Any, size: int, path: Path) -> None:
    """Refuse what would take memory, or time without end, on the word of a few bytes; and foreign codecs."""
    name = f"{path}{array.name}" if array.name else str(path)
    kind, parts = array.dtype, getattr(array, "shards", None) or array.chunks
    if kind.kind not in "iufb" or array.ndim not in (1, 2):
        raise DataError(
            f"stream: {name} holds {kind} of shape {array.shape}; real numbers, (T,) or (T, columns), are "
            "needed."
        )
    if math.prod(parts) * kind.itemsize > LARGEST_PIECE or math.prod(array.shape[1:]) > LARGEST_WIDTH:
        raise DataError(
            f"stream: {name} has chunks of shape {parts} and rows of {array.shape[1:]}; a chunk has at most "
            f"{LARGEST_PIECE} bytes here, and a row {LARGEST_WIDTH} numbers."
        )
    promised = math.prod(array.shape) * kind.itemsize
    if promised > PACKED * size + LARGEST_PIECE:
        raise DataError(f"stream: {name} promises {promised} bytes in {size}; it is damaged or a trap.")


def _parquet(path: Path, wanted: Sequence[Column], rows: int) -> tuple[int, Pieces]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("stream: Parquet needs pyarrow: pip install 'realization[interop]'.") from error
    with named_errors(), pq.ParquetFile(path) as file:
        names, length = file.schema_arrow.names, file.metadata.num_rows
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    taken = [names[k] for k in _numbers(str(path), wanted, names)]

    def pieces(start: int) -> Iterator[Array]:
        first, passed = 0, 0
        while first < len(sizes) and passed + sizes[first] <= start:
            passed += sizes[first]
            first += 1
        with pq.ParquetFile(path) as file:
            groups = range(first, len(sizes))
            for batch in file.iter_batches(batch_size=rows, columns=taken, row_groups=list(groups)):
                skip = min(max(start - passed, 0), len(batch))
                passed += len(batch)
                if skip < len(batch):
                    part = batch.slice(skip)
                    yield np.column_stack(
                        [part.column(name).to_numpy(zero_copy_only=False) for name in taken]
                    )

    return length, pieces


def _text(path: Path, wanted: Sequence[Column], rows: int) -> tuple[None, Pieces]:
    header, delimiter, width = readers.form_of_text(path, wanted)
    taken = [readers.column_number(path, column, header, width) for column in wanted]

    def pieces(start: int) -> Iterator[Array]:
        lines = readers.rows_of_text(path, delimiter, skip_header=bool(header))
        next(islice(lines, start, start), None)
        while part := list(islice(lines, rows)):
            readers.check_width(path, header, part, width)
            yield readers.values_of(path, part, taken, header, delimiter)

    return None, pieces


_READERS: dict[str, Callable[[Path, Sequence[Column], int], tuple[int | None, Pieces]]] = {
    ".npy": _npy,
    ".zarr": _zarr,
    ".parquet": _parquet,
    ".csv": _text,
    ".tsv": _text,
    ".txt": _text,
    ".dat": _text,
}
