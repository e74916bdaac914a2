r"""Pictures in one style: a colour means the same thing wherever it appears.

Every function takes an Axes (or makes one), draws into it and returns it. Matplotlib is loaded on the first
call, never by importing this package.
"""

from realization.plot.changes import changes
from realization.plot.frequency import bode
from realization.plot.models import hankel_singular_values, impulse_response, memory, memory_curve
from realization.plot.plane import poles, poles_zeros
from realization.plot.signals import autocorrelation, fit, innovations, reconstruction
from realization.plot.style import COLOURS, style

__all__ = [
    "COLOURS",
    "autocorrelation",
    "bode",
    "changes",
    "fit",
    "hankel_singular_values",
    "impulse_response",
    "innovations",
    "memory",
    "memory_curve",
    "poles",
    "poles_zeros",
    "reconstruction",
    "style",
]
