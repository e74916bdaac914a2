r"""Linear realizations whose matrices change with time: what a layer is along one input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo.bridge.lower.output_map import OutputMap
from realization.errors import ShapeError

__all__ = ["TimeVaryingRealization"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class TimeVaryingRealization:
    r"""A mixer along one input of `T` tokens: `G` groups, each of `P` copies of one linear system.

    $$X^{g}_{t+1} = A^{g}_t X^{g}_t + B^{g}_t U^{g}_t, \qquad Y^{g}_t = C^{g}_t X^{g}_t + D^{g}_t U^{g}_t,
    \qquad f_t = W (g_t \odot \operatorname{vec} Y_t) + b$$

    A group is a head, or a channel where each has decays of its own. Its state $X^g_t$ (n, P) has one column
    for each of the head's `P` value channels, and all columns share the matrices: nothing that depends on
    them alone (singular values, orders, memory) needs more than $n \times n$. Inputs and outputs are laid as
    (T, G, m, P) and (T, G, p, P), flattened.

    What is linear is from the values that enter the recurrence (`inputs`) to what is read out of it, with
    decays, keys and queries frozen as they were along the input. What comes before (projection, a short
    convolution, an activation) is kept as the numbers it gave, `inputs`; what comes after, without memory, is
    `output_map`. Made by `lower`.

    Parameters
    ----------
    A : ndarray, shape (T, G, n, n), or (T, G, n) where it is diagonal
        $A_t$ takes the state before $u_t$ to that after it.
    B : ndarray, shape (T, G, n, m)
    C : ndarray, shape (T, G, p, n)
    D : ndarray, shape (T, G, p, m)
    x0 : ndarray, shape (G, n, P)
        State before the first token.
    inputs : ndarray, shape (T, G m P)
        What entered the recurrence along the given tokens.
    output_map : OutputMap
        From outputs (T, G p P) to fading tokens.
    dt : float, optional
        Seconds between two tokens.
    name : str
        The mixer's.

    Raises
    ------
    ShapeError
        If the shapes do not fit together.

    References
    ----------
    P. Dewilde, A.-J. van der Veen, *Time-Varying Systems and Computations*, Kluwer 1998, chapters 3 and 5.

    Examples
    --------
    >>> import torch
    >>> from bmojo import lower
    >>> from bmojo.fading import Mamba2
    >>> mixer, u = Mamba2(d_model=16, heads=2, state_size=4).double(), torch.randn(30, 16).double()
    >>> realization = lower(mixer, u)
    >>> realization
    TimeVaryingRealization(mamba2, 30 steps, 2 groups of 8 copies of 4 states, diagonal)
    >>> f = realization.output_map(realization.simulate())
    >>> bool(abs(f - mixer(u[None])[0][0].detach().numpy()).max() < 1e-12)
    True
    """

    A: Array
    B: Array
    C: Array
    D: Array
    x0: Array
    inputs: Array
    output_map: OutputMap
    dt: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        steps, groups, n, m = self.B.shape
        p = self.C.shape[2]
        needed = {
            "A": (self.A, (steps, groups, n) if self.A.ndim == 3 else (steps, groups, n, n)),
            "C": (self.C, (steps, groups, p, n)),
            "D": (self.D, (steps, groups, p, m)),
            "x0": (self.x0, (groups, n, self.x0.shape[-1])),
            "inputs": (self.inputs, (steps, groups * m * self.x0.shape[-1])),
        }
        for name, (array, shape) in needed.items():
            if array.shape != shape:
                raise ShapeError(
                    f"TimeVaryingRealization: {name} has shape {array.shape}; with B {self.B.shape} it must "
                    f"be {shape}."
                )

    @property
    def length(self) -> int:
        """`T`, tokens along which it was made."""
        return self.B.shape[0]

    @property
    def groups(self) -> int:
        """`G`: heads, channels, or 1."""
        return self.B.shape[1]

    @property
    def n_states(self) -> int:
        """`n`, of one copy of one group; the mixer carries $G n P$ numbers."""
        return self.B.shape[2]

    @property
    def copies(self) -> int:
        """`P`, value channels that share the matrices of a group."""
        return self.x0.shape[2]

    @property
    def is_diagonal(self) -> bool:
        """Whether `A` is given by its diagonals."""
        return self.A.ndim == 3

    def __repr__(self) -> str:
        kind = "diagonal" if self.is_diagonal else "dense"
        return (
            f"TimeVaryingRealization({self.name}, {self.length} steps, {self.groups} groups of {self.copies} "
            f"copies of {self.n_states} states, {kind})"
        )

    def dense_A(self) -> Array:
        """`A` as full matrices, shape (T, G, n, n)."""
        return self.A if not self.is_diagonal else self.A[..., None] * np.eye(self.n_states)

    def advance(self, t: int, x: Array) -> Array:
        """$A_t x$ of each group, for `x` (G, n, k)."""
        return self.A[t, :, :, None] * x if self.is_diagonal else self.A[t] @ x

    def withdraw(self, t: int, rows: Array) -> Array:
        """$r A_t$ of each group, for `rows` (G, k, n)."""
        return rows * self.A[t, :, None, :] if self.is_diagonal else rows @ self.A[t]

    def states(self, u: ArrayLike | None = None, x0: ArrayLike | None = None) -> Array:
        """States along inputs, the one before each input and the one after the last.

        Parameters
        ----------
        u : array_like, shape (T, G m P), optional
            `inputs` when left out.
        x0 : array_like, shape (G, n, P), optional

        Returns
        -------
        ndarray, shape (T + 1, G, n, P)
        """
        values = self._laid(u)
        x = np.empty((self.length + 1, *self.x0.shape))
        x[0] = self.x0 if x0 is None else np.asarray(x0, dtype=float)
        for t in range(self.length):
            x[t + 1] = self.advance(t, x[t]) + self.B[t] @ values[t]
        return x

    def simulate(self, u: ArrayLike | None = None, x0: ArrayLike | None = None) -> Array:
        """Outputs of the recurrence; `output_map` makes fading tokens of them.

        Parameters
        ----------
        u : array_like, shape (T, G m P), optional
            `inputs` when left out: then the outputs are the mixer's own.
        x0 : array_like, shape (G, n, P), optional
            Its own when left out.

        Returns
        -------
        ndarray, shape (T, G p P)

        Raises
        ------
        ShapeError
            If `u` has another shape than `inputs`.
        """
        return (self.C @ self.states(u, x0)[:-1] + self.D @ self._laid(u)).reshape(self.length, -1)

    def _laid(self, u: ArrayLike | None) -> Array:
        values = self.inputs if u is None else np.asarray(u, dtype=float)
        if values.shape != self.inputs.shape:
            raise ShapeError(f"simulate: u has shape {values.shape}; it must be {self.inputs.shape}.")
        return values.reshape(self.length, self.groups, -1, self.copies)

    def transition(self, start: int, stop: int) -> Array:
        r"""$\Phi(t, s) = A_{t-1} \cdots A_s$ of each group, from `start` to `stop`, shape (G, n, n)."""
        first, last = self.instant(start), self.instant(stop)
        if last < first:
            raise ShapeError(f"transition: from {start} back to {stop} came; time runs forward.")
        product = np.broadcast_to(np.eye(self.n_states), (self.groups, self.n_states, self.n_states))
        for t in range(first, last):
            product = self.advance(t, product)
        return product

    def operator(self) -> Array:
        r"""From all inputs to all outputs, block lower triangular: shape (G, T p, T m).

        Block $(t, s)$ is $C_t \Phi(t, s + 1) B_s$ below the diagonal and $D_t$ on it. Of one head with
        $m = p = 1$ it is the attention matrix that the recurrence amounts to.
        """
        steps, groups, n, m = self.B.shape
        p = self.C.shape[2]
        found, columns = np.zeros((groups, steps, p, steps * m)), np.zeros((groups, n, steps * m))
        for t in range(steps):
            now = slice(t * m, (t + 1) * m)
            found[:, t] = self.C[t] @ columns
            found[:, t, :, now] = self.D[t]
            columns[..., : t * m] = self.advance(t, columns[..., : t * m])
            columns[..., now] = self.B[t]
        return found.reshape(groups, steps * p, steps * m)

    def instant(self, t: int) -> int:
        """A time from 0 (before the first token) to `T` (after the last); negative ones count from `T`."""
        found = t + self.length + 1 if t < 0 else t
        if not 0 <= found <= self.length:
            raise ShapeError(f"time {t} came; the realization runs from 0 to {self.length}.")
        return found

    def part(self, start: int, stop: int) -> TimeVaryingRealization:
        """The realization from token `start` up to `stop`, from the state that it is in then."""
        first, last = self.instant(start), self.instant(stop)
        here = slice(first, last)
        return replace(
            self,
            A=self.A[here],
            B=self.B[here],
            C=self.C[here],
            D=self.D[here],
            x0=self.states()[first],
            inputs=self.inputs[here],
            output_map=self.output_map.part(first, last),
        )

    def projected(self, left: ArrayLike, right: ArrayLike) -> TimeVaryingRealization:
        r"""The realization of $\hat x_t = L_t x_t$ with $x_t \approx R_t \hat x_t$.

        $$\hat A_t = L_{t+1} A_t R_t, \quad \hat B_t = L_{t+1} B_t, \quad \hat C_t = C_t R_t$$

        A change of state where $L_t = R_t^{-1}$, which keeps the outputs; a reduction where $L_t R_t = I_r$
        with $r < n$.

        Parameters
        ----------
        left : array_like, shape (T + 1, G, r, n)
        right : array_like, shape (T + 1, G, n, r)
            Both also (G, r, n) and (G, n, r): the same at all times.
        """
        L, R = (np.asarray(side, dtype=float) for side in (left, right))
        L, R = (np.broadcast_to(side, (self.length + 1, *side.shape[-3:])) for side in (L, R))
        r = L.shape[-2]
        needed = (self.length + 1, self.groups, r, self.n_states)
        if L.shape != needed or R.shape != (*needed[:2], self.n_states, r):
            raise ShapeError(
                f"projected: left {L.shape} and right {R.shape} came; (T + 1, G, r, n) and (T + 1, G, n, r) "
                f"are needed, with T + 1, G, n = {needed[0]}, {needed[1]}, {needed[3]}."
            )
        moved = self.A[..., None] * R[:-1] if self.is_diagonal else self.A @ R[:-1]
        return replace(self, A=L[1:] @ moved, B=L[1:] @ self.B, C=self.C @ R[:-1], x0=L[0] @ self.x0)

    def flat(self, *, finished: bool = False) -> TimeVaryingRealization:
        """One dense system of $G n P$ states, from all inputs to all outputs: for small layers.

        Parameters
        ----------
        finished : bool
            Outputs are the fading tokens, through the output map with its gains frozen along the input.
        """
        P, G = self.copies, self.groups

        def laid(matrices: Array) -> Array:
            """(T, G, a, b) -> (T, G a P, G b P): block-diagonal in groups, the identity over copies."""
            steps, _, a, b = matrices.shape
            whole = np.zeros((steps, G, a, P, G, b, P))
            for g in range(G):
                for c in range(P):
                    whole[:, g, :, c, g, :, c] = matrices[:, g]
            return whole.reshape(steps, G * a * P, G * b * P)[:, None]

        C, D, output_map = laid(self.C), laid(self.D), self.output_map
        if finished:
            frozen = self.output_map.matrix(self.simulate())[:, None]
            C, D = frozen @ C, frozen @ D
            output_map = OutputMap(offset=self.output_map.offset)
        return replace(
            self,
            A=laid(self.dense_A()),
            B=laid(self.B),
            C=C,
            D=D,
            x0=cast(Array, self.x0.reshape(1, -1, 1)),
            output_map=output_map,
        )
