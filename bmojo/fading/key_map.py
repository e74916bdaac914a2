"""Fewer numbers than features: linear maps of keys and queries to what a smaller state holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bmojo.backends import state_dtype

__all__ = ["KeyMap"]


class KeyMap(nn.Module):
    r"""Linear maps of what is written and what is read, from `F` features to the `N` numbers of a state.

    $$k'_t = W^\top k_t, \qquad q'_t = R^\top q_t$$

    A change of basis passes through a linear recurrence, but not through the nonlinearities (SiLU, norm) that
    stand between a projection and the state; so the maps stand behind those. They start as the same random
    orthonormal columns, where a product $k'^\top q'$ is that of the projected vectors; `bmojo.compress` sets
    them.

    Parameters
    ----------
    groups : int
        `G`: 1 for a map that all heads share, or the number of heads.
    features : int
        `F`.
    size : int
        `N`, at most `F`.

    Raises
    ------
    ValueError
        If `size` is more than `features`.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading.key_map import KeyMap
    >>> k, q = KeyMap(groups=2, features=8, size=3)(torch.randn(5, 2, 8), torch.randn(5, 2, 8))
    >>> k.shape, q.shape
    (torch.Size([5, 2, 3]), torch.Size([5, 2, 3]))
    """

    def __init__(self, groups: int, features: int, size: int) -> None:
        super().__init__()
        if not 1 <= size <= features:
            raise ValueError(f"KeyMap: size={size} came with features={features}; 1 <= size <= features.")
        start = torch.linalg.qr(torch.randn(groups, features, size)).Q.contiguous()
        self.write = nn.Parameter(start)
        self.read = nn.Parameter(start.clone())

    def forward(self, written: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """Both mapped: (..., G, F) to (..., G, N); where either `G` is 1, one serves all."""
        return _mapped(written, self.write), _mapped(read, self.read)


def _mapped(x: Tensor, weight: Tensor) -> Tensor:
    kind, (groups, _, size) = state_dtype(x.dtype), weight.shape
    wide, weight = x.to(kind), weight.to(kind)
    if groups == 1:
        return (wide @ weight[0]).to(x.dtype)
    if wide.shape[-2] == 1:
        laid = wide.squeeze(-2) @ weight.transpose(0, 1).flatten(1)
        return laid.unflatten(-1, (groups, size)).to(x.dtype)
    return torch.einsum("...gf,gfn->...gn", wide, weight).contiguous().to(x.dtype)
