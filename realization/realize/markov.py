"""Markov parameters of a model: the sequence that every realization of a system shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.errors import ShapeError, UnstableError
from realization.systems import StateSpace

__all__ = ["markov_parameters"]


def markov_parameters(model: StateSpace, count: int) -> NDArray[np.float64]:
    r"""First Markov parameters of a model.

    $$h_0 = D, \qquad h_k = C A^{k-1} B$$

    In discrete time they are the impulse response. In continuous time (`dt=0.0`) they are its derivatives at
    $t = 0^+$; any realization construction takes either. Those of the noise path are
    `markov_parameters(model.noise, count)`.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        Of the latter, the path from input to output.
    count : int
        How many, `h[0]` included.

    Returns
    -------
    h : ndarray, shape (count, p, m)

    Raises
    ------
    UnstableError
        If they grow past what floating point holds.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.2.

    Examples
    --------
    >>> import realization as rz
    >>> rz.markov_parameters(rz.StateSpace([[0.5]], [[1.0]], [[2.0]], [[3.0]]), 4)[:, 0, 0]
    array([3. , 2. , 1. , 0.5])
    """
    if not isinstance(count, int | np.integer) or count < 1:
        raise ShapeError(f"markov_parameters: count={count!r} came; a whole number, at least 1, is needed.")
    h = np.empty((count, model.n_outputs, model.n_inputs))
    h[0] = model.D
    reached = model.B
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(1, count):
            h[k] = model.C @ reached
            reached = model.A @ reached
    finite = np.isfinite(h).all(axis=(1, 2))
    if not finite.all():
        raise UnstableError(
            f"markov_parameters: h[{np.argmin(finite)}] overflows; the poles reach modulus "
            f"{np.abs(model.poles).max():.3g}. Ask for fewer than {np.argmin(finite)}."
        )
    return h
