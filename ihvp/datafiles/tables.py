"""Columns of Parquet and Arrow files, from footers and messages' headers; no row is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ihvp.datafiles.arrow_messages import batch_sizes, schema_bytes
from ihvp.datafiles.kinds import FileKind
from ihvp.errors import InvalidTensor
from ihvp.tensors import ITEM_SIZE, MAX_HEADER, TensorHeader

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["import_pyarrow", "numeric_type", "open_parquet", "readable", "table_headers"]

MOST_COLUMNS: Final = 100_000
FOOTER: Final = b"ARROW1"
_DTYPES: Final = {
    "double": "float64", "float": "float32", "halffloat": "float16",
    "int64": "int64", "int32": "int32", "int16": "int16", "int8": "int8",
    "uint64": "uint64", "uint32": "uint32", "uint16": "uint16", "uint8": "uint8", "bool": "bool",
}  # fmt: skip


@dataclass
class _Column:
    """What is known of a column: numbers in each row (None where rows may differ), and counts as they add up."""

    name: str
    dtype: str
    per_row: int | None = 1
    nested: bool = False
    fault: str | None = None
    numbers: int = 0
    nulls: int = 0

    def header(self, rows: int) -> TensorHeader:
        """The column as a tensor."""
        fault = self.fault
        if fault is None and self.nulls:
            fault = f"{self.nulls} of its values are null. Fill or drop them: no number stands for a missing one."
        per_row = self.per_row
        if fault is None and per_row is None:
            # Lists that differ in length may still add up to this: whoever reads the rows looks at each.
            per_row, rest = divmod(self.numbers, rows) if rows else (0, 0)
            if rest:
                fault = f"Its lists differ in length: {self.numbers} numbers in {rows} rows. Pad them to one length."
        if fault is not None:
            return TensorHeader(self.name, self.dtype, (rows,), 0, 0, packed=True, fault=fault)
        shape = (rows, per_row or 0) if self.nested else (rows,)
        size = rows * (per_row or 0) * ITEM_SIZE[self.dtype]
        return TensorHeader(self.name, self.dtype, shape, 0, size, packed=True)


def import_pyarrow() -> Any:
    """pyarrow, with its parts for files loaded.

    Raises:
        InvalidTensor: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise InvalidTensor(
            "Parquet and Arrow files are read with pyarrow, which is not installed here.",
            allowed="npy, npz or safetensors",
            hint="The operator installs it: pip install 'ihvp[data]', or in an image --build-arg IHVP_EXTRAS=data.",
        ) from None
    return pyarrow


def table_headers(file: BinaryIO, kind: FileKind) -> list[TensorHeader]:
    """The columns of a table, each as the tensor ``[n]`` or ``[n, k]`` that it would be.

    Columns of other things than numbers have a ``fault``, which says what to do.

    Raises:
        InvalidTensor: The file is damaged, or pyarrow is not installed.
    """
    pa = import_pyarrow()
    if kind is FileKind.Parquet:
        _check_footer(file)
        with open_parquet(file) as parquet, readable(pa, "Parquet"):
            return _of_parquet(parquet)
    if kind is FileKind.Arrow and not _has_footer(file):
        raise InvalidTensor(
            "The Arrow file cannot be read.",
            given="it has no footer",
            hint="It may have been cut short; send it again.",
        )
    # A name in a damaged schema may be no text.
    with readable(pa, "Arrow"):
        return _of_arrow(pa, file)


def numeric_type(kind: Any) -> tuple[str, int | None, bool] | None:
    """What an Arrow type is as a tensor: dtype, numbers a row (None: unknown), whether rows are lists; or None."""
    from pyarrow import types

    if str(kind) in _DTYPES:
        return _DTYPES[str(kind)], 1, False
    if types.is_fixed_size_list(kind) and str(kind.value_type) in _DTYPES:
        return _DTYPES[str(kind.value_type)], kind.list_size, True
    if (types.is_list(kind) or types.is_large_list(kind)) and str(kind.value_type) in _DTYPES:
        return _DTYPES[str(kind.value_type)], None, True
    return None


@contextlib.contextmanager
def open_parquet(source: Path | BinaryIO) -> Iterator[Any]:
    """A Parquet file, its footer read within bounds; one that is given by its path is mapped.

    Raises:
        InvalidTensor: It is no sound Parquet file.
    """
    pa = import_pyarrow()
    with readable(pa, "Parquet"):
        parquet = pa.parquet.ParquetFile(
            source,
            memory_map=True,
            thrift_string_size_limit=MAX_HEADER,
            thrift_container_size_limit=MOST_COLUMNS,
            # A stored schema may name types whose classes a library would have to be asked for.
            arrow_extensions_enabled=False,
        )
    with parquet:
        yield parquet


@contextlib.contextmanager
def readable(pa: Any, what: str) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into the error for its sender.

    Raises:
        InvalidTensor: It cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, InvalidTensor):
            raise
        raise InvalidTensor(
            f"The {what} file cannot be read.",
            given=(str(error).splitlines() or [""])[0][:200],
            allowed=f"a sound {what} file",
            hint="It may have been cut short; send it again.",
        ) from None


def _column(field: Any) -> _Column:
    found = numeric_type(field.type)
    if found is not None:
        return _Column(field.name, *found)
    kind = str(field.type)[:100]
    return _Column(field.name, kind, fault=f"It holds {kind}, not numbers. {_advice(kind)}")


def _advice(kind: str) -> str:
    if "string" in kind or "binary" in kind or "dictionary" in kind:
        return "Turn text into token ids, and categories into class numbers."
    if kind.startswith(("timestamp", "date", "time", "duration", "decimal")):
        return "Cast the column to float64 or int64."
    if "list" in kind:
        return "Only lists of numbers are read: flatten deeper ones into one list a row."
    return "Cast the column to a numeric type."


def _of_parquet(parquet: Any) -> list[TensorHeader]:
    metadata, schema = parquet.metadata, parquet.schema_arrow
    columns = [_column(field) for field in schema]
    leaves: dict[str, list[int]] = {}
    for i in range(metadata.num_columns):
        path = metadata.schema.column(i).path
        leaves.setdefault(path, []).append(i)
    for column, field in zip(columns, schema, strict=True):
        if column.fault is not None:
            continue
        prefix = f"{field.name}."
        own = [i for path, found in leaves.items() if path == field.name or path.startswith(prefix) for i in found]
        if len(own) != 1:
            column.fault = "Its name is that of another column, or the beginning of one. Rename it."
            continue
        for group in range(metadata.num_row_groups):
            chunk = metadata.row_group(group).column(own[0])
            column.numbers += chunk.num_values
            if chunk.is_stats_set and chunk.statistics is not None and chunk.statistics.has_null_count:
                column.nulls += chunk.statistics.null_count
    return [column.header(metadata.num_rows) for column in columns]


def _check_footer(file: BinaryIO) -> None:
    """Refuses a footer that would take much memory to read."""
    if file.seek(0, 2) < 12:
        raise InvalidTensor("The Parquet file cannot be read.", given="it is too short")
    file.seek(-8, 2)
    length = int.from_bytes(file.read(4), "little")
    if length > MAX_HEADER:
        raise InvalidTensor(
            "The Parquet file cannot be read: its footer is too long.",
            given=f"{length} bytes",
            allowed=f"at most {MAX_HEADER}",
            hint="Write larger row groups.",
        )
    file.seek(0)


def _has_footer(file: BinaryIO) -> bool:
    if file.seek(0, 2) < 2 * len(FOOTER):
        return False
    file.seek(-len(FOOTER), 2)
    return file.read() == FOOTER


def _of_arrow(pa: Any, file: BinaryIO) -> list[TensorHeader]:
    schema = pa.ipc.read_schema(pa.BufferReader(schema_bytes(file)))
    columns = [_column(field) for field in schema]
    places: list[int] = []
    wanted = 0
    for field in schema:
        places.append(wanted)
        wanted += _nodes(field.type)
    rows = 0
    for sizes in batch_sizes(file):
        rows += sizes.rows
        if len(sizes.nodes) != wanted:
            raise InvalidTensor("The Arrow file cannot be read.", given="a record batch does not fit the schema")
        for column, place in zip(columns, places, strict=True):
            own = sizes.nodes[place : place + (2 if column.nested else 1)]
            column.nulls += sum(nulls for _, nulls in own)
            column.numbers += own[-1][0]
    return [column.header(rows) for column in columns]


def _nodes(kind: Any) -> int:
    """How many arrays a column of this type is made of."""
    storage = getattr(kind, "storage_type", kind)
    return 1 + sum(_nodes(child.type) for child in _children(storage))


def _children(kind: Any) -> Iterable[Any]:
    return [kind.field(i) for i in range(kind.num_fields)]
