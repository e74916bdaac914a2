"""The thread that sends a journal to Milvus, segment by segment, for as long as it takes."""

from __future__ import annotations

import threading
from time import monotonic

from bmojo.storage.errors import StoreAway
from bmojo.storage.journal import Journal, Segment
from bmojo.storage.line import Line
from bmojo.storage.protocol import Stream, joined

__all__ = ["Sender", "merged"]

SEGMENTS = 64  # sent in one go


class Sender:
    """Sends what a journal holds, and removes from it what has arrived.

    What fails is sent again, from the oldest segment on, under the same primary keys.

    Parameters
    ----------
    journal : Journal
    line : Line
    batch : int
        Entities in one call.
    """

    def __init__(self, journal: Journal, line: Line, *, batch: int) -> None:
        self.journal, self.line, self.batch = journal, line, batch
        self.broken: Exception | None = None
        self._closing, self._deadline = False, 0.0
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"sender of {line.uri}", daemon=True)
        self._thread.start()

    def add(self, segment: Segment, capacity: int, patience: float) -> None:
        """Put a segment into the journal, once it has room.

        Parameters
        ----------
        segment : Segment
        capacity : int
            Bytes that the journal may hold.
        patience : float
            Seconds to wait for room.

        Raises
        ------
        StoreAway
            If there was none.
        """

        def room() -> bool:
            return not self.journal.waiting or self.journal.nbytes + segment.nbytes <= capacity

        with self._change:
            if not self._change.wait_for(room, patience):
                raise StoreAway(
                    f"{self.line.uri}: the journal {self.journal.folder} has reached capacity={capacity} "
                    f"bytes, and nothing could be sent for {patience:g} s ({self.line.reason})."
                )
        self.journal.add(segment)
        with self._change:
            self._change.notify_all()

    def drain(self, timeout: float | None) -> bool:
        """Wait until the journal is empty; whether it is."""
        with self._change:
            self._change.wait_for(lambda: not self.journal.waiting or self.broken is not None, timeout)
        if self.broken is not None:
            raise self.broken
        return not self.journal.waiting

    def close(self, patience: float) -> None:
        """Send for up to `patience` seconds, then end the thread."""
        with self._change:
            self._closing, self._deadline = True, monotonic() + patience
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self.journal.waiting or self._closing)
                if self._closing and (not self.journal.waiting or monotonic() >= self._deadline):
                    return
            try:
                self._send_next()
            except StoreAway:
                self._pause()
            except Exception as error:
                with self._change:
                    self.broken = error
                    self._change.notify_all()
                return

    def _pause(self) -> None:
        """Wait until the line may be tried again, or less where the store is being closed."""
        with self._change:
            while (left := self.line.retry_at - monotonic()) > 0:
                if self._closing:
                    left = min(left, self._deadline - monotonic())
                if left <= 0:
                    return
                self._change.wait(left)

    def _send_next(self) -> None:
        """Send the oldest segments, then forget them: what is not forgotten is sent again."""
        waiting = self.journal.next(SEGMENTS)
        for segment in merged([segment for _, segment in waiting]):
            self.line.call(lambda segment=segment: self._transfer(segment))
        self.journal.remove([number for number, _ in waiting])
        with self._change:
            self._change.notify_all()

    def _transfer(self, segment: Segment) -> None:
        collection = self.line.collection(segment.rows.shape)
        if segment.cut:
            collection.delete(segment.stream, segment.rows.first)
        collection.upsert(segment.stream, segment.rows, self.batch)


def merged(segments: list[Segment]) -> list[Segment]:
    """Segments of a stream that follow each other without a gap, joined.

    Parameters
    ----------
    segments : list of Segment
        In the order in which they were appended.
    """
    runs: list[list[Segment]] = []
    last: dict[Stream, list[Segment]] = {}
    for segment in segments:
        run = last.get(segment.stream)
        if run and not segment.cut and run[-1].rows.end == segment.rows.first:
            run.append(segment)
        else:
            last[segment.stream] = [segment]
            runs.append(last[segment.stream])
    return [
        run[0] if len(run) == 1 else Segment(run[0].stream, joined([s.rows for s in run]), run[0].cut)
        for run in runs
    ]
