"""The columns of a data file of any format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ihvp.datafiles.kinds import FileKind, file_kind
from ihvp.datafiles.npz import npz_headers
from ihvp.datafiles.tables import table_headers
from ihvp.errors import InvalidTensor
from ihvp.tensors import MAX_HEADER, TensorHeader, read_headers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_columns", "table_files"]

STATE: Final = "state.json"
MOST_FILES: Final = 10_000


def read_columns(path: Path) -> list[TensorHeader]:
    """What a file, or a folder that ``datasets.save_to_disk`` wrote, holds; read from headers and footers.

    Raises:
        InvalidTensor: It is damaged, of no format that is read here, or a table where pyarrow is not installed.
    """
    if path.is_dir():
        return _of_parts([table_headers(part, FileKind.ArrowStream) for part in table_files(path)])
    with path.open("rb") as file:
        kind = file_kind(file)
        if kind in (FileKind.Npy, FileKind.Safetensors):
            return read_headers(file)
        if kind is FileKind.Npz:
            return npz_headers(file)
    return table_headers(path, kind)


def table_files(folder: Path) -> list[Path]:
    """The files of a folder that ``datasets.save_to_disk`` wrote, in the order of their rows.

    Raises:
        InvalidTensor: It is no such folder, or names files outside itself.
    """
    try:
        text = (folder / STATE).open("rb").read(MAX_HEADER)
        state: Any = json.loads(text)
        names = [entry["filename"] for entry in state["_data_files"]]
    except FileNotFoundError:
        raise _no_dataset(f"no {STATE} in it") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _no_dataset(f"{STATE}: {str(error)[:100]}") from None
    if state.get("_indices_files"):
        raise _no_dataset("it has an indices file")
    if not names or len(names) > MOST_FILES:
        raise _no_dataset(f"{len(names)} data files")
    for name in names:
        # A name and no path: nothing of the folder leads out of it.
        if not isinstance(name, str) or "/" in name or "\\" in name or name in ("", ".", ".."):
            raise _no_dataset(f"a data file {str(name)[:100]!r}")
    paths = [folder / name for name in names]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise _no_dataset(f"{path.name[:100]} is missing or a link")
    return paths


def _of_parts(parts: list[list[TensorHeader]]) -> list[TensorHeader]:
    """The columns of files one after another."""
    joined: list[TensorHeader] = []
    for columns in zip(*parts, strict=False):
        first = columns[0]
        rows = sum(column.shape[0] for column in columns)
        filled = [column for column in columns if column.shape[0]] or [first]
        faults = [column.fault for column in columns if column.fault is not None]
        if any(column.name != first.name or column.dtype != first.dtype for column in columns):
            faults.append("The files of the folder differ in their columns.")
        if any(column.shape[1:] != filled[0].shape[1:] for column in filled) and not faults:
            faults.append("Its lists differ in length from file to file. Pad them to one length.")
        joined.append(
            TensorHeader(
                first.name,
                first.dtype,
                (rows, *filled[0].shape[1:]),
                0,
                sum(column.nbytes for column in columns),
                packed=True,
                fault=faults[0] if faults else None,
            )
        )
    return joined


def _no_dataset(how: str) -> InvalidTensor:
    return InvalidTensor(
        "The folder is no Hugging Face dataset.",
        given=how,
        allowed="what Dataset.save_to_disk writes: state.json and data-*.arrow",
        hint="Save one split with dataset.save_to_disk(folder), after dataset.flatten_indices() where rows were "
        "selected or shuffled.",
    )
