"""Ctrl-C between two steps: the step ends, a checkpoint is left, then the program stops."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption"]


class Interruption:
    """While it is entered, the first interrupt (or request to end) is noted, the second one raises at once.

    Signals reach the main thread alone; elsewhere nothing is changed, and `KeyboardInterrupt` comes as ever.

    Parameters
    ----------
    same : float
        Seconds within which a second signal is the first one's echo: where a launcher passes on to its
        processes what a terminal has sent them already.

    Examples
    --------
    >>> import signal
    >>> from bmojo.training.interruption import Interruption
    >>> with Interruption() as interruption:
    ...     signal.raise_signal(signal.SIGINT)
    ...     interruption.asked
    True
    """

    def __init__(self, *, same: float = 0.0) -> None:
        self.asked, self._same, self._since = False, same, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self._since >= self._same:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._since = True, time.monotonic()
