"""Arrays that no file holds as they are needed, unpacked row by row into a file of their own that is then mapped.

Pages that no batch needs leave memory again, and a row can be found without unpacking those before it. The file has no
name: it is gone with the last mapping, and with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ihvp.errors import InvalidTensor, OutOfSpace
from ihvp.tensors import TensorHeader

__all__ = ["Scratch"]

GIB: Final = 1 << 30

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scratch:
    """Where arrays are unpacked to.

    Attributes:
        folder: A folder on a disk, made if it is missing.
        max_bytes: Bytes of one array up to which it is unpacked.
        keep_free: Bytes of the disk that are left free.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    max_bytes: int = 16 * GIB
    keep_free: int = GIB

    def unpack(self, header: TensorHeader, parts: Iterable[Array], label: str) -> Tensor:
        """The array that its parts make, mapped.

        Args:
            header: Its dtype and shape.
            parts: Its numbers in their order, of that dtype.
            label: What to call it in messages.

        Raises:
            InvalidTensor: It is larger than allowed, or the parts are not as many numbers as its header says.
            OutOfSpace: The disk has no room for it.
        """
        self._check_size(header, label)
        dtype = np.dtype(header.dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        written = 0
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for part in parts:
                written += part.nbytes
                if part.dtype != dtype or written > header.nbytes:
                    raise _lies(header, written, label)
                np.ascontiguousarray(part).tofile(file)
            if written != header.nbytes:
                raise _lies(header, written, label)
            file.flush()
            if not header.nbytes:
                return torch.from_numpy(np.empty(header.shape, dtype))
            return torch.from_numpy(np.memmap(file, dtype, mode="r+", shape=header.shape))

    def _check_size(self, header: TensorHeader, label: str) -> None:
        if header.nbytes > self.max_bytes:
            raise InvalidTensor(
                f"{label} is too large to be unpacked.",
                given=f"{header.nbytes} bytes for {header.dtype} {list(header.shape)}",
                allowed=f"at most {self.max_bytes} bytes",
                hint="Save it as npy or safetensors, which are read in place; or the operator raises "
                "IHVP_MAX_UNPACKED_BYTES.",
            )
        folder = next(parent for parent in (self.folder, *self.folder.absolute().parents) if parent.exists())
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        if header.nbytes > free - self.keep_free:
            raise OutOfSpace(
                f"The worker's disk has no room to unpack {label}.",
                given=f"{header.nbytes} bytes, {free} are free",
                allowed=f"{self.keep_free} bytes stay free",
                hint="Save it as npy or safetensors, which are read in place.",
            )


def _lies(header: TensorHeader, written: int, label: str) -> InvalidTensor:
    return InvalidTensor(
        f"{label} does not hold as many numbers as its header says.",
        given=f"{written} bytes and {'more' if written > header.nbytes else 'no more'}",
        allowed=f"{header.nbytes} bytes for {header.dtype} {list(header.shape)}",
    )
