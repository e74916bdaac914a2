"""The memory that fades: mixers, causal recurrences with a state of constant size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bmojo.fading.associative import GatedDeltaNet, GatedKalmaNet
from bmojo.fading.lti import LTI
from bmojo.fading.lti_diagonal import DiagonalLTI
from bmojo.fading.lti_modal import ModalLTI
from bmojo.fading.mamba import Mamba
from bmojo.fading.mamba2 import Mamba2
from bmojo.fading.protocol import Innovative, Mixer, MixerState

__all__ = [
    "LTI",
    "MIXERS",
    "DiagonalLTI",
    "GatedDeltaNet",
    "GatedKalmaNet",
    "Innovative",
    "Mamba",
    "Mamba2",
    "Mixer",
    "MixerState",
    "ModalLTI",
    "make_mixer",
    "register_mixer",
]

Factory = Callable[..., nn.Module]  # of d_model, heads, state_size, and options of the mixer's own

MIXERS: dict[str, Factory] = {
    "mamba2": Mamba2,
    "mamba": lambda d_model, heads, state_size, **options: Mamba(d_model, state_size, **options),
    "gated_deltanet": GatedDeltaNet,
    "gated_kalmanet": GatedKalmaNet,
    "lti": lambda width, heads, state_size, **options: LTI(width, width, state_size, **options),
    "lti_modal": lambda width, heads, state_size, **options: ModalLTI(width, width, state_size, **options),
    "lti_diagonal": lambda width, heads, state_size, **options: DiagonalLTI(
        width, width, state_size, **options
    ),
}


def make_mixer(name: str, *, d_model: int, heads: int, state_size: int, **options: Any) -> nn.Module:
    """The mixer of that name for tokens of shape (B, T, d_model).

    Parameters
    ----------
    name : str
        One of `MIXERS`.
    d_model, heads, state_size : int
    options
        Of the mixer's own, such as `conv=2`.

    Raises
    ------
    ValueError
        If there is no such mixer, it has no such option, or its sizes do not fit.

    Examples
    --------
    >>> from bmojo.fading import make_mixer
    >>> mixer = make_mixer("lti", d_model=8, heads=1, state_size=4)
    >>> mixer.init_state(2)[0].shape
    torch.Size([2, 4])
    """
    if name not in MIXERS:
        raise ValueError(f"make_mixer: name={name!r} came; the mixers are {', '.join(map(repr, MIXERS))}.")
    try:
        return MIXERS[name](d_model, heads, state_size, **options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"make_mixer: options {options} came for mixer {name!r}: {error}.") from None


def register_mixer(name: str, factory: Factory) -> None:
    """Give a mixer of one's own a name for `BMojoConfig.mixer`.

    Parameters
    ----------
    name : str
        Not that of another one.
    factory : callable
        Makes the module from `d_model`, `heads` and `state_size` (and, by keyword, what `mixer_options` of a
        configuration hold): the class itself, or a function. What it
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
