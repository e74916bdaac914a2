"""Polynomial models as points of state space, and how the points move with the coefficients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.noise import one_step_innovations
from realization.identification.sensitivities import Point
from realization.systems.responses import first_states

__all__ = ["Orders", "PolynomialCoordinates", "point_of"]

Array = NDArray[np.float64]


class Orders(NamedTuple):
    """Degrees of the polynomials, taps and delay of each input."""

    na: int
    nb: tuple[int, ...]
    nc: int
    nd: int
    nf: tuple[int, ...]
    nk: tuple[int, ...]

    @property
    def total(self) -> int:
        """Coefficients to be estimated."""
        return self.na + sum(self.nb) + self.nc + self.nd + sum(self.nf)

    @property
    def places(self) -> dict[str, list[slice]]:
        """Where the coefficients of each polynomial are among all."""
        found, used = {}, 0
        sizes_of = {"a": (self.na,), "b": self.nb, "c": (self.nc,), "d": (self.nd,), "f": self.nf}
        for name, sizes in sizes_of.items():
            found[name] = []
            for size in sizes:
                found[name].append(slice(used, used + size))
                used += size
        return found

    @property
    def blocks(self) -> list[tuple[str, int, int]]:
        """State blocks: what they realize, for which input, and how many states."""
        last = [k + size - 1 for k, size in zip(self.nk, self.nb)]
        own = [("f", i, max(degree, last[i])) for i, degree in enumerate(self.nf) if self._apart]
        if self._apart:
            return [*own, ("noise", -1, max(self.nc, self.nd))]
        return [("common", -1, max([self.na, self.nc, *last], default=0))]

    @property
    def _apart(self) -> bool:
        return self.na == 0 and (any(self.nf) or self.nd > 0)

    @property
    def states(self) -> int:
        """Order of the state-space model."""
        return sum(size for _, _, size in self.blocks)


class PolynomialCoordinates(NamedTuple):
    """Coefficients, then the level of the output, then the first state."""

    orders: Orders

    def theta(self, point: Point) -> Array:
        """The coefficients of a point that they made."""
        orders, places = self.orders, self.orders.places
        theta = np.zeros(orders.total)
        used = 0
        for kind, i, size in orders.blocks:
            block = slice(used, used + size)
            first, gain = -point.A[block, used] if size else np.zeros(0), point.K[block, 0]
            if kind == "f":
                theta[places["f"][i]] = first[: orders.nf[i]]
            elif kind == "common":
                theta[places["a"][0]] = first[: orders.na]
                theta[places["c"][0]] = (gain + first)[: orders.nc]
            else:
                theta[places["d"][0]] = first[: orders.nd]
                theta[places["c"][0]] = (gain + first)[: orders.nc]
            for j in range(len(orders.nb)) if kind == "common" else ([i] if kind == "f" else []):
                taps = np.concatenate([[point.D[0, j]], point.B[block, j] + first * point.D[0, j]])
                theta[places["b"][j]] = taps[orders.nk[j] : orders.nk[j] + orders.nb[j]]
            used += size
        return theta

    def slope(self, point: Point) -> Array:
        """Derivatives of the entries, which are polynomials of degree two: central differences are exact."""
        theta = self.theta(point)
        rest = 1 + point.start.size
        free = len(theta) + rest
        slope = np.zeros((point.entries.size, free))
        places = point.places
        matrices = slice(0, places["K"].stop)
        for k in range(len(theta)):
            step = np.eye(1, len(theta), k)[0]
            ahead, behind = _matrices(self.orders, theta + step), _matrices(self.orders, theta - step)
            slope[matrices, k] = (ahead - behind) / 2
        slope[places["offset"].start :, len(theta) :] = np.eye(rest)
        return slope

    def moved(self, point: Point, step: Array) -> Point:
        """The point of the coefficients after the step."""
        theta = self.theta(point) + step[: self.orders.total]
        rest = step[self.orders.total :]
        tail = np.concatenate([point.offset, point.start.ravel()]) + rest
        return point.replaced(np.concatenate([_matrices(self.orders, theta), tail]))

    def frozen(self, point: Point) -> PolynomialCoordinates:
        """As they are."""
        return self


def point_of(orders: Orders, theta: Array, scaled: Scaling) -> Point:
    """The point of some coefficients, with the best first state of each experiment of a record."""
    n, m = orders.states, len(orders.nb)
    nowhere = first_states([np.zeros(n)] * len(scaled.starts))
    empty = Point(
        np.zeros((n, n)),
        np.zeros((n, m)),
        np.zeros((1, n)),
        np.zeros((1, m)),
        np.zeros((n, 1)),
        np.zeros(1),
        nowhere,
    )
    point = empty.replaced(np.concatenate([_matrices(orders, theta), np.zeros(1 + nowhere.size)]))
    start = one_step_innovations(*point[:5], scaled.u, scaled.y, scaled.starts)[1]
    return point._replace(start=start)


def _matrices(orders: Orders, theta: Array) -> Array:
    r"""Entries of `A, B, C, D, K`: block diagonal, each block in observer form.

    $y = \frac{b}{f} u$ is $x_i^+ = -f_i x_1 + x_{i+1} + (b_i - f_i b_0) u,\ y = x_1 + b_0 u$; with
    $f = a$ and $b = c$ the same form carries the noise.
    """
    places, m = orders.places, len(orders.nb)
    parts, inputs, gains, direct = [], [], [], np.zeros(m)
    first = []
    for kind, i, size in orders.blocks:
        name, chosen = {"f": ("f", [i]), "common": ("a", list(range(m))), "noise": ("d", [])}[kind]
        denominator = _padded(theta[places[name][max(i, 0)]], size)
        A = np.eye(size, k=1)
        if size:
            A[:, 0] = -denominator
        B = np.zeros((size, m))
        for j in chosen:
            taps = np.zeros(max(size + 1, orders.nk[j] + orders.nb[j]))
            taps[orders.nk[j] : orders.nk[j] + orders.nb[j]] = theta[places["b"][j]]
            direct[j] = taps[0]
            B[:, j] = taps[1 : size + 1] - denominator * taps[0]
        K = np.zeros(size) if kind == "f" else _padded(theta[places["c"][0]], size) - denominator
        parts.append(A)
        inputs.append(B)
        gains.append(K)
        first.append(np.eye(1, size)[0])
    A = scipy.linalg.block_diag(*parts) if orders.states else np.zeros((0, 0))
    return np.concatenate([
        A.ravel(),
        np.vstack(inputs).ravel(),
        np.concatenate(first),
        direct,
        np.concatenate(gains),
    ])  # fmt: skip


def _padded(values: Array, size: int) -> Array:
    return np.concatenate([values, np.zeros(size - len(values))])
