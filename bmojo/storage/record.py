"""The commit record of a stream: how many rows count, and the checksums of their bytes.

Two places take turns, each with a number and a checksum of its own. Whatever is torn by a crash is the place
that was being written; the other one holds what was committed before.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

__all__ = ["BYTES", "Record", "newest", "place"]

MAGIC = b"bmojoST1"
LAYOUT = struct.Struct("<8sQQIIIIII")  # what the checksum behind it covers
SECOND = 4096  # offset of the second place: a page, and so a sector, of its own
BYTES = 2 * SECOND


@dataclass(frozen=True)
class Record:
    """What is committed of a stream.

    Parameters
    ----------
    number : int
        Counts commits; the larger of two valid records is the newer one.
    rows : int
    heads, key_width, value_width : int
    keys_sum, values_sum, positions_sum : int
        CRC-32 of the committed bytes of each file.

    Examples
    --------
    >>> from bmojo.storage.record import Record, newest
    >>> record = Record(number=1, rows=5, heads=2, key_width=4, value_width=4)
    >>> newest(bytes(4096) + record.packed()) == record
    True
    """

    number: int
    rows: int
    heads: int
    key_width: int
    value_width: int
    keys_sum: int = 0
    values_sum: int = 0
    positions_sum: int = 0

    @property
    def row_bytes(self) -> tuple[int, int, int]:
        """Bytes of a row in the files of keys, values and positions."""
        return 2 * self.heads * self.key_width, 2 * self.heads * self.value_width, 8

    @property
    def sums(self) -> tuple[int, int, int]:
        """Checksums of keys, values and positions."""
        return self.keys_sum, self.values_sum, self.positions_sum

    def then(self, rows: int, sums: tuple[int, int, int]) -> Record:
        """The next record, with other rows."""
        keys, values, positions = sums
        return replace(
            self,
            number=self.number + 1,
            rows=rows,
            keys_sum=keys,
            values_sum=values,
            positions_sum=positions,
        )

    def packed(self) -> bytes:
        """As bytes, the checksum behind."""
        content = LAYOUT.pack(
            MAGIC, self.number, self.rows, self.heads, self.key_width, self.value_width, *self.sums
        )
        return content + zlib.crc32(content).to_bytes(4, "little")


def place(number: int) -> int:
    """Offset at which the record of that number is written."""
    return number % 2 * SECOND


def newest(content: bytes) -> Record | None:
    """The newer of the valid records in the file's bytes; `None` if there is none.

    Parameters
    ----------
    content : bytes
    """
    found = [_unpacked(content[offset : offset + LAYOUT.size + 4]) for offset in (0, SECOND)]
    return max((record for record in found if record is not None), key=lambda r: r.number, default=None)


def _unpacked(part: bytes) -> Record | None:
    content, checksum = part[: LAYOUT.size], part[LAYOUT.size :]
    if len(checksum) != 4 or zlib.crc32(content) != int.from_bytes(checksum, "little"):
        return None
    magic, *numbers = LAYOUT.unpack(content)
    record = Record(*numbers)
    widths = (record.heads, record.key_width, record.value_width)
    sane = max(record.number, record.rows) < 1 << 63 and all(0 < width <= 1 << 16 for width in widths)
    return record if magic == MAGIC and sane else None
