"""What the page of a signal is filled with: its words, and its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bmojo.explore.study import ALPHA, RULES, FadingState, SignalMemory
from realization.errors import DataError

__all__ = ["signal_parts"]

DIGITS = 12


def signal_parts(study: SignalMemory) -> tuple[dict[str, str], dict[str, Any]]:
    """Words of the page by their places, and the numbers that its script reads.

    Parameters
    ----------
    study : SignalMemory

    Raises
    ------
    DataError
        If an output is constant over what is shown.
    """
    T, spread = study.record.length, np.ptp(study.record.y, axis=0)
    if not spread.all():
        raise DataError(f"explorer_page: an output is constant over the {T} samples shown; leave it out.")
    words = {
        "question": "what is remembered, and by whom",
        "lead": _lead(study),
        "longest": str(max(2, min(64, T // 4))),
        "places": str(min(128, T // 2)),
        "last": str(len(study.states) - 1),
    }
    return words, _payload(study)


def _lead(study: SignalMemory) -> str:
    state, count = study.states[-1].model, study.record.length
    inputs = f" and {state.n_inputs} of inputs" if state.n_inputs else ""
    return (
        f"{count} samples of {state.n_outputs} output{'s' * (state.n_outputs != 1)}{inputs}; a state of "
        f"{state.n_states} numbers, identified on the first {study.learned} (shaded)."
        if study.learned
        else f"The last {count} samples; a state of {state.n_states} numbers, identified on earlier ones."
    )


def _payload(study: SignalMemory) -> dict[str, Any]:
    record, last = study.record, study.states[-1]
    deviation = record.y.std(axis=0)
    return {
        "count": record.length,
        "outputs": record.n_outputs,
        "names": list(record.output_names),
        "unit": study.unit,
        "time": _numbers(study.first + study.step * np.arange(record.length)),
        "learned": study.learned,
        "y": _numbers(record.y),
        "spread": _numbers(np.linalg.norm(record.y - record.y.mean(axis=0), axis=0)),
        "standard": _numbers((record.y - last.model.y_mean) / deviation),
        "limit": last.found.threshold(ALPHA),
        "ranks": {rule: _numbers(study.priority(last, rule)) for rule in RULES if rule in ("norm", "random")},
        "rules": list(RULES),
        "lags": last.memory.lags.tolist(),
        "states": [_state(state, deviation) for state in study.states],
    }


def _state(state: FadingState, deviation: np.ndarray) -> dict[str, Any]:
    model, p = state.model, state.model.n_outputs
    root = np.linalg.cholesky(model.Re)
    slowest = state.memory.time_constants.max(initial=0.0)
    return {
        "constant": state.time_constant if np.isfinite(state.time_constant) else None,
        "order": model.n_states,
        "A": _numbers(model.A),
        "K": _numbers(model.K @ root),
        "C": _numbers(model.C),
        "root": _numbers(root),
        "white": _numbers(np.linalg.solve(root, state.found.e.T).T),
        "scores": _numbers(state.found.normalized_squared),
        "predicted": _numbers((state.predicted - model.y_mean) / deviation),
        "hsv": _numbers(state.hsv),
        "memory": _numbers(state.memory.memory / p),
        "effective": state.effective_order,
        "slowest": float(slowest) if np.isfinite(slowest) else None,
    }


def _numbers(values: ArrayLike | Iterable[float]) -> list[float]:
    return [float(f"{x:.{DIGITS}g}") for x in np.asarray(values, dtype=float).ravel()]
