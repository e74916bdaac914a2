"""The pictures of the main job: each is to be grasped in five seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bmojo.demo.contenders import GROWTH_GAPS, TASK, Outcome
from bmojo.demo.signal import SignalStudy
from realization.plot import COLOURS, style

__all__ = ["bars", "budget", "forecast", "growth", "kept_tokens", "learning", "rebuilt", "surprise"]

KIND_COLOUR = {"window": "window", "state": "fading", "stack": "fading", "bmojo": "eidetic"}
PALE = 0.45


def forecast(study: SignalStudy, *, samples: int = 144) -> Figure:
    """Measured and predicted, over a stretch of the held half."""
    time = study.time[:samples]
    with style():
        figure = _figure(7, 3)
        ax = figure.subplots()
        ax.plot(
            time, study.held.y[:samples, 0], color=COLOURS["data"], linewidth=4, alpha=0.3, label="measured"
        )
        ax.plot(
            time,
            study.predicted[:samples, 0],
            color=COLOURS["prediction"],
            linewidth=1.6,
            label="predicted one step ahead",
        )
        ax.set(xlabel=study.clock.label, ylabel=study.held.output_names[0])
        ax.set_title(study.name)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def surprise(study: SignalStudy) -> Figure:
    """Normalized innovations squared with the kept ones marked, under the record itself."""
    score, kept, time = study.innovations.normalized_squared, study.selection.index, study.time
    with style():
        figure = _figure(7, 4.2)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.2])
        above.plot(time, study.held.y[:, 0], color=COLOURS["data"], linewidth=1.2)
        above.plot(time[kept], study.held.y[kept, 0], "o", color=COLOURS["eidetic"], markersize=6)
        above.set_title(f"{study.name}: the {len(kept)} samples that were kept")
        above.set_ylabel(study.held.output_names[0])
        below.vlines(time, 0, score, color=COLOURS["innovation"], linewidth=1.2)
        below.plot(time[kept], score[kept], "o", color=COLOURS["eidetic"], markersize=6)
        below.axhline(
            study.innovations.threshold(0.01), color=COLOURS["baseline"], linestyle="--", linewidth=1.2
        )
        below.set(ylim=(0, None), ylabel="surprise", xlabel=study.clock.label)
        below.set_title("how badly each was predicted (dashed: exceeded by 1 in 100 if the model is right)")
    return figure


def rebuilt(study: SignalStudy) -> Figure:
    """What state and kept innovations rebuild, against how much is kept."""
    share = 100 * study.curve.budget / study.held.length
    top, random = study.curve.fit.mean(axis=1), study.random.fit.mean(axis=1)
    with style():
        figure = _figure(7, 3.2)
        ax = figure.subplots()
        ax.plot(share, top, "o-", color=COLOURS["eidetic"], markersize=4)
        ax.plot(share, random, "o-", color=COLOURS["baseline"], markersize=4)
        middle = int(np.searchsorted(share, 20))
        ax.annotate("the most surprising", (share[middle], top[middle]), (-12, 14), "data", ha="right",
                    textcoords="offset points", color=COLOURS["eidetic"], fontweight="bold")  # fmt: skip
        ax.annotate("the same number at random", (share[middle], random[middle]), (8, -14), "data",
                    textcoords="offset points", color="#6b7480")  # fmt: skip
        ax.set(xlabel="innovations kept, % of the samples", ylabel="record rebuilt, fit %", xlim=(-1, 101))
        ax.set_title(f"{study.name}: first and last state, and what is kept, rebuild the record")
    return figure


def bars(outcomes: Sequence[Outcome]) -> Figure:
    """Accuracy of every contender, with the bytes of its long-term memory."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.accuracy)
    with style():
        figure = _figure(7, 0.42 * len(ordered) + 1.1)
        ax = figure.subplots()
        for row, outcome in enumerate(ordered):
            control = outcome.contender.rule != "top" or (
                outcome.contender.kind == "bmojo" and not outcome.contender.eidetic
            )
            colour = COLOURS[KIND_COLOUR[outcome.contender.kind]]
            ax.barh(row, 100 * outcome.accuracy, color=colour, alpha=PALE if control else 1, height=0.66)
            ax.annotate(
                f"{100 * outcome.accuracy:.0f} %", (100 * outcome.accuracy, row), (5, 0), "data",
                textcoords="offset points", va="center", fontweight="bold",
            )  # fmt: skip
            ax.annotate(
                _bytes(outcome.long_term),
                (1, row),
                xycoords=("axes fraction", "data"),
                va="center",
                ha="right",
            )
        ax.annotate("long-term memory", (1, len(ordered) - 0.35), xycoords=("axes fraction", "data"),
                    ha="right", va="bottom", color="#6b7480")  # fmt: skip
        ax.axvline(100 * TASK.chance, color=COLOURS["baseline"], linestyle="--", linewidth=1)
        ax.set_yticks(range(len(ordered)), [outcome.contender.name for outcome in ordered])
        ax.set(xlim=(0, 134), xticks=range(0, 101, 25), xlabel="queries answered right, % (dashed: chance)")
        ax.tick_params(axis="y", length=0)
    return figure


def growth(outcomes: Sequence[Outcome]) -> Figure:
    """Accuracy on more pairs and longer gaps than those of training."""
    tried = [outcome for outcome in outcomes if outcome.growth]
    with style():
        figure = _figure(7, 3.4)
        panels = figure.subplots(1, len(GROWTH_GAPS), sharey=True)
        for ax, gap in zip(panels, GROWTH_GAPS, strict=True):
            for outcome in tried:
                points = [(pairs, 100 * value) for (at, pairs), value in outcome.growth.items() if at == gap]
                eidetic = bool(outcome.contender.eidetic)
                ax.plot(*zip(*points, strict=True), "o-", color=COLOURS["eidetic" if eidetic else "fading"])
                if ax is panels[0]:
                    words, offset = (
                        ("B'MOJO, budget 2 K", (4, 7)) if eidetic else (outcome.contender.name, (4, -20))
                    )
                    colour = COLOURS["eidetic" if eidetic else "fading"]
                    ax.annotate(words, points[-1], offset, "data", textcoords="offset points", ha="right",
                                color=colour, fontweight="bold")  # fmt: skip
            factor = gap // TASK.gap
            ax.set_title("gap of training" if factor == 1 else f"{factor} times the gap")
            ax.axvline(TASK.pairs, color=COLOURS["baseline"], linestyle=":", linewidth=1.2)
            ax.set(
                xlabel="pairs K to remember", ylim=(0, 116), xticks=[8, 16, 24, 31], yticks=range(0, 101, 25)
            )
        panels[0].set_ylabel("answered right, %")
        panels[0].annotate(
            "trained here", (TASK.pairs, 84), (4, 0), "data", textcoords="offset points", color="#6b7480"
        )
    return figure


def budget(outcome: Outcome) -> Figure:
    """Accuracy of one trained model as its budget is changed at inference."""
    places, accuracy = zip(*sorted(outcome.budget.items()), strict=True)
    with style():
        figure = _figure(7, 2.8)
        ax = figure.subplots()
        ax.plot(places, [100 * value for value in accuracy], "o-", color=COLOURS["eidetic"])
        ax.axvline(2 * TASK.pairs, color=COLOURS["baseline"], linestyle="--", linewidth=1.2)
        ax.annotate("2 K: a place for every key and value", (2 * TASK.pairs, 8), (6, 0), "data",
                    textcoords="offset points", color="#6b7480")  # fmt: skip
        ax.axhline(100 * TASK.chance, color=COLOURS["baseline"], linewidth=1)
        ax.set(
            xlabel="places in the eidetic set, m",
            ylabel="answered right, %",
            ylim=(0, 106),
            yticks=range(0, 101, 25),
        )
        ax.set_title("one trained B'MOJO, more and fewer places")
    return figure


def kept_tokens(outcome: Outcome) -> Figure:
    """Surprise of every token of one sequence, and which of them hold a place when the queries end."""
    scores, kept = np.asarray(outcome.kept["scores"]), np.asarray(outcome.kept["kept"], dtype=int)
    position = np.arange(len(scores))
    with style():
        figure = _figure(7, 2.8)
        ax = figure.subplots()
        ax.bar(position, scores, color=COLOURS["baseline"], width=0.8)
        ax.bar(kept, scores[kept], color=COLOURS["eidetic"], width=0.8)
        first, last = 2 * TASK.pairs, 2 * TASK.pairs + TASK.gap
        for edge in (first, last):
            ax.axvline(edge - 0.5, color=COLOURS["data"], linewidth=0.8)
        top = 1.16 * scores.max()
        for x, word in (
            (first / 2, "8 pairs"),
            ((first + last) / 2, "filler"),
            ((last + len(scores)) / 2, "queries"),
        ):
            ax.annotate(word, (x - 0.5, top), ha="center", va="top", color="#6b7480")
        ax.set(xlabel="token", ylabel="surprise", ylim=(0, top), xlim=(-1, len(scores)))
        ax.set_title("what the first layer keeps (red): the tokens that it could not predict")
    return figure


def learning(outcomes: Sequence[Outcome]) -> Figure:
    """Loss on the way, one curve a contender."""
    with style():
        figure = _figure(7, 3.2)
        ax = figure.subplots()
        lowest: dict[int, float] = {}
        for outcome in sorted(outcomes, key=lambda outcome: float(np.mean(outcome.losses[-20:]))):
            smooth = np.convolve(outcome.losses, np.full(20, 1 / 20), mode="valid")
            colour = COLOURS[KIND_COLOUR[outcome.contender.kind]]
            ax.plot(np.arange(len(smooth)) + 20, smooth, color=colour, linewidth=1.4)
            end = len(smooth) + 24
            lowest[end] = max(
                float(smooth[-1]), lowest.get(end, -1.0) + 0.24
            )  # names keep clear of each other
            ax.annotate(outcome.contender.name, (end, lowest[end]), va="center", color=colour, fontsize=8.5,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})  # fmt: skip
        ax.set(xlabel="training step", ylabel="loss, nats", ylim=(0, None))
        ax.set_title("learning: two pairs, then four, then eight")
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _bytes(count: int) -> str:
    return "none" if count == 0 else f"{count / 1024:.1f} KiB"
