"""What can go wrong in training, and what is said about it."""

from __future__ import annotations

from realization.errors import RealizationError, RealizationWarning, page_of

__all__ = ["CheckpointError", "CheckpointWarning", "ConfigurationError", "DivergedError", "LostProcessError"]


class ConfigurationError(RealizationError):
    """A configuration says what cannot be done, or names what is not there."""


class CheckpointError(RealizationError):
    """A folder holds another run, or checkpoints that cannot be read."""


class LostProcessError(RealizationError):
    """Another process of a run is gone, or does not answer."""

    tells = True
    """Whether this process is the one of the others that says so."""


class DivergedError(FloatingPointError):
    """The loss is no longer finite.

    Parameters
    ----------
    step : int
    loss, rate : float
        What it is, and the peak rate.
    """

    def __init__(self, step: int, loss: float, rate: float) -> None:
        super().__init__(f"the loss is {loss} at step {step}; lower the rate ({rate}).")
        self.add_note(f"See {page_of(type(self))}.")
        self.step = step


class CheckpointWarning(RealizationWarning):
    """A checkpoint was passed over for an older one."""
