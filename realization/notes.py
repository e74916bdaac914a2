"""Warnings of the package: to the user, or, where a caller collects them, to that caller alone.

Python's list of warning filters belongs to the whole process. Who collects here leaves it alone: a context
variable says who listens, and it belongs to the thread, or to the task, in which the call is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from realization.errors import RealizationWarning

__all__ = ["collected", "warn"]

Note = tuple[type[RealizationWarning], str]
_listener: ContextVar[list[Note] | None] = ContextVar("realization_notes", default=None)


def warn(text: str, kind: type[RealizationWarning], *, stacklevel: int = 1) -> None:
    """Warn, or leave the note with who collects.

    Parameters
    ----------
    text : str
    kind : type
        Of warning.
    stacklevel : int
        As in `warnings.warn`, where 1 is the line that calls this function.

    Examples
    --------
    >>> from realization.errors import OrderWarning
    >>> from realization.notes import collected, warn
    >>> with collected() as notes:
    ...     warn("the order is the limit", OrderWarning)
    >>> notes
    [(<class 'realization.errors.OrderWarning'>, 'the order is the limit')]
    """
    notes = _listener.get()
    if notes is None:
        warnings.warn(text, kind, stacklevel=stacklevel + 1)
    else:
        notes.append((kind, text))


@contextmanager
def collected() -> Iterator[list[Note]]:
    """Collect what the package warns of within, in this thread, instead of warning.

    NumPy is silent about overflow and the like within; this setting of its belongs to the thread too.

    Returns
    -------
    notes : context manager of list of (type, str)
    """
    notes: list[Note] = []
    token = _listener.set(notes)
    try:
        with np.errstate(all="ignore"):
            yield notes
    finally:
        _listener.reset(token)
