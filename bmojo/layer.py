"""`BMojo`: four memories in one layer."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor, nn

from bmojo.backends import narrowed, state_dtype
from bmojo.config import BMojoConfig
from bmojo.convolution import CausalConv
from bmojo.decoding import step_of
from bmojo.eidetic.predictor import attach
from bmojo.eidetic.predictors import PREDICTORS
from bmojo.fading import Innovative, make_mixer
from bmojo.packing import edges_of
from bmojo.passes import Stored, piece_of
from bmojo.projections import Projections
from bmojo.state import BMojoState, KeyValueRing
from bmojo.storage.memory import StoredMemory
from bmojo.trace import BMojoTrace
from realization.filtering.innovations import chi_squared_quantile

__all__ = ["BMojo", "prediction_loss"]


class BMojo(Projections):
    r"""Layer with four memories: in context, in weights, in state, in storage.

    For tokens $u_t$ with fading tokens $f = \mathrm{mixer}(u)$ and innovations $e_t = u_t - \hat u_{t|t-1}$:

    $$o_t = W_o \sum_{j \in \mathcal{W}_t \cup \mathcal{F}_t \cup \mathcal{M}_{c(t)} \cup \mathcal{R}}
    \operatorname{softmax}_j\!\big(q_t^\top k_j / \sqrt{d}\big)\, v_j \; + \; f_t$$

    with the window $\mathcal W_t = (t-w, t]$ of tokens, $\mathcal F_t = (t-2w, t-w]$ of fading tokens, the
    eidetic set $\mathcal M_c$ of the `m` most surprising tokens that have left the window, fixed during a
    chunk, and retrieved keys $\mathcal R$. Full pass, any chunking and single steps give the same.

    The predictor of the innovations learns from its own error: in training its loss is attached to the
    output, so that any loss that is propagated back through the layer trains it, and reaches nothing else.
    `prediction_loss` tells its value.

    Parameters
    ----------
    config : BMojoConfig

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> layer = BMojo(BMojoConfig(d_model=32, heads=4, window=8, eidetic=4, state_size=4)).eval()
    >>> x = torch.randn(2, 20, 32)
    >>> full = layer(x)
    >>> first, state = layer(x[:, :13], state=layer.init_state(2))
    >>> rest, state = layer(x[:, 13:], state=state)
    >>> bool(torch.allclose(full, torch.cat([first, rest], dim=1), atol=1e-5))
    True
    """

    seed: Tensor | None
    storage: StoredMemory | None = None
    # Of the tokens over which the predictor's loss is a mean, those of one pass: less than all where a batch
    # or a sequence is shared out.
    prediction_share: float = 1.0

    def __init__(self, config: BMojoConfig) -> None:
        super().__init__(config)
        self.mixer: Any = None
        if config.mixer != "none":
            sizes = {"d_model": config.d_model, "heads": config.heads, "state_size": config.state_size}
            self.mixer = make_mixer(config.mixer, **sizes, **config.mixer_options)
        self.dropout = nn.Dropout(config.dropout)
        self.last_prediction_loss: Tensor | None = None
        if config.window and config.short_conv:
            self.short_conv = CausalConv(config.d_model, config.short_conv)
        # Each layer keeps another sample; the seed is stored with the parameters.
        random = config.eidetic and config.rule == "random"
        self.register_buffer("seed", torch.randint(1 << 31, ()) if random else None)
        if config.eidetic:
            self._make_eidetic()

    def _make_eidetic(self) -> None:
        config = self.config
        if config.predictor == "residual" and not isinstance(self.mixer, Innovative):
            raise ValueError(
                f"predictor='residual' came with mixer={config.mixer!r}, which does not tell what its state "
                "failed to predict. Give it a method `innovations`, or choose another predictor."
            )
        self.predictor: Any = PREDICTORS[config.predictor](config)
        self.threshold: float | None = None
        if config.false_alarm is not None:
            channels = self.predictor.score.log_variance.numel()
            self.threshold = chi_squared_quantile(config.false_alarm, channels)
        if config.write_gate:
            self.gate = nn.Linear(config.d_model, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, 3.0)

    @property
    def steps(self) -> dict[str, int]:
        """`window`, and the tokens `chunk` between two changes of the eidetic set."""
        return {"window": self.config.window, "chunk": cast(int, self.config.chunk)}

    @property
    def listens(self) -> bool:
        """Whether the innovations are the mixer's own."""
        return self.config.eidetic > 0 and self.config.predictor == "residual"

    def init_state(self, batch: int, *, eidetic: int | None = None) -> BMojoState:
        """The state before the first token.

        Parameters
        ----------
        batch : int
            Number of sequences.
        eidetic : int, optional
            Places in the eidetic set; the configuration's when left out. The budget is the state's: it can
            be raised after training, which the width of a recurrent state cannot.

        Raises
        ------
        ValueError
            If places are asked for in a layer without an eidetic set, or none in one that has it.
        """
        config = self.config
        places = config.eidetic if eidetic is None else eidetic
        if (places > 0) != (config.eidetic > 0) or places < 0:
            raise ValueError(
                f"init_state: eidetic={eidetic} came; a layer made with eidetic={config.eidetic} takes "
                + ("at least 1 place." if config.eidetic else "none.")
            )
        weight = next(self.parameters())

        def zeros(*shape: int, dtype: torch.dtype = weight.dtype) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=weight.device)

        def ring(length: int) -> KeyValueRing:
            return KeyValueRing(
                zeros(length, self.groups, self.head_dim), zeros(length, self.groups, self.head_dim)
            )

        remembered, gates = config.window if places else 0, state_dtype(weight.dtype)
        return BMojoState(
            position=0,
            mixer=() if self.mixer is None else self.mixer.init_state(batch),
            conv_tail=zeros(max(config.short_conv - 1, 0) if config.window else 0, config.d_model),
            predictor=self.predictor.init_state(batch) if places else (),
            window=ring(config.window),
            fading=ring(2 * config.window if self.mixer is not None else 0),
            window_priority=zeros(remembered, dtype=torch.float64) - torch.inf,
            window_gate=zeros(remembered if config.write_gate else 0, dtype=gates),
            eidetic=ring(places),
            eidetic_index=zeros(places, dtype=torch.int64) - 1,
            eidetic_priority=zeros(places, dtype=torch.float64) - torch.inf,
            eidetic_gate=zeros(places if config.write_gate else 0, dtype=gates),
            place=None if self.storage is None else self.storage.begin(batch, weight.device),
        )

    def forward(
        self,
        u: Tensor,
        state: BMojoState | None = None,
        *,
        retrieved: Stored | None = None,
        cu_seqlens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, BMojoState]:
        """Outputs for tokens; with the new state where one came in.

        Parameters
        ----------
        u : Tensor, shape (B, T, D)
        state : BMojoState, optional
            From `init_state` or from the piece before.
        retrieved : tuple of Tensor, shape (B, R, kv_heads, head_dim), optional
            Keys and values from storage, seen by every query, without positions; a third (B, R) is added to
            their logits.
        cu_seqlens : Tensor of int, shape (S + 1,), optional
            Where packed sequences begin, and the end, from 0 to T, with a batch of 1: each gives what it
            alone would give. A state is then that of S sequences before their first tokens.
        mask : Tensor of bool, shape (B, T), optional
            False where there is padding, in front, behind or between: it is left out as if it were not
            there, its outputs are zero. A state is then one before the first tokens.

        Returns
        -------
        o : Tensor, shape (B, T, D)
            Alone where `state` is `None`, else with the new state: `(o, state)`.

        Raises
        ------
        ValueError
            If a shape does not fit the configuration, or a mask or packed sequences come with a state that
            has seen tokens.
        """
        if mask is not None:
            return self._masked(u, state, retrieved, cu_seqlens, mask)
        self._check(u, state, retrieved, cu_seqlens)
        if state is not None and state.position and (state.lacking is not None or u.shape[1] == 1):
            return self._stepped(u, state, retrieved)
        done = piece_of(self, narrowed(u), state, retrieved, cu_seqlens)
        read = None if done.memories is None else done.memories.read(**self.steps)
        output = self.finished(read, done.fading, None if done.worth is None else done.worth.loss)
        return output if state is None else (output, cast(BMojoState, done.state))

    def _stepped(self, u: Tensor, state: BMojoState, retrieved: Stored | None) -> tuple[Tensor, BMojoState]:
        """Token by token: one of them, or sequences that began at several positions."""
        outputs = []
        for token in u.unbind(1):
            output, state = step_of(self, narrowed(token), state, retrieved)
            outputs.append(output)
        return torch.stack(outputs, dim=1), state

    def _masked(
        self,
        u: Tensor,
        state: BMojoState | None,
        retrieved: Stored | None,
        cu_seqlens: Tensor | None,
        mask: Tensor,
    ) -> Tensor | tuple[Tensor, BMojoState]:
        """Padding is left out: the sequences are packed, and what comes out is laid back where they were."""
        if cu_seqlens is not None or mask.shape != u.shape[:2] or mask.dtype is not torch.bool:
            raise ValueError(
                f"BMojo: a mask {tuple(mask.shape)} of {mask.dtype} came with tokens {tuple(u.shape)}"
                + (
                    "; packed sequences have no padding."
                    if cu_seqlens is not None
                    else "; (B, T) of bool is needed."
                )
            )
        found: Any = self(u[mask].unsqueeze(0), state, retrieved=retrieved, cu_seqlens=edges_of(mask))
        output, state = (found, None) if state is None else found
        laid = output.new_zeros(*mask.shape, output.shape[-1])
        laid = laid.masked_scatter(mask.unsqueeze(-1), output)
        return laid if state is None else (laid, state)

    if TYPE_CHECKING:

        @overload
        def __call__(
            self,
            u: Tensor,
            state: None = None,
            *,
            retrieved: Stored | None = None,
            cu_seqlens: Tensor | None = None,
            mask: Tensor | None = None,
        ) -> Tensor: ...
        @overload
        def __call__(
            self,
            u: Tensor,
            state: BMojoState,
            *,
            retrieved: Stored | None = None,
            cu_seqlens: Tensor | None = None,
            mask: Tensor | None = None,
        ) -> tuple[Tensor, BMojoState]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run `forward`."""

    def step(
        self, u_t: Tensor, state: BMojoState, *, retrieved: Stored | None = None
    ) -> tuple[Tensor, BMojoState]:
        """One token (B, D) from a state: its output (B, D), and the state after it."""
        self._check(u_t.unsqueeze(1), state, retrieved)
        return step_of(self, narrowed(u_t), state, retrieved)

    @torch.no_grad()
    def trace(self, u: Tensor, *, retrieved: Stored | None = None) -> BMojoTrace:
        """What the layer does along tokens (B, T, D): scores, sets, and where attention goes."""
        self._check(u, None, retrieved)
        done = piece_of(self, narrowed(u), None, retrieved)
        read, names, mass = None, (), u.new_zeros(len(u), u.shape[1], self.config.heads, 0)
        if done.memories is not None:
            read, mass, names = done.memories.read_by_segment(**self.steps)
        index = None if done.memories is None else done.memories.index
        return BMojoTrace(
            self.finished(read, done.fading, None),
            torch.zeros_like(u) if done.fading is None else done.fading,
            u.new_zeros(u.shape[:2]) if done.worth is None else done.worth.scores,
            torch.empty(len(u), 0, 0, dtype=torch.int64, device=u.device) if index is None else index,
            names,
            mass.transpose(1, 2),
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a file takes the layer, not what its last pass left.
        return self.__dict__ | {"last_prediction_loss": None, "storage": None}

    def _check(
        self,
        u: Tensor,
        state: BMojoState | None,
        retrieved: Stored | None,
        cu_seqlens: Tensor | None = None,
    ) -> None:
        width, sequences = self.config.d_model, len(u)
        if u.ndim != 3 or u.shape[-1] != width or u.shape[1] == 0:
            raise ValueError(f"BMojo: tokens of shape {tuple(u.shape)} came; (B, T >= 1, {width}) is needed.")
        if cu_seqlens is not None:
            sequences = len(cu_seqlens) - 1
            if cu_seqlens.ndim != 1 or len(u) != 1 or sequences < 1:
                raise ValueError(
                    f"BMojo: cu_seqlens {tuple(cu_seqlens.shape)} came with tokens {tuple(u.shape)}; packed "
                    "sequences lie in a batch of 1, edges are (S + 1,)."
                )
            if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
                edges = cu_seqlens.tolist()  # on a GPU looking would stall it; there the kernels look
                if edges[0] != 0 or edges[-1] != u.shape[1] or edges != sorted(edges):
                    raise ValueError(
                        f"BMojo: cu_seqlens {edges} came for {u.shape[1]} tokens; edges begin at 0, end at "
                        f"{u.shape[1]} and never fall."
                    )
            if self.mixer is not None and "cu_seqlens" not in signature(self.mixer.forward).parameters:
                raise ValueError(
                    f"BMojo: packed sequences or a mask came, and mixer={self.config.mixer!r} takes no "
                    "`cu_seqlens`; give its forward one."
                )
            if state is not None and state.position:
                raise ValueError(
                    f"BMojo: packed sequences or a mask came with a state that has seen {state.position} "
                    "tokens; they begin anew, so that a fresh state is needed."
                )
        if state is not None and state.batch != sequences:
            raise ValueError(f"BMojo: a state for {state.batch} sequences came with {sequences} sequences.")
        ragged = cu_seqlens is not None or (state is not None and state.lacking is not None)
        if self.storage is not None and ragged:
            raise ValueError(
                "BMojo: packed sequences or a mask came to a layer with storage, whose streams are of whole "
                "batches; pass sequences of one length, or detach the storage."
            )
        if retrieved is None:
            return
        if self.config.window == 0:
            raise ValueError("BMojo: window=0 is the bare mixer, without attention to read `retrieved` with.")
        keys, values = retrieved[:2]
        needed = (sequences, keys.shape[1] if keys.ndim > 1 else 0, self.groups, self.head_dim)
        if keys.shape != needed or values.shape != needed:
            raise ValueError(
                f"BMojo: retrieved keys {tuple(keys.shape)} and values {tuple(values.shape)} came; both need "
                f"(B, R, kv_heads, head_dim) = {needed}."
            )

    def finished(self, read: Tensor | None, fading: Tensor | None, loss: Tensor | None) -> Tensor:
        """The output of what was read (..., H, d) and the fading tokens (..., D), the loss attached."""
        output = None if read is None else self.out_proj(read.flatten(-2))
        if fading is not None and self.config.fading_readout == "add":
            output = fading if output is None else output + fading
        output = self.dropout(cast(Tensor, output))
        if loss is None or not (self.training and torch.is_grad_enabled()):
            return output
        if not torch.compiler.is_compiling():
            self.last_prediction_loss = loss.detach()
        return attach(output, loss if self.prediction_share == 1.0 else loss * self.prediction_share)


def prediction_loss(module: nn.Module) -> Tensor:
    r"""Sum of the predictors' code lengths $\sum_\ell \tfrac12 \operatorname{mean}(e^2 / r + \log r)$.

    Of the last pass in training, to be watched: there is nothing to add to a loss, for the gradient of each
    is attached to its layer's output. Compiled passes leave no value.

    Parameters
    ----------
    module : torch.nn.Module
        A model with any number of `BMojo` layers in it.

    Returns
    -------
    loss : Tensor, a scalar of shape ()
        Without gradient; zero where no layer has an eidetic set or none was trained.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig, prediction_loss
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=1, window=4, eidetic=2, state_size=2))
    >>> layer(torch.randn(1, 9, 8)).square().mean().backward()
    >>> bool(layer.predictor.bias.grad.abs().sum() > 0), bool(prediction_loss(layer) > 0)
    (True, True)
    """
    losses = [layer.last_prediction_loss for layer in module.modules() if isinstance(layer, BMojo)]
    found = [loss for loss in losses if loss is not None]
    return torch.stack(found).sum() if found else torch.zeros(())
