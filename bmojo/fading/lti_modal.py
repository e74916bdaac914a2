r"""The linear mixer in modal form: blocks that do not act on each other."""

from __future__ import annotations

import torch
from torch import Tensor

from bmojo.fading.lti import LTI, kinds_of, lti_states

__all__ = ["ModalLTI"]


class ModalLTI(LTI):
    r"""A linear state-space model whose `A` is block diagonal, each block in real Schur form, stable.

    $$A = \operatorname{diag}(A_1, \dots, A_q), \qquad y_t = D u_t + \sum_j C_j x^{(j)}_t$$

    A block is a real pole, a pair, or a cluster of poles that no well-conditioned change of state can part
    (repeated ones, say). Blocks are told apart by their poles and trained apart from each other; what each
    of them puts out adds up.

    Parameters
    ----------
    inputs, outputs : int
        `m` and `p`.
    states : int
        `n`.
    blocks : list of bool, optional
        As for `LTI`.
    groups : list of int, optional
        Rows of each block $A_j$; when left out, one pair or real pole each.

    Raises
    ------
    ValueError
        If blocks or groups do not add up to `states` rows, or a group would cut a pair.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import ModalLTI
    >>> layer = ModalLTI(inputs=2, outputs=3, states=4)
    >>> bool(layer.A()[:2, 2:].abs().max() == 0), [len(block) for block in layer.modes()]
    (True, [2, 2])
    """

    _form = (
        "A is not block diagonal with these groups, each block in real Schur form; `bmojo.lift(model, "
        "parametrization='modal')` finds such a form."
    )

    def __init__(
        self,
        inputs: int,
        outputs: int,
        states: int,
        *,
        blocks: list[bool] | None = None,
        groups: list[int] | None = None,
    ) -> None:
        super().__init__(inputs, outputs, states, blocks=blocks)
        sizes = [1 + two for _, two in self.blocks] if groups is None else list(groups)
        edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        starts = {start for start, _ in self.blocks} | {states}
        if edges[-1] != states or not set(edges) <= starts or min(sizes, default=1) < 1:
            raise ValueError(
                f"ModalLTI: groups={sizes} came for {states} states in blocks of "
                f"{[1 + two for _, two in self.blocks]} rows; groups add up to the states and hold whole "
                "blocks."
            )
        self.groups = sizes
        of = torch.repeat_interleave(
            torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64), output_size=sum(sizes)
        )
        self.above *= of.unsqueeze(1) == of
        if not self.above.any():  # a pole or pair to each block: nothing stands above
            self.register_parameter("upper", None)
        # Blocks of one size run side by side; then the columns go back to where they were.
        self.sizes = sorted(set(sizes))
        rows = [torch.tensor([range(e, e + s) for e, s in zip(edges, sizes) if s == k]) for k in self.sizes]
        for k, found in zip(self.sizes, rows):
            self.register_buffer(f"rows_{k}", found, persistent=False)
        back = torch.cat([found.flatten() for found in rows]) if rows else torch.empty(0, dtype=torch.int64)
        self.register_buffer("back", torch.argsort(back), persistent=False)

    @classmethod
    def from_modal(cls, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, groups: list[int]) -> ModalLTI:
        """The layer of a model whose `A` is block diagonal already, each block in real Schur form.

        Parameters
        ----------
        A : Tensor, shape (n, n)
        B : Tensor, shape (n, m)
        C : Tensor, shape (p, n)
        D : Tensor, shape (p, m)
        groups : list of int
            Rows of each block.

        Raises
        ------
        ValueError
            If an eigenvalue has modulus 1 or more, or `A` has another form.

        Examples
        --------
        >>> import torch
        >>> from bmojo.fading import ModalLTI
        >>> A = torch.tensor([[0.5, 3.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, -0.2]])
        >>> B, C, D = torch.ones(3, 1), torch.ones(1, 3), torch.zeros(1, 1)
        >>> layer = ModalLTI.from_modal(A, B, C, D, groups=[2, 1])
        >>> bool(torch.allclose(layer.A(), A))
        True
        """
        layer = cls(B.shape[1], len(C), len(A), blocks=kinds_of(A), groups=groups).to(A.dtype)
        layer.take_over(A, B, C, D)
        return layer

    def modes(self) -> list[Tensor]:
        """The blocks of `A`, each of shape (k, k)."""
        A, edges = self.A(), [sum(self.groups[:i]) for i in range(len(self.groups))]
        return [A[e : e + k, e : e + k] for e, k in zip(edges, self.groups)]

    def layout(self) -> dict[str, list[bool] | list[int]]:
        """The options with which another layer of this one's blocks and groups is made."""
        return super().layout() | {"groups": list(self.groups)}

    def get_extra_state(self) -> Tensor:
        """The kinds of the blocks, and the group of each."""
        ends = torch.tensor(self.groups).cumsum(0) if self.groups else torch.zeros(0)
        group = [int((ends <= start).sum()) for start, _ in self.blocks]
        kinds = [[two, number] for (_, two), number in zip(self.blocks, group)]
        return torch.tensor(kinds, dtype=torch.int64).reshape(-1, 2)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse parameters of a layer with other blocks or groups."""
        if state.tolist() != self.get_extra_state().tolist():
            raise ValueError(
                f"ModalLTI: parameters of a layer with (2×2, group) of each block {state.tolist()} came; "
                f"this one has {self.get_extra_state().tolist()}. Make it with the same blocks and groups."
            )

    def _states(
        self, A: Tensor, drive: Tensor, start: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if not self.groups:
            return super()._states(A, drive, start, cu_seqlens)
        found = []
        for k in self.sizes:
            rows = self.get_buffer(f"rows_{k}")
            x, x0 = (None if z is None else z[..., rows].movedim(-2, 0) for z in (drive, start))
            assert x is not None
            block = A[rows.unsqueeze(2), rows.unsqueeze(1)].unsqueeze(1)
            found.append(lti_states(block, x, x0, cu_seqlens=cu_seqlens))
        states, last = (
            torch.cat([z.movedim(0, -2).flatten(-2) for z in parts], dim=-1)[..., self.get_buffer("back")]
            for parts in zip(*found, strict=True)
        )
        return states, last
