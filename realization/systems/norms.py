"""Norms of a stable model: H∞ (largest gain over frequency), H2 (energy of the impulse response), Hankel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack

from realization.errors import ConvergenceError, ConvergenceWarning, DataError
from realization.notes import warn
from realization.systems.gramians import excitation, hankel_singular_values, root, stable_form
from realization.systems.lyapunov import EPS, SchurForm, complex_schur, lyapunov_factor
from realization.systems.models import InnovationsModel, StateSpace

__all__ = ["HinfNorm", "h2_norm", "hankel_norm", "hinf_norm"]

Array = NDArray[np.float64]
GUESSES = 20


@dataclass(frozen=True, eq=False)
class HinfNorm:
    r"""Largest gain of a model, and where it is.

    Attributes
    ----------
    value : float
        $\max_\omega \sigma_{\max}(G)$.
    omega : float
        A frequency at which it is reached, rad/s; infinite where the direct term is the peak in continuous
        time.

    Examples
    --------
    >>> import realization as rz
    >>> rz.hinf_norm(rz.StateSpace([[-1.0]], [[1.0]], [[2.0]], dt=0.0))
    HinfNorm(value=2.0, omega=0.0)
    """

    value: float
    omega: float


def hinf_norm(model: StateSpace, *, tol: float = 1e-10, band: tuple[float, float] | None = None) -> HinfNorm:
    r"""H∞ norm: the largest singular value of the frequency response over all frequencies.

    $$\lVert G \rVert_\infty = \sup_\omega \sigma_{\max}\bigl(G(e^{i \omega\, dt})\bigr)$$

    A gain $\gamma$ is reached somewhere exactly if a Hamiltonian matrix (discrete time: a symplectic pencil,
    taken to a Hamiltonian matrix by a Cayley transform) has an eigenvalue on the imaginary axis (unit
    circle). From the largest gain found so far, each step asks for a slightly larger one, and looks between
    the frequencies at which it is reached; when there are none, the two agree. It converges quadratically,
    and needs no grid.

    Parameters
    ----------
    model : StateSpace
        Stable. Of an `InnovationsModel`, the path from `u` to `y` (from `e` of unit variance where there is
        no `u`).
    tol : float
        Relative width of the bracket at which to stop, between 1e-13 and 0.1.
    band : tuple of float, optional
        The largest gain between these two frequencies alone, in rad/s (`dt=None`: rad per step; the second
        may be infinite). The model may then be unstable, with no pole on the stability limit.

    Returns
    -------
    HinfNorm
        `.value` is a gain that is reached at `.omega`; no gain exceeds it by more than `2 tol` of it. Where
        the gain is no larger than the rounding of the terms it is summed from (the difference of two equal
        models), it is the largest of a few samples.

    Raises
    ------
    UnstableError
        If a pole is not stable: the norm is infinite.
    ConvergenceError
        If the bracket does not close in 50 steps.

    Warns
    -----
    ConvergenceWarning
        If the gain is the rounding of much larger terms, and its peak is lost in it.

    References
    ----------
    N. A. Bruinsma, M. Steinbuch, A fast algorithm to compute the H∞-norm of a transfer function matrix,
    Systems & Control Letters 14 (1990) 287-293.
    S. Boyd, V. Balakrishnan, A regularity result for the singular values of a transfer matrix and a
    quadratically convergent algorithm for computing its L∞-norm, Systems & Control Letters 15 (1990) 1-7.

    Examples
    --------
    >>> import realization as rz
    >>> damped = rz.StateSpace([[0.0, 1.0], [-1.0, -0.2]], [[0.0], [1.0]], [[1.0, 0.0]], dt=0.0)
    >>> norm = rz.hinf_norm(damped)  # 1 / (2 ζ √(1 - ζ²)) with ζ = 0.1
    >>> round(norm.value, 9), round(norm.omega, 6)
    (5.025189076, 0.989949)
    """
    if not 1e-13 <= tol <= 0.1:
        raise DataError(f"hinf_norm: tol={tol} came; it must lie between 1e-13 and 0.1.")
    form = stable_form(model, "hinf_norm") if band is None else SchurForm.of(model.A)
    response = _Response(model, form, band)
    best = response.climb(response.largest(response.first_guesses()))
    if best[0] <= response.rounding or model.n_states == 0:
        return HinfNorm(*best)  # a gain of nothing but rounding has no peak to look for
    for _ in range(50):
        gamma = best[0] * (1 + 2 * tol)
        crossings = response.crossings(gamma)
        if crossings is None:
            warn(
                f"hinf_norm: the largest gain found, {best[0]:.3g}, is the rounding of much larger terms; "
                "whether another is larger cannot be told.",
                ConvergenceWarning,
                stacklevel=2,
            )
            return HinfNorm(*best)
        found = response.largest(response.around(crossings))
        if found[0] <= gamma:
            return HinfNorm(*max(best, found))
        best = response.climb(found)
    raise ConvergenceError(
        f"hinf_norm: no end after 50 steps, the largest gain so far is {best[0]:.6g} at {best[1]:.6g} rad/s; "
        "try a larger tol."
    )


def h2_norm(model: StateSpace) -> float:
    r"""H2 norm: root of the energy of the impulse response, or of the output power under unit white noise.

    $$\lVert G \rVert_2^2 = \sum_k \lVert h_k \rVert_F^2 = \operatorname{tr}(C W_c C^\top + D D^\top)$$

    In continuous time it is infinite where there is a direct term. The sum is not divided by `dt`.

    Parameters
    ----------
    model : StateSpace
        Stable. Paths of an `InnovationsModel` as in `hinf_norm`.

    Returns
    -------
    value : float

    Raises
    ------
    UnstableError, ConvergenceError
        As `controllability_gramian`.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, section 5.5.

    Examples
    --------
    >>> import realization as rz
    >>> round(rz.h2_norm(rz.StateSpace([[0.6]], [[0.8]], [[3.0]], [[4.0]])), 12)
    5.0
    """
    form = stable_form(model, "h2_norm")
    direct = np.linalg.norm(_direct(model))
    if model.dt == 0 and direct > 0:
        return math.inf
    reach = lyapunov_factor(form.T, form.inward(excitation(model)), discrete=model.dt != 0)
    return float(np.hypot(np.linalg.norm(form.outward(model.C) @ reach), direct))


def hankel_norm(model: StateSpace) -> float:
    r"""Hankel norm: the largest Hankel singular value, the gain from past inputs to future outputs.

    $$\lVert G \rVert_H = \sigma_1 \le \lVert G - D \rVert_\infty \le 2 \sum_i \sigma_i$$

    Parameters
    ----------
    model : StateSpace
        Stable. Paths of an `InnovationsModel` as in `hinf_norm`.

    Returns
    -------
    value : float

    Raises
    ------
    UnstableError, ConvergenceError
        As `hankel_singular_values`.

    References
    ----------
    K. Glover, All optimal Hankel-norm approximations of linear multivariable systems and their L∞-error
    bounds, Int. J. Control 39 (1984) 1115-1193.

    Examples
    --------
    >>> import realization as rz
    >>> round(rz.hankel_norm(rz.StateSpace([[0.6]], [[0.8]], [[1.6]])), 12)
    2.0
    """
    return float(hankel_singular_values(model).max(initial=0.0))


def checked_band(caller: str, model: StateSpace, band: tuple[float, float]) -> tuple[float, float]:
    """Both ends of a frequency band, cut off at the Nyquist frequency in discrete time."""
    try:
        low, high = (float(end) for end in band)
    except (TypeError, ValueError) as failure:
        raise DataError(f"{caller}: band={band!r} came; it must be two frequencies in rad/s.") from failure
    if not 0 <= low < high:
        raise DataError(
            f"{caller}: band={band!r} came; it must be two frequencies, 0 <= low < high, in rad/s."
        )
    nyquist = np.inf if model.dt == 0 else np.pi / (1.0 if model.dt is None else model.dt)
    if low >= nyquist:
        raise DataError(
            f"{caller}: band={band!r} came; it lies above the Nyquist frequency {nyquist:.6g} rad/s."
        )
    return low, min(high, float(nyquist))


def _direct(model: StateSpace) -> Array:
    if isinstance(model, InnovationsModel) and model.n_inputs == 0:
        return root(model.Re)
    return model.D


class _Response:
    """Gains of a model at given frequencies, and frequencies at which a given gain is reached."""

    def __init__(self, model: StateSpace, form: SchurForm, band: tuple[float, float] | None) -> None:
        self.continuous = model.dt == 0
        self.step = 1.0 if model.dt is None else model.dt
        highest = np.inf if self.continuous else np.pi / self.step
        self.low, self.high = (0.0, highest) if band is None else checked_band("hinf_norm", model, band)
        self.A, self.B, self.C = form.T, form.inward(excitation(model)), form.outward(model.C)
        self.D, self.poles = _direct(model), form.eigenvalues
        sizes = np.linalg.norm(self.B), np.linalg.norm(self.C)
        if min(sizes) > 0:  # the pencil is best conditioned where both count alike
            share = np.sqrt(sizes[0] / sizes[1])
            self.B, self.C = self.B / share, self.C * share
        self.S, self.drive, self.read = complex_schur(self.A, self.B, self.C)
        self.rounding = EPS * float(np.linalg.norm(self.D))

    def first_guesses(self) -> Array:
        """Both ends, and the resonances of the poles that are damped least, within the band."""
        ends = [self.low, self.high]
        if self.continuous:
            modulus = np.abs(self.poles)
            least = np.argsort(-self.poles.real / np.maximum(modulus, np.finfo(float).tiny))[:GUESSES]
            resonances = np.sqrt(np.maximum(self.poles.imag**2 - self.poles.real**2, 0.0))
            places = np.concatenate([ends, resonances[least], modulus[least]])
            return np.unique(np.clip(places, self.low, self.high))
        least = np.argsort(np.abs(1 - np.abs(self.poles)))[:GUESSES]
        places = np.concatenate([ends, np.abs(np.angle(self.poles[least])) / self.step])
        return np.unique(np.clip(places, self.low, self.high))

    def largest(self, omega: Array) -> tuple[float, float]:
        """Largest gain over the frequencies, and its place."""
        gains = [(self.gain(float(w)), float(w)) for w in omega]
        return max(gains, default=(0.0, 0.0), key=lambda found: found[0])

    def climb(self, start: tuple[float, float]) -> tuple[float, float]:
        """A few parabolas up to the peak nearby: each saves steps that cost an eigenvalue problem."""
        best = start
        if not self.low < best[1] < self.high or len(self.S) == 0:
            return best
        point = 1j * best[1] if self.continuous else np.exp(1j * best[1] * self.step)
        width = 0.1 * np.abs(self.poles - point).min() / (1.0 if self.continuous else self.step)
        for _ in range(6):
            (middle, place), width = best, min(width, best[1] - self.low, self.high - best[1])
            if width <= 0:
                break
            left, right = self.gain(place - width), self.gain(place + width)
            bend = left - 2 * middle + right
            shift = 0.5 * width * (left - right) / bend if bend < 0 else width * np.sign(right - left)
            top = float(np.clip(place + np.clip(shift, -5 * width, 5 * width), self.low, self.high))
            best = max(best, (left, place - width), (right, place + width), (self.gain(top), top))
            width *= 0.2
        return best

    def gain(self, omega: float) -> float:
        """Largest singular value of the response; `rounding` grows with what its sums may be wrong by."""
        G = self.D.astype(complex)
        if np.isfinite(omega) and len(self.S):
            point = 1j * omega if self.continuous else np.exp(1j * omega * self.step)
            shifted = -self.S
            shifted[np.diag_indices(len(shifted))] += point
            states = scipy.linalg.solve_triangular(shifted, self.drive, check_finite=False)
            G = G + self.read @ states
            size = np.linalg.norm(np.abs(self.read) @ np.abs(states))
            self.rounding = max(self.rounding, 10 * EPS * len(self.S) * float(size))
        if not np.isfinite(G).all():
            raise DataError(
                "hinf_norm: the frequency response overflows; change the units of inputs or outputs."
            )
        return float(np.linalg.norm(G, 2)) if G.size else 0.0

    def crossings(self, gamma: float) -> Array | None:
        """Frequencies, ascending, at which a singular value is close to `gamma`, and a few others.

        The model and its adjoint, closed into a loop by `γ y = C x + D u`, `γ u = Bᵀ q + Dᵀ y`, have a mode
        on the stability limit exactly where `γ` is a singular value of the gain; None if rounding hides it.
        """
        p, m, n = *self.D.shape, len(self.A)
        loop = np.block([[gamma * np.eye(p), -self.D], [-self.D.T, gamma * np.eye(m)]])
        closed = np.linalg.solve(loop, scipy.linalg.block_diag(self.C, self.B.T))
        forward, backward = self.B @ closed[p:], self.C.T @ closed[:p]
        forward[:, :n] += self.A
        backward[:, n:] += self.A.T
        if self.continuous:
            return _imaginary(np.vstack([forward, -backward]))
        identity = np.eye(2 * n)
        pencil = np.vstack([forward, identity[n:]]), np.vstack([identity[:n], backward])
        return self._unimodular(*pencil)

    def around(self, crossings: Array) -> Array:
        """Where in the band the gain may be larger: between crossings, and on either side of each.

        Of two crossings at which the gain rises slowly and falls fast, rounding may hide the first.
        """
        ends = [end for end in (self.low, self.high) if np.isfinite(end)]
        places = np.unique(np.concatenate([crossings, ends]).clip(self.low, self.high))
        sides = np.multiply.outer([1 - 1e-3, 1 - 1e-6, 1.0, 1 + 1e-6, 1 + 1e-3], places).ravel()
        return np.unique(np.concatenate([sides, (places[1:] + places[:-1]) / 2]).clip(self.low, self.high))

    def _unimodular(self, F: Array, E: Array) -> Array | None:
        """Frequencies of the eigenvalues `F v = z E v` on the unit circle, by a Cayley transform at 1 or -1.

        With `s = (z - 1) / (z + 1)`, `z = exp(i θ)` becomes `s = i tan(θ / 2)`.
        """
        plus, minus = F + E, F - E
        conditions = _reciprocal_condition(plus), _reciprocal_condition(minus)
        if max(conditions) == 0.0:
            return None
        if conditions[0] >= conditions[1]:
            angles = 2 * np.arctan(_imaginary(_solved(plus, minus)))
        else:
            angles = 2 * np.arctan2(1.0, _imaginary(_solved(minus, plus))[::-1])
        return angles / self.step


def _imaginary(matrix: Array) -> Array:
    """Moduli, ascending, of the eigenvalues that may lie on the imaginary axis.

    Nearly double ones part by more than rounding; what is let in by mistake costs time and does no harm.
    """
    values = np.linalg.eigvals(matrix)
    slack = 1e-5 * np.abs(values) + 100 * EPS * np.linalg.norm(matrix)
    return np.unique(np.abs(values.imag[np.abs(values.real) <= slack]))


def _solved(matrix: Array, right: Array) -> Array:
    return np.asarray(np.linalg.solve(matrix, right), dtype=float)


def _reciprocal_condition(matrix: Array) -> float:
    factors, _, failed = lapack.dgetrf(matrix)
    return 0.0 if failed else float(lapack.dgecon(factors, np.linalg.norm(matrix, 1))[0])
