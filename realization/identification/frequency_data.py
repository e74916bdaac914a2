"""Frequency responses, spectra and records as samples on the unit circle, in units of their own size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, ExcitationError, ShapeError
from realization.identification.frequency_factor import Samples
from realization.signals.data import IOData, as_data

__all__ = ["FrequencyRecord", "Means", "from_record", "from_response", "from_spectra"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]


class Means(NamedTuple):
    """Means of each experiment, which the samples leave out: `u` (E, m), `y` (E, p), `lengths` (E,)."""

    u: Array
    y: Array
    lengths: Array

    def operating_point(
        self, A: Array, B: Array, C: Array, D: Array, transients: Array
    ) -> tuple[Array, Array]:
        r"""Level of the inputs, and that of the outputs without what transients add to their means.

        At $z = 1$, $T \bar y_k = T (\mu + G(1) (\bar u_k - \bar u)) + C (I - A)^{-1} (x_0 - x_T)$.
        """
        share = self.lengths / self.lengths.sum()
        u = share @ self.u
        away = (self.u - u).T
        driven = B @ away + transients / np.sqrt(self.lengths)
        state = scipy.linalg.lstsq(np.eye(len(A)) - A, driven, cond=1e-10)[0]
        return u, share @ (self.y - (C @ state + D @ away).T)


class FrequencyRecord(NamedTuple):
    r"""Samples in units of their own size, those units, and what leads back to the data's time and levels.

    Attributes
    ----------
    samples : Samples
    y_scale : ndarray, shape (p,)
    u_scale : ndarray, shape (m,)
    dt : float or None
    rate : float
        Of the bilinear map in continuous time.
    means : Means or None
        Of a record.
    """

    samples: Samples
    y_scale: Array
    u_scale: Array
    dt: float | None
    rate: float = 1.0
    means: Means | None = None


def from_response(
    omega: ArrayLike,
    response: ArrayLike,
    dt: float | None,
    weights: ArrayLike | None,
    noise: ArrayLike | None,
) -> FrequencyRecord:
    """A frequency response, each entry in units of its row's and column's size."""
    G = np.asarray(response, dtype=complex)
    G = G[:, None, None] if G.ndim == 1 else G
    points, axis = _points(omega, dt)
    if G.ndim != 3 or len(G) != len(points) or 0 in G.shape:
        raise ShapeError(
            f"frequency_subspace: omega {points.shape} and a response {np.shape(response)} came; (F,) and "
            "(F, p, m) are needed, or (F, p) with inputs (F, m)."
        )
    _finite(G, "the response")
    y_scale = _sizes(np.abs(G).transpose(1, 0, 2))
    u_scale = 1 / _sizes((np.abs(G) / y_scale[:, None]).transpose(2, 0, 1))
    Y = np.asarray(G / y_scale[:, None] * u_scale, dtype=complex)
    U = np.broadcast_to(np.eye(G.shape[2], dtype=complex), (len(points), G.shape[2], G.shape[2]))
    samples = _weighted(axis, U, Y, weights, noise, y_scale, unit=True)
    return FrequencyRecord(samples, y_scale, u_scale, dt, axis.rate)


def from_spectra(
    omega: ArrayLike,
    outputs: ArrayLike,
    inputs: ArrayLike,
    dt: float | None,
    weights: ArrayLike | None,
    noise: ArrayLike | None,
) -> FrequencyRecord:
    """Spectra of inputs and outputs, each channel in units of its size."""
    Y, U = (np.asarray(values, dtype=complex) for values in (outputs, inputs))
    Y, U = (values[:, None] if values.ndim == 1 else values for values in (Y, U))
    points, axis = _points(omega, dt)
    if any(values.ndim != 2 or len(values) != len(points) or 0 in values.shape for values in (Y, U)):
        raise ShapeError(
            f"frequency_subspace: omega {points.shape}, output spectra {np.shape(outputs)} and inputs "
            f"{np.shape(inputs)} came; (F,), (F, p) and (F, m) are needed."
        )
    _finite(Y, "the output spectra")
    _finite(U, "the input spectra")
    if not U.any(axis=0).all():
        raise ExcitationError("frequency_subspace: an input's spectrum is zero at every point. Leave it out.")
    y_scale, u_scale = _sizes(np.abs(Y).T), _sizes(np.abs(U).T)
    u, y = (np.asarray(x[:, :, None], dtype=complex) for x in (U / u_scale, Y / y_scale))
    samples = _weighted(axis, u, y, weights, noise, y_scale, unit=False)
    return FrequencyRecord(samples, y_scale, u_scale, dt, axis.rate)


def from_record(data: IOData) -> FrequencyRecord:
    """Fourier transforms of a record's experiments, the level left out."""
    record = as_data(data, experiments=True)
    if not record.n_inputs:
        raise DataError(
            "frequency_subspace: the record has no inputs; take n4sid or stochastic_realization for a time "
            "series."
        )
    parts = record.experiments
    if min(part.length for part in parts) < 4:
        raise ExcitationError("frequency_subspace: an experiment has fewer than 4 samples.")
    spectra = [_transform(part) for part in parts]
    U, Y, z = (np.concatenate([spectrum[k] for spectrum in spectra]) for k in range(3))
    y_scale, u_scale = _sizes(np.abs(Y).T), _sizes(np.abs(U).T)
    for names, values, whole in (
        (record.input_names, np.abs(U).max(axis=0), record.inputs),
        (record.output_names, np.abs(Y).max(axis=0), record.y),
    ):
        still = values <= 1e-12 * np.abs(whole).max(axis=0)
        if still.any():
            raise DataError(
                f"frequency_subspace: {names[int(np.argmax(still))]!r} is constant, so nothing can be "
                "learned about it. Leave it out, or take a record in which it moves."
            )
    experiment = np.repeat(np.arange(len(parts)), [len(spectrum[2]) for spectrum in spectra])
    scaled = (U / u_scale)[:, :, None], (Y / y_scale)[:, :, None]
    samples = Samples(z, z, 0.0, *scaled, np.ones(len(z)), None, experiment, False)
    means = Means(
        np.array([part.inputs.mean(axis=0) for part in parts]),
        np.array([part.y.mean(axis=0) for part in parts]),
        np.array([float(part.length) for part in parts]),
    )
    return FrequencyRecord(samples, y_scale, u_scale, record.dt, means=means)


def _transform(part: IOData) -> tuple[Complex, Complex, Complex]:
    """Spectra of inputs and outputs, and their points, without frequency 0."""
    count = part.length
    U, Y = (
        np.fft.rfft(values - values.mean(axis=0), axis=0)[1:] / np.sqrt(count)
        for values in (part.inputs, part.y)
    )
    return U, Y, np.exp(2j * np.pi * np.arange(1, len(U) + 1) / count)


class _Axis(NamedTuple):
    """Points of the frequency axis, and how they are spread over a circle; see `Samples`."""

    z: Complex
    w: Complex
    a: float | None
    rate: float


def _points(omega: ArrayLike, dt: float | None) -> tuple[Array, _Axis]:
    """Frequencies, and their points."""
    points = as_real(omega, "omega")
    if points.ndim != 1 or len(points) < 1:
        raise ShapeError(f"frequency_subspace: omega has shape {points.shape}; (F,) is needed.")
    _finite(points, "omega")
    if dt is not None and not (np.isfinite(dt) and dt >= 0):
        raise DataError(
            f"frequency_subspace: dt={dt} came; it must be positive, 0.0 (continuous time) or None."
        )
    step = 1.0 if dt is None else dt
    highest = np.inf if dt == 0 else np.pi / step * (1 + 1e-12)
    if points.min() < 0 or points.max() > highest:
        raise DataError(
            f"frequency_subspace: frequencies must lie between 0 and {highest:.6g} rad/s; they run from "
            f"{points.min():.6g} to {points.max():.6g}."
        )
    if dt == 0:
        rate = _middle(points)
        return points, _Axis(
            np.asarray(1j * points / rate, np.complex128), _on_circle(points, rate), None, rate
        )
    # As the bilinear map makes it of the circle: z = (1 + i x) / (1 - i x), x = tan(omega dt / 2).
    axis = np.tan(np.minimum(points * step, np.pi) / 2)
    rate = _middle(axis)
    return points, _Axis(_on_circle(axis, 1.0), _on_circle(axis, rate), (1 - rate) / (1 + rate), 1.0)


def _middle(axis: Array) -> float:
    """Rate of the bilinear map that puts most points as far from one of its ends as from the other."""
    inner = axis[(axis > 0) & (axis < 1e12)]
    return float(np.sqrt(np.prod(np.quantile(inner, [0.1, 0.9])))) if inner.size else 1.0


def _on_circle(axis: Array, rate: float) -> Complex:
    r"""$(\gamma + i x) / (\gamma - i x)$, exact at both ends."""
    return np.where(axis > 1e12 * rate, -1.0, np.exp(2j * np.arctan2(axis, rate)))


def _weighted(
    axis: _Axis,
    U: Complex,
    Y: Complex,
    weights: ArrayLike | None,
    noise: ArrayLike | None,
    y_scale: Array,
    *,
    unit: bool,
) -> Samples:
    count, p = Y.shape[:2]
    if weights is not None and noise is not None:
        raise DataError(
            "frequency_subspace: weights and noise came; noise sets the weights, give one of them."
        )
    if noise is None:
        w = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
        if w.shape != (count,):
            raise ShapeError(f"frequency_subspace: weights have shape {w.shape}; ({count},) is needed.")
        if not np.isfinite(w).all() or w.min() < 0 or not w.any():
            raise DataError("frequency_subspace: weights must be finite and not negative, and not all zero.")
        used = w > 0
        w = w[used] / w[used].mean()
        return Samples(axis.z[used], axis.w[used], axis.a, U[used], Y[used], w, None, None, unit)
    R = np.asarray(noise)
    if R.shape == (count,):
        R = R[:, None, None] * np.eye(p)
    if R.shape != (count, p, p):
        raise ShapeError(f"frequency_subspace: noise has shape {R.shape}; ({count},) or ({count}, {p}, {p}).")
    _finite(R, "noise")
    R = (R + R.conj().transpose(0, 2, 1)) / 2 / y_scale / y_scale[:, None]
    if np.linalg.eigvalsh(R).min() <= 0:
        raise DataError("frequency_subspace: noise must be positive definite at every point.")
    size = np.trace(R, axis1=1, axis2=2).real / p
    mean = 1 / (1 / size).mean()
    return Samples(axis.z, axis.w, axis.a, U, Y, mean / size, R / mean, None, unit)


def _sizes(values: Array) -> Array:
    """Root mean square along all but the first axis; one where there is nothing."""
    flat = values.reshape(len(values), -1)
    largest = flat.max(axis=1)
    largest[largest == 0] = 1.0
    size = largest * np.sqrt(((flat / largest[:, None]) ** 2).mean(axis=1))
    size[size == 0] = 1.0
    return size


def _finite(values: NDArray[np.generic], name: str) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"frequency_subspace: {name} has entries that are NaN or infinite.")
