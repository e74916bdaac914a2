"""`StateSpace`: a linear time-invariant model, frozen, with read-only float64 matrices."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, RankError, RealizationError, ShapeError

__all__ = ["StateSpace", "as_matrix"]

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
        A, B, C = as_matrix(A, "A"), as_matrix(B, "B"), as_matrix(C, "C")
        D = np.zeros((len(C), B.shape[1])) if D is None else as_matrix(D, "D")
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
        T = as_matrix(T, "T")
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
        x0 = np.zeros(self.n_states) if x0 is None else as_real(x0, "x0")
        if x0.shape != (self.n_states,):
            raise ShapeError(f"x0 has shape {x0.shape}; it must be ({self.n_states},).")
        if not np.isfinite(x0).all():
            raise DataError("x0 has entries that are NaN or infinite.")
        return x0


def as_matrix(values: ArrayLike, name: str) -> Array:
    """A finite matrix of floats, or an error that names it."""
    array = as_real(values, name)
    if array.ndim != 2:
        raise ShapeError(f"{name} has shape {array.shape}; a matrix is needed.")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has entries that are NaN or infinite.")
    return array
