"""Which rows of a data set are used: the numbers against what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ihvp.errors import EmptyData, InvalidIndex

if TYPE_CHECKING:
    from app.stored_tensors import StoredTensor

__all__ = ["check_index"]


def check_index(index: StoredTensor | list[int], rows: int) -> int:
    """Checks an index and returns how many points it makes.

    Args:
        index: Row numbers, as they were sent or in a file.
        rows: How many rows there are.

    Raises:
        InvalidIndex: A row is not there, or the file holds no whole numbers ``[m]``.
        EmptyData: It names no row.
    """
    if isinstance(index, list):
        stray = next(((at, row) for at, row in enumerate(index) if row >= rows), None)
        if stray is not None:
            raise _out_of_range(stray[1], f"place {stray[0]}", rows)
        return len(index)
    if len(index.shape) != 1 or not index.is_integer:
        raise InvalidIndex(
            "An index is a list of row numbers.",
            given=f"{index.label} {list(index.shape)} {index.dtype}",
            allowed="whole numbers [m]",
            hint="numpy.flatnonzero(mask) makes one of a mask.",
        )
    if not index.size:
        raise EmptyData("The index names no row.", given=f"{index.label} [0]", allowed="at least one row number")
    if index.is_small:
        found = index.first_outside(0, rows - 1)
        if found is not None:
            raise _out_of_range(found.value, f"place {found.at[0]} of {index.label}", rows)
    return index.shape[0]


def _out_of_range(row: int, where: str, rows: int) -> InvalidIndex:
    return InvalidIndex(
        "The index names a row that is not there.",
        given=f"row {row} at {where}",
        allowed=f"0 to {rows - 1}",
        hint="Rows are counted from 0.",
    )
