"""The main job's report, in a student's words."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bmojo.demo import pictures
from bmojo.demo.contenders import GROWTH_GAPS, GROWTH_PAIRS, TASK, WINDOW, Outcome
from bmojo.demo.signal import SignalStudy
from realization.files import write_atomically
from realization.report import Picture, Section, Table, figure_png, page

__all__ = ["write_report"]


def write_report(
    folder: Path, studies: Sequence[SignalStudy], outcomes: Sequence[Outcome], *, seconds: float
) -> Path:
    """Write `report.html`, its pictures as PNG and its figures as `results.json` into `folder`.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    studies : sequence of SignalStudy
        In the order of the page.
    outcomes : sequence of Outcome
        Of all contenders.
    seconds : float
        What the job took so far.

    Returns
    -------
    path : Path
        Of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    album = _Album(folder)
    sections = [section for study in studies for section in _signal_sections(study, album)]
    sections += _recall_sections(outcomes, album)
    best, growing = _named(outcomes, "B'MOJO, m = 16"), [outcome for outcome in outcomes if outcome.growth]
    hardest = GROWTH_GAPS[-1], GROWTH_PAIRS[-1]
    grown = next(outcome.growth[hardest] for outcome in growing if outcome.contender.eidetic)
    starved = next(outcome.growth[hardest] for outcome in growing if not outcome.contender.eidetic)
    text = page(
        "What a state forgets, and what is worth keeping",
        "A state of fixed size remembers by fading. What it failed to predict, the **innovations**, is "
        "exactly what it "
        "cannot rebuild. This page follows that idea from a measured signal to a neural layer that keeps "
        "its surprises.",
        sections,
        key_figures=[
            (
                f"{100 * best.accuracy:.0f} %",
                f"recall across the gap: B'MOJO, {best.contender.eidetic} places",
            ),
            (
                f"{100 * _named(outcomes, 'stack, state 4').accuracy:.0f} %",
                "state + window, the same small state",
            ),
            (f"{100 * grown:.0f} %", f"{hardest[1]} pairs, 16 times the gap, budget raised after training"),
            (f"{100 * starved:.0f} %", "the same for a large state, which cannot grow"),
        ],
        footer=_footer(seconds),
    )
    path = folder / "report.html"
    write_atomically(path, text)
    results = {
        "seconds": seconds,
        "signals": [_plain(study) for study in studies],
        "recall": [o.to_dict() for o in outcomes],
    }
    write_atomically(folder / "results.json", json.dumps(results, indent=1))
    return path


class _Album:
    """Pictures: each is saved as PNG beside the report and goes into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, figure: Figure, caption: str, alt: str) -> Picture:
        image = figure_png(figure)
        write_atomically(self.folder / f"{name}.png", image)
        return Picture(image, caption, alt)


def _signal_sections(study: SignalStudy, album: _Album) -> list[Section]:
    model, tag = study.fit.model, study.name.split(",")[0].lower().replace(" ", "_")
    count = len(study.curve.budget)
    at = int(np.argmin(np.abs(study.curve.budget - 0.2 * study.held.length)))
    top, chance = study.curve.fit[at].mean(), study.random.fit[at].mean()
    whiteness = (
        f"Are they white, as they should be if the model has taken everything that is predictable? The "
        f"portmanteau test "
        f"gives p = {study.white.p_value:.2g}: "
        + (
            "nothing speaks against it."
            if study.white.is_white
            else "no, this half is not quite the process that the first one was."
        )
    )
    fits = Table(
        ["on the half that was held back", "fit, %"],
        [[rule, f"{fit:.1f}"] for rule, fit in study.fits.items()],
    )
    return [
        Section(
            f"{study.name}: from the signal to a realization",
            f"One call, `rz.identify(train)`, made a model with **{model.n_states} states** from the first "
            f"{study.train.length} samples ({study.fit.method}). Here it predicts samples that it has never "
            f"seen. "
            "A fit of 100 % would be perfect, 0 % is what the mean achieves.",
            [
                album.add(
                    f"{tag}_forecast",
                    pictures.forecast(study),
                    "The model sees everything up to now and says what comes next.",
                    f"{study.name}, measured and predicted one step ahead",
                )
            ],
            fits,
        ),
        Section(
            f"{study.name}: what it could not know",
            "What is left after prediction is the **innovation**. Most are small. A few are large: there "
            "the signal did "
            f"something that its past did not announce. {whiteness}",
            [
                album.add(
                    f"{tag}_surprise",
                    pictures.surprise(study),
                    "Red: the samples that `rz.select_innovations` keeps, one pass, never looking ahead.",
                    "The record, and below it the normalized innovation squared with the kept samples marked",
                ),
                album.add(
                    f"{tag}_rebuilt",
                    pictures.rebuilt(study),
                    f"With {100 * study.curve.budget[at] / study.held.length:.0f} % of the innovations "
                    f"kept, the record is "
                    f"rebuilt to {top:.0f} %; with as many at random, to {chance:.0f} %. "
                    f"(Random: mean of several draws; {count} budgets.)",
                    "Fit of the rebuilt record against the number of kept innovations, surprising against "
                    "random",
                ),
            ],
        ),
        Section(
            f"{study.name}: the same model as a PyTorch layer",
            f"`bmojo.lift(model)` makes a trainable layer of it. Run on the held half, its output and the "
            f"model's "
            f"simulation differ by **{study.lift_error:.1e}** of the largest value: rounding. The state of "
            f"that layer is "
            "the fading memory of what follows.",
        ),
    ]


def _recall_sections(outcomes: Sequence[Outcome], album: _Album) -> list[Section]:
    best = _named(outcomes, "B'MOJO, m = 16")
    return [
        Section(
            "Gap recall: now the memory is a layer's",
            f"A sequence begins with {TASK.pairs} pairs of a key and a value. Then comes a gap of "
            f"{TASK.gap} tokens of "
            f"filler. Then {TASK.queries} keys are shown, and the model has to say the value of each. A "
            f"window of {WINDOW} "
            "tokens cannot see across the gap. A small state can, but eight pairs blur in it. B'MOJO adds a "
            "set of *places* "
            "for the tokens that could not be predicted. All models below were trained just now, on this "
            "machine.",
            [
                album.add(
                    "recall",
                    pictures.bars(outcomes),
                    "**Red** has places for what it could not predict; **green** has a state; **blue** only "
                    "a window. Pale: the "
                    "controls, no places (B'MOJO-F) or places filled at random. Long-term memory counts "
                    "every byte of state "
                    "and places over all layers. Same width, same depth, same data and seed. The stack puts "
                    "a mixer *and* a "
                    "window into each block; the one with state 33 holds the bytes of 16 places in its "
                    "state, and was trained for "
                    "five times as long because it learns more slowly.",
                    "Accuracy of each model with the bytes of its long-term memory",
                ),
                album.add(
                    "kept_tokens",
                    pictures.kept_tokens(best),
                    "Nobody told the layer what a pair is. It tried to predict each token from the ones "
                    "before, and "
                    "kept what surprised it. The picture is taken when the last queries come: by then a few "
                    "early "
                    "queries have taken the places of the least surprising keys, and one token near a pair "
                    "is enough, "
                    "because a short convolution lets it carry the tokens just before it.",
                    "Surprise of each token; the kept tokens are those of the pairs",
                ),
                album.add(
                    "budget",
                    pictures.budget(best),
                    "The budget is a property of the state, not of the weights: here one trained model is "
                    "given more and fewer "
                    "places.",
                    "Accuracy against the number of places",
                ),
            ],
        ),
        Section(
            "A budget can grow, a state cannot",
            f"Both models were trained with {TASK.pairs} pairs. Now there are up to {GROWTH_PAIRS[-1]}, and "
            f"the gap is up to "
            f"{GROWTH_GAPS[-1] // TASK.gap} times as long. B'MOJO's budget is raised to two places a pair, "
            f"without training. "
            "A recurrent state has the size it was born with.",
            [
                album.add(
                    "growth",
                    pictures.growth(outcomes),
                    "Each point: 1024 queries. In training both held the same bytes, the rival in its state, "
                    "B'MOJO in its places. What grows is paid for: "
                    f"{GROWTH_PAIRS[-1]} pairs take {2 * GROWTH_PAIRS[-1]} places, "
                    f"{_place_bytes(outcomes) * 2 * GROWTH_PAIRS[-1] / 1024:.0f} KiB over all layers.",
                    "Accuracy against the number of pairs, for three lengths of the gap",
                )
            ],
            _growth_table(outcomes),
        ),
        Section(
            "How they learned",
            "All follow the same curriculum: two pairs across a short gap, then four, then eight across the "
            "full gap; each step up in the loss is a harder task coming in.",
            [
                album.add(
                    "learning",
                    pictures.learning(outcomes),
                    "Loss during training, averaged over 20 steps.",
                    "Training loss of every model",
                )
            ],
        ),
        Section(
            "The numbers",
            "All layers together; window: everything that holds the latest tokens.",
            table=_memory_table(outcomes),
        ),
        Section(
            "What this does not show",
            "- One seed, small models, a clean task in which filler is easy to predict. Where filler looks "
            "like pairs, "
            "surprise cannot tell them apart.\n"
            "- A large state is a good memory for a task of known size, and at equal bytes it solves this "
            "one. The places "
            "win where the size is not known when the model is trained.\n"
            '- The places are read at the window\'s edge (`eidetic_position="edge"`): with keys rotated at '
            "their own "
            "position the same model answers fewer queries at gaps longer than those of training "
            "(`benchmarks/bench_gap_recall.py` measures it, over seeds).",
        ),
    ]


def _memory_table(outcomes: Sequence[Outcome]) -> Table:
    rows = [
        [
            outcome.contender.name,
            f"{100 * outcome.accuracy:.1f}",
            str(outcome.memory["in_state"]),
            str(outcome.memory["eidetic"]),
            str(outcome.memory["in_context"]),
            str(outcome.parameters),
            str(outcome.contender.steps),
        ]
        for outcome in outcomes
    ]
    return Table(
        ["model", "right, %", "state, bytes", "places, bytes", "window, bytes", "weights", "steps"], rows
    )


def _growth_table(outcomes: Sequence[Outcome]) -> Table:
    tried = [outcome for outcome in outcomes if outcome.growth]
    rows = [
        [
            f"{outcome.contender.name}, gap {gap}",
            *(f"{100 * outcome.growth[gap, pairs]:.0f}" for pairs in GROWTH_PAIRS),
        ]
        for outcome in tried
        for gap in GROWTH_GAPS
    ]
    return Table(["right, %", *(f"{pairs} pairs" for pairs in GROWTH_PAIRS)], rows)


def _place_bytes(outcomes: Sequence[Outcome]) -> int:
    """Bytes of one place, over all layers."""
    best = _named(outcomes, "B'MOJO, m = 16")
    return best.memory["eidetic"] // best.contender.eidetic


def _named(outcomes: Sequence[Outcome], name: str) -> Outcome:
    return next(outcome for outcome in outcomes if outcome.contender.name == name)


def _plain(study: SignalStudy) -> dict[str, object]:
    return {
        "name": study.name,
        "order": study.fit.order,
        "method": study.fit.method,
        "fits": study.fits,
        "whiteness_p": study.white.p_value,
        "kept": study.selection.index.tolist(),
        "budget": study.curve.budget.tolist(),
        "rebuilt": study.curve.fit.mean(axis=1).tolist(),
        "rebuilt_random": study.random.fit.mean(axis=1).tolist(),
        "lift_error": study.lift_error,
    }


def _footer(seconds: float) -> str:
    return (
        f"Made by `python -m bmojo.demo` in {seconds:.0f} s on {platform.machine()} with Python "
        f"{platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}."
    )
