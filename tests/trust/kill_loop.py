"""Kill a streaming identification, a writer of reports or a training at random moments; look at what is left.

`python kill_loop.py (stream|report|training) FOLDER KILLS SEED`. It has one thread, so that it may fork.
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
TRAINING: dict[str, Any] = {
    "task": {"kind": "gap_recall", "pairs": 2, "gap": 4, "vocabulary": 8},
    "model": {"d_model": 16, "heads": 2, "window": 4, "eidetic": 4, "state_size": 4, "dropout": 0.1},
    "train": {
        "steps": 40, "batch": 4, "sequences": 8, "evaluate_every": 10, "checkpoint_every": 2, "log_every": 1
    },
}  # fmt: skip


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


def training(folder: Path) -> None:
    """Go on with a training to its end, then with the next, each in a folder of its own."""
    from bmojo.training import train

    while True:
        train(TRAINING, folder=folder / str(len(ended(folder))), quiet=True)
        with (folder / "ends").open("a") as file:
            file.write("end\n")


def undisturbed(folder: Path) -> float:
    """Seconds of a quarter of a training, once all that it loads is there for the children."""
    from bmojo.training import train

    for name in ("warm", "undisturbed"):
        begin = time.monotonic()
        train(TRAINING, folder=folder / name, quiet=True)
    return 0.25 * (time.monotonic() - begin)


def ended(folder: Path) -> list[str]:
    """A line for each training that came to its end."""
    return (folder / "ends").read_text().split() if (folder / "ends").exists() else []


def whole_training(folder: Path) -> None:
    """Nothing that is half-written has the name of a checkpoint."""
    from bmojo.training import Checkpoints

    for place in folder.glob("*/*/checkpoints"):
        found = Checkpoints(place)
        assert found.whole() == max(found.steps(), default=None)


def loop(
    work: Callable[[Path], None],
    check: Callable[[Path], None],
    folder: Path,
    kills: int,
    longest: float = 0.2,
) -> None:
    """Let a child work, kill it within `longest` seconds, look; as often as asked."""
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                work(folder)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child came to an end by itself"
        check(folder)


if __name__ == "__main__":
    kind, folder, kills, seed = sys.argv[1:]
    random.seed(int(seed))
    pairs = {
        "stream": (stream, whole_checkpoint),
        "report": (reports, whole_report),
        "training": (training, whole_training),
    }
    longest = undisturbed(Path(folder)) if kind == "training" else 0.2
    loop(*pairs[kind], Path(folder), int(kills), longest)
