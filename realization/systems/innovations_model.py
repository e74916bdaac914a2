"""`InnovationsModel`: a state-space model with the noise that drives it and the data's operating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, RealizationError, ShapeError, UnstableError
from realization.signals.data import IOData, as_data
from realization.signals.spans import checked_starts, spans_of
from realization.systems.responses import first_states, free_response, joined
from realization.systems.state_space import StateSpace, as_matrix

__all__ = ["InnovationsModel"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class InnovationsModel(StateSpace):
    r"""State-space model in innovations form, with the operating point of the data.

    $$x_{t+1} = A x_t + B (u_t - \bar u) + K e_t, \qquad y_t = \bar y + C x_t + D (u_t - \bar u) + e_t,
    \qquad \operatorname{cov} e_t = R_e$$

    Parameters
    ----------
    A, B, C, D, dt
        As for `StateSpace`. `B` has no columns for a time series.
    K : array_like, shape (n, p), optional
        Kalman gain; zero when left out.
    Re : array_like, shape (p, p), optional
        Innovation covariance, symmetric and positive semidefinite; the identity when left out.
    u_mean : array_like, shape (m,), optional
    y_mean : array_like, shape (p,), optional
        Operating point $\bar u, \bar y$; zero when left out.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 6.9.
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 4.3.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> model.predict(rz.IOData([1.0, 1.0, 1.0]), x0=[0.0])[:, 0]
    array([0. , 0.5, 0.5])
    """

    K: Array
    Re: Array
    u_mean: Array
    y_mean: Array

    def __init__(
        self,
        A: ArrayLike,
        B: ArrayLike,
        C: ArrayLike,
        D: ArrayLike | None = None,
        dt: float | None = None,
        K: ArrayLike | None = None,
        Re: ArrayLike | None = None,
        u_mean: ArrayLike | None = None,
        y_mean: ArrayLike | None = None,
    ) -> None:
        super().__init__(A, B, C, D, dt)
        n, m, p = self.n_states, self.n_inputs, self.n_outputs
        K = np.zeros((n, p)) if K is None else as_matrix(K, "K")
        Re = np.eye(p) if Re is None else as_matrix(Re, "Re")
        u_mean = np.zeros(m) if u_mean is None else np.atleast_1d(as_real(u_mean, "u_mean"))
        y_mean = np.zeros(p) if y_mean is None else np.atleast_1d(as_real(y_mean, "y_mean"))
        fits = {"K": (K, (n, p)), "Re": (Re, (p, p)), "u_mean": (u_mean, (m,)), "y_mean": (y_mean, (p,))}
        for name, (array, needed) in fits.items():
            if array.shape != needed:
                raise ShapeError(
                    f"InnovationsModel: {name} has shape {array.shape}; here it must be {needed}."
                )
            if not np.isfinite(array).all():
                raise DataError(f"InnovationsModel: {name} has entries that are NaN or infinite.")
        scale = np.abs(Re).max(initial=0.0)
        if np.abs(Re - Re.T).max(initial=0.0) > 1e-8 * scale:
            raise DataError("InnovationsModel: Re is not symmetric.")
        if p and np.linalg.eigvalsh(Re).min() < -1e-10 * scale:
            raise DataError("InnovationsModel: Re is not positive semidefinite.")
        self._freeze(K=K, Re=(Re + Re.T) / 2, u_mean=u_mean, y_mean=y_mean)

    @property
    def deterministic(self) -> StateSpace:
        """The path from `u` to `y`: `(A, B, C, D)`."""
        return StateSpace(self.A, self.B, self.C, self.D, self.dt)

    @property
    def noise(self) -> StateSpace:
        """The path from `e` to `y`: `(A, K, C, I)`, the whitening filter's inverse."""
        return StateSpace(self.A, self.K, self.C, np.eye(self.n_outputs), self.dt)

    @property
    def predictor(self) -> StateSpace:
        r"""One-step predictor from `[u, y]` to $\hat y_{t|t-1}$: $(A - KC,\ [B - KD,\ K],\ C,\ [D,\ 0])$."""
        B = np.hstack([self.B - self.K @ self.D, self.K])
        D = np.hstack([self.D, np.zeros((self.n_outputs, self.n_outputs))])
        return StateSpace(self.A - self.K @ self.C, B, self.C, D, self.dt)

    def simulate(
        self,
        u: ArrayLike | None = None,
        x0: ArrayLike | None = None,
        *,
        e: ArrayLike | None = None,
        starts: Sequence[int] = (0,),
    ) -> Array:
        """Output for an input, and for innovations where they are given.

        Parameters
        ----------
        u : array_like, shape (T, m), optional
            Input in its own units (the mean is taken off here). A model without inputs takes `None` and `e`.
        x0 : array_like, shape (n,), optional
            State at the first sample; zero when left out. One for each experiment, (E, n), or one for all.
        e : array_like, shape (T, p), optional
            Innovations; with those of a record, the record itself comes back.
        starts : sequence of int
            First rows of the experiments that `u` is made of: `data.starts`.

        Returns
        -------
        y : ndarray, shape (T, p)
        """
        self._require_discrete("simulate")
        noise = None if e is None else np.asarray(e, dtype=float)
        if noise is not None and noise.ndim == 1:
            noise = noise[:, None]
        if u is not None:
            inputs = self._inputs(u) - self.u_mean
        elif noise is not None and self.n_inputs == 0:
            inputs = np.empty((len(noise), 0))
        else:
            remedy = "u is needed." if self.n_inputs else "give innovations e (T, p), or u of shape (T, 0)."
            raise ShapeError(f"simulate: the model has {self.n_inputs} inputs; {remedy}")
        starts = checked_starts(starts, len(inputs), "simulate") if len(starts) > 1 else (0,)
        firsts = self._states(x0, starts)
        if noise is None:
            return self.y_mean + joined([
                self._response(inputs[rows], first)
                for rows, first in zip(spans_of(starts, len(inputs)), firsts)
            ])  # fmt: skip
        if noise.shape != (len(inputs), self.n_outputs):
            raise ShapeError(
                f"simulate: e has shape {noise.shape}; it must be {(len(inputs), self.n_outputs)}."
            )
        driven = StateSpace(
            self.A, np.hstack([self.B, self.K]), self.C, np.hstack([self.D, np.eye(self.n_outputs)]), self.dt
        )
        both = np.hstack([inputs, noise])
        return self.y_mean + joined([
            driven.simulate(both[rows], first) for rows, first in zip(spans_of(starts, len(both)), firsts)
        ])  # fmt: skip

    def predict(self, data: IOData | ArrayLike, horizon: int = 1, x0: ArrayLike | None = None) -> Array:
        r"""Prediction $\hat y_{t|t-h}$ of each output from what was known `horizon` samples before.

        The inputs up to `t` count as known. `horizon=1` is the Kalman one-step prediction.

        Parameters
        ----------
        data : IOData
            Each of several experiments is predicted by itself.
        horizon : int
            At least 1.
        x0 : array_like, shape (n,), optional
            State at the first sample; estimated from the record (`estimate_x0`) when left out. One for each
            experiment, (E, n), or one for all.

        Returns
        -------
        y_hat : ndarray, shape (T, p)
            The first `horizon - 1` rows of each experiment are simulated from `x0`.

        Raises
        ------
        DataError
            If outputs are missing: `kalman_filter` predicts over gaps.
        """
        self._require_discrete("predict")
        if horizon < 1:
            raise RealizationError(f"predict: horizon={horizon} came; it must be at least 1.")
        data = self._record(data, missing=True, experiments=True)
        absent = ~data.observed
        if absent.any():
            raise DataError(
                f"predict: {int(absent.sum())} outputs of this record are missing, the first at row "
                f"{int(np.argwhere(absent)[0, 0])}, and over a gap the gain is not the model's. "
                "`outputs` of kalman_filter(model, data, x0=model.estimate_x0(data), steady=True) are the "
                "one-step predictions of such a record, kalman_smoother fills it."
            )
        firsts = (
            np.atleast_2d(self.estimate_x0(data, focus="prediction"))
            if x0 is None
            else self._states(x0, data.starts)
        )
        u, y = data.inputs - self.u_mean, data.y - self.y_mean
        return self.y_mean + joined([
            self._predicted(u[rows], y[rows], horizon, first) for rows, first in zip(data.spans, firsts)
        ])  # fmt: skip

    def _predicted(self, u: Array, y: Array, horizon: int, start: Array) -> Array:
        """Prediction of one experiment about the operating point."""
        one, length = self.predictor, len(y)
        states, _ = lti_scan(one.A, one.B, np.hstack([u, y]), start)
        # states[t] is x_{t|t-1}; carry x_{t-h+1|t-h} forward h - 1 steps without new outputs.
        for step in range(1, min(horizon, length)):
            moved = states[:-1] @ self.A.T + u[step - 1 : len(u) - 1][: len(states) - 1] @ self.B.T
            states = moved
        head = min(horizon, length) - 1
        if head:
            free, _ = lti_scan(self.A, self.B, u[:head], start)
            states = np.vstack([free, states])
        return states @ self.C.T + u @ self.D.T

    def estimate_x0(self, data: IOData | ArrayLike, *, focus: str = "simulation") -> Array:
        r"""Least-squares state at the first sample, of each experiment.

        $$\min_{x_0} \sum_t \sum_k (y_{kt} - \hat y_{kt}(x_0))^2 / \sigma_k^2,$$

        with $\sigma_k$ the standard deviation of output `k` over the experiment: units do not decide.

        Parameters
        ----------
        data : IOData
            Outputs may be missing where the focus is the simulation.
        focus : {"simulation", "prediction"}
            Whether $\hat y$ is the simulation or the one-step prediction.

        Returns
        -------
        x0 : ndarray, shape (n,)
            Of a record of `E` experiments (E, n).

        Raises
        ------
        UnstableError
            If the response to `x0` grows past what floating point holds over the record.
        """
        self._require_discrete("estimate_x0")
        if focus not in ("simulation", "prediction"):
            raise RealizationError(f"estimate_x0: focus={focus!r} came; 'simulation' or 'prediction'.")
        data = self._record(data, missing=focus == "simulation", experiments=True)
        u, y = data.inputs - self.u_mean, data.y - self.y_mean
        return first_states([self._first_state(u[rows], y[rows], focus) for rows in data.spans])

    def _first_state(self, u: Array, y: Array, focus: str) -> Array:
        """Least-squares first state of one experiment about the operating point."""
        if self.n_states == 0:
            return np.empty(0)
        if focus == "simulation":
            system, drive = self.deterministic, u
        else:
            system, drive = self.predictor, np.hstack([u, y])
        residual = y - system._response(drive, np.zeros(self.n_states))
        response = free_response(system.A, system.C, len(y))
        there = ~np.isnan(y)
        if not (np.isfinite(response).all() and np.isfinite(residual[there]).all()):
            raise UnstableError("estimate_x0: the response overflows over this record; use a shorter one.")
        size = np.array([column[seen].std() if seen.any() else 0.0 for column, seen in zip(y.T, there.T)])
        size[~(size > 0)] = 1.0
        basis, aim = (response / size[:, None]).reshape(-1, self.n_states), (residual / size).reshape(-1)
        if not there.all():
            basis, aim = basis[there.reshape(-1)], aim[there.reshape(-1)]
        return scipy.linalg.lstsq(basis, aim, lapack_driver="gelsy", cond=1e-12)[0]

    def _states(self, x0: ArrayLike | None, starts: Sequence[int]) -> Array:
        """First state of each experiment, (E, n), from one for each or one for all."""
        given = np.zeros(self.n_states) if x0 is None else np.asarray(x0, dtype=float)
        if given.ndim < 2:
            return np.tile(self._state(given), (len(starts), 1))
        if given.shape != (len(starts), self.n_states):
            raise ShapeError(
                f"x0 has shape {given.shape}; for {len(starts)} experiments and {self.n_states} states it "
                f"must be {(len(starts), self.n_states)}, or {(self.n_states,)} for all. To `simulate`, "
                "starts=data.starts says where experiments begin."
            )
        return given

    def _record(
        self, data: IOData | ArrayLike, *, missing: bool = False, experiments: bool = False
    ) -> IOData:
        data = as_data(data, missing=missing, experiments=experiments)
        if data.n_outputs != self.n_outputs or data.n_inputs != self.n_inputs:
            raise ShapeError(
                f"the record has {data.n_inputs} inputs and {data.n_outputs} outputs; the model has "
                f"{self.n_inputs} and {self.n_outputs}."
            )
        return data

    def _transformed(self, basis: tuple[Array, Array]) -> dict[str, Array]:
        return super()._transformed(basis) | {"K": basis[1] @ self.K}
