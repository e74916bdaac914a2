"""Configurations: read strictly, every fault in one line that says what to do."""

from __future__ import annotations

import copy
import tomllib

import pytest
import torch

from bmojo import BMojoConfig
from bmojo.tasks import GapRecall
from bmojo.training import (
    PRESETS,
    ConfigurationError,
    PooledLM,
    TrainOptions,
    build_model,
    load_model,
    read_configuration,
)
from bmojo.training.models import layer_configs
from tests.source import ROOT

GOOD = {
    "name": "small",
    "task": {"kind": "gap_recall", "pairs": 4, "gap": 12},
    "curriculum": [{"steps": 5, "pairs": 2}, {"steps": 3, "gap": 6}],
    "model": {"d_model": 16, "heads": 2, "window": 4, "eidetic": 4, "layers": 3},
    "train": {"steps": 20, "rates": [1, 1e-2], "seeds": [4, 5], "batch": 2},
    "output": {"folder": "somewhere", "tensorboard": True},
}
CONFIGS = sorted((ROOT / "benchmarks" / "configs").glob("*.toml"))


def changed(**sections):
    values = copy.deepcopy(GOOD)
    for name, section in sections.items():
        if isinstance(section, dict) and isinstance(values.get(name), dict):
            values[name] |= section
        else:
            values[name] = section
    return values


class TestWhatIsRead:
    def test_all_of_it(self):
        config = read_configuration(GOOD)
        assert (config.name, config.folder, config.tensorboard) == ("small", "somewhere", True)
        assert config.rates == (1.0, 1e-2)
        assert config.seeds == (4, 5)
        assert config.train == TrainOptions(steps=20, batch=2, rate=1.0, seed=4)
        assert config.options(0.5, 9) == TrainOptions(steps=20, batch=2, rate=0.5, seed=9)
        stages = config.stages()
        assert [stage.steps for stage in stages] == [5, 3, 12]
        assert [stage.task for stage in stages] == [
            GapRecall(pairs=2, gap=12), GapRecall(pairs=4, gap=6), GapRecall(pairs=4, gap=12),
        ]  # fmt: skip

    def test_a_file_and_changes(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text('[task]\nkind = "mqar"\n[train]\nsteps = 7\n')
        changes = ["train.steps=9", "train.rates=[0.1, 0.2]", "task.filler=zero", "model.window = 8"]
        config = read_configuration(path, changes=changes)
        assert (config.name, config.train.steps, config.rates) == ("mine", 9, (0.1, 0.2))
        assert config.task == {"kind": "mqar", "filler": "zero"}
        assert config.model["window"] == 8

    def test_plain_values_make_the_same(self):
        config = read_configuration(GOOD)
        again = read_configuration(config.to_dict())
        assert (again.train, again.rates, again.seeds) == (config.train, config.rates, config.seeds)
        assert again.stages() == config.stages()
        assert layer_configs(again.made_task(), again.model) == layer_configs(
            config.made_task(), config.model
        )

    def test_reading_draws_nothing_and_changes_nothing(self):
        before, values = torch.get_rng_state(), copy.deepcopy(GOOD)
        read_configuration(values, changes=["train.steps=30"])
        assert torch.equal(torch.get_rng_state(), before)
        assert values == GOOD

    @pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
    def test_the_examples_can_be_done(self, path):
        config = read_configuration(path)
        build_model(config.made_task(), config.model)
        assert config.folder == f"out/{path.stem}"
        assert tomllib.loads(path.read_text())["name"] == config.name


WRONG = {
    "unknown section": (changed(trian={}), "trian: there is no such key; did you mean `train`?"),
    "unknown option": (changed(train={"stepz": 3}), r"\[train\] stepz: .* did you mean `steps`?"),
    "unknown task option": (changed(task={"pair": 3}), r"\[task\] pair: .* did you mean `pairs`?"),
    "unknown layer option": (
        changed(model={"eidetics": 3}),
        r"\[model\] eidetics: .* did you mean `eidetic`?",
    ),
    "unknown stage option": (
        changed(curriculum=[{"steps": 1, "gaps": 3}]),
        r"\[\[curriculum\]\] gaps: .*`gap`",
    ),
    "unknown output": (changed(output={"path": "x"}), r"\[output\] path: .* there are folder, tensorboard"),
    "no task": ({"train": {"steps": 3}}, r"\[task\] kind is needed, one of gap_recall, mqar"),
    "unknown task": (changed(task={"kind": "gaprecall"}), "did you mean `gap_recall`?"),
    "unknown preset": (changed(model={"preset": "transfomer"}), "did you mean `transformer`?"),
    "a word for a number": (changed(train={"steps": "many"}), "a whole number is needed, a str came"),
    "a fraction for a whole number": (
        changed(train={"steps": 2.5}),
        "a whole number is needed, a float came",
    ),
    "truth for a number": (changed(train={"batch": True}), "a whole number is needed, a bool came"),
    "word for a table": (changed(model={"mixer_options": "conv"}), "a table is needed, a str came"),
    "a number for a list": (changed(train={"rates": 0.1}), r"a list \(a number each\) is needed"),
    "a list of words": (changed(train={"rates": ["fast"]}), r"a list \(a number each\) is needed"),
    "no table": (changed(train=3), r"train: a table is needed, \[train\]"),
    "no list": (changed(curriculum={"steps": 3}), "a list of tables"),
    "no name": (changed(name=3), "name: a string is needed"),
    "rate twice": (changed(train={"rate": 0.1}), r"rate and rates came; give one"),
    "no rates": (changed(train={"rates": []}), "different values are needed, one at least"),
    "seeds twice": (changed(train={"seeds": [1, 1]}), "different values are needed"),
    "out of range": (changed(train={"rates": [0.1, -1.0]}), r"\[train\] rate=-1.0"),
    "stage without steps": (changed(curriculum=[{"gap": 3}]), "steps, at least 1, is needed"),
    "too many stages": (changed(curriculum=[{"steps": 20}]), "takes 20 steps of 20; some have to be left"),
    "another vocabulary": (
        changed(curriculum=[{"steps": 1, "vocabulary": 32}]),
        r"changes the vocabulary: \[32, 64\]",
    ),
    "task that cannot be": (changed(task={"pairs": 40}), "pairs=40 came with vocabulary=64"),
    "layer that cannot be": (changed(model={"chunk": 9}), r"\[model\] chunk=9 came with window=4"),
    "no layers": (changed(model={"layers": 0}), "at least 1 is needed"),
    "preset and layers": (changed(model={"preset": "bmojo", "layers": [{}]}), "leave one of them out"),
    "places of a transformer": (
        changed(model={"preset": "transformer", "window": 4}),
        r"window came with preset = .transformer., which sets it itself",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case):
    values, message = WRONG[case]
    with pytest.raises(ConfigurationError, match=message) as said:
        read_configuration(values)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [("train.steps", "SECTION.KEY=VALUE"), ("steps=3", "SECTION.KEY=VALUE"), ("train.stepz=3", "`steps`")],
)
def test_changes_are_checked(change, message):
    with pytest.raises(ConfigurationError, match=message):
        read_configuration(GOOD, changes=[change])


def test_files_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.toml: there is no such file"):
        read_configuration(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(ConfigurationError, match=r"bad\.toml: not TOML: .*line 1"):
        read_configuration(tmp_path / "bad.toml")
    (tmp_path / "odd.toml").write_text('[task]\nkind = "mqar"\n[train]\nbatchsize = 3\n')
    with pytest.raises(ConfigurationError, match=r"odd\.toml: \[train\] batchsize: .*`batch`"):
        read_configuration(tmp_path / "odd.toml")


class TestModels:
    task = GapRecall(pairs=2, gap=4)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_each_preset_is_made(self, preset):
        own = {"heads": 2, "d_model": 16, "preset": preset, "layers": 4}
        own |= {} if preset in ("bare_mixer", "transformer") else {"window": 6}
        configs = layer_configs(self.task, own)
        assert len(configs) == 4
        windows = {"bare_mixer": [0] * 4, "stacked_hybrid": [0, 6, 0, 6]}.get(preset, [6] * 4)
        assert [c.window for c in configs] == ([self.task.length] * 4 if preset == "transformer" else windows)
        assert [c.eidetic > 0 for c in configs] == [preset == "bmojo"] * 4
        assert build_model(self.task, own).options["vocabulary"] == 64

    def test_a_list_of_layers(self):
        one, two = {"window": 4, "eidetic": 2}, {"window": 0, "eidetic": 0, "mixer": "mamba"}
        configs = layer_configs(self.task, {"d_model": 16, "heads": 2, "layers": [one, two]})
        assert configs == [BMojoConfig(d_model=16, heads=2, **layer) for layer in (one, two)]

    @pytest.mark.parametrize("pooled", [False, True])
    def test_what_was_saved_is_loaded(self, tmp_path, pooled):
        from bmojo.tasks import Compression

        task = Compression(length=6) if pooled else self.task
        model = build_model(task, {"d_model": 16, "heads": 2, "window": 4, "eidetic": 2}).eval()
        model.save(tmp_path / "model")
        tokens = torch.randint(task.vocabulary, (2, 6))
        for folder in (tmp_path, tmp_path / "model"):
            loaded = load_model(folder)
            assert isinstance(loaded, PooledLM) == pooled
            assert torch.equal(loaded(tokens), model(tokens))
        with pytest.raises(FileNotFoundError, match="holds no model"):
            load_model(tmp_path / "nowhere")
