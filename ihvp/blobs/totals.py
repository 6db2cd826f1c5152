"""How many bytes the blobs take, kept in one small file, so that nobody has to walk over them to know."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

__all__ = ["FOLDERS", "UPLOADS", "FolderTotals"]

FOLDERS: Final = 256
UPLOADS: Final = 256
"""The record behind those of the folders: bytes of uploads under way."""
RECORDS: Final = FOLDERS + 1
_RECORD: Final = struct.Struct("<Qq")
_SIZE: Final = RECORDS * _RECORD.size


class FolderTotals:
    """Bytes of the blobs in each of the folders ``00`` to ``ff``, and of uploads under way, for all processes.

    Each folder has a record of its own: how often it was changed, and the bytes in it. A change is made and counted
    under one lock, so the records stay right while several processes write. What a crash or a power cut leaves wrong
    is mended by whoever walks over a folder and finds it unchanged meanwhile.

    Args:
        path: The file.
        count: Bytes of all blobs by folder; asked for where there is no file yet.
    """

    def __init__(self, path: Path, count: Callable[[], dict[int, int]]) -> None:
        self._path = path
        # One after another: whoever made the file a moment later would take away what others have counted in it since.
        if not self._is_there():
            with _held(os.open(path.parent, os.O_RDONLY)):
                if not self._is_there():
                    self._make(count())

    def _is_there(self) -> bool:
        return self._path.exists() and self._path.stat().st_size == _SIZE

    def _make(self, totals: dict[int, int]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{uuid4().hex}")
        fresh.write_bytes(b"".join(_RECORD.pack(0, totals.get(folder, 0)) for folder in range(RECORDS)))
        fresh.rename(self._path)

    def total(self) -> int:
        """Bytes of all blobs together: one read of four kilobytes, however many there are."""
        totals: Iterator[tuple[int, int]] = _RECORD.iter_unpack(self._path.read_bytes())
        return max(0, sum(total for _, total in totals))

    @contextmanager
    def change(self, folder: int) -> Iterator[Callable[[int], None]]:
        """Holds the lock while a name comes or goes; what is yielded takes the bytes that this adds."""
        with self._locked() as file:

            def count(added: int) -> None:
                changes, total = self._read(file, folder)
                self._write(file, folder, changes + 1, total + added)

            yield count

    def changes(self, folder: int) -> int:
        """How often a folder was changed; read it before the folder, for ``mend``."""
        with self._locked() as file:
            return self._read(file, folder)[0]

    def mend(self, folder: int, changes: int, total: int) -> None:
        """Notes what a walk over a folder found, unless it has changed since ``changes`` was read."""
        with self._locked() as file:
            if self._read(file, folder)[0] == changes:
                self._write(file, folder, changes, total)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        # Opened anew each time: a process that was forked would share the lock of an open file with its parent.
        with _held(os.open(self._path, os.O_RDWR)) as file:
            yield file

    def _read(self, file: int, folder: int) -> tuple[int, int]:
        changes, total = _RECORD.unpack(os.pread(file, _RECORD.size, folder * _RECORD.size))
        return changes, total

    def _write(self, file: int, folder: int, changes: int, total: int) -> None:
        os.pwrite(file, _RECORD.pack(changes, total), folder * _RECORD.size)


@contextmanager
def _held(descriptor: int) -> Iterator[int]:
    """A descriptor, locked for as long as this lasts and closed then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
