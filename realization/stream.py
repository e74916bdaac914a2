r"""Subspace identification of a record that arrives in chunks: bounded memory, forgetting, merging, resuming.

The Gram matrix of all windows of a record needs lagged products and the first and last few samples, nothing
else. So a record of any length is held in a few hundred numbers, and every order and method is read from
them at any time.
"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.archives import load_arrays
from realization.errors import DataError, ExcitationError, ExcitationWarning, ShapeError
from realization.files import write_atomically
from realization.identification.closed_loop import Method, predictor_realization
from realization.identification.factor_inputs import realize_from_factor
from realization.identification.factorization import (
    Factorization,
    Weighting,
    cholesky_factor,
    spectral_factor,
)
from realization.identification.order import select_order
from realization.identification.realization import Realization
from realization.identification.window_sums import STORED, WindowSums
from realization.notes import warn
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["StreamingFactorization"]

Array = NDArray[np.float64]
STRETCH = 65_536
MOST_ROWS = 20_000


class StreamingFactorization(WindowSums):
    r"""Factorization of block Hankel data, fed chunk by chunk.

    $$G = \sum_t w^{N-1-t}\, z_{t:t+2i}\, z_{t:t+2i}^\top, \qquad z = (u, y)$$

    Parameters
    ----------
    n_outputs : int
    n_inputs : int
        0 for a time series.
    block_rows : int
        Block rows `i` of the past and of the future.
    forgetting : float
        Weight `w` of a sample against the next one, in (0, 1]; about `1 / (1 - w)` samples are remembered.
    dt : float, optional
        Seconds between samples.

    Raises
    ------
    DataError
        If an option is out of range.

    References
    ----------
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996, chapter 4 and
    section 6.1.
    T. Kailath, A. H. Sayed, Displacement structure: theory and applications, SIAM Review 37 (1995) 297-386.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.stream import StreamingFactorization
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((6000, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((6000, 1))
    >>> seen = StreamingFactorization(n_outputs=1, n_inputs=1, block_rows=5)
    >>> for begin in range(0, 6000, 1000):
    ...     seen.update(y[begin : begin + 1000], u[begin : begin + 1000])
    >>> seen.length, seen.n4sid(1).poles.real.round(2)
    (6000, array([0.8]))
    """

    def __init__(
        self,
        n_outputs: int,
        n_inputs: int = 0,
        *,
        block_rows: int = 15,
        forgetting: float = 1.0,
        dt: float | None = None,
    ) -> None:
        if n_outputs < 1 or n_inputs < 0 or block_rows < 2:
            raise DataError(
                f"StreamingFactorization: n_outputs={n_outputs}, n_inputs={n_inputs}, "
                f"block_rows={block_rows} came; at least 1, 0 and 2 are needed."
            )
        if 2 * block_rows * (n_outputs + n_inputs) > MOST_ROWS:
            raise DataError(
                f"StreamingFactorization: block_rows={block_rows} came; its Gram matrix would have "
                f"{2 * block_rows * (n_outputs + n_inputs)} rows, above the {MOST_ROWS} that fit. Take fewer."
            )
        if not 0 < forgetting <= 1:
            raise DataError(
                f"StreamingFactorization: forgetting={forgetting} came; a number in (0, 1] is needed."
            )
        super().__init__(n_outputs, n_inputs, block_rows, forgetting, dt)

    def update(self, y: ArrayLike, u: ArrayLike | None = None) -> None:
        """Take the next samples in.

        Parameters
        ----------
        y : array_like, shape (T, p)
            Any number of samples.
        u : array_like, shape (T, m), optional

        Raises
        ------
        ShapeError
            If the columns are not those of the stream.
        DataError
            If a value is not finite.
        """
        chunk = IOData(y, u, self.dt)
        if (chunk.n_outputs, chunk.n_inputs) != (self.n_outputs, self.n_inputs):
            raise ShapeError(
                f"update: {chunk.n_outputs} outputs and {chunk.n_inputs} inputs came; the stream has "
                f"{self.n_outputs} and {self.n_inputs}."
            )
        for begin in range(0, chunk.length, STRETCH):
            part = slice(begin, begin + STRETCH)
            self._take(np.hstack([chunk.inputs[part], chunk.y[part]]))

    def end_record(self) -> None:
        """Let what comes next be a record of its own: no window reaches from the one into the other."""
        self._close()

    def factorization(self) -> Factorization:
        """Triangular factor of what was seen, in units of each column's standard deviation.

        Returns
        -------
        Factorization

        Raises
        ------
        ExcitationError
            If there are fewer windows than their Gram matrix has rows.
        DataError
            If a column is constant.

        Warns
        -----
        ExcitationWarning
            If the Gram matrix is near singular (noise-free data, or inputs that excite little), so that no
            more than half of the digits are left.
        """
        return self._factorized()[0]

    def _factorized(self) -> tuple[Factorization, Array, Array]:
        gram, sums, windows, moments, weight = self._whole()
        i, m, p, r = self.block_rows, self.n_inputs, self.n_outputs, 2 * self.block_rows
        if windows <= len(gram) or self._origin is None:
            raise ExcitationError(
                f"StreamingFactorization: {self._length} samples so far with block_rows={i}, {m} inputs "
                f"and {p} outputs; more than {len(gram) + r} are needed, and must be remembered. Go on "
                "feeding it, take fewer block rows or forget more slowly."
            )
        mean = moments[0] / weight
        deviation = np.sqrt(np.maximum(moments[1] / weight - mean**2, 0.0))
        if (deviation <= 1e-12 * (np.abs(mean) + np.abs(self._origin))).any():
            raise DataError(
                "StreamingFactorization: a column is constant, so nothing can be learned about it."
            )
        unit = np.tile(deviation, r)
        centred = (gram - np.outer(sums, sums / windows)) / unit / unit[:, None]
        R = cholesky_factor(centred, i, m, p)
        columns = round(windows)
        if R is not None:
            return Factorization(R, i, m, p, columns, True), mean + self._origin, deviation
        warn(
            "StreamingFactorization: the data are near singular, so their products hold only half of the "
            "digits. Exact work on noise-free data needs the record itself (`n4sid`).",
            ExcitationWarning,
            stacklevel=4,
        )
        R = spectral_factor(centred, i, m, p)
        return Factorization(R, i, m, p, columns, False, 1e-7), mean + self._origin, deviation

    def n4sid(
        self,
        order: int | None = None,
        *,
        weighting: Weighting = "cva",
        feedthrough: bool = True,
        stable: bool = True,
        max_order: int = 20,
    ) -> InnovationsModel:
        """Model of what was seen so far, by `n4sid`'s weightings, with `B` and `D` from the factor.

        Parameters
        ----------
        order : int, optional
            Chosen from the canonical correlations and the one-step prediction when left out.
        weighting : {"cva", "n4sid", "moesp", "pi_moesp", "ivm"}
        feedthrough : bool
            Whether `D` is estimated.
        stable : bool
            Move poles from outside the unit circle to its inside, with a warning.
        max_order : int
            Highest order tried when `order` is left out.

        Returns
        -------
        InnovationsModel
        """
        factorization, mean, deviation = self._factorized()
        if order is None:
            order = select_order(factorization, min(max_order, (self.block_rows - 1) * self.n_outputs))
        found, Re = realize_from_factor(
            factorization, order, weighting=weighting, feedthrough=feedthrough, stable=stable, caller="n4sid"
        )
        return self._model(found, Re, mean, deviation)

    def ssarx(self, order: int | None = None, **options: Any) -> InnovationsModel:
        """Model of what was seen so far, for closed loop too.

        Parameters
        ----------
        order : int, optional
        **options
            `feedthrough`, `stable`, `max_order` as for `ssarx`.

        Returns
        -------
        InnovationsModel
        """
        return self._predictor("ssarx", order, **options)

    def pbsid(self, order: int | None = None, **options: Any) -> InnovationsModel:
        """Model of what was seen so far, for closed loop too.

        Parameters
        ----------
        order : int, optional
        **options
            `feedthrough`, `stable`, `max_order` as for `pbsid`.

        Returns
        -------
        InnovationsModel
        """
        return self._predictor("pbsid", order, **options)

    def _predictor(
        self,
        method: Method,
        order: int | None,
        *,
        feedthrough: bool = False,
        stable: bool = True,
        max_order: int = 20,
    ) -> InnovationsModel:
        factorization, mean, deviation = self._factorized()
        found, _, Re = predictor_realization(
            factorization, order, method, feedthrough=feedthrough, stable=stable, max_order=max_order
        )
        return self._model(found, Re, mean, deviation)

    def _model(self, found: Realization, Re: Array, mean: Array, deviation: Array) -> InnovationsModel:
        m = self.n_inputs
        u, y = deviation[:m], deviation[m:]
        return InnovationsModel(
            found.A,
            found.B / u,
            found.C * y[:, None],
            found.D * y[:, None] / u,
            self.dt,
            K=found.K / y,
            Re=(Re + Re.T) / 2 * y[:, None] * y,
            u_mean=mean[:m],
            y_mean=mean[m:],
        )

    def merge(self, other: StreamingFactorization, *, contiguous: bool = False) -> StreamingFactorization:
        """Both records together; neither operand changes.

        Parameters
        ----------
        other : StreamingFactorization
            With the same columns and block rows; neither may forget.
        contiguous : bool
            Whether `other` goes on where this one ends, so that windows across the seam count too (the
            result is that of one long record); else the two are separate experiments.

        Returns
        -------
        StreamingFactorization

        Raises
        ------
        DataError
            If the two do not fit together.
        """
        mine, theirs = ((s.n_outputs, s.n_inputs, s.block_rows, s.dt, s.forgetting) for s in (self, other))
        if mine != theirs or self.forgetting != 1:
            raise DataError(
                "merge: both streams need the same outputs, inputs, block_rows and dt, and forgetting=1 "
                "(which of two records is the older is not known)."
            )
        joint, second = self._copy(), other._copy()
        if second._origin is None or joint._origin is None:
            return joint if second._origin is None else second
        second._move(joint._origin)
        if contiguous:
            joint._join(second)
        else:
            joint._close()
            second._close()
        for name in ("_closed_gram", "_closed_sums", "_closed_moments", "_closed_windows", "_closed_weight"):
            setattr(joint, name, getattr(joint, name) + getattr(second, name))
        joint._length += second._length
        return joint

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, whole or not at all; `load` goes on from it.

        Parameters
        ----------
        path : str or path
        """
        buffer = io.BytesIO()
        np.savez(buffer, **self._arrays())  # pyright: ignore[reportArgumentType]
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> StreamingFactorization:
        """Read a state back that `save` wrote.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        StreamingFactorization

        Raises
        ------
        DataError
            If the file is not there, or is no such state.
        """
        try:
            stored = load_arrays(path)
            if not isinstance(stored, dict):
                raise ValueError("one array, not several")
            return cls._from_arrays({name: stored[name] for name in STORED})
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"load: {path} holds no state of a stream ({error}).") from None
