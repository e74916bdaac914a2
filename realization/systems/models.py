r"""State-space models: `StateSpace` and, with a noise model, `InnovationsModel`.

Both are frozen: a change makes a new model. Matrices are read-only float64 arrays.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, RankError, RealizationError, ShapeError, UnstableError
from realization.signals.data import IOData, as_data
from realization.systems.responses import free_response

__all__ = ["InnovationsModel", "StateSpace"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class StateSpace:
    r"""Linear time-invariant state-space model.

    $$x_{t+1} = A x_t + B u_t, \qquad y_t = C x_t + D u_t$$

    Parameters
    ----------
    A : array_like, shape (n, n)
    B : array_like, shape (n, m)
    C : array_like, shape (p, n)
    D : array_like, shape (p, m), optional
        Zero when left out.
    dt : float, optional
        Seconds between samples; `0.0` is continuous time ($\dot x = A x + B u$); `None` a unit step.

    Raises
    ------
    ShapeError
        If the matrices do not fit together.
    DataError
        If an entry is not finite.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, section 2.2.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(A=[[0.5]], B=[[1.0]], C=[[2.0]])
    >>> model.impulse_response(4)[:, 0, 0]
    array([0. , 2. , 1. , 0.5])
    >>> model.simulate(np.ones(3))[:, 0]
    array([0., 2., 3.])
    """

    A: Array
    B: Array
    C: Array
    D: Array
    dt: float | None

    def __init__(
        self,
        A: ArrayLike,
        B: ArrayLike,
        C: ArrayLike,
        D: ArrayLike | None = None,
        dt: float | None = None,
    ) -> None:
        A, B, C = _matrix(A, "A"), _matrix(B, "B"), _matrix(C, "C")
        D = np.zeros((len(C), B.shape[1])) if D is None else _matrix(D, "D")
        n = len(A)
        fits = {
            "A": (A.shape, (n, n)),
            "B": (B.shape, (n, B.shape[1])),
            "C": (C.shape, (len(C), n)),
            "D": (D.shape, (len(C), B.shape[1])),
        }
        for name, (came, needed) in fits.items():
            if came != needed:
                raise ShapeError(f"{type(self).__name__}: {name} has shape {came}; here it must be {needed}.")
        if dt is not None and not (np.isfinite(dt) and dt >= 0):
            raise DataError(f"dt={dt} came; it must be positive, 0.0 (continuous time) or None.")
        self._freeze(A=A, B=B, C=C, D=D)
        object.__setattr__(self, "dt", dt)

    def _freeze(self, **arrays: Array) -> None:
        for name, array in arrays.items():
            array = np.array(array, dtype=float, order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def n_states(self) -> int:
        """Order `n` of the realization."""
        return len(self.A)

    @property
    def n_inputs(self) -> int:
        """Number of inputs `m`."""
        return self.B.shape[1]

    @property
    def n_outputs(self) -> int:
        """Number of outputs `p`."""
        return len(self.C)

    @property
    def poles(self) -> NDArray[np.complex128]:
        """Eigenvalues of `A`, shape (n,), largest modulus first."""
        poles: NDArray[np.complex128] = np.linalg.eigvals(self.A).astype(complex)
        return poles[np.lexsort((poles.imag, -np.abs(poles)))]

    @property
    def is_stable(self) -> bool:
        """Whether every pole lies inside the unit circle (the left half-plane in continuous time)."""
        if self.n_states == 0:
            return True
        poles = self.poles
        return bool(np.all(poles.real < 0) if self.dt == 0 else np.all(np.abs(poles) < 1))

    def simulate(self, u: ArrayLike, x0: ArrayLike | None = None) -> Array:
        """Output for an input, from a state.

        Parameters
        ----------
        u : array_like, shape (T, m) or (T,)
        x0 : array_like, shape (n,), optional
            State at the first sample; zero when left out.

        Returns
        -------
        y : ndarray, shape (T, p)

        Examples
        --------
        >>> import realization as rz
        >>> model = rz.StateSpace([[0.5]], [[1.0]], [[1.0]], [[1.0]])
        >>> model.simulate([1.0, 0.0, 0.0])[:, 0]
        array([1. , 1. , 0.5])
        """
        self._require_discrete("simulate")
        return self._response(self._inputs(u), self._state(x0))

    def impulse_response(self, count: int) -> Array:
        r"""Markov parameters $h_0 = D,\ h_k = C A^{k-1} B$.

        Parameters
        ----------
        count : int
            How many, `h[0]` included.

        Returns
        -------
        h : ndarray, shape (count, p, m)
        """
        self._require_discrete("impulse_response")
        h = np.empty((count, self.n_outputs, self.n_inputs))
        reach = self.B
        for k in range(count):
            h[k] = self.D if k == 0 else self.C @ reach
            if k > 0:
                reach = self.A @ reach
        return h

    def frequency_response(self, omega: ArrayLike) -> NDArray[np.complex128]:
        r"""Transfer function $C (z I - A)^{-1} B + D$ on the unit circle.

        Parameters
        ----------
        omega : array_like, shape (N,)
            Angular frequencies in rad/s ($z = e^{i \omega\, dt}$, with `dt = 1` where it is `None`);
            in continuous time $z = i \omega$.

        Returns
        -------
        G : ndarray, shape (N, p, m)
        """
        omega = np.atleast_1d(np.asarray(omega, dtype=float))
        step = 1.0 if self.dt is None else self.dt
        z = 1j * omega if self.dt == 0 else np.exp(1j * omega * step)
        resolvent = z[:, None, None] * np.eye(self.n_states) - self.A
        return self.C @ np.linalg.solve(resolvent, np.broadcast_to(self.B, (len(z), *self.B.shape))) + self.D

    def similarity_transform(self, T: ArrayLike) -> Self:
        r"""The same system in the state $\bar x = T^{-1} x$: $T^{-1} A T,\ T^{-1} B,\ C T,\ D$.

        Parameters
        ----------
        T : array_like, shape (n, n)
            Invertible.

        Raises
        ------
        RankError
            If `T` is singular to working precision.
        """
        return replace(self, **self._transformed(self._basis(T)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`: JSON or NPZ by the file's ending, no pickle, exact to the last bit."""
        from realization.systems.storage import save_model

        save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that `save` wrote; a file of another kind of model is refused."""
        from realization.systems.storage import load_model

        model = load_model(path)
        if not isinstance(model, cls):
            raise DataError(f"{path} holds a {type(model).__name__}, not a {cls.__name__}.")
        return model

    def __repr__(self) -> str:
        time = "continuous time" if self.dt == 0 else "dt=None" if self.dt is None else f"dt={self.dt:g} s"
        return (
            f"{type(self).__name__}(order {self.n_states}, {self.n_inputs} in, {self.n_outputs} out, {time}, "
            f"{'stable' if self.is_stable else 'unstable'})"
        )

    def _basis(self, T: ArrayLike) -> tuple[Array, Array]:
        T = _matrix(T, "T")
        if T.shape != (self.n_states, self.n_states):
            raise ShapeError(f"similarity_transform: T has shape {T.shape}; it must be {self.A.shape}.")
        if self.n_states and np.linalg.cond(T) > 1 / np.finfo(float).eps:
            raise RankError("similarity_transform: T is singular to working precision.")
        return T, np.linalg.inv(T).astype(float)

    def _transformed(self, basis: tuple[Array, Array]) -> dict[str, Array]:
        T, T_inverse = basis
        return {"A": T_inverse @ self.A @ T, "B": T_inverse @ self.B, "C": self.C @ T}

    def _require_discrete(self, name: str) -> None:
        if self.dt == 0:
            raise RealizationError(f"{name}: the model is in continuous time; discretize it first.")

    def _response(self, u: Array, x0: Array) -> Array:
        states, _ = lti_scan(self.A, self.B, u, x0)
        return states @ self.C.T + u @ self.D.T

    def _inputs(self, u: ArrayLike) -> Array:
        u = np.asarray(u, dtype=float)
        if u.ndim == 1 and self.n_inputs == 1:
            u = u[:, None]
        if u.ndim != 2 or u.shape[1] != self.n_inputs:
            raise ShapeError(
                f"u has shape {u.shape}; a model with {self.n_inputs} inputs needs (T, {self.n_inputs})."
            )
        return u

    def _state(self, x0: ArrayLike | None) -> Array:
        x0 = np.zeros(self.n_states) if x0 is None else np.asarray(x0, dtype=float)
        if x0.shape != (self.n_states,):
            raise ShapeError(f"x0 has shape {x0.shape}; it must be ({self.n_states},).")
        return x0


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
        K = np.zeros((n, p)) if K is None else _matrix(K, "K")
        Re = np.eye(p) if Re is None else _matrix(Re, "Re")
        u_mean = np.zeros(m) if u_mean is None else np.atleast_1d(np.asarray(u_mean, dtype=float))
        y_mean = np.zeros(p) if y_mean is None else np.atleast_1d(np.asarray(y_mean, dtype=float))
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
        self, u: ArrayLike | None = None, x0: ArrayLike | None = None, *, e: ArrayLike | None = None
    ) -> Array:
        """Output for an input, and for innovations where they are given.

        Parameters
        ----------
        u : array_like, shape (T, m), optional
            Input in its own units (the mean is taken off here). A model without inputs takes `None` and `e`.
        x0 : array_like, shape (n,), optional
            State at the first sample; zero when left out.
        e : array_like, shape (T, p), optional
            Innovations; with those of a record, the record itself comes back.

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
        if noise is None:
            return self.y_mean + self._response(inputs, self._state(x0))
        if noise.shape != (len(inputs), self.n_outputs):
            raise ShapeError(
                f"simulate: e has shape {noise.shape}; it must be {(len(inputs), self.n_outputs)}."
            )
        driven = StateSpace(
            self.A, np.hstack([self.B, self.K]), self.C, np.hstack([self.D, np.eye(self.n_outputs)]), self.dt
        )
        return self.y_mean + driven.simulate(np.hstack([inputs, noise]), x0)

    def predict(self, data: IOData | ArrayLike, horizon: int = 1, x0: ArrayLike | None = None) -> Array:
        r"""Prediction $\hat y_{t|t-h}$ of each output from what was known `horizon` samples before.

        The inputs up to `t` count as known. `horizon=1` is the Kalman one-step prediction.

        Parameters
        ----------
        data : IOData
        horizon : int
            At least 1.
        x0 : array_like, shape (n,), optional
            State at the first sample; estimated from the record (`estimate_x0`) when left out.

        Returns
        -------
        y_hat : ndarray, shape (T, p)
            The first `horizon - 1` rows are simulated from `x0`.
        """
        self._require_discrete("predict")
        if horizon < 1:
            raise RealizationError(f"predict: horizon={horizon} came; it must be at least 1.")
        data = self._record(data)
        start = self.estimate_x0(data, focus="prediction") if x0 is None else self._state(x0)
        u, y = data.inputs - self.u_mean, data.y - self.y_mean
        one = self.predictor
        states, _ = lti_scan(one.A, one.B, np.hstack([u, y]), start)
        # states[t] is x_{t|t-1}; carry x_{t-h+1|t-h} forward h - 1 steps without new outputs.
        for step in range(1, min(horizon, data.length)):
            moved = states[:-1] @ self.A.T + u[step - 1 : len(u) - 1][: len(states) - 1] @ self.B.T
            states = moved
        head = min(horizon, data.length) - 1
        if head:
            free, _ = lti_scan(self.A, self.B, u[:head], start)
            states = np.vstack([free, states])
        return self.y_mean + states @ self.C.T + u @ self.D.T

    def estimate_x0(self, data: IOData | ArrayLike, *, focus: str = "simulation") -> Array:
        r"""Least-squares state at the first sample.

        $$\min_{x_0} \sum_t \| y_t - \hat y_t(x_0) \|^2$$

        Parameters
        ----------
        data : IOData
        focus : {"simulation", "prediction"}
            Whether $\hat y$ is the simulation or the one-step prediction.

        Returns
        -------
        x0 : ndarray, shape (n,)

        Raises
        ------
        UnstableError
            If the response to `x0` grows past what floating point holds over the record.
        """
        self._require_discrete("estimate_x0")
        data = self._record(data)
        u, y = data.inputs - self.u_mean, data.y - self.y_mean
        if focus == "simulation":
            system, drive = self.deterministic, u
        elif focus == "prediction":
            system, drive = self.predictor, np.hstack([u, y])
        else:
            raise RealizationError(f"estimate_x0: focus={focus!r} came; 'simulation' or 'prediction'.")
        if self.n_states == 0:
            return np.empty(0)
        residual = y - system._response(drive, np.zeros(self.n_states))
        response = free_response(system.A, system.C, data.length)
        if not (np.isfinite(response).all() and np.isfinite(residual).all()):
            raise UnstableError("estimate_x0: the response overflows over this record; use a shorter one.")
        basis = response.reshape(-1, self.n_states)
        return scipy.linalg.lstsq(basis, residual.reshape(-1), lapack_driver="gelsy", cond=1e-12)[0]

    def _record(self, data: IOData | ArrayLike) -> IOData:
        data = as_data(data)
        if data.n_outputs != self.n_outputs or data.n_inputs != self.n_inputs:
            raise ShapeError(
                f"the record has {data.n_inputs} inputs and {data.n_outputs} outputs; the model has "
                f"{self.n_inputs} and {self.n_outputs}."
            )
        return data

    def _transformed(self, basis: tuple[Array, Array]) -> dict[str, Array]:
        return super()._transformed(basis) | {"K": basis[1] @ self.K}


def _matrix(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2:
        raise ShapeError(f"{name} has shape {array.shape}; a matrix is needed.")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has entries that are NaN or infinite.")
    return array
