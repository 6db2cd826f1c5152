"""Dot products of rows that lie in files, a stretch of columns at a time: float64 sums, flat memory, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ihvp.tensors import ITEM_SIZE

if TYPE_CHECKING:
    from ihvp.tensors import TensorHeader

__all__ = ["FlatRows", "RowPart", "dot_products"]

NUMBERS_AT_ONCE: Final = 1 << 20
"""Numbers of both sides that are held at a time: 8 MiB in float64, and as much again on the way there."""


@dataclass(frozen=True)
class RowPart:
    """A tensor ``[k, size]`` that holds some columns of every row.

    Attributes:
        header: Where it lies in the file.
        size: Its columns.
    """

    header: TensorHeader
    size: int


@dataclass(frozen=True)
class FlatRows:
    """Rows ``[k, p]`` as they lie in a file: in one tensor, or in one after another for the columns.

    Attributes:
        open: Opens the file.
        count: The number k of rows.
        parts: What their columns are in, in order.
    """

    open: Callable[[], BinaryIO]
    count: int
    parts: Sequence[RowPart]

    @property
    def width(self) -> int:
        """The number p of columns."""
        return sum(part.size for part in self.parts)

    def columns(self, file: BinaryIO, start: int, stop: int) -> Any:
        """These columns of all rows, as a float64 array."""
        import numpy as np

        found = np.empty((self.count, stop - start))
        first = 0
        for part in self.parts:
            low, high = max(start, first), min(stop, first + part.size)
            if low < high:
                for row in range(self.count):
                    found[row, low - start : high - start] = _read(file, part, row, low - first, high - first)
            first += part.size
        return found


def dot_products(left: FlatRows, right: FlatRows) -> list[list[float | None]]:
    """Each row of one side times each row of the other, ``[k, m]``; None for what is not finite.

    Both have the same width. Sums are in float64, whatever the numbers are stored as.
    """
    import numpy as np

    total = np.zeros((left.count, right.count))
    step = max(1, NUMBERS_AT_ONCE // (left.count + right.count))
    with ExitStack() as stack, np.errstate(all="ignore"):
        a, b = stack.enter_context(left.open()), stack.enter_context(right.open())
        for start in range(0, left.width, step):
            stop = min(start + step, left.width)
            total += left.columns(a, start, stop) @ right.columns(b, start, stop).T
    return [[number if math.isfinite(number) else None for number in row] for row in total.tolist()]


def _read(file: BinaryIO, part: RowPart, row: int, start: int, stop: int) -> Any:
    import numpy as np

    header = part.header
    item = ITEM_SIZE[header.dtype]
    file.seek(header.start + (row * part.size + start) * item)
    data = file.read((stop - start) * item)
    if header.dtype != "bfloat16":
        return np.frombuffer(data, np.dtype(header.dtype).newbyteorder("<"))
    # The upper half of a float32, of which numpy has no name.
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
