"""Canonical forms: the same system in a state chosen so that one reads something off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import DataError, RankError, RealizationError
from realization.systems.companion import Pattern, controllable_basis, observable_basis, shift_basis
from realization.systems.gramians import gramian_factors
from realization.systems.modal import modal_basis
from realization.systems.models import StateSpace
from realization.systems.reachability import checked_tol

__all__ = ["CanonicalForm", "canonical_form"]

Array = NDArray[np.float64]
Form = Literal["controllable", "observable", "modal", "shift", "schur", "balanced"]
COUPLING = 1e3
RESIDUAL = 1e-6


@dataclass(frozen=True, eq=False)
class CanonicalForm:
    r"""A model in a canonical form.

    Attributes
    ----------
    model : StateSpace or InnovationsModel
        In the form; entries that the form fixes at 0 or 1 have that value exactly.
    T : ndarray, shape (n, n)
        `similarity_transform(T)` of the given model is `model`, up to `residual`.
    form : str
    blocks : tuple of int
        Sizes of the diagonal blocks (modal, schur), or the lengths of the chains (the others).
    condition : float
        Condition number of `T`: about as many digits are lost.
    residual : float
        Largest entry changed to its exact value, relative to the largest entry of its matrix.

    Examples
    --------
    >>> import realization as rz
    >>> form = rz.canonical_form(rz.StateSpace([[0.5]], [[2.0]], [[1.0]]), "controllable")
    >>> form.model.B, form.model.C, form.T
    (array([[1.]]), array([[2.]]), array([[2.]]))
    """

    model: StateSpace
    T: Array
    form: str
    blocks: tuple[int, ...]
    condition: float
    residual: float


def canonical_form(
    model: StateSpace, form: Form, *, tol: float | None = None, coupling: float | None = None
) -> CanonicalForm:
    r"""A model in the state of a canonical form.

    `"controllable"`: one companion block per input,

    $$A = \begin{bmatrix} 0 & 1 & & \\ & & \ddots & \\ & & & 1 \\ -a_0 & -a_1 & \cdots & -a_{n-1}
    \end{bmatrix}, \quad B = \begin{bmatrix} 0 \\ \vdots \\ 0 \\ 1 \end{bmatrix},$$

    with the characteristic polynomial in the last row and, for one input and one output, the numerator in
    `C`. With several inputs the blocks have the controllability indices as sizes (Luenberger), and the last
    row of each is free.

    `"observable"`: its dual, one companion block per output.

    `"shift"`: block companion, the oldest places of each input's belt first and inputs side by side. The last
    rows decide the memory. If `A` is nilpotent they are zero, exactly: the state is a window, and where the
    belts of the inputs fill it, it *is* the last inputs, $x_t = (u_{t-w}, \dots, u_{t-1})$.

    `"modal"`: block diagonal: real poles one by one, complex pairs as
    $\begin{bmatrix} a & b \\ -b & a \end{bmatrix}$, slowest mode first. Poles too close to be parted share
    one block (upper quasi-triangular); a defective pole is such a block, since no basis of eigenvectors
    exists.

    `"schur"`: orthogonal `T`, quasi-triangular `A`: the one that is always well conditioned.

    `"balanced"`: both gramians equal and diagonal, the Hankel singular values; stable and minimal models
    only. Here an innovations model with inputs is driven by these alone.

    Parameters
    ----------
    model : StateSpace or InnovationsModel
        The latter is driven by its innovations too: `[B, K]` takes the place of `B`.
    form : {"controllable", "observable", "modal", "shift", "schur", "balanced"}
    tol : float, optional
        For the chains and the nilpotency, relative as in `controllability_indices`; 1e-10 when left out. Not
        taken by "modal" and "schur".
    coupling : float, optional
        For "modal": two groups of poles are parted if the entries of the transformation that does it stay up
        to this size; 1000 when left out. A larger one gives smaller blocks and a worse condition.

    Returns
    -------
    CanonicalForm
        `.model`, `.T`, `.form`, `.blocks`, `.condition`, `.residual`.

    Raises
    ------
    RankError
        If the system is not controllable (observable) and the form needs it, or the form is too ill
        conditioned to be computed.
    UnstableError
        If the balanced form of an unstable model is asked.
    RealizationError
        If the form has no such name or does not take an option.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, sections 2.1 and 6.4.

    D. G. Luenberger, *Canonical forms for linear multivariable systems*, IEEE Transactions on Automatic
    Control 12 (1967) 290-293.

    C. A. Bavely, G. W. Stewart, *An algorithm for computing reducing subspaces by block diagonalization*,
    SIAM Journal on Numerical Analysis 16 (1979) 359-367.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.5, 0.2]), [[1.0], [1.0]], [[1.0, 1.0]])
    >>> companion = rz.canonical_form(model, "controllable").model
    >>> companion.A.round(12)
    array([[ 0. ,  1. ],
           [-0.1,  0.7]])
    >>> rz.canonical_form(companion, "modal").model.A.round(12)
    array([[0.5, 0. ],
           [0. , 0.2]])
    """
    companions = {"controllable": controllable_basis, "observable": observable_basis, "shift": shift_basis}
    if form not in (*companions, "modal", "schur", "balanced"):
        raise RealizationError(
            f"canonical_form: form={form!r} came; 'controllable', 'observable', 'modal', 'shift', 'schur' or "
            "'balanced'."
        )
    if coupling is not None and form != "modal":
        raise RealizationError(f"canonical_form: coupling belongs to form='modal', not to {form!r}.")
    if tol is not None and form not in companions:
        raise RealizationError(f"canonical_form: tol belongs to the forms with chains, not to {form!r}.")
    if form in companions:
        pattern = companions[form](model, checked_tol(tol, "canonical_form"))
    elif form == "modal":
        pattern = _modal(model, COUPLING if coupling is None else coupling)
    elif form == "schur":
        pattern = _schur(model.A)
    else:
        pattern = _balanced(model)
    return _fixed(model, pattern, form)


def _modal(model: StateSpace, coupling: float) -> Pattern:
    if not coupling > 0:
        raise DataError(f"canonical_form: coupling={coupling} came; a positive number is needed.")
    T, blocks = modal_basis(model.A, model.dt == 0, coupling)
    free = scipy.linalg.block_diag(*map(_free, blocks)) if blocks else np.eye(0)
    return Pattern(T, {"A": np.where(free > 0, np.nan, 0.0)}, tuple(len(block) for block in blocks))


def _free(S: Array) -> Array:
    """1 where a real Schur form may have entries: the upper triangle and the complex pairs."""
    below = (np.diag(S, -1) != 0).astype(float)
    return np.triu(np.ones(S.shape)) + (np.diag(below, -1) if len(below) else 0.0)


def _schur(A: Array) -> Pattern:
    S, Z = scipy.linalg.schur(A, output="real") if len(A) else (A, A)
    starts = [k for k in range(len(A)) if k == 0 or S[k, k - 1] == 0]
    return Pattern(Z, {"A": np.where(_free(S) > 0, np.nan, 0.0)}, tuple(np.diff([*starts, len(A)]).tolist()))


def _balanced(model: StateSpace) -> Pattern:
    factors, n = gramian_factors(model), model.n_states
    if n == 0:
        return Pattern(np.eye(0), {}, ())
    _, hsv, Vt = scipy.linalg.svd(factors.Lo.T @ factors.Lc)
    if not hsv[-1] > 100 * n * np.finfo(float).eps * hsv[0]:
        raise RankError(
            f"canonical_form: the balanced form needs a minimal model; the smallest Hankel singular value is "
            f"{hsv[-1]:.2g}, the largest {hsv[0]:.2g}. Use realization.minimal or balanced_truncation."
        )
    return Pattern(factors.Lc @ Vt.T / np.sqrt(hsv), {}, (n,))


def _fixed(model: StateSpace, pattern: Pattern, form: str) -> CanonicalForm:
    condition = float(np.linalg.cond(pattern.T)) if model.n_states else 1.0
    if not condition < 1 / np.finfo(float).eps:
        raise RankError(
            f"canonical_form: the change of state to the {form} form has the condition number "
            f"{condition:.2g}. Use form='schur' or 'modal', which keep it small, or reduce the model first."
        )
    raw = model.similarity_transform(pattern.T)
    exact, residual = {}, 0.0
    for name, fixed in pattern.fixed.items():
        matrix = getattr(raw, name)
        exact[name] = np.where(np.isnan(fixed), matrix, fixed)
        size = np.abs(matrix).max(initial=0.0)
        change = np.abs(exact[name] - matrix).max(initial=0.0)
        residual = max(residual, float(change / size) if size > 0 else 0.0)
    if residual > RESIDUAL:
        raise RankError(
            f"canonical_form: the {form} form was reached to {residual:.1g} only (condition number "
            f"{condition:.2g}): the system is too close to one that has no such form. Use form='schur' or "
            "'modal', or another tol."
        )
    return CanonicalForm(replace(raw, **exact), pattern.T, form, pattern.blocks, condition, residual)
