"""ERA: the eigensystem realization algorithm, Ho-Kalman in balanced coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from realization.realize.factor import HankelRealization, factorize, finish

__all__ = ["era"]


def era(
    h: ArrayLike,
    order: int | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
    tol: float | None = None,
    noise: float | None = None,
    dt: float | None = None,
    method: str = "auto",
    seed: int | np.random.Generator = 0,
) -> HankelRealization:
    r"""Balanced realization of measured Markov parameters, by the eigensystem realization algorithm.

    With the Hankel matrix of $h_1, h_2, \dots$ decomposed and cut, $H \approx U S V^T$,

    $$\mathcal O = U S^{1/2}, \quad \mathcal C = S^{1/2} V^T, \quad A = S^{-1/2} U^T H^\uparrow V S^{-1/2},$$

    $$B = \mathcal C_{:, 1:m}, \quad C = \mathcal O_{1:p, :}, \quad D = h_0$$

    where $H^{\uparrow}$ begins one step later. It is the construction of Ho and Kalman with one choice of
    state: $\mathcal O^T \mathcal O = \mathcal C \mathcal C^T = S$, so each state is as easily reached as it
    is seen, over the rows and columns used, and the singular values rank the states. That is what matters on
    measured sequences, where the rank is full and the order is where the singular values drop: the states
    that are cut are those that matter least to both. As `rows` and `cols` grow (stable system), they tend to
    the Hankel singular values.

    Parameters
    ----------
    h : array_like, shape (N, p, m), (N, p) or (N,)
        Markov parameters, `h[0] = D` first; (N, p) and (N,) are responses to one input.
    order : int, optional
        Number of states; as many as there are singular values above `tol` when left out.
    rows, cols : int, optional
        Block rows and columns of the Hankel matrix, `rows + cols <= N - 1`; halves of `N - 1` when left out.
    tol : float, optional
        Singular values up to `tol` times the largest are cut; `4 * max(H.shape) * eps` when left out, which
        is rounding only.
    noise : float, optional
        Standard deviation of the errors of `h`, in its unit, independent and Gaussian; the order is then the
        number of singular values that they do not explain (`estimate_order`).
    dt : float, optional
        Sampling time of the model.
    method : {"auto", "dense", "randomized"}
        How H is decomposed, as for `hankel_svd`: `"auto"` is dense for up to 400 rows or columns, and beyond
        that randomized, without forming H, where the order is a small part of them. Then `.hsv` ends some
        places after the order.
    seed : int or numpy.random.Generator
        Of the randomized decomposition.

    Returns
    -------
    result : HankelRealization
        `.model` (StateSpace), `.order`, `.hsv` (singular values of H), `.residual`, and `.bound` and
        `.certain_bound` on the spectral norm of what was cut from H.

    Raises
    ------
    ShapeError
        If the sequence is too short for what is asked.
    RankError
        If `order` exceeds the number of singular values above `tol`.

    Warns
    -----
    OrderWarning
        If the order was left open and the singular values do not settle it.

    References
    ----------
    J.-N. Juang, R. S. Pappa, *An eigensystem realization algorithm for modal parameter identification and
    model reduction*, Journal of Guidance, Control, and Dynamics 8 (1985) 620-627.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> k = np.arange(1, 41)
    >>> h = np.r_[0.0, 0.9**k * np.cos(k) + 1e-4 * np.sin(7.0 * k * k)]
    >>> result = rz.era(h, order=2)
    >>> bool(result.hsv[1] > 100 * result.hsv[2])
    True
    >>> np.abs(result.model.poles).round(3)
    array([0.9, 0.9])
    """
    factor = factorize(h, order, rows, cols, tol, caller="era", method=method, seed=seed, noise=noise)
    _, p, m = factor.h.shape
    U, V, root = factor.svd.U, factor.svd.V, np.sqrt(factor.svd.s)
    A = U.T @ factor.later / np.outer(root, root)
    return finish(factor, A, root[:, None] * V[:m].T, U[:p] * root, dt, "era")
