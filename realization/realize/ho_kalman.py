"""Ho-Kalman: minimal partial realization of a sequence of Markov parameters."""

from __future__ import annotations

from numpy.typing import ArrayLike

from realization.realize.factor import HankelRealization, factorize, finish

__all__ = ["ho_kalman"]


def ho_kalman(
    h: ArrayLike,
    order: int | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
    tol: float | None = None,
    dt: float | None = None,
) -> HankelRealization:
    r"""Minimal realization of a sequence of Markov parameters.

    The Hankel matrix of $h_1, h_2, \dots$ has the system's order as its rank, and every factorization of it
    into observability and controllability matrix is a realization. With $H = U S V^T$ cut at the rank,

    $$\mathcal O = U, \quad \mathcal C = S V^T, \qquad A = U^T H^{\uparrow} V S^{-1}, \quad
    B = \mathcal C_{:, 1:m}, \quad C = \mathcal O_{1:p, :}, \quad D = h_0$$

    where $H^{\uparrow}$ begins one step later. The state is output-normal over the rows used
    ($\mathcal O^T \mathcal O = I$); `era` gives the same system in balanced coordinates.

    A sequence that grows about a thousandfold or more (an unstable system) is first divided by $w^k$, its
    growth per step: the rank is the same, but no longer hidden below rounding, and $A$ and $B$ are multiplied
    by $w$ in the end.

    Parameters
    ----------
    h : array_like, shape (N, p, m), (N, p) or (N,)
        Markov parameters, `h[0] = D` first; (N, p) and (N,) are responses to one input.
    order : int, optional
        Number of states; the numerical rank of the Hankel matrix when left out. A smaller one truncates.
    rows, cols : int, optional
        Block rows and columns of the Hankel matrix, `rows + cols <= N - 1`. When left out, halves of `N - 1`:
        every system of order up to `(N - 1) // 2` is then determined.
    tol : float, optional
        Singular values up to `tol` times the largest count as zero; `4 * max(H.shape) * eps` when left out,
        which is rounding only: for measured sequences give `order` or `tol`.
    dt : float, optional
        Sampling time of the model; `0.0` where `h` comes from a system in continuous time.

    Returns
    -------
    result : HankelRealization
        `.model` (StateSpace), `.order`, `.hsv` (singular values of H, weighted where the sequence grows),
        `.residual`.

    Raises
    ------
    ShapeError
        If the sequence is too short for what is asked.
    RankError
        If `order` exceeds the numerical rank.

    Warns
    -----
    OrderWarning
        If the rank is full, or the model does not reproduce the sequence: then it is too short or too noisy
        to determine the order.

    References
    ----------
    B. L. Ho, R. E. Kalman, *Effective construction of linear state-variable models from input/output
    functions*, Regelungstechnik 14 (1966) 545-548.

    A. J. Tether, *Construction of minimal linear state-variable models from finite input-output data*, IEEE
    Transactions on Automatic Control 15 (1970) 427-436.

    Examples
    --------
    The Fibonacci numbers obey a recurrence of order two.

    >>> import realization as rz
    >>> result = rz.ho_kalman([0, 1, 1, 2, 3, 5, 8, 13, 21])
    >>> result.order
    2
    >>> rz.markov_parameters(result.model, 12)[-3:, 0, 0].round(9)
    array([34., 55., 89.])
    """
    factor = factorize(h, order, rows, cols, tol, caller="ho_kalman", weigh_growth=True)
    _, p, m = factor.h.shape
    U, s, V = factor.svd.U, factor.svd.s, factor.svd.V
    return finish(factor, U.T @ factor.later / s, s[:, None] * V[:m].T, U[:p], dt, "ho_kalman")
