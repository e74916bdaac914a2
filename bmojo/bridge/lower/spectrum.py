r"""Time-varying Hankel operators: how much of the past, and how many numbers of it, reach the future."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo.bridge.lower.factors import observability, reachability, span, times_of
from bmojo.bridge.lower.time_varying import TimeVaryingRealization
from realization.errors import ShapeError

__all__ = ["HankelSpectrum", "hankel_operator", "hankel_spectrum"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HankelSpectrum:
    r"""Singular values of the Hankel operators of a realization at several times.

    Attributes
    ----------
    times : ndarray of int, shape (N,)
        `t`: inputs before $u_t$ are past.
    values : ndarray, shape (N, G, n)
        Largest first; each counts `copies` times in the mixer.
    copies : int
        `P`, value channels that share the values of a group.

    Examples
    --------
    >>> import numpy as np
    >>> from bmojo.bridge import HankelSpectrum
    >>> spectrum = HankelSpectrum(np.array([7]), np.array([[[3.0, 3.0, 0.0], [1.0, 1e-12, 0.0]]]), copies=8)
    >>> spectrum.order(), spectrum.effective_order.round(6)
    (array([[2, 1]]), array([[2., 1.]]))
    """

    times: NDArray[np.int64]
    values: Array
    copies: int

    def order(self, tolerance: float = 1e-8) -> NDArray[np.int64]:
        r"""How many values of each group are above `tolerance` times its largest, shape (N, G)."""
        largest = self.values[..., :1]
        return np.sum((self.values > tolerance * largest) & (largest > 0), axis=2)

    @property
    def effective_order(self) -> Array:
        r"""$\exp(-\sum_i p_i \log p_i)$ with $p_i = \sigma_i / \sum_j \sigma_j$, shape (N, G).

        Between 1 (one value carries all) and `n` (all are equal); 0 where nothing passes.

        References
        ----------
        O. Roy, M. Vetterli, *The effective rank: A measure of effective dimensionality*, EUSIPCO 2007.
        """
        total = self.values.sum(axis=2, keepdims=True)
        share = self.values / np.where(total > 0, total, 1.0)
        entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=2)
        return np.where(total[..., 0] > 0, np.exp(entropy), 0.0)

    def __repr__(self) -> str:
        steps, groups, n = self.values.shape
        return (
            f"HankelSpectrum({steps} times, {groups} groups, {n} values each, effective order "
            f"{self.effective_order.mean():.3g})"
        )


def hankel_spectrum(
    realization: TimeVaryingRealization,
    at: int | ArrayLike,
    *,
    gap: int = 0,
    past: int | None = None,
    future: int | None = None,
) -> HankelSpectrum:
    r"""Singular values of the map from inputs before `t` to outputs from `t + gap` on.

    $$H_{t, g} = O_{t+g}\, \Phi(t + g, t)\, R_t, \qquad
    R_t = [B_{t-1},\ A_{t-1} B_{t-2},\ \dots], \qquad
    O_t = \begin{bmatrix} C_t \\ C_{t+1} A_t \\ \vdots \end{bmatrix}$$

    Neither the operator nor a gramian is formed: with $R_t R_t^\top = L_c L_c^\top$ and
    $O_t^\top O_t = L_o L_o^\top$ by one QR factorization a token, the values are those of the $n \times n$
    product $L_o^\top \Phi L_c$, so that small ones are right to rounding of the largest.

    Parameters
    ----------
    realization : TimeVaryingRealization
    at : int or array_like of int, shape (N,)
        Times `t` from 0 to `T`; negative ones count from the end.
    gap : int
        Tokens during which inputs are zero and outputs are not looked at: what is still there after them.
    past, future : int, optional
        How many inputs before `t`, and outputs from `t + gap` on; all that there are where left out.

    Returns
    -------
    HankelSpectrum
        `.values` (N, G, n), `.order(tolerance)`, `.effective_order`.

    Raises
    ------
    ShapeError
        If a time is outside of the realization.

    References
    ----------
    P. Dewilde, A.-J. van der Veen, *Time-Varying Systems and Computations*, Kluwer 1998, chapters 5 and 10.

    S. Shokoohi, L. M. Silverman, P. Van Dooren, *Linear time-variable systems: balancing and model
    reduction*, IEEE Transactions on Automatic Control 28 (1983) 810-822.

    Examples
    --------
    Of a time-invariant layer far from both ends they are the Hankel singular values of the model:

    >>> import numpy as np, torch, realization as rz
    >>> from bmojo import hankel_spectrum, lift, lower
    >>> model = rz.StateSpace([[0.6, 0.3], [0.0, -0.5]], [[0.0], [1.0]], [[1.0, 0.0]])
    >>> spectrum = hankel_spectrum(lower(lift(model), torch.zeros(200, 1)), at=100)
    >>> bool(np.allclose(spectrum.values[0, 0], rz.hankel_singular_values(model)))
    True
    """
    times = times_of(realization, at)
    if gap < 0 or times.max(initial=0) + gap > realization.length:
        raise ShapeError(
            f"hankel_spectrum: at={at!r} with gap={gap} came; both ends must lie within 0 to "
            f"{realization.length}."
        )
    Lc = reachability(realization, times, past)
    Lo = observability(realization, times + gap, future)
    for i, t in enumerate(times):
        for step in range(t, t + gap):
            Lc[i] = realization.advance(step, Lc[i])
    values = np.asarray(np.linalg.svd(Lo.swapaxes(-1, -2) @ Lc, compute_uv=False), dtype=float)
    return HankelSpectrum(times, values, realization.copies)


def hankel_operator(
    realization: TimeVaryingRealization, at: int, *, gap: int = 0, past: int | None = None,
    future: int | None = None,
) -> Array:  # fmt: skip
    r"""The Hankel operator itself, a matrix for each group: inputs from the last one back, outputs in order.

    Parameters
    ----------
    realization : TimeVaryingRealization
    at, gap, past, future : int
        As `hankel_spectrum` takes them.

    Returns
    -------
    ndarray, shape (G, F p, L m)
        `F` future outputs, `L` past inputs.

    Examples
    --------
    >>> import torch, realization as rz
    >>> from bmojo import lift, lower
    >>> from bmojo.bridge import hankel_operator
    >>> one = lower(lift(rz.StateSpace([[0.5]], [[1.0]], [[1.0]])), torch.zeros(6, 1))
    >>> hankel_operator(one, 2, future=3)[0]
    array([[1.   , 0.5  ],
           [0.5  , 0.25 ],
           [0.25 , 0.125]])
    """
    t = realization.instant(at)
    back, on = realization.instant(t - span(past, t)), realization.instant(t + gap)
    reach, sight = [], []
    row = realization.transition(t, on)
    for step in range(on, on + span(future, realization.length - on)):
        sight.append(realization.C[step] @ row)
        row = realization.advance(step, row)
    column = np.broadcast_to(np.eye(realization.n_states), row.shape)
    for step in range(t - 1, back - 1, -1):
        reach.append(column @ realization.B[step])
        column = realization.withdraw(step, column)
    groups, n = realization.groups, realization.n_states
    O = np.concatenate([np.zeros((groups, 0, n)), *sight], axis=1)
    R = np.concatenate([np.zeros((groups, n, 0)), *reach], axis=2)
    return O @ R
