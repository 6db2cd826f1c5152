"""What callers hold, as bytes that can be sent more than once: files, bytes, and arrays."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy
from safetensors.numpy import save as save_safetensors

from ihvp.errors import InvalidTensor

__all__ = ["BlobSource", "Upload", "tensor_bytes"]

CHUNK: Final = 1 << 20

BlobSource = str | PathLike[str] | bytes | BinaryIO


@dataclass(frozen=True)
class Upload:
    """Bytes with their digest.

    Attributes:
        digest: ``sha256:<64 hex>``.
        size: Number of bytes.
    """

    digest: str
    size: int
    _source: Path | bytes | BinaryIO
    _start: int = 0

    @classmethod
    def of(cls, source: BlobSource) -> Upload:
        """Reads the source once, for its digest; a file object is read from where it stands.

        Raises:
            OSError: The file cannot be read.
        """
        kept: Path | bytes | BinaryIO
        if isinstance(source, bytes):
            kept = source
        elif isinstance(source, str | PathLike):
            kept = Path(source)
        else:
            # What cannot be rewound cannot be hashed first and sent then.
            kept = source if source.seekable() else source.read()
        with _opened(kept) as file:
            start = file.tell()
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            size = file.seek(0, io.SEEK_END) - start
            file.seek(start)
        return cls(f"sha256:{digest}", size, kept, start)

    @property
    def filename(self) -> str | None:
        """The name of the file that holds the bytes, where one does."""
        return self._source.name if isinstance(self._source, Path) else None

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from an offset on, piece by piece; a new iterator starts anew."""
        position = self._start + offset
        with _opened(self._source) as file:
            try:
                while True:
                    # Each time: an attempt that was broken off may not have let go of the file yet.
                    file.seek(position)
                    if not (chunk := file.read(CHUNK)):
                        break
                    position += len(chunk)
                    yield chunk
            finally:
                # An attempt that was given up may end after its file was closed.
                if not file.closed:
                    file.seek(self._start)


@contextmanager
def _opened(source: Path | bytes | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    elif isinstance(source, bytes):
        yield io.BytesIO(source)
    else:
        yield source


def tensor_bytes(value: Any) -> bytes:
    """One array as npy, or a mapping of names to arrays as safetensors.

    Args:
        value: What ``numpy.asarray`` takes (CPU torch tensors too), or a mapping of such.

    Raises:
        InvalidTensor: It does not hold plain numbers.
    """
    if isinstance(value, Mapping):
        return save_safetensors({str(name): _plain_array(item) for name, item in value.items()})
    file = io.BytesIO()
    npy.write_array(file, _plain_array(value), allow_pickle=False)
    return file.getvalue()


def _plain_array(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidTensor(f"This cannot be made an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InvalidTensor(
            "An array must hold plain numbers.", given=str(array.dtype), allowed="float, integer or bool dtypes"
        )
    # Both formats are little-endian here, rows first; a 0-d array keeps its shape.
    return np.require(array, dtype=array.dtype.newbyteorder("<"), requirements="C")
