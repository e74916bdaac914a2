"""Models of every order from one factorization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError
from realization.identification.factor_inputs import realize_from_factor
from realization.identification.factorization import Weighting, factorize, scale
from realization.identification.subspace import default_rows
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.systems.models import InnovationsModel

__all__ = ["SubspaceOrders", "subspace_orders"]


@dataclass(frozen=True, eq=False)
class SubspaceOrders:
    """Result of `subspace_orders`.

    Attributes
    ----------
    models : dict of int to InnovationsModel
        One for each order.
    singular_values : ndarray
        Of the weighted projection.
    canonical_correlations : ndarray
        Of the past and the future given the future inputs.
    block_rows : int
    weighting : str

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import subspace_orders
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal(500)
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((500, 1))
    >>> subspace_orders(rz.IOData(y, u), [1, 2]).canonical_correlations[:2].round(1)
    array([1. , 0.3])
    """

    models: dict[int, InnovationsModel]
    singular_values: NDArray[np.float64]
    canonical_correlations: NDArray[np.float64]
    block_rows: int
    weighting: Weighting


def subspace_orders(
    data: IOData | ArrayLike,
    orders: Sequence[int] = range(1, 21),
    *,
    block_rows: int | None = None,
    weighting: Weighting = "cva",
    feedthrough: bool = True,
    stable: bool = True,
) -> SubspaceOrders:
    r"""Subspace models of many orders from one factorization of the record.

    The record is read once, for its triangular factor; $A$, $C$, $B$, $D$, $K$ and $R_e$ of every order
    follow from the factor, at a cost that does not depend on the record's length. `n4sid` fits $B$ and $D$
    to the record itself, which is a little more precise for one order.

    Parameters
    ----------
    data : IOData
        Output-only records are taken too. Several experiments are kept apart; of a record with missing
        outputs the stretches without gaps count as experiments (`gap_free`).
    orders : sequence of int
    block_rows : int, optional
        Block rows of the past and of the future; chosen from the record's length when left out.
    weighting : {"cva", "n4sid", "moesp", "pi_moesp", "ivm"}
    feedthrough : bool
        Whether `D` is estimated.
    stable : bool
        Move poles from outside the unit circle to its inside, with a warning; `False` leaves them.

    Returns
    -------
    SubspaceOrders

    Raises
    ------
    ExcitationError
        If the record is too short for the block rows.
    DataError
        If a column is constant, or an option is out of range.
    RankError
        If an order is more than the record supports.

    Warns
    -----
    StabilityWarning
        If poles were moved.

    References
    ----------
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996, section 4.4.2.
    V. Sima, D. M. Sima, S. Van Huffel, High-performance numerical algorithms and software for
    subspace-based linear multivariable system identification, J. Comput. Appl. Math. 170 (2004) 371-397.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.identification import subspace_orders
    >>> u = np.random.default_rng(0).standard_normal(500)
    >>> system = rz.StateSpace(np.diag([0.8, -0.5]), np.ones((2, 1)), np.ones((1, 2)))
    >>> models = subspace_orders(rz.IOData(system.simulate(u), u), range(1, 3)).models
    >>> models[2].poles.real.round(6)
    array([ 0.8, -0.5])
    """
    record = gap_free(as_data(data, missing=True, experiments=True))
    wanted = list(orders)
    if not wanted:
        raise DataError("subspace_orders: orders is empty; at least one is needed.")
    for order in wanted:
        check_whole("subspace_orders", order=(order, 0))
    if weighting not in get_args(Weighting):
        raise DataError(
            f"subspace_orders: weighting={weighting!r} came; one of "
            f"{', '.join(get_args(Weighting))} is needed."
        )
    scaled = scale(record, "subspace_orders")
    rows = default_rows(record, block_rows, max(wanted), max(wanted), "subspace_orders")
    factorization = factorize(scaled, rows, "subspace_orders")
    y, u = scaled.y_scale, scaled.u_scale
    models = {}
    for order in wanted:
        found, Re = realize_from_factor(
            factorization, order, weighting=weighting, feedthrough=feedthrough, stable=stable, riccati=False
        )
        models[order] = InnovationsModel(
            found.A,
            found.B / u,
            found.C * y[:, None],
            found.D * y[:, None] / u,
            record.dt,
            K=found.K / y,
            Re=(Re + Re.T) / 2 * y[:, None] * y,
            u_mean=scaled.u_mean,
            y_mean=scaled.y_mean,
        )
    values, correlations = factorization.subspace(weighting)[1], factorization.subspace("cva")[1]
    return SubspaceOrders(models, values, correlations, rows, weighting)
