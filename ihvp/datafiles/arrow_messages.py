"""Arrow IPC messages as far as sizes go: rows, lengths and nulls of each record batch, none of its buffers.

A record batch's metadata is a flatbuffer; the few fields wanted of it are read here by hand, with every offset
checked, so that the API neither unpacks a buffer nor trusts one. The layout is that of ``Message.fbs`` of Arrow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from ihvp.errors import InvalidTensor
from ihvp.tensors import MAX_HEADER

__all__ = ["BatchSizes", "batch_sizes", "schema_bytes"]

FILE_MAGIC: Final = b"ARROW1\0\0"
CONTINUES: Final = 0xFFFFFFFF
SCHEMA, RECORD_BATCH = 1, 3
DICTIONARY: Final = 2
NODE: Final = 16


@dataclass(frozen=True)
class BatchSizes:
    """A record batch.

    Attributes:
        rows: Its rows.
        nodes: Length and nulls of each array in it, parents before their children.
    """

    rows: int
    nodes: list[tuple[int, int]]


def schema_bytes(file: BinaryIO) -> bytes:
    """The message that the schema is in, as pyarrow reads it.

    Raises:
        InvalidTensor: The file does not begin with one.
    """
    for metadata, _ in _messages(file):
        if _kind(metadata) != SCHEMA:
            break
        # A message's metadata ends on a multiple of 8, as it was found.
        return struct.pack("<Ii", CONTINUES, len(metadata)) + metadata
    raise _damaged("it does not begin with a schema")


def batch_sizes(file: BinaryIO) -> Iterator[BatchSizes]:
    """The sizes of each record batch.

    Raises:
        InvalidTensor: A message is cut short or makes no sense.
    """
    for metadata, _ in _messages(file):
        kind = _kind(metadata)
        if kind == RECORD_BATCH:
            yield _sizes(metadata)
        elif kind not in (SCHEMA, DICTIONARY):
            raise _damaged("a message is of no kind that tables have")


def _messages(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Metadata, and the place of the body, of each message up to the end of the stream."""
    size = file.seek(0, 2)
    file.seek(0)
    place = 8 if file.read(8) == FILE_MAGIC else 0
    while place + 4 <= size:
        file.seek(place)
        first = file.read(8)
        (length,) = struct.unpack("<I", first[:4])
        start = place + 4
        if length == CONTINUES:
            if len(first) < 8:
                raise _damaged("it ends within a message")
            (length,) = struct.unpack("<I", first[4:])
            start = place + 8
        if length == 0:
            return
        if length > min(MAX_HEADER, size - start):
            raise _damaged(f"a message of {length} bytes does not fit")
        file.seek(start)
        metadata = file.read(length)
        body = _long(metadata, _root(metadata), 3)
        if not 0 <= body <= size - start - length:
            raise _damaged("a record batch lies outside the file")
        yield metadata, start + length
        place = start + length + body
    raise _damaged("it has no end")


def _kind(metadata: bytes) -> int:
    place = _field(metadata, _root(metadata), 1)
    return 0 if place is None else _unpack("<B", metadata, place)


def _sizes(metadata: bytes) -> BatchSizes:
    pointer = _field(metadata, _root(metadata), 2)
    if pointer is None:
        raise _damaged("a record batch has no header")
    batch = pointer + _unpack("<I", metadata, pointer)
    nodes: list[tuple[int, int]] = []
    at = _field(metadata, batch, 1)
    if at is not None:
        vector = at + _unpack("<I", metadata, at)
        count = _unpack("<I", metadata, vector)
        if count * NODE > len(metadata):
            raise _damaged("a record batch has more arrays than bytes")
        for i in range(count):
            place = vector + 4 + i * NODE
            nodes.append((_unpack("<q", metadata, place), _unpack("<q", metadata, place + 8)))
    rows = _long(metadata, batch, 0)
    if rows < 0 or any(length < 0 or nulls < 0 for length, nulls in nodes):
        raise _damaged("a record batch has a negative length")
    return BatchSizes(rows, nodes)


def _root(metadata: bytes) -> int:
    return _unpack("<I", metadata, 0)


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """The place of a table's field, None where it has its default."""
    vtable = table - _unpack("<i", metadata, table)
    entry = 4 + 2 * number
    if entry + 2 > _unpack("<H", metadata, vtable):
        return None
    offset = _unpack("<H", metadata, vtable + entry)
    return table + offset if offset else None


def _long(metadata: bytes, table: int, number: int) -> int:
    place = _field(metadata, table, number)
    return 0 if place is None else _unpack("<q", metadata, place)


def _unpack(code: str, metadata: bytes, place: int) -> int:
    if not 0 <= place <= len(metadata) - struct.calcsize(code):
        raise _damaged("an offset in a message points outside it")
    found: int = struct.unpack_from(code, metadata, place)[0]
    return found


def _damaged(how: str) -> InvalidTensor:
    return InvalidTensor(
        "The Arrow file cannot be read.",
        given=how,
        allowed="a sound Arrow IPC file or stream",
        hint="It may have been cut short; send it again.",
    )
