"""Runs that are interrupted or killed go on to the same losses bit for bit; damaged checkpoints are found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bmojo.tasks import InContextRecall
from bmojo.training import CheckpointError, Checkpoints, CheckpointWarning, Stage, TrainOptions, fit
from tests.bmojo.training.conftest import LONGER, TASK
from tests.source import ROOT

STAGES = [Stage(TASK, 7), Stage(LONGER, 8)]
OPTIONS = TrainOptions(
    steps=15, batch=4, evaluate_every=4, sequences=8, checkpoint_every=3, log_every=4, seed=2
)
HARD = {"dropout": 0.3, "rule": "random", "write_gate": True}


def whole(model, options=OPTIONS, **more):
    return fit(model, STAGES, options, **more)


def at(step, what):
    def on_step(now, loss):
        if now == step:
            what()

    return on_step


def same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


class Killed(BaseException):
    """The process ends here."""


def crash():
    raise Killed


class Interrupting:
    """Watches a run, and interrupts it at a step."""

    def __init__(self, at):
        self.at = at

    def step(self, step, *, loss, tokens):
        if step == self.at:
            signal.raise_signal(signal.SIGINT)

    def say(self, text):
        pass


class TestGoingOn:
    @pytest.mark.parametrize("step", range(1, 15))
    def test_after_an_interrupt_at_any_step(self, make, tmp_path, step):
        """The stage changes at 7, evaluations are at 4, 8, 12; dropout draws from torch's own generator."""
        torch.manual_seed(9)
        model = make(**HARD)
        wanted = whole(model)
        first = make(**HARD)
        with pytest.raises(
            KeyboardInterrupt, match=f"interrupted at step {step}; the same call goes on from"
        ):
            whole(first, folder=tmp_path, on_step=at(step, lambda: signal.raise_signal(signal.SIGINT)))
        torch.manual_seed(1234)
        again = make(seed=77, **HARD)  # another start: all of it comes from the checkpoint
        found = whole(again, folder=tmp_path)
        assert found.losses == wanted.losses
        assert found.evaluations == wanted.evaluations
        assert (found.best, found.waited, found.ended) == (wanted.best, wanted.waited, "steps")
        assert same(again, model)

    @pytest.mark.parametrize("step", [2, 5, 9, 14])
    def test_after_a_crash_from_the_last_checkpoint(self, make, tmp_path, step):
        wanted = whole(make(**HARD))
        with pytest.raises(Killed):
            whole(make(**HARD), folder=tmp_path, on_step=at(step, crash))
        assert whole(make(**HARD), folder=tmp_path).losses == wanted.losses

    def test_several_times(self, make, tmp_path):
        model = make(**HARD)
        wanted = whole(model)
        for step in (2, 3, 8, 13):
            again = make(**HARD)
            with pytest.raises(KeyboardInterrupt):
                whole(again, folder=tmp_path, on_step=at(step, lambda: signal.raise_signal(signal.SIGTERM)))
        again = make(**HARD)
        assert whole(again, folder=tmp_path).losses == wanted.losses
        assert same(again, model)

    @pytest.mark.parametrize("step", [1, 3, 5, 8, 14])
    def test_losses_that_are_read_late_are_the_same(self, make, tmp_path, monkeypatch, step):
        """As on a GPU, which is not made to wait: losses are read when they are logged or stored."""
        wanted = whole(make(**HARD))
        monkeypatch.setattr("bmojo.training.loop._at_once", lambda model: False)
        late = whole(make(**HARD))
        assert (late.losses, late.evaluations) == (wanted.losses, wanted.evaluations)
        interrupted = Interrupting(step)
        with pytest.raises(KeyboardInterrupt, match=f"step {step};"):
            whole(make(**HARD), folder=tmp_path, watch=interrupted)
        assert whole(make(**HARD), folder=tmp_path).losses == wanted.losses

    def test_with_passes_that_add_up_and_a_training_set(self, make, tmp_path):
        task = InContextRecall(length=16, examples=20)
        options = TrainOptions(
            steps=8,
            batch=2,
            accumulate=3,
            sequences=8,
            weight_decay=0.1,
            schedule="wsd",
            precision="bfloat16",
        )
        wanted = fit(make(vocabulary=16), [Stage(task, 8)], options).losses
        with pytest.raises(KeyboardInterrupt):
            fit(
                make(vocabulary=16), [Stage(task, 8)], options, folder=tmp_path,
                on_step=at(5, lambda: signal.raise_signal(signal.SIGINT)),
            )  # fmt: skip
        assert fit(make(vocabulary=16), [Stage(task, 8)], options, folder=tmp_path).losses == wanted

    def test_what_is_done_is_not_done_again(self, make, tmp_path):
        done = whole(make(), folder=tmp_path)
        steps = []
        model = make(seed=5)
        again = whole(model, folder=tmp_path, on_step=lambda step, loss: steps.append(step))
        assert steps == []
        assert again.losses == done.losses
        assert again.evaluations == done.evaluations
        assert not model.training

    def test_the_log_has_each_step_once(self, make, tmp_path):
        wanted = whole(make())
        with pytest.raises(Killed):
            whole(make(), folder=tmp_path, on_step=at(11, crash))
        with (tmp_path / "log.jsonl").open("a") as log:
            log.write('{"step": 14, "loss": 1')  # torn
        whole(make(), folder=tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        training = [line for line in lines if "losses" in line]
        assert [line["step"] for line in training] == [4, 8, 12, 15]
        assert [x for line in training for x in line["losses"]] == wanted.losses
        assert [line["step"] for line in lines if "held_out" in line] == [4, 8, 12, 15]
        assert all(line["rate"] == OPTIONS.rate_at(line["step"] - 1) for line in training)

    def test_options_that_change_no_loss_may_change(self, make, tmp_path):
        options = TrainOptions(**OPTIONS.to_dict() | {"checkpoint_every": 5, "keep": 1, "log_every": 1})
        wanted = whole(make())
        with pytest.raises(KeyboardInterrupt):
            whole(make(), folder=tmp_path, on_step=at(4, lambda: signal.raise_signal(signal.SIGINT)))
        assert whole(make(), options, folder=tmp_path).losses == wanted.losses

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rate": 1e-3}, "rate was 0.006 and is 0.001"),
            ({"seed": 3, "batch": 8}, "batch was 4 and is 8; seed was 2 and is 3"),
        ],
    )
    def test_another_run_is_refused(self, make, tmp_path, change, message):
        whole(make(), folder=tmp_path)
        with pytest.raises(CheckpointError, match=f"of another run: {message}"):
            whole(make(), TrainOptions(**OPTIONS.to_dict() | change), folder=tmp_path)

    def test_another_task_or_model_is_refused(self, make, tmp_path):
        whole(make(), folder=tmp_path)
        with pytest.raises(CheckpointError, match="the tasks were"):
            fit(make(), [Stage(TASK, 15)], OPTIONS, folder=tmp_path)
        with pytest.raises(CheckpointError, match="the model has other parameters"):
            whole(make(d_model=32), folder=tmp_path)

    def test_handlers_are_put_back(self, make):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        whole(make())
        with pytest.raises(KeyboardInterrupt, match="interrupted at step 3"):
            whole(make(), on_step=at(3, lambda: signal.raise_signal(signal.SIGINT)))
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_a_second_interrupt_stops_at_once(self, make):
        def twice():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt) as stop:
            whole(make(), on_step=at(3, twice))
        assert str(stop.value) == ""


class TestCheckpoints:
    def write(self, folder, *steps, keep=2):
        checkpoints = Checkpoints(folder, keep=keep)
        for step in steps:
            checkpoints.write(
                step, {"x": torch.full((3,), float(step)), "n": torch.tensor(step)}, {"a": [step]}
            )
        return checkpoints

    def test_what_was_written_is_read(self, tmp_path):
        tensors, values = self.write(tmp_path, 5).newest()
        assert tensors["x"].tolist() == [5.0] * 3
        assert tensors["n"].item() == 5
        assert tensors["n"].shape == ()
        assert (values["step"], values["a"]) == (5, [5])

    def test_the_newest_are_kept(self, tmp_path):
        assert self.write(tmp_path, 1, 2, 10, 9, keep=2).steps() == [9, 10]
        assert self.write(tmp_path, 11, keep=1).steps() == [11]

    def test_none(self, tmp_path):
        assert Checkpoints(tmp_path / "new" / "er").newest() is None

    @pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
    def test_a_damaged_one_is_passed_over_and_named(self, tmp_path, name, damage):
        checkpoints = self.write(tmp_path, 1, 2)
        path = tmp_path / "step-00000002" / name
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
            path.write_bytes({"flip": flipped, "cut": content[:-5], "empty": b""}[damage])
        if (name, damage) == ("state.json", "flip"):
            path.write_text(content.decode().replace('"sha256": "', '"sha256": "0'))
        with pytest.warns(CheckpointWarning, match=r"passed over step-00000002: .* goes on from step 1"):
            tensors, values = checkpoints.newest()
        assert (values["step"], tensors["n"].item()) == (1, 1)

    def test_where_none_is_whole_it_is_said(self, tmp_path):
        checkpoints = self.write(tmp_path, 1, 2)
        for step in (1, 2):
            (tmp_path / f"step-0000000{step}" / "state.json").write_text("{}")
        with pytest.raises(CheckpointError, match=r"no checkpoint that is whole.*remove the folder"):
            checkpoints.newest()

    def test_a_crash_at_any_call_leaves_the_one_before_or_the_new(self, tmp_path, monkeypatch):
        """Renaming, waiting for the disk, making the folder: each fails in turn."""
        from bmojo.training import checkpoints as module

        class Failing:
            def __init__(self, left):
                self.left = left

            def __getattr__(self, name):
                if name not in ("replace", "fsync", "open"):
                    return getattr(os, name)

                def call(*args, **kwargs):
                    self.left -= 1
                    if self.left < 0:
                        raise Killed
                    return getattr(os, name)(*args, **kwargs)

                return call

        for calls in range(20):
            folder = tmp_path / str(calls)
            checkpoints = self.write(folder, 1)
            monkeypatch.setattr(module, "os", Failing(calls))
            try:
                checkpoints.write(2, {"n": torch.tensor(2)}, {})
                finished = True
            except Killed:
                finished = False
            monkeypatch.setattr(module, "os", os)
            found = checkpoints.newest()
            assert found is not None
            assert found[1]["step"] == found[0]["n"].item()
            assert found[1]["step"] == 2 if finished else found[1]["step"] in (1, 2)
            if finished:
                break
        assert finished
        assert calls > 5

    def test_a_full_disk_is_one_line(self, tmp_path, monkeypatch):
        from bmojo.training import checkpoints as module

        checkpoints = self.write(tmp_path, 1)
        monkeypatch.setattr(module, "_sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(
            CheckpointError, match=r"cannot write .*: no space left; make room, then run again"
        ):
            checkpoints.write(2, {"n": torch.tensor(2)}, {})
        assert checkpoints.steps() == [1]
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]

    def test_there_is_no_pickle_in_it(self, make, tmp_path):
        whole(make(), folder=tmp_path)
        names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert names == {"tensors.safetensors", "state.json", "log.jsonl"}


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
steps = {steps}
batch = 4
sequences = 8
evaluate_every = 10
checkpoint_every = 5
log_every = 1
rates = [1e-3, 1e-2]
"""


def command(*arguments):
    """`bmojo train` in a process of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.Popen(
        [sys.executable, "-m", "bmojo.cli", "train", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(process, folder, steps):
    """Until the log has so many lines of training, or the process has ended."""
    log, limit = Path(folder) / "log.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit:
        if log.is_file() and log.read_text().count('"losses"') >= steps:
            return
        time.sleep(0.01)


def losses(folder):
    results = json.loads((Path(folder) / "results.json").read_text())
    return [run["losses"] for run in results["runs"]]


class TestProcesses:
    """The command itself: killed, interrupted, called again."""

    @pytest.fixture
    def config(self, tmp_path):
        def made(steps):
            path = tmp_path / "config.toml"
            path.write_text(CONFIG.format(steps=steps))
            return path

        return made

    def done(self, process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out, err

    @pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
    @pytest.mark.parametrize("kills", [(7,), pytest.param((3, 12, 26, 31, 38), marks=pytest.mark.slow)])
    def test_killed_at_any_moment_it_goes_on_to_the_same_losses(self, config, tmp_path, kills):
        path = config(40)
        self.done(command(path, "--folder", tmp_path / "whole", "--quiet"))
        for steps in kills:
            process = command(path, "--folder", tmp_path / "torn", "--quiet")
            wait_for_steps(process, tmp_path / "torn" / "rate=0.001,seed=0", steps)
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        self.done(command(path, "--folder", tmp_path / "torn", "--quiet"))
        assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
        assert [len(x) for x in losses(tmp_path / "torn")] == [40, 40]
        model = (tmp_path / "torn" / "model" / "model.safetensors").read_bytes()
        assert model == (tmp_path / "whole" / "model" / "model.safetensors").read_bytes()

    @pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
    def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(self, config, tmp_path):
        path, folder = config(4000), tmp_path / "runs"
        process = command(path, "--folder", folder, "--quiet", "--set", "train.checkpoint_every=0")
        run = folder / "rate=0.001,seed=0"
        wait_for_steps(process, run, 7)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
        last = err.strip().splitlines()[-1]
        assert last.startswith("bmojo: interrupted at step ")
        assert "Traceback" not in err
        (step,) = Checkpoints(run / "checkpoints").steps()
        assert f"step {step};" in last
        logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        tensors, _ = Checkpoints(run / "checkpoints").newest()
        assert tensors["losses"].tolist() == [x for line in logged for x in line.get("losses", [])]
        assert len(tensors["losses"]) == step >= 7

    def test_two_processes_in_one_folder(self, config, tmp_path):
        fcntl = pytest.importorskip("fcntl")
        folder = tmp_path / "runs"
        folder.mkdir()
        with (folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = command(config(3), "--folder", folder)
            _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert err.startswith("bmojo: error: another process trains in")
