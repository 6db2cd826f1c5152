"""npy and safetensors read with the standard library alone: headers, small values, ranges; nothing is trusted.

The two formats are told apart by their first bytes. Headers are capped before they are read, and every offset
must lie in the file, so that a lying header costs a clear error and no memory.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import os
import re
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from ihvp.errors import InvalidTensor

__all__ = [
    "FLOATS",
    "INTEGERS",
    "ITEM_SIZE",
    "TensorHeader",
    "all_finite",
    "integer_range",
    "npy_header",
    "read_headers",
    "read_metadata",
    "read_npy_header",
    "read_values",
    "select_tensor",
    "write_safetensors",
]

MAX_HEADER: Final = 16 * 1024 * 1024
MAX_SIDE: Final = 2**48
MAX_DIMENSIONS: Final = 32
NPY_MAGIC: Final = b"\x93NUMPY"
ZIP: Final = b"PK\x03\x04"
PICKLE: Final = re.compile(rb"\x80[\x02-\x05](?!\0{4})", re.DOTALL)
"""How pickles begin; a safetensors file whose header has 640 bytes begins so too, and goes on with zeros."""
NPY_ALIGNMENT: Final = 64
CHUNK: Final = 1 << 20

ITEM_SIZE: Final[dict[str, int]] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
FLOATS: Final = frozenset({"float64", "float32", "float16", "bfloat16"})
INTEGERS: Final = frozenset(ITEM_SIZE) - FLOATS - {"bool"}

_SAFETENSORS: Final[dict[str, str]] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_SAFETENSORS_NAME: Final = {dtype: name for name, dtype in _SAFETENSORS.items()}
_NPY: Final[dict[str, str]] = {
    "<f8": "float64", "<f4": "float32", "<f2": "float16",
    "<i8": "int64", "<i4": "int32", "<i2": "int16", "|i1": "int8",
    "<u8": "uint64", "<u4": "uint32", "<u2": "uint16", "|u1": "uint8", "|b1": "bool",
}  # fmt: skip
_NPY_NAME: Final = {dtype: name for name, dtype in _NPY.items()}
# What memoryview.cast can read; halves it cannot.
_TYPECODE: Final[dict[str, str]] = {
    "float64": "d", "float32": "f", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
    "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "B",
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """Where a tensor lies in its file.

    Attributes:
        name: Its name; empty in an npy file.
        dtype: ``float32``, ``int64``, …
        shape: Its sides.
        start: Offset of its first byte in the file.
        nbytes: Number of its bytes, C order, little-endian.
        packed: Whether it has to be unpacked: ``start`` then means nothing.
        fault: Why it cannot be read, if it cannot, and what to do about it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    packed: bool = False
    fault: str | None = None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_headers(file: BinaryIO) -> list[TensorHeader]:
    """All tensors of a file, in the order of their bytes.

    Raises:
        InvalidTensor: The file is neither a sound npy nor a sound safetensors.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    first = file.read(len(NPY_MAGIC))
    if first == NPY_MAGIC:
        return [read_npy_header(file, size)]
    if first.startswith(ZIP) or PICKLE.match(first):
        raise _invalid(
            "The file is a pickle or an archive of pickles, which is never read: it could run a program.",
            given=repr(first),
            hint="Save state_dict() with safetensors.torch.save_file.",
        )
    table = _safetensors_table(file, size)
    start = file.tell()
    found = [_entry(name, entry, start, size) for name, entry in table.items() if name != "__metadata__"]
    found.sort(key=lambda header: (header.start, header.nbytes))
    end = start
    for header in found:
        if header.start != end:
            raise _invalid("Tensors of a safetensors file must follow each other.", given=f"{header.name!r}")
        end = header.start + header.nbytes
    if end != size:
        raise _invalid(
            "The file does not end where its last tensor does.", given=f"{size} bytes", allowed=f"{end} bytes"
        )
    return found


def read_metadata(file: BinaryIO) -> dict[str, str]:
    """The metadata of a safetensors file; empty for npy.

    Raises:
        InvalidTensor: The header cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
        return {}
    metadata = _safetensors_table(file, size).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _invalid("The metadata of a safetensors file must map strings to strings.")
    return metadata


def select_tensor(headers: Sequence[TensorHeader], name: str | None, role: str) -> TensorHeader:
    """The tensor a reference means: the one named, else the one named after its role, else the only one.

    Raises:
        InvalidTensor: There is none, or it is not clear which.
    """
    named = {header.name: header for header in headers}
    wanted = name if name is not None else role
    if wanted in named or (name is None and len(headers) == 1):
        found = named.get(wanted, headers[0])
        if found.fault is not None:
            raise InvalidTensor(f"{found.name!r} cannot be used. {found.fault}", given=found.dtype)
        return found
    names = list(named)
    raise _invalid(
        f"The file has no tensor or column {wanted!r}.",
        given=", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "an empty file",
        hint="Name one behind the reference: #<name>." if names else None,
    )


def read_values(file: BinaryIO, header: TensorHeader) -> array[Any]:
    """All numbers of a tensor, flat. Halves cannot be read here.

    Raises:
        InvalidTensor: The dtype has no machine type in the standard library.
    """
    code = _typecode(header)
    file.seek(header.start)
    return _native(file.read(header.nbytes), code)


def integer_range(file: BinaryIO, header: TensorHeader) -> tuple[int, int]:
    """Smallest and largest number of a non-empty integer tensor, read in chunks."""
    ranges = [(min(part), max(part)) for part in _chunks(file, header)]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def all_finite(file: BinaryIO, header: TensorHeader) -> bool:
    """Whether a float tensor holds neither NaN nor infinity, read in chunks."""
    return all(math.isfinite(value) for part in _chunks(file, header) for value in part)


def npy_header(dtype: str, shape: Sequence[int]) -> bytes:
    """What stands before the numbers in an npy file, padded to a multiple of 64 bytes."""
    sides = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    text = f"{{'descr': '{_NPY_NAME[dtype]}', 'fortran_order': False, 'shape': ({sides}), }}"
    fixed = len(NPY_MAGIC) + 4 + 1
    text += " " * (-(fixed + len(text)) % NPY_ALIGNMENT) + "\n"
    return NPY_MAGIC + b"\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, tuple[array[Any], Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays of the standard library with their shapes."""
    codes = {code: dtype for dtype, code in _TYPECODE.items() if dtype != "bool"}
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (values, shape) in tensors.items():
        nbytes = len(values) * values.itemsize
        dtype = codes[values.typecode]
        table[name] = {
            "dtype": _SAFETENSORS_NAME[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(struct.pack("<Q", len(header)) + header)
    for values, _ in tensors.values():
        file.write(_native(values.tobytes(), values.typecode).tobytes())


def _safetensors_table(file: BinaryIO, size: int) -> dict[str, Any]:
    file.seek(0)
    length_bytes = file.read(8)
    if len(length_bytes) < 8:
        raise _invalid("The file is too short to be a tensor.", given=f"{size} bytes")
    (length,) = struct.unpack("<Q", length_bytes)
    if length > min(MAX_HEADER, size - 8):
        raise _invalid(
            "The file is neither npy nor safetensors: what would be its header's length does not fit.",
            given=f"{length} bytes of header in a file of {size}",
        )
    try:
        table = json.loads(file.read(length), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _invalid(
            "The file is neither npy nor safetensors: its header is not JSON.", given=str(error)[:100]
        ) from None
    if not isinstance(table, dict):
        raise _invalid("The header of a safetensors file must be an object.")
    return table


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _entry(name: str, entry: Any, start: int, size: int) -> TensorHeader:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise _invalid("A tensor's header needs dtype, shape and data_offsets.", given=repr(name)[:100])
    dtype = _SAFETENSORS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _invalid(
            f"Tensor {name[:100]!r} has a dtype that is not read here.",
            given=repr(entry["dtype"])[:100],
            allowed=", ".join(_SAFETENSORS),
        )
    offsets = entry["data_offsets"]
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int and o >= 0 for o in offsets)):
        raise _invalid(f"Tensor {name[:100]!r} has no sound data_offsets.", given=repr(offsets)[:100])
    begin, end = offsets
    if not begin <= end <= size - start:
        raise _invalid(f"Tensor {name[:100]!r} lies outside the file.", given=repr(offsets)[:100])
    return _checked(TensorHeader(name, dtype, _shape(entry["shape"]), start + begin, end - begin))


def read_npy_header(file: BinaryIO, size: int) -> TensorHeader:
    """The array of an npy file, from behind the first six bytes on.

    Args:
        file: Stands behind them.
        size: Where the file ends.

    Raises:
        InvalidTensor: The header is none, or the file is not as long as it says.
    """
    version = file.read(2)
    if len(version) < 2 or version[0] not in {1, 2, 3}:
        raise _invalid("This version of npy is not read here.", given=version.hex(), allowed="1.0, 2.0, 3.0")
    width, code = (2, "<H") if version[0] == 1 else (4, "<I")
    length_bytes = file.read(width)
    length = struct.unpack(code, length_bytes)[0] if len(length_bytes) == width else size
    if length > min(MAX_HEADER, size - file.tell()):
        raise _invalid("The npy file ends within its header.", given=f"{size} bytes")
    try:
        table = ast.literal_eval(file.read(length).decode("latin-1" if version[0] < 3 else "utf-8").strip())
        descr, fortran, shape = table["descr"], table["fortran_order"], table["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise _invalid("The header of the npy file cannot be read.") from None
    if not isinstance(descr, str) or descr not in _NPY:
        pickled = isinstance(descr, str) and "O" in descr
        raise _invalid(
            "An npy file of Python objects is a pickle and is never read."
            if pickled
            else "The npy file has a dtype that is not read here.",
            given=repr(descr)[:100],
            allowed=", ".join(_NPY),
            hint="Save a little-endian numeric array: numpy.save(path, array.astype('<f4'))." if not pickled else None,
        )
    sides = _shape(list(shape) if isinstance(shape, tuple) else shape)
    if fortran and len(sides) > 1:
        raise _invalid(
            "The npy file is in Fortran order.",
            hint="Save numpy.ascontiguousarray(array) instead.",
        )
    header = TensorHeader("", _NPY[descr], sides, file.tell(), size - file.tell())
    return _checked(header)


def _shape(sides: Any) -> tuple[int, ...]:
    sound = isinstance(sides, list) and len(sides) <= MAX_DIMENSIONS
    if not sound or not all(type(side) is int and 0 <= side <= MAX_SIDE for side in sides):
        raise _invalid(
            "A tensor's shape must be a list of whole numbers, none negative or huge.", given=repr(sides)[:100]
        )
    return tuple(sides)


def _checked(header: TensorHeader) -> TensorHeader:
    expected = header.elements * ITEM_SIZE[header.dtype]
    if expected != header.nbytes:
        raise _invalid(
            "A tensor has not as many bytes as its shape and dtype say"
            + (f": {header.name[:100]!r}." if header.name else "."),
            given=f"{header.nbytes} bytes",
            allowed=f"{expected} bytes for {header.dtype} {list(header.shape)}",
            hint="The file may have been cut short; send it again.",
        )
    return header


def _typecode(header: TensorHeader) -> str:
    if header.dtype not in _TYPECODE:
        raise _invalid(
            "Half-precision numbers cannot be read here.", given=header.dtype, allowed=", ".join(sorted(_TYPECODE))
        )
    return _TYPECODE[header.dtype]


def _chunks(file: BinaryIO, header: TensorHeader) -> Iterator[array[Any]]:
    code = _typecode(header)
    file.seek(header.start)
    step = CHUNK // ITEM_SIZE[header.dtype] * ITEM_SIZE[header.dtype]
    for done in itertools.count(0, step):
        if done >= header.nbytes:
            return
        yield _native(file.read(min(step, header.nbytes - done)), code)


def _native(data: bytes, code: str) -> array[Any]:
    """Bytes between little-endian and this machine's order, as an array."""
    values = array(code)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _invalid(
    message: str, *, given: str | None = None, allowed: str | None = None, hint: str | None = None
) -> InvalidTensor:
    return InvalidTensor(message, given=given, allowed=allowed or "npy or safetensors", hint=hint)
