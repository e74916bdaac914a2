r"""What the explorer shows of a signal, computed apart from the page that shows it.

The state is an identified one that is made to forget: with the time constant $\tau$, in steps,

$$x_{t+1} = \rho\,(A x_t + B u_t + K e_t), \qquad \rho = e^{-1/\tau},$$

so that every pole $\lambda$ becomes $\rho\lambda$; $\tau = \infty$ is the state as it was identified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import bmojo_kernels as bk
import numpy as np
from numpy.typing import NDArray

import realization as rz
from realization.errors import DataError
from realization.filtering.selection import Rule

__all__ = ["RULES", "TIME_CONSTANTS", "FadingState", "Remembered", "SignalMemory", "study_memory"]

Array = NDArray[np.float64]
RULES: tuple[Rule, ...] = ("top", "threshold", "norm", "fifo", "random")
TIME_CONSTANTS = (2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 100.0, 200.0, np.inf)
ALPHA = 0.01
LARGEST_ORDER = 8


@dataclass(frozen=True, eq=False)
class FadingState:
    r"""The state with one time constant, and all that follows from it.

    Parameters
    ----------
    time_constant : float
        $\tau$ in steps; infinite where nothing was added to what the state forgets by itself.
    model : InnovationsModel
        With $\rho A, \rho B, \rho K$, and the covariance of its own innovations.
    found : Innovations
        Of the record, from the state zero.
    predicted : ndarray, shape (T, p)
        One step ahead.
    hsv : ndarray, shape (n,)
        Hankel singular values of the map from past white innovations to future outputs.
    memory : MemoryCurve
        What the state holds of past innovations.
    """

    time_constant: float
    model: rz.InnovationsModel
    found: rz.Innovations
    predicted: Array
    hsv: Array
    memory: rz.MemoryCurve

    @property
    def effective_order(self) -> float:
        r"""$\exp(-\sum_i p_i \log p_i)$ with $p_i = \sigma_i / \sum_j \sigma_j$: between 1 and n."""
        share = self.hsv[self.hsv > 0] / self.hsv.sum()
        return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


@dataclass(frozen=True, eq=False)
class Remembered:
    """What is left of a record when it has ended.

    Parameters
    ----------
    index : ndarray of int, shape (k,)
        Samples that are held: in the window or in the eidetic set.
    reconstruction : Reconstruction
        The record rebuilt from them and from the first and the last state.
    share : float
        Of the normalized squared innovations, what was forgotten, in percent.
    fit : float
        Percent of the outputs' spread, mean over outputs.
    """

    index: NDArray[np.int64]
    reconstruction: rz.Reconstruction
    share: float
    fit: float


@dataclass(frozen=True, eq=False)
class SignalMemory:
    """A record with its states, one for each time constant.

    Parameters
    ----------
    name : str
    record : IOData
        What is shown.
    first : float
        Time of its first sample.
    step : float
        Between samples.
    unit : str
        What the time axis is called.
    learned : int
        Samples at the start of what is shown that the model was made from.
    states : tuple of FadingState
        Ascending time constants.
    """

    name: str
    record: rz.IOData
    first: float
    step: float
    unit: str
    learned: int
    states: tuple[FadingState, ...]

    def priority(self, state: FadingState, rule: Rule) -> Array:
        """What a rule ranks the samples by, shape (T,): the largest are kept, ties to the older.

        Parameters
        ----------
        state : FadingState
        rule : str
        """
        scores = state.found.normalized_squared
        if rule == "norm":
            scores = np.square(self.record.y - state.model.y_mean).sum(axis=1)
        return bk.selection_priority(scores[None], rule=rule, threshold=state.found.threshold(ALPHA))[0]

    def remembered(
        self, state: FadingState, *, rule: Rule = "top", budget: int = 16, window: int = 8
    ) -> Remembered:
        """What window, set and state hold of the record after its last sample.

        Parameters
        ----------
        state : FadingState
            One of `states`.
        rule : {"top", "threshold", "norm", "fifo", "random"}
            Which samples keep a place.
        budget : int
            Places of the set.
        window : int
            Samples in context, that of the next step included: the last `window - 1` of the record.
        """
        model, T, p = state.model, self.record.length, self.record.n_outputs
        chosen = rz.select_innovations(
            model, self.record, budget=budget, rule=rule, alpha=ALPHA, x0=np.zeros(model.n_states)
        )
        left = min(window, T + 1) - 1
        scores = self.priority(state, rule)
        ranked = bk.innovation_topk(
            np.append(scores, -np.inf)[None], budget=budget, window=left + 1, chunk=1, rule="oracle"
        )[0, -1]
        kept = np.zeros(T, dtype=bool)
        kept[ranked[ranked >= 0]] = True
        kept[T - left :] = True
        held = replace(chosen, kept=kept, index=np.flatnonzero(kept))
        rebuilt = rz.reconstruct(model, self.record, held)
        total = state.found.normalized_squared.sum()
        fit = float(np.mean(rebuilt.fit)) if p else np.nan
        return Remembered(held.index, rebuilt, float(100 * rebuilt.error / total), fit)


def study_memory(
    data: rz.IOData,
    *,
    name: str = "signal",
    split: float = 0.5,
    order: int | None = None,
    samples: int = 1000,
    first: float = 0.0,
    unit: str = "",
    lags: int = 100,
) -> SignalMemory:
    """Identify a record on its first part, and make its state forget at each of a row of time constants.

    Parameters
    ----------
    data : IOData
        One experiment without gaps.
    name : str
        As the page calls it.
    split : float
        Share of the record that the model is made from.
    order : int, optional
        Number of states; found where left out, and at most 8, which can still be looked at.
    samples : int
        How many are shown: the last ones of a longer record.
    first : float
        Time of the record's first sample.
    unit : str
        What the time axis is called; "sample", or "time, s" where the record names a step.
    lags : int
        Of the memory curves.

    Returns
    -------
    SignalMemory

    Raises
    ------
    DataError
        If an output is constant, or the record is too short to be divided.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from bmojo.explore import study_memory
    >>> walk = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    >>> y = walk.simulate(e=np.random.default_rng(0).standard_normal(200))
    >>> study = study_memory(rz.IOData(y), order=1)
    >>> left = study.remembered(study.states[-1], budget=10, window=5)
    >>> len(study.states), len(left.index)
    (11, 14)
    """
    if samples < 20:
        raise DataError(f"study_memory: samples={samples} came; a picture needs at least 20.")
    train, _ = data.split(split)
    found = rz.identify(train, order=order)
    if order is None and found.order > LARGEST_ORDER:
        found = rz.identify(train, order=LARGEST_ORDER)
    skipped = max(0, data.length - samples)
    record = data[skipped:] if skipped else data
    step = 1.0 if data.dt is None else data.dt
    states = tuple(_forgetful(found.model, record, tau, lags) for tau in TIME_CONSTANTS)
    return SignalMemory(
        name,
        record,
        first + step * skipped,
        step,
        unit or ("sample" if data.dt is None else "time, s"),
        max(0, train.length - skipped),
        states,
    )


def _forgetful(model: rz.InnovationsModel, record: rz.IOData, tau: float, lags: int) -> FadingState:
    rho = float(np.exp(-1.0 / tau))
    faded = rz.InnovationsModel(
        rho * model.A, rho * model.B, model.C, model.D, model.dt,
        rho * model.K, model.Re, model.u_mean, model.y_mean,
    )  # fmt: skip
    start = np.zeros(model.n_states)
    if np.isfinite(tau):
        e = rz.innovations(faded, record, x0=start).e
        faded = rz.InnovationsModel(
            faded.A, faded.B, faded.C, faded.D, faded.dt,
            faded.K, e.T @ e / len(e), faded.u_mean, faded.y_mean,
        )  # fmt: skip
    found = rz.innovations(faded, record, x0=start)
    root = np.linalg.cholesky(faded.Re)
    news = rz.StateSpace(faded.A, faded.K @ root, faded.C, dt=faded.dt)
    return FadingState(
        tau,
        faded,
        found,
        record.y - found.e,
        rz.hankel_singular_values(news),
        rz.memory_curve(news, lags),
    )
