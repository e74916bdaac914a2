"""Elimination in whole numbers: which rows of a Hankel matrix depend on those above, and how."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

__all__ = ["Echelon", "echelon_rows", "integer_rank"]


class Echelon(NamedTuple):
    r"""The rows of a Hankel matrix that do not depend on the rows above them.

    Attributes
    ----------
    basis : list of (block row, output)
        Those rows, from the top.
    indices : tuple of int
        How many there are of each output.
    relations : list of tuple of Fraction
        The first dependent row of each output, in terms of the basis rows above it.
    widest : int
        Number of block columns over which the basis rows are independent.
    """

    basis: list[tuple[int, int]]
    indices: tuple[int, ...]
    relations: list[tuple[Fraction, ...]]
    widest: int


def echelon_rows(h: list[list[list[int]]]) -> Echelon:
    """Row dependencies of the Hankel matrix of `h` (N, p, m), over the columns that N entries fill.

    Block row i knows N - i block columns. Pivots are the leftmost entries, so that rows reduced over many
    columns are reduced over fewer as well: one pass serves every width.
    """
    known, p, m = len(h), len(h[0]), len(h[0][0])
    basis: list[tuple[int, int]] = []
    reduced: list[tuple[int, list[int], list[int]]] = []  # pivot, entries, combination of the basis rows
    relations: list[tuple[Fraction, ...]] = [()] * p
    indices = [-1] * p
    for i in range(known + 1):
        for j in (j for j in range(p) if indices[j] < 0):
            entries = [x for k in range(i, known) for x in h[k][j]]
            combination = [0] * len(reduced) + [1]
            entries, combination = _reduce(entries, combination, reduced)
            pivot = next((k for k, x in enumerate(entries) if x), None)
            if pivot is None:
                relations[j] = tuple(Fraction(-x, combination[-1]) for x in combination[:-1])
                indices[j] = i
                continue
            basis.append((i, j))
            reduced.append((pivot, entries, combination))
    widest = max((pivot // m + 1 for pivot, _, _ in reduced), default=0)
    return Echelon(basis, tuple(indices), relations, widest)


def _reduce(
    entries: list[int], combination: list[int], reduced: list[tuple[int, list[int], list[int]]]
) -> tuple[list[int], list[int]]:
    """Clear the pivots' columns of a row; pivots beyond its width are zero rows there."""
    for pivot, row, parts in sorted(reduced, key=lambda item: item[0]):
        if pivot >= len(entries):
            break
        if entries[pivot] == 0:
            continue
        common = math.gcd(entries[pivot], row[pivot])
        scale, factor = row[pivot] // common, entries[pivot] // common
        entries = [scale * x - factor * y for x, y in zip(entries, row)]
        padded = parts + [0] * (len(combination) - len(parts))
        combination = [scale * x - factor * y for x, y in zip(combination, padded)]
        content = math.gcd(*entries, *combination)
        entries, combination = [x // content for x in entries], [x // content for x in combination]
    return entries, combination


def integer_rank(rows: list[list[int]]) -> int:
    """Rank of a matrix of integers by Bareiss' elimination: every division is exact."""
    rows, rank, last = [list(row) for row in rows], 0, 1
    for k in range(len(rows[0]) if rows else 0):
        found = next((i for i in range(rank, len(rows)) if rows[i][k]), None)
        if found is None:
            continue
        rows[rank], rows[found] = rows[found], rows[rank]
        pivot = rows[rank]
        for i in range(rank + 1, len(rows)):
            head = rows[i][k]
            rows[i] = [(pivot[k] * x - head * y) // last for x, y in zip(rows[i], pivot)]
        last, rank = pivot[k], rank + 1
    return rank
