"""`SymbolicSystem`: a state-space model whose entries are expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from realization.errors import DataError, ShapeError
from realization.systems import StateSpace

__all__ = ["Matrix", "SymbolicSystem", "as_matrix", "numeric"]

Matrix = sp.ImmutableDenseMatrix
TIMES = ("z", "s")


@dataclass(frozen=True, eq=False, init=False)
class SymbolicSystem:
    r"""State-space model with exact entries: letters, integers, fractions, roots.

    $$x_{t+1} = A x_t + B u_t \quad\text{or}\quad \dot x = A x + B u, \qquad y = C x + D u$$

    Parameters
    ----------
    A, B, C : matrix of expressions, shapes (n, n), (n, m), (p, n)
        A SymPy matrix, or nested lists. Floats are taken as the binary fractions that they are.
    D : matrix of expressions, shape (p, m), optional
        Zero when left out.
    variable : {"z", "s"}
        Discrete time, or continuous.

    Raises
    ------
    ShapeError
        If the matrices do not fit together.
    DataError
        If an entry is no expression, or `variable` is another one.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.2.

    Examples
    --------
    >>> import sympy as sp, realization as rz
    >>> a = sp.Symbol("a", real=True)
    >>> system = rz.symbolic.SymbolicSystem([[a]], [[1]], [[1]])
    >>> rz.symbolic.controllability_gramian(system)[0, 0].equals(1 / (1 - a**2))
    True
    >>> system.to_numeric({a: 0.5})
    StateSpace(order 1, 1 in, 1 out, dt=None, stable)
    """

    A: Matrix
    B: Matrix
    C: Matrix
    D: Matrix
    variable: Literal["z", "s"]

    def __init__(self, A: Any, B: Any, C: Any, D: Any = None, variable: Literal["z", "s"] = "z") -> None:
        A, B, C = as_matrix(A, "A"), as_matrix(B, "B"), as_matrix(C, "C")
        D = Matrix.zeros(C.rows, B.cols) if D is None else as_matrix(D, "D")
        n = A.rows
        fits = {
            "A": (A.shape, (n, n)),
            "B": (B.shape, (n, B.cols)),
            "C": (C.shape, (C.rows, n)),
            "D": (D.shape, (C.rows, B.cols)),
        }
        for name, (came, needed) in fits.items():
            if came != needed:
                raise ShapeError(f"SymbolicSystem: {name} has shape {came}; here it must be {needed}.")
        if variable not in TIMES:
            raise DataError(f"SymbolicSystem: variable={variable!r} came; it must be 'z' or 's'.")
        for name, value in {"A": A, "B": B, "C": C, "D": D, "variable": variable}.items():
            object.__setattr__(self, name, value)

    @property
    def n_states(self) -> int:
        """Number of states `n`, those that are not needed included."""
        return self.A.rows

    @property
    def n_inputs(self) -> int:
        """Number of inputs `m`."""
        return self.B.cols

    @property
    def n_outputs(self) -> int:
        """Number of outputs `p`."""
        return self.C.rows

    @property
    def letters(self) -> tuple[sp.Symbol, ...]:
        """Symbols that occur, by name."""
        found = set().union(*(M.free_symbols for M in (self.A, self.B, self.C, self.D)))
        return tuple(sorted(found, key=str))

    def subs(self, substitutions: Mapping[Any, Any]) -> SymbolicSystem:
        """The system with letters replaced by values or other expressions.

        Parameters
        ----------
        substitutions : mapping from symbols to expressions
        """
        exact = {name: _expression(value) for name, value in substitutions.items()}
        matrices = {name: getattr(self, name).subs(exact) for name in "ABCD"}
        return replace(self, **matrices)

    @classmethod
    def from_numeric(cls, model: StateSpace) -> SymbolicSystem:
        """The exact system whose entries are the floats of a model, as the binary fractions that they are.

        Parameters
        ----------
        model : StateSpace
            Of an innovations model, the path from `u`. Only whether time is continuous is kept of `dt`.
        """
        matrices = (sp.Matrix(*M.shape, M.ravel().tolist()) for M in (model.A, model.B, model.C, model.D))
        return cls(*matrices, variable="s" if model.dt == 0 else "z")

    def to_numeric(
        self, substitutions: Mapping[Any, Any] | None = None, dt: float | None = None
    ) -> StateSpace:
        """The numeric model at given values of the letters, each entry rounded once.

        Parameters
        ----------
        substitutions : mapping from symbols to numbers, optional
            Every letter needs one.
        dt : float, optional
            Seconds between samples; a continuous-time system takes none.
        """
        if self.variable == "s" and dt:
            raise DataError(f"to_numeric: dt={dt} came for a system in continuous time; leave it out.")
        if self.variable == "z" and dt == 0:
            raise DataError("to_numeric: dt=0.0 is continuous time; this system is in discrete time.")
        system = self if substitutions is None else self.subs(substitutions)
        A, B, C, D = (numeric(M, "to_numeric") for M in (system.A, system.B, system.C, system.D))
        return StateSpace(A, B, C, D, 0.0 if self.variable == "s" else dt)


def as_matrix(values: Any, name: str) -> Matrix:
    """An immutable matrix of exact expressions."""
    try:
        matrix = sp.Matrix(values)
        return Matrix(matrix.rows, matrix.cols, [_expression(entry) for entry in matrix])
    except DataError:
        raise
    except (TypeError, ValueError, sp.SympifyError) as error:
        raise DataError(f"{name} is not a matrix of expressions: {error}.") from None


def _expression(value: Any) -> Any:
    """An expression in which no float is left: each is the binary fraction that it is."""
    expression = sp.sympify(value)
    if not isinstance(expression, sp.Expr):
        raise DataError(f"{value!r} is no expression.")
    if expression.has(sp.nan, sp.oo, -sp.oo, sp.zoo):
        raise DataError("an entry is NaN or infinite.")
    return expression.xreplace({number: sp.Rational(number) for number in expression.atoms(sp.Float)})


def numeric(matrix: Matrix, caller: str) -> NDArray[np.float64]:
    """The matrix in floating point, if no letter is left and every entry is real."""
    left = sorted(map(str, matrix.free_symbols))
    if left:
        raise DataError(f"{caller}: {', '.join(left)} has no value; give one for every letter.")
    values = [complex(sp.N(entry, 30)) for entry in matrix]
    if any(value.imag for value in values):
        raise DataError(f"{caller}: an entry is not real.")
    return np.array([value.real for value in values]).reshape(matrix.shape)
