"""One writer for each folder."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from bmojo.storage.errors import StorageError, from_os

try:
    import fcntl
except ImportError:  # no such locks there: two writers at once are not noticed
    fcntl = None

__all__ = ["held"]


def held(folder: Path) -> IO[bytes]:
    """Make a folder where it is not there, and hold it against other writers until the file is closed.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    file
        The lock; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    StorageError
        If the folder cannot be made or written, or another process (or store) holds it.
    """
    try:
        folder.mkdir(exist_ok=True)
        _check(folder / "lock")
        lock = (folder / "lock").open("ab")
    except FileNotFoundError:
        raise StorageError(f"cannot make {folder}: {folder.parent} is not there; make it first.") from None
    except OSError as error:
        raise from_os("write", folder, error) from None
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StorageError(
                f"cannot write {folder}: another store writes to it; close that one."
            ) from None
    return lock


def _check(path: Path) -> None:
    """Refuse a link, which may lead elsewhere, and a pipe, which would be waited for."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise StorageError(f"cannot write {path}: it is no file; remove it.")
