r"""The linear time-invariant mixer: a state-space model as a layer, stable for every parameter value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import state_dtype
from bmojo.fading.protocol import MixerState

__all__ = ["LTI", "kinds_of", "lti_states"]


def lti_states(
    A: Tensor, drive: Tensor, x0: Tensor | None = None, *, cu_seqlens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""States of $x_{t+1} = A x_t + w_t$ by recursive doubling.

    After step $k$ each state has gathered the last $2^k$ inputs: $\log_2 T$ products in place of `T` steps.

    Parameters
    ----------
    A : Tensor, shape (n, n)
        Or, for `g` systems side by side, (g, 1, n, n): then every other shape has `g` in front.
    drive : Tensor, shape (B, T, n)
        $w_t = B u_t$.
    x0 : Tensor, shape (B, n), optional
        Zero when left out.
    cu_seqlens : Tensor, shape (S + 1,), optional
        Where packed sequences begin, and the end, in a batch of one; `x0` and the last states are (S, n).

    Returns
    -------
    states : Tensor, shape (B, T, n)
        `states[:, t]` is $x_t$, before $w_t$ acts.
    last : Tensor, shape (B, n)
        $x_T$.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading.lti import lti_states
    >>> states, last = lti_states(torch.tensor([[0.5]]), torch.ones(1, 3, 1))
    >>> states.flatten().tolist(), last.item()
    ([0.0, 1.0, 1.5], 1.75)
    """
    if cu_seqlens is not None:
        return _packed_states(A, drive, x0, cu_seqlens)
    first = torch.zeros_like(drive[..., 0, :]) if x0 is None else x0
    x = _doubled(A, torch.cat([first.unsqueeze(-2), drive], dim=-2))
    return x[..., :-1, :], x[..., -1, :].clone()


def _doubled(A: Tensor, x: Tensor, age: Tensor | None = None) -> Tensor:
    """Sums of $A^k x_{t-k}$ over `k`, at most over as many as the age (T,) of each position."""
    power, reach = A.mT, 1
    while reach < x.shape[-2]:
        added = F.pad(x[..., :-reach, :] @ power, (0, 0, reach, 0))
        x = x + (added if age is None else added.masked_fill((age < reach).unsqueeze(-1), 0.0))
        power, reach = power @ power, 2 * reach
    return x


def _packed_states(A: Tensor, drive: Tensor, x0: Tensor | None, edges: Tensor) -> tuple[Tensor, Tensor]:
    """States of sequences behind one another: each is given a place in front for its first state."""
    edges = edges.long()
    count, length = len(edges) - 1, drive.shape[-2]
    own = torch.repeat_interleave(torch.arange(count, device=drive.device), edges.diff(), output_size=length)
    place = torch.arange(length, device=drive.device) + own + 1
    head = edges[:-1] + torch.arange(count, device=drive.device)
    outer, n = drive.shape[:-3], drive.shape[-1]
    first = drive.new_zeros(*outer, count, n) if x0 is None else x0
    x = drive.new_zeros(*outer, 1, length + count, n).index_copy(-2, head, first.unsqueeze(-3))
    x = x.index_copy(-2, place, drive)
    begins = torch.zeros(length + count, dtype=torch.int64, device=drive.device).index_copy(0, head, head)
    age = torch.arange(length + count, device=drive.device) - begins.cummax(0).values
    x = _doubled(A, x, age)
    last = edges[1:] + torch.arange(count, device=drive.device)
    return x[..., place - 1, :], x[..., 0, last, :]


def kinds_of(A: Tensor) -> list[bool]:
    """Of each diagonal block of a quasi upper triangular `A` (n, n) whether it is 2×2."""
    below, kinds, row = A.diagonal(-1), [], 0
    while row < len(A):
        kinds.append(row + 1 < len(A) and bool(below[row] != 0))
        row += 1 + kinds[-1]
    return kinds


class LTI(nn.Module):
    r"""A linear state-space model $x_{t+1} = A x_t + B u_t,\ y_t = C x_t + D u_t$ with trainable, stable `A`.

    `A` is quasi upper triangular, the real Schur form: 1×1 blocks $\tanh\rho$ and 2×2 blocks

    $$\tanh\rho \begin{pmatrix} \cos\theta & e^{s}\sin\theta \\ -e^{-s}\sin\theta & \cos\theta \end{pmatrix}$$

    whose eigenvalues have modulus $|\tanh\rho| < 1$ (held below 1 where $\tanh$ rounds to 1); what lies above
    the blocks is free. Every stable system has this form under an orthogonal change of state, defective and
    nilpotent ones too.

    Parameters
    ----------
    inputs, outputs : int
        `m` and `p`.
    states : int
        `n`.
    blocks : list of bool, optional
        For each diagonal block whether it is 2×2; when left out, all but the last row of an odd order.

    Raises
    ------
    ValueError
        If the blocks do not add up to `states` rows.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading.lti import LTI
    >>> layer = LTI(inputs=2, outputs=3, states=4)
    >>> y, state = layer(torch.randn(5, 7, 2), layer.init_state(5))
    >>> y.shape, bool(torch.linalg.eigvals(layer.A()).abs().max() < 1)
    (torch.Size([5, 7, 3]), True)
    """

    # Row where each block starts, and whether it is 2×2: fixed when the layer is made.
    blocks: list[tuple[int, bool]]
    above: Tensor
    pairs: Tensor
    singles: Tensor
    skew: nn.Parameter | None
    upper: nn.Parameter | None
    _form = (
        "A is not in real Schur form: quasi upper triangular, 2×2 blocks with equal diagonal entries, "
        "off-diagonal ones of opposite sign. Take scipy.linalg.schur(A, output='real')."
    )

    def __init__(self, inputs: int, outputs: int, states: int, *, blocks: list[bool] | None = None) -> None:
        super().__init__()
        kinds = [True] * (states // 2) + [False] * (states % 2) if blocks is None else blocks
        if sum(1 + two for two in kinds) != states:
            rows = sum(1 + two for two in kinds)
            raise ValueError(f"{type(self).__name__}: blocks of {rows} rows came for {states} states.")
        starts = [sum(1 + two for two in kinds[:i]) for i in range(len(kinds))]
        self.blocks = list(zip(starts, kinds, strict=True))
        # Time constants spread over 2 to 200 samples; slow modes turn slowly.
        time_constant = torch.logspace(math.log10(2.0), math.log10(200.0), max(len(kinds), 1))[: len(kinds)]
        self.rho = nn.Parameter(torch.atanh(torch.exp(-1.0 / time_constant)))
        self.theta = nn.Parameter(math.pi / time_constant)
        self.skew = nn.Parameter(torch.zeros(len(kinds)))
        self.upper = nn.Parameter(torch.zeros(states, states))
        scale = self._input_scale(states).unsqueeze(1)
        self.B = nn.Parameter(torch.randn(states, inputs) / math.sqrt(inputs) * scale)
        # A third of the input's scale: in a deep stack of residual blocks slow modes add up.
        self.C = nn.Parameter(torch.randn(outputs, states) / (3 * math.sqrt(max(states, 1))))
        self.D = nn.Parameter(torch.zeros(outputs, inputs))
        above = torch.triu(torch.ones(states, states), diagonal=1)
        for start, two in self.blocks:
            if two:
                above[start, start + 1] = 0.0
        self.register_buffer("above", above, persistent=False)
        for name, kind in (("pairs", True), ("singles", False)):
            rows = [[k, start] for k, (start, two) in enumerate(self.blocks) if two is kind]
            numbers = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T.contiguous()
            self.register_buffer(name, numbers, persistent=False)

    @classmethod
    def from_schur(cls, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> LTI:
        """The layer of a model whose `A` is already in real Schur form.

        Parameters
        ----------
        A : Tensor, shape (n, n)
            Quasi upper triangular; 2×2 blocks have equal diagonal entries and off-diagonal ones of opposite
            sign, as `scipy.linalg.schur(A, output="real")` gives it.
        B : Tensor, shape (n, m)
        C : Tensor, shape (p, n)
        D : Tensor, shape (p, m)

        Raises
        ------
        ValueError
            If an eigenvalue has modulus 1 or more, or `A` has another form.

        Examples
        --------
        >>> import torch
        >>> from bmojo.fading.lti import LTI
        >>> A = torch.tensor([[0.5, 3.0], [0.0, -0.5]])
        >>> layer = LTI.from_schur(A, torch.ones(2, 1), torch.ones(1, 2), torch.zeros(1, 1))
        >>> bool(torch.allclose(layer.A(), A))
        True
        """
        layer = cls(B.shape[1], len(C), len(A), blocks=kinds_of(A)).to(A.dtype)
        layer.take_over(A, B, C, D)
        return layer

    @torch.no_grad()
    def take_over(self, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> None:
        """Set the parameters to those of a model in this layer's form.

        Parameters
        ----------
        A : Tensor, shape (n, n)
        B : Tensor, shape (n, m)
        C : Tensor, shape (p, n)
        D : Tensor, shape (p, m)

        Raises
        ------
        ValueError
            If an eigenvalue has modulus 1 or more, or `A` has another form.
        """
        for k, (i, two) in enumerate(self.blocks):
            cosine, sine, stretch = A[i, i], A.new_zeros(()), A.new_ones(())
            if two:
                sine = torch.sqrt(-A[i, i + 1] * A[i + 1, i]) * A[i, i + 1].sign()
                stretch = torch.sqrt(-A[i, i + 1] / A[i + 1, i])
            radius = torch.hypot(cosine, sine) if two else cosine
            if radius.abs() >= 1:
                raise ValueError(
                    f"{type(self).__name__}: an eigenvalue of modulus {radius.abs():.6g} came; the layer is "
                    "stable."
                )
            self.rho[k], self.theta[k] = torch.atanh(radius), torch.atan2(sine, cosine) if two else 0.0
            if self.skew is not None:
                self.skew[k] = torch.log(stretch)
        for own, given in ((self.upper, A), (self.B, B), (self.C, C), (self.D, D)):
            if own is not None:
                own.copy_(given)
        error = torch.linalg.norm(self.A() - A)
        if not error <= torch.linalg.norm(A) * math.sqrt(torch.finfo(A.dtype).eps):
            raise ValueError(f"{type(self).__name__}: {self._form}")

    def A(self) -> Tensor:
        """The state matrix, shape (n, n)."""
        # Where tanh rounds to 1 or exp overflows, the nearest value that keeps A stable and finite stands in.
        number = torch.finfo(self.rho.dtype)
        limit, steepest = 1 - 8 * number.eps, math.log(number.max) / 4
        radius = torch.tanh(self.rho).clamp(-limit, limit)
        (pair, i), (single, row) = self.pairs, self.singles
        stretch: Tensor | float = 1.0
        if self.skew is not None:
            stretch = torch.exp(self.skew[pair].clamp(-steepest, steepest))
        c, s = radius[pair] * torch.cos(self.theta[pair]), radius[pair] * torch.sin(self.theta[pair])
        rows, columns = torch.cat([i, i, i + 1, i + 1, row]), torch.cat([i, i + 1, i, i + 1, row])
        values = torch.cat([c, s * stretch, -s / stretch, c, radius[single]])
        free = self.above.new_zeros(()) if self.upper is None else self.upper
        return (free * self.above).index_put((rows, columns), values)

    def layout(self) -> dict[str, list[bool] | list[int]]:
        """The options with which another layer of this one's blocks is made."""
        return {"blocks": [two for _, two in self.blocks]}

    def get_extra_state(self) -> Tensor:
        """The kinds of the blocks: parameters mean nothing without them."""
        return torch.tensor([two for _, two in self.blocks], dtype=torch.bool)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse parameters of a layer with other blocks."""
        if state.tolist() != [two for _, two in self.blocks]:
            raise ValueError(
                f"{type(self).__name__}: parameters of a layer with blocks={state.tolist()} came; this one "
                f"has {[two for _, two in self.blocks]}. Make it with the same blocks."
            )

    def init_state(self, batch: int) -> MixerState:
        """The state zero, shape (B, n)."""
        return (self.B.new_zeros(batch, len(self.B), dtype=state_dtype(self.B.dtype)),)

    def forward(
        self, u: Tensor, state: MixerState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Outputs (B, T, p) for inputs (B, T, m), and the state after them."""
        with torch.autocast(u.device.type, enabled=False):  # states fade slowly: bfloat16 would lose them
            A, B, C, D = self._matrices()
            inputs = u.to(A.dtype)
            start = None if state is None else state[0]
            states, last = self._states(A, inputs @ B.mT, start, cu_seqlens)
            return (states @ C.mT + inputs @ D.mT).to(u.dtype), (last,)

    def step(self, u_t: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One input (B, m) from a state: the output (B, p), and the state after it."""
        with torch.autocast(u_t.device.type, enabled=False):
            A, B, C, D = self._matrices()
            inputs, x = u_t.to(A.dtype), state[0]
            return (x @ C.mT + inputs @ D.mT).to(u_t.dtype), (x @ A.mT + inputs @ B.mT,)

    def _states(
        self, A: Tensor, drive: Tensor, start: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return lti_states(A, drive, start, cu_seqlens=cu_seqlens)

    def _matrices(self) -> tuple[Tensor, ...]:
        kind = state_dtype(self.B.dtype)
        return tuple(matrix.to(kind) for matrix in (self.A(), self.B, self.C, self.D))

    def _input_scale(self, states: int) -> Tensor:
        # White input of unit variance gives states of unit variance: each mode's gain is 1 / sqrt(1 - r^2).
        scale = torch.ones(states)
        radius = torch.tanh(self.rho.detach())
        for k, (i, two) in enumerate(self.blocks):
            scale[i : i + 1 + two] = torch.sqrt(1 - radius[k] ** 2)
        return scale
