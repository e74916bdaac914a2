"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from realization.errors import DataError

__all__ = ["write_atomically", "write_whole"]


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
