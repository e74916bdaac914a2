"""`BMojo`: four memories in one layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.attention import Segment, attend, rotate
from bmojo.config import BMojoConfig
from bmojo.convolution import CausalConv
from bmojo.eidetic.predictor import PREDICTORS
from bmojo.eidetic.selection import advance_set, pool_rows, token_priority
from bmojo.fading import Mixer, make_mixer
from bmojo.state import BMojoState, KeyValueRing

__all__ = ["BMojo", "BMojoTrace", "prediction_loss"]


@dataclass(frozen=True, eq=False)
class BMojoTrace:
    """What a layer did along a sequence of `T` tokens.

    Parameters
    ----------
    output : Tensor, shape (B, T, D)
    fading : Tensor, shape (B, T, D)
        Fading tokens; zero without a mixer.
    scores : Tensor, shape (B, T)
        Normalized innovations squared, the write gate included.
    eidetic_index : Tensor of int64, shape (B, chunks, m)
        Positions in the set at the start of each chunk; -1 is an empty place.
    segments : tuple of str
    attention_mass : Tensor, shape (B, H, T, segments)
        How each query's attention is divided among the memories.
    """

    output: Tensor
    fading: Tensor
    scores: Tensor
    eidetic_index: Tensor
    segments: tuple[str, ...]
    attention_mass: Tensor


class _Grid(NamedTuple):
    """Chunks that a piece of `length` tokens from `position` on touches."""

    position: int
    length: int
    chunk: int
    device: torch.device

    @property
    def first(self) -> int:
        return self.position // self.chunk * self.chunk

    @property
    def count(self) -> int:
        return -(-(self.position + self.length - self.first) // self.chunk)

    def cut(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, n, C, ...), zero where a chunk reaches beyond the piece."""
        front = self.position - self.first
        back = self.count * self.chunk - front - self.length
        return F.pad(x, (0, 0) * (x.ndim - 2) + (front, back)).unflatten(1, (self.count, self.chunk))

    def join(self, x: Tensor) -> Tensor:
        """(B, n, C, ...) -> (B, T, ...)."""
        front = self.position - self.first
        return x.flatten(1, 2)[:, front : front + self.length]

    def queries(self) -> Tensor:
        """Positions of the queries, shape (n, C)."""
        return self.first + torch.arange(self.count * self.chunk, device=self.device).view(self.count, self.chunk)

    def keys(self, oldest: int, window: int) -> Tensor:
        """Positions that the chunks' queries meet `oldest` to `oldest - window + 1` back, shape (n, window + C - 1)."""
        starts = self.first + torch.arange(self.count, device=self.device) * self.chunk
        return starts.unsqueeze(1) - oldest + torch.arange(window + self.chunk - 1, device=self.device)


class BMojo(nn.Module):
    r"""Layer with four memories: in context, in weights, in state, in storage.

    For tokens $u_t$ with fading tokens $f = \mathrm{mixer}(u)$ and innovations $e_t = u_t - \hat u_{t|t-1}$:

    $$o_t = W_o \sum_{j \in \mathcal{W}_t \cup \mathcal{F}_t \cup \mathcal{M}_{c(t)} \cup \mathcal{R}}
    \operatorname{softmax}_j\!\big(q_t^\top k_j / \sqrt{d}\big)\, v_j \; + \; f_t$$

    with the window $\mathcal W_t = (t-w, t]$ of tokens, $\mathcal F_t = (t-2w, t-w]$ of fading tokens, the
    eidetic set $\mathcal M_c$ of the `m` most surprising tokens that have left the window, fixed during a chunk,
    and retrieved keys $\mathcal R$. Full pass, any chunking and single steps give the same.

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
        width = config.d_model
        heads, groups, head_dim = config.heads, cast(int, config.kv_heads), cast(int, config.head_dim)
        self.mixer: Mixer | None = None
        if config.mixer != "none":
            self.mixer = make_mixer(config.mixer, d_model=width, heads=heads, state_size=config.state_size)
        self.dropout = nn.Dropout(config.dropout)
        self._last_prediction_loss: Tensor | None = None
        if config.window == 0:
            return
        self.widths = [heads * head_dim, groups * head_dim, groups * head_dim]
        if config.short_conv:
            self.short_conv = CausalConv(width, config.short_conv)
        self.in_proj = nn.Linear(width, sum(self.widths), bias=False)
        if self.mixer is not None and not config.tie_projections:
            self.fading_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.out_proj = nn.Linear(heads * head_dim, width, bias=False)
        if config.qk_norm:
            self.query_norm, self.key_norm = nn.RMSNorm(head_dim, eps=1e-6), nn.RMSNorm(head_dim, eps=1e-6)
        if config.eidetic:
            self.predictor = PREDICTORS[config.predictor](width)
            if config.eidetic_norm:
                self.eidetic_query_norm = nn.RMSNorm(head_dim, eps=1e-6)
                self.eidetic_key_norm = nn.RMSNorm(head_dim, eps=1e-6)
                self.eidetic_gain = nn.Parameter(torch.ones(heads))
            if config.write_gate:
                self.gate = nn.Linear(width, 1)
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
        places = self.config.eidetic if eidetic is None else eidetic
        if (places > 0) != (self.config.eidetic > 0) or places < 0:
            raise ValueError(
                f"init_state: eidetic={eidetic} came; a layer made with eidetic={self.config.eidetic} takes "
                + ("at least 1 place." if self.config.eidetic else "none.")
            )
        weight = next(self.parameters())
        config, groups, head_dim = self.config, cast(int, self.config.kv_heads), cast(int, self.config.head_dim)

        def zeros(*shape: int, dtype: torch.dtype = weight.dtype) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=weight.device)

        def ring(length: int) -> KeyValueRing:
            return KeyValueRing(zeros(length, groups, head_dim), zeros(length, groups, head_dim))

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
        self, u: Tensor, state: BMojoState | None = None, *, retrieved: tuple[Tensor, Tensor] | None = None
    ) -> Any:
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
        trace, new_state = self._run(u, self.init_state(len(u)) if state is None else state, retrieved)
        return trace.output if state is None else (trace.output, new_state)

    def step(
        self, u_t: Tensor, state: BMojoState, *, retrieved: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, BMojoState]:
        """One token (B, D) from a state: its output (B, D), and the state after it."""
        output, state = self.forward(u_t.unsqueeze(1), state, retrieved=retrieved)
        return output.squeeze(1), state

    @torch.no_grad()
    def trace(self, u: Tensor, *, retrieved: tuple[Tensor, Tensor] | None = None) -> BMojoTrace:
        """What the layer does along tokens (B, T, D): scores, sets, and where attention goes."""
        return self._run(u, self.init_state(len(u)), retrieved)[0]

    def _run(
        self, u: Tensor, state: BMojoState, retrieved: tuple[Tensor, Tensor] | None
    ) -> tuple[BMojoTrace, BMojoState]:
        config = self.config
        if u.ndim != 3 or u.shape[-1] != config.d_model or u.shape[1] == 0:
            raise ValueError(f"BMojo: tokens of shape {tuple(u.shape)} came; (B, T >= 1, {config.d_model}) is needed.")
        if len(state.eidetic_index) != len(u):
            raise ValueError(f"BMojo: a state for {len(state.eidetic_index)} sequences came with {len(u)} sequences.")
        fading, mixer_state = torch.zeros_like(u), state.mixer
        if self.mixer is not None:
            fading, mixer_state = self.mixer(u, state.mixer)
        parts: dict[str, Any] = {"mixer": mixer_state, "position": state.position + u.shape[1]}
        batch, length = u.shape[:2]
        if config.window == 0:
            nothing = u.new_zeros(batch, config.heads, length, 0)
            trace = BMojoTrace(self.dropout(fading), fading, u.new_zeros(batch, length), _no_index(u), (), nothing)
            return trace, replace(state, **parts)
        attention, mass, names, scores, index, rest = self._attention(u, fading, state, retrieved)
        output = self.out_proj(attention.flatten(-2))
        if config.fading_readout == "add":
            output = output + fading
        trace = BMojoTrace(self.dropout(output), fading, scores, index, names, mass.transpose(1, 2))
        return trace, BMojoState(**parts, **rest)

    def _attention(
        self, u: Tensor, fading: Tensor, state: BMojoState, retrieved: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, tuple[str, ...], Tensor, Tensor, dict[str, Any]]:
        config, window = self.config, self.config.window
        grid = _Grid(state.position, u.shape[1], cast(int, config.chunk), u.device)
        tokens, conv_tail = u, state.conv_tail
        if config.short_conv:
            tokens, conv_tail = self.short_conv(u, state.conv_tail)
        queries, keys, values = self._project(self.in_proj, tokens)
        recent = state.window.extended(keys, values)
        faded, fading_queries = state.fading, queries
        if self.mixer is not None:
            projection = self.in_proj if config.tie_projections else self.fading_proj
            _, fading_keys, fading_values = self._project(projection, fading)
            fading_queries = queries if config.tie_projections else self._project(projection, tokens)[0]
            faded = state.fading.extended(fading_keys, fading_values)

        at = torch.arange(u.shape[1], device=u.device) + state.position
        own = self._turned(queries, at, "own", query=True)
        segments = [self._near(grid, "window", recent, own, window - 1, window, position="own")]
        far = config.eidetic_position
        if self.mixer is not None:
            if not config.tie_projections or far != "own":
                fading_queries = self._turned(fading_queries, at, far, query=True)
            else:
                fading_queries = own
            segments.append(self._near(grid, "fading", faded, fading_queries, 2 * window - 1, window, position=far))
        scores, index, rest = u.new_zeros(u.shape[:2]), _no_index(u), {}
        if config.eidetic:
            segment, scores, index, rest = self._eidetic(grid, u, queries, recent, state)
            segments.append(segment)
        if retrieved is not None:
            segments.append(self._retrieved(grid, queries, retrieved))
        out, mass = attend(segments, scale=cast(int, config.head_dim) ** -0.5)
        rest = {
            "predictor_tail": state.predictor_tail,
            "window_priority": state.window_priority,
            "window_gate": state.window_gate,
            "eidetic": state.eidetic,
            "eidetic_index": state.eidetic_index,
            "eidetic_priority": state.eidetic_priority,
            "eidetic_gate": state.eidetic_gate,
        } | rest
        rest |= {"conv_tail": conv_tail, "window": recent.latest(window), "fading": faded.latest(state.fading.keys.shape[1])}
        names = tuple(segment.name for segment in segments)
        return grid.join(out), grid.join(mass), names, scores, index, rest

    def _project(self, projection: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, d), keys and values (B, T, G, d), normed where the configuration says so."""
        head_dim = cast(int, self.config.head_dim)
        queries, keys, values = (
            part.unflatten(-1, (-1, head_dim)) for part in projection(x).split(self.widths, dim=-1)
        )
        if self.config.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        return queries, keys, values

    def _turned(self, x: Tensor, at: Tensor, position: str, *, query: bool) -> Tensor:
        """Queries or keys turned to their positions: their own, the window's edge (a distance of `w`), or none."""
        if not self.config.rotary or position == "none":
            return x
        if position == "edge":
            return rotate(x, torch.full_like(at, self.config.window)) if query else x
        return rotate(x, at)

    def _near(
        self, grid: _Grid, name: str, ring: KeyValueRing, queries: Tensor, oldest: int, window: int, *, position: str
    ) -> Segment:
        """Segment of consecutive positions, `oldest` to `oldest - window + 1` back from each query."""
        pooled = ring.keys.shape[1]
        positions = torch.arange(pooled, device=grid.device) + (grid.position + grid.length - pooled)
        turned = self._turned(ring.keys, positions, position, query=False)
        key_at = grid.keys(oldest, window)
        rows = (key_at - positions[0]).clamp(0, pooled - 1)
        back = grid.queries().unsqueeze(-1) - key_at.unsqueeze(1)
        visible = (back <= oldest) & (back > oldest - window) & (key_at >= 0).unsqueeze(1)
        keys, values = (x.index_select(1, rows.flatten()).unflatten(1, rows.shape) for x in (turned, ring.values))
        return Segment(name, grid.cut(queries), keys, values, visible.unsqueeze(0))

    def _eidetic(
        self, grid: _Grid, u: Tensor, queries: Tensor, recent: KeyValueRing, state: BMojoState
    ) -> tuple[Segment, Tensor, Tensor, dict[str, Any]]:
        config, window = self.config, self.config.window
        scores, loss, predictor_tail = self.predictor(u, state.predictor_tail)
        self._last_prediction_loss = loss
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
            state.eidetic_index, state.eidetic_priority, priority, position=state.position, window=window, chunk=grid.chunk
        )
        pool = KeyValueRing(
            torch.cat([state.eidetic.keys, recent.keys], dim=1), torch.cat([state.eidetic.values, recent.values], dim=1)
        )
        start = state.position - window
        rows = pool_rows(index, state.eidetic_index, start)
        kept_rows = pool_rows(kept.unsqueeze(1), state.eidetic_index, start)
        keys, values = _take(pool.keys, rows), _take(pool.values, rows)
        visible = (index.unsqueeze(2) >= 0) & (index.unsqueeze(2) <= grid.queries().unsqueeze(-1) - window)
        if config.eidetic_norm:
            queries = self.eidetic_query_norm(queries) * self.eidetic_gain.unsqueeze(-1)
            keys = self.eidetic_key_norm(keys)
        at = torch.arange(u.shape[1], device=u.device) + state.position
        queries = self._turned(queries, at, config.eidetic_position, query=True)
        keys = self._turned(keys, index, config.eidetic_position, query=False)
        bias = None if gate is None else _take(gate, rows)
        rest = {
            "predictor_tail": predictor_tail,
            "window_priority": priority[:, -window:],
            "eidetic": KeyValueRing(_take(pool.keys, kept_rows).squeeze(1), _take(pool.values, kept_rows).squeeze(1)),
            "eidetic_index": kept,
            "eidetic_priority": kept_priority,
        }
        if gate is not None:
            rest |= {"window_gate": gate[:, -window:], "eidetic_gate": _take(gate, kept_rows).squeeze(1)}
        return Segment("eidetic", grid.cut(queries), keys, values, visible, bias), scores, index, rest

    def _retrieved(self, grid: _Grid, queries: Tensor, retrieved: tuple[Tensor, Tensor]) -> Segment:
        keys, values = retrieved
        needed = (len(queries), keys.shape[1] if keys.ndim > 1 else 0, self.config.kv_heads, self.config.head_dim)
        if keys.shape != needed or values.shape != needed:
            raise ValueError(
                f"BMojo: retrieved keys {tuple(keys.shape)} and values {tuple(values.shape)} came; both need "
                f"(B, R, kv_heads, head_dim) = {needed}."
            )
        visible = torch.ones(1, 1, grid.chunk, needed[1], dtype=torch.bool, device=keys.device)
        cut = grid.cut(queries)
        expand = (-1, grid.count, -1, -1, -1)
        return Segment(
            "retrieved",
            cut,
            keys.unsqueeze(1).expand(expand),
            values.unsqueeze(1).expand(expand),
            visible.expand(-1, grid.count, -1, -1),
        )


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
    losses = [layer._last_prediction_loss for layer in module.modules() if isinstance(layer, BMojo)]
    found = [loss for loss in losses if loss is not None]
    return torch.stack(found).sum() if found else torch.zeros(())


def _take(pool: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, n, m) of a pool (B, L, ...), as (B, n, m, ...)."""
    batch, length = pool.shape[:2]
    offset = torch.arange(batch, device=pool.device)[:, None, None] * length
    return pool.flatten(0, 1).index_select(0, (rows + offset).flatten()).unflatten(0, rows.shape)


def _no_index(u: Tensor) -> Tensor:
    return torch.empty(len(u), 0, 0, dtype=torch.int64, device=u.device)
