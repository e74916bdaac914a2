"""The explorer's page: one file that holds its data, its script and Plotly, and asks nothing of a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bmojo.explore.study import ALPHA, RULES, FadingState, SignalMemory
from realization.errors import DataError

__all__ = ["explorer_page"]

DIGITS = 12


def explorer_page(study: SignalMemory) -> str:
    """Self-contained HTML on which window, budget, time constant and rule of a signal's memory can be moved.

    Parameters
    ----------
    study : SignalMemory
        As `study_memory` made it.

    Returns
    -------
    str
        The whole file.

    Raises
    ------
    ImportError
        If Plotly is not installed; the message names the extra.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from bmojo.explore import explorer_page, study_memory
    >>> y = np.random.default_rng(0).standard_normal(60).cumsum()
    >>> text = explorer_page(study_memory(rz.IOData(y), name="walk", order=1))
    >>> text[:15], "walk" in text
    ('<!doctype html>', True)
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ImportError(
            "the explorer needs plotly, which is not here: pip install 'realization[explore]'"
        ) from None
    T, spread = study.record.length, np.ptp(study.record.y, axis=0)
    if not spread.all():
        raise DataError(f"explorer_page: an output is constant over the {T} samples shown; leave it out.")
    parts = {
        "title": html.escape(study.name),
        "lead": html.escape(_lead(study)),
        "longest": str(max(2, min(64, T // 4))),
        "places": str(min(128, T // 2)),
        "last": str(len(study.states) - 1),
        "style": _part("page.css"),
        "plotly": get_plotlyjs(),
        "script": "\n".join(_part(name) for name in ("memory.js", "page.js")),
        "data": json.dumps(_payload(study), separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


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


def _part(name: str) -> str:
    return resources.files("bmojo.explore").joinpath(name).read_text(encoding="utf-8")
