"""How many singular values of a Hankel matrix noise does not explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, ShapeError

__all__ = ["OrderEstimate", "estimate_order", "noise_norm"]

Array = NDArray[np.float64]
FALSE_ALARM = 0.01


@dataclass(frozen=True, eq=False)
class OrderEstimate:
    r"""An order, and what it was decided from.

    Attributes
    ----------
    order : int
        Number of singular values above `threshold`.
    threshold : float
        What the noise alone exceeds with probability `false_alarm` at most.
    gap : float
        Ratio of the last singular value kept to the first one cut; infinite where none is cut or it is zero,
        1 for order 0. A gap near 1 says that more states may be there than noise lets be seen.
    ratios : ndarray, shape (k - 1,)
        Each singular value over the next one; infinite where that is zero.
    noise : float
        Standard deviation of the entries' errors, as given or as estimated.

    Examples
    --------
    >>> import realization as rz
    >>> found = rz.estimate_order([9.0, 4.0, 0.02, 0.01], noise=0.003)
    >>> found.order, found.gap, round(found.threshold, 3)
    (2, 200.0, 0.027)
    """

    order: int
    threshold: float
    gap: float
    ratios: Array
    noise: float


def estimate_order(
    singular_values: ArrayLike,
    *,
    noise: float | None = None,
    blocks: tuple[int, int] | None = None,
    channels: tuple[int, int] = (1, 1),
    false_alarm: float = FALSE_ALARM,
) -> OrderEstimate:
    r"""Order of a system from the singular values of its measured Hankel matrix.

    Independent Gaussian errors of standard deviation $\sigma$ on $h_1, \dots, h_N$ make a Hankel matrix E of
    errors. It is a part of the circulant matrix of its sequence, so its norm is at most the largest one among
    the N Fourier coefficients $\hat e$, whose entries have the variance $N \sigma^2$:

    $$\left\| E \right\|_2 \le \max_f \left\| \hat e(f) \right\|_2 \le \tau = \sigma \sqrt{N}
    \bigl( \sqrt{p} + \sqrt{m} + t \bigr) \quad \text{with probability } 1 - \delta,$$

    $t^2 = \max\bigl(\log(N / \delta),\ 2 \log(4 / \delta)\bigr)$, and without $\sqrt{p} + \sqrt{m}$ for one
    input and output. No singular value moves by more than $\left\| E \right\|_2$ (Weyl), so those of rank
    n + 1 and beyond lie below $\tau$: the order is overestimated with probability $\delta$ at most. (The
    threshold for matrices of independent entries, $\sigma (\sqrt{rp} + \sqrt{cm})$, is too low here, since
    the norm of a Hankel matrix grows with $\sqrt{N \log N}$.) States whose singular values are below
    $2 \tau$ may be missed.

    An unknown $\sigma$ is found with the order: the cut singular values' sum of squares, over the degrees of
    freedom that are left, is $\sigma^2$; starting from order 0, until the order stays. Every entry of h
    stands in as many places as its antidiagonal is long, so that this is less accurate than the size of the
    matrix suggests.

    Parameters
    ----------
    singular_values : array_like, shape (k,)
        Of the Hankel matrix, largest first.
    noise : float, optional
        Standard deviation $\sigma$ of the entries' errors; estimated from all singular values if left out.
    blocks : tuple of int, optional
        Block rows r and block columns c, $N = r + c - 1$; k and k, a square matrix of scalars, if left out.
    channels : tuple of int
        Outputs p and inputs m: rows and columns of a block.
    false_alarm : float
        $\delta$, the probability that the order is too high, at most.

    Returns
    -------
    OrderEstimate
        `.order`, `.threshold`, `.gap`, `.ratios`, `.noise`.

    Raises
    ------
    ShapeError
        If the singular values do not fit the matrix.
    DataError
        If they are not finite, negative or not ordered, or an option is not what is said above.

    References
    ----------
    M. W. Meckes, *On the spectral norm of a random Toeplitz matrix*, Electronic Communications in Probability
    12 (2007) 315-325.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> k = np.arange(200)
    >>> h = 0.95**k * np.cos(0.4 * k) + 0.01 * np.random.default_rng(0).standard_normal(200)
    >>> s = np.linalg.svd(rz.hankel(h[1:], 100, 100), compute_uv=False)
    >>> rz.estimate_order(s, noise=0.01).order, rz.estimate_order(s).order
    (2, 2)
    """
    s = _checked(singular_values)
    blocks = (len(s), len(s)) if blocks is None else blocks
    for name, pair in (("blocks", blocks), ("channels", channels)):
        if np.shape(pair) != (2,):
            raise ShapeError(f"estimate_order: {name}={pair!r} came; a pair of whole numbers is needed.")
    size = blocks[0] * channels[0], blocks[1] * channels[1]
    if min(size) < len(s) or (noise is None and min(size) > len(s)):
        raise ShapeError(
            f"estimate_order: {len(s)} singular values of a {size[0]} x {size[1]} matrix; at most "
            f"{min(size)} are there, and all are needed where noise is not given. Say blocks and channels, "
            "or give noise."
        )
    unit = noise_norm(1.0, blocks, channels, false_alarm=false_alarm, caller="estimate_order")
    if noise is None:
        order, noise = _self_consistent(s, size, unit)
    else:
        noise_norm(noise, blocks, channels, caller="estimate_order")
    threshold = max(noise * unit, 4 * max(size) * float(np.finfo(float).eps) * float(s[0]))
    order = int(np.sum(s > threshold))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(s[1:] > 0, s[:-1] / s[1:], np.inf)
    gap = 1.0 if order == 0 else float(ratios[order - 1]) if order < len(s) else np.inf
    return OrderEstimate(order, threshold, gap, ratios, float(noise))


def noise_norm(
    noise: float,
    blocks: tuple[int, int],
    channels: tuple[int, ...],
    *,
    false_alarm: float = FALSE_ALARM,
    caller: str,
) -> float:
    """What the norm of a Hankel matrix of white noise exceeds with probability `false_alarm` at most."""
    if not (np.isfinite(noise) and noise >= 0):
        raise DataError(f"{caller}: noise={noise} came; a standard deviation, at least 0, is needed.")
    if not 0 < false_alarm < 1:
        raise DataError(f"{caller}: false_alarm={false_alarm} came; a probability is needed, like 0.01.")
    if any(not isinstance(x, int | np.integer) or x < 1 for x in (*blocks, *channels)):
        raise ShapeError(f"{caller}: blocks={blocks} and channels={channels} came; they must be at least 1.")
    count, (p, m) = sum(blocks) - 1, channels
    # About N/2 complex coefficients, each with its conjugate, and one or two real ones with heavier tails.
    t = np.sqrt(max(np.log(count / false_alarm), 2 * np.log(4 / false_alarm)))
    width = 0.0 if p == m == 1 else np.sqrt(p) + np.sqrt(m)
    return float(noise * np.sqrt(count) * (width + t))


def _self_consistent(s: Array, size: tuple[int, int], unit: float) -> tuple[int, float]:
    order, squares = 0, np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0)
    while True:
        freedom = (size[0] - order) * (size[1] - order)
        noise = float(np.sqrt(squares[order] / freedom)) if freedom else 0.0
        found = int(np.sum(s > noise * unit))
        if found <= order or freedom == 0:
            return order, noise
        order = found


def _checked(singular_values: ArrayLike) -> Array:
    s = as_real(singular_values, "estimate_order: singular_values")
    if s.ndim != 1 or not len(s):
        raise ShapeError(f"estimate_order: singular values of shape {s.shape} came; (k,) is needed.")
    if not np.isfinite(s).all() or s[-1] < 0 or (np.diff(s) > 0).any():
        raise DataError(
            "estimate_order: singular values must be finite, at least 0 and the largest first; sort them."
        )
    return s
