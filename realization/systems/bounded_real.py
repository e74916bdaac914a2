"""Bounded-real and positive-real balanced truncation: a passive model stays passive."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import DataError, ShapeError, UnstableError
from realization.systems.bilinear import to_continuous, to_discrete
from realization.systems.doubling import stabilizing_solutions
from realization.systems.lyapunov import SchurForm, lyapunov_factor
from realization.systems.models import StateSpace
from realization.systems.norms import hinf_norm
from realization.systems.projection import (
    Factors,
    Method,
    Parts,
    System,
    assembled,
    balanced,
    check_options,
    kept_states,
    reduced_system,
)
from realization.systems.riccati_truncation import RiccatiTruncation

__all__ = ["bounded_real_truncation", "positive_real_truncation"]

Array = NDArray[np.float64]


def bounded_real_truncation(
    model: StateSpace, order: int | None = None, *, method: Method = "square-root", match_dc: bool = False
) -> RiccatiTruncation:
    r"""Reduce a model whose gain stays below one, so that it stays below one.

    With $R = I - D D^\top$, $S = I - D^\top D$, the least solutions of

    $$A P + P A^\top + B B^\top + (P C^\top + B D^\top) R^{-1} (P C^\top + B D^\top)^\top = 0$$
    $$A^\top Q + Q A + C^\top C + (Q B + C^\top D) S^{-1} (Q B + C^\top D)^\top = 0$$

    are balanced and cut. Their values $\sigma_i < 1$ bound the error, and the reduced model is stable with
    gain below one again:

    $$\lVert G - G_r \rVert_\infty \le 2 \sum_{i > r} \sigma_i$$

    Discrete time goes through the bilinear transformation, which keeps gains, values and the bound.

    Parameters
    ----------
    model : StateSpace
        Stable, with a gain below one at every frequency (`hinf_norm`). An `InnovationsModel` is taken from
        inputs and innovations of unit variance.
    order : int, optional
        Number of states of the result; all above rounding when left out.
    method : {"square-root", "balancing-free"}
        As for `balanced_truncation`.
    match_dc : bool
        Singular perturbation instead of truncation: exact at frequency zero, with the same bound.

    Returns
    -------
    RiccatiTruncation
        `.model`, `.hsv`, `.order`, `.bound`, and measured on demand `.error`, both of the model itself.

    Raises
    ------
    UnstableError
        If the model is not stable.
    DataError
        If its gain reaches one.
    RealizationError
        If an option is not known.
    ConvergenceError
        If the gain comes so close to one that the equations cannot be solved.

    Warns
    -----
    OrderWarning
        If fewer states than `order` stand above rounding; the result has those.

    References
    ----------
    P. C. Opdenacker, E. A. Jonckheere, A contraction mapping preserving balanced reduction scheme and its
    infinity norm error bounds, IEEE Trans. Circuits and Systems 35 (1988) 184-189.

    Examples
    --------
    >>> import realization as rz
    >>> model = rz.StateSpace([[-1.0, 0.0], [0.0, -9.0]], [[1.0], [1.0]], [[0.5, 0.5]], dt=0.0)
    >>> result = rz.bounded_real_truncation(model, 1)
    >>> result.hsv.round(4), round(rz.hinf_norm(result.model).value, 3)
    (array([0.2871, 0.0178]), 0.53)
    """
    return _truncated("bounded_real_truncation", model, order, method, match_dc, False)


def positive_real_truncation(
    model: StateSpace, order: int | None = None, *, method: Method = "square-root", match_dc: bool = False
) -> RiccatiTruncation:
    r"""Reduce a passive model (an impedance, say) so that it stays passive.

    A model is strictly positive real, $G(i\omega) + G(i\omega)^* > 0$ at every frequency, exactly if its
    scattering matrix

    $$S = (I - G) (I + G)^{-1}$$

    is stable with a gain below one; and the energies that balance one balance the other:

    $$A P + P A^\top + (B - P C^\top) (D + D^\top)^{-1} (B - P C^\top)^\top = 0, \qquad
    A^\top Q + Q A + (C^\top - Q B) (D + D^\top)^{-1} (C^\top - Q B)^\top = 0$$

    are the equations of `bounded_real_truncation` for `S`, and cutting commutes with the transformation.
    So the reduced model is strictly positive real, and

    $$\lVert S - S_r \rVert_\infty \le 2 \sum_{i > r} \sigma_i$$

    Parameters
    ----------
    model : StateSpace
        Stable, as many inputs as outputs, strictly positive real: `D + Dᵀ` positive definite (in discrete
        time the response at the Nyquist frequency). An `InnovationsModel` is taken from inputs and
        innovations of unit variance.
    order : int, optional
        Number of states of the result; all above rounding when left out.
    method : {"square-root", "balancing-free"}
        As for `balanced_truncation`.
    match_dc : bool
        Singular perturbation instead of truncation: exact at frequency zero, with the same bound.

    Returns
    -------
    RiccatiTruncation
        `.model`, `.hsv`, `.order`, `.bound`, and measured on demand `.error`, both of the scattering matrix.

    Raises
    ------
    UnstableError
        If the model is not stable.
    ShapeError
        If it has not as many inputs as outputs.
    DataError
        If it is not strictly positive real.
    RealizationError, ConvergenceError
        As `bounded_real_truncation`.

    Warns
    -----
    OrderWarning
        If fewer states than `order` stand above rounding; the result has those.

    References
    ----------
    P. Harshavardhana, E. A. Jonckheere, L. M. Silverman, Stochastic balancing and approximation: stability
    and minimality, IEEE Trans. Automatic Control 29 (1984) 744-746.
    T. Reis, T. Stykel, Positive real and bounded real balancing for model reduction of descriptor systems,
    Int. J. Control 83 (2010) 74-88.

    Examples
    --------
    >>> import realization as rz
    >>> impedance = rz.StateSpace([[-1.0, 0.0], [0.0, -9.0]], [[1.0], [1.0]], [[1.0, 1.0]], [[0.2]], dt=0.0)
    >>> result = rz.positive_real_truncation(impedance, 1)
    >>> bool(result.error <= result.bound), bool((result.model.frequency_response([0.0, 9.0]).real > 0).all())
    (True, True)
    """
    return _truncated("positive_real_truncation", model, order, method, match_dc, True)


def _truncated(
    caller: str, model: StateSpace, order: int | None, method: Method, match_dc: bool, positive: bool
) -> RiccatiTruncation:
    check_options(caller, order, method)
    parts = Parts.of(model)
    if parts.unstable:
        raise UnstableError(
            f"{caller}: the model has {parts.unstable} poles on or beyond the stability limit; what is not "
            "stable is not passive. Split them off with stable_antistable_split."
        )
    whole = parts.stable if model.dt == 0 else to_continuous(parts.stable, caller)
    standing = _scattering(_unit(whole), caller) if positive else _unit(whole)
    factors = _factors(standing, caller, positive)
    kept = kept_states(caller, factors.hsv, order, 0)
    small = reduced_system(whole, factors, kept, method, match_dc, 0.0)
    cut = reduced_system(standing, factors, kept, method, match_dc, 0.0)
    result = assembled(caller, model, parts, small if model.dt == 0 else to_discrete(small))
    bound = 2.0 * float(factors.hsv[kept:].sum())
    return RiccatiTruncation(result, factors.hsv, kept, bound, standing.driven(0.0), cut.driven(0.0))


def _unit(system: System) -> System:
    """The same system from inputs of unit scale."""
    B, D = system.B @ system.weight, system.D @ system.weight
    return System(system.A, B, system.C, D, np.eye(B.shape[1]))


def _scattering(system: System, caller: str) -> System:
    """`(I - G) (I + G)⁻¹`, with states and storage of `G`."""
    A, B, C, D, weight = system
    p, m = D.shape
    if p != m:
        raise ShapeError(
            f"{caller}: the model has {m} inputs and {p} outputs; power is a product of pairs, so there must "
            "be as many of both."
        )
    least = float(np.linalg.eigvalsh(D + D.T).min(initial=np.inf))
    if not least > 0:
        raise DataError(
            f"{caller}: the least eigenvalue of D + Dᵀ is {least:.3g} (in discrete time of the gain at the "
            "Nyquist frequency); it must be positive for the model to be strictly positive real. Add a small "
            "multiple of the identity to D."
        )
    loop = np.asarray(np.linalg.inv(np.eye(p) + D), dtype=float)
    two = np.sqrt(2.0)
    return System(A - B @ loop @ C, two * B @ loop, -two * loop @ C, (np.eye(p) - D) @ loop, weight)


def _factors(system: System, caller: str, positive: bool) -> Factors:
    """Factors of the least solutions of both bounded-real equations, in the coordinates of the system."""
    A, B, C, D, _ = system
    form = SchurForm.of(A)
    T, B, C = form.T, form.inward(B), form.outward(C)
    in_schur = StateSpace(T, B, C, D, 0.0)
    _check_gain(in_schur, caller, positive)
    after, before = (np.linalg.cholesky(np.eye(len(M)) - M @ M.T) for M in (D, D.T))
    read = np.asarray(scipy.linalg.solve_triangular(after, C, lower=True))
    drive = np.asarray(scipy.linalg.solve_triangular(before, B.T, lower=True)).T
    across = np.asarray(scipy.linalg.solve_triangular(after, D @ B.T, lower=True))
    F = (T + across.T @ read).T
    P, minus_Q = stabilizing_solutions(F, -read.T @ read, drive @ drive.T, caller)
    gain = scipy.linalg.solve_triangular(after, C @ P + D @ B.T, lower=True).T
    pull = scipy.linalg.solve_triangular(before, D.T @ C - B.T @ minus_Q, lower=True).T
    reach = lyapunov_factor(T, np.hstack([B, gain]), discrete=False)
    sight = lyapunov_factor(T, np.hstack([C.T, pull]), discrete=False, transposed=True)
    return balanced(form.scale[:, None] * (form.Z @ reach), (form.Z @ sight) / form.scale[:, None])


def _check_gain(model: StateSpace, caller: str, positive: bool) -> None:
    peak = hinf_norm(model) if model.is_stable else None
    if peak is not None and peak.value < 1:
        return
    what, cure = "model", "; scale it"
    if positive:
        what, cure = "scattering matrix", ": the model is not strictly positive real"
    reach = "is not stable" if peak is None else f"has gain {peak.value:.9g} at {peak.omega:.4g} rad/s"
    raise DataError(f"{caller}: the {what} {reach}; it must be stable with a gain below one{cure}.")
