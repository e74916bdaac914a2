r"""Pictures of layers in the style of `realization.plot`: a colour means the same thing in both.

Every function takes an Axes (or makes one), draws into it and returns it. Matplotlib is loaded on the first
call, never by importing this package.
"""

from bmojo.plot.attention import attention_mass
from bmojo.plot.curves import memory_curves, time_constants
from bmojo.plot.kept import eidetic_raster
from bmojo.plot.spectra import hankel_singular_values, memory_spectrum
from realization.plot import COLOURS, style

__all__ = [
    "COLOURS",
    "attention_mass",
    "eidetic_raster",
    "hankel_singular_values",
    "memory_curves",
    "memory_spectrum",
    "style",
    "time_constants",
]
