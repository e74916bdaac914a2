"""Training on several processes: the losses of one; checkpoints that any number of them reads."""

from __future__ import annotations

import itertools
import json
import signal

import pytest
import torch

import bmojo
from bmojo.training import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
    ConfigurationError,
    read_configuration,
)
from bmojo.training.parallel import ParallelOptions, Ranks
from tests.tolerances import assert_close

CONFIG = {
    "task": {"kind": "gap_recall", "pairs": 2, "gap": 9, "queries": 4, "vocabulary": 8},
    "model": {
        "d_model": 16,
        "heads": 2,
        "window": 4,
        "eidetic": 4,
        "state_size": 4,
        "write_gate": True,
        "mixer": "gated_deltanet",
        "predictor": "kalman",
    },
    "train": {
        "steps": 6,
        "batch": 5,
        "accumulate": 2,
        "sequences": 9,
        "evaluate_every": 3,
        "checkpoint_every": 2,
        "log_every": 1,
        "weight_decay": 0.1,
    },
}
SPREADS = {
    "ddp": {},
    "fsdp": {"data": "fsdp"},
    "context": {"context": 2, "pieces": 2},
    "fsdp and context": {"data": "fsdp", "context": 2, "pieces": 2},
}


def configured(spread, changes=None):
    config = {name: dict(part) for name, part in CONFIG.items()} | {"parallel": dict(SPREADS.get(spread, {}))}
    for section, values in (changes or {}).items():
        config[section] |= values
    return config


def trained(spread, folder, changes=None, stop=None):
    """Losses, evaluations and the sum of all parameters; interrupted in one process at a step."""
    if stop is not None:
        rank, step = stop
        from bmojo.training import loop

        agreed, steps = loop.Ranks.agreed, itertools.count(1)

        def asking(self, asked):
            if next(steps) == step and self.rank == rank:
                signal.raise_signal(signal.SIGTERM)
                asked = True
            return agreed(self, asked)

        loop.Ranks.agreed = asking
        try:
            bmojo.train(configured(spread, changes), folder=folder, device="cpu", quiet=True)
        except KeyboardInterrupt as error:
            return str(error)
        finally:
            loop.Ranks.agreed = agreed
    outcome = bmojo.train(configured(spread, changes), folder=folder, device="cpu", quiet=True)
    told = outcome.runs[0].fitted
    return told.losses, told.evaluations


@pytest.fixture(scope="module")
def alone():
    return trained("alone", None, {"parallel": {}})


def same(found, wanted):
    assert_close(torch.tensor(found[0]), torch.tensor(wanted[0]), dtype="float32")
    for one, other in zip(found[1], wanted[1], strict=True):
        assert (one["step"], one["count"], one["accuracy"]) == (
            other["step"],
            other["count"],
            other["accuracy"],
        )
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


class TestLosses:
    @pytest.mark.parametrize("spread", SPREADS)
    def test_two_processes_have_those_of_one(self, two, alone, spread):
        for found in two.run(trained, spread, None):
            same(found, alone)

    @pytest.mark.slow
    @pytest.mark.parametrize("spread", SPREADS)
    def test_four_processes_have_those_of_one(self, four, alone, spread):
        for found in four.run(trained, spread, None):
            same(found, alone)


HALF = (1, 3)  # the second process is asked to end in the third step


class TestCheckpoints:
    @pytest.mark.parametrize(
        ("first", "then"),
        [
            ("fsdp", "alone"),
            pytest.param("fsdp", "ddp", marks=pytest.mark.slow),
            pytest.param("ddp", "fsdp", marks=pytest.mark.slow),
            pytest.param("alone", "fsdp", marks=pytest.mark.slow),
            pytest.param("fsdp and context", "alone", marks=pytest.mark.slow),
            pytest.param("context", "fsdp", marks=pytest.mark.slow),
        ],
    )
    def test_an_interrupted_run_goes_on_otherwise_spread(self, two, alone, tmp_path, first, then):
        """One process is asked to end; all of them do, behind one checkpoint."""

        def run(spread, stop=None):
            if spread == "alone":
                return [trained("alone", tmp_path, None, stop and (0, stop[1]))]
            return two.run(trained, spread, str(tmp_path), None, stop)

        for told in run(first, HALF):
            assert str(told).startswith("interrupted at step 3")
        for found in run(then):
            same(found, alone)
        model = bmojo.BMojoLM.load(tmp_path / "model")
        assert all(x.isfinite().all() for x in model.parameters())

    @pytest.mark.slow
    @pytest.mark.parametrize("then", ["fsdp", "ddp", "fsdp and context"])
    def test_from_two_processes_to_four(self, two, four, alone, tmp_path, then):
        two.run(trained, "fsdp", str(tmp_path), None, HALF)
        for found in four.run(trained, then, str(tmp_path)):
            same(found, alone)

    def test_what_is_half_written_or_damaged_is_not_taken(self, two, tmp_path):
        two.run(trained, "fsdp", str(tmp_path), None, HALF)
        folder = next(tmp_path.glob("rate=*")) / "checkpoints"
        checkpoints = Checkpoints(folder)
        assert checkpoints.steps() == [2, 3]
        shares = sorted((folder / "step-00000003").glob("shard-*"))
        assert len(shares) == 2
        assert not list(folder.rglob("*.metadata"))  # which would be a pickle
        content = shares[1].read_bytes()
        for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-5], None):
            shares[1].unlink() if damaged is None else shares[1].write_bytes(damaged)
            with pytest.warns(CheckpointWarning, match=r"passed over step-00000003: .* from step 2"):
                assert checkpoints.whole() == 2

    def test_a_refused_folder_is_told_by_every_process(self, two, tmp_path):
        (tmp_path / "something").write_text("else")
        for told in two.run(refused, str(tmp_path)):
            assert "is not empty and holds no runs" in told


def refused(folder):
    with pytest.raises(CheckpointError) as error:
        trained("ddp", folder)
    return str(error.value)


class TestOptions:
    def test_more_processes_than_there_are(self):
        with pytest.raises(ConfigurationError, match=r"context = 2 came with 1 process; .*torchrun"):
            Ranks(ParallelOptions(context=2))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data": "zero"}, r"\[parallel\] data='zero' came; one of ddp, fsdp"),
            ({"context": 0}, r"\[parallel\] context=0 came; at least 1"),
            ({"pieces": 2}, r"\[parallel\] pieces=2 came with context=1"),
            ({"contexts": 2}, r"\[parallel\] contexts: there is no such key; did you mean `context`"),
            ({"context": "2"}, r"\[parallel\] context = '2': a whole number is needed"),
        ],
    )
    def test_what_is_wrong_is_named(self, changes, message):
        with pytest.raises(ConfigurationError, match=message):
            bmojo.train(CONFIG | {"parallel": changes}, quiet=True)

    def test_plain_values_give_the_same_configuration(self):
        config = read_configuration(CONFIG | {"parallel": {"data": "fsdp"}})
        assert read_configuration(config.to_dict()).parallel == config.parallel
        assert json.dumps(config.to_dict())

    def test_the_module_is_the_function(self):
        import importlib

        assert importlib.import_module("bmojo.train") is bmojo.train
        assert callable(bmojo.train)
