"""Dates as text files have them: ISO, day first with points, day or month first with slashes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError

__all__ = ["KNOWN_DATES", "read_dates"]

KNOWN_DATES = "dates are read as 2025-03-01 00:10, 01.03.2025 00:10 or 13/03/2025 00:10"

_NUMBERED = re.compile(
    r"(\d{1,2})([./])(\d{1,2})\2(\d{4})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
)


def read_dates(cells: Sequence[str]) -> NDArray[np.datetime64]:
    """Dates of a column's cells; an empty one is no time.

    Parameters
    ----------
    cells : sequence of str
        ISO 8601, or `day.month.year`, or with slashes, where some number above 12 tells day from month.

    Returns
    -------
    ndarray of datetime64[ns]

    Raises
    ------
    ValueError
        If they are not dates.
    DataError
        If with slashes nothing tells day from month.

    Examples
    --------
    >>> from realization.signals.dates import read_dates
    >>> read_dates(["28.02.2025 23:50", "01.03.2025 00:00"])[1] - read_dates(["28.02.2025 23:50"])[0]
    np.timedelta64(600000000000,'ns')
    """
    found = [_NUMBERED.fullmatch(cell.strip()) for cell in cells]
    first = next((match for match in found if match), None)
    if first is None:
        return np.array(cells, dtype="datetime64[ns]")
    for cell, match in zip(cells, found):
        if cell.strip() and (match is None or match[2] != first[2]):
            raise ValueError(f"{cell!r} is not a date like {first[0]!r}")
    matches = [match for match in found if match]
    days, months = (max(int(match[k]) for match in matches) for k in (1, 3))
    month_first = first[2] == "/" and months > 12
    if first[2] == "/" and max(days, months) <= 12:
        raise DataError(
            f"nothing tells day from month in dates like {first[0]!r}: write them as 2025-03-01, or give dt."
        )
    return np.array([_iso(match, month_first) for match in found], dtype="datetime64[ns]")


def _iso(match: re.Match[str] | None, month_first: bool) -> str:
    if match is None:
        return ""
    day, _, month, year, hour, minute, second, fraction = match.groups()
    if month_first:
        day, month = month, day
    clock = f"{int(hour or 0):02d}:{minute or '00'}:{second or '00'}"
    return f"{year}-{int(month):02d}-{int(day):02d}T{clock}" + (f".{fraction}" if fraction else "")
