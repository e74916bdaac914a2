"""Compress: a mixer's state without the directions that nothing is written to or read from."""

from bmojo.bridge.compress.empirical import EmpiricalGramians, empirical_gramians
from bmojo.bridge.compress.layers import Compression, MixerReport, compress

__all__ = ["Compression", "EmpiricalGramians", "MixerReport", "compress", "empirical_gramians"]
