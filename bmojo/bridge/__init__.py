"""The bridge: realizations become layers, and layers along an input realizations."""

from bmojo.bridge.ablation import MEMORIES, MemoryShares, ablate, memory_shares
from bmojo.bridge.compress import Compression, MixerReport, compress
from bmojo.bridge.empirical import EmpiricalGramians, empirical_gramians
from bmojo.bridge.initialize import MixerStart, initialize_from
from bmojo.bridge.lift import LiftedModel, lift
from bmojo.bridge.lifted_layer import LiftedLayer, lift_layer
from bmojo.bridge.lower import lower
from bmojo.bridge.lower_factors import gramian_factors_along
from bmojo.bridge.lower_memory import MemoryCurves, TimeConstants, memory_curves, time_constants
from bmojo.bridge.lower_mixers import register_lowering
from bmojo.bridge.lower_spectrum import HankelSpectrum, hankel_operator, hankel_spectrum
from bmojo.bridge.output_map import OutputMap
from bmojo.bridge.signal_model import FloorWarning, SignalModel, SignalState
from bmojo.bridge.time_varying import TimeVaryingRealization

__all__ = [
    "MEMORIES",
    "Compression",
    "EmpiricalGramians",
    "FloorWarning",
    "HankelSpectrum",
    "LiftedLayer",
    "LiftedModel",
    "MemoryCurves",
    "MemoryShares",
    "MixerReport",
    "MixerStart",
    "OutputMap",
    "SignalModel",
    "SignalState",
    "TimeConstants",
    "TimeVaryingRealization",
    "ablate",
    "compress",
    "empirical_gramians",
    "gramian_factors_along",
    "hankel_operator",
    "hankel_spectrum",
    "initialize_from",
    "lift",
    "lift_layer",
    "lower",
    "memory_curves",
    "memory_shares",
    "register_lowering",
    "time_constants",
]
