"""The evidence as pages: for each question a picture, tables, the command, the time and the machine.

Run: python benchmarks/evidence_pages.py FOLDER (the documentation's build does it)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _evidence import Record, best_of

RESULTS = Path(__file__).parent / "results"
SIZES = ("full", "quick")
Found = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Question:
    """What is asked, and where its answer lies.

    Parameters
    ----------
    key : str
        Of the script, `evidence_<key>.py`.
    files : tuple of str
        What it writes, without the size.
    table : callable
        From what was found: headings, and rows of cells.
    caption : str
        Of the picture.
    """

    key: str
    files: tuple[str, ...]
    table: Callable[[Found], Table]
    caption: str


def read(question: Question, size: str, results: Path) -> tuple[dict[str, Any], Found] | None:
    """Rows with their machine, and what was found by file; `None` where the script has not been run.

    Parameters
    ----------
    question : Question
    size : str
    results : Path
        The folder `benchmarks/results`.
    """
    told = results / f"evidence_{question.key}_{size}.json"
    if not told.is_file():
        return None
    found: Found = {}
    for name in question.files:
        path = results / "evidence" / _file(name, size)
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            found[name] = content if isinstance(content, dict) else [_record(row) for row in content]
    return json.loads(told.read_text(encoding="utf-8")), found


def _file(name: str, size: str) -> str:
    first, _, rest = name.partition("_signals")
    return f"{first}_{size}_signals.json" if name != first else f"{first}{rest}_{size}.json"


def _record(row: dict[str, Any]) -> Record:
    train = row["config"]["train"]
    loss = float("inf") if row["loss"] is None else row["loss"]
    return Record(
        row["model"], train["rate"], train["seed"], row["accuracy"], loss, row["memory"],
        row["parameters"], row["seconds"], row["curve"], row["measured"], row.get("looks", []),
    )  # fmt: skip


def mean_and_worst(runs: Sequence[Record]) -> list[str]:
    """Mean and worst accuracy over seeds, in percent."""
    values = [100 * run.accuracy for run in runs]
    return [f"{np.mean(values):.1f}", f"{min(values):.1f}"]


def recall_table(found: Found) -> Table:
    """Each model at its best rate."""
    rows = []
    for name, runs in best_of(found["recall"]).items():
        memory = runs[0].memory
        long_term = memory.get("in_state", 0) + memory.get("eidetic", 0)
        rows.append([name, f"{runs[0].rate:g}", *mean_and_worst(runs), f"{long_term}", f"{runs[0].bytes}"])
    return ["model", "rate", "mean, %", "worst, %", "bytes of state and places", "all bytes"], rows


def levers_table(found: Found) -> Table:
    """Each combination on each task: mean over seeds, the worst in brackets."""
    from evidence_levers import grid

    by_lever = grid(found["levers"])
    tasks = list(dict.fromkeys(task for row in by_lever.values() for task in row))
    rows = []
    for lever, row in by_lever.items():
        cells = [mean_and_worst(row[task]) if task in row else [] for task in tasks]
        rows.append([lever, *("{} ({})".format(*cell) if cell else "" for cell in cells)])
    return ["levers", *(f"{task}, % (worst)" for task in tasks)], rows


def crossing_table(found: Found) -> Table:
    """Each model in each setting: what it reached, with how many bytes, after how many steps."""
    from evidence_crossing import REACHED, long_term, reached

    rows = []
    for name, runs in best_of(found["crossing"]).items():
        setting, _, model = name.partition(": ")
        steps = [reached(run) for run in runs]
        told = ", ".join("never" if step is None else f"{step}" for step in steps)
        rows.append([setting, model, *mean_and_worst(runs), f"{long_term(runs[0])}", told])
    heads = ["setting", "model", "mean, %", "worst, %", "bytes of state and places"]
    return [*heads, f"steps to {100 * REACHED:.0f} %, by seed"], rows


def selection_table(found: Found) -> Table:
    """Each variant, and what stood in its places when the first query came."""
    rows = []
    for name, runs in best_of(found["selection"]).items():
        key = "pairs in the set" + (", same vocabulary" if name.startswith("same vocabulary") else "")
        sets = [run.measured[key] for run in runs if key in run.measured]
        shares = [f"{100 * x:.0f}" for x in np.mean(sets, axis=0)] if sets else ["", ""]
        size = runs[0].bytes + runs[0].measured.get("cache", 0)
        rows.append([name, *mean_and_worst(runs), ", ".join(filter(None, shares)), f"{size}"])
    return [
        "variant",
        "mean, %",
        "worst, %",
        "of the places, tokens of pairs, %, by layer",
        "all bytes",
    ], rows


def length_table(found: Found) -> Table:
    """Recall at each length; bits a byte in the last octave above the same bytes after a short context."""
    from evidence_length import mean_octaves

    recall, text = best_of(found.get("length_recall", [])), best_of(found.get("length_text", []))
    factors = [int(k) for k in next(iter(recall.values()))[0].measured["accuracy"]]
    rows = []
    for name in dict.fromkeys([*recall, *text]):
        tables = [run.measured["accuracy"] for run in recall.get(name, [])]
        cells = [f"{100 * np.mean([t[str(k)] for t in tables]):.1f}" if tables else "" for k in factors]
        octaves = mean_octaves(text.get(name, []))
        last = f"{octaves[-1]['difference']:+.3f} ± {1.96 * octaves[-1]['error']:.3f}" if octaves else ""
        rows.append([name, *cells, last])
    return ["model", *(f"recall at {k} x, %" for k in factors), "text, bits/byte above"], rows


def mad_table(found: Found) -> Table:
    """Each model on each task, and the mean over the tasks of recall; then what others published."""
    from evidence_mad import PUBLISHED, RECALL, TASKS

    best = best_of(found["mad"])
    tasks = list(dict.fromkeys(name.partition(": ")[0] for name in best))
    rows = []
    for model in dict.fromkeys(name.partition(": ")[2] for name in best):
        own = [best.get(f"{task}: {model}", []) for task in tasks]
        values = [100 * float(np.mean([run.accuracy for run in runs])) if runs else np.nan for runs in own]
        recall = [value for task, value in zip(tasks, values, strict=True) if task in RECALL]
        values.append(float(np.mean(recall)) if recall else np.nan)
        rows.append([model, *("" if np.isnan(value) else f"{value:.1f}" for value in values)])
    for model, told in PUBLISHED.items():
        values = [dict(zip(TASKS, told, strict=True))[task] for task in tasks]
        mean = float(np.mean(told[: len(RECALL)]))
        rows.append([f"*{model}, published*", *(f"{value:.1f}" for value in values), f"{mean:.1f}"])
    return ["model", *(task.replace("_", " ") + ", %" for task in tasks), "mean of recall tasks, %"], rows


def language_table(found: Found) -> Table:
    """Bits a byte at equal steps, and at equal time where a model does more of them."""
    rows = []
    for title, key in (("equal steps", "language"), ("more steps in equal time", "language_time")):
        for name, runs in best_of(found.get(key, [])).items():
            parts = [run.measured["parts"] for run in runs]
            bits = [f"{np.mean([run.measured['bits'] for run in runs]):.3f}"]
            bits += [f"{np.mean([p[part]['bits'] for p in parts]):.3f}" for part in ("recalled", "the rest")]
            rows.append([f"{name}, {title}", *bits, f"{runs[0].parameters}", f"{runs[0].seconds:.0f}"])
    return ["model", "bits/byte", "on recalled names", "on the rest", "parameters", "seconds"], rows


def storage_table(found: Found) -> Table:
    """With and without a store, by the pairs read in."""
    tables = [run.measured["stored"] for run in found["storage"] if "stored" in run.measured]
    rows = []
    for same in zip(*tables, strict=True):
        cells = [f"{same[0]['pairs']}"]
        for which in ("with", "without"):
            cells.append(f"{100 * np.mean([one[which]['accuracy'] for one in same]):.1f}")
        for which in ("with", "without"):
            times = [np.mean([one[which][what] for one in same]) for what in ("read_ms", "step_ms")]
            cells.append(" / ".join(f"{value:.3g}" for value in times))
        rows.append([*cells, f"{np.mean([one['bytes'] for one in same]) / 2**20:.2f}"])
    heads = ["pairs", "accuracy, %", "without, %", "reading / going on, ms a token", "without", "store, MiB"]
    return heads, rows


def growth_table(found: Found) -> Table:
    """Accuracy of each line at each number of pairs, over the longest gap in brackets."""
    from evidence_growth import curves

    lines = curves(found["growth"])
    first = next(iter(lines.values()))[0]["accuracy"]
    gaps, pairs = list(first), list(next(iter(first.values())))
    rows = []
    for name, own in lines.items():

        def mean(times: str, k: str, own: Sequence[Any] = own) -> str:
            return f"{100 * np.mean([curve['accuracy'][times][k] for curve in own]):.0f}"

        cells = [f"{mean(gaps[0], k)} ({mean(gaps[-1], k)})" for k in pairs]
        size = own[0]["bytes"][gaps[0]]
        rows.append([name, *cells, f"{size[pairs[0]]} to {size[pairs[-1]]}"])
    return ["", *(f"K = {k}, %" for k in pairs), "bytes"], rows


def theory_table(found: Found) -> Table:
    """Precision and recall at the budget, of exact innovations and of shocks."""
    signals, rows = found["theory_signals"]["signals"], []
    for name in next(iter(signals.values())):
        own = [one[name] for one in signals.values()]
        rows.append([name, *_agreements(own)])
    for name, runs in best_of(found.get("theory", [])).items():
        for layer in runs[0].measured:
            rows.append([f"tokens, {name}, {layer}", *_agreements([run.measured[layer] for run in runs])])
    heads = ["scores", "precision, %", "recall, %", "precision of shocks, %", "recall of shocks, %"]
    return heads, rows


def _agreements(own: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{100 * np.mean([one[key][i] for one in own]):.1f}"
        for key in ("at_budget", "shocks")
        for i in range(2)
    ]


QUESTIONS = (
    Question(
        "recall", ("recall",), recall_table,
        "Gap recall against the bytes of state and places; dots are seeds, dashes models that have neither.",
    ),
    Question(
        "levers", ("levers",), levers_table,
        "Four tasks of recall by what the layer may use; dots are seeds.",
    ),
    Question(
        "crossing", ("crossing",), crossing_table,
        "Gap recall after longer training, against the bytes of state and places; dots are seeds.",
    ),
    Question(
        "selection", ("selection",), selection_table,
        "Gap recall with the same number of places, by what fills them; dots are seeds.",
    ),
    Question(
        "length", ("length_recall", "length_text"), length_table,
        "Trained on short sequences and judged on long ones: recall, and what a byte of text costs above "
        "the same byte after a short context.",
    ),
    Question("mad", ("mad",), mad_table, "The six tasks of mechanistic architecture design."),
    Question(
        "language", ("language", "language_time"), language_table,
        "Bits a byte of held-out source text, by position, and on names by how far back they stood last.",
    ),
    Question(
        "storage", ("storage",), storage_table,
        "Recall of pairs that were read in beforehand, and the time that a token takes, as the store grows.",
    ),
    Question(
        "growth", ("growth",), growth_table,
        "Trained on 8 pairs, asked for more with the weights as they are.",
    ),
    Question(
        "theory", ("theory", "theory_signals"), theory_table,
        "What scores find of the exact Kalman innovations, and how much of the information and of the gain "
        "in loss so many states hold.",
    ),
)  # fmt: skip


def page(question: Question, results: Path, folder: Path) -> str:
    """One question in Markdown, to be included by a page of the documentation; pictures go to the folder.

    Parameters
    ----------
    question : Question
    results, folder : Path
    """
    from _evidence_pictures import draw

    parts = []
    for size in SIZES:
        there = read(question, size, results)
        if there is None:
            continue
        told, found = there
        picture = folder / f"{question.key}_{size}.png"
        figure = draw(question.key, found)
        figure.savefig(picture, dpi=200)
        _close(figure)
        parts += [
            f"```{{figure}} _generated/{folder.name}/{picture.name}",
            f":alt: {question.caption}",
            ":width: 900px",
            "",
            question.caption,
            "```",
            "",
            *_markdown(*question.table(found)),
            *_goals(told["rows"]),
            _ran(told, found, size),
            "",
        ]
    if not parts:
        command = f"python benchmarks/evidence_{question.key}.py --size quick"
        parts = ["```{note}", f"This has not been run: `{command}`.", "```", ""]
    return "\n".join(parts)


def _close(figure: Any) -> None:
    from realization.plot.style import pyplot

    pyplot().close(figure)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was set before anything was measured, and whether it was reached."""
    asked = [row for row in rows if row["goal"] is not None]
    if not asked:
        return []
    told = {True: "yes", False: "**no**"}
    return _markdown(
        ["set beforehand", "measured", "goal", "met"],
        [
            [row["case"], f"{row['value']:.4g} {row['unit']}", f"{row['goal']:g}", told[row["met"]]]
            for row in asked
        ],
    )


def _ran(told: Mapping[str, Any], found: Found, size: str) -> str:
    """Command, time and machine in one line."""
    runs = [record for part in found.values() if isinstance(part, list) for record in part]
    minutes = sum(record.seconds for record in runs) / 60
    machine = told["machine"]
    where = f"{machine['cpu']}, {machine['gpu'] or 'no GPU'}"
    return (
        f"*{size.capitalize()} size:* `{told['command']}`, {len(runs)} models trained in {minutes:.0f} "
        f"minutes altogether, one thread each, on {where}, torch {machine['versions'].get('torch', '')}."
    )


def write_pages(results: Path, folder: Path) -> list[str]:
    """A page for each question in `folder`, with its pictures; the questions that have been run.

    Parameters
    ----------
    results : Path
        The folder `benchmarks/results`.
    folder : Path
        Under `docs/_generated`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for question in QUESTIONS:
        text = page(question, results, folder)
        (folder / f"{question.key}.md").write_text(text, encoding="utf-8")
        if "{figure}" in text:
            done.append(question.key)
    return done


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    print(f"written: {', '.join(write_pages(RESULTS, parser.parse_args().folder)) or 'no question was run'}")


if __name__ == "__main__":
    main()
