r"""What the explorer shows of a trained model along a sequence of tokens, apart from the page that shows it.

The model is run at every combination of a few settings (`altered_model`), and the page moves among them.
"""

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmojo.bridge import lower, memory_curves, time_constants
from bmojo.explore.altered import altered_model, can_fade
from bmojo.explore.study import ALPHA, RULES
from bmojo.models.language_model import BMojoLM
from bmojo.plot.kept import stays_of
from bmojo.trace import BMojoTrace
from realization.errors import DataError, RealizationError
from realization.filtering.innovations import chi_squared_quantile

__all__ = ["Setting", "StateMemory", "TokenMemory", "TokenRun", "study_tokens"]

Array = NDArray[Any]
MARKS = {"\n": "↵", "\t": "⇥"}
MEMORIES = ("window", "fading", "eidetic")
TIME_CONSTANTS = (2.0, 8.0, 32.0, np.inf)
BYTES = 6_000_000  # of what all runs leave: with Plotly's the page stays below 15 MB
# Factors of places and of the window, time constants and rules, from a wide choice to a narrow one.
GRIDS = (
    ((0, 1 / 4, 1 / 2, 1, 2, 4), (1 / 4, 1 / 2, 1, 2), TIME_CONSTANTS, RULES),
    ((0, 1 / 2, 1, 2), (1 / 2, 1, 2), (8.0, np.inf), ("fifo", "random")),
    ((0, 1, 2), (1 / 2, 1), (np.inf,), ("fifo",)),
    ((1,), (1,), (np.inf,), ()),
)


class Setting(NamedTuple):
    """What is moved by hand.

    Parameters
    ----------
    budget : int
        Places of each eidetic set.
    window : int
        Tokens in context.
    time_constant : float
        Of an added fading, in tokens; infinite where the states fade as trained.
    rule : str
    """

    budget: int
    window: int
    time_constant: float
    rule: str


@dataclass(frozen=True, eq=False)
class TokenRun:
    """What the model did at one setting.

    Parameters
    ----------
    loss : ndarray, shape (T,)
        Nats for the token that was to be told at each position; NaN where none was.
    guess : ndarray of int, shape (T,)
        The token that was held likeliest there.
    scores : ndarray, shape (L, T)
        Normalized innovations squared of each layer; zero in a layer without a set.
    mass : tuple of ndarray, each of shape (H, T, 3)
        Attention of each layer to window, fading tokens and set; zero in a layer that does not attend.
    stays : tuple of ndarray of int, each of shape (k, 3)
        For each layer: position of a kept token, the first at which it is read, and the first at which it is
        not any more.
    """

    loss: Array
    guess: Array
    scores: Array
    mass: tuple[Array, ...]
    stays: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class StateMemory:
    """What the states of one layer hold, in the mean over times along the sequence.

    Parameters
    ----------
    memory : ndarray, shape (G, K)
        Share of a token's input to the state of each head that is still in it `1 ... K` tokens later
        (`bmojo.memory_curves`).
    slowest : ndarray, shape (G,)
        Slowest time constant of each head along the sequence, in tokens.
    """

    memory: Array
    slowest: Array


@dataclass(frozen=True, eq=False)
class TokenMemory:
    """A sequence with what a model does along it, at each of a grid of settings.

    Parameters
    ----------
    name : str
    tokens : ndarray of int, shape (T,)
    text : bool
        Whether they are bytes of a text.
    labels : tuple of str
        How each is written.
    answers : ndarray of int, shape (T,)
        The token that was to be told at each position; -1 where none was.
    ahead : bool
        Whether a position's answer is its own token, told before it was seen; else it is told there.
    reach : tuple of int
        Window of each layer as trained; 0 in a layer that does not attend.
    limits : tuple of float
        For each layer the 99th percentile of its scores if its innovations were white and Gaussian.
    trained : Setting
    grid : tuple of tuples
        Budgets, windows, time constants, rules.
    runs : tuple of TokenRun
        In the order of `itertools.product(*grid)`.
    states : tuple of tuple of StateMemory or None
        For each time constant and layer; None where there is no state, or none whose matrices are known.
    """

    name: str
    tokens: Array
    text: bool
    labels: tuple[str, ...]
    answers: Array
    ahead: bool
    reach: tuple[int, ...]
    limits: tuple[float, ...]
    trained: Setting
    grid: tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[str, ...]]
    runs: tuple[TokenRun, ...]
    states: tuple[tuple[StateMemory | None, ...], ...]

    def run(self, **changed: Any) -> TokenRun:
        """What the model did at the trained setting, with the named parts of `Setting` changed.

        Parameters
        ----------
        **changed
            Parts of `Setting`, of values that are in the grid.
        """
        wanted = self.trained._replace(**changed)
        for name, value, values in zip(Setting._fields, wanted, self.grid, strict=True):
            if value not in values:
                raise DataError(f"run: {name}={value} came; the settings are {', '.join(map(str, values))}.")
        return self.runs[[Setting(*values) for values in itertools.product(*self.grid)].index(wanted)]


def study_tokens(
    model: BMojoLM,
    tokens: Tensor,
    *,
    name: str = "tokens",
    text: bool = False,
    answers: Tensor | None = None,
    lags: int = 100,
    on_run: Callable[[int, int], None] | None = None,
) -> TokenMemory:
    """Run a trained model along a sequence, at every combination of a few settings of its memories.

    Parameters
    ----------
    model : BMojoLM
    tokens : Tensor of int64, shape (T,)
    name : str
        As the page calls it.
    text : bool
        Whether the tokens are bytes of a text, and are written so; else each is written as its number.
    answers : Tensor of int64, shape (T,), optional
        What is to be told at each position, -1 where nothing is; the next token where left out.
    lags : int
        Of the memory curves of the states.
    on_run : callable, optional
        Called with how many runs are done, and of how many.

    Returns
    -------
    TokenMemory

    Raises
    ------
    DataError
        If there are fewer than two tokens, or one that the model does not have.

    Notes
    -----
    A longer sequence or a larger model has fewer settings, so that what all runs leave stays below 6 MB.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> from bmojo.explore import study_tokens
    >>> layer = BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=2)
    >>> study = study_tokens(BMojoLM(20, [layer]).eval(), torch.arange(16))
    >>> study.grid[:2], study.trained
    (((0, 1, 2, 4, 8, 16), (1, 2, 4, 8)), Setting(budget=4, window=4, time_constant=inf, rule='top'))
    >>> study.run(budget=8).mass[0].shape
    (2, 16, 3)
    """
    vocabulary, length = model.options["vocabulary"], len(tokens)
    if length < 2 or int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise DataError(
            f"study_tokens: {length} tokens from {int(tokens.min()) if length else 0} to "
            f"{int(tokens.max()) if length else 0} came; at least 2 are needed, from 0 to {vocabulary - 1}."
        )
    model = model.eval().cpu()
    trained = _trained(model)
    grid = _grid(model, trained, length)
    wanted, ahead = (tokens.clone(), True) if answers is None else (answers.clone(), False)
    if ahead:
        wanted[0] = -1
    runs: dict[Setting, TokenRun] = {}
    for setting in (Setting(*values) for values in itertools.product(*grid)):
        # Without places one rule is as the other.
        same = setting._replace(rule=grid[3][0])
        if setting.budget or same not in runs:
            runs[setting] = _run(_set(model, setting, trained), tokens, wanted, ahead)
        else:
            runs[setting] = runs[same]
        if on_run is not None:
            on_run(len(runs), math.prod(map(len, grid)))
    return TokenMemory(
        name,
        tokens.numpy(),
        text,
        _characters(tokens) if text else tuple(map(str, tokens.tolist())),
        wanted.numpy(),
        ahead,
        tuple(layer["window"] for layer in model.options["layers"]),
        tuple(_limit(block.layer) for block in model._blocks()),
        trained,
        grid,
        tuple(runs.values()),
        tuple(_states(model, tokens, trained._replace(time_constant=tau), trained, lags) for tau in grid[2]),
    )


def _trained(model: BMojoLM) -> Setting:
    """Of several layers the first that has a set, and the first that attends."""
    layers = model.options["layers"]
    kept = next((layer for layer in layers if layer["eidetic"]), {"eidetic": 0, "rule": "top"})
    window = next((layer["window"] for layer in layers if layer["window"]), 0)
    return Setting(kept["eidetic"], window, np.inf, kept["rule"])


def _grid(model: BMojoLM, trained: Setting, length: int) -> Any:
    """The widest grid that the page can hold."""
    layers = model.options["layers"]
    cost = length * (6 + sum(4 * (layer["eidetic"] > 0) + 2 * layer["heads"] for layer in layers))
    mixers = [block.layer.mixer for block in model._blocks() if block.layer.mixer is not None]
    fades = bool(mixers) and all(map(can_fade, mixers))
    # Layers with windows of several lengths have none in common that could be moved.
    alike = len({layer["window"] for layer in layers if layer["window"]}) == 1
    found: Any = None
    for places, factors, constants, rules in GRIDS:
        budgets = {min(round(f * trained.budget), length) for f in places} | {trained.budget}
        windows = {max(1, round(f * trained.window)) for f in factors} if alike else {trained.window}
        windows = {w for w in windows if w <= length} | {trained.window}
        found = (
            tuple(sorted(budgets)),
            tuple(sorted(windows)),
            constants if fades else (np.inf,),
            tuple(rule for rule in RULES if rule == trained.rule or (trained.budget and rule in rules)),
        )
        if cost * math.prod(map(len, found)) <= BYTES:
            break
    return found


def _set(model: BMojoLM, setting: Setting, trained: Setting) -> BMojoLM:
    """The model at a setting; what is as trained is left as it is in each layer."""
    changed: dict[str, Any] = {
        name: value
        for name, value, own in zip(Setting._fields, setting, trained, strict=True)
        if value != own
    }
    return altered_model(model, **changed)


def _characters(tokens: Tensor) -> tuple[str, ...]:
    """Bytes as text: a character of several bytes stands at the last of them."""
    decoder, found = codecs.getincrementaldecoder("utf-8")("replace"), []
    for byte in tokens.tolist():
        text = decoder.decode(bytes([byte]))
        found.append("".join(c if c.isprintable() else MARKS.get(c, "·") for c in text) or "·")
    return tuple(found)


@torch.no_grad()
def _run(model: BMojoLM, tokens: Tensor, answers: Tensor, ahead: bool) -> TokenRun:
    x, traces = model.embedding(tokens[None]), []
    for block in model._blocks():
        traces.append(block.layer.trace(block.norm(x)))
        x = block.after(x, traces[-1].output)
    told = model.readout(model.norm(x))[0].log_softmax(dim=-1)
    if ahead:
        told = told.roll(1, dims=0)
    loss = -told.gather(1, answers.clamp_min(0)[:, None])[:, 0]
    loss[answers < 0] = torch.nan
    return TokenRun(
        loss.numpy(),
        told.argmax(dim=-1).numpy(),
        torch.cat([trace.scores for trace in traces]).numpy(),
        tuple(_mass(trace) for trace in traces),
        tuple(
            _stays(trace, block.layer.config, len(tokens))
            for trace, block in zip(traces, model._blocks(), strict=True)
        ),
    )


def _mass(trace: BMojoTrace) -> Array:
    found = dict(zip(trace.segments, trace.attention_mass[0].numpy().transpose(2, 0, 1), strict=True))
    none = np.zeros(trace.attention_mass.shape[1:3], dtype=np.float32)
    return np.stack([found.get(name, none) for name in MEMORIES], axis=-1)


def _stays(trace: BMojoTrace, config: Any, length: int) -> Array:
    """A chunk's set is read from the position on at which the window has left the token behind."""
    if not trace.eidetic_index.shape[-1]:
        return np.zeros((0, 3), dtype=np.int64)
    position, first, last = stays_of(trace.eidetic_index[0].numpy()).T
    read = np.maximum(first * config.chunk, position + config.window)
    return np.stack([position, read, np.minimum(last * config.chunk, length)], axis=1)


def _limit(layer: Any) -> float:
    if not layer.config.eidetic:
        return math.nan
    return chi_squared_quantile(ALPHA, layer.predictor.score.log_variance.numel())


def _states(
    model: BMojoLM, tokens: Tensor, setting: Setting, trained: Setting, lags: int
) -> tuple[StateMemory | None, ...]:
    try:
        lowered = lower(_set(model, setting, trained), tokens[None])
    except RealizationError:  # a mixer of one's own whose matrices are not known
        return (None,) * len(model._blocks())
    length = len(tokens)
    times = np.unique(np.linspace(length / 8, length, 8).round().astype(int))
    found: list[StateMemory | None] = []
    for realization in lowered:
        if realization is None:
            found.append(None)
            continue
        curves = memory_curves(realization, min(lags, length - 1), at=times)
        slowest = time_constants(realization).along.max(axis=1)
        inputs = realization.B.shape[3]
        # A token that was not there yet is no token forgotten.
        there = times[:, None, None] >= curves.lags
        memory = curves.memory.sum(axis=0) / np.maximum(1, there.sum(axis=0)) / inputs
        found.append(StateMemory(memory, slowest))
    return tuple(found)
