"""Prediction-error estimates of state-space models, free or with entries that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import ConvergenceWarning, DataError, ShapeError, UnstableError
from realization.identification.coordinates import LocalCoordinates, Masked
from realization.identification.factorization import Scaling
from realization.identification.noise import one_step_innovations
from realization.identification.realization import Realization, part, unscaled
from realization.identification.refinement import free_entries, normalized
from realization.identification.search import Found, admissible, search
from realization.identification.sensitivities import Blocks, Point
from realization.identification.subspace_start import beginning
from realization.identification.uncertainty import Focus, Uncertainty, entry_covariance, scaled_point
from realization.notes import collected, warn
from realization.signals.data import IOData, as_data
from realization.systems.models import InnovationsModel
from realization.systems.responses import first_states

__all__ = ["PemResult", "pem"]

Array = NDArray[np.float64]
# A record with this many values for each parameter is long enough to be trusted without a guard.
PLENTY = 40
HELD = 0.25
GUARD_BLOCKS = 8


@dataclass(frozen=True, eq=False)
class PemResult:
    """Result of `pem`.

    Attributes
    ----------
    model : InnovationsModel
    uncertainty : Uncertainty
        Covariance of the entries, with bands of the frequency response and of the poles.
    loss : float
        Half the logarithm of the determinant of the errors' covariance, in the outputs' units.
    iterations : int
    converged : bool
    accepted : bool
        Whether the refinement was kept; `False` where it predicted a held-back part worse than its start.
    start : InnovationsModel
        Where the search began.
    x0 : ndarray, shape (n,) or (E, n)
        State at the first sample, or at that of each of `E` experiments.
    focus : str

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal((300, 1))
    >>> fit = rz.pem(rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u), order=1)
    >>> fit.converged, fit.accepted
    (True, True)
    """

    model: InnovationsModel
    uncertainty: Uncertainty
    loss: float
    iterations: int
    converged: bool
    accepted: bool
    start: InnovationsModel
    x0: Array
    focus: Focus


class _Task(NamedTuple):
    """What does not change between the whole record and its parts."""

    coordinates: LocalCoordinates | Masked
    blocks: Blocks
    stable: bool
    iterations: int
    tolerance: float

    def run(self, point: Point, scaled: Scaling) -> Found:
        # First states come last among the entries, and a part of a record has fewer of them.
        coordinates = self.coordinates._replace(free=self.coordinates.free[: point.entries.size])
        return search(
            point,
            coordinates,
            scaled,
            blocks=self.blocks,
            stable=self.stable,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )


def pem(
    data: IOData | ArrayLike,
    model: InnovationsModel | None = None,
    *,
    order: int | None = None,
    focus: Focus = "prediction",
    fixed: Mapping[str, ArrayLike] | None = None,
    feedthrough: bool | Literal["auto"] = "auto",
    offset: bool = True,
    stable: bool = True,
    guard: bool | Literal["auto"] = "auto",
    iterations: int = 60,
    tolerance: float = 1e-3,
) -> PemResult:
    r"""Prediction-error (Gaussian maximum-likelihood) estimate of an innovations model.

    $$\min_\theta\; \log\det \sum_t e_t(\theta)\, e_t(\theta)^\top, \qquad
    \hat x_{t+1} = A \hat x_t + B u_t + K e_t, \quad e_t = y_t - \mu - C \hat x_t - D u_t$$

    by Gauss-Newton steps with a trust region. All matrices move at once, in data-driven local coordinates
    (without the $n^2$ directions that only change the state's coordinates), or entry by entry where `fixed`
    says which are known.

    Parameters
    ----------
    data : IOData
        Output-only records are taken too. Each of several experiments has a first state of its own. Where
        outputs are missing, the likelihood is that of what was measured (by the Kalman filter; a simulation
        counts the samples with all outputs).
    model : InnovationsModel, optional
        Where to begin; a subspace estimate of `order` when left out.
    order : int, optional
        States; chosen by the subspace method when it and `model` are left out.
    focus : {"prediction", "simulation"}
        Whether $e$ is the one-step error, or the error of the simulation (an output-error model, `K = 0`).
    fixed : mapping of str to array_like of bool, optional
        For any of `A, B, C, D, K` a mask of the matrix's shape (or `True` for all of it): entries under
        `True` keep the values that they have in `model`.
    feedthrough : bool or "auto"
        Whether `D` is estimated; `"auto"` takes it from the model that the search begins with.
    offset : bool
        Whether the outputs' operating point is estimated too.
    stable : bool
        Keep the model's poles inside the unit circle. The predictor's always stay there.
    guard : bool or "auto"
        Keep the refinement only if the same refinement on the first three quarters of the record does not
        predict the last quarter worse than its start does; `"auto"` asks this of records with fewer than 40
        values for each parameter.
    iterations : int
        Most steps.
    tolerance : float
        Stop when the minimum is nearer than this many standard deviations per parameter.

    Returns
    -------
    PemResult

    Raises
    ------
    DataError
        If an option is out of range or `fixed` names what is not there.
    ShapeError
        If a mask or the model does not suit.
    UnstableError
        If the search would begin at an unstable predictor.

    Warns
    -----
    ConvergenceWarning
        If the steps ran out.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 7.2, 7.4 and 10.2.
    T. McKelvey, A. Helmersson, T. Ribarits, Data driven local coordinates for multivariable linear systems
    and their application to system identification, Automatica 40 (2004) 1629-1635.

    Examples
    --------
    A tank whose outflow is known, and whose inflow is not:

    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((400, 1))
    >>> y = rz.StateSpace([[0.9]], [[0.3]], [[1.0]]).simulate(u) + 0.1 * rng.standard_normal((400, 1))
    >>> guess = rz.InnovationsModel([[0.9]], [[1.0]], [[1.0]])
    >>> fit = rz.pem(rz.IOData(y, u), guess, focus="simulation", fixed={"A": True, "C": True})
    >>> fit.model.A, fit.model.B.round(2)
    (array([[0.9]]), array([[0.3]]))
    """
    record = as_data(data, missing=True, experiments=True)
    _check(record, model, order, focus, fixed, iterations, tolerance)
    begin = model
    if begin is None:
        begin = beginning(record, order, feedthrough=feedthrough, focus=focus, offset=offset, stable=stable)
    direct = (bool(begin.D.any()) or _frees(fixed, "D")) if feedthrough == "auto" else bool(feedthrough)
    silent = focus == "simulation"
    scaled, point = scaled_point(begin, record, "pem", silent=silent)
    if not admissible(point, stable):
        raise UnstableError(
            "pem: the search would begin at a model whose predictor A - K C is unstable"
            + (" or which is unstable itself; give stable=False for an unstable plant" if stable else "")
            + ". Begin with another model, or another gain."
        )
    free = free_entries(point, path=True, gain=not silent, feedthrough=direct and record.n_inputs > 0)
    free[point.places["offset"]] = offset
    if fixed is None:
        point = normalized(_realization(point), scaled, silent=silent)
        coordinates: LocalCoordinates | Masked = LocalCoordinates(free)
    else:
        coordinates = Masked(free & ~_kept(point, fixed))
    task = _Task(coordinates, Blocks(gain=not silent), stable, iterations, tolerance)
    found = task.run(point, scaled)
    count = coordinates.slope(found.point).shape[1]
    asked = record.observed.sum() < PLENTY * count if guard == "auto" else guard
    accepted = not asked or _held_back(task, scaled, _starts(model, point, record, begin, feedthrough, focus))
    if not found.converged:
        warn(
            f"pem: no minimum was reached in {found.iterations} iterations; the best point is returned. "
            "Allow more iterations, begin elsewhere, or take a lower order.",
            ConvergenceWarning,
            stacklevel=2,
        )
    ended = found.point if accepted else point
    Re = found.Re if accepted else None
    result = unscaled(scaled, _realization(ended), record.dt, Re)
    covariance = entry_covariance(ended, coordinates, scaled, focus, Re)
    loss = 0.5 * float(np.linalg.slogdet(result.Re + 1e-300 * np.eye(len(result.Re)))[1])
    return PemResult(
        result,
        Uncertainty(result, covariance),
        loss,
        found.iterations,
        found.converged,
        accepted,
        begin,
        ended.start,
        focus,
    )


def _starts(
    model: InnovationsModel | None,
    point: Point,
    record: IOData,
    begin: InnovationsModel,
    feedthrough: bool | Literal["auto"],
    focus: Focus,
) -> Callable[[int], Point | None]:
    """Where a search on the first samples begins: unless it was given, at a model of those samples alone."""

    def start(length: int) -> Point | None:
        first = record[:length]
        if model is not None:
            return _of_first_experiments(point, first)
        with collected():
            try:
                early = beginning(first, begin.n_states, feedthrough=feedthrough, focus=focus)
            except (ValueError, np.linalg.LinAlgError):
                return None
        scaled, found = scaled_point(early, record, "pem", silent=focus == "simulation")
        return _of_first_experiments(
            normalized(_realization(found), scaled, silent=focus == "simulation"), first
        )

    return start


def _of_first_experiments(point: Point, first: IOData) -> Point:
    """The point with the first states of the experiments that a beginning of the record holds."""
    return point._replace(start=first_states(list(np.atleast_2d(point.start)[: len(first.starts)])))


def _held_back(task: _Task, scaled: Scaling, start_of: Callable[[int], Point | None]) -> bool:
    """Whether a refinement on the first part predicts the rest no worse than its start."""
    length = len(scaled.y)
    cut = round((1 - HELD) * length)
    start = start_of(cut)
    if start is None or not admissible(start, task.stable):
        return True
    first, rest = part(scaled, 0, cut), part(scaled, cut, length)
    refined = task.run(start, first).point
    shares = []
    for point in (refined, start):
        e, _ = one_step_innovations(*point[:5], rest.u, rest.y - point.offset, rest.starts)
        shares.append([(block**2).sum() for block in np.array_split(e, GUARD_BLOCKS)])
    lost = np.subtract(*shares)
    # Worse, and by more than its own spread over the blocks: chance alone must not refuse a good step.
    return bool(lost.sum() <= np.sqrt(len(lost)) * lost.std())


def _realization(point: Point) -> Realization:
    A, B, C, D, K, offset, start = point
    return Realization(A, B, C, D, K, offset, start, bool(D.any()), False)


def _frees(fixed: Mapping[str, ArrayLike] | None, name: str) -> bool:
    return fixed is not None and name in fixed and not np.all(fixed[name])


def _kept(point: Point, fixed: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
    kept = np.zeros(point.entries.size, dtype=bool)
    for name, mask in fixed.items():
        shape = getattr(point, name).shape
        marks = np.asarray(mask, dtype=bool)
        if marks.ndim and marks.shape != shape:
            raise ShapeError(f"pem: fixed[{name!r}] has shape {marks.shape}; the matrix has {shape}.")
        kept[point.places[name]] = np.broadcast_to(marks, shape).ravel()
    return kept


def _check(
    record: IOData,
    model: InnovationsModel | None,
    order: int | None,
    focus: str,
    fixed: Mapping[str, ArrayLike] | None,
    iterations: int,
    tolerance: float,
) -> None:
    if focus not in ("prediction", "simulation"):
        raise DataError(f"pem: focus={focus!r} came; 'prediction' or 'simulation' is needed.")
    if focus == "simulation" and record.n_inputs == 0:
        raise DataError("pem: a record without inputs has nothing to simulate from; take focus='prediction'.")
    check_whole("pem", order=(order, 0), iterations=(iterations, 0))
    if not tolerance > 0:
        raise DataError(f"pem: tolerance={tolerance} came; a number above 0 is needed.")
    if fixed is not None and model is None:
        raise DataError("pem: fixed entries keep their values in `model`, and none came. Give one.")
    if fixed is not None and (wrong := set(fixed) - set("ABCDK")):
        raise DataError(f"pem: fixed names {sorted(wrong)}; only A, B, C, D, K can be fixed.")
    if model is not None and order is not None and order != model.n_states:
        raise DataError(f"pem: order={order} came with a model of order {model.n_states}; give only one.")
    if model is not None and (model.n_inputs, model.n_outputs) != (record.n_inputs, record.n_outputs):
        raise ShapeError(
            f"pem: the model has {model.n_inputs} inputs and {model.n_outputs} outputs, the record "
            f"{record.n_inputs} and {record.n_outputs}; they must be alike."
        )
