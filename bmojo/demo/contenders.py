"""Who takes part in gap recall: models that differ in their memories and in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from bmojo.config import BMojoConfig
from bmojo.models.language_model import BMojoLM
from bmojo.tasks.recall import GapRecall
from bmojo.training import Stage, recall_accuracy, train_recall

__all__ = [
    "CONTENDERS",
    "CURRICULUM",
    "GROWTH_GAPS",
    "GROWTH_PAIRS",
    "TASK",
    "Contender",
    "Outcome",
    "compete",
]

WIDTH, WINDOW, LAYERS = 64, 8, 2
TASK = GapRecall(pairs=8, gap=48, queries=16)
CURRICULUM = (GapRecall(pairs=2, gap=16, queries=4), GapRecall(pairs=4, gap=32, queries=8), TASK)
GROWTH_PAIRS = (8, 16, 24, 31)
GROWTH_GAPS = (48, 192, 768)


@dataclass(frozen=True)
class Contender:
    """A model and how it is trained.

    Parameters
    ----------
    name : str
        As the pictures call it.
    kind : {"window", "state", "stack", "bmojo"}
        `stack`: in every block a mixer, then a window.
    state : int
        State size `N`; each layer's state holds `64 N` numbers.
    eidetic : int
        Places `m`.
    rule : str
        What keeps a place.
    position : str
        Where fading and eidetic keys are rotated.
    steps, rate
        Training steps and peak learning rate (swept by `benchmarks/bench_gap_recall.py`).
    growth : bool
        Whether it is also tried on more pairs and longer gaps than it was trained on.
    """

    name: str
    kind: str
    state: int = 4
    eidetic: int = 0
    rule: str = "top"
    position: str = "edge"
    steps: int = 280
    rate: float = 6e-3
    growth: bool = False

    def configs(self) -> list[BMojoConfig]:
        """The layers, first to last."""
        mixer = BMojoConfig(d_model=WIDTH, window=0, eidetic=0, state_size=self.state)
        window = BMojoConfig(d_model=WIDTH, window=WINDOW, mixer="none", eidetic=0)
        whole = BMojoConfig(
            d_model=WIDTH,
            window=WINDOW,
            state_size=self.state,
            eidetic=self.eidetic,
            rule=self.rule,
            eidetic_position=self.position,
        )
        return {"window": [window], "state": [mixer], "stack": [mixer, window], "bmojo": [whole]}[
            self.kind
        ] * LAYERS

    def build(self, seed: int) -> BMojoLM:
        """The model, freshly initialised."""
        torch.manual_seed(seed)
        return BMojoLM(TASK.vocabulary, self.configs(), mlp_ratio=0.0)


# The stack with a large state holds in it the bytes of 16 places (33 numbers of 256 bytes are 16 tokens of
# 528). It may stay on a plateau for hundreds of steps, by the seed, so it gets five times as many.
CONTENDERS = (
    Contender("stack, state 33", "stack", state=33, steps=1400, rate=1e-2, growth=True),
    Contender("B'MOJO, m = 16", "bmojo", eidetic=16, growth=True),
    Contender("B'MOJO, m = 24", "bmojo", eidetic=24),
    Contender("B'MOJO, m = 8", "bmojo", eidetic=8),
    Contender("random, m = 16", "bmojo", eidetic=16, rule="random"),
    Contender("B'MOJO-F", "bmojo"),
    Contender("stack, state 4", "stack", rate=1e-2),
    Contender("window", "window"),
    Contender("state 4", "state", rate=1e-2),
)


@dataclass(frozen=True)
class Outcome:
    """What a contender reached.

    Parameters
    ----------
    contender : Contender
    seed : int
    accuracy : float
        On the task of training, at 8 pairs.
    memory : dict of str to int
        Bytes that outlive a token, over all layers, by memory: `in_context`, `in_state`, `eidetic`.
    parameters : int
    losses : list of float
        Cross-entropy of every step.
    growth : dict
        Accuracy by (gap, pairs), budget 2 K; empty where it was not tried.
    budget : dict
        Accuracy by number of places at inference, as trained otherwise; empty likewise.
    kept : dict
        `tokens` (T,), `scores` (T,) and `kept` (positions) of one sequence in the first layer.
    """

    contender: Contender
    seed: int
    accuracy: float
    memory: dict[str, int]
    parameters: int
    losses: list[float]
    growth: dict[tuple[int, int], float] = field(default_factory=dict)
    budget: dict[int, float] = field(default_factory=dict)
    kept: dict[str, list[float]] = field(default_factory=dict)

    @property
    def long_term(self) -> int:
        """Bytes of what reaches beyond the window: states and eidetic sets."""
        return self.memory["in_state"] + self.memory["eidetic"]

    def to_dict(self) -> dict[str, object]:
        """Plain values for a JSON file."""
        plain = asdict(self)
        plain["growth"] = [{"gap": g, "pairs": k, "accuracy": a} for (g, k), a in self.growth.items()]
        plain["budget"] = [{"places": m, "accuracy": a} for m, a in self.budget.items()]
        return plain


def compete(
    contender: Contender, *, seed: int = 0, on_step: Callable[[int, float], None] | None = None
) -> Outcome:
    """Train a contender on the curriculum, and measure what it remembers.

    Parameters
    ----------
    contender : Contender
        Who is trained.
    seed : int
        Of parameters and data.
    on_step : callable, optional
        Called with each step's number and loss.

    Returns
    -------
    Outcome
    """
    model = contender.build(seed)
    part = contender.steps * 2 // 7
    steps = (part, part, contender.steps - 2 * part)
    stages = [Stage(task, count) for task, count in zip(CURRICULUM, steps, strict=True)]
    losses = train_recall(model, stages, seed=seed, rate=contender.rate, on_step=on_step)
    growth, budget = {}, {}
    if contender.growth:
        for gap in GROWTH_GAPS:
            for pairs in GROWTH_PAIRS:
                places = 2 * pairs if contender.eidetic else None
                task = GapRecall(pairs=pairs, gap=gap, queries=8)
                growth[gap, pairs] = recall_accuracy(model, task, sequences=128, eidetic=places)
    if contender.growth and contender.eidetic:
        for places in (1, 2, 4, 8, 12, 16, 24, 32):
            budget[places] = recall_accuracy(model, TASK, eidetic=places)
    state = model.init_state(1)
    memory = {key: sum(part.memory()[key] for part in state) for key in state[0].memory()}
    return Outcome(
        contender,
        seed,
        recall_accuracy(model, TASK, sequences=512),
        memory,
        sum(p.numel() for p in model.parameters()),
        losses,
        growth,
        budget,
        _kept(model) if contender.eidetic and contender.rule == "top" else {},
    )


def _kept(model: BMojoLM) -> dict[str, list[float]]:
    """Scores of one sequence in the first layer, and the places that are taken when its last chunk begins."""
    tokens, _, _ = TASK.sample(1, torch.Generator().manual_seed(7))
    trace = model.trace(tokens)[0]
    kept = trace.eidetic_index[0, -1]
    return {
        "tokens": tokens[0].tolist(),
        "scores": trace.scores[0].tolist(),
        "kept": kept[kept >= 0].tolist(),
    }
