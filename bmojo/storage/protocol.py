"""What every store of keys and values can do, and the rows that it is given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmojo.storage.errors import StorageError

__all__ = [
    "EideticStore",
    "Found",
    "Rows",
    "Stream",
    "checked_place",
    "checked_queries",
    "checked_rows",
    "joined",
]

Half = NDArray[np.float16]
WIDEST = 1 << 16  # of a row: heads times width


class Stream(NamedTuple):
    """Address of one memory: a layer, and the sequence (batch entry, user, document) that it belongs to.

    Parameters
    ----------
    layer, entry : int
        From 0; below $2^{12}$ and $2^{20}$.

    Examples
    --------
    >>> from bmojo.storage import Stream
    >>> Stream(layer=3, entry=0)
    Stream(layer=3, entry=0)
    """

    layer: int
    entry: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as they are kept: one token each, with the keys and values of all its heads.

    Parameters
    ----------
    first : int
        Ordinal of the first row in its stream.
    keys : ndarray of float16, shape (n, G, d)
    values : ndarray of float16, shape (n, G, d_v)
    positions : ndarray of int64, shape (n,)
    """

    first: int
    keys: Half
    values: Half
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def end(self) -> int:
        """Ordinal behind the last row."""
        return self.first + len(self)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and positions."""
        return self.keys.nbytes + self.values.nbytes + self.positions.nbytes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads `G`, key width `d`, value width `d_v`."""
        return self.keys.shape[1], self.keys.shape[2], self.values.shape[2]

    def at(self, first: int) -> Rows:
        """The same rows from another ordinal on."""
        return Rows(first, self.keys, self.values, self.positions)

    def same(self, other: Rows) -> bool:
        """Whether keys, values and positions are equal, bit for bit."""
        pairs = (self.keys, other.keys), (self.values, other.values), (self.positions, other.positions)
        return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)

    def between(self, low: int, high: int) -> Rows:
        """The rows with ordinals from `low` on and below `high`."""
        low, high = (min(max(bound - self.first, 0), len(self)) for bound in (low, high))
        part = slice(low, high)
        return Rows(self.first + low, self.keys[part], self.values[part], self.positions[part])


@dataclass(frozen=True, eq=False)
class Found:
    r"""What a search found: for each query and head the `r` rows of largest $q^\top k$, best first.

    Parameters
    ----------
    scores : Tensor, shape (n, H, r)
        $q^\top k$ in float32; $-\infty$ where a stream has fewer than `r` rows.
    ordinals, positions : Tensor of int64, shape (n, H, r)
        Rows in the stream, and the tokens' positions; -1 where there is none.
    keys : Tensor of float16, shape (n, H, r, d)
    values : Tensor of float16, shape (n, H, r, d_v)
        Zero where there is none.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bmojo.storage import FlatStore, Stream
    >>> with tempfile.TemporaryDirectory() as folder, FlatStore(f"{folder}/memory") as store:
    ...     first = store.append(Stream(0, 0), torch.ones(1, 2, 4), torch.ones(1, 2, 6), torch.tensor([7]))
    ...     found = store.search(Stream(0, 0), torch.ones(3, 8, 4), count=5)
    >>> found.keys.shape, found.values.shape, found.positions[0, 0]
    (torch.Size([3, 8, 5, 4]), torch.Size([3, 8, 5, 6]), tensor([ 7, -1, -1, -1, -1]))
    """

    scores: Tensor
    ordinals: Tensor
    positions: Tensor
    keys: Tensor
    values: Tensor


@runtime_checkable
class EideticStore(Protocol):
    r"""A memory without a bound: rows are appended in the background and found by inner product.

    Rows of a stream are numbered from 0 by their *ordinals*. Appending is idempotent: the same rows at the
    same ordinals are there once, however often they come. Keys and values are kept in float16 and carry no
    gradient.

    Examples
    --------
    >>> from bmojo.storage import EideticStore, FlatStore
    >>> issubclass(FlatStore, EideticStore)
    True
    """

    def append(
        self, stream: Stream, keys: Tensor, values: Tensor, positions: Tensor, *, first: int | None = None
    ) -> int:
        """Hand rows over; they are written in the background.

        Parameters
        ----------
        stream : Stream
        keys : Tensor, shape (n, G, d)
        values : Tensor, shape (n, G, d_v)
        positions : Tensor of int64, shape (n,)
            Of the tokens.
        first : int, optional
            Ordinal of the first row; behind the last one when left out. Rows that were there from `first` on
            are kept where they are the same, else replaced, with all that came after them.

        Returns
        -------
        first : int
        """
        ...

    def search(self, stream: Stream, queries: Tensor, count: int, *, limit: int | None = None) -> Found:
        """The rows of largest inner product with each query.

        Parameters
        ----------
        stream : Stream
        queries : Tensor, shape (n, H, d)
            Query head `h` meets key head `h // (H / G)`.
        count : int
            Rows `r` per query and head.
        limit : int, optional
            Only rows with ordinals below it; all when left out.
        """
        ...

    def rows(self, stream: Stream) -> int:
        """Rows that were appended, committed or not."""
        ...

    def committed(self, stream: Stream) -> int:
        """Rows that outlive this process, whatever happens to it."""
        ...

    def flush(self, timeout: float | None = None) -> None:
        """Return once all that was appended is committed; `timeout` in seconds."""
        ...

    def snapshot(self, folder: str | os.PathLike[str]) -> None:
        """A whole copy in a new folder, of what is committed now."""
        ...

    def close(self) -> None:
        """Commit what was appended, and let go of files, threads and connections."""
        ...


def joined(group: list[Rows]) -> Rows:
    """Rows that follow each other without a gap, as one."""
    if len(group) == 1:
        return group[0]
    keys, values, positions = (
        np.concatenate([getattr(rows, name) for rows in group]) for name in ("keys", "values", "positions")
    )
    return Rows(group[0].first, keys, values, positions)


def checked_place(
    stream: Stream, rows: Rows, first: int | None, end: int, shape: tuple[int, int, int] | None
) -> int:
    """Ordinal of the first of some rows in a stream of `end` rows, or an error that says what does not fit.

    Parameters
    ----------
    stream : Stream
    rows : Rows
    first : int, optional
        Behind the last row when left out.
    end : int
    shape : tuple of int, optional
        (G, d, d_v) of the stream's rows.
    """
    place = end if first is None else first
    if not 0 <= place <= end or (shape is not None and place and shape != rows.shape):
        raise StorageError(
            f"append: first={place} and rows of (G, d, d_v) = {rows.shape} came; {stream} has {end} "
            "rows" + ("." if shape is None else f" of {shape}.")
        )
    return place


def checked_rows(stream: Stream, keys: Tensor, values: Tensor, positions: Tensor) -> Rows:
    """Rows in float16 on the CPU, from ordinal 0 on, or an error that says what is wrong with them.

    Parameters
    ----------
    stream : Stream
    keys : Tensor, shape (n, G, d)
    values : Tensor, shape (n, G, d_v)
    positions : Tensor of int64, shape (n,)

    Raises
    ------
    StorageError
        If shapes do not fit, or a number is not finite in float16.
    """
    layer, entry = stream
    if not (0 <= layer < 1 << 12 and 0 <= entry < 1 << 20):
        raise StorageError(f"append: {stream} came; 0 <= layer < 4096 and 0 <= entry < 1048576 are needed.")
    if (
        keys.ndim != 3
        or values.ndim != 3
        or keys.shape[:2] != values.shape[:2]
        or positions.shape != keys.shape[:1]
        or 0 in (*keys.shape[1:], values.shape[2])
        or keys.shape[1] * max(keys.shape[2], values.shape[2]) > WIDEST
    ):
        raise StorageError(
            f"append: keys {tuple(keys.shape)}, values {tuple(values.shape)}, positions "
            f"{tuple(positions.shape)} came; (n, G, d), (n, G, d_v), (n,) are needed, G d at most {WIDEST}."
        )
    halves = [x.detach().to("cpu", torch.float16, copy=True).contiguous() for x in (keys, values)]
    for name, half in zip(("keys", "values"), halves, strict=True):
        if not bool(half.isfinite().all()):
            raise StorageError(
                f"append: {name} that are not finite in float16 came (NaN, or beyond 65504); norm the keys, "
                "or scale the values."
            )
    where = positions.detach().to("cpu", torch.int64, copy=True)
    return Rows(0, halves[0].numpy(), halves[1].numpy(), where.numpy())


def checked_queries(
    queries: Tensor, count: int, limit: int | None, shape: tuple[int, int, int] | None
) -> Tensor:
    """Queries in float32 on the CPU, or an error that says what is wrong with the question.

    Parameters
    ----------
    queries : Tensor, shape (n, H, d)
    count : int
    limit : int, optional
    shape : tuple of int, optional
        Heads and widths of the stream; `None` for one without rows.

    Raises
    ------
    StorageError
        If the shape is not that of the stream, or the number of rows asked for is not positive.
    """
    if count < 1 or (limit is not None and limit < 0):
        raise StorageError(f"search: count={count}, limit={limit} came; at least 1 and 0 are needed.")
    fits = queries.ndim == 3 and (
        shape is None or (queries.shape[2] == shape[1] and queries.shape[1] % shape[0] == 0)
    )
    if not fits:
        needed = "(n, H, d)" if shape is None else f"(n, a multiple of {shape[0]}, {shape[1]})"
        raise StorageError(f"search: queries {tuple(queries.shape)} came; {needed} is needed.")
    return queries.detach().to("cpu", torch.float32)
