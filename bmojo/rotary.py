"""Rotary positions, and where the keys of far memories stand."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Table", "rotate", "table", "turn"]

Table = tuple[Tensor, Tensor]  # cosines and sines, (..., 1, d / 2)


def table(
    position: Tensor, width: int, *, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Table:
    """Cosines and sines of the angles $t b^{-2i/d}$, each (..., 1, d / 2), for positions `t` (...).

    Angles are formed in float64: at a position of a million float32 would miss them by a tenth.
    """
    if torch.compiler.is_compiling():
        # One operator: the compiler would work out an angle in float64 for every entry of every head.
        return _table(position, width, base, dtype)
    return _worked_out(position, width, base, dtype)


def _worked_out(position: Tensor, width: int, base: float, dtype: torch.dtype) -> Table:
    half = width // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=position.device) / half)
    angle = (position.unsqueeze(-1) * frequency).unsqueeze(-2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


@torch.library.custom_op("bmojo::rotary_table", mutates_args=())
def _table(position: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return _worked_out(position, width, base, dtype)


@_table.register_fake
def _(position: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    cosine, sine = (position.new_empty(*position.shape, 1, width // 2, dtype=dtype) for _ in range(2))
    return cosine, sine


def turn(x: Tensor, angles: Table, *, back: bool = False) -> Tensor:
    """Heads (..., H, d) turned by the angles of a table, or turned back; in the dtype of `x`."""
    cosine, sine = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, dim=-1)
    sign = -1 if back else 1
    turned = (
        torch.addcmul(first * cosine, second, sine, value=-sign),
        torch.addcmul(second * cosine, first, sine, value=sign),
    )
    return torch.cat(turned, dim=-1)


def rotate(x: Tensor, position: Tensor, *, base: float = 10_000.0) -> Tensor:
    r"""Rotary positions: pair `i` of a head turns by the angle $t\, b^{-2i/d}$.

    Parameters
    ----------
    x : Tensor, shape (..., H, d)
    position : Tensor of int64, shape broadcastable to `x.shape[:-2]`
    base : float
        `b`.

    References
    ----------
    J. Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, Neurocomputing 568 (2024).

    Examples
    --------
    >>> import torch
    >>> from bmojo.rotary import rotate
    >>> x = torch.randn(5, 2, 8)
    >>> turned = rotate(x, torch.arange(5))
    >>> bool(torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))), bool(torch.equal(turned[0], x[0]))
    (True, True)
    """
    return turn(x, table(position, x.shape[-1], base=base, dtype=torch.promote_types(x.dtype, torch.float32)))
