"""B'MOJO layers: four memories in one layer, trainable, streamed in constant space."""

import sys

try:
    from bmojo import plot
    from bmojo.bridge import (
        LiftedLayer,
        LiftedModel,
        MemoryShares,
        OutputMap,
        SignalModel,
        TimeVaryingRealization,
        ablate,
        compress,
        hankel_spectrum,
        initialize_from,
        lift,
        lift_layer,
        lower,
        memory_curves,
        memory_shares,
        time_constants,
    )
    from bmojo.config import BMojoConfig
    from bmojo.layer import BMojo, prediction_loss
    from bmojo.models.language_model import BMojoLM
    from bmojo.presets import bare_mixer, bmojo_f, sliding_window, stacked_hybrid, transformer
    from bmojo.state import BMojoState
    from bmojo.trace import BMojoTrace
    from bmojo.training.run import train
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    needed = "bmojo needs PyTorch: pip install 'realization[bmojo]'"
    if sys.argv[0].replace("\\", "/").rpartition("/")[2].removesuffix(".exe") == "bmojo":
        sys.exit(needed)  # the command: a line in place of a traceback
    raise ImportError(needed) from None

__all__ = [
    "BMojo",
    "BMojoConfig",
    "BMojoLM",
    "BMojoState",
    "BMojoTrace",
    "LiftedLayer",
    "LiftedModel",
    "MemoryShares",
    "OutputMap",
    "SignalModel",
    "TimeVaryingRealization",
    "ablate",
    "bare_mixer",
    "bmojo_f",
    "compress",
    "hankel_spectrum",
    "initialize_from",
    "lift",
    "lift_layer",
    "lower",
    "memory_curves",
    "memory_shares",
    "plot",
    "prediction_loss",
    "sliding_window",
    "stacked_hybrid",
    "time_constants",
    "train",
    "transformer",
]
