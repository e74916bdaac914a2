"""What can go wrong with a store, and what is said about it."""

from __future__ import annotations

import errno

from realization.errors import RealizationError, RealizationWarning

__all__ = ["StorageError", "StorageWarning", "StoreAway", "from_os"]

ADVICE = {
    errno.ENOSPC: "free space, then call flush()",
    errno.EDQUOT: "free space, then call flush()",
    errno.EROFS: 'name a folder that can be written, or open with mode="r"',
    errno.EACCES: 'give this user permission to write there, or open with mode="r"',
    errno.EPERM: 'give this user permission to write there, or open with mode="r"',
    errno.EMFILE: "close other stores, or raise the limit of open files",
}


class StorageError(RealizationError):
    """A store's files cannot be read or written, or are not what was once committed."""


class StoreAway(StorageError):
    """A store does not answer now; it may later, and nothing that was committed is lost."""


class StorageWarning(RealizationWarning):
    """A store is away, is back, or holds the traces of an interrupted write."""


def from_os(doing: str, path: object, error: OSError) -> StorageError:
    """One line for an error of the operating system.

    Parameters
    ----------
    doing : str
        Such as `"write"`.
    path : path or str
    error : OSError

    Examples
    --------
    >>> from bmojo.storage.errors import from_os
    >>> print(from_os("write", "rows", OSError(28, "No space left on device")))
    cannot write rows: no space left on device; free space, then call flush().
    """
    reason = (error.strerror or str(error)).lower()
    advice = ADVICE.get(error.errno or 0)
    return StorageError(f"cannot {doing} {path}: {reason}" + (f"; {advice}." if advice else "."))
