"""Evidence, question 3: trained on short sequences, judged on long ones, read piece by piece.

Gap recall with the gap stretched, and source text: eidetic keys rotated at their `own` place, at the window's
`edge` or not at all (`none`), beside states of fixed size and full attention.

Run: python benchmarks/evidence_length.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_length.py --size full --device cuda
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _evidence import Job, Record, best_of, parser_of, run_jobs, show_jobs, write_records
from _results import Row, write_results
from _streamed import losses_of

from bmojo import BMojoLM
from bmojo.tasks import GapRecall, SourceText

POSITIONS = ("own", "edge", "none")


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    length : int
        Of the sequences of training.
    factors : tuple of int
        How many times as long those of judging are.
    pairs, window, state, width, steps, batch, vocabulary : int
        Of gap recall; the set holds `2 * pairs`.
    rates, seeds : tuple
    text_window, text_eidetic, text_layers, text_width, text_steps, text_batch : int
        Of source text.
    text_rates : tuple of float
    sequences, texts : int
        Of judging, at each length.
    piece : int
        Tokens read at a time.
    precision : str
    """

    length: int
    factors: tuple[int, ...]
    pairs: int
    window: int
    state: int
    width: int
    steps: int
    batch: int
    vocabulary: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    text_window: int
    text_eidetic: int
    text_layers: int
    text_width: int
    text_steps: int
    text_batch: int
    text_rates: tuple[float, ...]
    sequences: int
    texts: int
    piece: int
    precision: str = "float32"


FACTORS = (1, 2, 4, 8, 16, 32)
SIZES = {
    "quick": Size(
        256, FACTORS, 8, 16, 16, 64, 300, 32, 64, (1e-2,), (0, 1, 2),
        64, 32, 2, 64, 300, 16, (3e-3,), 16, 8, 512,
    ),
    "full": Size(
        2048, FACTORS, 32, 64, 16, 128, 1500, 32, 256, (3e-3, 1e-2), (0, 1, 2),
        256, 128, 4, 256, 2000, 16, (2e-3,), 16, 8, 2048, "bfloat16",
    ),
}  # fmt: skip


def models(window: int, state: int, eidetic: int, layers: int) -> dict[str, dict[str, Any]]:
    """Layers of each model by its name; states of the others are twice as large, and a set they have not."""
    near = {"window": window}
    found: dict[str, dict[str, Any]] = {
        f"B'MOJO, {position}": {
            "eidetic": eidetic,
            "eidetic_position": position,
            "state_size": state,
            "layers": layers,
            **near,
        }
        for position in POSITIONS
    }
    both = [
        {"window": 0, "eidetic": 0, "state_size": 2 * state},
        {"mixer": "none", "eidetic": 0, **near},
    ]
    found["stack of Mamba-2 and window"] = {"layers": both * (layers // 2)}
    found["gated delta"] = {
        "preset": "bare_mixer",
        "mixer": "gated_deltanet",
        "state_size": 2 * state,
        "layers": layers,
    }
    found["Transformer"] = {"preset": "transformer", "qk_norm": True, "short_conv": 4, "layers": layers}
    return found


def recall_jobs(size: Size) -> list[Job]:
    """Gap recall at the short length; a curriculum of fewer pairs and shorter gaps comes first."""
    task = recall_task(size, 1)
    options = {
        "kind": "gap_recall",
        "pairs": task.pairs,
        "gap": task.gap,
        "queries": task.queries,
        "vocabulary": size.vocabulary,
    }
    part = size.steps * 2 // 7
    curriculum = [
        {"steps": part, "pairs": size.pairs // 4, "gap": task.gap // 9, "queries": size.pairs // 2},
        {"steps": part, "pairs": size.pairs // 2, "gap": task.gap // 3, "queries": size.pairs},
    ]
    return [
        Job(
            name,
            {
                "name": name,
                "task": options,
                "curriculum": curriculum,
                "model": {"d_model": size.width, "mlp_ratio": 0.0, **layers},
                "train": _train(size, size.steps, size.batch, rate, seed),
            },
        )
        for name, layers in models(size.window, size.state, 2 * size.pairs, 2).items()
        for rate in size.rates
        for seed in size.seeds
    ]


def text_jobs(size: Size) -> list[Job]:
    """Source text in short sequences."""
    task = {"kind": "source_text", "length": size.length, "window": size.text_window}
    made = models(size.text_window, size.state, size.text_eidetic, size.text_layers)
    return [
        Job(
            name,
            {
                "name": name,
                "task": task,
                "model": {"d_model": size.text_width, "mlp_ratio": 2.0, **layers},
                "train": _train(size, size.text_steps, size.text_batch, rate, seed) | {"metric": "loss"},
            },
        )
        for name, layers in made.items()
        for rate in size.text_rates
        for seed in size.seeds
    ]


def _train(size: Size, steps: int, batch: int, rate: float, seed: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "seed": seed,
        "sequences": 128,
        "checkpoint_every": 100,
        "precision": size.precision,
    }


def recall_task(size: Size, factor: int) -> GapRecall:
    """Gap recall in sequences `factor` times as long as in training: the gap alone is longer.

    Parameters
    ----------
    size : Size
    factor : int
    """
    gap = factor * size.length - 4 * size.pairs
    return GapRecall(pairs=size.pairs, gap=gap, queries=2 * size.pairs, vocabulary=size.vocabulary)


def reaching(model: Any, length: int, trained: int) -> Any:
    """The same weights, where full attention is to reach over a longer sequence; else the model itself.

    Parameters
    ----------
    model : BMojoLM
    length : int
        Tokens to be reached over.
    trained : int
        Tokens of a sequence in training: a window that held them all is no window.
    """
    layers = model.options["layers"]
    if all(layer["window"] < trained for layer in layers):
        return model
    wide = [layer | {"window": length, "chunk": length} for layer in layers]
    found = BMojoLM(model.options["vocabulary"], wide, mlp_ratio=model.options["mlp_ratio"])
    found.load_state_dict(model.state_dict())
    return found.to(next(model.parameters()).device).eval()


def measure_recall(model: Any, size: Size) -> dict[str, Any]:
    """Accuracy at each length.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    accuracy = {}
    for factor in size.factors:
        task = recall_task(size, factor)
        wide = reaching(model, task.length, size.length)
        drawn = task.sample(size.sequences, torch.Generator().manual_seed(factor))
        right = losses_of(wide, drawn, size.piece)[1]
        accuracy[str(factor)] = float(right[drawn.mask].float().mean())
    return {"accuracy": accuracy}


def measure_text(model: Any, size: Size) -> dict[str, Any]:
    """Bits per byte in octaves of the position, and what the same bytes take after a short context.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    length, half = size.factors[-1] * size.length, size.length // 2
    drawn = SourceText(length=length, window=size.text_window, part="held").sample(
        size.texts, torch.Generator().manual_seed(0)
    )
    far = losses_of(reaching(model, length, size.length), drawn, size.piece)[0] / math.log(2)
    near = torch.full_like(far, torch.nan)
    for start in range(0, length - half, half * 16):  # a pass of at most 16 short pieces of each text
        starts = range(start, min(start + half * 16, length - half), half)
        short = [drawn.tokens[:, s : s + size.length] for s in starts]
        due = [drawn.targets[:, s : s + size.length] for s in starts]
        pieces = type(drawn)(torch.cat(short), torch.cat(due), torch.ones_like(torch.cat(due)).bool())
        found = losses_of(model, pieces, size.length)[0][:, half:].split(size.texts)
        for s, part in zip(starts, found, strict=True):
            near[:, s + half : s + size.length] = part / math.log(2)
    octaves = [(0, half)] + [
        (half * 2**i, half * 2 ** (i + 1)) for i in range(int(math.log2(length // half)))
    ]
    table = []
    for low, high in octaves:
        by_text = (far - near)[:, low:high].mean(dim=1)
        row = {"from": low, "to": high, "bits": float(far[:, low:high].mean())}
        if low:
            row["short"] = float(near[:, low:high].mean())
            row["difference"] = float(by_text.mean())
            row["error"] = float(by_text.std() / math.sqrt(size.texts))
        table.append(row)
    return {"octaves": table}


def recall_rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy at each length, and how far it falls."""
    made = []
    for name, runs in best_of(records).items():
        if not all("accuracy" in run.measured for run in runs):
            continue
        at = f"rate {runs[0].rate:g}, {len(runs)} seeds"
        mean = {
            factor: 100 * float(np.mean([run.measured["accuracy"][str(factor)] for run in runs]))
            for factor in size.factors
        }
        for factor, value in mean.items():
            made.append(Row(f"recall, {name}: {factor} x {size.length} ({at})", value, "%"))
        own = name.startswith("B'MOJO")
        fall = mean[1] - mean[16]
        goal = 5.0 if own else None
        made.append(Row(f"recall, {name}: fall to 16 x", fall, "points", goal=goal, larger_is_better=False))
    return made


def mean_octaves(runs: Sequence[Record]) -> list[dict[str, float]]:
    """Rows of `measure_text`, in the mean over seeds; the error is that of one seed: all read the same texts.

    Parameters
    ----------
    runs : sequence of Record
    """
    tables = [run.measured["octaves"] for run in runs if "octaves" in run.measured]
    return [
        {key: float(np.mean([row[key] for row in same])) for key in same[0]}
        for same in zip(*tables, strict=True)
    ]


def text_rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Bits per byte by position, and whether they rise beyond the length of training."""
    made = []
    for name, runs in best_of(records).items():
        table = mean_octaves(runs)
        for row in table:
            case = f"text, {name}: bytes {row['from']:g} to {row['to']:g}, mean of {len(runs)} seeds"
            made.append(Row(case, row["bits"], "bits/byte"))
        if table:
            last, half = table[-1], size.length // 2
            reach = f"bytes {last['from']:g} to {last['to']:g}"
            made.append(
                Row(
                    f"text, {name}: {reach} above the same bytes after {half} to {size.length}",
                    last["difference"],
                    "bits/byte",
                    goal=0.0 if name.startswith("B'MOJO") else None,
                    larger_is_better=False,
                    interval=(
                        last["difference"] - 1.96 * last["error"],
                        last["difference"] + 1.96 * last["error"],
                    ),
                )
            )
    return made


def main() -> None:
    options = parser_of(__doc__, SIZES).parse_args()
    size = SIZES[options.size]
    if options.dry:
        show_jobs([*recall_jobs(size), *text_jobs(size)])
        return
    rows: list[Row] = []
    for kind, jobs, measure, tell in (
        ("recall", recall_jobs(size), measure_recall, recall_rows),
        ("text", text_jobs(size), measure_text, text_rows),
    ):
        name = f"length_{kind}_{options.size}"
        judge = functools.partial(measure, size=size)
        records = run_jobs(name, jobs, device=options.device, workers=options.workers, measure=judge)
        write_records(name, jobs, records)
        rows += tell(size, records)
    write_results(f"evidence_length_{options.size}", rows)


if __name__ == "__main__":
    main()
