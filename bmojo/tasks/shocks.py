r"""Sequences of a linear system that rare shocks strike: what an exact filter would keep is known."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bmojo.tasks.protocol import Batch, describe, require

if TYPE_CHECKING:
    from realization.systems import InnovationsModel

__all__ = ["LinearShocks", "Shocked"]


class Shocked(NamedTuple):
    """Signals, and what drove them.

    Parameters
    ----------
    y : Tensor of float64, shape (B, T)
        Outputs.
    e : Tensor of float64, shape (B, T)
        Innovations, shocks included.
    shocks : Tensor of bool, shape (B, T)
        Where a shock struck.
    """

    y: Tensor
    e: Tensor
    shocks: Tensor


@dataclass(frozen=True)
class LinearShocks:
    r"""Next-token prediction of a quantized output of a system in innovations form.

    $$x_{t+1} = A x_t + K e_t, \quad y_t = C x_t + e_t, \qquad x_0 = 0, \qquad
    e_t \sim \begin{cases} \pm\kappa & \text{with chance } p \\ N(0, 1) & \text{else}\end{cases}$$

    The system is drawn from `system` (stable, and so is its inverse $A - KC$), so that its one-step predictor
    gives each $e_t$ back exactly: `kept` is the set that an exact Kalman filter would keep, the yardstick for
    what a layer kept. Tokens are $y$ in `vocabulary` steps of equal width over four standard deviations each
    way, what lies beyond in the outermost. A target is the token after.

    Parameters
    ----------
    length : int
        `T`.
    states : int
        Order of the system.
    shock : float
        Size $\kappa$ of a shock, in standard deviations of an ordinary innovation.
    rate : float
        Chance `p` of a shock.
    vocabulary : int
        Steps of quantization.
    system : int
        Seed of the system.

    Raises
    ------
    ValueError
        If an option is out of range.

    References
    ----------
    T. Kailath, An innovations approach to least-squares estimation, part I, IEEE Trans. Autom. Control 13
    (1968) 646-655.

    Examples
    --------
    >>> import torch
    >>> from bmojo.tasks import LinearShocks
    >>> task = LinearShocks(length=100, rate=0.05)
    >>> signals = task.signals(1, torch.Generator().manual_seed(0))
    >>> kept = task.kept(signals.y, budget=int(signals.shocks.sum()))
    >>> torch.equal(kept, signals.shocks)
    True
    """

    length: int = 256
    states: int = 4
    shock: float = 8.0
    rate: float = 0.02
    vocabulary: int = 256
    system: int = 0

    def __post_init__(self) -> None:
        require("LinearShocks", self.length >= 2, f"length={self.length} came; at least 2 is needed.")
        require("LinearShocks", self.states >= 1, f"states={self.states} came; at least 1 is needed.")
        require("LinearShocks", 0 <= self.rate < 1, f"rate={self.rate} came; it must lie in [0, 1).")
        require("LinearShocks", self.shock > 0, f"shock={self.shock} came; it must be positive.")
        require("LinearShocks", self.vocabulary >= 2, "vocabulary must be at least 2.")

    @property
    def chance(self) -> float:
        """Share of the commonest token, counted in 256 sequences."""
        return _commonest(self)

    @property
    def description(self) -> str:
        """The task in one line."""
        return describe(
            "linear system with shocks",
            length=self.length,
            states=self.states,
            shock=f"{self.shock:g}",
            rate=f"{self.rate:g}",
            vocabulary=self.vocabulary,
        )

    @property
    def held_out(self) -> LinearShocks:
        """Itself: every sequence is new."""
        return self

    @property
    def model(self) -> InnovationsModel:
        """The system, with unit innovation covariance."""
        return _system(self.states, self.system)

    @property
    def deviation(self) -> float:
        """Standard deviation of the output in its steady state, shocks included."""
        h = self.model.noise.impulse_response(4096)[:, 0, 0]
        variance = 1 + self.rate * (self.shock**2 - 1)
        return float(np.sqrt(variance * (h @ h)))

    def signals(self, batch: int, generator: torch.Generator) -> Shocked:
        """Draw `batch` outputs of `length + 1` samples, with their innovations and shocks."""
        shape = batch, self.length + 1
        shocks = torch.rand(shape, generator=generator, dtype=torch.float64) < self.rate
        ordinary = torch.randn(shape, generator=generator, dtype=torch.float64)
        e = torch.where(shocks, self.shock * ordinary.sign(), ordinary)
        model = self.model
        y = np.stack([model.simulate(e=row.numpy()[:, None])[:, 0] for row in e])
        return Shocked(torch.from_numpy(y), e, shocks)

    def quantized(self, y: Tensor) -> Tensor:
        """Outputs as tokens, int64 of the same shape."""
        step = 8 * self.deviation / self.vocabulary
        return (y / step + self.vocabulary / 2).floor().clamp(0, self.vocabulary - 1).long()

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw `batch` sequences; the tokens that a shock moved, and those after them, are parts."""
        signals = self.signals(batch, generator)
        tokens = self.quantized(signals.y)
        everywhere = torch.ones(batch, self.length, dtype=torch.bool)
        parts = {"after a shock": signals.shocks[:, :-1], "shock": signals.shocks[:, 1:]}
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), everywhere, parts)

    def innovations(self, y: Tensor) -> Tensor:
        """Innovations that the exact filter finds in outputs (B, T), float64 of the same shape."""
        from realization.filtering import innovations

        model, x0 = self.model, np.zeros(self.states)
        return torch.from_numpy(
            np.stack([innovations(model, row.numpy()[:, None], x0=x0).e[:, 0] for row in y])
        )

    def kept(self, y: Tensor, budget: int) -> Tensor:
        """What the exact filter keeps of outputs (B, T) with a budget, bool of the same shape.

        Parameters
        ----------
        y : Tensor of float64, shape (B, T)
        budget : int
            Places for the most surprising samples.
        """
        from realization.filtering import select_innovations

        model, x0 = self.model, np.zeros(self.states)
        rows = [select_innovations(model, row.numpy()[:, None], budget=budget, x0=x0).kept for row in y]
        return torch.from_numpy(np.stack(rows))

    def sets(self, y: Tensor, budget: int, *, window: int, chunk: int) -> Tensor:
        """The exact filter's sets along outputs (B, T), int64 (B, chunks, budget), -1 for an empty place.

        They stand beside `eidetic_index` of a layer's trace, which has the same window and chunk.

        Parameters
        ----------
        y : Tensor of float64, shape (B, T)
        budget : int
        window, chunk : int
            A sample is eligible once it has left the window; sets change every `chunk` samples.
        """
        from bmojo_kernels import innovation_topk

        return innovation_topk(self.innovations(y).square(), budget=budget, window=window, chunk=chunk)


@functools.lru_cache(maxsize=16)
def _commonest(task: LinearShocks) -> float:
    targets = task.sample(256, torch.Generator().manual_seed(0)).targets
    return float(targets.flatten().bincount().max()) / targets.numel()


@functools.lru_cache(maxsize=16)
def _system(states: int, seed: int) -> InnovationsModel:
    """A system of one output: modes of `A` and of `A - K C` inside the unit circle, drawn alike."""
    from scipy.signal import place_poles

    from realization.systems import InnovationsModel

    rng = np.random.default_rng([seed, states])
    A = _rotations(rng, states, 0.7, 0.98)
    C = rng.standard_normal((1, states)) + np.sign(rng.standard_normal((1, states)))
    zeros = np.linalg.eigvals(_rotations(rng, states, 0.1, 0.6))
    K = place_poles(A.T, C.T, zeros).gain_matrix.T
    return InnovationsModel(A, np.zeros((states, 0)), C, K=K)


def _rotations(rng: np.random.Generator, states: int, lowest: float, highest: float) -> np.ndarray:
    """Block-diagonal matrix of damped rotations, and one real mode where the order is odd."""
    A = np.zeros((states, states))
    for i in range(0, states - 1, 2):
        radius, angle = rng.uniform(lowest, highest), rng.uniform(0.1, np.pi - 0.1)
        c, s = radius * np.cos(angle), radius * np.sin(angle)
        A[i : i + 2, i : i + 2] = [[c, -s], [s, c]]
    if states % 2:
        A[-1, -1] = rng.uniform(lowest, highest)
    return A
