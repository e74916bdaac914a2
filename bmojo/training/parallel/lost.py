"""When a process of a run is lost: the others find out which, and say how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bmojo.training.errors import LostProcessError

__all__ = ["Roll", "going_on", "last_words", "lost", "of_contact"]

ASKED, VERDICT, HERE, WORD, READ = "asked", "verdict", "here", "word", "read"
FOREIGN = "gloo/", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe"


def of_contact(error: BaseException) -> bool:
    """Whether an error says that another process did not answer.

    Parameters
    ----------
    error : BaseException

    Examples
    --------
    >>> from bmojo.training.parallel.lost import of_contact
    >>> of_contact(RuntimeError("Connection closed by peer [127.0.0.1]:1")), of_contact(RuntimeError("shape"))
    (True, False)
    """
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in FOREIGN)


class Roll:
    """The processes of a run, who answer when one of them is missed, also while they wait for others.

    A thread looks once in `every` seconds whether the roll is called. Whoever loses contact calls it; who
    does not answer within `patience` seconds is missing. The first that called writes the verdict down.

    Parameters
    ----------
    store : torch.distributed.Store
        That all processes see.
    rank, size : int
    every, patience : float
    """

    def __init__(
        self, store: Any, rank: int, size: int, *, every: float = 1.0, patience: float = 8.0
    ) -> None:
        self.rank, self.size, self.every, self.patience = rank, size, every, patience
        self._store, self._own = store.clone(), store.clone()
        self._verdict: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="bmojo roll", daemon=True)
        self._thread.start()

    def leave_word(self, text: str) -> None:
        """Say why this process ends, for those who will miss it."""
        with suppress(RuntimeError):  # nobody may be left to read it
            self._store.set(f"{WORD}/{self.rank}", " ".join(text.split())[:500])

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join(2 * self.every)

    def call(self) -> tuple[str, bool]:
        """Who is missing, in words; and whether this process is the one that tells.

        Where the process that keeps the list is gone itself, each of the others tells.
        """
        try:
            self._store.set(f"{HERE}/{self.rank}", b"1")
            if self._store.add(ASKED, 1) == 1:
                self._store.set(VERDICT, self._found())
            end = time.monotonic() + 3 * self.patience
            while not self._store.check([VERDICT]) and time.monotonic() < end:
                time.sleep(self.every / 10)
            verdict = self._store.get(VERDICT).decode()
            self._wait_for_readers()
        except RuntimeError:
            verdict = self._verdict
        if verdict is None:
            return f"process 0 of {self.size}, which keeps the list of all, is gone", True
        teller, _, text = verdict.partition(" ")
        return text, int(teller) == self.rank

    def _found(self) -> str:
        """The lowest rank that answered, and who did not, with the word that was left."""
        end, here, missing = time.monotonic() + self.patience, [self.rank], list(range(self.size))
        while missing and time.monotonic() < end:
            time.sleep(self.every / 10)
            here = [r for r in range(self.size) if self._store.check([f"{HERE}/{r}"])]
            missing = [r for r in range(self.size) if r not in here]
        left = [r for r in range(self.size) if self._store.check([f"{WORD}/{r}"])]
        words = {r: self._store.get(f"{WORD}/{r}").decode() for r in left}
        why = {r: f"failed ({words[r]})" if r in words else "is gone" for r in sorted({*missing, *left})}
        gone = [f"process {r} of {self.size} {reason}" for r, reason in why.items()]
        present = [r for r in here if r not in words] or here
        return f"{min(present)} {' and '.join(gone) or 'contact between the processes was lost'}"

    def _wait_for_readers(self) -> None:
        """The process that keeps the list stays until the others have read it."""
        end = time.monotonic() + 3 * self.every
        self._store.set(f"{READ}/{self.rank}", b"1")
        here = [r for r in range(self.size) if self._store.check([f"{HERE}/{r}"])]
        while time.monotonic() < end and not self._store.check([f"{READ}/{r}" for r in here]):
            time.sleep(self.every / 10)

    def _answer(self) -> None:
        store = self._own
        try:
            while not self._closed.wait(self.every):
                if store.check([ASKED]):
                    store.set(f"{HERE}/{self.rank}", b"1")
                if store.check([VERDICT]):
                    self._verdict = store.get(VERDICT).decode()
                    store.set(f"{READ}/{self.rank}", b"1")
                    return
        except RuntimeError:
            return  # the list is gone; whoever misses somebody finds out


def lost(roll: Roll, folder: Path | None, steps: list[int], step: int) -> LostProcessError:
    """The error that a process ends with when another one is lost.

    Parameters
    ----------
    roll : Roll
    folder : Path, optional
        Of the checkpoints, where there are to be some.
    steps : list of int
        Of those that are there.
    step : int
        Where the run stood.
    """
    text, tells = roll.call()
    if folder is None:
        there = "no folder was given, so that nothing was kept"
    elif not steps:
        there = f"no checkpoint was written yet in {folder}"
    else:
        there = f"the newest checkpoint is {folder / f'step-{steps[-1]:08d}'}"
    error = LostProcessError(f"{text}, at step {step}; {there}. {going_on(bool(steps))}")
    error.tells = tells
    return error


@contextmanager
def last_words() -> Iterator[None]:
    """While it is entered, a request to end is not heard: a launcher that lost one process ends the others.

    Examples
    --------
    >>> import signal
    >>> from bmojo.training.parallel.lost import last_words
    >>> with last_words():
    ...     signal.raise_signal(signal.SIGTERM)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def going_on(resumes: bool) -> str:
    """What makes a run go on, as its launcher was called.

    Parameters
    ----------
    resumes : bool
        Whether there is a checkpoint.

    Examples
    --------
    >>> from bmojo.training.parallel.lost import going_on
    >>> going_on(True).startswith("Go on from there: `torchrun")
    True
    """
    elastic = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    tries, most = map(int, elastic)
    if tries < most:
        return f"torchrun starts all of them again ({tries + 1} of {most})."
    several, here = (os.environ.get(name, "1") for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if "LOCAL_WORLD_SIZE" not in os.environ:
        here = os.environ.get("WORLD_SIZE", "1")
    module = Path(sys.argv[0]).name == "train.py" and Path(sys.argv[0]).parent.name == "bmojo"
    what = ["-m", "bmojo.train"] if module else [sys.argv[0]]
    nodes = ["--nnodes", several] if several != "1" else []
    command = shlex.join(["torchrun", *nodes, "--nproc-per-node", here, *what, *sys.argv[1:]])
    return f"{'Go on from there' if resumes else 'Begin anew'}: `{command}`"
