"""Gramians over a frequency band, or over a time interval, in the place of all frequencies and all time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import DataError
from realization.systems.gramians import excitation, stable_form
from realization.systems.lyapunov import complex_schur, lyapunov_factor
from realization.systems.models import StateSpace
from realization.systems.norms import checked_band

__all__ = ["Gramians", "band_function", "frequency_limited_gramians", "time_limited_gramians"]

Array = NDArray[np.float64]
Band = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Gramians:
    """Both gramians of a model, over what was asked for.

    Attributes
    ----------
    Wc : ndarray, shape (n, n)
        Controllability gramian.
    Wo : ndarray, shape (n, n)
        Observability gramian.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], dt=0.0)
    >>> rz.frequency_limited_gramians(model, (0.0, 1.0)).Wc.round(12)  # atan(1) / π
    array([[0.25]])
    """

    Wc: Array
    Wo: Array


def frequency_limited_gramians(model: StateSpace, band: Band) -> Gramians:
    r"""Gramians of a model that is driven and seen in a frequency band alone.

    $$W_c(\Omega) = \frac{1}{2\pi} \int_{\pm\Omega} (i\omega I - A)^{-1} B B^\top (i\omega I - A)^{-*} d\omega
    = F W_c + W_c F^\top, \qquad W_o(\Omega) = F^\top W_o + W_o F$$

    with $W_c, W_o$ the ordinary gramians and, for the band from 0 to $\omega$ and $z = e^{i \theta}$,
    $\theta = \omega\, dt$,

    $$F = -\frac{1}{\pi} \operatorname{Im} \log(-A - i\omega I), \qquad
    F = \frac{\theta}{2\pi} I + \frac{1}{\pi} \operatorname{Im} \log(I - e^{-i\theta} A)$$

    in continuous and in discrete time; a band is the difference of two of them. The gramians of adjacent
    bands add up, those of all frequencies are the ordinary ones.

    Parameters
    ----------
    model : StateSpace
        Stable. An `InnovationsModel` is driven as for `controllability_gramian`.
    band : tuple of float
        Lowest and highest frequency in rad/s, with `dt=None` in rad per step. In continuous time the second
        may be infinite; in discrete time the band ends at the Nyquist frequency.

    Returns
    -------
    Gramians
        `.Wc`, `.Wo`, each (n, n).

    Raises
    ------
    DataError
        If the band is none.
    UnstableError, ConvergenceError
        As `controllability_gramian`.

    References
    ----------
    W. Gawronski, J.-N. Juang, Model reduction in limited time and frequency intervals, Int. J. Systems
    Science 21 (1990) 349-376.
    P. Benner, P. Kürschner, J. Saak, Frequency-limited balanced truncation with low-rank approximations, SIAM
    J. Sci. Comput. 38 (2016) A471-A499.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.5, -0.5]), np.ones((2, 1)), np.ones((1, 2)))
    >>> low, high = (rz.frequency_limited_gramians(model, band).Wc for band in ((0, 1), (1, 4)))
    >>> bool(np.allclose(low + high, rz.controllability_gramian(model)))
    True
    """
    limits = checked_band("frequency_limited_gramians", model, band)
    form = stable_form(model, "frequency_limited_gramians")
    F = band_function(form.T, limits, model.dt)
    reach = lyapunov_factor(form.T, form.inward(excitation(model)), discrete=model.dt != 0)
    sight = lyapunov_factor(form.T, form.outward(model.C).T, discrete=model.dt != 0, transposed=True)
    Wc, Wo = F @ reach @ reach.T, F.T @ sight @ sight.T
    basis = form.scale[:, None] * form.Z
    dual = form.Z / form.scale[:, None]
    return Gramians(basis @ (Wc + Wc.T) @ basis.T, dual @ (Wo + Wo.T) @ dual.T)


def time_limited_gramians(model: StateSpace, duration: float) -> Gramians:
    r"""Gramians of inputs and outputs that last for a limited time.

    $$W_c(\tau) = \int_0^\tau e^{At} B B^\top e^{A^\top t} dt = W_c - e^{A\tau} W_c e^{A^\top \tau}$$

    In discrete time it is the sum over the first $N$ samples, $W_c - A^N W_c (A^\top)^N$.

    Parameters
    ----------
    model : StateSpace
        Stable. An `InnovationsModel` is driven as for `controllability_gramian`.
    duration : float
        Positive, in seconds; a whole number of samples in discrete time (`dt=None`: their number).

    Returns
    -------
    Gramians
        `.Wc`, `.Wo`, each (n, n).

    Raises
    ------
    DataError
        If `duration` is not positive and finite, or no whole number of samples.
    UnstableError, ConvergenceError
        As `controllability_gramian`.

    References
    ----------
    W. Gawronski, J.-N. Juang, Model reduction in limited time and frequency intervals, Int. J. Systems
    Science 21 (1990) 349-376.

    Examples
    --------
    >>> import realization as rz
    >>> rz.time_limited_gramians(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), 2).Wc.round(12)  # 1 + 0.25
    array([[1.25]])
    """
    step = 1.0 if model.dt is None else model.dt
    samples = 0 if model.dt == 0 else round(duration / step) if np.isfinite(duration) else 0
    if not (np.isfinite(duration) and duration > 0) or (step and abs(samples * step / duration - 1) > 1e-9):
        raise DataError(
            f"time_limited_gramians: duration={duration} came; it must be positive and finite, in discrete "
            "time a whole number of samples."
        )
    form = stable_form(model, "time_limited_gramians")
    flow = np.linalg.matrix_power(form.T, samples) if samples else scipy.linalg.expm(duration * form.T)
    reach = lyapunov_factor(form.T, form.inward(excitation(model)), discrete=model.dt != 0)
    sight = lyapunov_factor(form.T, form.outward(model.C).T, discrete=model.dt != 0, transposed=True)
    reached, seen = flow @ reach, flow.T @ sight
    basis, dual = form.scale[:, None] * form.Z, form.Z / form.scale[:, None]
    return Gramians(
        basis @ (reach @ reach.T - reached @ reached.T) @ basis.T,
        dual @ (sight @ sight.T - seen @ seen.T) @ dual.T,
    )


def band_function(T: Array, band: Band, dt: float | None) -> Array:
    """The matrix function `F` of a band, for a quasi-triangular matrix in standard form."""
    n = len(T)
    if n == 0:
        return T
    S, into, back = complex_schur(T, np.eye(n), np.eye(n))
    # The imaginary part is that in the real coordinates, not in those of S.
    return (back @ _between(S, band, dt) @ into).imag


def _between(S: NDArray[np.complex128], band: Band, dt: float | None) -> NDArray[np.complex128]:
    """Triangular matrix whose imaginary part in real coordinates is `F` of the band.

    The eigenvalues of both arguments lie in the right half-plane, so that the difference of their
    logarithms is the one logarithm of their quotient.
    """
    (low, high), identity = band, np.eye(len(S), dtype=complex)
    step = 1.0 if dt is None else dt
    if dt == 0 and np.isinf(high):
        upper, turn = identity, 0.5
    elif dt == 0:
        upper, turn = -S - 1j * high * identity, 0.0
    else:
        upper, turn = identity - np.exp(-1j * high * step) * S, (high - low) * step / 2 / np.pi
    if low > 0:
        lower = -S - 1j * low * identity if dt == 0 else identity - np.exp(-1j * low * step) * S
        upper = scipy.linalg.solve_triangular(lower, upper, check_finite=False)
    sign = -np.pi if dt == 0 else np.pi
    logarithm = np.asarray(scipy.linalg.logm(upper), dtype=np.complex128) / sign
    return np.asarray(logarithm + 1j * turn * identity, dtype=np.complex128)
