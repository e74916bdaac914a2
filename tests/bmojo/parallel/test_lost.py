"""A process that dies is missed by name: the others end with one line that says how to go on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from bmojo.training.parallel import lost
from bmojo.training.parallel.lost import Roll
from tests.bmojo.parallel.test_kill import (
    CONFIG,
    ENVIRONMENT,
    ended,
    log_of,
    results,
    started,
    wait_for,
)

LINE = re.compile(
    r"bmojo: error: process (\d) of 2(?:, which keeps the list of all,)? is gone, at step (\d+); the newest "
    r"checkpoint is (\S+/step-(\d{8}))\. "
    r"(Go on from there: `.*`|torchrun starts all of them again \(\d of \d\)\.)"
)


def written(folder, more=""):
    """A configuration that takes long enough to be killed in the middle."""
    path = folder / "config.toml"
    path.write_text(CONFIG.format(data="ddp", context=1).replace("steps = 60", "steps = 300") + more)
    return path


@pytest.fixture
def config(tmp_path):
    return written(tmp_path)


@pytest.fixture
def stores():
    """A list on a server of its own, and connections to it."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return lambda: dist.TCPStore("127.0.0.1", server.port, wait_for_workers=False)


def called(rolls, *callers):
    """What each caller hears, all of them at once."""
    found = {}
    threads = [threading.Thread(target=lambda r=r: found.update({r: rolls[r].call()})) for r in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for roll in rolls.values():
        roll.close()
    return found


class TestRoll:
    def rolls(self, stores, *ranks, size=3):
        return {r: Roll(stores(), r, size, every=0.01, patience=0.4) for r in ranks}

    @pytest.mark.parametrize("callers", [(0, 1), (1,), (0,)])
    def test_who_does_not_answer_is_gone(self, stores, callers):
        """Also those answer who wait for somebody and have not missed anyone yet."""
        found = called(self.rolls(stores, 0, 1), *callers)
        assert found == {r: ("process 2 of 3 is gone", r == 0) for r in callers}

    def test_the_first_of_those_that_are_left_tells(self, stores):
        found = called(self.rolls(stores, 1, 3, size=4), 1, 3)
        said = "process 0 of 4 is gone and process 2 of 4 is gone"
        assert found == {1: (said, True), 3: (said, False)}

    def test_a_process_that_failed_left_word(self, stores):
        rolls = self.rolls(stores, 0, 1, 2)
        rolls[1].leave_word("ValueError: what came,\n was wrong")
        rolls.pop(1).close()
        found = called(rolls, 0, 2)
        said = "process 1 of 3 failed (ValueError: what came, was wrong)"
        assert found == {0: (said, True), 2: (said, False)}

    def test_all_answer(self, stores):
        found = called(self.rolls(stores, 0, 1, 2), 2)
        assert found == {2: ("contact between the processes was lost", False)}

    def test_the_list_is_gone_with_its_process(self):
        server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        roll = Roll(dist.TCPStore("127.0.0.1", server.port, wait_for_workers=False), 1, 2, every=0.02)
        del server
        assert called({1: roll}, 1) == {1: ("process 0 of 2, which keeps the list of all, is gone", True)}


class TestGoingOn:
    def test_the_command_is_that_of_the_launcher(self, monkeypatch):
        for name, value in {"GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["/there/bmojo/train.py", "my config.toml", "--quiet"])
        command = "torchrun --nnodes 2 --nproc-per-node 8 -m bmojo.train 'my config.toml' --quiet"
        assert lost.going_on(True) == f"Go on from there: `{command}`"
        assert lost.going_on(False) == f"Begin anew: `{command}`"

    def test_a_launcher_that_tries_again_does_so(self, monkeypatch):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
        assert lost.going_on(True) == "torchrun starts all of them again (2 of 3)."
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
        assert "torchrun --nproc-per-node" in lost.going_on(True)


def launched(config, folder, *options):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *options,
    ]
    command += ["-m", "bmojo.train", str(config), "--folder", str(folder), "--quiet"]
    return subprocess.Popen(
        command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def worker_of(launcher, rank):
    """The process that a launcher started for a rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (found,) = [c for c in children if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{c}/environ").read_text()]
    return int(found)


def told_of(stderr, folder):
    """Rank, checkpoint and what comes next, of the one line."""
    (line,) = LINE.finditer(stderr)
    rank, step, checkpoint, of, command = line.groups()
    assert Path(checkpoint).parent == log_of(folder).parent / "checkpoints"
    assert int(of) <= int(step)
    return int(rank), Path(checkpoint), command


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
class TestKilled:
    @pytest.mark.parametrize("rank", [0, 1])
    def test_the_other_one_ends_with_one_line(self, config, tmp_path, rank):
        processes = started(config, tmp_path / "out")
        wait_for(tmp_path / "out", 5, processes)
        processes[rank].kill()
        codes, told = ended(processes)
        assert codes[rank] == -signal.SIGKILL
        assert codes[1 - rank] == 2
        stderr = told[1 - rank][1]
        missing, checkpoint, _ = told_of(stderr, tmp_path / "out")
        assert missing == rank
        assert checkpoint.is_dir()
        assert "Traceback" not in stderr
        assert stderr.count("bmojo: error:") == 1

    def test_what_is_said_goes_on_to_the_same(self, config, tmp_path):
        assert ended(started(config, tmp_path / "whole"))[0] == [0, 0]
        launcher = launched(config, tmp_path / "torn")
        wait_for(tmp_path / "torn", 5, [launcher])
        os.kill(worker_of(launcher, 0), signal.SIGKILL)
        _, stderr = launcher.communicate(timeout=300)
        assert launcher.returncode
        rank, checkpoint, command = told_of(stderr, tmp_path / "torn")
        assert rank == 0
        assert checkpoint.is_dir()
        words = command.split("`")[1]
        assert words.startswith("torchrun --nproc-per-node 2 -m bmojo.train")
        again = [sys.executable, "-m", "torch.distributed.run", "--standalone", *shlex.split(words)[1:]]
        done = subprocess.run(
            again, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert results(tmp_path / "torn") == results(tmp_path / "whole")

    def test_a_launcher_that_tries_again_ends_with_the_same(self, config, tmp_path):
        assert ended(started(config, tmp_path / "whole"))[0] == [0, 0]
        launcher = launched(config, tmp_path / "torn", "--max-restarts", "1")
        wait_for(tmp_path / "torn", 5, [launcher])
        os.kill(worker_of(launcher, 1), signal.SIGKILL)
        stdout, stderr = launcher.communicate(timeout=600)
        assert launcher.returncode == 0, stderr
        rank, _, next_ = told_of(stderr, tmp_path / "torn")
        assert (rank, next_) == (1, "torchrun starts all of them again (1 of 1).")
        assert stdout.count("accuracy") == 1
        assert results(tmp_path / "torn") == results(tmp_path / "whole")

    def test_one_that_hangs_is_missed_too(self, tmp_path):
        processes = started(written(tmp_path, "patience = 60\n"), tmp_path / "out")
        wait_for(tmp_path / "out", 5, processes)
        processes[1].send_signal(signal.SIGSTOP)
        try:
            _, stderr = processes[0].communicate(timeout=300)
        finally:
            processes[1].kill()
        assert processes[0].returncode == 2
        assert told_of(stderr, tmp_path / "out")[0] == 1
        time.sleep(0.1)
        ended(processes[1:])
