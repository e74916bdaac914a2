"""Lower: a layer becomes a realization along its input, and tells what it remembers."""

from bmojo.bridge.lower.ablation import MEMORIES, MemoryShares, ablate, memory_shares
from bmojo.bridge.lower.factors import gramian_factors_along
from bmojo.bridge.lower.layers import lower
from bmojo.bridge.lower.memory import MemoryCurves, TimeConstants, memory_curves, time_constants
from bmojo.bridge.lower.mixers import register_lowering
from bmojo.bridge.lower.output_map import OutputMap
from bmojo.bridge.lower.spectrum import HankelSpectrum, hankel_operator, hankel_spectrum
from bmojo.bridge.lower.time_varying import TimeVaryingRealization

__all__ = [
    "MEMORIES",
    "HankelSpectrum",
    "MemoryCurves",
    "MemoryShares",
    "OutputMap",
    "TimeConstants",
    "TimeVaryingRealization",
    "ablate",
    "gramian_factors_along",
    "hankel_operator",
    "hankel_spectrum",
    "lower",
    "memory_curves",
    "memory_shares",
    "register_lowering",
    "time_constants",
]
