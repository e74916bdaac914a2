"""The memory that fades: mixers, causal recurrences with a state of constant size."""

from __future__ import annotations

from bmojo.fading.lti import LTI
from bmojo.fading.mamba2 import Mamba2
from bmojo.fading.protocol import Mixer, MixerState

__all__ = ["LTI", "MIXERS", "Mamba2", "Mixer", "MixerState", "make_mixer"]

MIXERS = {
    "mamba2": lambda d_model, heads, state_size: Mamba2(d_model, heads, state_size),
    "lti": lambda d_model, heads, state_size: LTI(d_model, d_model, state_size),
}


def make_mixer(name: str, *, d_model: int, heads: int, state_size: int) -> Mixer:
    """The mixer of that name for tokens of shape (B, T, d_model).

    Parameters
    ----------
    name : {"mamba2", "lti"}
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
