"""Configurations: TOML, read strictly; what is not known is named with what was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from bmojo.config import BMojoConfig
from bmojo.tasks.protocol import Task
from bmojo.tasks.registry import TASKS, make_task
from bmojo.training.errors import ConfigurationError
from bmojo.training.loop import Stage
from bmojo.training.models import PRESETS, layer_configs
from bmojo.training.options import TrainOptions
from bmojo.training.parallel.options import ParallelOptions
from realization.errors import DataError
from realization.files import read_small

__all__ = ["Configuration", "read_configuration"]

LARGEST = 1 << 20  # bytes of a file
SECTIONS = ("name", "task", "curriculum", "model", "train", "parallel", "output")
SWEEP = {"rates": list[float], "seeds": list[int]}
OUTPUT = {"folder": str, "tensorboard": bool}
MODEL = {"preset": str, "layers": int | list[dict], "mlp_ratio": float, "length": int, "every": int}


@dataclass(frozen=True)
class Configuration:
    """What is trained, on what, how, over which rates and seeds, and where it goes.

    Parameters
    ----------
    name : str
    task : dict
        `kind`, and the options of that task.
    curriculum : list of dict
        Stages before the task itself: `steps`, and options that differ from the task's.
    model : dict
        As `build_model` takes it.
    train : TrainOptions
        The first rate and the first seed are in it.
    rates : tuple of float
        Learning rates that are tried.
    seeds : tuple of int
        Each rate is tried with each.
    folder : str, optional
        Where everything goes.
    tensorboard : bool
    parallel : ParallelOptions
        How each run is spread over processes.

    Examples
    --------
    >>> from bmojo.training import read_configuration
    >>> config = read_configuration({
    ...     "task": {"kind": "mqar", "pairs": 4, "length": 32, "vocabulary": 64},
    ...     "model": {"d_model": 32, "window": 8, "eidetic": 8},
    ...     "train": {"steps": 100, "rates": [1e-3, 3e-3], "seeds": [0, 1]},
    ... })
    >>> config.rates, config.seeds, config.made_task().description
    ((0.001, 0.003), (0, 1), 'MQAR: pairs 4, length 32, vocabulary 64, filler random, power 0.01')
    """

    name: str
    task: dict[str, Any]
    model: dict[str, Any]
    train: TrainOptions
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    curriculum: list[dict[str, Any]] = field(default_factory=list)
    folder: str | None = None
    tensorboard: bool = False
    parallel: ParallelOptions = field(default_factory=ParallelOptions)

    def made_task(self, **changes: Any) -> Task:
        """The task, with some options changed."""
        options = self.task | changes
        return make_task(**options)

    def stages(self) -> list[Stage]:
        """The curriculum, then the task for the steps that are left."""
        early = [dict(stage) for stage in self.curriculum]
        made = [
            Stage(self.made_task(**{k: v for k, v in s.items() if k != "steps"}), s["steps"]) for s in early
        ]
        left = self.train.steps - sum(stage.steps for stage in made)
        return [*made, Stage(self.made_task(), left)]

    def options(self, rate: float, seed: int) -> TrainOptions:
        """Those of one run."""
        return dataclasses.replace(self.train, rate=rate, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a configuration has them."""
        train = self.train.to_dict() | {"rates": list(self.rates), "seeds": list(self.seeds)}
        for name in ("rate", "seed"):
            del train[name]
        if train["target"] is None:
            del train["target"]
        plain = {"name": self.name, "task": self.task, "model": self.model, "train": train}
        if self.curriculum:
            plain["curriculum"] = self.curriculum
        if self.parallel != ParallelOptions():
            plain["parallel"] = self.parallel.to_dict()
        return plain


def read_configuration(
    source: str | os.PathLike[str] | Mapping[str, Any], *, changes: Sequence[str] = ()
) -> Configuration:
    """Read a configuration and check it, all of it, before anything is computed.

    Parameters
    ----------
    source : path, or mapping
        A TOML file, or what one holds.
    changes : sequence of str
        Such as `"train.steps=100"`, on top of it; the right side is written as in TOML.

    Returns
    -------
    Configuration

    Raises
    ------
    ConfigurationError
        If a key is unknown, a value is of another type, or options do not fit together.

    Examples
    --------
    >>> from bmojo.training import ConfigurationError, read_configuration
    >>> try:
    ...     read_configuration({"task": {"kind": "needle"}, "train": {"stepz": 3}})
    ... except ConfigurationError as error:
    ...     print(error)
    [train] stepz: there is no such key; did you mean `steps`?
    """
    where = "" if isinstance(source, Mapping) else f"{os.fspath(source)}: "
    try:
        return _checked(_with(_read(source), changes), where)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}{error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}{error}") from None


def _read(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in source.items()}
    path = Path(source)
    if not path.is_file():
        raise ConfigurationError("there is no such file.")
    try:
        return tomllib.loads(read_small(path, LARGEST).decode())
    except DataError as error:
        raise ConfigurationError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"not TOML: {error}.") from None


def _with(values: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    for change in changes:
        key, sign, text = change.partition("=")
        section, _, name = key.strip().partition(".")
        if not sign or not name:
            raise ConfigurationError(f"--set {change}: SECTION.KEY=VALUE is needed, such as train.steps=100.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text.strip()  # a word without quotes
        values.setdefault(section, {})[name] = value
    return values


def _checked(values: dict[str, Any], where: str) -> Configuration:
    _known("", values, SECTIONS)
    for name in ("task", "model", "train", "parallel", "output"):
        if not isinstance(values.get(name, {}), Mapping):
            raise ConfigurationError(f"{name}: a table is needed, [{name}].")
    task, curriculum = _task(values.get("task", {})), values.get("curriculum", [])
    train, rates, seeds = _train(values.get("train", {}))
    output = dict(values.get("output", {}))
    _typed("output", output, OUTPUT)
    name = values.get("name", Path(where[:-2]).stem if where else task["kind"])
    if not isinstance(name, str):
        raise ConfigurationError(f"name: a string is needed, {name!r} came.")
    config = Configuration(
        name,
        task,
        _model(values.get("model", {})),
        train,
        rates,
        seeds,
        _curriculum(curriculum, task),
        parallel=_parallel(values.get("parallel", {})),
        **output,
    )
    early = sum(stage["steps"] for stage in config.curriculum)
    if early >= train.steps:
        raise ConfigurationError(
            f"[[curriculum]] takes {early} steps of {train.steps}; some have to be left for the task."
        )
    layer_configs(config.made_task(), config.model)
    vocabularies = {stage.task.vocabulary for stage in config.stages()}
    if len(vocabularies) > 1:
        raise ConfigurationError(f"[[curriculum]] changes the vocabulary: {sorted(vocabularies)}; keep one.")
    return config


def _task(values: Mapping[str, Any]) -> dict[str, Any]:
    if "kind" not in values:
        raise ConfigurationError(f"[task] kind is needed, one of {', '.join(TASKS)}.")
    if values["kind"] not in TASKS:
        raise ConfigurationError(f"[task] kind = {values['kind']!r}: {_meant(str(values['kind']), TASKS)}")
    _typed("task", values, {"kind": str} | _fields(TASKS[values["kind"]]))
    return dict(values)


def _curriculum(stages: Any, task: dict[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Mapping) for stage in stages):
        raise ConfigurationError("curriculum: a list of tables is needed, [[curriculum]] for each.")
    for stage in stages:
        _typed("[curriculum]", stage, {"steps": int} | _fields(TASKS[task["kind"]]))
        if stage.get("steps", 0) < 1:
            raise ConfigurationError("[[curriculum]] steps, at least 1, is needed in each stage.")
    return [dict(stage) for stage in stages]


def _model(values: Mapping[str, Any]) -> dict[str, Any]:
    layer = _fields(BMojoConfig)
    preset = values.get("preset", "bmojo")
    if preset not in PRESETS:
        raise ConfigurationError(f"[model] preset = {preset!r}: {_meant(str(preset), PRESETS)}")
    extra = {name: MODEL[name] for name in ("preset", "layers", "mlp_ratio", *PRESETS[preset])}
    _typed("model", values, layer | extra)
    layers = values.get("layers", 2)
    if isinstance(layers, Sequence):
        if "preset" in values:
            raise ConfigurationError("[model] preset came with a list of layers; leave one of them out.")
        for one in layers:
            _typed("[model.layers]", one, layer)
    elif layers < 1:
        raise ConfigurationError(f"[model] layers = {layers}: at least 1 is needed.")
    return {"d_model": 64, **values}


def _train(values: Mapping[str, Any]) -> tuple[TrainOptions, tuple[float, ...], tuple[int, ...]]:
    own = _fields(TrainOptions)
    _typed("train", values, own | SWEEP)
    for one, many in (("rate", "rates"), ("seed", "seeds")):
        if one in values and many in values:
            raise ConfigurationError(f"[train] {one} and {many} came; give one of them.")
        if many in values and (not values[many] or len(set(values[many])) < len(values[many])):
            raise ConfigurationError(
                f"[train] {many} = {values[many]}: different values are needed, one at least."
            )
    options = {name: value for name, value in values.items() if name in own}
    rates = tuple(float(rate) for rate in values.get("rates", [values.get("rate", TrainOptions.rate)]))
    seeds = tuple(values.get("seeds", [values.get("seed", TrainOptions.seed)]))
    try:
        made = [TrainOptions(**options | {"rate": rate, "seed": seeds[0]}) for rate in rates]
    except ConfigurationError as error:
        raise ConfigurationError(f"[train] {error}") from None
    return made[0], rates, seeds


def _parallel(values: Mapping[str, Any]) -> ParallelOptions:
    _typed("parallel", values, _fields(ParallelOptions))
    try:
        return ParallelOptions(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"[parallel] {error}") from None


def _fields(of: Any) -> dict[str, Any]:
    hints = get_type_hints(of)
    return {item.name: hints[item.name] for item in dataclasses.fields(of)}


def _known(section: str, values: Mapping[str, Any], names: Any) -> None:
    for key in values:
        if key not in names:
            raise ConfigurationError(f"{f'[{section}] ' if section else ''}{key}: {_meant(key, names)}")


def _meant(word: str, names: Any) -> str:
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    if close:
        return f"there is no such key; did you mean `{close[0]}`?"
    return f"there is no such key; there are {', '.join(names)}."


def _typed(section: str, values: Mapping[str, Any], types_of: Mapping[str, Any]) -> None:
    _known(section, values, types_of)
    for key, value in values.items():
        if not _is(value, types_of[key]):
            raise ConfigurationError(
                f"[{section}] {key} = {value!r}: {_word(types_of[key])} is needed, a "
                f"{type(value).__name__} came."
            )


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of TOML is of a type; a whole number is a float too, a truth value is no number."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in get_args(kind) if one is not type(None))
    if origin is list:
        return isinstance(value, list | tuple) and all(_is(one, get_args(kind)[0]) for one in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, Mapping if kind is dict or origin is dict else kind)


def _word(kind: Any) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "true or false",
        dict: "a table",
        dict[str, Any]: "a table",
    }
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_word(one) for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is list:
        return f"a list ({_word(get_args(kind)[0])} each)"
    return words[kind]
