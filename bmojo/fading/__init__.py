"""The memory that fades: mixers, causal recurrences with a state of constant size."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bmojo.fading.associative import GatedDeltaNet, GatedKalmaNet
from bmojo.fading.lti import LTI
from bmojo.fading.mamba import Mamba
from bmojo.fading.mamba2 import Mamba2
from bmojo.fading.protocol import Innovative, Mixer, MixerState

__all__ = [
    "LTI",
    "MIXERS",
    "GatedDeltaNet",
    "GatedKalmaNet",
    "Innovative",
    "Mamba",
    "Mamba2",
    "Mixer",
    "MixerState",
    "make_mixer",
    "register_mixer",
]

Factory = Callable[[int, int, int], nn.Module]  # of d_model, heads, state_size

MIXERS: dict[str, Factory] = {
    "mamba2": Mamba2,
    "mamba": lambda d_model, heads, state_size: Mamba(d_model, state_size),
    "gated_deltanet": GatedDeltaNet,
    "gated_kalmanet": GatedKalmaNet,
    "lti": lambda d_model, heads, state_size: LTI(d_model, d_model, state_size),
}


def make_mixer(name: str, *, d_model: int, heads: int, state_size: int) -> nn.Module:
    """The mixer of that name for tokens of shape (B, T, d_model).

    Parameters
    ----------
    name : str
        One of `MIXERS`.
    d_model, heads, state_size : int

    Raises
    ------
    ValueError
        If there is no such mixer, or its sizes do not fit.

    Examples
    --------
    >>> from bmojo.fading import make_mixer
    >>> mixer = make_mixer("lti", d_model=8, heads=1, state_size=4)
    >>> mixer.init_state(2)[0].shape
    torch.Size([2, 4])
    """
    if name not in MIXERS:
        raise ValueError(f"make_mixer: name={name!r} came; the mixers are {', '.join(map(repr, MIXERS))}.")
    return MIXERS[name](d_model, heads, state_size)


def register_mixer(name: str, factory: Factory) -> None:
    """Give a mixer of one's own a name for `BMojoConfig.mixer`.

    Parameters
    ----------
    name : str
        Not that of another one.
    factory : callable
        Makes the module from `d_model`, `heads` and `state_size`: the class itself, or a function. What it
        has to offer is in `Mixer`, with an example.

    Raises
    ------
    ValueError
        If the name is taken by another factory.

    Examples
    --------
    >>> from bmojo import BMojoConfig
    >>> from bmojo.fading import LTI, register_mixer
    >>> register_mixer("narrow", lambda d_model, heads, state_size: LTI(d_model, d_model, 2))
    >>> BMojoConfig(d_model=8, mixer="narrow").mixer
    'narrow'
    """
    if MIXERS.get(name, factory) is not factory or name == "none":
        raise ValueError(f"register_mixer: name={name!r} is taken; choose another one.")
    MIXERS[name] = factory
