"""Pictures of the evidence, one a question, drawn from what its script wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from _evidence import Record, best_of
from evidence_crossing import long_term
from evidence_growth import curves
from evidence_length import mean_octaves
from evidence_levers import grid

from realization.plot.style import COLOURS, DASHED, pyplot, style

__all__ = ["PICTURES", "draw"]

Found = Mapping[str, Any]  # by file: records of runs, or plain content
FAMILIES = (
    ("Transformer", "data", "o"), ("window", "window", "s"), ("Mamba-2", "fading", "^"),
    ("gated delta", "weights", "v"), ("residual", "weights", "P"), ("stack", "prediction", "D"),
    ("B'MOJO-F", "innovation", "X"), ("B'MOJO", "eidetic", "o"),
)  # fmt: skip


def draw(question: str, found: Found) -> Any:
    """The picture of a question.

    Parameters
    ----------
    question : str
        One of `PICTURES`.
    found : mapping
        What its script wrote, by the name of the file without the size.

    Returns
    -------
    matplotlib.figure.Figure
    """
    with style():
        return PICTURES[question](found)


def _look(name: str) -> dict[str, Any]:
    """Colour and mark of a model, the same in every picture."""
    for word, colour, mark in FAMILIES:
        if name.startswith(word):
            return {"color": COLOURS[colour], "marker": mark}
    return {"color": COLOURS["baseline"], "marker": "o"}


def _axes(*widths: float, height: float = 3.3) -> tuple[Any, list[Any]]:
    figure, axes = pyplot().subplots(
        1, len(widths), figsize=(9.0, height), width_ratios=widths, squeeze=False
    )
    return figure, list(axes[0])


def _below(figure: Any, ax: Any, columns: int) -> None:
    """One legend for all axes, below them."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _bytes(ax: Any, axis: str = "x") -> None:
    getattr(ax, f"set_{axis}scale")("log", base=2)
    getattr(ax, f"{axis}axis").set_major_formatter(lambda value, _: f"{value / 1024:g} K")


def _accuracy(ax: Any, title: str, label: str) -> None:
    ax.set(title=title, xlabel=label, ylabel="accuracy, %", ylim=(-4, 104))


def recall(found: Found) -> Any:
    """Accuracy against the bytes of state and places, seeds faint behind the mean of each model."""
    figure, (ax,) = _axes(1.0, height=3.8)
    lines: dict[str, list[tuple[int, float]]] = {}
    for name, runs in best_of(found["recall"]).items():
        family, look = name.partition(",")[0], _look(name)
        accuracy = [100 * run.accuracy for run in runs]
        size = runs[0].memory["in_state"] + runs[0].memory["eidetic"]
        if not size:
            place = "full attention" if family == "Transformer" else family
            ax.axhline(float(np.mean(accuracy)), color=look["color"], ls=DASHED, lw=1.2, label=place)
            continue
        ax.plot([size] * len(accuracy), accuracy, ls="", alpha=0.35, ms=4, **look)
        lines.setdefault(family, []).append((size, float(np.mean(accuracy))))
    for family, points in lines.items():
        points.sort()
        ax.plot(*zip(*points, strict=True), label=family, ms=7, lw=1.6, **_look(family))
    _bytes(ax)
    _accuracy(ax, "Gap recall by what the model can keep beyond its window", "bytes of state and places")
    _below(figure, ax, 5)
    return figure


def levers(found: Found) -> Any:
    """Accuracy of each combination on each task: the mean as a bar, seeds as dots."""
    by_lever = grid(found["levers"])
    tasks = list(dict.fromkeys(task for row in by_lever.values() for task in row))
    names = list(by_lever)
    figure, axes = _axes(*[1.0] * len(tasks), height=0.9 + 0.27 * len(names))
    for ax, task in zip(axes, tasks, strict=True):
        for row, name in enumerate(names):
            accuracy = [100 * run.accuracy for run in by_lever[name].get(task, [])]
            if not accuracy:
                continue
            word = name.partition(",")[0]
            colours = {"conv": "eidetic", "residual": "weights", "Transformer": "baseline"}
            colour = COLOURS[colours.get(word, "fading")]
            ax.barh(row, float(np.mean(accuracy)), color=colour, alpha=0.55, height=0.7)
            ax.plot(accuracy, [row] * len(accuracy), "o", color=COLOURS["data"], ms=3)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_title(task.replace(", ", ",\n"), fontsize="small")
        ax.set(xlabel="accuracy, %", xlim=(0, 104))
    return figure


def crossing(found: Found) -> Any:
    """Accuracy against the bytes of state and places, a panel for each setting."""
    best = best_of(found["crossing"])
    settings = list(dict.fromkeys(name.partition(": ")[0] for name in best))
    figure, axes = _axes(*[1.0] * len(settings), height=3.2)
    for ax, setting in zip(axes, settings, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for name, runs in best.items():
            if name.startswith(f"{setting}: "):
                family, size = name.partition(": ")[2].partition(",")[0], long_term(runs[0])
                accuracy = [100 * run.accuracy for run in runs]
                ax.plot([size] * len(runs), accuracy, ls="", alpha=0.35, ms=4, **_look(family))
                lines.setdefault(family, []).append((size, float(np.mean(accuracy))))
        for family, points in lines.items():
            ax.plot(*zip(*sorted(points), strict=True), label=family, ms=6, **_look(family))
        _bytes(ax)
        _accuracy(ax, setting, "bytes")
        if ax is not axes[0]:
            ax.set(ylabel="", yticklabels=[])
    _below(figure, axes[0], 3)
    return figure


def selection(found: Found) -> Any:
    """Accuracy of each variant: the mean as a bar, seeds as dots."""
    best = best_of(found["selection"])
    figure, (ax,) = _axes(1.0, height=0.6 + 0.27 * len(best))
    for row, (name, runs) in enumerate(best.items()):
        accuracy = [100 * run.accuracy for run in runs]
        control = name.endswith(("random", "fifo", "norm")) or "query" in name or name.endswith("Transformer")
        colour = COLOURS["baseline" if control else "eidetic"]
        ax.barh(row, float(np.mean(accuracy)), color=colour, alpha=0.55, height=0.7)
        ax.plot(accuracy, [row] * len(runs), "o", color=COLOURS["data"], ms=3.5)
    ax.set_yticks(range(len(best)), list(best))
    ax.invert_yaxis()
    ax.set(title="Gap recall by what is kept", xlabel="accuracy, %", xlim=(0, 104))
    return figure


def length(found: Found) -> Any:
    """Recall by how much longer the sequence is, and what a byte of text costs above a short context."""
    figure, (left, right) = _axes(1.0, 1.0, height=3.7)
    styles = ("-", (0, (5, 1.5)), (0, (2, 1.2)))
    for name, runs in best_of(found.get("length_recall", [])).items():
        tables = [run.measured.get("accuracy", {}) for run in runs]
        at = [int(key) for key in tables[0]]
        mean = [100 * float(np.mean([table[str(key)] for table in tables])) for key in at]
        left.plot(at, mean, label=name, ms=4, ls=_dashes(name, styles), **_look(name))
    for name, runs in best_of(found.get("length_text", [])).items():
        table = [row for row in mean_octaves(runs) if "difference" in row]
        if table:
            middle = [np.sqrt(row["from"] * row["to"]) for row in table]
            values = [row["difference"] for row in table]
            right.plot(middle, values, ms=4, ls=_dashes(name, styles), **_look(name))
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _accuracy(left, "Gap recall", "length, over that of training")
    right.axhline(0, color=COLOURS["data"], lw=0.8)
    label = "bits a byte above a short context"
    right.set(title="Source text", xlabel="position in the text, bytes", ylabel=label)
    _below(figure, left, 3)
    return figure


def _dashes(name: str, styles: Sequence[Any]) -> Any:
    """Dashes tell the variants of B'MOJO apart."""
    for word, dashes in zip(("own", "edge", "none"), styles, strict=True):
        if name.endswith(f", {word}"):
            return dashes
    return "-"


def mad(found: Found) -> Any:
    """Accuracy of each model on each task."""
    best = best_of(found["mad"])
    tasks = list(dict.fromkeys(name.partition(": ")[0] for name in best))
    models = list(dict.fromkeys(name.partition(": ")[2] for name in best))
    figure, (ax,) = _axes(1.0, height=3.8)
    for i, model in enumerate(models):
        own = [best.get(f"{task}: {model}", []) for task in tasks]
        mean = [100 * float(np.mean([run.accuracy for run in runs])) if runs else np.nan for runs in own]
        place = np.arange(len(tasks)) + 0.09 * (i - (len(models) - 1) / 2)
        ax.plot(place, mean, ls="", ms=6, label=model, **_look(model))
    ax.set_xticks(range(len(tasks)), ["\n".join(task.replace("_", " ").rsplit(" ", 1)) for task in tasks])
    _accuracy(ax, "MAD tasks", "")
    _below(figure, ax, 4)
    return figure


def language(found: Found) -> Any:
    """Bits a byte by position, and on names by how far back they stood last."""
    figure, (left, right) = _axes(1.0, 1.0, height=3.7)
    for name, runs in best_of(found["language"]).items():
        look, run = _look(name), runs[0].measured
        each = runs[0].measured["length"] // 16 if "length" in run else 1
        curve = np.mean([r.measured["by_position"] for r in runs], axis=0)
        left.plot((np.arange(len(curve)) + 0.5) * each, curve, label=name, ms=4, **look)
        bands = [band for band in run["parts"] if band.startswith("from ")]
        mean = [float(np.mean([r.measured["parts"][band]["bits"] for r in runs])) for band in bands]
        right.plot([int(band[5:]) for band in bands], mean, ms=4, **look)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set(title="All bytes", xlabel="sixteenths of the text", ylabel="bits a byte")
    right.set(title="Bytes of names that stood before", xlabel="at least so many bytes back")
    _below(figure, left, 5)
    return figure


def storage(found: Found) -> Any:
    """Accuracy and time a token by the pairs read in, with and without the store."""
    figure, (left, right) = _axes(1.0, 1.0, height=3.5)
    tables = [run.measured["stored"] for run in found["storage"] if "stored" in run.measured]
    pairs = [row["pairs"] for row in tables[0]]
    for which, colour in (("with", "eidetic"), ("without", "baseline")):

        def mean(what: str, which: str = which) -> list[float]:
            return [float(np.mean([t[i][which][what] for t in tables])) for i in range(len(pairs))]

        look = {"color": COLOURS[colour], "marker": "o", "ms": 4}
        left.plot(pairs, [100 * x for x in mean("accuracy")], **look)
        for what, dashes in (("read_ms", "-"), ("step_ms", DASHED)):
            title = {"read_ms": "reading", "step_ms": "going on"}[what]
            right.plot(pairs, mean(what), ls=dashes, label=f"{title}, {which} a store", **look)
    for ax in (left, right):
        ax.set_xscale("log")
    right.set_yscale("log")
    _accuracy(left, "Recall", "pairs read in beforehand")
    right.set(title="Time", xlabel="pairs read in beforehand", ylabel="ms a token")
    _below(figure, right, 4)
    return figure


def growth(found: Found) -> Any:
    """Accuracy against the pairs asked for, over the shortest and the longest gap."""
    lines = curves(found["growth"])
    gaps = list(next(iter(lines.values()))[0]["accuracy"])
    shown = list(dict.fromkeys((gaps[0], gaps[-1])))
    figure, axes = _axes(*[1.0] * len(shown), height=3.9)
    kinds = {"m = 2 K": "-", "sharpened": "-", "as trained": DASHED, "store": (0, (2, 1.2))}
    for ax, times in zip(axes, shown, strict=True):
        for name, own in lines.items():
            pairs = [int(key) for key in own[0]["accuracy"][times]]
            mean = [100 * float(np.mean([c["accuracy"][times][str(k)] for c in own])) for k in pairs]
            dashes = next((d for word, d in reversed(kinds.items()) if name.endswith(word)), "-")
            look = _look(name) | ({"marker": "D"} if name.endswith("sharpened") else {})
            ax.plot(pairs, mean, label=name, ls=dashes, ms=4.5, **look)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _accuracy(ax, f"Gap {times} x that of training", "pairs asked for, K")
    _below(figure, axes[0], 3)
    return figure


def theory(found: Found) -> Any:
    """What scores find of the exact innovations, and how much each number of states gains."""
    parts = found["theory_signals"]
    figure, (left, right) = _axes(1.25, 1.0, height=4.0)
    found_by = {
        name: float(np.mean([100 * one[name]["at_budget"][0] for one in parts["signals"].values()]))
        for name in next(iter(parts["signals"].values()))
    }
    for name in dict.fromkeys(run.model for run in found.get("theory", [])):
        runs = [run for run in found["theory"] if run.model == name]
        best = max(runs[0].measured, key=lambda layer: np.mean(_kept(runs, layer)), default=None)
        if best is not None:
            found_by[f"tokens, {name} ({best})"] = 100 * float(np.mean(_kept(runs, best)))
    tokens = [name.startswith("tokens") for name in found_by]
    colours = [COLOURS["innovation" if of_tokens else "eidetic"] for of_tokens in tokens]
    left.barh(range(len(found_by)), list(found_by.values()), color=colours, alpha=0.7)
    left.set_yticks(range(len(found_by)), list(found_by))
    left.invert_yaxis()
    left.set(title="Of the samples kept, exact innovations", xlabel="%", xlim=(0, 104))
    for (system, one), colour in zip(
        parts["processes"].items(), ("fading", "window", "eidetic", "weights") * 9, strict=False
    ):
        information = np.array(one["information"]) / one["information"][-1]
        gained = (one["nothing"] - np.array([one["nothing"], *one["trained"]])) / (
            one["nothing"] - one["least"]
        )
        right.plot(100 * information, ls=DASHED, color=COLOURS[colour])
        right.plot(100 * gained, "o-", ms=3.5, color=COLOURS[colour], label=f"process {system}")
    right.set(title="Information (dashed), gain (solid)", xlabel="states", ylabel="% of all", ylim=(0, 104))
    right.legend(loc="lower right")
    return figure


def _kept(runs: Sequence[Record], layer: str) -> list[float]:
    return [run.measured[layer]["at_budget"][0] for run in runs]


PICTURES: Mapping[str, Callable[[Found], Any]] = {
    "recall": recall,
    "levers": levers,
    "crossing": crossing,
    "selection": selection,
    "length": length,
    "mad": mad,
    "language": language,
    "storage": storage,
    "growth": growth,
    "theory": theory,
}
