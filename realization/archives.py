"""NumPy's files from strangers: sizes are checked before memory is taken, and nothing is unpickled."""

from __future__ import annotations

import io
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

__all__ = ["RATIO", "check_array", "load_arrays", "named_errors"]

LARGEST_HEADER = 10_000
LONGEST_SIDE = 1 << 16  # of an array without entries
RATIO = 1040  # deflate packs no more into one byte


def load_arrays(place: str | os.PathLike[str] | bytes) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of an NPY file, or the arrays of an NPZ file by name.

    Parameters
    ----------
    place : path or bytes
        The file, or its content.

    Returns
    -------
    ndarray or dict from str to ndarray

    Raises
    ------
    ValueError
        In whatever way the file is damaged, or promises more than it holds.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import io, numpy as np
    >>> from realization.archives import load_arrays
    >>> buffer = io.BytesIO()
    >>> np.savez(buffer, y=np.arange(3))
    >>> load_arrays(buffer.getvalue())
    {'y': array([0, 1, 2])}
    """
    with named_errors(), io.BytesIO(place) if isinstance(place, bytes) else open(place, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            check_array(file, size)
            file.seek(0)
            return npy.read_array(file, allow_pickle=False)
        with zipfile.ZipFile(file) as archive:
            found = {}
            for info in archive.infolist():
                if info.file_size > RATIO * size:
                    raise ValueError(f"{info.filename} promises {info.file_size} bytes in a file of {size}")
                with archive.open(info) as member:
                    check_array(member, info.file_size)
                with archive.open(info) as member:
                    found[info.filename.removesuffix(".npy")] = npy.read_array(member, allow_pickle=False)
            return found


def check_array(file: IO[bytes], size: int) -> None:
    """Refuse an array that promises more than the bytes behind its header.

    Parameters
    ----------
    file : binary file
        At its beginning.
    size : int
        Bytes in it.

    Raises
    ------
    ValueError
        And what NumPy raises on a damaged header.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it has format version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=LARGEST_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never read")
    needed = dtype.itemsize
    for side in shape:
        needed *= int(side)
    # Nothing at all may still have a side without end, along which one would walk.
    if not 0 <= needed <= size - file.tell() or max(shape, default=0) > max(size, LONGEST_SIDE):
        raise ValueError(f"shape {shape} of {dtype} came with {size - file.tell()} bytes")


@contextmanager
def named_errors() -> Iterator[None]:
    """Whatever the readers of NumPy, zip, Zarr and Parquet raise on a damaged file, as a `ValueError`."""
    try:
        yield
    except (
        AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError,
        OverflowError, RecursionError, RuntimeError, SyntaxError, SystemError, TypeError, UnicodeError,
        struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(f"{type(error).__name__}: {error}") from None
