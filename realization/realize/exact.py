"""Exact realization: the smallest system of a rational sequence, with its order proved by ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from typing import Any

import numpy as np

from realization.errors import DataError, ShapeError, UnstableError
from realization.realize.echelon import Echelon, echelon_rows, integer_rank
from realization.systems import StateSpace

__all__ = ["ExactRealization", "exact_realization"]

Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class ExactRealization:
    r"""A minimal realization in rational numbers, and what proves it minimal.

    Attributes
    ----------
    A, B, C, D : tuple of tuples of Fraction
        Rows of the matrices, in observable echelon form.
    order : int
        Number of states; no system with the same parameters has fewer.
    determined : bool
        Whether the sequence determines the system: it has no other realization of this order, up to the
        basis of the state.
    rival_order : int
        Order of the smallest other system that begins with the same parameters; `order` where the sequence
        does not determine its system. Every longer sequence moves the two apart.
    ranks : dict of (int, int) to int
        The proof: ranks of Hankel matrices of r block rows and c block columns. Where the order is
        determined, $(r, c), (r + 1, c), (r, c + 1)$ with $r + c = N$ and the same rank three times; else
        those of $(i, N + 1 - i)$ and $(i, N - i)$, whose sums differ by the order.
    observability_indices : tuple of int
        Length of the chain of each output.

    Examples
    --------
    >>> import realization as rz
    >>> found = rz.exact_realization([0, 1, 1, 2, 3, 5])
    >>> found.order, found.ranks
    (2, {(2, 3): 2, (3, 3): 2, (2, 4): 2})
    """

    A: Matrix
    B: Matrix
    C: Matrix
    D: Matrix
    order: int
    determined: bool
    rival_order: int
    ranks: dict[tuple[int, int], int]
    observability_indices: tuple[int, ...]

    def markov(self, count: int) -> tuple[Matrix, ...]:
        r"""Exact Markov parameters $h_0, h_1, \dots$ of the realization, as many as asked for.

        Parameters
        ----------
        count : int
            How many, `h[0]` included.
        """
        if not isinstance(count, int | np.integer) or count < 1:
            raise ShapeError(
                f"ExactRealization.markov: count={count!r} came; a whole number, at least 1, is needed."
            )
        h, reached = [self.D], self.B
        for _ in range(count - 1):
            h.append(_product(self.C, reached, len(self.D[0])))
            reached = _product(self.A, reached, len(self.D[0]))
        return tuple(h)

    def to_state_space(self, *, dt: float | None = None) -> StateSpace:
        """The same model in floating point.

        Parameters
        ----------
        dt : float, optional
            Sampling time; `0.0` where the sequence comes from a system in continuous time.
        """
        p, m = len(self.D), len(self.D[0])
        shapes = ((self.order, self.order), (self.order, m), (p, self.order), (p, m))
        try:
            parts = [
                np.array([[float(x) for x in row] for row in matrix]).reshape(shape)
                for matrix, shape in zip((self.A, self.B, self.C, self.D), shapes)
            ]
        except OverflowError as error:
            raise UnstableError(
                "ExactRealization.to_state_space: an entry is larger than floating point holds; divide h[k] "
                "by w**k, with w its growth per step, and multiply A and B by w afterwards."
            ) from error
        return StateSpace(*parts, dt=dt)

    def transfer_function(self) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
        r"""Numerator and monic denominator in falling powers of z, for one input and one output.

        The denominator is the shortest recurrence that the sequence obeys, from its second entry on.
        """
        if (len(self.D), len(self.D[0])) != (1, 1):
            raise ShapeError(
                f"ExactRealization.transfer_function: {len(self.D)} outputs and {len(self.D[0])} inputs; it "
                "is for one of each. Take one entry of the sequence, h[:, i, j]."
            )
        last = self.A[-1] if self.order else ()
        denominator = (Fraction(1), *(-a for a in reversed(last)))
        h = [block[0][0] for block in self.markov(self.order + 1)]
        numerator = tuple(
            sum((denominator[i] * h[k - i] for i in range(k + 1)), Fraction(0)) for k in range(self.order + 1)
        )
        return numerator, denominator


def exact_realization(h: Sequence[Any] | np.ndarray) -> ExactRealization:
    r"""Minimal realization of a rational sequence, in rational arithmetic.

    $h_1, \dots, h_N$ fill Hankel matrices $H_{r,c}$ of r block rows and c block columns with
    $r + c \le N + 1$. If for some $r + c = N$

    $$\operatorname{rank} H_{r,c} = \operatorname{rank} H_{r+1,c} = \operatorname{rank} H_{r,c+1} = n,$$

    exactly one system of order n begins with this sequence, and none of a lower order. If not, the smallest
    systems still have an order that ranks tell,

    $$n = \sum_{i=1}^{N} \operatorname{rank} H_{i,N+1-i} - \sum_{i=1}^{N-1} \operatorname{rank} H_{i,N-i},$$

    but there are several of them, and the next entries decide. Rows are taken from the top; of each output,
    those are kept that do not depend on the rows above over the columns that are known. Their number is n,
    and the first dependent row of each output gives the recurrences that make up $A$ and $C$. Integers
    without fractions, each row divided by its content, do the elimination.

    Parameters
    ----------
    h : sequence, shape (N + 1, p, m), (N + 1, p) or (N + 1,)
        Markov parameters, `h[0] = D` first: int, Fraction, Decimal, or SymPy's Rational. Floating-point
        numbers are refused, because 0.1 is not 1/10: convert them by `Fraction("0.1")`, by `Fraction(x)`
        (the binary fraction that it is) or by `Fraction(x).limit_denominator(d)`.

    Returns
    -------
    ExactRealization
        `.A, .B, .C, .D`, `.order`, `.determined`, `.rival_order`, `.ranks`, `.observability_indices`.

    Raises
    ------
    DataError
        If an entry is not rational.
    ShapeError
        If the sequence has none of these shapes, or no `h[1]`.

    References
    ----------
    A. J. Tether, *Construction of minimal linear state-variable models from finite input-output data*, IEEE
    Transactions on Automatic Control 15 (1970) 427-436.

    R. E. Kalman, *On minimal partial realizations of a linear input/output map*, in Aspects of Network and
    System Theory, Holt, Rinehart and Winston 1971, 385-407.

    J. Rissanen, *Recursive identification of linear systems*, SIAM Journal on Control 9 (1971) 420-430.

    Examples
    --------
    >>> import realization as rz
    >>> fibonacci = rz.exact_realization([0, 1, 1, 2, 3, 5])
    >>> [str(x) for x in fibonacci.transfer_function()[1]]
    ['1', '-1', '-1']
    >>> catalan = rz.exact_realization([0, 1, 1, 2, 5, 14, 42])
    >>> catalan.order, catalan.determined, catalan.rival_order
    (3, True, 4)
    >>> rz.exact_realization([0, 1, 1, 2, 5, 14]).determined
    False
    """
    blocks, common = _integers(h)
    found = echelon_rows(blocks[1:])
    p, m = len(blocks[0]), len(blocks[0][0])
    known = len(blocks) - 1
    longest, widest = max(found.indices), found.widest
    determined = longest + widest <= known
    ranks = (_tether if determined else _staircase)(blocks[1:], longest)
    A, C = _echelon_matrices(found, p)
    B = tuple(tuple(Fraction(blocks[i + 1][j][k], common) for k in range(m)) for i, j in found.basis)
    D = tuple(tuple(Fraction(x, common) for x in row) for row in blocks[0])
    n = len(found.basis)
    rival = n + max(0, known + 1 - longest - widest)
    return ExactRealization(A, B, C, D, n, determined, rival, ranks, found.indices)


def _integers(h: Sequence[Any] | np.ndarray) -> tuple[list[list[list[int]]], int]:
    """Blocks (N + 1, p, m) of integers, and the common denominator by which they were multiplied."""
    try:
        array = np.array(h, dtype=object)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.ndim in (1, 2):
        array = array.reshape(*array.shape, *(1,) * (3 - array.ndim))
    if array.ndim != 3 or 0 in array.shape or len(array) < 2:
        raise ShapeError(
            f"exact_realization: h has shape {array.shape}; (N + 1, p, m), (N + 1, p) or (N + 1,), with h[0] "
            "and h[1] at least and nothing of size 0, is needed."
        )
    values = [_fraction(x, k // (array.size // len(array))) for k, x in enumerate(array.ravel())]
    common = math.lcm(*(value.denominator for value in values))
    whole = iter(value.numerator * (common // value.denominator) for value in values)
    count, p, m = (int(size) for size in array.shape)
    return [[[next(whole) for _ in range(m)] for _ in range(p)] for _ in range(count)], common


def _fraction(x: Any, k: int) -> Fraction:
    if isinstance(x, Rational) and not isinstance(x, bool):
        return Fraction(int(x.numerator), int(x.denominator))
    if isinstance(x, Decimal) and x.is_finite():
        return Fraction(x)
    raise DataError(
        f"exact_realization: h[{k}] holds {x!r} of type {type(x).__name__}; whole numbers, Fraction, Decimal "
        "or SymPy's Rational are needed, for the ranks to be exact. A decimal number becomes "
        "Fraction('0.1'), a float Fraction(x) or Fraction(x).limit_denominator(d); for measured data use "
        "ho_kalman or era."
    )


def _tether(h: list[list[list[int]]], longest: int) -> dict[tuple[int, int], int]:
    r, c = longest, len(h) - longest
    return {size: _rank(h, *size) for size in ((r, c), (r + 1, c), (r, c + 1))}


def _staircase(h: list[list[list[int]]], _: int) -> dict[tuple[int, int], int]:
    sizes = [(i, total - i) for total in (len(h), len(h) + 1) for i in range(1, total)]
    return {size: _rank(h, *size) for size in sizes}


def _rank(h: list[list[list[int]]], rows: int, cols: int) -> int:
    """Rank of the Hankel matrix of `rows` by `cols` blocks, by elimination of its own."""
    p = len(h[0])
    return integer_rank(
        [[x for k in range(cols) for x in h[i + k][j]] for i in range(rows) for j in range(p)]
    )


def _echelon_matrices(found: Echelon, p: int) -> tuple[Matrix, Matrix]:
    """Each kept row is a state; the row below it is another state, or the combination that it depends on."""
    n, place = len(found.basis), {row: k for k, row in enumerate(found.basis)}

    def expressed(i: int, j: int) -> tuple[Fraction, ...]:
        if (i, j) in place:
            return tuple(Fraction(int(k == place[i, j])) for k in range(n))
        return found.relations[j] + (Fraction(0),) * (n - len(found.relations[j]))

    return tuple(expressed(i + 1, j) for i, j in found.basis), tuple(expressed(0, j) for j in range(p))


def _product(left: Matrix, right: Matrix, width: int) -> Matrix:
    return tuple(
        tuple(sum((x * right[k][j] for k, x in enumerate(row) if x), Fraction(0)) for j in range(width))
        for row in left
    )
