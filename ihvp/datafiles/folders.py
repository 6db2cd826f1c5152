"""Folders of tables: which of their files hold the rows, and in which order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ihvp.errors import InvalidTensor
from ihvp.tensors import MAX_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import BinaryIO

__all__ = ["STATE", "table_names"]

STATE: Final = "state.json"
"""What ``datasets.Dataset.save_to_disk`` writes beside the rows."""


def table_names(names: Collection[str], open_file: Callable[[str], BinaryIO]) -> list[str]:
    """The files with the rows of a folder: as its state says, or all its Parquet files in the order of their names.

    Args:
        names: The files that the folder has.
        open_file: Opens one of them.

    Raises:
        InvalidTensor: It is no folder of rows, or its state names files that it does not have.
    """
    if STATE in names:
        return _of_state(names, open_file)
    found = sorted(name for name in names if name.endswith(".parquet"))
    if not found:
        raise _no_dataset(f"neither {STATE} nor a .parquet file in it")
    return found


def _of_state(names: Collection[str], open_file: Callable[[str], BinaryIO]) -> list[str]:
    try:
        with open_file(STATE) as file:
            state: Any = json.loads(file.read(MAX_HEADER))
        wanted = [entry["filename"] for entry in state["_data_files"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _no_dataset(f"{STATE}: {str(error)[:100]}") from None
    if not wanted:
        raise _no_dataset("no data file")
    if state.get("_indices_files"):
        raise _no_dataset("an indices file, which says that its rows are not those that it stands for")
    for name in wanted:
        if not isinstance(name, str) or name not in names or "/" in name:
            raise _no_dataset(f"no data file {str(name)[:100]!r} in it")
    return wanted


def _no_dataset(how: str) -> InvalidTensor:
    return InvalidTensor(
        "The folder holds no rows that are read here.",
        given=how,
        allowed="what datasets.Dataset.save_to_disk writes (state.json and data-*.arrow), or Parquet files",
        hint="Name the folder of one split; save one with dataset.save_to_disk(folder), after "
        "dataset.flatten_indices() where rows were selected or shuffled.",
    )
