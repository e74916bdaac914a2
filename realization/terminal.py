"""What the project's commands share: exit codes, and errors that are one line."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

__all__ = ["FAILED", "INTERRUPTED", "Parser"]

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
