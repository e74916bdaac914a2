r"""Pictures in one style: a colour means the same thing wherever it appears.

Every function takes an Axes (or makes one), draws into it and returns it. Matplotlib is loaded on the first
call, never by importing this package.
"""

from realization.plot.models import hankel_singular_values, impulse_response, memory, poles
from realization.plot.signals import autocorrelation, fit, innovations, reconstruction
from realization.plot.style import COLOURS, style

__all__ = [
    "COLOURS",
    "autocorrelation",
    "fit",
    "hankel_singular_values",
    "impulse_response",
    "innovations",
    "memory",
    "poles",
    "reconstruction",
    "style",
]
