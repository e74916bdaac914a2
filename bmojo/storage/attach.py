"""Give the layers of a model a store."""

from __future__ import annotations

from typing import Any

from torch import nn

from bmojo.storage.errors import StorageError
from bmojo.storage.memory import StoredMemory
from bmojo.storage.protocol import EideticStore

__all__ = ["attach", "detach"]


def attach(model: nn.Module, store: EideticStore, **options: Any) -> list[StoredMemory]:
    """Let every layer with an eidetic set keep in a store what leaves the set, and retrieve from it.

    Parameters
    ----------
    model : torch.nn.Module
        A `BMojo` layer, or a model with any number of them; the store tells them apart by their order.
    store : EideticStore
    **options
        Of each `StoredMemory`: `read`, `entries`, `anew`, `floor`.

    Returns
    -------
    memories : list of StoredMemory
        To be flushed, or closed with `detach`; they are not part of the model's parameters or copies.

    Raises
    ------
    StorageError
        If no layer has an eidetic set.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.storage import FlatStore, attach, detach
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=4)).eval()
    >>> with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
    ...     memories = attach(layer, store, read=2)
    ...     y = layer(torch.randn(1, 100, 16))
    ...     detach(layer)
    ...     print(store.rows((0, 0)))  # all but the set and what has not left the window
    92
    """
    layers = _layers(model)
    if not layers:
        raise StorageError("attach: no layer has an eidetic set; make one with eidetic=m and a window.")
    for number, layer in enumerate(layers):
        layer.storage = StoredMemory(store, layer=number, **options)
    return [layer.storage for layer in layers]


def detach(model: nn.Module) -> None:
    """Take the stores away: hand over what waits, and end the threads; the stores stay open.

    Parameters
    ----------
    model : torch.nn.Module
        One without stores is left as it is.

    Examples
    --------
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.storage import detach
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=4))
    >>> detach(layer)
    >>> layer.storage is None
    True
    """
    for layer in _layers(model):
        memory, layer.storage = layer.storage, None
        if memory is not None:
            memory.close()


def _layers(model: nn.Module) -> list[Any]:
    found: list[Any] = [module for module in model.modules() if hasattr(module, "storage")]
    return [layer for layer in found if layer.config.eidetic]
