"""Subspace identification: every weighting and every order from one orthogonal factorization."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ExcitationError, OrderWarning, RankError, StabilityWarning
from realization.identification.factorization import Factorization, Scaling, Weighting, factorize, scale
from realization.identification.noise import kalman_gain
from realization.identification.realization import Realization, reflect_poles, unscaled
from realization.identification.regression import InputPath, input_path
from realization.signals.data import IOData, as_data
from realization.systems.models import InnovationsModel

__all__ = ["SubspaceResult", "cva", "moesp", "n4sid"]

Array = NDArray[np.float64]
Focus = Literal["simulation", "prediction"]


@dataclass(frozen=True, eq=False)
class SubspaceResult:
    """Result of a subspace method.

    Attributes
    ----------
    model : InnovationsModel
        With the record's means as operating point.
    order : int
    singular_values : ndarray
        Of the weighted projection; a gap shows the order.
    canonical_correlations : ndarray
        Of the past and the future given the future inputs, from which the order is chosen.
    block_rows : int
        Block rows of the past and of the future.
    weighting : str
    feedthrough : bool
        Whether `D` was estimated.
    stabilized : bool
        Whether poles were moved into the unit circle.
    x0 : ndarray, shape (n,)
        State at the first sample of the record.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import n4sid
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> result = n4sid(data, order=1, block_rows=4)
    >>> result.block_rows, result.feedthrough, result.stabilized
    (4, False, False)
    """

    model: InnovationsModel
    order: int
    singular_values: Array
    canonical_correlations: Array
    block_rows: int
    weighting: Weighting
    feedthrough: bool
    stabilized: bool
    x0: Array


def n4sid(
    data: IOData | ArrayLike,
    order: int | None = None,
    *,
    block_rows: int | None = None,
    weighting: Weighting = "cva",
    feedthrough: bool | Literal["auto"] = "auto",
    focus: Focus = "simulation",
    offset: bool = True,
    stable: bool = True,
    max_order: int = 20,
) -> SubspaceResult:
    r"""Subspace identification of an innovations model.

    The future outputs, projected along the future inputs onto the past, span the extended observability
    matrix

    $$\Gamma = \begin{bmatrix} C \\ CA \\ \vdots \\ CA^{i-1} \end{bmatrix}, \qquad
    Y_f /_{U_f} W_p = \Gamma X$$

    whose shift structure gives $A$ and $C$. $B$, $D$ and $x_0$ follow by linear least squares on the whole
    record, $K$ from the covariance of the state equations' residuals through the Riccati equation.

    Parameters
    ----------
    data : IOData
        Output-only records are taken too.
    order : int, optional
        States; when left out, the number of canonical correlations of past and future that exceed what
        independent noise shows (1.5 times the edge of the limiting law of their squares).
    block_rows : int, optional
        Block rows `i` of the past and of the future; order at most `(i - 1) p`. Chosen from the record's
        length when left out.
    weighting : {"cva", "n4sid", "moesp"}
        Weighting of the projection before its singular value decomposition.
    feedthrough : bool or "auto"
        Whether `D` is estimated; `"auto"` keeps it where it lowers the Bayesian information criterion.
    focus : {"simulation", "prediction"}
        What `B` and `D` fit best.
    offset : bool
        Estimate the outputs' constant level together with `B` and `D` (a record's mean is not its operating
        point while a transient lasts); `False` takes the mean as it is.
    stable : bool
        Move poles from outside the unit circle to its inside, with a warning. `False` leaves them.
    max_order : int
        Highest order tried when `order` is left out.

    Returns
    -------
    SubspaceResult

    Raises
    ------
    ExcitationError
        If the record is too short for the block rows.
    DataError
        If a column is constant, or an option is out of range.
    RankError
        If `order` is more than the record supports.

    References
    ----------
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996, chapters 4 and 5.
    M. Verhaegen, P. Dewilde, Subspace model identification, Int. J. Control 56 (1992) 1187-1210.
    K. W. Wachter, The limiting empirical measure of multiple discriminant ratios, Ann. Statist. 8 (1980)
    937-957.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import n4sid
    >>> system = rz.StateSpace([[0.8]], [[1.0]], [[0.5]])
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> result = n4sid(rz.IOData(system.simulate(u), u))
    >>> result.order, result.model.poles.real.round(9)
    (1, array([0.8]))
    """
    record = as_data(data)
    _check_options(order, block_rows, weighting, feedthrough, focus, max_order)
    scaled = scale(record, "n4sid")
    rows = _block_rows(record, block_rows, order, max_order)
    factorization = factorize(scaled, rows, "n4sid")
    correlations = factorization.subspace("cva")[1]
    if order is None:
        order = select_order(factorization, correlations, min(max_order, (rows - 1) * record.n_outputs))
    found = realize(
        scaled,
        factorization,
        order,
        weighting=weighting,
        feedthrough=feedthrough,
        focus=focus,
        offset=offset,
        stable=stable,
    )
    return SubspaceResult(
        model=unscaled(scaled, found, record.dt),
        order=order,
        singular_values=factorization.subspace(weighting)[1],
        canonical_correlations=correlations,
        block_rows=rows,
        weighting=weighting,
        feedthrough=found.feedthrough,
        stabilized=found.stabilized,
        x0=found.x0,
    )


def moesp(data: IOData | ArrayLike, order: int | None = None, **options: object) -> SubspaceResult:
    r"""Subspace identification with MOESP's weighting: $\Gamma$ from $Y_f \Pi_{U_f}^{\perp}$ and the past.

    Parameters
    ----------
    data : IOData
    order : int, optional
    **options
        As for `n4sid`.

    Returns
    -------
    SubspaceResult

    References
    ----------
    M. Verhaegen, Identification of the deterministic part of MIMO state space models given in innovations
    form from input-output data, Automatica 30 (1994) 61-74.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import moesp
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> moesp(data, order=1).model.poles.real.round(9)
    array([0.8])
    """
    return n4sid(data, order, weighting="moesp", **options)  # pyright: ignore[reportArgumentType]


def cva(data: IOData | ArrayLike, order: int | None = None, **options: object) -> SubspaceResult:
    r"""Subspace identification by canonical correlations of the past and the future.

    Parameters
    ----------
    data : IOData
    order : int, optional
    **options
        As for `n4sid`.

    Returns
    -------
    SubspaceResult

    References
    ----------
    W. E. Larimore, Canonical variate analysis in identification, filtering, and adaptive control, Proc. 29th
    IEEE Conf. Decision and Control 1990, 596-604.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import cva
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> cva(data).order
    1
    """
    return n4sid(data, order, weighting="cva", **options)  # pyright: ignore[reportArgumentType]


def realize(
    scaled: Scaling,
    factorization: Factorization,
    order: int,
    *,
    weighting: Weighting,
    feedthrough: bool | Literal["auto"],
    focus: Focus,
    offset: bool,
    stable: bool,
) -> Realization:
    """Realization of one order and weighting from a factorization."""
    directions, values = factorization.subspace(weighting)
    available = min(len(values), len(directions) - factorization.n_outputs)
    if order > available:
        raise RankError(
            f"n4sid: order {order} came; block_rows={factorization.block_rows} and this record support at "
            f"most {available}. Take a lower order or more block rows."
        )
    observability = directions[:, :order] * np.sqrt(values[:order])
    A, C = _shift(observability, factorization.n_outputs)
    radius = np.abs(np.linalg.eigvals(A)).max(initial=0.0)
    stabilized = bool(stable and radius >= 1)
    if stabilized:
        warnings.warn(
            f"n4sid: the estimate of order {order} had a pole of modulus {radius:.6g}; it was moved to "
            f"its mirror "
            "image in the unit circle. If the plant is unstable, ask for stable=False.",
            StabilityWarning,
            stacklevel=4,
        )
        A = reflect_poles(A)
    K = kalman_gain(factorization, observability, A, C) if order else np.zeros((0, factorization.n_outputs))
    # The simulation of an unstable or an input-free model says nothing about its outputs.
    predicted = focus == "prediction" or (radius >= 1 and not stable) or factorization.n_inputs == 0
    path, direct = input_matrices(
        A, C, K, scaled, feedthrough=feedthrough, predicted=predicted, offset=offset
    )
    return Realization(A, path.B, C, path.D, K, path.offset, path.x0, direct, stabilized)


def select_order(factorization: Factorization, correlations: Array, highest: int) -> int:
    """Number of canonical correlations above what independent noise of this size shows, up to `highest`."""
    significant = int((correlations**2 > noise_edge(factorization)).sum())
    if significant > highest:
        warnings.warn(
            f"{significant} canonical correlations are significant and the order {highest} is the limit "
            f"of what "
            "was searched; raise max_order or block_rows.",
            OrderWarning,
            stacklevel=3,
        )
    return min(significant, highest)


def noise_edge(factorization: Factorization) -> float:
    r"""Square of a canonical correlation that independent noise stays below.

    $\lambda_+ = (\sqrt{a (1 - b)} + \sqrt{b (1 - a)})^2$ with $a$, $b$ the numbers of future and past
    variables for each sample; half as much again for the spread about the edge and the overlap of the
    windows.
    """
    i, m, p = factorization.block_rows, factorization.n_inputs, factorization.n_outputs
    samples = factorization.columns - i * m
    a, b = min(i * p / samples, 0.5), min(i * (m + p) / samples, 0.5)
    edge = (np.sqrt(a * (1 - b)) + np.sqrt(b * (1 - a))) ** 2
    return float(min(1.5 * edge, (1 + edge) / 2))


def _shift(observability: Array, p: int) -> tuple[Array, Array]:
    if observability.shape[1] == 0:
        return np.zeros((0, 0)), np.zeros((p, 0))
    return scipy.linalg.lstsq(observability[:-p], observability[p:])[0], observability[:p]


def input_matrices(
    A: Array,
    C: Array,
    K: Array,
    scaled: Scaling,
    *,
    feedthrough: bool | Literal["auto"],
    predicted: bool,
    offset: bool,
) -> tuple[InputPath, bool]:
    """`B`, `D`, `x0` and the offset of the outputs, and whether there is a feedthrough.

    `predicted` fits the one-step prediction, which is linear in `B - K D` and `D`; else the simulation.
    """
    u, target, transition = scaled.u, scaled.y, A
    length, p = target.shape
    constant = np.broadcast_to(np.eye(p), (length, p, p)) if offset else None
    if predicted:
        transition = A - K @ C
        target = scaled.y - lti_scan(transition, K, scaled.y)[0] @ C.T
        if offset:
            steps = [lti_scan(transition, K[:, j : j + 1], np.ones((length, 1)))[0] @ C.T for j in range(p)]
            constant = np.eye(p) - np.stack(steps, axis=2)

    def fitted(direct: bool) -> InputPath:
        path = input_path(transition, C, u, target, feedthrough=direct, constant=constant)
        path = path._replace(offset=path.offset if offset else np.zeros(p))
        return path._replace(B=path.B + K @ path.D) if predicted else path

    if u.shape[1] == 0 or feedthrough != "auto":
        direct = bool(feedthrough) and u.shape[1] > 0
        return fitted(direct), direct
    without, with_direct = fitted(False), fitted(True)
    floor = 1e-24 * length  # what exact data leave is rounding, and no evidence
    gain = length * np.log((without.squares + floor) / (with_direct.squares + floor)).sum()
    return (with_direct, True) if gain > u.shape[1] * p * np.log(length) else (without, False)


def _block_rows(record: IOData, asked: int | None, order: int | None, max_order: int) -> int:
    p, channels = record.n_outputs, record.n_inputs + record.n_outputs
    least = 2 if order is None else 2 + (order - 1) // p
    if asked is not None:
        if order is not None and asked < least:
            raise RankError(
                f"n4sid: order {order} with {p} outputs needs block_rows of at least {least}, not {asked}."
            )
        return asked
    wanted = max(15, least + 3)
    # Twice as many columns as rows where the record allows it, as many where it does not.
    generous = record.length // (2 + 4 * channels)
    possible = record.length // (2 + 2 * channels)
    rows = min(wanted, max(generous, min(least, possible)))
    if rows < least:
        raise ExcitationError(
            f"n4sid: {record.length} samples with {record.n_inputs} inputs and {p} outputs came; "
            f"{'an order to be chosen' if order is None else f'order {order}'} needs at least {least} "
            f"block rows, and so {2 * least * (channels + 1)} samples. Take a longer record, fewer "
            "channels or a lower order."
        )
    return rows


def _check_options(
    order: int | None, block_rows: int | None, weighting: str, feedthrough: object, focus: str, max_order: int
) -> None:
    if weighting not in get_args(Weighting):
        raise DataError(
            f"n4sid: weighting={weighting!r} came; one of {', '.join(get_args(Weighting))} is needed."
        )
    if focus not in get_args(Focus):
        raise DataError(f"n4sid: focus={focus!r} came; one of {', '.join(get_args(Focus))} is needed.")
    if feedthrough not in (True, False, "auto"):
        raise DataError(f"n4sid: feedthrough={feedthrough!r} came; True, False or 'auto' is needed.")
    if order is not None and order < 0:
        raise DataError(f"n4sid: order={order} came; it cannot be negative.")
    if block_rows is not None and block_rows < 2:
        raise DataError(f"n4sid: block_rows={block_rows} came; at least 2 are needed for a shift.")
    if max_order < 1:
        raise DataError(f"n4sid: max_order={max_order} came; at least 1 is needed.")
