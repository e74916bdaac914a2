"""Arguments of every function: counts that are whole numbers, arrays that are real."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError

__all__ = ["as_real", "check_whole"]


def as_real(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """An array of floats; an imaginary part is refused, not dropped.

    Parameters
    ----------
    values : array_like, shape (...)
    name : str
        Named in the message.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    DataError
        If they are complex, or no numbers.

    Examples
    --------
    >>> from realization.arguments import as_real
    >>> as_real([1, 2], "y")
    array([1., 2.])
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind != "c":
            return np.asarray(array, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{name} is not an array of numbers.") from None
    raise DataError(f"{name} is complex; real numbers are needed (take its real part, or its modulus).")


def check_whole(caller: str, **options: tuple[object, int]) -> None:
    """Refuse a count that is no whole number or too small; `None` passes.

    Parameters
    ----------
    caller : str
        Named in the message.
    **options : pair of object and int
        Value that came under that name, and the least one that will do.

    Raises
    ------
    DataError
        If one is no whole number, or below its least value.

    Examples
    --------
    >>> import realization as rz
    >>> from realization.arguments import check_whole
    >>> try:
    ...     check_whole("n4sid", order=(2.5, 0))
    ... except rz.DataError as error:
    ...     print(error)
    n4sid: order=2.5 came; a whole number, at least 0, is needed.
    """
    for name, (value, least) in options.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):  # pyright: ignore[reportOperatorIssue]
            raise DataError(f"{caller}: {name}={value!r} came; a whole number, at least {least}, is needed.")
