"""Options that name a record, and what reads it: the same in every command that takes a file of samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from realization.signals import IOData, read_csv, read_data
from realization.terminal import column

__all__ = ["RECORD_OPTIONS", "add_record_options", "read_record"]

RECORD_OPTIONS = ("input", "output", "time", "dt")
FORMATS = (".parquet", ".npz", ".npy", ".mat")


def add_record_options(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Give a command FILE, --input, --output, --time and --dt.

    Parameters
    ----------
    command : argparse.ArgumentParser
    optional : bool
        Whether the command also does without a record.

    Examples
    --------
    >>> import argparse
    >>> from realization.record_options import add_record_options
    >>> parser = argparse.ArgumentParser()
    >>> add_record_options(parser)
    >>> parser.parse_args(["a.csv", "--output", "speed", "--dt", "0.1"]).output
    ['speed']
    """
    command.add_argument(
        "file", nargs="?" if optional else None, metavar="FILE", help="text, .parquet, .npz, .npy or .mat"
    )
    command.add_argument(
        "--input", action="append", default=[], type=column, metavar="COLUMN",
        help="an input: name from the header, or number from 0; repeat for more; none for a time series",
    )  # fmt: skip
    command.add_argument(
        "--output", action="append", default=[], required=not optional, type=column, metavar="COLUMN",
        help="an output, named likewise; repeat for more",
    )  # fmt: skip
    command.add_argument(
        "--time", type=column, metavar="COLUMN",
        help="a column of seconds or dates, from which the step is found",
    )  # fmt: skip
    command.add_argument(
        "--dt", type=float, metavar="SECONDS", help="seconds between samples (default: a unit step)"
    )


def read_record(options: argparse.Namespace, *, missing: bool = False) -> IOData:
    """Read the record that the options name.

    Parameters
    ----------
    options : argparse.Namespace
        As `add_record_options` made them.
    missing : bool
        Whether empty cells of an output are missing samples, not an error.

    Returns
    -------
    IOData

    Raises
    ------
    DataError
        If the file cannot be read, or has no such column.
    """
    columns = {"inputs": options.input, "outputs": options.output, "dt": options.dt}
    if not missing and options.time is None and Path(options.file).suffix.lower() not in FORMATS:
        return read_csv(options.file, **columns)  # of any ending
    return read_data(options.file, **columns, time=options.time, missing=missing)
