"""Subspace identification: every weighting and every order from one orthogonal factorization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError, RankError
from realization.identification.factorization import Weighting, factorize, most_block_rows, scale
from realization.identification.matrices import Focus, realize
from realization.identification.order import select_order
from realization.identification.realization import unscaled
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.systems.models import InnovationsModel

__all__ = ["SubspaceResult", "cva", "moesp", "n4sid", "subspace_model"]

Array = NDArray[np.float64]


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
    x0 : ndarray, shape (n,) or (E, n)
        State at the first sample of the record, or of each of its `E` experiments.

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
        Output-only records are taken too. Several experiments are kept apart; of a record with missing
        outputs the stretches without gaps count as experiments (`gap_free`).
    order : int, optional
        States; when left out, the larger of two counts: canonical correlations of past and future that
        exceed what independent noise shows (1.5 times the edge of the limiting law of their squares), and
        the order that the Bayesian information criterion takes for the next output and for the innovations
        alike.
    block_rows : int, optional
        Block rows `i` of the past and of the future; order at most `(i - 1) p`. Chosen from the record's
        length when left out.
    weighting : {"cva", "n4sid", "moesp", "pi_moesp", "ivm"}
        Weighting of the projection before its singular value decomposition; what `"moesp"` decomposes is also
        that of the robust N4SID algorithm. `"pi_moesp"` has past inputs alone for instruments, `"ivm"` is
        Viberg's instrumental-variable weighting.
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
    M. Viberg, Subspace-based methods for the identification of linear time-invariant systems, Automatica 31
    (1995) 1835-1851.
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
    return subspace_model(
        "n4sid",
        data,
        order,
        block_rows=block_rows,
        weighting=weighting,
        feedthrough=feedthrough,
        focus=focus,
        offset=offset,
        stable=stable,
        max_order=max_order,
    )


def subspace_model(
    caller: str,
    data: IOData | ArrayLike,
    order: int | None,
    *,
    block_rows: int | None = None,
    weighting: Weighting = "cva",
    feedthrough: bool | Literal["auto"] = "auto",
    focus: Focus = "simulation",
    offset: bool = True,
    stable: bool = True,
    max_order: int = 20,
) -> SubspaceResult:
    """What `n4sid` does, in the name of who is asked."""
    record = gap_free(as_data(data, missing=True, experiments=True))
    _check_options(caller, order, block_rows, weighting, feedthrough, focus, max_order)
    scaled = scale(record, caller)
    rows = default_rows(record, block_rows, order, max_order, caller)
    factorization = factorize(scaled, rows, caller)
    correlations = factorization.subspace("cva")[1]
    if order is None:
        order = select_order(factorization, min(max_order, (rows - 1) * record.n_outputs))
    found = realize(
        scaled,
        factorization,
        order,
        weighting=weighting,
        feedthrough=feedthrough,
        focus=focus,
        offset=offset,
        stable=stable,
        caller=caller,
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


def moesp(
    data: IOData | ArrayLike,
    order: int | None = None,
    *,
    instruments: Literal["PO", "PI"] = "PO",
    **options: object,
) -> SubspaceResult:
    r"""Subspace identification with MOESP's weighting: $\Gamma$ from $Y_f \Pi_{U_f}^{\perp}$ and the past.

    `A` and `C` are MOESP's, `B` and `D` fit the simulation to the record, `K` is that of N4SID's state
    equations: the combination that numerical libraries recommend.

    Parameters
    ----------
    data : IOData
    order : int, optional
    instruments : {"PO", "PI"}
        What of the past is taken: inputs and outputs (PO-MOESP), or the inputs alone (PI-MOESP), which needs
        no model of the noise and is the less precise where there is one.
    **options
        As for `n4sid`.

    Returns
    -------
    SubspaceResult

    Raises
    ------
    DataError
        If `instruments` is neither, or `"PI"` came without inputs.

    References
    ----------
    M. Verhaegen, Identification of the deterministic part of MIMO state space models given in innovations
    form from input-output data, Automatica 30 (1994) 61-74. M. Verhaegen, P. Dewilde, Subspace model
    identification, part 2, Int. J. Control 56 (1992) 1211-1241 (past inputs).

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import moesp
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> data = rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u)
    >>> moesp(data, order=1).model.poles.real.round(9)
    array([0.8])
    """
    if instruments not in ("PO", "PI"):
        raise DataError(f"moesp: instruments={instruments!r} came; 'PO' or 'PI' is needed.")
    weighting: Weighting = "moesp" if instruments == "PO" else "pi_moesp"
    return subspace_model("moesp", data, order, weighting=weighting, **options)  # pyright: ignore[reportArgumentType]


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
    return subspace_model("cva", data, order, weighting="cva", **options)  # pyright: ignore[reportArgumentType]


def default_rows(record: IOData, asked: int | None, order: int | None, max_order: int, caller: str) -> int:
    """Block rows as asked for, or as many as suit the record's length and the order."""
    p, channels = record.n_outputs, record.n_inputs + record.n_outputs
    least = 2 if order is None else 2 + (order - 1) // p
    if asked is not None:
        if order is not None and asked < least:
            raise RankError(
                f"{caller}: order {order} with {p} outputs needs block_rows of at least {least}, not {asked}."
            )
        return asked
    wanted = max(15, least + 3)
    # Twice as many columns as rows where the record allows it, as many where it does not.
    lengths = [span.stop - span.start for span in record.spans]
    generous = most_block_rows(lengths, channels, 2, wanted)
    possible = most_block_rows(lengths, channels, 1, wanted)
    rows = min(wanted, max(generous, min(least, possible)))
    if rows < least:
        highest = highest_order(record)
        raise ExcitationError(
            f"{caller}: {record.length} samples"
            + (f" in {len(lengths)} experiments, the longest of {max(lengths)}," if len(lengths) > 1 else "")
            + f" with {record.n_inputs} inputs and {p} outputs came; "
            f"{'an order to be chosen' if order is None else f'order {order}'} needs at least {least} "
            f"block rows, and so {2 * least * channels} windows of {2 * least} samples. The record supports "
            + (f"orders up to {highest}" if highest > 0 else "no order")
            + ". Take a longer record, fewer channels or a lower order."
        )
    return rows


def _check_options(
    caller: str,
    order: int | None,
    block_rows: int | None,
    weighting: str,
    feedthrough: object,
    focus: str,
    max_order: int,
) -> None:
    if weighting not in get_args(Weighting):
        raise DataError(
            f"{caller}: weighting={weighting!r} came; one of {', '.join(get_args(Weighting))} is needed."
        )
    if focus not in get_args(Focus):
        raise DataError(f"{caller}: focus={focus!r} came; one of {', '.join(get_args(Focus))} is needed.")
    if feedthrough not in (True, False, "auto"):
        raise DataError(f"{caller}: feedthrough={feedthrough!r} came; True, False or 'auto' is needed.")
    check_whole(caller, order=(order, 0), block_rows=(block_rows, 2), max_order=(max_order, 1))


def highest_order(record: IOData) -> int:
    """Highest order that a subspace method can take from a record: `p (i - 1)` with the most block rows."""
    lengths = [span.stop - span.start for span in record.spans]
    rows = most_block_rows(lengths, record.n_inputs + record.n_outputs)
    return max(0, record.n_outputs * (rows - 1))
