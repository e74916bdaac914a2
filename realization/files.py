"""Files that are whole or not there; and files from strangers, read in their folder alone."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from realization.errors import DataError

__all__ = ["file_within", "folder_size", "read_small", "write_atomically", "write_whole"]


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all: a temporary neighbour takes the name once it is complete.

    Parameters
    ----------
    path : str or path
        Links are followed.
    content : str or bytes
        Text is written in UTF-8.

    Raises
    ------
    DataError
        If the folder is not there or cannot be written; what lay at `path` is untouched.

    Examples
    --------
    >>> import tempfile
    >>> from realization.files import write_atomically
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/a.txt", "whole")
    ...     print(open(f"{folder}/a.txt").read())
    whole
    """
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise DataError(f"cannot write {path}: it is a folder; name a file.")
    try:
        write_whole(place, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"cannot write {path}: {reason}. Make the folder, or name another.") from None


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """As `write_atomically`, with the system's own errors.

    Parameters
    ----------
    path : str or path
        Links are followed.
    content : str or bytes
        Text is written in UTF-8.
    """
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".{place.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def file_within(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of a file in a folder, which need not be there; a link out of the folder is refused.

    Parameters
    ----------
    folder : str or path
    name : str

    Raises
    ------
    DataError
        If the name or a link leads out of the folder, or what is there is no file.

    Examples
    --------
    >>> import realization as rz
    >>> from realization.files import file_within
    >>> try:
    ...     file_within("models", "../secret")
    ... except rz.DataError as error:
    ...     print(error)
    cannot read models/../secret: it lies outside of models; copy it there.
    """
    place = Path(folder, name)
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"cannot read {place}: it lies outside of {folder}; copy it there.")
    if place.exists() and not place.is_file():
        raise DataError(f"cannot read {place}: it is no file.")
    return place


def folder_size(folder: str | os.PathLike[str]) -> int:
    """Bytes of the files in a folder, in which no link, however deep, may lead out of it.

    Parameters
    ----------
    folder : str or path

    Raises
    ------
    DataError
        With the first such link, or what is neither file nor folder.
    """
    root, size = os.path.realpath(folder), 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise DataError(f"cannot read {path}: it is a link out of {folder}; copy what it leads to.")
            if not path.is_dir():
                if not path.is_file():
                    raise DataError(f"cannot read {path}: it is neither a file nor a folder.")
                size += path.stat().st_size
    return size


def read_small(path: str | os.PathLike[str], largest: int) -> bytes:
    """The bytes of a file that is a file, and no larger than it may be.

    Parameters
    ----------
    path : str or path
    largest : int
        Bytes.

    Raises
    ------
    DataError
        If it is larger, or a pipe or a device, which may have no end.
    OSError
        If it cannot be read.
    """
    place = Path(path)
    size = place.stat().st_size
    if not place.is_file():
        raise DataError(f"cannot read {place}: it is no file.")
    if size > largest:
        raise DataError(f"cannot read {place}: it has {size} bytes; at most {largest} are read.")
    return place.read_bytes()
