"""Both kinds of model behind one door."""

from realization.systems.innovations_model import InnovationsModel
from realization.systems.state_space import StateSpace

__all__ = ["InnovationsModel", "StateSpace"]
