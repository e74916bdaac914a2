"""Errors and warnings of the toolkit: each says what came, what is needed and why, and what to try."""

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
]


class RealizationError(ValueError):
    """Base of every error that this package raises on purpose."""


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
