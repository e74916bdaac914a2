"""Models: state-space and innovations form, and their storage."""

from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.storage import load_model, save_model

__all__ = ["InnovationsModel", "StateSpace", "load_model", "save_model"]
