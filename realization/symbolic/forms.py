"""Companion and shift forms: the window and the fading state in one family of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sympy as sp

from realization.errors import DataError, ShapeError
from realization.symbolic.system import Matrix, SymbolicSystem, as_matrix

__all__ = ["block_companion", "companion", "from_transfer_function", "shift_form"]


def companion(last_row: Sequence[Any]) -> Matrix:
    r"""Companion matrix: ones above the diagonal, and a last row that is free.

    $$A = \begin{bmatrix} 0 & 1 & & \\ & \ddots & \ddots & \\ & & 0 & 1 \\ a_0 & a_1 & \cdots & a_{w-1}
    \end{bmatrix}, \qquad \det(\lambda I - A) = \lambda^w - a_{w-1} \lambda^{w-1} - \dots - a_0$$

    Parameters
    ----------
    last_row : sequence of expressions, length w
        $a_0, \dots, a_{w-1}$. All zero: the shift of a window.

    Returns
    -------
    A : sympy matrix, shape (w, w)

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.3.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> rz.symbolic.companion(sp.symbols("a:3"))
    Matrix([
    [ 0,  1,  0],
    [ 0,  0,  1],
    [a0, a1, a2]])
    """
    return block_companion([[[entry]] for entry in last_row]).A


def block_companion(blocks: Sequence[Any], *, strength: Any = 1, C: Any = None) -> SymbolicSystem:
    r"""Window and fading state as one family: a shift of blocks whose last block row is free.

    $$A = \begin{bmatrix} 0 & I & & \\ & \ddots & \ddots & \\ & & 0 & I \\ g A_0 & g A_1 & \cdots & g A_{w-1}
    \end{bmatrix}, \qquad B = \begin{bmatrix} 0 \\ \vdots \\ 0 \\ I \end{bmatrix}$$

    With $g = 0$, or all blocks zero, $A^w = 0$: the state is the last $w$ inputs, oldest first. Otherwise it
    is the last $w$ of $z_t = u_t + g (A_{w-1} z_{t-1} + \dots + A_0 z_{t-w})$, in which the past fades.

    Parameters
    ----------
    blocks : sequence of matrices of expressions, each of shape (d, d)
        $A_0, \dots, A_{w-1}$; an expression alone is a block of size 1.
    strength : expression
        The parameter $g$ of the family: 0 is the window, 1 the blocks as they are.
    C : matrix of expressions, shape (p, w d), optional
        Read-out; the whole state when left out.

    Returns
    -------
    SymbolicSystem
        In discrete time.

    Raises
    ------
    ShapeError
        If there is no block, or blocks are not square and of one size.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024, section 3.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> g = sp.Symbol("g")
    >>> family = rz.symbolic.block_companion([1, 0, 0], strength=g)
    >>> family.A**3
    Matrix([
    [g, 0, 0],
    [0, g, 0],
    [0, 0, g]])
    >>> rz.symbolic.nilpotency_index(family.subs({g: 0}).A)
    3
    """
    row = [as_matrix([[b]] if isinstance(b, int | float | sp.Expr) else b, "a block") for b in blocks]
    if not row or any(block.shape != (row[0].rows, row[0].rows) for block in row):
        shapes = [block.shape for block in row]
        raise ShapeError(
            f"block_companion: blocks of shapes {shapes} came; square ones of one size are needed."
        )
    w, d = len(row), row[0].rows
    A = sp.Matrix.zeros(w * d)
    A[: (w - 1) * d, d:] = sp.eye((w - 1) * d)
    A[(w - 1) * d :, :] = sp.sympify(strength) * sp.Matrix.hstack(*map(sp.Matrix, row))
    B = sp.Matrix.vstack(sp.zeros((w - 1) * d, d), sp.eye(d))
    return SymbolicSystem(A, B, sp.eye(w * d) if C is None else C)


def shift_form(w: int, width: int = 1, *, C: Any = None) -> SymbolicSystem:
    r"""A sliding window as a system: its state is the last `w` inputs, oldest first, and $A^w = 0$.

    $$x_t = (u_{t-w}, \dots, u_{t-1}), \qquad A = \begin{bmatrix} 0 & I & \\ & \ddots & I \\ 0 & \cdots & 0
    \end{bmatrix}$$

    Parameters
    ----------
    w : int
        How many inputs.
    width : int
        Channels of each input.
    C : matrix of expressions, shape (p, w * width), optional
        Read-out; the whole state when left out.

    Returns
    -------
    SymbolicSystem
        In discrete time.

    Raises
    ------
    ShapeError
        If `w` or `width` is less than 1.

    References
    ----------
    L. Zancato et al., *B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading
    Memory*, NeurIPS 2024, section 3.

    Examples
    --------
    >>> import realization as rz
    >>> window = rz.symbolic.shift_form(4)
    >>> (window.A**3).is_zero_matrix, (window.A**4).is_zero_matrix
    (False, True)
    """
    if w < 1 or width < 1:
        raise ShapeError(f"shift_form: w={w} and width={width} came; each must be at least 1.")
    return block_companion([sp.zeros(width)] * w, C=C)


def from_transfer_function(
    G: Any, variable: Literal["z", "s"] = "z", *, form: Literal["controllable", "observable"] = "controllable"
) -> SymbolicSystem:
    r"""Realization of a proper rational transfer function in companion form.

    $$G = D + \frac{N_{n-1} z^{n-1} + \dots + N_0}{z^n + a_{n-1} z^{n-1} + \dots + a_0}
    \quad\longrightarrow\quad A = \begin{bmatrix} 0 & I & \\ & \ddots & I \\ -a_0 I & \cdots
    & -a_{n-1} I \end{bmatrix},\quad B = \begin{bmatrix} 0 \\ \vdots \\ I \end{bmatrix},\quad
    C = [\,N_0 \cdots N_{n-1}]$$

    over the least common denominator: of order $n m$ (controllable) or, transposed, $n p$ (observable);
    minimal where there is one input, or one output.

    Parameters
    ----------
    G : expression, or matrix of expressions of shape (p, m)
        Rational in the symbol called `variable`.
    variable : {"z", "s"}
        Discrete or continuous time; the name of the symbol.
    form : {"controllable", "observable"}

    Returns
    -------
    SymbolicSystem

    Raises
    ------
    DataError
        If an entry is not rational in the variable, or grows with it (it is not proper).

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, sections 2.1 and 6.1.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> z, a, b = sp.symbols("z a b")
    >>> system = rz.symbolic.from_transfer_function((z + b) / (z**2 - a))
    >>> system.A, system.C
    (Matrix([
    [0, 1],
    [a, 0]]), Matrix([[b, 1]]))
    >>> rz.symbolic.transfer_function(system)[0, 0]
    (b + z)/(-a + z**2)
    """
    if form not in ("controllable", "observable"):
        raise DataError(f"from_transfer_function: form={form!r}; it must be 'controllable' or 'observable'.")
    if variable not in ("z", "s"):
        raise DataError(f"from_transfer_function: variable={variable!r} came; it must be 'z' or 's'.")
    given = as_matrix([[G]] if isinstance(G, int | float | sp.Expr) else G, "G")
    if form == "observable":
        dual = _controllable(given.T, variable)
        return SymbolicSystem(dual.A.T, dual.C.T, dual.B.T, dual.D.T, variable)
    return _controllable(given, variable)


def _controllable(G: Matrix, variable: Literal["z", "s"]) -> SymbolicSystem:
    x = _symbol(G, variable)
    fractions = [sp.fraction(sp.cancel(sp.together(entry))) for entry in G.flat()]
    try:
        tops = [sp.Poly(top, x) for top, _ in fractions]
        bottoms = [sp.Poly(bottom, x) for _, bottom in fractions]
    except sp.PolynomialError:
        raise DataError(f"from_transfer_function: an entry is not rational in {variable}.") from None
    improper = [k for k, (top, bottom) in enumerate(zip(tops, bottoms)) if top.degree() > bottom.degree()]
    if improper:
        raise DataError(
            f"from_transfer_function: entry {divmod(improper[0], G.cols)} grows with {variable}; the degree "
            "of the numerator may not exceed that of the denominator (no state-space model differentiates)."
        )
    common = sp.Poly(1, x)
    for bottom in bottoms:
        common = sp.lcm(common, bottom)
    common = sp.Poly(common, x).monic()
    n, m = int(common.degree()), G.cols
    direct = Matrix(G.rows, m, [_leading(top, bottom) for top, bottom in zip(tops, bottoms)])
    rests = [entry - d for entry, d in zip(G.flat(), direct.flat())]
    strict = [sp.Poly(sp.cancel(rest * common.as_expr()), x) for rest in rests]
    if n == 0:
        return SymbolicSystem(sp.zeros(0), sp.zeros(0, m), sp.zeros(G.rows, 0), direct, variable)
    blocks = [-sp.cancel(common.coeff_monomial(x**k)) * sp.eye(m) for k in range(n)]
    parts = [Matrix(G.rows, m, [sp.cancel(top.coeff_monomial(x**k)) for top in strict]) for k in range(n)]
    shift = block_companion(blocks)
    return SymbolicSystem(shift.A, shift.B, sp.Matrix.hstack(*map(sp.Matrix, parts)), direct, variable)


def _leading(top: sp.Poly, bottom: sp.Poly) -> sp.Expr:
    """Value at infinity."""
    return sp.cancel(top.LC() / bottom.LC()) if top.degree() == bottom.degree() else sp.Integer(0)


def _symbol(G: Matrix, variable: str) -> sp.Symbol:
    """The symbol of that name in `G`, whatever is assumed of it."""
    named = [symbol for symbol in G.free_symbols if str(symbol) == variable]
    if len(named) > 1:
        raise DataError(f"from_transfer_function: two symbols are called {variable}; use one.")
    return named[0] if named else sp.Symbol(variable)
