"""A number that a worker's parent and its child both see."""

from __future__ import annotations

import mmap
import struct

__all__ = ["SharedNumber"]

_LAYOUT = struct.Struct("=q")


class SharedNumber:
    """Made before the fork; zero at first.

    Plain shared memory rather than a ``multiprocessing.Value``: a child that is killed while it holds the value's lock
    would hang its parent for ever. One aligned word is written at once.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _LAYOUT.size)

    @property
    def value(self) -> int:
        """What was written last, by whichever process."""
        (value,) = _LAYOUT.unpack_from(self._memory)
        return int(value)

    @value.setter
    def value(self, value: int) -> None:
        _LAYOUT.pack_into(self._memory, 0, value)
