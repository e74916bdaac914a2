r"""A trained model with a setting of its memories changed and nothing learned anew.

What can be changed honestly: the window, the places and the rule of the sets, none of which a weight belongs
to; and how fast the states fade, where the mixer has a decay per head, $\log a_t \to \log a_t - 1/\tau$.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bmojo.config import BMojoConfig
from bmojo.fading import GatedDeltaNet, GatedKalmaNet, Mamba2
from bmojo.models.language_model import BMojoLM

__all__ = ["altered_model", "can_fade"]


class _FadingMamba2:
    rate = 0.0

    def _inputs(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
        x, driven, log_decay, B, C = super()._inputs(xBC, dt)  # pyright: ignore[reportAttributeAccessIssue]
        return x, driven, log_decay - self.rate, B, C


class _FadingAssociative:
    rate = 0.0

    def _numbers(self, gates: Tensor) -> tuple[Tensor, ...]:
        strength, log_decay, *rest = super()._numbers(gates)  # pyright: ignore[reportAttributeAccessIssue]
        return strength, log_decay - self.rate, *rest


FADING: dict[type[nn.Module], type] = {
    Mamba2: _FadingMamba2,
    GatedDeltaNet: _FadingAssociative,
    GatedKalmaNet: _FadingAssociative,
}


def can_fade(mixer: nn.Module | None) -> bool:
    """Whether the mixer's state has a decay per head that a time constant can be added to.

    Parameters
    ----------
    mixer : torch.nn.Module or None
    """
    return isinstance(mixer, tuple(FADING))


def altered_model(
    model: BMojoLM,
    *,
    budget: int | None = None,
    window: int | None = None,
    time_constant: float | None = None,
    rule: str | None = None,
) -> BMojoLM:
    r"""A copy of a model whose memories are set otherwise; the weights are those of the model.

    Parameters
    ----------
    model : BMojoLM
    budget : int, optional
        Places of every eidetic set; 0 leaves each set empty.
    window : int, optional
        Tokens in context of every layer that attends.
    time_constant : float, optional
        $\tau$ in tokens: every decay $a_t$ becomes $e^{-1/\tau} a_t$.
    rule : str, optional
        Of every eidetic set: one of `bmojo.explore.RULES`.

    Returns
    -------
    BMojoLM
        In evaluation mode.

    Raises
    ------
    ValueError
        If a time constant comes for a mixer that has no decay per head.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> from bmojo.explore import altered_model
    >>> layer = BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=2)
    >>> model, tokens = BMojoLM(20, [layer]).eval(), torch.arange(16)[None]
    >>> wider = altered_model(model, budget=8)
    >>> asked, _ = model(tokens, model.init_state(1, eidetic=8))
    >>> bool(torch.equal(wider(tokens), asked))
    True
    """
    layers = [
        _altered(BMojoConfig(**layer), budget=budget, window=window, rule=rule)
        for layer in model.options["layers"]
    ]
    changed = BMojoLM(model.options["vocabulary"], layers, mlp_ratio=model.options["mlp_ratio"])
    weights = {name: x for name, x in model.state_dict().items() if not name.endswith(".seed")}
    faults = changed.to(model.embedding.weight.dtype).load_state_dict(weights, strict=False)
    assert not faults.unexpected_keys
    for i, (ours, theirs) in enumerate(zip(changed._blocks(), model._blocks(), strict=True)):
        layer: Any = ours.layer
        if layer.seed is not None:
            layer.seed.fill_(i) if theirs.layer.seed is None else layer.seed.copy_(theirs.layer.seed)
        if budget == 0 and layer.config.eidetic:
            layer.threshold = torch.inf
        if time_constant is not None and layer.mixer is not None:
            _fade(layer.mixer, 1 / time_constant)
    return changed.eval()


def _altered(config: BMojoConfig, *, budget: int | None, window: int | None, rule: str | None) -> BMojoConfig:
    changes: dict[str, Any] = {}
    if window and config.window:
        assert config.chunk is not None
        chunk = window if config.chunk == config.window else min(config.chunk, window)
        changes |= {"window": window, "chunk": chunk}
    if config.eidetic:
        rule = "threshold" if budget == 0 else rule or config.rule
        changes |= {"rule": rule, "eidetic": config.eidetic if budget is None else max(1, budget)}
        changes["false_alarm"] = config.false_alarm if rule == "threshold" else None
    return replace(config, **changes)


def _fade(mixer: Any, rate: float) -> None:
    kind = next((added for known, added in FADING.items() if isinstance(mixer, known)), None)
    if kind is None:
        raise ValueError(
            f"altered_model: time_constant came, and a {type(mixer).__name__} has no decay per head that it "
            "could be added to; leave it out."
        )
    made: Any = type(type(mixer).__name__, (kind, type(mixer)), {"rate": rate})
    mixer.__class__ = made
