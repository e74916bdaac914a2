"""What can go wrong in training, and what is said about it."""

from __future__ import annotations

from realization.errors import RealizationError, RealizationWarning

__all__ = ["CheckpointError", "CheckpointWarning", "ConfigurationError"]


class ConfigurationError(RealizationError):
    """A configuration says what cannot be done, or names what is not there."""


class CheckpointError(RealizationError):
    """A folder holds another run, or checkpoints that cannot be read."""


class CheckpointWarning(RealizationWarning):
    """A checkpoint was passed over for an older one."""
