"""The command `bmojo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `bmojo COMMAND ...`; returns the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the command line when left out.
    """
    parser = argparse.ArgumentParser(
        prog="bmojo", description="B'MOJO layers: four memories in one. `bmojo COMMAND --help` tells more."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="run the main job and write its report", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    del options
    from bmojo.demo.__main__ import main as demo

    return demo(rest)


if __name__ == "__main__":
    sys.exit(main())
