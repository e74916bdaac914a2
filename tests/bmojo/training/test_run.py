"""Sweeps over rates and seeds, folders, logs, and the two commands."""

from __future__ import annotations

import io
import json
import sys

import pytest
import torch

import bmojo
from bmojo.cli import main
from bmojo.training import CheckpointError, Fitted, fit, load_model, read_configuration
from bmojo.training.logs import Watch
from bmojo.training.run import Outcome, RunResult

CONFIG = {
    "task": {"kind": "gap_recall", "pairs": 2, "gap": 4, "vocabulary": 8, "queries": 4},
    "model": {"d_model": 16, "heads": 2, "window": 4, "eidetic": 4, "state_size": 4},
    "train": {"steps": 4, "batch": 4, "rates": [1e-3, 1e-2], "seeds": [0, 1], "sequences": 8, "log_every": 2},
}


def contents(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestTrain:
    def test_every_rate_with_every_seed(self, tmp_path):
        outcome = bmojo.train(CONFIG, folder=tmp_path / "runs", quiet=True)
        assert [(run.rate, run.seed) for run in outcome.runs] == [(1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1)]
        config = read_configuration(CONFIG)
        for run in outcome.runs:
            torch.manual_seed(run.seed)
            model = bmojo.training.build_model(config.made_task(), config.model)
            alone = fit(model, config.stages(), config.options(run.rate, run.seed))
            assert run.fitted.losses == alone.losses, "as if it were the only one"
            assert run.held_out == alone.evaluations[-1]
            assert run.parameters == sum(p.numel() for p in model.parameters())
        assert [run.rate for run in outcome.best] == [outcome.best_rate] * 2

    def test_what_is_written(self, tmp_path):
        outcome = bmojo.train(CONFIG, folder=tmp_path / "runs", quiet=True)
        told = json.loads((tmp_path / "runs" / "results.json").read_text())
        assert told["config"]["train"]["rates"] == [1e-3, 1e-2]
        assert told["best_rate"] == outcome.best_rate
        assert [run["losses"] for run in told["runs"]] == [run.fitted.losses for run in outcome.runs]
        assert told["task"] == outcome.config.made_task().description
        tokens = torch.randint(8, (2, 12))
        assert torch.equal(load_model(tmp_path / "runs")(tokens), outcome.model(tokens))
        again = bmojo.train(told["config"], quiet=True)
        assert [run.fitted.losses for run in again.runs] == [run.fitted.losses for run in outcome.runs]

    def test_without_a_folder_nothing_is_written_and_no_generator_is_moved(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = torch.get_rng_state()
        bmojo.train(CONFIG, quiet=True)
        assert torch.equal(torch.get_rng_state(), before)
        assert contents(tmp_path) == set()

    def test_what_is_done_is_taken_over_and_more_rates_are_added(self, tmp_path):
        first = bmojo.train(CONFIG, folder=tmp_path / "runs", quiet=True)
        more = CONFIG | {"train": CONFIG["train"] | {"rates": [1e-3, 3e-3, 1e-2]}}
        second = bmojo.train(more, folder=tmp_path / "runs", quiet=True)
        assert len(second.runs) == 6
        seconds = {(run.rate, run.seed): run.fitted.seconds for run in second.runs}
        assert all(seconds[run.rate, run.seed] == run.fitted.seconds for run in first.runs)

    def test_another_configuration_is_refused_and_fresh_begins_anew(self, tmp_path):
        bmojo.train(CONFIG, folder=tmp_path / "runs", quiet=True)
        other = CONFIG | {"model": CONFIG["model"] | {"eidetic": 6}}
        with pytest.raises(
            CheckpointError, match=r"another model; name another folder, or begin anew \(--fresh"
        ):
            bmojo.train(other, folder=tmp_path / "runs", quiet=True)
        longer = CONFIG | {"train": CONFIG["train"] | {"steps": 5}}
        with pytest.raises(CheckpointError, match="steps was 4 and is 5"):
            bmojo.train(longer, folder=tmp_path / "runs", quiet=True)
        assert (
            len(bmojo.train(longer, folder=tmp_path / "runs", quiet=True, fresh=True).runs[0].fitted.losses)
            == 5
        )

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        for fresh in (False, True):
            with pytest.raises(CheckpointError, match="is not empty and holds no runs"):
                bmojo.train(CONFIG, folder=tmp_path, quiet=True, fresh=fresh)
        assert (tmp_path / "thesis.txt").read_text() == "years of work"

    def outcome(self, metric, found):
        values = CONFIG | {"train": CONFIG["train"] | {"metric": metric}}
        runs = [
            RunResult(rate, seed, 1, Fitted(evaluations=[{"loss": loss, "accuracy": accuracy}]))
            for (rate, seed), (accuracy, loss) in found.items()
        ]
        return Outcome(read_configuration(values), runs, torch.nn.Identity())

    def test_the_best_rate_is_best_in_the_mean_over_seeds(self):
        found = {
            (1e-3, 0): (0.7, 1.0), (1e-3, 1): (0.7, 1.2), (1e-2, 0): (0.99, 2.0), (1e-2, 1): (0.3, 0.1)
        }  # fmt: skip
        assert self.outcome("accuracy", found).best_rate == 1e-3
        assert self.outcome("loss", found).best_rate == 1e-2
        found[1e-2, 1] = (0.41, 0.3)
        assert self.outcome("accuracy", found).best_rate == 1e-3, "a tie: the smaller loss"


class TestDivergence:
    @pytest.fixture
    def diverging(self, monkeypatch):
        """Training as it is, but for rates of 1e-2 and more."""
        from bmojo.training import DivergedError, run

        begun = []

        def fit_or_not(model, stages, options, **more):
            begun.append(options.rate)
            if options.rate >= 1e-2:
                raise DivergedError(3, float("nan"), options.rate)
            return fit(model, stages, options, **more)

        monkeypatch.setattr(run, "fit", fit_or_not)
        return begun

    def test_a_sweep_goes_on_without_it(self, tmp_path, diverging):
        for _ in range(2):
            outcome = bmojo.train(CONFIG, folder=tmp_path / "runs", quiet=True)
            assert outcome.best_rate == 1e-3
            assert [run.fitted.ended for run in outcome.runs] == ["steps", "steps", "diverged", "diverged"]
            assert "inf" in outcome.table()
        assert diverging.count(1e-2) == 2, "what diverged is not tried again"
        told = json.loads((tmp_path / "runs" / "results.json").read_text())
        assert [run["held_out"] is None for run in told["runs"]] == [False, False, True, True]

    def test_where_all_do_it_is_an_error(self, diverging):
        with pytest.raises(FloatingPointError, match=r"at every rate of \[0\.01, 0\.1\]; try lower ones"):
            bmojo.train(CONFIG | {"train": CONFIG["train"] | {"rates": [1e-2, 1e-1]}}, quiet=True)
        with pytest.raises(FloatingPointError, match=r"nan at step 3; lower the rate \(0\.01\)"):
            bmojo.train(CONFIG | {"train": CONFIG["train"] | {"rates": [1e-2]}}, quiet=True)


class TestBoard:
    def test_curves_are_there(self, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        values = CONFIG | {"output": {"tensorboard": True}, "train": CONFIG["train"] | {"seeds": [0]}}
        outcome = bmojo.train(values, folder=tmp_path / "runs", quiet=True)
        run = outcome.runs[0]
        found = EventAccumulator(str(run.folder / "tensorboard")).Reload()
        told = found.Scalars("train/loss")
        assert [point.step for point in told] == [2, 4]
        assert [point.value for point in told] == pytest.approx(
            [sum(run.fitted.losses[:2]) / 2, sum(run.fitted.losses[2:]) / 2]
        )
        assert found.Scalars("held_out/accuracy")[0].value == pytest.approx(run.held_out["accuracy"])

    def test_where_it_is_missing_the_extra_is_named(self, tmp_path, monkeypatch, capsys):
        for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(
            ImportError, match=r"pip install 'realization\[tensorboard\]'; without it, log.jsonl"
        ):
            bmojo.train(CONFIG | {"output": {"tensorboard": True}}, folder=tmp_path / "runs", quiet=True)


class TestWatch:
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def test_lines_with_rates_and_the_time_left(self, monkeypatch):
        clock = iter([0.0, 10.0, 12.0, 20.0])
        monkeypatch.setattr("bmojo.training.logs.time.monotonic", lambda: next(clock))
        file = io.StringIO()
        watch = Watch("run", total=100, done=10, file=file, every=5.0)
        watch.step(30, loss=1.25, tokens=4000)
        watch.step(31, loss=1.0, tokens=4000)
        watch.step(50, loss=0.5, tokens=4000)
        lines = file.getvalue().splitlines()
        assert lines[0] == "run: step 30 of 100, loss 1.250, 2 steps/s, 400 tokens/s, 00:35 left"
        assert lines[1] == "run: step 50 of 100, loss 0.500, 2 steps/s, 800 tokens/s, 00:25 left"
        assert len(lines) == 2

    def test_a_bar_on_a_terminal(self):
        file = self.Terminal()
        watch = Watch("run", total=10, done=4, file=file)
        watch.step(5, loss=1.25, tokens=100)
        watch.say("halfway")
        watch.close()
        text = file.getvalue()
        assert "5/10" in text
        assert "run: halfway" in text
        assert "step/s" in text


def run(*arguments):
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(
        '[task]\nkind = "gap_recall"\npairs = 2\ngap = 4\nvocabulary = 8\n'
        "[model]\nd_model = 16\nheads = 2\nwindow = 4\neidetic = 4\nstate_size = 4\n"
        "[train]\nsteps = 3\nbatch = 4\nsequences = 8\nrates = [1e-3, 1e-2]\n"
    )
    return path


class TestCommands:
    def test_train_prints_what_came_out(self, config_file, tmp_path, capsys):
        assert (
            run("train", str(config_file), "--folder", str(tmp_path / "out"), "--set", "train.steps=2") == 0
        )
        out, err = capsys.readouterr()
        assert out.startswith("small: gap recall: pairs 2, gap 4")
        assert len(out.splitlines()) == 5
        assert "best rate: " in out
        assert "held-out loss" in err
        assert "model/model.safetensors" in contents(tmp_path / "out")

    def test_recall_asks_a_trained_model(self, config_file, tmp_path, capsys):
        assert run("train", str(config_file), "--folder", str(tmp_path / "out"), "--quiet") == 0
        capsys.readouterr()
        asked = [
            "--pairs",
            "2",
            "3",
            "--gap",
            "4",
            "9",
            "--places",
            "4",
            "8",
            "--sequences",
            "8",
            "--queries",
            "3",
        ]
        assert run("recall", "--model", str(tmp_path / "out"), *asked, "--json") == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(r["pairs"], r["gap"], r["places"]) for r in rows] == [
            (k, gap, places) for k in (2, 3) for gap in (4, 9) for places in (4, 8)
        ]
        model = load_model(tmp_path / "out")
        for row in rows:
            state = model.init_state(1, eidetic=row["places"])
            assert row["bytes"] == sum(p.memory()["in_state"] + p.memory()["eidetic"] for p in state)
            task = bmojo.tasks.GapRecall(pairs=row["pairs"], gap=row["gap"], queries=3, vocabulary=8)
            found = bmojo.training.evaluate(model, task, sequences=8, eidetic=row["places"])
            assert row["accuracy"] == found.accuracy
        assert run("recall", "--model", str(tmp_path / "out"), *asked) == 0
        assert len(capsys.readouterr().out.splitlines()) == 10

    def test_recall_trains_a_small_model_where_none_is_given(self, capsys):
        small = [
            "--width",
            "16",
            "--layers",
            "1",
            "--steps",
            "7",
            "--sequences",
            "4",
            "--pairs",
            "4",
            "--gap",
            "6",
        ]
        for more in (
            [],
            ["--preset", "stacked_hybrid", "--layers", "2", "--state", "3"],
            ["--preset", "transformer"],
        ):
            assert run("recall", *small, *more) == 0
            assert "chance: 3.1 %" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["train", "none.toml"], "none.toml: there is no such file"),
            (["train", "CONFIG", "--set", "train.stepz=3"], "did you mean `steps`?"),
            (["train"], "CONFIG.toml"),
            (["recall", "--model", "nowhere"], "holds no model"),
            (["recall", "--pairs", "0"], "'0' came; a whole number, 1 or more"),
            (["recall", "--pairs", "40"], "pairs=40 came with vocabulary=64"),
            (
                ["recall", "--preset", "transformer", "--eidetic", "3"],
                "--eidetic came with --preset transformer",
            ),
            (["recall", "--preset", "tranformer"], "did you mean `transformer`?"),
            (["recal"], "invalid choice"),
            ([], "COMMAND"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, arguments, message, config_file, capsys):
        assert run(*(str(config_file) if word == "CONFIG" else word for word in arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("bmojo: error: ")
        assert len(err.splitlines()) == 1
        assert message in err

    @pytest.mark.parametrize("command", ["train", "recall"])
    def test_help_is_complete(self, command, capsys):
        assert run(command, "--help") == 0
        text = capsys.readouterr().out
        assert f"examples:\n  bmojo {command}" in text
        options = [line.split()[0] for line in text.splitlines() if line.startswith("  -")]
        assert len(options) > 5
        words = " ".join(text.split())
        for option in options[1:]:
            assert words.count(option.strip(",")) >= 2, f"{option} is in the usage and explained"

    def test_the_examples_of_the_help_are_files_that_are_there(self, capsys):
        import re

        from tests.source import ROOT

        run("train", "--help")
        named = re.findall(r"benchmarks/configs/\w+\.toml", capsys.readouterr().out)
        assert named
        assert all((ROOT / name).is_file() for name in named)


@pytest.mark.slow
def test_the_example_of_the_docs_learns(tmp_path):
    """A gap that no window spans, with two places for each pair: at least 95 % at the rate of the demo."""
    from tests.source import ROOT

    config = ROOT / "benchmarks" / "configs" / "gap_recall.toml"
    changes = ["train.rates=[6e-3]", "train.seeds=[0]"]
    outcome = bmojo.train(config, changes=changes, folder=tmp_path / "runs", quiet=True)
    assert outcome.runs[0].held_out["accuracy"] > 0.95
    task = bmojo.tasks.GapRecall(pairs=31, gap=192, queries=16)
    assert bmojo.training.evaluate(outcome.model, task, eidetic=62).accuracy > 0.9, "with the budget raised"
