"""Kill the writer of a store at random moments, again and again, and look at what is left each time.

`python crash_loop.py (store|journal) FOLDER KILLS SEED`. It has one thread, so that it may fork: a child
opens the store (or the journal of one that is elsewhere), appends rows that are a function of their ordinal,
and tells how many it knows to be committed.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from bmojo.storage import FlatStore, Stream
from bmojo.storage.journal import Journal, Segment
from bmojo.storage.protocol import Rows, checked_rows

STREAMS = [Stream(0, 0), Stream(0, 1), Stream(3, 0)]
HEADS, WIDTH = 2, 8
NUMBER = struct.Struct("<3q")


def content(low: int, high: int, seed: int) -> torch.Tensor:
    """Keys of the rows `low` to `high - 1`, shape (n, G, d): small integers, exact in float16."""
    n = np.arange(low, high)[:, None, None] * 31 + np.arange(HEADS * WIDTH).reshape(HEADS, WIDTH) * 7 + seed
    return torch.from_numpy((n % 2003).astype(np.float32) - 1000)


def write(folder: str, pipe: int, draw: random.Random) -> None:
    """Append without end; after each flush, tell the committed counts."""
    torch.set_num_threads(1)
    store = FlatStore(folder, durable=draw.random() < 0.5)
    while True:
        for number, stream in enumerate(STREAMS):
            low = store.rows(stream)
            high = low + draw.randrange(1, 40)
            keys = content(low, high, number)
            store.append(stream, keys, -keys, torch.arange(low, high))
        if draw.random() < 0.3:
            store.flush()
            os.write(pipe, NUMBER.pack(*(store.committed(stream) for stream in STREAMS)))


def check(folder: str, promised: list[int]) -> list[int]:
    """Every row that was told to be committed is there, and every row that is there is right."""
    with FlatStore(folder, mode="r") as store:
        for number, stream in enumerate(STREAMS):
            count = store.committed(stream)
            assert count >= promised[number], (stream, count, promised)
            if not count:
                continue
            keys = content(0, count, number)
            found = store.search(stream, torch.zeros(1, HEADS, WIDTH), count)
            assert torch.equal(found.ordinals[0, 0].sort().values, torch.arange(count))
            assert torch.equal(found.keys[0, 0].float(), keys[found.ordinals[0, 0], 0])
            assert torch.equal(found.values[0, 1].float(), -keys[found.ordinals[0, 1], 1])
            assert torch.equal(found.positions, found.ordinals)
        return [store.committed(stream) for stream in STREAMS]


def rows_at(low: int, high: int, number: int) -> Rows:
    """Rows of a stream as they are kept."""
    keys = content(low, high, number)
    return checked_rows(STREAMS[number], keys, -keys, torch.arange(low, high)).at(low)


def write_journal(folder: str, pipe: int, draw: random.Random) -> None:
    """Add segments without end; hand the oldest over to a file, for the other side, and remove them."""
    torch.set_num_threads(1)
    journal = Journal(Path(folder))
    while True:
        for number, stream in enumerate(STREAMS):
            low = journal.rows(stream) or 0
            journal.add(Segment(stream, rows_at(low, low + draw.randrange(1, 20), number)))
        os.write(pipe, NUMBER.pack(*(journal.rows(stream) or 0 for stream in STREAMS)))
        sent = journal.next(draw.randrange(1, 6))
        with open(f"{folder}.sent", "a") as file:
            for _, segment in sent:
                file.write(f"{STREAMS.index(segment.stream)} {segment.rows.first} {segment.rows.end}\n")
        journal.remove([number for number, _ in sent])


def check_journal(folder: str, promised: list[int]) -> list[int]:
    """What was sent and what waits make up every row that is known, and those that were promised."""
    journal = Journal(Path(folder))
    covered: list[set[int]] = [set() for _ in STREAMS]
    if os.path.exists(f"{folder}.sent"):
        with open(f"{folder}.sent") as file:
            for line in file:
                number, low, high = map(int, line.split())
                covered[number] |= set(range(low, high))
    for _, segment in journal.next(1 << 30):
        number = STREAMS.index(segment.stream)
        assert segment.rows.same(rows_at(segment.rows.first, segment.rows.end, number))
        covered[number] |= set(range(segment.rows.first, segment.rows.end))
    counts = [journal.rows(stream) or 0 for stream in STREAMS]
    assert not list(Path(folder).glob(".*.tmp"))
    for number, count in enumerate(counts):
        assert count >= promised[number], (counts, promised)
        assert covered[number] == set(range(count)), (number, count)
        assert journal.knows(STREAMS[number], rows_at(0, count, number)) or count == 0
    journal.close()
    return counts


def main(kind: str, folder: str, kills: int, seed: int) -> None:
    """Run the loop; print how many rows were there at the end."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    draw = random.Random(seed)
    counts = [0, 0, 0]
    for _ in range(kills):
        ear, mouth = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ear)
            (write if kind == "store" else write_journal)(folder, mouth, random.Random(draw.random()))
        os.close(mouth)
        time.sleep(draw.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b""
        while part := os.read(ear, 1 << 16):
            told += part
        os.close(ear)
        whole = len(told) // NUMBER.size * NUMBER.size
        promised = list(NUMBER.unpack(told[whole - NUMBER.size : whole])) if whole else counts
        if kind == "journal":
            counts = check_journal(folder, promised)
        elif os.path.exists(os.path.join(folder, "store.json")):
            counts = check(folder, promised)
        draw.random()
    print(sum(counts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
