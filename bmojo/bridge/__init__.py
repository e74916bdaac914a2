"""The bridge: realizations become layers."""

from bmojo.bridge.lift import LiftedModel, lift

__all__ = ["LiftedModel", "lift"]
