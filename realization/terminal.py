"""What the project's commands share: exit codes, and errors that are one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from realization.errors import page_of

__all__ = ["FAILED", "INTERRUPTED", "Parser", "add_completion", "column", "with_page"]

SHELLS = ("bash", "zsh", "tcsh")

FAILED, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, in the form of all others: `COMMAND: error: ...`."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit.

        Parameters
        ----------
        message : str
        """
        command = self.prog.partition(" ")[0]
        print(f"{command}: error: {message} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(FAILED)


def column(text: str) -> str | int:
    """A column of a table as it is named on the command line: by its name, or its number from 0.

    Parameters
    ----------
    text : str
    """
    return int(text) if text.isdecimal() else text


def with_page(line: str, kind: type) -> str:
    """A line on an error or a warning, and the page that explains it, where it has one.

    Parameters
    ----------
    line : str
    kind : type
        Class of the error or the warning.

    Examples
    --------
    >>> from realization.errors import DataError
    >>> from realization.terminal import with_page
    >>> with_page("there is no column 'speed'.", DataError)
    "there is no column 'speed'. (see docs/data.md)"
    """
    page = page_of(kind)
    return line if page is None else f"{line} (see {page})"


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Give a command the option that prints what completes it in a shell.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print what completes this command in {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, and exit",
    )


class _PrintCompletion(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> NoReturn:
        import shtab

        print(shtab.complete(parser, shell=str(values)))
        raise SystemExit(0)
