"""Sums over the windows of a record that arrives in chunks, from which their Gram matrix follows."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError
from realization.identification.gram import displaced_gram, lagged_products, time_last

__all__ = ["STORED", "WindowSums"]

Array = NDArray[np.float64]
STORED = (
    "origin",
    "products",
    "starts",
    "head",
    "rest",
    "closed_gram",
    "closed_sums",
    "closed_moments",
    "numbers",
)


class WindowSums:
    """Lagged products, first and last samples of the open segment, and the Gram matrix of the closed ones.

    All are measured from an origin near the mean, so that a large level costs no digits.
    """

    def __init__(
        self, n_outputs: int, n_inputs: int, block_rows: int, forgetting: float, dt: float | None
    ) -> None:
        self.n_outputs, self.n_inputs, self.block_rows = n_outputs, n_inputs, block_rows
        self.forgetting, self.dt = forgetting, dt
        q, r = n_outputs + n_inputs, 2 * block_rows
        self._origin: Array | None = None
        self._closed_gram, self._closed_sums = np.zeros((r * q, r * q)), np.zeros(r * q)
        self._closed_moments = np.zeros((2, q))
        self._closed_windows, self._closed_weight, self._length = 0.0, 0.0, 0
        self._open()

    def _open(self) -> None:
        """Start a segment: no window of it reaches into the one before."""
        q, r = self.n_outputs + self.n_inputs, 2 * self.block_rows
        self._products, self._starts = np.zeros((r, q, q)), np.zeros(q)
        self._head, self._rest = np.zeros((0, q)), np.zeros((0, q))
        self._windows, self._faded = 0.0, 1.0

    @property
    def length(self) -> int:
        """Samples seen."""
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes held; they do not depend on the length."""
        held = (self._products, self._head, self._rest, self._closed_gram, self._closed_sums)
        return sum(part.nbytes for part in held)

    def _take(self, z: Array) -> None:
        origin = z.mean(axis=0) if self._origin is None else self._origin
        self._origin = origin
        self._length += len(z)
        self._absorb(z - origin)

    def _absorb(self, z: Array) -> None:
        """Windows that `z`, measured from the origin, completes."""
        q, r, w = z.shape[1], 2 * self.block_rows, self.forgetting
        missing = r - 1 - len(self._head)
        if missing:
            self._head = np.vstack([self._head, z[:missing]])
        rows = np.vstack([self._rest, z])
        count = max(0, len(rows) - r + 1)
        self._rest = np.ascontiguousarray(rows[count:])
        if count == 0:
            return
        right = time_last(rows)
        left = right if w == 1 else right[:, :count] * w ** np.arange(count - 1.0, -1.0, -1.0)
        faded = w**count
        self._products = faded * self._products + lagged_products(left, right, count, r)[:, :q, :q]
        self._starts = faded * self._starts + left[:q, :count].sum(axis=1)
        self._windows = faded * self._windows + (count if w == 1 else (1 - faded) / (1 - w))
        self._faded *= faded

    def _whole(self) -> tuple[Array, Array, float, Array, float]:
        """Gram matrix, sums and number of windows; sum and squares, and number, of samples."""
        r, w = 2 * self.block_rows, self.forgetting
        gram, sums = self._closed_gram.copy(), self._closed_sums.copy()
        moments, weight = self._closed_moments.copy(), self._closed_weight
        ages = w ** np.arange(len(self._rest) - 1.0, -1.0, -1.0)
        late = w ** float(len(self._rest))
        moments[0] += late * self._starts + ages @ self._rest
        moments[1] += late * np.diag(self._products[0]) + ages @ self._rest**2
        weight += late * self._windows + ages.sum()
        if self._windows:
            gram += displaced_gram(
                np.ascontiguousarray(self._products), self._head, self._rest, w, self._faded
            )
            level = self._starts
            for k in range(r):
                sums[k * len(level) : (k + 1) * len(level)] += level
                if k < r - 1:
                    level = w * level + self._rest[k] - self._faded * self._head[k]
        return gram, sums, self._closed_windows + self._windows, moments, weight

    def _join(self, later: WindowSums) -> None:
        """Go on with the open segment of another; its closed ones are left to the caller."""
        r = 2 * self.block_rows
        if later._closed_windows:
            raise DataError(
                "merge: `other` is made of separate records itself; it cannot go on where this one ends."
            )
        self._absorb(later._head)
        if not later._windows:
            tail = later._rest[len(later._head) :]
            if len(tail):
                self._absorb(tail)
            return
        self._products = self._products + later._products
        self._starts = self._starts + later._starts
        self._windows += later._windows
        self._rest = later._rest[-(r - 1) :].copy()

    def _move(self, origin: Array) -> None:
        """Measure everything from another origin."""
        assert self._origin is not None
        by = self._origin - origin
        level, r = self._starts, 2 * self.block_rows
        products = np.empty_like(self._products)
        for k in range(r):
            cross = np.outer(self._starts, by) + np.outer(by, level) + self._windows * np.outer(by, by)
            products[k] = self._products[k] + cross
            if self._windows and k < r - 1:
                level = level + self._rest[k] - self._head[k]
        tiled = np.tile(by, r)
        across = np.outer(self._closed_sums, tiled)
        self._closed_gram += across + across.T + self._closed_windows * np.outer(tiled, tiled)
        self._closed_sums += self._closed_windows * tiled
        self._closed_moments[1] += 2 * by * self._closed_moments[0] + self._closed_weight * by**2
        self._closed_moments[0] += self._closed_weight * by
        self._products, self._starts = products, self._starts + self._windows * by
        self._head, self._rest, self._origin = self._head + by, self._rest + by, origin

    def _close(self) -> None:
        """Put the open segment to the closed ones."""
        parts = self._whole()
        self._closed_gram, self._closed_sums, self._closed_windows = parts[:3]
        self._closed_moments, self._closed_weight = parts[3:]
        self._open()

    def _copy(self) -> Self:
        return self._from_arrays(self._arrays())

    def _arrays(self) -> dict[str, Array]:
        numbers = (self.n_outputs, self.n_inputs, self.block_rows, self.forgetting)
        numbers += (np.nan if self.dt is None else self.dt, self._windows, self._faded)
        numbers += (self._closed_windows, self._closed_weight, self._length)
        origin = np.zeros(0) if self._origin is None else self._origin
        values = (origin, self._products, self._starts, self._head, self._rest, self._closed_gram)
        values += (self._closed_sums, self._closed_moments, np.array(numbers, dtype=float))
        return {name: np.array(value) for name, value in zip(STORED, values)}

    @classmethod
    def _from_arrays(cls, arrays: dict[str, Array]) -> Self:
        p, m, i, forgetting, dt, windows, faded, closed, weight, length = arrays["numbers"].tolist()
        made = cls.__new__(cls)
        WindowSums.__init__(made, int(p), int(m), int(i), forgetting, None if np.isnan(dt) else dt)
        made._origin = arrays["origin"] if arrays["origin"].size else None
        made._products, made._starts = arrays["products"], arrays["starts"]
        made._head, made._rest = arrays["head"], arrays["rest"]
        made._closed_gram, made._closed_sums = arrays["closed_gram"], arrays["closed_sums"]
        made._closed_moments = arrays["closed_moments"]
        made._windows, made._faded, made._closed_windows, made._closed_weight = windows, faded, closed, weight
        made._length = int(length)
        return made
