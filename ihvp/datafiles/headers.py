"""The columns of a data file of any format, or of a folder of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from ihvp.datafiles.kinds import FileKind, file_kind
from ihvp.datafiles.npz import npz_headers
from ihvp.datafiles.tables import table_headers
from ihvp.errors import InvalidTensor
from ihvp.tensors import TensorHeader, read_headers

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["read_columns", "read_parts"]


def read_columns(file: BinaryIO) -> list[TensorHeader]:
    """What a file holds; read from headers and footers.

    Raises:
        InvalidTensor: It is damaged, of no format that is read here, or a table where pyarrow is not installed.
    """
    kind = file_kind(file)
    if kind in (FileKind.Npy, FileKind.Safetensors):
        return read_headers(file)
    return npz_headers(file) if kind is FileKind.Npz else table_headers(file, kind)


def read_parts(files: Iterable[BinaryIO]) -> list[TensorHeader]:
    """The columns of tables whose rows follow each other.

    Raises:
        InvalidTensor: As above, or one of them is no table.
    """
    parts: list[list[TensorHeader]] = []
    for file in files:
        kind = file_kind(file)
        if kind not in (FileKind.Parquet, FileKind.Arrow, FileKind.ArrowStream):
            raise InvalidTensor(
                "A folder of data is made of tables.", given=f"a file of kind {kind.value}", allowed="Parquet or Arrow"
            )
        parts.append(table_headers(file, kind))
    return [_joined(columns) for columns in zip(*parts, strict=False)]


def _joined(columns: tuple[TensorHeader, ...]) -> TensorHeader:
    first = columns[0]
    filled = [column for column in columns if column.shape[0]] or [first]
    faults = [column.fault for column in columns if column.fault is not None]
    if any(column.name != first.name or column.dtype != first.dtype for column in columns):
        faults.append("The files of the folder differ in their columns.")
    if any(column.shape[1:] != filled[0].shape[1:] for column in filled) and not faults:
        faults.append("Its lists differ in length from file to file. Pad them to one length.")
    return TensorHeader(
        first.name,
        first.dtype,
        (sum(column.shape[0] for column in columns), *filled[0].shape[1:]),
        0,
        sum(column.nbytes for column in columns),
        packed=True,
        fault=faults[0] if faults else None,
    )
