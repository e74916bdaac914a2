"""How much of the past is held: by a state, and by a window of the same size."""

from realization.memory.curve import MemoryCurve, memory_curve
from realization.memory.window import WindowMemory, window_memory

__all__ = ["MemoryCurve", "WindowMemory", "memory_curve", "window_memory"]
