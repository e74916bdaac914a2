"""Errors and warnings of the toolkit: each says what came, what is needed and why, and what to try.

Each also has a page of the documentation that explains it: an error carries it as a note, which tracebacks
show below the message, and the commands add it to their line.
"""

from __future__ import annotations

__all__ = [
    "CalibrationWarning",
    "ConvergenceError",
    "ConvergenceWarning",
    "DataError",
    "ExcitationError",
    "ExcitationWarning",
    "OrderWarning",
    "PositiveRealWarning",
    "RankError",
    "RealizationError",
    "RealizationWarning",
    "ShapeError",
    "StabilityWarning",
    "UnstableError",
    "page_of",
]

# By the name of the class, that of a base where it has none of its own; paths in the repository.
PAGES = {
    "CalibrationWarning": "docs/derivations/innovation_selection.md",
    "CheckpointError": "docs/training.md",
    "CheckpointWarning": "docs/training.md",
    "ConfigurationError": "docs/training.md",
    "ConversionError": "docs/models.md",
    "ConvergenceError": "docs/derivations/riccati_and_innovations.md",
    "ConvergenceWarning": "docs/derivations/riccati_and_innovations.md",
    "DataError": "docs/data.md",
    "DivergedError": "docs/training.md",
    "ExcitationError": "docs/derivations/okid.md",
    "ExcitationWarning": "docs/derivations/okid.md",
    "FloorWarning": "docs/bridge/signal_model.md",
    "LostProcessError": "docs/parallel.md",
    "OrderWarning": "docs/howto/order.md",
    "PositiveRealWarning": "docs/derivations/stochastic_realization.md",
    "RankError": "docs/derivations/ho_kalman.md",
    "RealizationError": "docs/conventions.md",
    "RealizationWarning": "docs/conventions.md",
    "ShapeError": "docs/conventions.md",
    "StabilityWarning": "docs/methods.md",
    "StorageError": "docs/storage.md",
    "StorageWarning": "docs/storage.md",
    "StoreAway": "docs/storage.md",
    "UnstableError": "docs/derivations/gramians_and_norms.md",
}


def page_of(kind: type) -> str | None:
    """Page of the documentation that explains an error or a warning, as a path in the repository.

    Parameters
    ----------
    kind : type
        Its class.

    Returns
    -------
    str or None
        `None` of what is not this project's.

    Examples
    --------
    >>> from realization.errors import OrderWarning, page_of
    >>> page_of(OrderWarning), page_of(OSError)
    ('docs/howto/order.md', None)
    """
    return next((PAGES[base.__name__] for base in kind.__mro__ if base.__name__ in PAGES), None)


class RealizationError(ValueError):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    *told
        The message.

    Examples
    --------
    >>> from realization.errors import DataError
    >>> DataError("the record is empty.").__notes__
    ['See docs/data.md.']
    """

    def __init__(self, *told: object) -> None:
        super().__init__(*told)
        self.add_note(f"See {page_of(type(self))}.")


class ShapeError(RealizationError):
    """An array has the wrong shape."""


class DataError(RealizationError):
    """Values cannot be used: not finite, constant, unreadable, or not there."""


class RankError(RealizationError):
    """A matrix lacks the rank that the construction needs."""


class UnstableError(RealizationError):
    """A stable system is needed and the given one is not."""


class ExcitationError(RealizationError):
    """The record is too short or too poor to determine what is asked."""


class ConvergenceError(RealizationError):
    """An iteration did not reach its tolerance."""


class RealizationWarning(UserWarning):
    """Base of every warning that this package issues."""


class ExcitationWarning(RealizationWarning):
    """The input excites few directions; the estimate may be poor."""


class OrderWarning(RealizationWarning):
    """The chosen order lies at the limit of what was searched."""


class PositiveRealWarning(RealizationWarning):
    """Covariances belonged to no process, and were changed until they did."""


class StabilityWarning(RealizationWarning):
    """The estimate was unstable, or was made stable."""


class CalibrationWarning(RealizationWarning):
    """Innovations are not as the model promises, so that rates that rest on it do not hold."""


class ConvergenceWarning(RealizationWarning):
    """An iteration stopped early; its best point is returned."""
