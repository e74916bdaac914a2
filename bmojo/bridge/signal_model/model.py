"""Nonlinear identification: a linear model, a correction in its loop, a B'MOJO memory, and a floor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bmojo.bridge.signal_model.files import read_members, written_members
from bmojo.bridge.signal_model.memory import Member, train_memory
from bmojo.bridge.signal_model.parts import (
    check,
    default_memory,
    holds_of,
    identified,
    linear_simulation,
    rows_of,
    scales_of,
    selected,
)
from bmojo.bridge.signal_model.static import Spans, held_out_fit, without
from bmojo.config import BMojoConfig
from bmojo.models.files import WEIGHTS, model_file, read_config, write_model
from bmojo.state import BMojoState
from realization.errors import DataError, RealizationWarning, ShapeError
from realization.notes import warn
from realization.progress import Progress
from realization.signals import IOData
from realization.systems import InnovationsModel

__all__ = ["FloorWarning", "SignalModel", "SignalState"]

Array = NDArray[np.float64]
MEMORY_WINDOW = 256
MARGIN = 2.0  # points of fit that held-out parts flatter what they have chosen


class FloorWarning(RealizationWarning):
    """On held-out samples the correction was no better: the linear model is returned."""


@dataclass(frozen=True, eq=False)
class SignalState:
    """What a `SignalModel` carries from one sample to the next.

    Parameters
    ----------
    plain, corrected : ndarray, shape (k, n)
        States of the members' loops, without and with their memories. Of the linear model alone (1, n).
    memories : tuple
        State of each member's layer; `None` where it has none.
    """

    plain: Array
    corrected: Array
    memories: tuple[BMojoState | None, ...] = ()


class SignalModel:
    r"""A nonlinear simulator: a linear model, corrected by what its state and its past call for.

    Each of its members is

    $$x_{t+1} = A x_t + B u_t + E h_t + w_t, \quad y_t = \operatorname{clip}(C x_t + D u_t + F h_t + v_t),
    \quad h_t = \tanh(W [x_t; u_t] + b)$$

    where a B'MOJO layer gives $[w_t, v_t] = R \tanh(z_t + \mathrm{BMojo}(z)_t)$ from tokens
    $z_t = P [u_t, \bar x_t, \bar y_t]$, with $\bar x, \bar y$ the simulation without it: nothing measured
    goes in but `u` and a first state. `A` is stable and the correction is bounded, so that every member is
    stable for all inputs. Outputs that stay at an extreme in the record are taken as saturated there. The
    model's output is the members' median. Made by `fit` or `load`.

    Parameters
    ----------
    linear : realization.InnovationsModel
        The floor.
    members : sequence of Member
        None of them: the model is `linear`, exactly.
    scales : tuple of ndarray, shapes (m,), (m,), (p,), (p,)
        Mean and standard deviation of the inputs and of the outputs.
    floor, fit_percent : float
        On what was held out: simulation fit of the linear model and of the corrected one, in percent.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from bmojo import SignalModel
    >>> rng = np.random.default_rng(0)
    >>> u = np.repeat(rng.uniform(0, 1, 30), 16)[:, None]
    >>> y = np.zeros((480, 1))
    >>> for t in range(479):  # a tank: what flows out grows as the root of the level, and it overflows
    ...     y[t + 1] = np.clip(y[t] + 0.4 * u[t] - 0.2 * np.sqrt(y[t]), 0, 1.5)
    >>> data = rz.IOData(y, u)
    >>> linear = rz.n4sid(data, order=2).model
    >>> model = SignalModel.fit(data, linear=linear, candidates=2, keep=1, memory=None)
    >>> model.corrected, model.fit_percent > model.floor + 10
    (True, True)
    """

    def __init__(
        self,
        linear: InnovationsModel,
        members: Sequence[Member],
        scales: tuple[Array, Array, Array, Array],
        *,
        floor: float,
        fit_percent: float,
    ) -> None:
        self.linear, self.members, self.scales = linear, tuple(members), scales
        self.floor, self.fit_percent = floor, fit_percent

    @classmethod
    def fit(
        cls,
        train: IOData,
        validation: IOData | None = None,
        *,
        linear: InnovationsModel | None = None,
        order: int = 2,
        hidden: int = 6,
        folds: int = 8,
        candidates: int = 24,
        keep: int = 2,
        memory: BMojoConfig | Literal["default"] | None = "default",
        memory_steps: int = 100,
        ridge: float = 0.1,
        seed: int = 0,
        progress: bool | None = None,
    ) -> SignalModel:
        """Identify a nonlinear simulator from a record.

        The record is cut into `folds` parts. For each of them `candidates` corrections are trained on the
        other parts by simulation error (Levenberg-Marquardt), each stopped where the part held out is
        followed best, the linear model being the first to be tried; the `keep` best of them go on, and a
        memory is trained for each (Adam), stopped in the same way, with none as the first to be tried. All
        together, each part simulated by the members that did not train on it, are then held against
        `realization.identify` without that part. Unless they are better by 2 points of fit (the parts have
        chosen them, so that a little is luck), the model is `realization.identify(train)`, exactly, and a
        warning says so.

        Parameters
        ----------
        train : IOData
            Inputs and outputs, nothing missing.
        validation : IOData, optional
            One experiment. Where given, it decides between the corrected and the linear model instead of the
            parts held out, without the 2 points.
        linear : realization.InnovationsModel, optional
            The floor, judged as it is. When left out, `realization.identify`, which costs a call for each
            part.
        order : int
            States of the corrected model.
        hidden : int
            Units of the static correction; 0 leaves the memory alone.
        folds : int
            At least 2.
        candidates, keep : int
            For each fold; candidates start from different random units.
        memory : BMojoConfig or None
            The layer; a small one when left out, none for `None`.
        memory_steps : int
        ridge : float
            Weight of the squared parameters of the correction beside the squared error.
        seed : int
            The same seed gives the same model.
        progress : bool, optional
            Whether a bar is shown; when left out, on a terminal.

        Returns
        -------
        model : SignalModel

        Raises
        ------
        DataError
            If outputs are missing or there is no input.
        ShapeError
            If a part would have less than 25 samples, or `validation` has other columns.
        """
        check(train, validation, folds, candidates, keep, linear)
        scales = scales_of(train)
        u, y = (train.inputs - scales[0]) / scales[1], (train.y - scales[2]) / scales[3]
        whole = [(rows.start, rows.stop) for rows in train.spans]
        holds, found = holds_of(whole, folds), []
        config = default_memory() if memory == "default" else memory
        options: dict[str, Any] = {"order": order, "hidden": hidden, "ridge": ridge, "keep": keep}
        with Progress("signal model", shown=progress) as bar:
            bar.expect(len(holds) * (candidates + keep) + 1)
            for fold, hold in enumerate(holds):
                part = u, y, without(whole, hold), hold
                kept = selected(*part, [(seed, fold, k) for k in range(candidates)], bar, **options)
                for k, member in enumerate(kept):
                    if config is not None and memory_steps:
                        number = (seed * len(holds) + fold) * keep + k
                        member = train_memory(
                            member, *part[:3], config, seed=number, steps=memory_steps, window=MEMORY_WINDOW
                        )
                    found.append(member)
                    bar.advance()
            floor_model = identified(train) if linear is None else linear
            model = cls(floor_model, found, scales, floor=np.nan, fit_percent=np.nan)
            bar.advance()
            if validation is None:
                floor, reached = model._judged_apart(train, whole, holds, bar, given=linear is not None)
            else:
                floor, reached = model._judged_on(validation)
        model.floor, model.fit_percent = floor, reached
        margin = 0.0 if validation is not None else MARGIN
        if reached > floor + margin:
            return model
        warn(
            f"SignalModel.fit: on held-out samples the correction follows the output to {reached:.1f} %, the "
            f"linear model to {floor:.1f} %; the linear model is returned. More data that excite the "
            "nonlinearity, or another `order` or `hidden`, may help.",
            FloorWarning,
            stacklevel=2,
        )
        return cls(model.linear, (), scales, floor=floor, fit_percent=floor)

    def _judged_on(self, data: IOData) -> tuple[float, float]:
        """Fit on a record of the linear model, and of this one."""
        guess = self.simulate(data.inputs, x0=self.estimate_x0(data))
        floor = held_out_fit(data.y, linear_simulation(self.linear, data))
        return floor, held_out_fit(data.y, guess)

    def _judged_apart(
        self, train: IOData, whole: Spans, holds: Spans, bar: Progress, *, given: bool
    ) -> tuple[float, float]:
        """The same over all parts, each followed by models that have not seen it."""
        bar.expect(len(holds))
        aims, floors, guesses = [], [], []
        for hold in holds:
            held = rows_of(train, [hold])
            rival = self.linear if given else identified(rows_of(train, without(whole, hold)))
            own = [member for member in self.members if member.hold == hold]
            part = SignalModel(self.linear, own, self.scales, floor=np.nan, fit_percent=np.nan)
            guesses.append(part.simulate(held.inputs, x0=part.estimate_x0(held)))
            floors.append(linear_simulation(rival, held))
            aims.append(held.y)
            bar.advance()
        y = np.concatenate(aims)
        return held_out_fit(y, np.concatenate(floors)), held_out_fit(y, np.concatenate(guesses))

    @property
    def corrected(self) -> bool:
        """Whether there is a correction; else the model is `linear`, exactly."""
        return bool(self.members)

    def estimate_x0(self, data: IOData, *, stretch: int | None = None) -> Array:
        """Least-squares first states of the members on a record.

        Parameters
        ----------
        data : IOData
            One experiment.
        stretch : int, optional
            Samples at the beginning that are looked at; all of them when left out.

        Returns
        -------
        x0 : ndarray, shape (k, n)
            Of the linear model alone (n,).
        """
        data = data if stretch is None else data[:stretch]
        self._check_columns(data)
        if not self.members:
            return np.asarray(self.linear.estimate_x0(data))
        u, y = self._scaled(data.inputs), (data.y - self.scales[2]) / self.scales[3]
        return np.stack([member.first_state(u, y) for member in self.members])

    def simulate(self, u: ArrayLike, *, x0: ArrayLike | None = None) -> Array:
        """Outputs (T, p) for inputs.

        Parameters
        ----------
        u : array_like, shape (T, m)
        x0 : array_like, shape (k, n), optional
            From `estimate_x0`; the operating point's when left out.
        """
        if not self.members:
            return np.asarray(self.linear.simulate(u, x0))
        inputs, first = self._scaled(u), self._first(x0)
        found = [member.simulate(inputs, x) for member, x in zip(self.members, first, strict=True)]
        return self.scales[2] + self.scales[3] * np.median(found, axis=0)

    def init_state(self, x0: ArrayLike | None = None) -> SignalState:
        """The state before the first sample, for first states `x0` of shape (k, n) from `estimate_x0`."""
        if not self.members:
            x = np.zeros(self.linear.n_states) if x0 is None else np.asarray(x0, dtype=float)
            return SignalState(x[None], x[None])
        first = self._first(x0)
        memories = (m.memory for m in self.members)
        return SignalState(
            first, first, tuple(None if m is None else m.layer.init_state(1) for m in memories)
        )

    def step(self, u_t: ArrayLike, state: SignalState) -> tuple[Array, SignalState]:
        """Output (p,) for one input (m,), and the state after it."""
        if not self.members:
            x, v = state.plain[0], np.asarray(u_t, dtype=float).reshape(-1) - self.linear.u_mean
            after = (self.linear.A @ x + self.linear.B @ v)[None]
            return self.linear.y_mean + self.linear.C @ x + self.linear.D @ v, SignalState(after, after)
        u, outputs, plain, corrected, memories = self._scaled(np.reshape(u_t, (1, -1))), [], [], [], []
        for i, member in enumerate(self.members):
            y, x = member.loop.simulate(u, state.plain[i])
            drives, memory = None, state.memories[i]
            if member.memory is not None and memory is not None:
                token = torch.from_numpy(np.concatenate([u, x[:1], y], axis=1))
                with torch.no_grad():
                    w, v, memory = member.memory.step(token, memory)
                drives = w.numpy(), v.numpy()
            found, moved = member.loop.simulate(u, state.corrected[i], drives)
            outputs.append(found[0])
            plain.append(x[1])
            corrected.append(moved[1])
            memories.append(memory)
        y = self.scales[2] + self.scales[3] * np.median(outputs, axis=0)
        return y, SignalState(np.stack(plain), np.stack(corrected), tuple(memories))

    def without_memory(self) -> SignalModel:
        """The model with its members' memories taken out, to see what they add."""
        bare = [Member(m.loop, None, m.hold, m.fits) for m in self.members]
        return SignalModel(self.linear, bare, self.scales, floor=self.floor, fit_percent=self.fit_percent)

    def report(self) -> str:
        """What was compared on held-out samples, and what came of it."""
        if not self.members:
            return (
                f"Linear model of order {self.linear.n_states}, {self.floor:.1f} % on held-out samples; the "
                "correction was no better and is zero."
            )
        fits = np.array([member.fits for member in self.members])
        with_memory = sum(member.memory is not None for member in self.members)
        order = len(self.members[0].loop.A)
        return "\n".join(
            [
                f"{len(self.members)} members of order {order}, {with_memory} with a B'MOJO memory",
                "Simulation fit on held-out samples, %",
                f"  {'linear model':<40}{self.floor:>6.1f}",
                f"  {'this model':<40}{self.fit_percent:>6.1f}",
                f"  {f'a member, linear (order {order})':<40}{fits[:, 0].mean():>6.1f}",
                f"  {'a member, with the static correction':<40}{fits[:, 1].mean():>6.1f}",
                f"  {'a member, with the memory':<40}{fits[:, 2].mean():>6.1f}",
            ]
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model into a folder: `config.json` and `model.safetensors`, never a pickle."""
        about = {"kind": "SignalModel", "floor": self.floor, "fit_percent": self.fit_percent}
        config, tensors = written_members(self.linear, self.members, self.scales)
        write_model(folder, about | config, tensors)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> SignalModel:
        """Read a model that `save` wrote.

        Parameters
        ----------
        folder : path

        Raises
        ------
        FileNotFoundError
            If the folder holds no model.
        DataError
            If it holds another kind of model, or its files are damaged.
        """
        config: dict[str, Any] = read_config(folder)
        if config.get("kind") != "SignalModel":
            raise DataError(
                f"SignalModel.load: {os.fspath(folder)} holds {config.get('kind', 'another kind of model')}; "
                "`SignalModel.save` writes what is read here."
            )
        linear, members, scales = read_members(config, model_file(folder, WEIGHTS))
        floor, fit_percent = config.get("floor"), config.get("fit_percent")
        if not (isinstance(floor, float | int) and isinstance(fit_percent, float | int)):
            raise DataError(f"SignalModel.load: {os.fspath(folder)} does not say how well it fits.")
        return cls(linear, members, scales, floor=floor, fit_percent=fit_percent)

    def __repr__(self) -> str:
        what = f"{len(self.members)} members" if self.members else "linear"
        return f"SignalModel({what}, {self.linear.n_inputs} in, {self.linear.n_outputs} out)"

    def _scaled(self, u: ArrayLike) -> Array:
        values = np.asarray(u, dtype=float)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != len(self.scales[0]):
            raise ShapeError(
                f"SignalModel: inputs of shape {values.shape} came; (T, {len(self.scales[0])}) is needed."
            )
        if not np.isfinite(values).all():
            raise DataError("SignalModel: inputs are NaN or infinite; they must be known everywhere.")
        return (values - self.scales[0]) / self.scales[1]

    def _first(self, x0: ArrayLike | None) -> Array:
        needed = (len(self.members), len(self.members[0].loop.A))
        first = np.zeros(needed) if x0 is None else np.array(x0, dtype=float)
        if first.shape != needed:
            raise ShapeError(
                f"SignalModel: x0 has shape {first.shape}; {needed} is needed, as `estimate_x0` gives it."
            )
        return first

    def _check_columns(self, data: IOData) -> None:
        if (data.n_inputs, data.n_outputs) != (self.linear.n_inputs, self.linear.n_outputs):
            raise ShapeError(
                f"SignalModel: a record with {data.n_inputs} inputs and {data.n_outputs} outputs came; the "
                f"model has {self.linear.n_inputs} and {self.linear.n_outputs}."
            )
        if len(data.spans) > 1 or not data.observed.all():
            raise DataError("SignalModel: first states are estimated on one experiment, nothing missing.")
