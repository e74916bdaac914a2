"""What a run tells while it runs: lines of JSON, TensorBoard, and a bar or lines for whoever watches."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from realization.files import write_whole

__all__ = ["Board", "JsonLines", "Watch"]


class JsonLines:
    """A log of one JSON object a line; each is on the disk's way before the next step begins.

    Parameters
    ----------
    path : path
    after : int
        Lines of later steps are removed first: they are of a run that went on after the checkpoint which
        this one begins from.

    Examples
    --------
    >>> import tempfile
    >>> from bmojo.training.logs import JsonLines
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with JsonLines(f"{folder}/log.jsonl") as log:
    ...         log.write({"step": 1, "loss": 2.5})
    ...     print(open(f"{folder}/log.jsonl").read(), end="")
    {"step": 1, "loss": 2.5}
    """

    def __init__(self, path: str | os.PathLike[str], *, after: int = 0) -> None:
        self.path = Path(path)
        kept = [line for line in _lines(self.path) if line["step"] <= after]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last one of a process that was killed
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            yield found


class Board:
    """Curves for TensorBoard, written as they grow.

    Parameters
    ----------
    folder : path
    after : int
        Points of later steps no longer count.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, after: int = 0) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ImportError(
                "tensorboard = true needs TensorBoard: pip install 'realization[tensorboard]'; without it, "
                "log.jsonl has the same numbers."
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=after or None, flush_secs=10)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        self._writer.close()


class Watch:
    """A bar with rates and the time left; where nobody sits before it, a line now and then.

    Parameters
    ----------
    title : str
    total : int
        Steps.
    done : int
        Steps that an earlier run took.
    file : file, optional
        Standard error when left out.
    every : float
        Seconds between two lines.

    Examples
    --------
    >>> import sys
    >>> from bmojo.training.logs import Watch
    >>> watch = Watch("a run", total=2, file=sys.stdout, every=0.0)
    >>> watch.step(1, loss=2.5, tokens=100) # doctest: +ELLIPSIS
    a run: step 1 of 2, loss 2.500, ... steps/s, ... tokens/s, ... left
    >>> watch.close()
    """

    def __init__(
        self, title: str, *, total: int, done: int = 0, file: TextIO | None = None, every: float = 15.0
    ) -> None:
        self.title, self.total = title, total
        self._file = sys.stderr if file is None else file
        # Rates are of the time since the last line: the first steps compile kernels.
        self._every, self._said, self._step, self._tokens = every, time.monotonic(), done, 0
        self._bar = None
        if self._file.isatty():
            self._bar = tqdm(
                desc=title, total=total, initial=done, unit="step", file=self._file, dynamic_ncols=True
            )

    def step(self, step: int, *, loss: float, tokens: int) -> None:
        """After a step: its number, its loss, and the tokens that it saw."""
        self._tokens += tokens
        now = time.monotonic()
        passed = max(now - self._said, 1e-9)
        rate = tqdm.format_sizeof(self._tokens / passed)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {rate} tokens/s", refresh=False)
            self._bar.update(step - self._bar.n)
        elif passed >= self._every:
            pace = (step - self._step) / passed
            left = tqdm.format_interval((self.total - step) / pace) if pace else "?"
            self.say(
                f"step {step} of {self.total}, loss {loss:.3f}, {pace:.2g} steps/s, {rate} tokens/s, "
                f"{left} left"
            )
        if passed >= self._every:
            self._said, self._step, self._tokens = now, step, 0

    def say(self, text: str) -> None:
        """A line of its own."""
        line = f"{self.title}: {text}"
        if self._bar is not None:
            self._bar.write(line, file=self._file)
        else:
            print(line, file=self._file, flush=True)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
