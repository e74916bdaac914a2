"""Lift: a realization becomes a layer."""

from bmojo.bridge.lift.layer import LiftedLayer, lift_layer
from bmojo.bridge.lift.model import LiftedModel, lift
from bmojo.bridge.lift.start import MixerStart, initialize_from

__all__ = ["LiftedLayer", "LiftedModel", "MixerStart", "initialize_from", "lift", "lift_layer"]
