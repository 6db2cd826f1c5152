"""Columns of Parquet and Arrow files, row group by row group; every null and every ragged list is found here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ihvp.datafiles.kinds import FileKind, file_kind
from ihvp.datafiles.tables import import_pyarrow, open_parquet, readable
from ihvp.errors import InvalidTensor
from ihvp.tensors import TensorHeader

__all__ = ["table_parts"]

ROWS_AT_ONCE: Final = 65_536

Array = np.ndarray[Any, Any]


def table_parts(paths: Sequence[Path], header: TensorHeader) -> Iterator[Array]:
    """A column's numbers as arrays ``[rows]`` or ``[rows, k]``, in order.

    Args:
        paths: The files, whose rows follow each other.
        header: The column, as its headers showed it.

    Raises:
        InvalidTensor: The file is damaged, or a value is null, or lists differ in length.
    """
    pa = import_pyarrow()
    done = 0
    for column in (column for path in paths for column in _columns(pa, path, header.name)):
        with readable(pa, "Parquet or Arrow"):
            # What an offset in a damaged file points at may not be there.
            column.validate(full=True)
            part = _numbers(pa, column, header, done)
        done += len(column)
        yield part


def _columns(pa: Any, path: Path, name: str) -> Iterator[Any]:
    with path.open("rb") as file:
        kind = file_kind(file)
    if kind is FileKind.Parquet:
        with open_parquet(path) as parquet, readable(pa, "Parquet"):
            for batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE, columns=[name]):
                yield batch.column(name)
        return
    with readable(pa, "Arrow"), pa.memory_map(str(path)) as source:
        if kind is FileKind.Arrow:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            yield batch.column(name)


def _numbers(pa: Any, column: Any, header: TensorHeader, first: int) -> Array:
    if column.null_count:
        raise _null(header, first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]))
    if len(header.shape) == 1:
        return _flat(pa, column)
    width = header.shape[1]
    if not pa.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if bool((lengths != width).any()):
            row = int(np.flatnonzero(lengths != width)[0])
            raise InvalidTensor(
                f"The lists of column {header.name!r} differ in length.",
                given=f"{int(lengths[row])} numbers in row {first + row}",
                allowed=f"{width} in every row, as in the others",
                hint="Pad them to one length, and mask what was added: attention_mask, or ignore_index for targets.",
            )
    values = column.flatten()
    if values.null_count:
        raise _null(header, first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width)
    return _flat(pa, values).reshape(len(column), width)


def _flat(pa: Any, values: Any) -> Array:
    # Booleans are bits there.
    array: Array = values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type))
    return array


def _null(header: TensorHeader, row: int) -> InvalidTensor:
    return InvalidTensor(
        f"Column {header.name!r} holds a null.",
        given=f"row {row}",
        allowed="a number in every row",
        hint="Fill or drop nulls: no number stands for a missing one.",
    )
