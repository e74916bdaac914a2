"""The memory of a signal model: a B'MOJO layer whose read-out drives the loop, trained through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bmojo.bridge.signal_model.loop import Loop
from bmojo.bridge.signal_model.static import Spans, held_out_fit
from bmojo.config import BMojoConfig
from bmojo.layer import BMojo
from bmojo.state import BMojoState

__all__ = ["Member", "MemoryCorrection", "train_memory"]

Array = NDArray[np.float64]
STATE_SCALE = 0.1  # of the state's drive: an increment, not a level
EVERY = 10


class MemoryCorrection(nn.Module):
    r"""What a B'MOJO layer adds to a loop, having seen where it would go without.

    $$z_t = P\, [u_t, \bar x_t, \bar y_t], \qquad
    [w_t, v_t] = R \tanh\!\big(z_t + \mathrm{BMojo}(z)_t\big)$$

    with the state and output $\bar x, \bar y$ of the loop alone, in units of their spread; `R` starts at 0.

    Parameters
    ----------
    config : BMojoConfig
    inputs, states, outputs : int
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: BMojoConfig, inputs: int, states: int, outputs: int) -> None:
        super().__init__()
        self.states = states
        columns = inputs + states + outputs
        self.embed = nn.Linear(columns, config.d_model)
        self.layer = BMojo(config)
        self.readout = nn.Linear(config.d_model, states + outputs, bias=False)
        nn.init.zeros_(self.readout.weight)
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.double()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Drives of the state (B, T, n) and of the output (B, T, p), for tokens (B, T, m + n + p)."""
        z = self.embed((tokens - self.mean) / self.scale)
        return self._drives(z, self.layer(z))

    def step(self, token: Tensor, state: BMojoState) -> tuple[Tensor, Tensor, BMojoState]:
        """Drives (B, n) and (B, p) for one token (B, m + n + p), and the layer's state after it."""
        z = self.embed((token - self.mean) / self.scale)
        found, state = self.layer.step(z, state)
        return *self._drives(z, found), state

    def _drives(self, z: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        drives = self.readout(torch.tanh(z + found))
        return STATE_SCALE * drives[..., : self.states], drives[..., self.states :]


@dataclass(frozen=True, eq=False)
class Member:
    """One simulator: a loop, and where it helps on what was held out, a memory.

    Parameters
    ----------
    loop : Loop
    memory : MemoryCorrection or None
    hold : (int, int)
        Rows of the record that chose it.
    fits : tuple of float
        On those rows: of the linear model, with the static correction, with the memory.
    """

    loop: Loop
    memory: MemoryCorrection | None
    hold: tuple[int, int]
    fits: tuple[float, float, float]

    def drives(self, u: Array, x0: Array) -> tuple[Array, Array] | None:
        """The memory's drives (T, n) and (T, p), for inputs (T, m) and a first state (n,)."""
        if self.memory is None:
            return None
        with torch.no_grad():
            found = self.memory(torch.from_numpy(tokens_of(self.loop, u, x0)).unsqueeze(0))
        return found[0][0].numpy(), found[1][0].numpy()

    def simulate(self, u: Array, x0: Array) -> Array:
        """Outputs (T, p) for inputs (T, m) and a first state (n,)."""
        return self.loop.simulate(u, x0, self.drives(u, x0))[0]

    def first_state(self, u: Array, y: Array) -> Array:
        """Least-squares first state (n,), the memory's drives held while it is looked for, twice."""
        x0 = self.loop.first_state(u, y)
        for _ in range(0 if self.memory is None else 2):
            x0 = self.loop.first_state(u, y, start=x0, drives=self.drives(u, x0))
        return x0


def tokens_of(loop: Loop, u: Array, x0: Array) -> Array:
    """What the memory sees, (T, m + n + p): the input, and state and output of the loop alone."""
    y, x = loop.simulate(u, x0)
    return np.concatenate([u, x[:-1], y], axis=1)


class _Simulation(torch.autograd.Function):
    """Outputs (B, T, p) of a loop as a function of its drives."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, v: Tensor, loop: Loop, u: Array, x0: Array) -> Tensor:
        ctx.loop, ctx.runs = loop, []
        for i in range(len(u)):
            y, x = loop.simulate(u[i], x0[i], (w[i].detach().numpy(), v[i].detach().numpy()))
            ctx.runs.append((u[i], x, y))
        return torch.from_numpy(np.stack([y for _, _, y in ctx.runs]))

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        found = [
            ctx.loop.adjoint(*run, np.ascontiguousarray(slope.numpy()))
            for run, slope in zip(ctx.runs, slopes[0], strict=True)
        ]
        by_w, by_v = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
        return by_w, by_v, None, None, None


def train_memory(
    member: Member,
    u: Array,
    y: Array,
    spans: Spans,
    config: BMojoConfig,
    *,
    seed: int,
    steps: int,
    window: int,
    rate: float = 1e-2,
    batch: int = 4,
    advance: Callable[[], None] = lambda: None,
) -> Member:
    """A member with the memory that was best on its held-out rows, or as it came where none was better.

    Adam on the simulation error of windows drawn at random; each starts in the state of the loop alone and
    with an empty memory.

    Parameters
    ----------
    member : Member
    u : ndarray, shape (T, m)
    y : ndarray, shape (T, p)
    spans : sequence of (int, int)
        Rows to train on.
    config : BMojoConfig
    seed, steps, window : int
    rate : float
    batch : int
        Windows a step.
    advance : callable
        Called after each step.
    """
    loop, hold = member.loop, slice(*member.hold)
    (m, n, p), rng = (u.shape[1], len(loop.A), y.shape[1]), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = MemoryCorrection(config, m, n, p)
    tracks = [tokens_of(loop, u[a:b], loop.first_state(u[a:b], y[a:b])) for a, b in spans]
    seen = torch.from_numpy(np.concatenate(tracks))
    memory.mean.copy_(seen.mean(dim=0))
    memory.scale.copy_(seen.std(dim=0) + 1e-9)
    length = min(window, *(len(track) for track in tracks))
    room = np.array([len(track) - length + 1 for track in tracks])
    optimizer = torch.optim.Adam(memory.parameters(), lr=rate)
    best_fit, kept = member.fits[1], None
    for step in range(1, steps + 1):
        which = rng.choice(len(tracks), batch, p=room / room.sum())
        at = [(int(k), int(rng.integers(room[k]))) for k in which]
        windows = np.stack([tracks[k][a : a + length] for k, a in at])
        aim = np.stack([y[spans[k][0] + a : spans[k][0] + a + length] for k, a in at])
        memory.train()
        w, v = memory(torch.from_numpy(windows))
        inputs, first = np.ascontiguousarray(windows[..., :m]), windows[:, 0, m : m + n].copy()
        found: Any = _Simulation.apply(w, v, loop, inputs, first)
        loss = (found - torch.from_numpy(aim)).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 10) * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(memory.parameters(), 1.0)
        optimizer.step()
        advance()
        if step % EVERY == 0 or step == steps:
            memory.eval()
            trial = Member(loop, memory, member.hold, member.fits)
            fit = held_out_fit(y[hold], trial.simulate(u[hold], trial.first_state(u[hold], y[hold])))
            if fit > best_fit:
                best_fit, kept = fit, {name: x.clone() for name, x in memory.state_dict().items()}
    if kept is None:
        return member
    memory.load_state_dict(kept)
    memory.eval().requires_grad_(False)
    return Member(loop, memory, member.hold, (*member.fits[:2], best_fit))
