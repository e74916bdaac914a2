"""Options of one B'MOJO layer, checked when they are set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from bmojo_kernels import RULES

from bmojo.eidetic.predictors import PREDICTORS
from bmojo.fading import MIXERS

__all__ = ["BMojoConfig"]

EIDETIC_POSITIONS = ("own", "edge", "none")
FADING_READOUTS = ("add", "none")
SPLIT = ("mamba2", "gated_deltanet", "gated_kalmanet")  # mixers whose heads share the width
# Mixers that do not tell their innovations.
SILENT = ("none", "mamba2", "mamba", "lti", "lti_modal", "lti_diagonal")
LEAST = {"d_model": 1, "heads": 1, "window": 0, "state_size": 1, "eidetic": 0, "short_conv": 0}

# Where something is absent, the options that have no effect then.
EFFECTS: tuple[tuple[str, Callable[[BMojoConfig], bool], tuple[str, ...]], ...] = (
    (
        "window=0 (no attention)",
        lambda c: c.window == 0,
        ("kv_heads", "head_dim", "chunk", "tie_projections", "qk_norm", "rotary", "short_conv"),
    ),
    (
        "eidetic=0 (no places)",
        lambda c: c.eidetic == 0,
        ("chunk", "rule", "false_alarm", "predictor", "eidetic_norm", "write_gate"),
    ),
    ("a rule that is not 'threshold'", lambda c: c.rule != "threshold", ("false_alarm",)),
    (
        "mixer='none' (no fading memory)",
        lambda c: c.mixer == "none",
        ("state_size", "tie_projections", "fading_readout"),
    ),
    ("no far keys", lambda c: c.window == 0 or (c.mixer == "none" and c.eidetic == 0), ("eidetic_position",)),
    ("rotary=False", lambda c: not c.rotary, ("rotary_base", "eidetic_position")),
)


@dataclass(frozen=True, kw_only=True)
class BMojoConfig:
    r"""What a `BMojo` layer is made of.

    Parameters
    ----------
    d_model : int
        Width `D` of the tokens, inputs of shape (B, T, D).
    heads : int
        Query heads `H`.
    kv_heads : int, optional
        Key and value heads; `heads` when left out. Must divide `heads`.
    head_dim : int, optional
        Width of a head; `d_model // heads` when left out. Even where positions are rotary.
    window : int
        Tokens `w` in context, the query included. 0: no attention, the bare mixer is left.
    mixer : str
        The fading memory: `"mamba2"`, `"mamba"`, `"gated_deltanet"`, `"gated_kalmanet"`, `"lti"` (also
        `"lti_modal"`, `"lti_diagonal"`), one of your own (`bmojo.fading.register_mixer`), or `"none"`.
    state_size : int
        `N`: the mixer's state is `(heads, d_model / heads, N)` for `mamba2` and `gated_deltanet`, and `N` by
        `N` more per head for `gated_kalmanet`; `(d_model, N)` for `mamba`, `(N,)` for `lti`.
    mixer_options : dict
        Further options of the mixer, such as `{"conv": 2}`: those that its class names.
    eidetic : int
        Places `m` for tokens that could not be predicted. 0 is B'MOJO-F.
    chunk : int, optional
        Tokens between two changes of the eidetic set, `1 <= C <= window`; `window` when left out.
    rule : str
        `"top"`, `"threshold"`, or a control: `"fifo"`, `"random"` (of a seed of its own in each layer),
        `"norm"`.
    false_alarm : float, optional
        Of `rule="threshold"`: chance that an ordinary token passes; 0.01 when left out.
    predictor : str
        What tells the innovations: `"conv"`, a short causal convolution over earlier tokens; `"state"`, the
        mixer's read-out a token ago; `"kalman"`, recursive least squares along the sequence; `"residual"`,
        what the mixer's state failed to predict (`gated_deltanet`, `gated_kalmanet`).
    tie_projections : bool
        One set of projections for tokens and fading tokens, or one each (with queries of its own).
    qk_norm : bool
        Root-mean-square norm of queries and keys per head, before rotary positions.
    rotary : bool
        Rotary positions.
    rotary_base : float
        Base of their frequencies.
    eidetic_position : str
        Where fading and eidetic keys are rotated: `"own"`, the window's `"edge"`, or `"none"`; the last two
        hold at gaps longer than those of training.
    eidetic_norm : bool
        The eidetic segment reads with a norm and a gain of its own: sharp retrieval instead of averaging.
    short_conv : int
        Taps of the causal convolution before the projections; 0 is the authors' layer.
    fading_readout : str
        `"add"`: the output is attention plus fading token; `"none"`: attention alone, the authors' layer.
    write_gate : bool
        A learned gate multiplies the score and adds its logarithm to the eidetic logits.
    dropout : float
        On the layer's output, in training.

    Raises
    ------
    ValueError
        If options do not fit together, or one is set that would have no effect; the message says which and
        why.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.

    Examples
    --------
    >>> from bmojo import BMojoConfig
    >>> config = BMojoConfig(d_model=64, heads=4, window=8, eidetic=16)
    >>> config.head_dim, config.kv_heads, config.chunk
    (16, 4, 8)
    """

    d_model: int
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    window: int = 64
    mixer: str = "mamba2"
    state_size: int = 16
    mixer_options: dict[str, Any] = field(default_factory=dict, hash=False)
    eidetic: int = 32
    chunk: int | None = None
    rule: str = "top"
    false_alarm: float | None = None
    predictor: str = "conv"
    tie_projections: bool = True
    qk_norm: bool = True
    rotary: bool = True
    rotary_base: float = 10_000.0
    eidetic_position: str = "own"
    eidetic_norm: bool = False
    short_conv: int = 4
    fading_readout: str = "add"
    write_gate: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self._choice("mixer", (*MIXERS, "none"))
        self._choice("rule", tuple(rule for rule in RULES if rule != "oracle"))
        self._choice("predictor", tuple(PREDICTORS))
        self._choice("eidetic_position", EIDETIC_POSITIONS)
        self._choice("fading_readout", FADING_READOUTS)
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} came; it must be at least {least}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} came; it must lie in [0, 1).")
        if self.rotary_base <= 1:
            raise ValueError(f"rotary_base={self.rotary_base} came; it must be above 1.")
        self._check_heads()
        self._check_window()
        self._check_rule()
        self._check_effects()

    def _check_heads(self) -> None:
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        if kv_heads < 1 or self.heads % kv_heads:
            raise ValueError(f"kv_heads={kv_heads} does not divide heads={self.heads}.")
        if self.mixer in SPLIT and self.d_model % self.heads:
            raise ValueError(
                f"mixer={self.mixer!r} needs heads={self.heads} to divide d_model={self.d_model}."
            )
        if self.head_dim is None and self.d_model % self.heads:
            raise ValueError(f"heads={self.heads} does not divide d_model={self.d_model}; give head_dim too.")
        head_dim = self.d_model // self.heads if self.head_dim is None else self.head_dim
        if head_dim < 1:
            raise ValueError(f"head_dim={head_dim} came; it must be at least 1.")
        if self.window and self.rotary and head_dim % 2:
            raise ValueError(f"rotary positions turn pairs: head_dim={head_dim} must be even.")
        object.__setattr__(self, "kv_heads", kv_heads)
        object.__setattr__(self, "head_dim", head_dim)

    def _check_window(self) -> None:
        chunk = max(1, self.window) if self.chunk is None else self.chunk
        if self.window == 0 and (self.eidetic or self.mixer == "none"):
            raise ValueError("window=0 leaves no attention: it needs a mixer, and eidetic=0.")
        if self.window == 0 and self.fading_readout == "none":
            raise ValueError("window=0 with fading_readout='none' leaves nothing to put out.")
        if self.window and not 1 <= chunk <= self.window:
            raise ValueError(
                f"chunk={chunk} came with window={self.window}; 1 <= chunk <= window is needed, so that no "
                "token is neither in the window nor eligible."
            )
        object.__setattr__(self, "chunk", chunk)

    def _check_rule(self) -> None:
        if self.rule == "threshold" and self.false_alarm is None:
            object.__setattr__(self, "false_alarm", 0.01)
        if self.false_alarm is not None and not 0 < self.false_alarm < 1:
            raise ValueError(f"false_alarm={self.false_alarm} came; it must lie in (0, 1).")
        if self.eidetic and self.predictor == "residual" and self.mixer in SILENT:
            raise ValueError(
                f"predictor='residual' came with mixer={self.mixer!r}, which does not tell what its state "
                "failed to predict; 'gated_deltanet' and 'gated_kalmanet' do. Take one, or another predictor."
            )
        if self.eidetic and self.predictor == "state" and self.mixer == "none":
            raise ValueError(
                "predictor='state' came with mixer='none': there is no state to read. Try 'conv'."
            )

    def _check_effects(self) -> None:
        """Refuse what is set and would do nothing."""
        if self.mixer == "none" and self.mixer_options:
            raise ValueError(f"mixer_options={self.mixer_options} came with mixer='none'; leave them out.")
        for reason, absent, names in EFFECTS:
            if not absent(self):
                continue
            for name in names:
                value, default = getattr(self, name), self._default(name)
                if value != default:
                    raise ValueError(
                        f"{name}={value!r} came with {reason}, where it has no effect; leave it out "
                        f"({name}={default!r})."
                    )

    def _default(self, name: str) -> Any:
        """What an option is when it is left out."""
        filled = {
            "kv_heads": self.heads,
            "head_dim": self.head_dim if self.d_model % self.heads else self.d_model // self.heads,
            "chunk": max(1, self.window),
        }
        return filled[name] if name in filled else type(self).__dataclass_fields__[name].default

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values, from which `BMojoConfig(**values)` makes the same configuration."""
        return asdict(self)

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"{name}={value!r} came; the choices are {', '.join(map(repr, choices))}.")
