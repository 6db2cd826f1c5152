"""One column of points from a file of any format, mapped: a batch reads its own rows and no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from ihvp.datafiles.headers import read_columns, read_parts
from ihvp.datafiles.kinds import FileKind, file_kind
from ihvp.datafiles.npz import UNREADABLE, member_name, open_archive
from ihvp.errors import InvalidTensor
from ihvp.references import TensorName
from ihvp.tensors import NPY_MAGIC, TensorHeader, read_npy_header, select_tensor
from workers.resolvers.mapping import map_file, pick_tensor
from workers.resolvers.table_rows import table_parts
from workers.resolvers.unpacking import Scratch

__all__ = ["Column", "map_column"]

CHUNK: Final = 1 << 22

Array = np.ndarray[Any, Any]


class Column(Protocol):
    """Rows that are read when they are asked for; a tensor is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``[n, ...]``."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers."""

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """The rows of a slice, or those of these numbers."""


def map_column(paths: Sequence[Path], wanted: TensorName, role: str, scratch: Scratch) -> Column:
    """A column of a file.

    Args:
        paths: The file, or the tables of a folder in the order of their rows.
        wanted: The reference; its name is the tensor's or the column's.
        role: The name that is meant where the reference has none and the file holds several.
        scratch: Where what is packed is unpacked to.

    Raises:
        InvalidTensor: The file cannot be read, has no such column, or the column holds no numbers.
        OutOfSpace: There is no room to unpack it.
    """
    path = paths[0]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(each.open("rb")) for each in paths]
        kind = file_kind(files[0])
        if len(files) == 1 and kind in (FileKind.Npy, FileKind.Safetensors):
            return pick_tensor(map_file(path, str(wanted)), wanted, role)
        columns = read_columns(files[0]) if len(files) == 1 else read_parts(files)
    header = select_tensor(columns, wanted.name, role)
    label = f"{role} ({header.name})"
    if kind is not FileKind.Npz:
        return scratch.unpack(header, table_parts(paths, header), label)
    if header.packed:
        return scratch.unpack(header, _inflated(path, header), label)
    return _map_member(path, header)


def _map_member(path: Path, header: TensorHeader) -> Column:
    dtype = np.dtype(header.dtype)
    if not header.nbytes:
        return torch.from_numpy(np.empty(header.shape, dtype))
    array = np.memmap(path, dtype, mode="c", offset=header.start, shape=header.shape)
    return torch.from_numpy(array) if array.flags.aligned else _UnalignedRows(array)


class _UnalignedRows:
    """An array that begins at an odd place of its file, as most do in an npz: rows are copied into place.

    Args:
        array: The mapped array.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        which = rows if isinstance(rows, slice) else rows.numpy()
        return torch.from_numpy(np.array(self._array[which]))


def _inflated(path: Path, header: TensorHeader) -> Iterator[Array]:
    """The numbers of a deflated array, in pieces; no more of them than its header says."""
    dtype = np.dtype(header.dtype)
    step = CHUNK // dtype.itemsize * dtype.itemsize
    with path.open("rb") as file:
        archive = open_archive(file)
        info = next(entry for entry in archive.infolist() if member_name(entry) == header.name)
        try:
            with archive.open(info) as member:
                member.read(len(NPY_MAGIC))
                read_npy_header(member, info.file_size)  # type: ignore[arg-type]
                left = header.nbytes
                while left:
                    data = member.read(min(step, left))
                    if not data:
                        return
                    left -= len(data)
                    yield np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
                # Past the last byte its checksum is looked at.
                member.read(1)
        except UNREADABLE as error:
            if isinstance(error, InvalidTensor):
                raise
            raise InvalidTensor(
                "The npz file cannot be read.",
                given=str(error)[:200],
                hint="It may have been cut short; send it again.",
            ) from None
