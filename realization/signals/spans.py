"""Rows of the experiments of a record, from the rows at which they begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from realization.errors import ShapeError

__all__ = ["checked_starts", "complete_rows", "complete_stretches", "spans_of", "starts_within"]


def checked_starts(starts: Sequence[int], length: int, caller: str) -> tuple[int, ...]:
    """First rows of experiments with at least one sample each."""
    found = tuple(int(start) for start in starts)
    if not found or found[0] != 0 or any(b <= a for a, b in zip(found, (*found[1:], length))):
        raise ShapeError(
            f"{caller}: starts={found} came for {length} samples; they must begin with 0, rise, and stay "
            "below the length, so that each experiment has a sample."
        )
    return found


def spans_of(starts: Sequence[int], length: int) -> tuple[slice, ...]:
    """Rows of each experiment."""
    return tuple(slice(a, b) for a, b in zip(starts, (*starts[1:], length)))


def starts_within(starts: Sequence[int], begin: int, stop: int) -> tuple[int, ...]:
    """Where experiments begin in the rows `begin:stop`, counted from `begin`; a cut one begins at 0."""
    return (0, *(start - begin for start in starts if begin < start < stop))


def complete_rows(y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Marks on the samples without a missing output, shape (T,)."""
    return np.logical_not(np.isnan(y).any(axis=1))


def complete_stretches(
    complete: NDArray[np.bool_], starts: Sequence[int]
) -> tuple[NDArray[np.intp], tuple[int, ...]]:
    """Rows that are complete, and where among them a stretch of neighbours in one experiment begins."""
    rows = np.flatnonzero(complete)
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = np.diff(rows) > 1
    begins |= np.isin(rows, np.asarray(starts))
    return rows, tuple(np.flatnonzero(begins).tolist())
