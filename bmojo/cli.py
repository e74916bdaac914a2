"""The command `bmojo`: the demo, training, recall of a trained model, the explorer.

Progress goes to standard error and results to standard output. Whatever is wrong with a configuration or an
option is one line, `bmojo: error: ...`, and exit code 2; an interrupt is 130, with a checkpoint left.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realization.record_options import add_record_options
from realization.terminal import FAILED, INTERRUPTED, Parser, add_completion, with_page

if TYPE_CHECKING:
    from torch import nn

    from bmojo.tasks import GapRecall

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `bmojo COMMAND ...`; returns the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the command line when left out.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["demo"]:
        from bmojo.demo.__main__ import main as demo

        return demo(given[1:])
    options = _parser().parse_args(given)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            options.run(options)
    except KeyboardInterrupt as stop:
        if _first():
            print(f"bmojo: {stop or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, FloatingPointError, ImportError, OSError) as error:
        if getattr(error, "tells", _first() or isinstance(error, ImportError | OSError)):
            line = with_page(" ".join(str(error).split()), type(error))
            print(f"bmojo: error: {line}", file=sys.stderr)
        return FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="bmojo",
        description="B'MOJO layers: four memories in one.",
        epilog=(
            "`bmojo COMMAND --help` explains each command with an example.\n"
            "Tab completes after `source <(bmojo --print-completion bash)`, or the like for zsh and tcsh."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bmojo {metadata.version('realization')}")
    add_completion(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    commands.add_parser("demo", help="run the main job and write its report", add_help=False)
    _add_train(commands)
    _add_recall(commands)
    _add_explore(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="train what a TOML file says, over learning rates and seeds",
        description=(
            "Train what a configuration says: a task, a model, options, learning rates and seeds.\n"
            "\n"
            "Each run has a folder of its own with checkpoints and a log (log.jsonl, a JSON object a line).\n"
            "Ctrl-C ends the step, leaves a checkpoint and stops; the same command goes on from there, and\n"
            "after a killed process, to the same losses bit for bit on one device. What came out is told,\n"
            "and written to results.json; the weights of the best rate and the first seed go to model/."
        ),
        epilog=(
            "a configuration (docs/training.md lists every key):\n"
            "  [task]\n"
            '  kind = "gap_recall"        # mqar, needle, source_text, ...\n'
            "  pairs = 8\n"
            "  gap = 48\n"
            "  [model]\n"
            '  preset = "bmojo"           # transformer, sliding_window, stacked_hybrid, ...\n'
            "  d_model = 64\n"
            "  window = 8\n"
            "  eidetic = 16\n"
            "  [train]\n"
            "  steps = 300\n"
            "  rates = [3e-3, 6e-3]       # each is tried with each seed\n"
            "  seeds = [0, 1, 2]\n"
            "  [output]\n"
            '  folder = "out/recall"\n'
            "\n"
            "examples:\n"
            "  bmojo train benchmarks/configs/gap_recall.toml\n"
            "  bmojo train benchmarks/configs/mqar.toml --set train.steps=200 --folder out/short\n"
            "  bmojo train benchmarks/configs/source_text.toml --device cuda --set output.tensorboard=true\n"
            "  tensorboard --logdir out   # in another window"
        ),
    )
    command.add_argument("config", metavar="CONFIG.toml", help="the configuration")
    command.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change one value, written as in TOML; repeat for more",
    )  # fmt: skip
    command.add_argument(
        "--folder", metavar="FOLDER", help="where everything goes, in place of the configuration's own"
    )
    command.add_argument(
        "--fresh", action="store_true", help="remove what the folder holds of earlier runs, and begin anew"
    )
    command.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    command.add_argument("--quiet", action="store_true", help="no progress on the way")
    command.set_defaults(run=_train)


def _add_recall(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "recall",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="what a model recalls of more pairs, over longer gaps, with more places",
        description=(
            "Measure gap recall: pairs of keys and values, a gap of filler, the keys again: values are due.\n"
            "\n"
            "With --model, of a model that `bmojo train` left: it is asked as it is, at all combinations of\n"
            "--pairs, --gap and --places. Places are those of the eidetic sets: a trained model can have\n"
            "more of them, a recurrent state cannot grow.\n"
            "Without --model, a small model is trained first on the first --pairs and --gap (about a minute\n"
            "on one core), after easier tasks of fewer pairs and shorter gaps."
        ),
        epilog=(
            "examples:\n"
            "  bmojo recall\n"
            "  bmojo recall --mixer gated_deltanet --state 16 --eidetic 24 --steps 400\n"
            "  bmojo recall --preset stacked_hybrid --state 33 --steps 1400 --rate 1e-2\n"
            "  bmojo recall --model out/recall --pairs 8 16 31 --gap 48 768 --places 16 62\n"
            "  bmojo recall --model out/recall --json"
        ),
    )
    asked = command.add_argument_group("what is asked")
    asked.add_argument(
        "--model", metavar="FOLDER", help="folder of a run, or of a model; a small one is trained without it"
    )
    asked.add_argument(
        "--pairs", type=_whole(1), nargs="+", default=[8], metavar="K", help="key-value pairs (default: 8)"
    )
    asked.add_argument(
        "--gap", type=_whole(0), nargs="+", default=[48], metavar="N",
        help="tokens of filler between the pairs and the queries (default: 48)",
    )  # fmt: skip
    asked.add_argument(
        "--places", type=_whole(1), nargs="+", metavar="M",
        help="places of the eidetic sets when asked (default: those of training)",
    )  # fmt: skip
    asked.add_argument(
        "--queries", type=_whole(1), default=16, metavar="Q", help="keys that are asked for (default: 16)"
    )
    asked.add_argument(
        "--vocabulary", type=_whole(4), metavar="V",
        help="tokens, half of them values (default: the model's, or 64)",
    )  # fmt: skip
    asked.add_argument(
        "--sequences", type=_whole(1), default=256, metavar="N", help="sequences asked (default: 256)"
    )
    asked.add_argument("--json", action="store_true", help="print JSON in place of the table")
    made = command.add_argument_group("the model that is trained, without --model")
    made.add_argument(
        "--preset", default="bmojo", metavar="NAME",
        help="bmojo, bmojo_f, stacked_hybrid, bare_mixer, sliding_window or transformer (default: bmojo)",
    )  # fmt: skip
    made.add_argument("--mixer", metavar="NAME", help="mamba2, mamba, gated_deltanet, ... (default: mamba2)")
    made.add_argument("--state", type=_whole(1), metavar="N", help="state size (default: 4)")
    made.add_argument(
        "--window", type=_whole(1), default=8, metavar="W", help="tokens in context (default: 8)"
    )
    made.add_argument("--eidetic", type=_whole(1), metavar="M", help="places in training (default: 16)")
    made.add_argument("--width", type=_whole(2), default=64, metavar="D", help="d_model (default: 64)")
    made.add_argument("--layers", type=_whole(1), default=2, metavar="L", help="layers (default: 2)")
    made.add_argument("--steps", type=_whole(7), default=280, metavar="N", help="of training (default: 280)")
    made.add_argument("--rate", type=float, default=6e-3, metavar="R", help="peak rate (default: 6e-3)")
    made.add_argument("--seed", type=_whole(0), default=0, metavar="S", help="(default: 0)")
    made.add_argument("--folder", metavar="FOLDER", help="where the trained model goes (default: nowhere)")
    command.set_defaults(run=_recall)


def _add_explore(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "explore",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="a page on which the memories of your signal, or of your model, can be moved by hand",
        description=(
            "Write an interactive page of a signal and its memories, and open it: window, budget of the\n"
            "set, fading time constant and rule are moved by hand, and what each remembers is seen.\n"
            "\n"
            "One file that stands alone: it opens without a network. A model is identified on the first\n"
            "part of the record; without FILE, the yearly sunspot numbers are shown.\n"
            "\n"
            "With --model, of a model that `bmojo train` left, the page is of tokens: the bytes of FILE,\n"
            "the integers of a .npy, or without FILE a sequence of the task that the model was trained on."
        ),
        epilog=(
            "examples:\n"
            "  bmojo explore\n"
            "  bmojo recall --folder out/recall && bmojo explore --model out/recall\n"
            "  bmojo explore notes.txt --model out/source_text\n"
            "  bmojo explore dryer.csv --input 'heater voltage' --output 'air temperature' --dt 0.08\n"
            "  bmojo explore load.parquet --output load --time hour --samples 500 --out load.html --no-open"
        ),
    )
    add_record_options(command, optional=True)
    command.add_argument("--model", metavar="FOLDER", help="folder of a run, or of a model that reads tokens")
    command.add_argument(
        "--split", type=float, metavar="FRACTION",
        help="share of the record that the model is made from (default: 0.5)",
    )  # fmt: skip
    command.add_argument(
        "--order", type=_whole(1), metavar="N", help="number of states (default: found, at most 8)"
    )
    command.add_argument(
        "--samples", type=_whole(20), metavar="N",
        help="how many are shown: the last of a longer record (default: 1000), the first of tokens (400)",
    )  # fmt: skip
    command.add_argument(
        "--out",
        default="explore.html",
        metavar="PAGE.html",
        help="where the page goes (default: explore.html)",
    )
    command.add_argument("--no-open", action="store_true", help="write the page and open no browser")
    command.set_defaults(run=_explore)


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} came; a whole number, {least} or more, is needed")
        return int(text)

    return number


def _train(options: argparse.Namespace) -> None:
    from bmojo.training import train

    outcome = train(
        Path(options.config),
        changes=options.set,
        folder=options.folder,
        device=options.device,
        fresh=options.fresh,
        quiet=options.quiet,
    )
    if _first():
        print(outcome.table())


def _first() -> bool:
    """Whether this process is the one that tells, of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def _recall(options: argparse.Namespace) -> None:
    import json

    from bmojo.tasks import GapRecall
    from bmojo.training import evaluate, load_model

    if options.model is None:
        model = _trained(options)
    else:
        model: Any = load_model(options.model)
    known = model.options["vocabulary"]
    if options.vocabulary not in (None, known):
        raise ValueError(f"--vocabulary {options.vocabulary} came; the model has {known} tokens.")
    sets = any(layer["eidetic"] for layer in model.options["layers"])
    if options.places and not sets:
        raise ValueError("--places came, and this model has no eidetic sets that could have more of them.")
    tasks = [
        GapRecall(pairs=pairs, gap=gap, queries=options.queries, vocabulary=known)
        for pairs in options.pairs
        for gap in options.gap
    ]
    rows = []
    for task in tasks:
        for places in options.places or [None]:
            found = evaluate(model, task, sequences=options.sequences, eidetic=places)
            rows.append(_row(model, task, places, found.accuracy))
    if options.json:
        print(json.dumps({"chance": tasks[0].chance, "rows": rows}, indent=1))
        return
    print(f"{'pairs':>6} {'gap':>6} {'places':>7} {'bytes':>9} {'recalled':>9}")
    for row in rows:
        shown = row["places"] if row["places"] is not None else "none"
        print(
            f"{row['pairs']:>6} {row['gap']:>6} {shown:>7} {row['bytes']:>9} {100 * row['accuracy']:>7.1f} %"
        )
    print(f"chance: {100 * tasks[0].chance:.1f} %; bytes: states and eidetic sets, one sequence")


def _row(model: Any, task: GapRecall, places: int | None, accuracy: float) -> dict[str, Any]:
    state = model.init_state(1, eidetic=places)
    memory = [part.memory() for part in state]
    own = max(layer["eidetic"] for layer in model.options["layers"]) or None
    return {
        "pairs": task.pairs,
        "gap": task.gap,
        "places": own if places is None else places,
        "bytes": sum(part["in_state"] + part["eidetic"] for part in memory),
        "accuracy": accuracy,
    }


def _explore(options: argparse.Namespace) -> None:
    from bmojo.explore.command import explore

    explore(options)


def _trained(options: argparse.Namespace) -> nn.Module:
    """A small model, trained on the first of what is asked."""
    from bmojo.training import train

    pairs, gap, vocabulary = options.pairs[0], options.gap[0], options.vocabulary or 64
    early = options.steps * 2 // 7
    curriculum = [
        {
            "steps": early,
            "pairs": max(1, pairs // 4),
            "gap": gap // 3,
            "queries": max(1, options.queries // 4),
        },
        {
            "steps": early,
            "pairs": max(1, pairs // 2),
            "gap": 2 * gap // 3,
            "queries": max(1, options.queries // 2),
        },
    ]
    task = {
        "kind": "gap_recall",
        "pairs": pairs,
        "gap": gap,
        "queries": options.queries,
        "vocabulary": vocabulary,
    }
    config = {
        "name": f"{options.preset}, {pairs} pairs, gap {gap}",
        "task": task,
        "curriculum": curriculum,
        "model": _layer(options),
        "train": {"steps": options.steps, "rate": options.rate, "seed": options.seed, "sequences": 64},
    }
    return train(config, folder=options.folder, device="cpu").model


def _layer(options: argparse.Namespace) -> dict[str, Any]:
    """Options of the model; those that a preset does not have are refused by name."""
    mixes = options.preset in ("bmojo", "bmojo_f", "stacked_hybrid", "bare_mixer")
    for name, has in (("mixer", mixes), ("state", mixes), ("eidetic", options.preset == "bmojo")):
        if getattr(options, name) is not None and not has:
            raise ValueError(f"--{name} came with --preset {options.preset}, which has none.")
    own: dict[str, Any] = {
        "preset": options.preset,
        "layers": options.layers,
        "d_model": options.width,
        "mlp_ratio": 0.0,
    }
    if mixes:
        own |= {"mixer": options.mixer or "mamba2", "state_size": options.state or 4}
    if options.preset not in ("bare_mixer", "transformer"):
        own["window"] = options.window
    if options.preset == "bmojo":
        own |= {"eidetic": options.eidetic or 16, "eidetic_position": "edge"}
    return own


def _warn(message: object, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
    line = with_page(" ".join(str(message).split()), category)
    print(f"bmojo: warning: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
