"""Special cases of the one layer: attention, the bare mixer, B'MOJO-F, a stack of mixers and windows."""

from __future__ import annotations

from typing import Any

from bmojo.config import BMojoConfig

__all__ = ["bare_mixer", "bmojo_f", "sliding_window", "stacked_hybrid", "transformer"]


def transformer(d_model: int, *, length: int, **options: Any) -> BMojoConfig:
    """Full causal attention over at most `length` tokens: a window that holds them all.

    Parameters
    ----------
    d_model : int
    length : int
        Of the longest sequence; tokens further back are not seen.
    **options
        Further ones of `BMojoConfig`: heads, rotary positions, ...

    Returns
    -------
    BMojoConfig
        As in the usual Transformer without a short convolution, or a norm of queries and keys.

    Examples
    --------
    >>> from bmojo.presets import transformer
    >>> config = transformer(64, length=128, heads=4)
    >>> config.window, config.mixer, config.eidetic
    (128, 'none', 0)
    """
    return sliding_window(d_model, window=length, **options)


def sliding_window(d_model: int, *, window: int, **options: Any) -> BMojoConfig:
    """Causal attention over the last `window` tokens.

    Parameters
    ----------
    d_model : int
    window : int
        The query's own token included.
    **options
        Further ones of `BMojoConfig`.

    Returns
    -------
    BMojoConfig

    Examples
    --------
    >>> from bmojo.presets import sliding_window
    >>> sliding_window(64, window=16).short_conv
    0
    """
    given = {"short_conv": 0, "qk_norm": False} | options
    return BMojoConfig(d_model=d_model, window=window, mixer="none", eidetic=0, **given)


def bare_mixer(d_model: int, mixer: str, **options: Any) -> BMojoConfig:
    """A recurrence and nothing else: the output is its fading tokens.

    Parameters
    ----------
    d_model : int
    mixer : str
        One of `bmojo.fading.MIXERS`.
    **options
        Further ones of `BMojoConfig`: heads, state_size.

    Returns
    -------
    BMojoConfig

    Examples
    --------
    >>> from bmojo.presets import bare_mixer
    >>> bare_mixer(64, "mamba2", state_size=32).window
    0
    """
    return BMojoConfig(d_model=d_model, window=0, eidetic=0, mixer=mixer, **options)


def bmojo_f(d_model: int, *, window: int, mixer: str = "mamba", **options: Any) -> BMojoConfig:
    """The authors' layer without eidetic memory: a window, and fading tokens behind it.

    Parameters
    ----------
    d_model : int
    window : int
    mixer : str
    **options
        Further ones of `BMojoConfig`; `fading_readout="add"` and `short_conv=4` are this project's additions.

    Returns
    -------
    BMojoConfig

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024, section 3.

    Examples
    --------
    >>> from bmojo.presets import bmojo_f
    >>> config = bmojo_f(64, window=16)
    >>> config.eidetic, config.fading_readout, config.short_conv
    (0, 'none', 0)
    """
    given = {"fading_readout": "none", "short_conv": 0} | options
    return BMojoConfig(d_model=d_model, window=window, eidetic=0, mixer=mixer, **given)


def stacked_hybrid(
    d_model: int, *, layers: int, window: int, mixer: str = "mamba2", every: int = 2, **options: Any
) -> list[BMojoConfig]:
    """Layers of a mixer alone, each `every`-th one of a window alone: the usual hybrid, for `BMojoLM`.

    Parameters
    ----------
    d_model : int
    layers : int
    window : int
    mixer : str
    every : int
        Two: they take turns.
    **options
        `heads`, for both; `state_size` goes to the mixers, the rest to the windows.

    Returns
    -------
    list of BMojoConfig

    Raises
    ------
    ValueError
        If there are fewer layers than it takes to have a window among them.

    Examples
    --------
    >>> from bmojo.presets import stacked_hybrid
    >>> [config.window for config in stacked_hybrid(64, layers=4, window=16)]
    [0, 16, 0, 16]
    """
    if every < 2 or layers < every:
        raise ValueError(
            f"stacked_hybrid: layers={layers}, every={every} came; layers >= every >= 2 is needed."
        )
    shared = {name: options.pop(name) for name in ("heads",) if name in options}
    state = {name: options.pop(name) for name in ("state_size",) if name in options}
    pure = bare_mixer(d_model, mixer, **shared, **state)
    near = sliding_window(d_model, window=window, **shared, **options)
    return [near if (i + 1) % every == 0 else pure for i in range(layers)]
