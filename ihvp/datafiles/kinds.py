"""Formats of data files, told apart by their first bytes: a name says nothing."""

from __future__ import annotations

from enum import Enum
from typing import BinaryIO, Final

from ihvp.errors import InvalidTensor

__all__ = ["READ_HERE", "FileKind", "file_kind"]

READ_HERE: Final = "npy, safetensors, npz, Parquet or Arrow"
BRACE: Final = 8
"""Where a safetensors file has the brace that its header begins with."""


class FileKind(str, Enum):
    """A format."""

    Npy = "npy"
    Safetensors = "safetensors"
    Npz = "npz"
    Parquet = "Parquet"
    Arrow = "Arrow file"
    ArrowStream = "Arrow stream"


_MAGIC: Final = {
    b"\x93NUMPY": FileKind.Npy,
    b"PK\x03\x04": FileKind.Npz,
    b"PK\x05\x06": FileKind.Npz,
    b"PAR1": FileKind.Parquet,
    b"ARROW1": FileKind.Arrow,
    b"\xff\xff\xff\xff": FileKind.ArrowStream,
}
_REFUSED: Final = {
    b"\x80": ("The file is a pickle, which is never read.", "Save the arrays with numpy.savez or safetensors."),
    b"FEA1": ("This version of Feather is not read.", "Save it again: pyarrow.feather.write_feather(table, path)."),
    b"PARE": ("The Parquet file is encrypted.", "Save it without encryption."),
    b"\x1f\x8b": ("The file is packed with gzip.", "Unpack it; npz and Parquet pack by themselves."),
    b"\x28\xb5\x2f\xfd": ("The file is packed with zstd.", "Unpack it; npz and Parquet pack by themselves."),
}


def file_kind(file: BinaryIO) -> FileKind:
    """The format of a file; safetensors, which begins with a number, where nothing else is recognised.

    Raises:
        InvalidTensor: It is of a kind that is not read here.
    """
    file.seek(0)
    first = file.read(BRACE + 1)
    file.seek(0)
    for magic, kind in _MAGIC.items():
        if first.startswith(magic):
            return kind
    for magic, (message, hint) in _REFUSED.items():
        # The length that a safetensors file begins with may look like anything.
        if first.startswith(magic) and first[BRACE:] != b"{":
            raise InvalidTensor(message, given=f"first bytes {first[:4].hex()}", allowed=READ_HERE, hint=hint)
    return FileKind.Safetensors
