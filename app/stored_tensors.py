"""Tensors in files as the API sees them: headers, and values where they are few."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ihvp.datafiles.folders import table_names
from ihvp.datafiles.headers import read_columns, read_parts
from ihvp.errors import BlobNotFound, UnknownBlob
from ihvp.references import TensorName
from ihvp.tensors import (
    FLOATS,
    INTEGERS,
    ITEM_SIZE,
    TensorHeader,
    all_finite,
    integer_range,
    npy_header,
    read_headers,
    read_metadata,
    read_values,
    select_tensor,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from app.referenced_files import ReferencedFiles
    from ihvp.blobs.store import BlobAccess

__all__ = [
    "FLOAT_NAMES",
    "StoredTensor",
    "TensorFile",
    "find_column",
    "find_tensor",
    "find_tensors",
    "keep_blobs",
    "open_tensor_file",
]

FLOAT_NAMES: Final = "float16, bfloat16, float32 or float64"
SCANNED_NUMBERS: Final = 4_000_000
REMOTE_NUMBERS: Final = 100_000
"""Numbers of a tensor that are looked at one by one here; in larger ones the worker finds what is wrong."""
# memoryview and array read these; of halves only the header is read here.
READABLE_FLOATS: Final = frozenset({"float32", "float64"})


class Stray(NamedTuple):
    """A number outside its range, and where it stands."""

    value: int
    at: tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a blob or of another file.

    Attributes:
        open: Opens the file.
        header: Where the tensor lies in it.
        label: What the request calls it, for messages.
        remote: Whether each look at its values goes over a network.
    """

    open: Callable[[], BinaryIO]
    header: TensorHeader
    label: str
    remote: bool = False

    @property
    def is_small(self) -> bool:
        """Whether its values are looked at here; in larger ones the worker finds what is wrong."""
        return self.size <= (REMOTE_NUMBERS if self.remote else SCANNED_NUMBERS)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""
        return self.header.shape

    @property
    def dtype(self) -> str:
        """``float32``, ``int64``, …"""
        return self.header.dtype

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return self.header.elements

    @property
    def is_floating(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype in FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers."""
        return self.dtype in INTEGERS

    def is_finite(self) -> bool:
        """Whether it holds neither NaN nor infinity, as far as that can be read here (not for halves)."""
        if self.dtype not in READABLE_FLOATS or self.header.packed:
            return True
        with self.open() as file:
            return all_finite(file, self.header)

    def first_outside(self, least: int, most: int, *, ignoring: int | None = None) -> Stray | None:
        """The first number outside a range, but for one that does not count; None too where they are packed."""
        if not self.size or self.header.packed:
            return None
        with self.open() as file:
            low, high = integer_range(file, self.header)
            if least <= low and high <= most:
                return None
            numbers: Iterable[int] = read_values(file, self.header)
        for position, number in enumerate(numbers):
            if not least <= number <= most and number != ignoring:
                return Stray(number, _index(position, self.shape))
        return None

    def npy_header(self) -> bytes:
        """What stands before its bytes in an npy file."""
        return npy_header(self.dtype, self.shape)

    def nested(self) -> list[Any]:
        """Its numbers as lists of its shape; None for one that is not finite."""
        rows = [[number if math.isfinite(number) else None for number in row] for row in self.rows()]
        return rows if len(self.shape) == 2 else rows[0]

    def rows(self) -> Iterator[Sequence[float]]:
        """Its rows one by one: ``k`` of a ``[k, n]``, one of a ``[n]``."""
        length = self.shape[-1]
        count = self.shape[0] if len(self.shape) == 2 else 1
        nbytes = length * ITEM_SIZE[self.dtype]
        with self.open() as file:
            for row in range(count):
                part = TensorHeader("", self.dtype, (length,), self.header.start + row * nbytes, nbytes)
                yield read_values(file, part)


@dataclass(frozen=True)
class TensorFile:
    """A blob of tensors, its header read."""

    path: Path
    size: int
    metadata: dict[str, str]
    tensors: dict[str, StoredTensor]


def open_tensor_file(blobs: BlobAccess, digest: str) -> TensorFile:
    """The tensors and metadata of a blob that the service wrote.

    Raises:
        BlobNotFound: The blob is gone.
    """
    path = blobs.local_path(digest)
    with blobs.open(digest) as file:
        headers, metadata = read_headers(file), read_metadata(file)
    tensors = {header.name: StoredTensor(partial(blobs.open, digest), header, header.name) for header in headers}
    return TensorFile(path, blobs.stat(digest).size, metadata, tensors)


def find_tensors(files: ReferencedFiles, source: str, *, place: str) -> dict[str, StoredTensor]:
    """All tensors of a file that a request refers to, by name, in the order of the file.

    Args:
        files: Where files are.
        source: The file: a blob's digest or a URI.
        place: The field that refers to it, for messages.

    Raises:
        UnknownBlob: It was not uploaded.
        InvalidTensor: It is neither npy nor safetensors.
        IhvpError: It cannot be read; see ``ihvp.sources.source.Source``.
    """
    headers = _headers(files, source, place)
    return {header.name: _stored(files, source, header, f"{place} {header.name}".strip()) for header in headers}


def find_tensor(files: ReferencedFiles, reference: str, *, place: str, name: str) -> StoredTensor:
    """The one tensor that a request refers to.

    Args:
        files: Where files are.
        reference: ``sha256:<hex>`` or a URI, with ``#<name>`` or without.
        place: The field that holds the reference, for messages.
        name: The tensor that is meant where the file has several and none is named.

    Raises:
        UnknownBlob: The blob was not uploaded.
        InvalidTensor: It has no such tensor.
        IhvpError: It cannot be read; see ``ihvp.sources.source.Source``.
    """
    wanted = TensorName.parse(reference)
    header = select_tensor(_headers(files, wanted.source, place), wanted.name, name)
    return _stored(files, wanted.source, header, place)


def find_column(files: ReferencedFiles, reference: str, *, place: str, name: str) -> StoredTensor:
    """A column of data points: as ``find_tensor``, in a file of any format that data may have, or a folder of tables.

    Raises:
        UnknownBlob: The blob was not uploaded.
        InvalidTensor: It has no such column, or what is in it is no numbers.
        IhvpError: It cannot be read; see ``ihvp.sources.source.Source``.
    """
    wanted = TensorName.parse(reference)
    try:
        headers = files.headers(wanted.source, partial(_columns, files, wanted.source))
    except (BlobNotFound, FileNotFoundError):
        raise _unknown(place, wanted.source) from None
    return _stored(files, wanted.source, select_tensor(headers, wanted.name, name), place)


def _columns(files: ReferencedFiles, source: str) -> list[TensorHeader]:
    members = files.folder(source)
    with ExitStack() as stack:
        if not members:
            return read_columns(stack.enter_context(files.open(source)))
        names = table_names(members, lambda name: files.open(members[name]))
        return read_parts(stack.enter_context(files.open(members[name])) for name in names)


def _stored(files: ReferencedFiles, source: str, header: TensorHeader, label: str) -> StoredTensor:
    return StoredTensor(partial(files.open, source), header, label, files.is_remote(source))


def keep_blobs(blobs: BlobAccess, digests: Iterable[str]) -> None:
    """Makes blobs young, so that a sweep in progress does not take what is being referred to.

    Raises:
        UnknownBlob: One is gone.
    """
    for digest in set(digests):
        try:
            blobs.touch(digest)
        except BlobNotFound:
            raise _unknown("request", digest) from None


def _headers(files: ReferencedFiles, source: str, place: str) -> list[TensorHeader]:
    try:
        with files.open(source) as file:
            return read_headers(file)
    except (BlobNotFound, FileNotFoundError):
        raise _unknown(place, source) from None


def _unknown(place: str, digest: str) -> UnknownBlob:
    return UnknownBlob(
        f"The {place} refers to a blob that was not uploaded.",
        given=digest,
        hint=f"Upload it with PUT /v1/blobs/{digest}.",
    )


def _index(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    found: list[int] = []
    for side in reversed(shape):
        position, place = divmod(position, side)
        found.append(place)
    return tuple(reversed(found))
