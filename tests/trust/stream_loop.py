"""Kill a streaming identification, or a writer of reports, at random moments, and look at what is left.

`python stream_loop.py (stream|report) FOLDER KILLS SEED`. It has one thread, so that it may fork.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import realization as rz
from realization.files import write_atomically

OPTIONS: dict[str, Any] = {"inputs": 0, "outputs": 1, "block_rows": 4, "chunk": 500, "progress": False}


def reports(folder: Path) -> None:
    """Replace a file by ever another one that says its own length."""
    for number in range(10**9):
        body = f"{number} " * (50_000 + 997 * (number % 50))
        write_atomically(folder / "report.html", f"<html>{len(body)}:{body}</html>")


def whole_report(folder: Path) -> None:
    """What is there is a report to its last letter; leftovers of the dead are cleared away."""
    for left in folder.glob(".report.html.*.tmp"):
        left.unlink()
    if (folder / "report.html").exists():
        found = re.fullmatch(r"<html>(\d+):(.*)</html>", (folder / "report.html").read_text())
        assert found is not None
        assert len(found[2]) == int(found[1])


def stream(folder: Path) -> None:
    """Go on from the checkpoint to the end, again and again."""
    while True:
        rz.stream_file(folder / "z.npy", checkpoint=folder / "state", every=1, **OPTIONS)
        (folder / "ends").open("a").write("end\n")
        (folder / "state").unlink()


def whole_checkpoint(folder: Path) -> None:
    """Leftovers of the dead are cleared away; the checkpoint is read by the next one to start."""
    for left in folder.glob(".state.*.tmp"):
        left.unlink()


def loop(work: Callable[[Path], None], check: Callable[[Path], None], folder: Path, kills: int) -> None:
    """Let a child work, kill it, look; as often as asked."""
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                work(folder)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.0, 0.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child came to an end by itself"
        check(folder)


if __name__ == "__main__":
    kind, folder, kills, seed = sys.argv[1:]
    random.seed(int(seed))
    pair = (stream, whole_checkpoint) if kind == "stream" else (reports, whole_report)
    loop(*pair, Path(folder), int(kills))
