r"""The command `realization`: inspect a record, identify a model, report on it, list data sets.

Progress goes to standard error and results to standard output. Whatever is wrong with the data or the options
is one line, `realization: error: ...`, and exit code 2; files are written whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np

from realization.errors import DataError, RealizationError, RealizationWarning, ShapeError
from realization.record_options import add_record_options, read_record
from realization.signals import IOData, describe_data, inspect_data, list_data, load_data
from realization.systems import InnovationsModel, StateSpace, load_model, save_model
from realization.terminal import FAILED, INTERRUPTED, Parser, add_completion, with_page

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the command's name; those of the process when left out.

    Returns
    -------
    int
        0, or 2 after an error, or 130 when interrupted.

    Examples
    --------
    >>> from realization.cli import main
    >>> main(["data"]) # doctest: +ELLIPSIS
    name ...
    0
    """
    try:
        options = _parser().parse_args(argv)
        with _warnings_in_one_line():
            options.run(options)
    except (RealizationError, ImportError, OSError) as error:
        print(f"realization: error: {with_page(_one_line(error), type(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("realization: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="realization",
        description="State-space models of measured signals, and what they remember.",
        epilog=(
            "`realization COMMAND --help` explains each command with an example.\n"
            "Tab completes after `source <(realization --print-completion bash)`; zsh and tcsh, too."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"realization {metadata.version('realization')}"
    )
    add_completion(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _add_identify(commands)
    _add_report(commands)
    _add_inspect(commands)
    _add_data(commands)
    return parser


def _add_identify(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "identify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="identify a model from a file with one sample per line",
        description=(
            "Identify a model from the first part of a record, judge it on the rest, and save it.\n"
            "Order, dynamics and noise are found in one call; nothing has to be tuned."
        ),
        epilog=(
            "example:\n"
            "  realization data dryer --out dryer.csv\n"
            "  realization identify dryer.csv --input 'heater voltage' --output 'air temperature' \\\n"
            "      --dt 0.08 --out model.json --report report.html"
        ),
    )
    _add_record(command)
    command.add_argument(
        "--order", type=_order, default=None, metavar="N", help="number of states, or `auto` (default: auto)"
    )
    command.add_argument(
        "--out", required=True, metavar="MODEL.json", help="where the model goes (.json or .npz)"
    )
    _add_page(command, required=False)
    command.set_defaults(run=_identify)


def _add_report(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="judge a saved model on a record and write the report",
        description=(
            "Judge a saved model on the last part of a record and write an HTML report that stands alone.\n"
            "The simple rules beside the model learn from the first part."
        ),
        epilog=(
            "example:\n"
            "  realization report model.json dryer.csv --input 'heater voltage' \\\n"
            "      --output 'air temperature' --report report.html"
        ),
    )
    command.add_argument("model", metavar="MODEL.json", help="a model that `realization identify` saved")
    _add_record(command)
    _add_page(command, required=True)
    command.set_defaults(run=_report)


def _add_inspect(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "inspect",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="look for what would spoil an estimate: gaps, saturation, drift, feedback, dead time, ...",
        description=(
            "Look at a record before anything is estimated from it, and say what to do about it.\n"
            "Empty cells of an output count as missing samples."
        ),
        epilog=(
            "example:\n"
            "  realization data dryer --out dryer.csv\n"
            "  realization inspect dryer.csv --input 'heater voltage' --output 'air temperature'"
        ),
    )
    add_record_options(command)
    command.set_defaults(run=_inspect)


def _add_data(commands: argparse._SubParsersAction[Parser]) -> None:
    command = commands.add_parser(
        "data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="list measured data sets, or write one to a file",
        description="List the measured data sets that have a name here, or write one to a file.",
        epilog="example:\n  realization data\n  realization data dryer --out dryer.csv",
    )
    command.add_argument("name", nargs="?", help="data set to write; without it, all are listed")
    command.add_argument("--out", metavar="FILE.csv", help="where it goes (needed with a name)")
    command.set_defaults(run=_data)


def _add_record(command: argparse.ArgumentParser) -> None:
    add_record_options(command)
    command.add_argument(
        "--split", type=float, default=0.5, metavar="FRACTION",
        help="share of the record to learn from; the rest judges (default: 0.5)",
    )  # fmt: skip


def _add_page(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument(
        "--report",
        required=required,
        metavar="REPORT.html",
        help="where the report goes, one file that stands alone",
    )
    command.add_argument(
        "--keep", type=_count, metavar="N", help="how many surprising samples the report keeps (default: 16)"
    )


def _order(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} came; a number of states or `auto` is needed")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} came; a number of samples, 0 or more, is needed")
    return int(text)


def _identify(options: argparse.Namespace) -> None:
    from realization.identification import fit_percent, identify

    if options.keep is not None and options.report is None:
        raise DataError("--keep says what the report keeps; give --report as well.")
    _check_places(options.file, out=options.out, report=options.report)
    train, test = _record(options)
    _say(f"identifying on the first {train.length} samples")
    found = identify(train, order=options.order)
    model = found.model
    fits = {"one step ahead": fit_percent(test.y, model.predict(test))}
    if test.n_inputs:
        fits["inputs alone"] = fit_percent(test.y, model.simulate(test.u, model.estimate_x0(test)))
    text = None
    if options.report:
        notes = [_one_line(note) for note in found.notes]
        text = _page(
            options, model, train, test, name=Path(options.file).stem, method=found.method, notes=notes
        )
    save_model(model, options.out)
    _say(f"wrote {options.out}")
    _write_report(options, text)
    print(f"order: {model.n_states}")
    for label, fit in fits.items():
        print(f"fit {label}, held back: {', '.join(f'{x:.1f} %' for x in fit)}")


def _inspect(options: argparse.Namespace) -> None:
    print(inspect_data(read_record(options, missing=True)))


def _report(options: argparse.Namespace) -> None:
    _check_places(options.file, options.model, report=options.report)
    model = load_model(options.model)
    if not isinstance(model, InnovationsModel):
        raise DataError(
            f"{options.model} holds no noise model; a report needs one that `realization identify` saved."
        )
    if options.dt is None:
        options.dt = model.dt
    elif options.dt != model.dt:
        raise DataError(f"--dt {options.dt:g} came, but the model has dt={model.dt}; leave --dt out.")
    train, test = _record(options)
    if (test.n_inputs, test.n_outputs) != (model.n_inputs, model.n_outputs):
        raise ShapeError(
            f"the model has {_channels(model)}, and {_channels(test)} were named; name the columns that the "
            "model was identified from, in the same order."
        )
    _write_report(options, _page(options, model, train, test, name=Path(options.file).stem))


def _data(options: argparse.Namespace) -> None:
    if options.name is None:
        if options.out is not None:
            raise DataError("--out needs the name of a data set; `realization data` lists them.")
        _list_data()
        return
    if options.out is None:
        raise DataError(f"say where {options.name} goes: --out FILE.csv.")
    _check_places(out=options.out)
    from realization.files import write_atomically

    data = load_data(options.name)
    header = ",".join([*data.input_names, *data.output_names])
    rows = "\n".join(",".join(map(repr, row)) for row in np.hstack([data.inputs, data.y]).tolist())
    write_atomically(options.out, f"{header}\n{rows}\n")
    _say(f"wrote {options.out}: {data.length} samples, {_channels(data)}")


def _list_data() -> None:
    rows = [("name", "inputs", "outputs", "step")]
    for name in list_data():
        about = describe_data(name)
        step = "unknown" if about.dt is None else f"{about.dt:g} s"
        rows.append((name, str(len(about.inputs)), str(len(about.outputs)), step))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _record(options: argparse.Namespace) -> tuple[IOData, IOData]:
    """Read the file and part it: to learn from, and held back."""
    data = read_record(options, missing=options.time is not None)  # gaps are told below
    if gaps := int((~data.observed).sum()):
        first = data.observed.all(axis=1).argmin()
        raise DataError(
            f"missing in {options.file}: {gaps} values, the first at sample {first}, which the judging of "
            "fits does not take; `realization inspect` says where gaps are. Fill them, or in Python give "
            "rz.identify the record that rz.read_data(..., missing=True) reads."
        )
    _say(f"read {options.file}: {data.length} samples, {_channels(data)}, {_step(data)}")
    train, test = data.split(options.split)
    parts = {"to learn from": train, "held back": test}
    for part, record in parts.items():
        for name, values in [
            *zip(record.output_names, record.y.T),
            *zip(record.input_names, record.inputs.T),
        ]:
            # A constant input is of no use only where the model is learned.
            if np.ptp(values) == 0 and (part == "to learn from" or name in record.output_names):
                raise DataError(
                    f"column {name!r} is constant over the {record.length} samples {part}: it explains "
                    "nothing and needs no explaining. Leave it out, or part the record elsewhere (--split)."
                )
    return train, test


def _step(data: IOData) -> str:
    return "unit step (--dt or --time names it)" if data.dt is None else f"a sample each {data.dt:g} s"


def _check_places(*sources: str, **targets: str | None) -> None:
    """Refuse a place that cannot be written before the work is done, and one that holds the data."""
    seen = {Path(source).resolve(): f"the file {source}" for source in sources}
    for option, target in targets.items():
        if target is None:
            continue
        place = Path(target).resolve()
        if place in seen:
            raise DataError(f"--{option} {target} would overwrite {seen[place]}; name another.")
        seen[place] = f"--{option} {target}"
        if place.is_dir():
            raise DataError(f"--{option} {target} is a folder; name a file in it.")
        if not place.parent.is_dir():
            raise DataError(f"--{option} {target}: there is no folder {place.parent}; make it first.")
        if not os.access(place.parent, os.W_OK):
            raise DataError(f"--{option} {target}: the folder {place.parent} cannot be written.")
    if targets.get("out") and Path(str(targets["out"])).suffix not in (".json", ".npz", ".csv"):
        raise DataError(f"--out {targets['out']}: name the file .json or .npz.")


def _page(options: argparse.Namespace, model: InnovationsModel, train: IOData, test: IOData, **about) -> str:
    from realization.plot.style import pyplot

    pyplot().switch_backend("agg")
    from realization.report import model_report

    _say(f"judging on the last {test.length} samples")
    keep = 16 if options.keep is None else options.keep
    footer = f"Made by `realization` {metadata.version('realization')} from `{Path(options.file).name}`."
    return model_report(model, train, test, keep=keep, footer=footer, **about)


def _write_report(options: argparse.Namespace, text: str | None) -> None:
    if text is not None:
        from realization.files import write_atomically

        write_atomically(options.report, text)
        _say(f"wrote {options.report}")


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(f"realization: warning: {with_page(_one_line(message), category)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RealizationWarning)
        warnings.showwarning = show
        yield


def _one_line(message: object) -> str:
    text = " ".join(str(message).split())
    head, _, rest = text.partition(": ")
    # Which function complained is of no use to someone at a shell.
    return rest if rest and head.isidentifier() else text


def _channels(of: IOData | StateSpace) -> str:
    def count(number: int, word: str) -> str:
        return f"{number} {word}{'' if number == 1 else 's'}"

    return f"{count(of.n_inputs, 'input')} and {count(of.n_outputs, 'output')}"


def _say(text: str) -> None:
    print(f"realization: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
