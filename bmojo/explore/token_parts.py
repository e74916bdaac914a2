"""What the page of a model along tokens is filled with: its words, and its numbers, each array once."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmojo.explore.tokens import StateMemory, TokenMemory, TokenRun

__all__ = ["token_parts"]

Array = NDArray[Any]
LOSS = 2000  # steps of a nat
NONE = 2**16 - 1


def token_parts(study: TokenMemory) -> tuple[dict[str, str], dict[str, Any]]:
    """Words of the page by their places, and the numbers that its script reads.

    Losses are rounded to 1/2000 nat, attention to 1/255.

    Parameters
    ----------
    study : TokenMemory
    """
    layers = len(study.reach)
    words = {
        "question": "what the model remembers, and where",
        "lead": _lead(study),
        "last": str(len(study.tokens) - 1),
        "layers": str(layers),
        "budgets": str(len(study.grid[0]) - 1),
        "windows": str(len(study.grid[1]) - 1),
        "constants": str(len(study.grid[2]) - 1),
    }
    pool = _Pool()
    payload = {
        "tokens": study.tokens.tolist(),
        "labels": list(study.labels),
        "answers": study.answers.tolist(),
        "ahead": study.ahead,
        "text": study.text,
        "reach": study.reach,
        "layers": layers,
        "heads": [len(mass) for mass in study.run().mass],
        "limits": [None if np.isnan(limit) else limit for limit in study.limits],
        "budgets": study.grid[0],
        "windows": study.grid[1],
        "constants": [None if np.isinf(tau) else tau for tau in study.grid[2]],
        "rules": study.grid[3],
        "trained": [list(values).index(own) for values, own in zip(study.grid, study.trained, strict=True)],
        "runs": [_run(run, pool) for run in study.runs],
        "states": [[_state(state) for state in states] for states in study.states],
        "pool": pool.written,
    }
    return words, payload


def _lead(study: TokenMemory) -> str:
    layers, asked = len(study.reach), int((study.answers >= 0).sum())
    told = "each told from those before it" if study.ahead else f"{asked} of them asked for an answer"
    return (
        f"{len(study.tokens)} tokens, {told}; a model of {layers} layer{'s' * (layers != 1)}, run at "
        f"{len(study.runs)} settings. Only its memories are set otherwise; no weight is changed."
    )


class _Pool:
    """Arrays, written once however often they occur."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self._known: dict[tuple[str, bytes], int] = {}

    def add(self, array: Array) -> int:
        content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        key = array.dtype.str, content
        if key not in self._known:
            self._known[key] = len(self.written)
            self.written.append(base64.b64encode(content).decode())
        return self._known[key]


def _run(run: TokenRun, pool: _Pool) -> list[Any]:
    loss = np.where(np.isnan(run.loss), NONE, np.minimum(np.round(run.loss * LOSS), NONE - 1))
    # The rest is of the fading tokens.
    kept = [np.round(255 * mass[..., [0, 2]]).astype(np.uint8) for mass in run.mass]
    return [
        pool.add(loss.astype(np.uint16)),
        pool.add(run.guess.astype(np.uint32)),
        [pool.add(scores.astype(np.float32)) for scores in run.scores],
        [pool.add(mass) for mass in kept],
        [pool.add(stays.astype(np.uint16)) for stays in run.stays],
    ]


def _state(state: StateMemory | None) -> dict[str, Any] | None:
    if state is None:
        return None
    return {
        "memory": [[round(float(x), 4) for x in head] for head in state.memory],
        "slowest": [float(f"{x:.4g}") if np.isfinite(x) else None for x in state.slowest],
    }
