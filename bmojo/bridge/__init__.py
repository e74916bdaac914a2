"""The bridge: realizations become layers, and layers along an input realizations."""

from bmojo.bridge.lift import LiftedModel, lift
from bmojo.bridge.lower import lower
from bmojo.bridge.lower_mixers import register_lowering
from bmojo.bridge.output_map import OutputMap
from bmojo.bridge.time_varying import TimeVaryingRealization

__all__ = [
    "LiftedModel",
    "OutputMap",
    "TimeVaryingRealization",
    "lift",
    "lower",
    "register_lowering",
]
