"""Processes that a test module starts once, and what they are asked to do."""

from __future__ import annotations

import os
import queue
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class Pool:
    """Processes joined by gloo, which run functions together.

    Parameters
    ----------
    size : int
    folder : path
        For the file by which they find each other.
    """

    def __init__(self, size: int, folder: Path) -> None:
        context = mp.get_context("spawn")
        self.asked, self.answers = [context.Queue() for _ in range(size)], context.Queue()
        self.processes = [
            context.Process(target=_serve, args=(rank, size, str(folder / "store"), asked, self.answers))
            for rank, asked in enumerate(self.asked)
        ]
        for process in self.processes:
            process.start()

    def run(self, function: Any, *given: Any, limit: float = 240.0) -> list[Any]:
        """What a function of a module finds in each process, by rank."""
        for asked in self.asked:
            asked.put((function, given))
        found: dict[int, Any] = {}
        while len(found) < len(self.processes):
            try:
                rank, value, fault = self.answers.get(timeout=limit)
            except queue.Empty:
                raise AssertionError(f"no answer; {sorted(found)} answered") from None
            assert fault is None, f"rank {rank}: {fault}"
            found[rank] = value
        return [found[rank] for rank in sorted(found)]

    def close(self) -> None:
        for asked in self.asked:
            asked.put(None)
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def _serve(rank: int, size: int, store: str, asked: Any, answers: Any) -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    while (task := asked.get()) is not None:
        function, given = task
        try:
            answers.put((rank, function(*given), None))
        except BaseException:
            answers.put((rank, None, traceback.format_exc()))
    dist.destroy_process_group()
