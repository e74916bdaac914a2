"""What a mixer does to what its recurrence reads out: gate, norm and projection, without memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["OutputMap"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputMap:
    r"""Static map from a recurrence's outputs (T, o) to fading tokens (T, D), the gates frozen.

    $$f_t = W (g_t \odot y_t) + b, \qquad g_t = \frac{z_t \odot w}{\operatorname{rms}(\cdot)}$$

    where $z_t$ is the gate, $w$ the norm's weight, and the mean square is over blocks of `width` numbers: of
    the gated outputs $z_t \odot y_t$ (`gate_first`), else of $y_t$. So the map is linear but for the scale of
    each block.

    Parameters
    ----------
    weight : ndarray, shape (D, o), optional
        `W`; the identity when left out.
    gate : ndarray, shape (T, o), optional
        $z_t$; ones when left out.
    norm : ndarray, shape (o,), optional
        $w$; no norm when left out.
    width : int
        Numbers under one norm.
    eps : float
    gate_first : bool
        Whether the gate acts before the norm.
    offset : ndarray, shape (D,), optional
        `b`.

    Examples
    --------
    >>> import numpy as np
    >>> from bmojo import OutputMap
    >>> f = OutputMap(weight=np.array([[1.0, 1.0]]), gate=np.array([[1.0, 0.5]]))
    >>> f([[2.0, 4.0]])
    array([[4.]])
    """

    weight: Array | None = None
    gate: Array | None = None
    norm: Array | None = None
    width: int = 1
    eps: float = 1e-5
    gate_first: bool = False
    offset: Array | None = None

    def gain(self, y: ArrayLike) -> Array:
        """$g_t$ at outputs `y` (T, o), shape (T, o)."""
        values = np.asarray(y, dtype=float)
        gate = np.ones_like(values) if self.gate is None else self.gate
        if self.norm is None:
            return gate
        measured = values * gate if self.gate_first else values
        blocks = np.square(measured.reshape(len(values), -1, self.width)).mean(axis=2) + self.eps
        return gate * self.norm / np.sqrt(np.repeat(blocks, self.width, axis=1))

    def __call__(self, y: ArrayLike) -> Array:
        """Fading tokens (T, D) of outputs `y` (T, o)."""
        values = np.asarray(y, dtype=float)
        found = self.gain(values) * values
        found = found if self.weight is None else found @ self.weight.T
        return found if self.offset is None else found + self.offset

    def matrix(self, y: ArrayLike) -> Array:
        r"""$W \operatorname{diag}(g_t)$ with the scale frozen at outputs `y` (T, o), shape (T, D, o)."""
        gain = self.gain(y)
        weight = np.eye(gain.shape[1]) if self.weight is None else self.weight
        return weight * gain[:, None, :]

    def part(self, start: int, stop: int) -> OutputMap:
        """The map of the tokens from `start` up to `stop`."""
        return replace(self, gate=None if self.gate is None else self.gate[start:stop])
