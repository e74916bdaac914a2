"""`BMojo`: four memories in one layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.attention import Positions, Segment, attend, consecutive
from bmojo.chunks import Chunks
from bmojo.config import BMojoConfig
from bmojo.convolution import CausalConv, latest
from bmojo.eidetic.predictor import PREDICTORS
from bmojo.eidetic.selection import Judged, advance_set, pool_rows, take, token_priority
from bmojo.fading import Mixer, make_mixer
from bmojo.state import BMojoState, KeyValueRing
from bmojo.trace import BMojoTrace

__all__ = ["BMojo", "prediction_loss"]

Stored = tuple[Tensor, Tensor]  # keys and values from storage, each (B, R, kv_heads, head_dim)


class BMojo(nn.Module):
    r"""Layer with four memories: in context, in weights, in state, in storage.

    For tokens $u_t$ with fading tokens $f = \mathrm{mixer}(u)$ and innovations $e_t = u_t - \hat u_{t|t-1}$:

    $$o_t = W_o \sum_{j \in \mathcal{W}_t \cup \mathcal{F}_t \cup \mathcal{M}_{c(t)} \cup \mathcal{R}}
    \operatorname{softmax}_j\!\big(q_t^\top k_j / \sqrt{d}\big)\, v_j \; + \; f_t$$

    with the window $\mathcal W_t = (t-w, t]$ of tokens, $\mathcal F_t = (t-2w, t-w]$ of fading tokens, the
    eidetic set $\mathcal M_c$ of the `m` most surprising tokens that have left the window, fixed during a
    chunk, and retrieved keys $\mathcal R$. Full pass, any chunking and single steps give the same.

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

    def __init__(self, config: BMojoConfig) -> None:
        super().__init__()
        self.config = config
        # The configuration has filled in what was left out.
        self.groups, self.head_dim = cast(int, config.kv_heads), cast(int, config.head_dim)
        self.mixer: Mixer | None = None
        if config.mixer != "none":
            self.mixer = make_mixer(
                config.mixer, d_model=config.d_model, heads=config.heads, state_size=config.state_size
            )
        self.dropout = nn.Dropout(config.dropout)
        self._prediction_loss: Tensor | None = None
        rotary = "own" if config.rotary else "none"
        self.positions = Positions(rotary, config.window)
        self.far_positions = Positions(config.eidetic_position if config.rotary else "none", config.window)
        if config.window:
            self._make_attention()
        if config.eidetic:
            self._make_eidetic()

    def _make_attention(self) -> None:
        config, width = self.config, self.config.d_model
        self.widths = [config.heads * self.head_dim, self.groups * self.head_dim, self.groups * self.head_dim]
        if config.short_conv:
            self.short_conv = CausalConv(width, config.short_conv)
        self.in_proj = nn.Linear(width, sum(self.widths), bias=False)
        if self.mixer is not None and not config.tie_projections:
            self.fading_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.out_proj = nn.Linear(config.heads * self.head_dim, width, bias=False)
        if config.qk_norm:
            self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
            self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-6)

    def _make_eidetic(self) -> None:
        config = self.config
        self.predictor = PREDICTORS[config.predictor](config.d_model)
        if config.eidetic_norm:
            self.eidetic_query_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
            self.eidetic_key_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
            self.eidetic_gain = nn.Parameter(torch.ones(config.heads))
        if config.write_gate:
            self.gate = nn.Linear(config.d_model, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, 3.0)

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

        remembered = config.window if places else 0
        return BMojoState(
            position=0,
            mixer=() if self.mixer is None else self.mixer.init_state(batch),
            conv_tail=zeros(max(config.short_conv - 1, 0) if config.window else 0, config.d_model),
            predictor_tail=self.predictor.init_tail(batch) if places else zeros(0, config.d_model),
            window=ring(config.window),
            fading=ring(2 * config.window if self.mixer is not None else 0),
            window_priority=zeros(remembered, dtype=torch.float64) - torch.inf,
            window_gate=zeros(remembered if config.write_gate else 0),
            eidetic=ring(places),
            eidetic_index=zeros(places, dtype=torch.int64) - 1,
            eidetic_priority=zeros(places, dtype=torch.float64) - torch.inf,
            eidetic_gate=zeros(places if config.write_gate else 0),
        )

    def forward(
        self, u: Tensor, state: BMojoState | None = None, *, retrieved: Stored | None = None
    ) -> Tensor | tuple[Tensor, BMojoState]:
        """Outputs for tokens; with the new state where one came in.

        Parameters
        ----------
        u : Tensor, shape (B, T, D)
        state : BMojoState, optional
            From `init_state` or from the piece before.
        retrieved : pair of Tensor, shape (B, R, kv_heads, head_dim), optional
            Keys and values from storage, seen by every query, without positions.

        Returns
        -------
        o : Tensor, shape (B, T, D)
            Alone where `state` is `None`, else with the new state: `(o, state)`.

        Raises
        ------
        ValueError
            If a shape does not fit the configuration.
        """
        trace, new_state, self._prediction_loss = self._run(u, state, retrieved)
        return trace.output if state is None else (trace.output, new_state)

    if TYPE_CHECKING:

        @overload
        def __call__(self, u: Tensor, state: None = None, *, retrieved: Stored | None = None) -> Tensor: ...
        @overload
        def __call__(
            self, u: Tensor, state: BMojoState, *, retrieved: Stored | None = None
        ) -> tuple[Tensor, BMojoState]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run `forward`."""

    def step(
        self, u_t: Tensor, state: BMojoState, *, retrieved: Stored | None = None
    ) -> tuple[Tensor, BMojoState]:
        """One token (B, D) from a state: its output (B, D), and the state after it."""
        output, state = self(u_t.unsqueeze(1), state, retrieved=retrieved)
        return output.squeeze(1), state

    @torch.no_grad()
    def trace(self, u: Tensor, *, retrieved: Stored | None = None) -> BMojoTrace:
        """What the layer does along tokens (B, T, D): scores, sets, and where attention goes."""
        return self._run(u, None, retrieved)[0]

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a file takes the layer, not the graph of its last pass (which cannot be copied).
        return self.__dict__ | {"_prediction_loss": None}

    def _run(
        self, u: Tensor, state: BMojoState | None, retrieved: Stored | None
    ) -> tuple[BMojoTrace, BMojoState, Tensor | None]:
        config = self.config
        if u.ndim != 3 or u.shape[-1] != config.d_model or u.shape[1] == 0:
            raise ValueError(
                f"BMojo: tokens of shape {tuple(u.shape)} came; (B, T >= 1, {config.d_model}) is needed."
            )
        state = self.init_state(len(u)) if state is None else state
        if len(state.eidetic_index) != len(u):
            raise ValueError(
                f"BMojo: a state for {len(state.eidetic_index)} sequences came with {len(u)} sequences."
            )
        if config.window == 0 and retrieved is not None:
            raise ValueError("BMojo: window=0 is the bare mixer, without attention to read `retrieved` with.")
        fading, mixer = torch.zeros_like(u), state.mixer
        if self.mixer is not None:
            fading, mixer = self.mixer(u, state.mixer)
        judged = self._judge(u, state) if config.eidetic else None
        updates: dict[str, Any] = {"position": state.position + u.shape[1], "mixer": mixer}
        if config.window:
            output, mass, names, rings = self._attention(u, fading, state, judged, retrieved)
            updates |= rings
        else:
            output, mass, names = torch.zeros_like(u), u.new_zeros(len(u), u.shape[1], config.heads, 0), ()
        if config.fading_readout == "add":
            output = output + fading
        no_index = torch.empty(len(u), 0, 0, dtype=torch.int64, device=u.device)
        trace = BMojoTrace(
            self.dropout(output),
            fading,
            u.new_zeros(u.shape[:2]) if judged is None else judged.scores,
            no_index if judged is None else judged.index,
            names,
            mass.transpose(1, 2),
        )
        return trace, replace(state, **updates), None if judged is None else judged.loss

    def _judge(self, u: Tensor, state: BMojoState) -> Judged:
        config = self.config
        scores, loss, predictor_tail = self.predictor(u, state.predictor_tail)
        gate = None
        if config.write_gate:
            log_gate = F.logsigmoid(self.gate(u).squeeze(-1))
            scores = scores * log_gate.detach().exp()
            gate = torch.cat([state.eidetic_gate, state.window_gate, log_gate], dim=1)
        priority = token_priority(
            scores,
            u.detach().square().sum(-1),
            rule=config.rule,
            start=state.position,
            degrees=config.d_model,
            false_alarm=config.false_alarm,
        )
        priority = torch.cat([state.window_priority, priority], dim=1)
        index, kept, kept_priority = advance_set(
            state.eidetic_index,
            state.eidetic_priority,
            priority,
            position=state.position,
            window=config.window,
            chunk=cast(int, config.chunk),
        )
        return Judged(scores, priority, gate, index, kept, kept_priority, predictor_tail, loss)

    def _attention(
        self,
        u: Tensor,
        fading: Tensor,
        state: BMojoState,
        judged: Judged | None,
        retrieved: Stored | None,
    ) -> tuple[Tensor, Tensor, tuple[str, ...], dict[str, Any]]:
        """Output, mass (B, T, H, segments) by named segment, and what changes in the state."""
        config, window = self.config, self.config.window
        chunks = Chunks.of(
            position=state.position, length=u.shape[1], chunk=cast(int, config.chunk), device=u.device
        )
        tokens, conv_tail = u, state.conv_tail
        if config.short_conv:
            tokens, conv_tail = self.short_conv(u, state.conv_tail)
        queries, keys, values = self._project(self.in_proj, tokens)
        recent = state.window.extended(keys, values)
        segments = [consecutive("window", chunks, queries, recent, self.positions, ends=(window - 1, 0))]
        updates: dict[str, Any] = {"conv_tail": conv_tail, "window": recent.latest(window)}
        if self.mixer is not None:
            projection = self.in_proj if config.tie_projections else self.fading_proj
            _, keys, values = self._project(projection, fading)
            readers = queries if config.tie_projections else self._project(projection, tokens)[0]
            faded = state.fading.extended(keys, values)
            ends = (2 * window - 1, window)
            segments.append(consecutive("fading", chunks, readers, faded, self.far_positions, ends=ends))
            updates["fading"] = faded.latest(2 * window)
        if judged is not None:
            segment, places = self._eidetic(chunks, queries, recent, judged, state)
            segments.append(segment)
            updates |= places
        if retrieved is not None:
            segments.append(self._retrieved(chunks, queries, retrieved))
        out, mass = attend(segments, scale=self.head_dim**-0.5)
        output = self.out_proj(chunks.join(out).flatten(-2))
        return output, chunks.join(mass), tuple(segment.name for segment in segments), updates

    def _project(self, projection: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, d), keys and values (B, T, G, d), normed where the configuration says so."""
        queries, keys, values = (
            part.unflatten(-1, (-1, self.head_dim)) for part in projection(x).split(self.widths, dim=-1)
        )
        if self.config.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        return queries, keys, values

    def _eidetic(
        self, chunks: Chunks, queries: Tensor, recent: KeyValueRing, judged: Judged, state: BMojoState
    ) -> tuple[Segment, dict[str, Any]]:
        """Segment of the kept tokens, and the places after the piece.

        The pool that sets are taken from holds the places first, then the window and the piece.
        """
        config, window = self.config, self.config.window
        pool = state.eidetic.extended(recent.keys, recent.values)
        start = state.position - window
        rows = pool_rows(judged.index, state.eidetic_index, start)
        kept_rows = pool_rows(judged.kept.unsqueeze(1), state.eidetic_index, start)
        keys, values = pool.take(rows)
        if config.eidetic_norm:
            queries = self.eidetic_query_norm(queries) * self.eidetic_gain.unsqueeze(-1)
            keys = self.eidetic_key_norm(keys)
        index = judged.index.unsqueeze(2)
        segment = Segment(
            "eidetic",
            chunks.cut(self.far_positions.queries(queries, chunks.tokens())),
            self.far_positions.keys(keys, judged.index),
            values,
            visible=(index >= 0) & (index <= chunks.queries().unsqueeze(-1) - window),
            bias=None if judged.log_gate is None else take(judged.log_gate, rows),
        )
        updates = {
            "predictor_tail": judged.predictor_tail,
            "window_priority": latest(judged.priority, window),
            "eidetic": KeyValueRing(*(x.squeeze(1) for x in pool.take(kept_rows))),
            "eidetic_index": judged.kept,
            "eidetic_priority": judged.kept_priority,
        }
        if judged.log_gate is not None:
            updates["window_gate"] = latest(judged.log_gate, window)
            updates["eidetic_gate"] = take(judged.log_gate, kept_rows).squeeze(1)
        return segment, updates

    def _retrieved(self, chunks: Chunks, queries: Tensor, retrieved: Stored) -> Segment:
        keys, values = retrieved
        needed = (len(queries), keys.shape[1] if keys.ndim > 1 else 0, self.groups, self.head_dim)
        if keys.shape != needed or values.shape != needed:
            raise ValueError(
                f"BMojo: retrieved keys {tuple(keys.shape)} and values {tuple(values.shape)} came; both need "
                f"(B, R, kv_heads, head_dim) = {needed}."
            )
        keys, values = (x.unsqueeze(1).expand(-1, chunks.count, -1, -1, -1) for x in (keys, values))
        visible = torch.ones(1, chunks.count, chunks.size, needed[1], dtype=torch.bool, device=keys.device)
        return Segment("retrieved", chunks.cut(queries), keys, values, visible)


def prediction_loss(module: nn.Module) -> Tensor:
    r"""Sum of the predictors' squared errors $\sum_\ell \operatorname{mean} e^2$ of the last forward pass.

    Add it to the loss of the task: its gradient reaches the predictors alone, whose inputs and targets are
    detached, so its weight matters only for their own learning rate.

    Parameters
    ----------
    module : torch.nn.Module
        A model with any number of `BMojo` layers in it.

    Returns
    -------
    loss : Tensor, a scalar of shape ()
        Zero where no layer has an eidetic set.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig, prediction_loss
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=1, window=4, eidetic=2, state_size=2))
    >>> loss = layer(torch.randn(1, 9, 8)).square().mean() + prediction_loss(layer)
    >>> loss.backward()
    >>> bool(layer.predictor.bias.grad.abs().sum() > 0)
    True
    """
    losses = [layer._prediction_loss for layer in module.modules() if isinstance(layer, BMojo)]
    found = [loss for loss in losses if loss is not None]
    return torch.stack(found).sum() if found else torch.zeros(())
