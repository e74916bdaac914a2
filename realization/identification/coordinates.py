"""Directions in which a model may move: local coordinates of a manifold, masks, polynomials."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.sensitivities import Point

__all__ = ["Along", "Coordinates", "LocalCoordinates", "Masked", "orbit_tangent"]

Array = NDArray[np.float64]


class Coordinates(Protocol):
    """A parametrization, seen from one of its points."""

    def slope(self, point: Point) -> Array:
        """Derivatives of `point.entries` with respect to the coordinates, shape (entries, coordinates)."""
        ...

    def moved(self, point: Point, step: Array) -> Point:
        """The point after a step in the coordinates."""
        ...

    def frozen(self, point: Point) -> Coordinates:
        """Coordinates about a point that stay the same at all others."""
        ...


def orbit_tangent(point: Point) -> Array:
    r"""Derivatives of the entries along changes of the state's coordinates, shape (entries, n²).

    With $T = I + X$ the model $(T A T^{-1}, T B, C T^{-1}, D, T K, \mu, T x_0)$ moves by
    $(XA - AX,\ XB,\ -CX,\ 0,\ XK,\ 0,\ X x_0)$.
    """
    n = len(point.A)
    eye = np.eye(n)

    def left(block: Array) -> Array:
        return np.asarray(np.kron(eye, block.T), dtype=float)

    def right(block: Array) -> Array:
        return np.asarray(np.kron(block, eye), dtype=float)

    return np.vstack([
        left(point.A) - right(point.A),
        left(point.B),
        -right(point.C),
        np.zeros((point.D.size, n * n)),
        left(point.K),
        np.zeros((point.offset.size, n * n)),
        *(left(x[:, None]) for x in np.atleast_2d(point.start)),
    ])  # fmt: skip


class LocalCoordinates(NamedTuple):
    """Data-driven local coordinates: the entries that may move, without changes of the state's coordinates.

    `free` marks the entries that may move. It must hold whole blocks of `A, B, C, K` and the first state (a
    block that does not move must be zero), so that the orbit stays inside.

    References
    ----------
    T. McKelvey, A. Helmersson, T. Ribarits, Data driven local coordinates for multivariable linear systems
    and their application to system identification, Automatica 40 (2004) 1629-1635.
    """

    free: NDArray[np.bool_]

    def slope(self, point: Point) -> Array:
        """An orthonormal basis of what is free and orthogonal to the orbit."""
        basis = np.zeros((len(self.free), int(self.free.sum())))
        basis[np.flatnonzero(self.free), np.arange(basis.shape[1])] = 1.0
        tangent = orbit_tangent(point)[self.free]
        if not tangent.shape[1]:
            return basis
        Q = scipy.linalg.qr(tangent, check_finite=False)[0]
        return basis @ Q[:, tangent.shape[1] :]

    def moved(self, point: Point, step: Array) -> Point:
        """Along the basis."""
        return point.replaced(point.entries + self.slope(point) @ step)

    def frozen(self, point: Point) -> Coordinates:
        """The basis at the point, kept."""
        return Along(self.slope(point))


class Along(NamedTuple):
    """Given directions, the same everywhere; `basis` has shape (entries, coordinates)."""

    basis: Array

    def slope(self, point: Point) -> Array:
        """The directions."""
        return self.basis

    def moved(self, point: Point, step: Array) -> Point:
        """Along the directions."""
        return point.replaced(point.entries + self.basis @ step)

    def frozen(self, point: Point) -> Coordinates:
        """As they are."""
        return self


class Masked(NamedTuple):
    """Entries that may move and entries that stay, one by one."""

    free: NDArray[np.bool_]

    def slope(self, point: Point) -> Array:
        """Columns of the identity."""
        return np.eye(len(self.free))[:, self.free]

    def moved(self, point: Point, step: Array) -> Point:
        """The free entries, moved."""
        entries = point.entries.copy()
        entries[self.free] += step
        return point.replaced(entries)

    def frozen(self, point: Point) -> Coordinates:
        """As they are."""
        return self
