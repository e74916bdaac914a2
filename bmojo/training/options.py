"""Options of one run, and the learning rate that follows from them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from bmojo.training.errors import ConfigurationError

__all__ = ["TrainOptions"]

SCHEDULES = ("cosine", "wsd", "constant")
PRECISIONS = ("float32", "bfloat16")
METRICS = ("accuracy", "loss")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    r"""How one model is trained: AdamW, a schedule, and what happens on the way.

    With `i` steps taken, `n` in all, `w` of warm-up and the floor `f`, the rate is the peak times
    $\min(1, (i + 1)/w)$ times

    $$\tfrac{1+f}{2} + \tfrac{1-f}{2} \cos(\pi i / n) \quad \text{(cosine)}, \qquad
    \min\!\big(1,\; f + (1 - f) \tfrac{n - i}{d n}\big) \quad \text{(wsd: warm-up, stable, decay)}.$$

    Parameters
    ----------
    steps : int
        `n`.
    batch : int
        Sequences of a pass.
    accumulate : int
        Passes of a step: the gradient is that of `batch * accumulate` sequences.
    rate : float
        Peak learning rate.
    schedule : {"cosine", "wsd", "constant"}
    warmup : int
        `w`.
    floor : float
        `f`: the last rate over the peak.
    decay : float
        `d`: share of the steps in which `wsd` falls.
    weight_decay : float
        Of matrices; vectors (norms, biases, time constants) have none.
    beta1, beta2 : float
        Averages of AdamW.
    clip : float
        Largest norm of the gradient; 0: as it comes.
    precision : {"float32", "bfloat16"}
        Of the passes; parameters, states and the optimizer stay in float32.
    seed : int
        Of the data.
    evaluate_every : int
        Steps between two evaluations on held-out sequences; 0: at the end alone.
    sequences : int
        Held-out sequences of an evaluation; 0: none takes place.
    evaluation_seed : int
        Of these sequences.
    metric : {"accuracy", "loss"}
        What says which of two evaluations is better.
    patience : int
        Evaluations in a row that may be no better than the best before training ends early; 0: no such end.
    target : float, optional
        Value of the metric at which training ends early.
    checkpoint_every : int
        Steps between two checkpoints, where there is a folder; 0: when interrupted and at the end alone.
    keep : int
        Checkpoints that are kept, the newest.
    log_every : int
        Steps between two lines of the log.

    Raises
    ------
    ConfigurationError
        If an option is out of range.

    Examples
    --------
    >>> from bmojo.training import TrainOptions
    >>> options = TrainOptions(steps=100, rate=1.0, warmup=10, schedule="wsd", floor=0.0)
    >>> [round(options.rate_at(i), 3) for i in (0, 9, 50, 79, 90, 99)]
    [0.1, 1.0, 1.0, 1.0, 0.5, 0.05]
    """

    steps: int = 1000
    batch: int = 32
    accumulate: int = 1
    rate: float = 6e-3
    schedule: str = "cosine"
    warmup: int = 30
    floor: float = 0.05
    decay: float = 0.2
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0
    precision: str = "float32"
    seed: int = 0
    evaluate_every: int = 0
    sequences: int = 256
    evaluation_seed: int = 12345
    metric: str = "accuracy"
    patience: int = 0
    target: float | None = None
    checkpoint_every: int = 0
    keep: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "keep", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "sequences", "evaluate_every", "patience", "checkpoint_every", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("rate", 0 < self.rate < math.inf, "a positive number")
        for name in ("floor", "decay"):
            self._require(name, 0 <= getattr(self, name) <= 1, "within [0, 1]")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "within [0, 1)")
        self._require("clip", self.clip >= 0, "at least 0")
        for name, choices in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("metric", METRICS)):
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        if self.evaluate_every and not self.sequences:
            raise ConfigurationError(
                f"evaluate_every={self.evaluate_every} came with sequences=0: nothing to judge on."
            )
        if self.patience and not self.evaluate_every:
            raise ConfigurationError(
                f"patience={self.patience} came with evaluate_every=0: there are no evaluations on the way "
                "that could be no better. Give evaluate_every."
            )
        if self.target is not None and not self.evaluate_every:
            raise ConfigurationError(
                f"target={self.target} came with evaluate_every=0; give the steps between two evaluations."
            )

    def _require(self, name: str, holds: bool, needed: str) -> None:
        if not holds:
            raise ConfigurationError(f"{name}={getattr(self, name)!r} came; {needed} is needed.")

    def rate_at(self, step: int) -> float:
        """Learning rate of the step after `step` steps."""
        factor = 1.0
        if self.schedule == "cosine":
            swing = math.cos(math.pi * step / self.steps)
            factor = (1 + self.floor) / 2 + (1 - self.floor) / 2 * swing
        elif self.schedule == "wsd" and self.decay:
            left = (self.steps - step) / (self.decay * self.steps)
            factor = min(1.0, self.floor + (1 - self.floor) * left)
        return self.rate * (min(1.0, (step + 1) / max(1, self.warmup)) * factor)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values, from which `TrainOptions(**values)` makes the same."""
        return asdict(self)
