"""From a measured signal to its realization, to its innovations, to a layer with the same output."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import realization as rz
from bmojo.bridge import lift
from realization.errors import DataError
from realization.report import autoregression, persistence

__all__ = ["Clock", "SignalStudy", "measured_records", "study"]

Array = NDArray[np.float64]


class Clock(NamedTuple):
    """Reading of time: the first sample's, the step, and what to call it."""

    start: float
    step: float
    label: str


@dataclass(frozen=True, eq=False)
class SignalStudy:
    """What was found out about one record.

    Parameters
    ----------
    name : str
    clock : Clock
        Of the held half.
    train, held : IOData
        The half that the model was made from, and the half that was held back.
    fit : Identification
    predicted : ndarray, shape (T, p)
        One-step prediction of the held half.
    simulated : ndarray, shape (T, p), or None
        From the inputs alone; `None` for a time series.
    fits : dict of str to float
        Percent of the held half, mean over outputs, by method.
    white : WhitenessTest
        Of the held half's innovations.
    selection : Selection
        The innovations that were kept.
    innovations : Innovations
        Of the held half.
    curve, random : ReconstructionCurve
        What state and kept innovations rebuild, by budget: by surprise, and by chance (mean of draws).
    lift_error : float
        Largest difference between the lifted layer and the model, over the largest output.
    """

    name: str
    clock: Clock
    train: rz.IOData
    held: rz.IOData
    fit: rz.Identification
    predicted: Array
    simulated: Array | None
    fits: dict[str, float]
    white: rz.WhitenessTest
    innovations: rz.Innovations
    selection: rz.Selection
    curve: rz.ReconstructionCurve
    random: rz.ReconstructionCurve
    lift_error: float

    @property
    def time(self) -> Array:
        """Time of each held sample, shape (T,)."""
        return np.asarray(self.clock.start + self.clock.step * np.arange(self.held.length), dtype=np.float64)


def measured_records() -> dict[str, tuple[rz.IOData, Clock]]:
    """The yearly sunspot numbers, and the hair dryer where its data are at hand (nothing is downloaded)."""
    records = {"Sunspots": (rz.load_series("sunspots"), Clock(1700.0, 1.0, "year"))}
    if os.environ.get("REALIZATION_DATA"):
        try:
            dryer = rz.load_data("dryer")
        except DataError as error:
            print(f"  the hair dryer is left out: {error}")
        else:
            records["Hair dryer"] = (dryer, Clock(0.0, dryer.dt or 1.0, "time, s"))
    return records


def study(name: str, record: rz.IOData, clock: Clock, *, keep: int = 16, draws: int = 20) -> SignalStudy:
    """Identify on the first half; judge, select and lift on the second.

    Parameters
    ----------
    name : str
        As the report calls it.
    record : IOData
        Its first half is learned from, its second half judged.
    clock : Clock
        Of the whole record.
    keep : int
        Innovations kept in the picture.
    draws : int
        Random selections that the random curve is the mean of.
    """
    train, held = record.split(0.5)
    fit = rz.identify(train)
    model = fit.model
    predicted = model.predict(held)
    simulated = None if held.u is None else model.simulate(held.u, x0=model.estimate_x0(held))
    rules = {
        "realization, one step ahead": predicted,
        "autoregression": autoregression(train, held),
        "the value before": persistence(train, held),
    }
    if simulated is not None:
        rules["realization, from the input alone"] = simulated
    fits = {rule: float(rz.fit_percent(held.y, y_hat).mean()) for rule, y_hat in rules.items()}
    found = rz.innovations(model, held)
    budgets = [0, *np.unique(np.geomspace(1, held.length, 16).astype(int)).tolist()]
    curves = [rz.reconstruction_curve(model, held, budgets, rule="random", seed=i) for i in range(draws)]
    random = rz.ReconstructionCurve(
        curves[0].budget,
        np.mean([curve.fit for curve in curves], axis=0),
        np.mean([curve.error for curve in curves], axis=0),
        curves[0].floats,
    )
    return SignalStudy(
        name,
        clock._replace(start=clock.start + clock.step * train.length),
        train,
        held,
        fit,
        predicted,
        simulated,
        fits,
        rz.whiteness_test(found.e, u=held.u),
        found,
        rz.select_innovations(model, held, budget=keep),
        rz.reconstruction_curve(model, held, budgets),
        random,
        lift_error(model, held),
    )


def lift_error(model: rz.InnovationsModel, held: rz.IOData) -> float:
    """Largest difference between the lifted layer and the model's simulation, over the largest output.

    A model without inputs is simulated from its innovations, which gives the record back.
    """
    role = "simulator" if model.n_inputs else "generator"
    layer = lift(model, role=role)
    x0 = model.estimate_x0(held)
    e = None if model.n_inputs else rz.innovations(model, held, x0=x0).e
    expected = model.simulate(held.u, x0, e=e)
    drive = torch.from_numpy(np.array(held.u if e is None else e)).unsqueeze(0)
    with torch.no_grad():
        output, _ = layer(drive, layer.init_state(1, x0))
    return float(np.abs(output[0].numpy() - expected).max() / np.abs(expected).max())
