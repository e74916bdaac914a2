"""Records with missing outputs, as methods take them that need every sample of a window."""

from __future__ import annotations

from dataclasses import replace

from realization.errors import DataError
from realization.signals.data import IOData
from realization.signals.spans import complete_rows, complete_stretches

__all__ = ["gap_free"]


def gap_free(data: IOData) -> IOData:
    """The stretches of a record in which no output is missing, each as an experiment of its own.

    Windows inside a stretch are those of the record itself: nothing is interpolated. What is left out are
    the samples with a gap, and the knowledge that one stretch follows another; `pem` uses that too.

    Parameters
    ----------
    data : IOData
        A sample counts as missing if any of its outputs is.

    Returns
    -------
    IOData
        `data` itself if nothing is missing.

    Raises
    ------
    DataError
        If no sample is complete.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> record = rz.IOData([1.0, 2.0, np.nan, 4.0, 5.0, 6.0], missing=True)
    >>> rz.gap_free(record).starts, rz.gap_free(record).y[:, 0]
    ((0, 2), array([1., 2., 4., 5., 6.]))
    """
    if not data.missing or data.observed.all():
        return data
    complete = complete_rows(data.y)
    if not complete.any():
        raise DataError(
            f"gap_free: none of the {data.length} samples has all {data.n_outputs} outputs. Take fewer "
            "outputs, or pem with a model to begin with, which needs no complete sample."
        )
    rows, starts = complete_stretches(complete, data.starts)
    u = None if data.u is None else data.u[rows]
    return replace(data, y=data.y[rows], u=u, starts=starts, missing=False)
