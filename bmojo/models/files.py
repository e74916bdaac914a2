"""Models in folders: `config.json` and `model.safetensors`, whole or not at all; never a pickle."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bmojo.tensors import read_json, read_tensors, shapes_of
from realization.errors import DataError
from realization.files import file_within

__all__ = ["Hub", "filled", "model_file", "read_config", "read_model", "write_model"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin as Hub
else:
    try:
        with warnings.catch_warnings():
            # In a notebook without widgets, progress bars say so when they are loaded.
            warnings.filterwarnings("ignore", message="IProgress not found")
            from huggingface_hub import PyTorchModelHubMixin as Hub
    except ModuleNotFoundError:

        class Hub:
            """What stands in for the hub's methods where `huggingface_hub` is absent."""

            def __init_subclass__(cls, **about: Any) -> None:
                super().__init_subclass__()

            @classmethod
            def _absent(cls, *given: Any, **options: Any) -> None:
                raise ImportError(
                    f"{cls.__name__}: save_pretrained, from_pretrained and push_to_hub need huggingface_hub: "
                    "pip install 'realization[hf]'; `save` and `load` work without it."
                )

            save_pretrained = from_pretrained = push_to_hub = _absent


def _written(path: Path, write: Any) -> None:
    """A file that `write` makes under another name, and that is there once it is complete."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_model(folder: str | os.PathLike[str], config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a configuration and weights into a folder, which is made where it is missing.

    Parameters
    ----------
    folder : path
    config : dict
        Plain values.
    tensors : dict of str to Tensor, of any shape (...)
    """
    from safetensors.torch import save_file

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    _written(target / WEIGHTS, lambda part: save_file(plain, part, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2) + "\n"
    _written(target / CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


def model_file(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of a file of a model; a link out of the folder is followed into the hub's cache alone.

    Parameters
    ----------
    folder : path
    name : str

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    DataError
        If a link leads out of the folder.
    """
    place = Path(folder)
    if place.parent.name == "snapshots" and (place / name).is_symlink():
        cache = place.parent.parent  # where the hub keeps a file once, whatever revisions have it
        file_within(cache, os.fspath((place / name).relative_to(cache)))
        path = place / name
    else:
        path = file_within(place, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{os.fspath(folder)} holds no model: there is no {name}; `save` writes {CONFIG} and {WEIGHTS}."
        )
    return path


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration in a folder that `write_model` wrote.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    DataError
        If the configuration is damaged.
    """
    return read_json(model_file(folder, CONFIG))


def read_model(
    folder: str | os.PathLike[str], build: Callable[[dict[str, Any]], nn.Module], device: str = "cpu"
) -> nn.Module:
    """The model in a folder that `write_model` wrote, in evaluation mode; weights keep their dtype.

    Parameters
    ----------
    folder : path
    build : callable
        Makes a module of `vocabulary`, `layers` and `mlp_ratio` in the configuration. It is called without
        memory first, and again once the weights are seen to fit.
    device : str

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    DataError
        If a file is damaged, options do not fit together, or a weight is missing, left over or of another
        shape; the message lists them.
    """
    config = read_config(folder)
    missing = {"vocabulary", "layers", "mlp_ratio"} - set(config)
    if missing:
        raise DataError(
            f"{os.fspath(folder)} holds another model; its configuration lacks {', '.join(sorted(missing))}."
        )
    path, layers = model_file(folder, WEIGHTS), config["layers"]
    shapes = shapes_of(path)
    if not isinstance(layers, list) or len(layers) > len(shapes):
        raise DataError(f"{path} does not fit the model: {len(shapes)} tensors came for its `layers`.")
    _check_shapes(_wanted(build, config, folder), shapes, path)
    model = _built(build, config, folder)
    return filled(model, read_tensors(path, device)[0], path).to(device).eval()


def filled(module: nn.Module, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> nn.Module:
    """The module with these tensors, each of them in its place, in the dtype in which they were written.

    Parameters
    ----------
    module : torch.nn.Module
    tensors : mapping of str to Tensor, of any shape (...)
    path : path
        Where they come from, for messages.

    Raises
    ------
    DataError
        If a tensor is missing, left over, of another shape, or of whole numbers where fractions are needed.
    """
    wanted = module.state_dict()
    _check_shapes(_shapes(wanted), _shapes(tensors), path)
    odd = [name for name, x in wanted.items() if x.is_floating_point() != tensors[name].is_floating_point()]
    if odd:
        name = odd[0]
        raise DataError(f"{path} does not fit the model: {name} is of {tensors[name].dtype}.")
    module.load_state_dict(tensors, assign=True)
    return module


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in tensors.items()}


def _wanted(
    build: Callable[[dict[str, Any]], nn.Module], config: dict[str, Any], folder: str | os.PathLike[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights, without memory; a mixer of one's own may not be made without, and takes it."""
    try:
        with torch.device("meta"):
            return _shapes(_built(build, config, folder).state_dict())
    except DataError as error:
        if "meta" not in str(error.__context__):
            raise
    return _shapes(_built(build, config, folder).state_dict())


def _built(
    build: Callable[[dict[str, Any]], nn.Module], config: dict[str, Any], folder: str | os.PathLike[str]
) -> nn.Module:
    try:
        return build(config)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{os.fspath(folder)} holds no model that can be built: {reason}") from None


def _check_shapes(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    path: str | os.PathLike[str],
) -> None:
    faults = [f"missing {name}" for name in wanted if name not in found]
    faults += [f"left over {name}" for name in found if name not in wanted]
    faults += [
        f"{name}: {found[name]} came, {shape} is needed"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if faults:
        raise DataError(f"{os.fspath(path)} does not fit the model: {'; '.join(faults)}.")
