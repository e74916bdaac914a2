"""A bar for long work, where somebody watches."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

__all__ = ["Progress"]

DELAY = 1.0


class Progress:
    """Counts steps on the standard error stream; steps may be announced while the work goes on.

    Parameters
    ----------
    what : str
        Written before the bar.
    shown : bool, optional
        Always or never; when left out, on a terminal, and only for work that takes longer than a second.
    unit : str
        What a step is.
    """

    def __init__(self, what: str, *, shown: bool | None = None, unit: str = "model") -> None:
        hidden = not sys.stderr.isatty() if shown is None else not shown
        delay = DELAY if shown is None else 0.0
        self._bar = tqdm(
            total=0,
            desc=what,
            unit=unit,
            unit_scale=unit != "model",
            disable=hidden,
            delay=delay,
            leave=False,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def expect(self, count: int) -> None:
        """Announce `count` more steps."""
        self._bar.total = (self._bar.total or 0) + count

    def advance(self, count: int = 1) -> None:
        """One step, or `count`, done."""
        self._bar.update(count)
