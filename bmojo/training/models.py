"""Models from a configuration: a preset and its options, or a list of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bmojo.config import BMojoConfig
from bmojo.models.files import read_config, read_model
from bmojo.models.language_model import BMojoLM
from bmojo.presets import bare_mixer, bmojo_f, sliding_window, stacked_hybrid, transformer
from bmojo.tasks.protocol import Task
from bmojo.training.errors import ConfigurationError
from bmojo.training.pooled import PooledLM

__all__ = ["PRESETS", "build_model", "layer_configs", "load_model"]

# Options of a layer that a preset sets itself.
SET: Mapping[str, tuple[str, ...]] = {
    "bmojo_f": ("eidetic",),
    "transformer": ("window", "mixer", "eidetic"),
    "sliding_window": ("mixer", "eidetic"),
    "bare_mixer": ("window", "eidetic"),
    "stacked_hybrid": ("eidetic",),
}
# Besides those of a layer, what each preset takes.
PRESETS: Mapping[str, tuple[str, ...]] = {
    "bmojo": (),
    "bmojo_f": (),
    "transformer": ("length",),
    "sliding_window": (),
    "bare_mixer": (),
    "stacked_hybrid": ("every",),
}


def build_model(task: Task, options: Mapping[str, Any]) -> BMojoLM | PooledLM:
    """A model for a task.

    Parameters
    ----------
    task : Task
        Its vocabulary is the model's; a task that is `pooled` gets a `PooledLM`.
    options : mapping
        `preset` (one of `PRESETS`; `bmojo` when left out), `layers` (how many, or a list of the options of
        each), `mlp_ratio`, and the options of a layer.

    Raises
    ------
    ConfigurationError
        If options do not fit together.

    Examples
    --------
    >>> from bmojo.tasks import GapRecall
    >>> from bmojo.training import build_model
    >>> options = {"preset": "stacked_hybrid", "layers": 4, "d_model": 32, "window": 8}
    >>> model = build_model(GapRecall(), options)
    >>> [block.layer.config.window for block in model.blocks]
    [0, 8, 0, 8]
    """
    kind: Callable[..., Any] = PooledLM if getattr(task, "pooled", False) else BMojoLM
    return kind(task.vocabulary, layer_configs(task, options), mlp_ratio=options.get("mlp_ratio", 2.0))


def layer_configs(task: Task, options: Mapping[str, Any]) -> list[BMojoConfig]:
    """The layers of that model.

    Parameters
    ----------
    task : Task
    options : mapping

    Raises
    ------
    ConfigurationError
        If options do not fit together.
    """
    own = dict(options)
    own.pop("mlp_ratio", None)
    preset, count = own.pop("preset", "bmojo"), own.pop("layers", 2)
    try:
        if isinstance(count, Sequence):
            return [BMojoConfig(**{**own, **layer}) for layer in count]
        return _of_preset(preset, count, own, task)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"[model] {error}") from None


def _of_preset(preset: str, count: int, own: dict[str, Any], task: Task) -> list[BMojoConfig]:
    for name in SET.get(preset, ()):
        if name in own:
            raise ValueError(f"{name} came with preset = {preset!r}, which sets it itself; leave it out.")
    if preset == "transformer":
        own.setdefault("length", task.length)
    elif preset != "bare_mixer":
        own.setdefault("window", 64)
    else:
        own.setdefault("mixer", "mamba2")
    if preset == "stacked_hybrid":
        return stacked_hybrid(layers=count, **own)
    make: dict[str, Callable[..., BMojoConfig]] = {
        "bmojo": BMojoConfig,
        "bmojo_f": bmojo_f,
        "transformer": transformer,
        "sliding_window": sliding_window,
        "bare_mixer": bare_mixer,
    }
    return [make[preset](**own)] * count


def load_model(folder: str | Path, *, device: str = "cpu") -> nn.Module:
    """The model that a run left in its folder, in evaluation mode.

    Parameters
    ----------
    folder : path
        Of the run, or of the model in it.
    device : str

    Raises
    ------
    FileNotFoundError
        If there is no model.
    DataError
        If its files are damaged or do not fit each other.
    """
    place = Path(folder)
    place = place / "model" if (place / "model").is_dir() else place
    if not read_config(place).get("pooled", False):
        return BMojoLM.load(place, device=device)
    return read_model(place, _pooled, device)


def _pooled(config: dict[str, Any]) -> PooledLM:
    layers = [BMojoConfig(**layer) for layer in config["layers"]]
    return PooledLM(config["vocabulary"], layers, mlp_ratio=config["mlp_ratio"])
