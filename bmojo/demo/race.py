"""Train the contenders side by side, one thread each, with one bar of progress."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.queues import Queue
from typing import Any

import torch
from tqdm import tqdm

from bmojo.demo.contenders import Contender, Outcome, compete

__all__ = ["race"]

_progress: Queue[int] | None = None


def race(contenders: Sequence[Contender], *, seed: int = 0, workers: int | None = None) -> list[Outcome]:
    """Outcomes of all contenders, in their order; as many train at a time as there are cores.

    Parameters
    ----------
    contenders : sequence of Contender
        Longest first keeps the cores busy to the end.
    seed : int
        Of the parameters and of the data, the same for all.
    workers : int, optional
        Processes.
    """
    count = min(len(contenders), workers or _cores())
    context = multiprocessing.get_context("spawn")
    steps: Queue[int] = context.Queue()
    total = sum(contender.steps for contender in contenders)
    bar = tqdm(total=total, desc=f"training {len(contenders)} models, {count} at a time", unit="step")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare, initargs=(steps,))
    try:
        futures = [pool.submit(_run, contender, seed) for contender in contenders]
        waiting: set[Future[Any]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
            _drain(steps, bar)
            for future in done:
                outcome = future.result()
                bar.write(f"  {outcome.contender.name:<16} {100 * outcome.accuracy:5.1f} %")
        _drain(steps, bar)
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        bar.close()


def _cores() -> int:
    # The cores that this process may use: a container may have fewer than its machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(steps: Queue[int]) -> None:
    global _progress
    _progress = steps
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Without this a worker would wait for ever if the process that started it were killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(contender: Contender, seed: int) -> Outcome:
    def on_step(step: int, loss: float) -> None:
        if step % 10 == 0 and _progress is not None:
            _progress.put(10)

    return compete(contender, seed=seed, on_step=on_step)


def _drain(steps: Queue[int], bar: tqdm) -> None:
    while True:
        try:
            bar.update(steps.get_nowait())
        except queue.Empty:
            return
