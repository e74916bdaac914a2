"""What a symbolic system does: transfer function, Markov parameters, gramians, rank, memory."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix

from realization.errors import RankError, ShapeError, UnstableError
from realization.symbolic.system import Matrix, SymbolicSystem, as_matrix

__all__ = [
    "characteristic_polynomial",
    "controllability_gramian",
    "hankel_matrix",
    "is_stable",
    "markov_parameters",
    "minimal_order",
    "nilpotency_index",
    "observability_gramian",
    "transfer_function",
]


def transfer_function(system: SymbolicSystem) -> Matrix:
    r"""Transfer function as a matrix of rational functions in lowest terms.

    $$G(z) = C (z I - A)^{-1} B + D$$

    Parameters
    ----------
    system : SymbolicSystem

    Returns
    -------
    G : sympy matrix, shape (p, m)
        In the symbol `z` or `s`.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.2.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> a = sp.Symbol("a")
    >>> rz.symbolic.transfer_function(rz.symbolic.SymbolicSystem([[a]], [[1]], [[1]]))
    Matrix([[1/(-a + z)]])
    """
    if system.n_states == 0:
        return Matrix(system.D.applyfunc(sp.cancel))
    pencil = sp.Symbol(system.variable) * sp.eye(system.n_states) - system.A
    resolvent = _over_field(pencil).inv().to_Matrix()
    return Matrix((system.C * resolvent * system.B + system.D).applyfunc(sp.cancel))


def markov_parameters(system: SymbolicSystem, count: int) -> tuple[Matrix, ...]:
    r"""First Markov parameters, exactly.

    $$h_0 = D, \qquad h_k = C A^{k-1} B$$

    Parameters
    ----------
    system : SymbolicSystem
    count : int
        How many, `h[0]` included.

    Returns
    -------
    h : tuple of sympy matrices, each of shape (p, m)

    Raises
    ------
    ShapeError
        If `count` is less than 1.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.2.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> a, b = sp.symbols("a b")
    >>> [h[0, 0] for h in rz.symbolic.markov_parameters(rz.symbolic.SymbolicSystem([[a]], [[b]], [[1]]), 4)]
    [0, b, a*b, a**2*b]
    """
    if count < 1:
        raise ShapeError(f"markov_parameters: count={count} came; at least 1 is needed.")
    found, reached = [system.D], system.B
    for _ in range(count - 1):
        found.append(Matrix((system.C * reached).applyfunc(sp.expand)))
        reached = (system.A * reached).applyfunc(sp.expand)
    return tuple(found)


def hankel_matrix(system: SymbolicSystem, rows: int, cols: int) -> Matrix:
    r"""Block Hankel matrix of the Markov parameters from $h_1$ on; its rank is the order.

    $$H_{ij} = h_{i+j-1} = C A^{i+j-2} B$$

    Parameters
    ----------
    system : SymbolicSystem
    rows, cols : int
        Numbers of blocks.

    Returns
    -------
    H : sympy matrix, shape (rows * p, cols * m)

    Raises
    ------
    ShapeError
        If a number of blocks is less than 1.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 5.1.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> a = sp.Symbol("a")
    >>> rz.symbolic.hankel_matrix(rz.symbolic.SymbolicSystem([[a]], [[1]], [[1]]), 2, 2)
    Matrix([
    [1,    a],
    [a, a**2]])
    """
    if rows < 1 or cols < 1:
        raise ShapeError(f"hankel_matrix: {rows} block rows and {cols} columns came; at least 1 is needed.")
    h = markov_parameters(system, rows + cols)
    return Matrix(sp.Matrix.vstack(*(sp.Matrix.hstack(*h[i + 1 : i + 1 + cols]) for i in range(rows))))


def minimal_order(system: SymbolicSystem) -> int:
    r"""Order of a minimal realization, for all values of the letters but exceptional ones.

    $$\operatorname{rank} H_{n,n} = \operatorname{rank} \mathcal O_n \mathcal R_n$$

    Parameters
    ----------
    system : SymbolicSystem

    Returns
    -------
    int
        The generic rank: where the letters satisfy some equation (a pole meets a zero), it is lower.

    References
    ----------
    B. L. Ho, R. E. Kalman, *Effective construction of linear state-variable models from input/output
    functions*, Regelungstechnik 14 (1966) 545-548.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> z, a, b = sp.symbols("z a b")
    >>> system = rz.symbolic.from_transfer_function((z - b) / ((z - a) * (z - 2)))
    >>> rz.symbolic.minimal_order(system), rz.symbolic.minimal_order(system.subs({b: a}))
    (2, 1)
    """
    n = system.n_states
    if 0 in (n, system.n_inputs, system.n_outputs):
        return 0
    return _over_field(hankel_matrix(system, n, n)).rank()


def characteristic_polynomial(A: Any, variable: Any = "lambda") -> sp.Poly:
    r"""Characteristic polynomial $\det(\lambda I - A)$.

    Parameters
    ----------
    A : sympy matrix or nested lists, shape (n, n)
    variable : symbol or str
        Name of the unknown.

    Returns
    -------
    sympy.Poly

    Raises
    ------
    ShapeError
        If `A` is not square.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.3.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> A = rz.symbolic.companion(sp.symbols("a:3"))
    >>> rz.symbolic.characteristic_polynomial(A).as_expr()
    -a0 - a1*lambda - a2*lambda**2 + lambda**3
    """
    return sp.Poly(_square(A, "characteristic_polynomial").charpoly(str(variable)))


def nilpotency_index(A: Any) -> int | None:
    r"""Least $w$ with $A^w = 0$ for all values of the letters; `None` if no power vanishes.

    Parameters
    ----------
    A : sympy matrix or nested lists, shape (n, n)

    Returns
    -------
    int or None
        At most n.

    Raises
    ------
    ShapeError
        If `A` is not square.

    References
    ----------
    P. R. Halmos, *Finite-Dimensional Vector Spaces*, Springer 1974, section 57.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> g = sp.Symbol("g")
    >>> rz.symbolic.nilpotency_index(rz.symbolic.companion([0, 0, 0]))
    3
    >>> rz.symbolic.nilpotency_index(rz.symbolic.companion([g, 0, 0])) is None
    True
    """
    matrix = _square(A, "nilpotency_index")
    if matrix.rows == 0:
        return 0
    factor = power = _over_field(matrix)
    for w in range(1, matrix.rows + 1):
        if power.is_zero_matrix:
            return w
        power = power * factor
    return None


def is_stable(system: SymbolicSystem) -> bool | None:
    r"""Whether every pole is stable, decided without rounding; `None` where letters decide.

    The Schur-Cohn test: $p$ of degree n has all roots inside the unit circle if and only if
    $|p_0| < |p_n|$ and the polynomial $(p_n p(z) - p_0 z^n p(1/z)) / z$ has. Continuous time is mapped to it
    by $s = (z + 1) / (z - 1)$.

    Parameters
    ----------
    system : SymbolicSystem

    Returns
    -------
    bool or None

    References
    ----------
    E. I. Jury, *Theory and Application of the z-Transform Method*, Wiley 1964, chapter 3.

    Examples
    --------
    >>> import realization as rz
    >>> rz.symbolic.is_stable(rz.symbolic.block_companion([0.5, 0.25]))
    True
    """
    if system.A.free_symbols:
        return None
    p = characteristic_polynomial(system.A)
    if system.variable == "s":
        z, n = p.gen, p.degree()
        moved = sum(c * (z + 1) ** k * (z - 1) ** (n - k) for (k,), c in p.terms())
        p = sp.Poly(sp.expand(moved), z)
        if p.degree() < n:
            return False
    while p.degree() > 0:
        top, bottom = p.LC(), p.nth(0)
        if not bool(top**2 > bottom**2):
            return False
        coefficients = p.all_coeffs()
        p = sp.Poly([top * a - bottom * b for a, b in zip(coefficients, coefficients[::-1])][:-1], p.gen)
    return True


def controllability_gramian(system: SymbolicSystem) -> Matrix:
    r"""Controllability gramian from the Lyapunov equation, exactly.

    $$A W A^\top - W + B B^\top = 0, \qquad A W + W A^\top + B B^\top = 0 \text{ in continuous time}$$

    Parameters
    ----------
    system : SymbolicSystem
        With letters the solution is a formula, and a gramian where they make the system stable.

    Returns
    -------
    Wc : sympy matrix, shape (n, n)

    Raises
    ------
    UnstableError
        If there are no letters in `A` and the system is not stable.
    RankError
        If the equation has no unique solution, whatever the letters are.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, section 4.3.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> a = sp.Symbol("a", positive=True)
    >>> decay = rz.symbolic.SymbolicSystem([[-a]], [[1]], [[1]], variable="s")
    >>> rz.symbolic.controllability_gramian(decay)
    Matrix([[1/(2*a)]])
    """
    return _lyapunov(system, system.A, system.B * system.B.T, "controllability_gramian")


def observability_gramian(system: SymbolicSystem) -> Matrix:
    r"""Observability gramian from the Lyapunov equation, exactly.

    $$A^\top W A - W + C^\top C = 0, \qquad A^\top W + W A + C^\top C = 0 \text{ in continuous time}$$

    Parameters
    ----------
    system : SymbolicSystem
        With letters the solution is a formula, and a gramian where they make the system stable.

    Returns
    -------
    Wo : sympy matrix, shape (n, n)

    Raises
    ------
    UnstableError, RankError
        As `controllability_gramian`.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, section 4.3.

    Examples
    --------
    >>> import realization as rz
    >>> rz.symbolic.observability_gramian(rz.symbolic.shift_form(3, C=[[1, 1, 1]]))
    Matrix([
    [1, 1, 1],
    [1, 2, 2],
    [1, 2, 3]])
    """
    return _lyapunov(system, system.A.T, system.C.T * system.C, "observability_gramian")


def _lyapunov(system: SymbolicSystem, A: Matrix, M: Matrix, caller: str) -> Matrix:
    n = system.n_states
    if is_stable(system) is False:
        raise UnstableError(f"{caller}: a pole is not stable, so the gramian is infinite.")
    places = [(i, j) for i in range(n) for j in range(i, n)]
    unknown = sp.symbols(f"w:{len(places)}", cls=sp.Dummy)
    W = sp.zeros(n)
    for (i, j), symbol in zip(places, unknown):
        W[i, j] = W[j, i] = symbol
    left = A * W * A.T - W + M if system.variable == "z" else A * W + W * A.T + M
    found = list(sp.linsolve([sp.expand(left[i, j]) for i, j in places], *unknown)) if n else [()]
    values: Any = found[0] if found else None
    if values is None or any(value.has(*unknown) for value in values):
        raise RankError(
            f"{caller}: the Lyapunov equation has no unique solution; whatever the letters are, two "
            "poles are mirrored at the border of stability."
        )
    solution: dict[Any, Any] = dict(zip(places, values))
    return Matrix(n, n, lambda i, j: sp.factor(sp.cancel(solution[min(i, j), max(i, j)])))


def _over_field(matrix: Any) -> Any:
    """The matrix over the field of rational functions of its letters, where zero is recognized."""
    return DomainMatrix.from_Matrix(sp.Matrix(matrix), extension=True).to_field()


def _square(A: Any, caller: str) -> Matrix:
    matrix = as_matrix(A, "A")
    if matrix.rows != matrix.cols:
        raise ShapeError(f"{caller}: A has shape {matrix.shape}; it must be square.")
    return matrix
