"""The explorer's page: one file that holds its data, its script and Plotly, and asks nothing of a network."""

from __future__ import annotations

import html
import json
import re
from importlib import resources

from bmojo.explore.signal_parts import signal_parts
from bmojo.explore.study import SignalMemory
from bmojo.explore.token_parts import token_parts
from bmojo.explore.tokens import TokenMemory

__all__ = ["explorer_page"]


def explorer_page(study: SignalMemory | TokenMemory) -> str:
    """Self-contained HTML on which the memories of a signal or a model can be moved by hand.

    Parameters
    ----------
    study : SignalMemory or TokenMemory
        As `study_memory` or `study_tokens` made it.

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
    if isinstance(study, SignalMemory):
        kind, (words, payload) = "signal", signal_parts(study)
    else:
        kind, (words, payload) = "tokens", token_parts(study)
    parts = {name: html.escape(text) for name, text in (words | {"title": study.name}).items()}
    parts |= {
        "body": _filled(f"{kind}.html", parts),
        "style": _part("page.css"),
        "plotly": plotly_script(),
        "script": "\n".join(_part(name) for name in ("memory.js", "charts.js", f"{kind}.js")),
        "data": json.dumps(payload, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return _filled("page.html", parts)


def plotly_script() -> str:
    """Plotly's JavaScript, as the page holds it.

    Raises
    ------
    ImportError
        If Plotly is not installed; the message names the extra.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ImportError(
            "the explorer needs plotly, which is not here: pip install 'realization[explore]'"
        ) from None
    return get_plotlyjs()


def _filled(name: str, parts: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part(name))


def _part(name: str) -> str:
    return resources.files("bmojo.explore").joinpath(name).read_text(encoding="utf-8")
