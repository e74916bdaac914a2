"""SignalModel: an identified model with a nonlinear correction in its loop, and a memory."""

from bmojo.bridge.signal_model.model import FloorWarning, SignalModel, SignalState

__all__ = ["FloorWarning", "SignalModel", "SignalState"]
