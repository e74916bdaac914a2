"""Models in folders: `config.json` and `model.safetensors`, whole or not at all; never a pickle."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

__all__ = ["Hub", "load_weights", "read_config", "write_model"]

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


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration in a folder that `write_model` wrote.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        If the folder holds no model.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{os.fspath(folder)} holds no model: there is no {CONFIG}; `save` writes {CONFIG} and {WEIGHTS}."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def load_weights(module: nn.Module, path: str | os.PathLike[str], device: str = "cpu") -> None:
    """Weights of a safetensors file into a module, each of them into its place.

    Parameters
    ----------
    module : torch.nn.Module
    path : path
    device : str

    Raises
    ------
    ValueError
        If a tensor is missing, left over, or of another shape.
    """
    from safetensors.torch import load_file

    tensors = load_file(path, device=device)
    wanted = module.state_dict()
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"left over {name}" for name in tensors if name not in wanted]
    faults += [
        f"{name}: {tuple(tensors[name].shape)} came, {tuple(x.shape)} is needed"
        for name, x in wanted.items()
        if name in tensors and tensors[name].shape != x.shape
    ]
    if faults:
        raise ValueError(f"{os.fspath(path)} does not fit the model: {'; '.join(faults)}.")
    module.load_state_dict(tensors, assign=True)  # in the dtype in which they were written
