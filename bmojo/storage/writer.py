"""One background thread that writes what is handed over, in order, from a queue with a bound."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

from bmojo.storage.errors import StorageError, StoreAway

__all__ = ["BackgroundWriter"]

PAUSE = 0.02  # seconds between two attempts


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Job = TypeVar("Job", bound=_Sized)


class BackgroundWriter(Generic[Job]):
    """Thread that does jobs in the order in which they came, several at a time.

    Jobs stay in the queue until they are done, so that an error loses none: it is raised by the next `put` or
    `flush`, and `flush` tries again. Where the error is `StoreAway`, the thread itself tries again.

    Parameters
    ----------
    work : callable
        Does a list of jobs. After an error it is given the same jobs again, and must bear that.
    name : str
        Of the store, for messages.
    capacity : int
        Bytes that may wait.
    patience : float
        Seconds that `put` waits for room.
    batch : int
        Bytes done at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from bmojo.storage.writer import BackgroundWriter
    >>> done = []
    >>> writer = BackgroundWriter(done.extend, name="a list", capacity=1000)
    >>> writer.put(np.arange(3))
    >>> writer.close()
    >>> done
    [array([0, 1, 2])]
    """

    def __init__(
        self,
        work: Callable[[list[Job]], None],
        *,
        name: str,
        capacity: int,
        patience: float = 30.0,
        batch: int = 1 << 24,
    ) -> None:
        self._work, self.name = work, name
        self.capacity, self.patience, self.batch = capacity, patience, batch
        self._queue: deque[Job] = deque()
        self._bytes = 0
        self._put = self._done = 0
        self._error: Exception | None = None
        self._full = False  # somebody has waited for room in vain, and nothing was done since
        self._closing = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"writer of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that are not done yet."""
        with self._change:
            return len(self._queue)

    def put(self, job: Job) -> None:
        """Hand a job over; wait for room where the queue is full.

        Raises
        ------
        StorageError
            If the writer is closed, or what went wrong in the background since the last call.
        StoreAway
            If there was no room for `patience` seconds; then at once, until something has been done.
        """
        limit = monotonic() + self.patience
        with self._change:
            while True:
                if self._stuck:
                    self._raise()
                if self._closing:
                    raise StorageError(f"{self.name} is closed; open it again to append.")
                if not self._queue or self._bytes + job.nbytes <= self.capacity:
                    break
                if self._full or monotonic() >= limit:
                    self._full = True
                    raise StoreAway(
                        f"{self.name}: {self._bytes} bytes still wait to be written after "
                        f"{self.patience:g} s, and capacity={self.capacity} has no room for {job.nbytes} "
                        "more; append less, or allow more."
                    )
                self._change.wait(max(0.0, limit - monotonic()))
            self._queue.append(job)
            self._bytes += job.nbytes
            self._put += 1
            self._change.notify_all()

    def flush(self, timeout: float | None = None) -> None:
        """Return once every job that was put before is done.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        StorageError
            What went wrong in the background; the jobs are kept, and the next `flush` tries again.
        StoreAway
            If it took longer than `timeout`.
        """
        with self._change:
            self._error = None
            self._change.notify_all()
            goal = self._put
            finished = self._change.wait_for(lambda: self._done >= goal or self._error is not None, timeout)
            self._raise()
            if not finished:
                raise StoreAway(
                    f"{self.name}: {goal - self._done} batches of rows still waited after {timeout:g} s; "
                    "they stay in the queue."
                )

    def close(self) -> None:
        """Do what waits, then end the thread; an error is raised once the thread has ended."""
        with self._change:
            self._error = None
            self._closing = True
            self._change.notify_all()
        self._thread.join()
        self._raise()

    @property
    def _stuck(self) -> bool:
        """Whether an error waits for somebody to do something about it."""
        return self._error is not None and not isinstance(self._error, StoreAway)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closing or (self._queue and not self._stuck))
                if not self._queue or self._stuck:
                    return
                jobs, size = [], 0
                for job in self._queue:
                    if jobs and size + job.nbytes > self.batch:
                        break
                    jobs.append(job)
                    size += job.nbytes
            try:
                self._work(jobs)
            except Exception as error:
                with self._change:
                    self._error = error
                    self._change.notify_all()
                    if self._closing:
                        return
                    self._change.wait(PAUSE)
                continue
            with self._change:
                self._error, self._full = None, False
                for _ in jobs:
                    self._queue.popleft()
                self._bytes -= size
                self._done += len(jobs)
                self._change.notify_all()
