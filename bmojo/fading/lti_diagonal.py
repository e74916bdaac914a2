r"""The linear mixer with a diagonal `A`: one complex multiplication per pole and token."""

from __future__ import annotations

import bmojo_kernels as bk
import torch
from torch import Tensor

from bmojo.backends import backend_of
from bmojo.fading.lti import LTI, kinds_of

__all__ = ["DiagonalLTI"]


class DiagonalLTI(LTI):
    r"""A linear state-space model with real poles and complex pairs on the diagonal, stable, run as a scan.

    $$z_{t+1} = \lambda \odot z_t + b\, u_t, \qquad \lambda = \tanh\rho \; e^{-i\theta}, \qquad
    y_t = D u_t + \operatorname{Re}(\bar c^\top z_t)$$

    A real pole has $\theta = 0$. The state is real: for each pair $\operatorname{Re} z, \operatorname{Im} z$
    in two neighbouring places, so that `A` is `LTI`'s with blocks that neither stretch nor couple, and `B`,
    `C` are real matrices. It runs on `bmojo_kernels.linear_scan`: `n` multiplications a token, against $n^2
    \log_2 T$ for a dense `A`.

    Parameters
    ----------
    inputs, outputs : int
        `m` and `p`.
    states : int
        `n`, a pair counting 2.
    blocks : list of bool, optional
        For each pole whether it is a pair; when left out, all but the last of an odd order.

    References
    ----------
    A. Gu, A. Gupta, K. Goel, C. Ré, *On the Parameterization and Initialization of Diagonal State Space
    Models*, NeurIPS 2022.
    A. Orvieto et al., *Resurrecting Recurrent Neural Networks for Long Sequences*, ICML 2023.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import DiagonalLTI
    >>> layer = DiagonalLTI(inputs=2, outputs=3, states=5)
    >>> y, state = layer(torch.randn(4, 7, 2), layer.init_state(4))
    >>> y.shape, layer.poles().shape
    (torch.Size([4, 7, 3]), torch.Size([3]))
    """

    _form = (
        "A is not diagonal with real poles and blocks [[a, b], [-b, a]] for pairs; `bmojo.lift(model, "
        "parametrization='diagonal')` finds such a form where there is one."
    )

    def __init__(self, inputs: int, outputs: int, states: int, *, blocks: list[bool] | None = None) -> None:
        super().__init__(inputs, outputs, states, blocks=blocks)
        self.register_parameter("skew", None)
        self.register_parameter("upper", None)
        (_, pair), (_, single) = self.pairs, self.singles
        places = torch.argsort(torch.cat([pair, pair + 1, single]))
        self.register_buffer("places", places, persistent=False)

    @classmethod
    def from_diagonal(cls, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> DiagonalLTI:
        """The layer of a model whose `A` has that form already.

        Parameters
        ----------
        A : Tensor, shape (n, n)
            Zero but for real poles and blocks $[[a, b], [-b, a]]$ on its diagonal.
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
        >>> from bmojo.fading import DiagonalLTI
        >>> A = torch.tensor([[0.6, 0.3, 0.0], [-0.3, 0.6, 0.0], [0.0, 0.0, 0.9]])
        >>> layer = DiagonalLTI.from_diagonal(A, torch.ones(3, 1), torch.ones(1, 3), torch.zeros(1, 1))
        >>> bool(torch.allclose(layer.A(), A))
        True
        """
        layer = cls(B.shape[1], len(C), len(A), blocks=kinds_of(A)).to(A.dtype)
        layer.take_over(A, B, C, D)
        return layer

    def poles(self) -> Tensor:
        """One pole of each pair, then the real ones; complex, shape (poles,)."""
        A, i, row = self.A(), self.pairs[1], self.singles[1]
        real = A[row, row]
        return torch.cat([torch.complex(A[i, i], A[i + 1, i]), torch.complex(real, torch.zeros_like(real))])

    def _states(
        self, A: Tensor, drive: Tensor, start: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        i, row = self.pairs[1], self.singles[1]
        if cu_seqlens is not None and start is None:
            start = drive.new_zeros(len(cu_seqlens) - 1, drive.shape[-1])
        elif start is None:
            start = torch.zeros_like(drive[:, 0])
        pieces: list[tuple[Tensor, Tensor]] = []
        if len(i):
            pole = torch.complex(A[i, i], A[i + 1, i])
            b, h0 = (torch.complex(z[..., i], z[..., i + 1]) for z in (drive, start))
            h, last = _scan(pole, b, h0, cu_seqlens)
            pieces += [(h.real, last.real), (h.imag, last.imag)]
        if len(row):
            pieces.append(_scan(A[row, row], drive[..., row], start[..., row], cu_seqlens))
        if not pieces:
            return drive, start
        after, last = (
            torch.cat(z, dim=-1)[..., self.get_buffer("places")] for z in zip(*pieces, strict=True)
        )
        return _before(after, start, cu_seqlens), last


def _scan(pole: Tensor, b: Tensor, h0: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    return bk.linear_scan(pole.expand_as(b), b, h0, cu_seqlens=cu_seqlens, backend=backend_of(b.real))


def _before(after: Tensor, start: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """The states before each token, from those after it and the first ones."""
    if cu_seqlens is None:
        return torch.cat([start.unsqueeze(1), after[:, :-1]], dim=1)
    edges, length = cu_seqlens.long(), after.shape[1]
    numbers = torch.arange(len(start), device=after.device)
    own = torch.repeat_interleave(numbers, edges.diff(), output_size=length)
    first = (torch.arange(length, device=after.device) == edges[own]).unsqueeze(-1)
    return torch.where(first, start[own], after.roll(1, dims=1))
