"""Two processes as `torchrun` starts them: killed at random moments, ended by a signal, started again."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from bmojo.training import Checkpoints
from tests.source import ROOT

CONFIG = """
[task]
kind = "gap_recall"
pairs = 2
gap = 4
vocabulary = 8
[model]
d_model = 16
heads = 2
window = 4
eidetic = 4
state_size = 4
dropout = 0.1
[train]
steps = 60
batch = 4
sequences = 8
evaluate_every = 10
checkpoint_every = 2
log_every = 1
[parallel]
data = "{data}"
context = {context}
"""
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "OMP_NUM_THREADS": "1"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there"),
]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def started(config, folder):
    """Both processes, with what `torchrun` puts into their environment."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "bmojo.train", str(config), "--folder", str(folder), "--quiet"]
    return [
        subprocess.Popen(
            command,
            env=os.environ | ENVIRONMENT | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ended(processes):
    """Exit codes, and what was told."""
    told = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], told


def log_of(folder):
    return folder / "rate=0.006,seed=0" / "log.jsonl"


def wait_for(folder, steps, processes):
    """Until the run's log has so many lines of training."""
    log, limit = log_of(folder), time.monotonic() + 300
    while time.monotonic() < limit and all(process.poll() is None for process in processes):
        if log.is_file() and log.read_text().count('"losses"') >= steps:
            return
        time.sleep(0.005)


def results(folder):
    (run,) = json.loads((folder / "results.json").read_text())["runs"]
    return run["losses"], run["evaluations"]


@pytest.fixture
def config(tmp_path):
    def made(data, context):
        path = tmp_path / "config.toml"
        path.write_text(CONFIG.format(data=data, context=context))
        return path

    return made


@pytest.mark.parametrize(("data", "context", "kills"), [("fsdp", 1, 6), ("ddp", 1, 3), ("ddp", 2, 3)])
def test_killed_at_random_moments_it_ends_as_if_undisturbed(config, tmp_path, data, context, kills):
    path, rng = config(data, context), random.Random(f"{data}{context}")
    codes, told = ended(started(path, tmp_path / "whole"))
    assert codes == [0, 0], told
    folder = tmp_path / "torn"
    for _ in range(kills):
        log_of(folder).unlink(missing_ok=True)
        processes = started(path, folder)
        wait_for(folder, 1, processes)
        time.sleep(0.3 * rng.random())
        victim, other = rng.sample(processes, 2)
        victim.kill()
        time.sleep(0.01 * rng.random())
        other.kill()  # as its launcher does
        codes, _ = ended(processes)
        assert all(codes)
        checkpoints = Checkpoints(folder / "rate=0.006,seed=0" / "checkpoints")
        if checkpoints.steps():
            step = checkpoints.whole()
            assert step is not None
            assert step == max(checkpoints.steps())  # nothing half-written has a checkpoint's name
    codes, told = ended(started(path, folder))
    assert codes == [0, 0], told
    assert results(folder) == results(tmp_path / "whole")
    left = [p for p in folder.rglob("*") if p.name.endswith((".part", ".tmp"))]
    assert not left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_asked_to_end_takes_the_other_along(config, tmp_path, number):
    path = config("fsdp", 1)
    assert ended(started(path, tmp_path / "whole"))[0] == [0, 0]
    processes = started(path, tmp_path / "asked")
    wait_for(tmp_path / "asked", 5, processes)
    processes[1].send_signal(number)
    codes, told = ended(processes)
    assert codes == [130, 130], told
    assert "interrupted at step" in told[0][1]
    assert "interrupted" not in told[1][1]
    codes, told = ended(started(path, tmp_path / "asked"))
    assert codes == [0, 0], told
    assert "accuracy" in told[0][0]
    assert told[1][0] == ""
    assert results(tmp_path / "asked") == results(tmp_path / "whole")


def test_torchrun_starts_it(config, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "bmojo.train", str(config("ddp", 2)), "--folder", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") == 1
    assert len(results(tmp_path / "out")[0]) == 60
