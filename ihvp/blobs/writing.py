"""Blobs on their way into files: one at a time, or several as one write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from ihvp.blobs.store import BlobInfo
from ihvp.errors import DigestMismatch, OutOfSpace

if TYPE_CHECKING:
    from ihvp.blobs.filesystem import FilesystemBlobStore

__all__ = ["FileBlobGroup", "FileBlobWriter", "disk_space", "sync_file", "sync_folder"]

T = TypeVar("T")

_AT_ONCE: Final = 8
"""Syncs under way at a time. Each waits for the disk, and one commit of the journal serves all that wait for it."""
_FEW: Final = 4
"""Fewer syncs than these are done one after the other: starting threads takes longer than two or three of them."""


class FileBlobWriter:
    """Bytes on their way into a :class:`ihvp.blobs.filesystem.FilesystemBlobStore`.

    Args:
        store: Its bound is kept.
        file: Takes the bytes.
        finish: Is given digest and size by ``commit``, and makes a blob of the file.
        ahead: Bytes that others will have added to the store by then.
    """

    def __init__(
        self, store: FilesystemBlobStore, file: BinaryIO, finish: Callable[[str, int], BlobInfo], ahead: int = 0
    ) -> None:
        self._store = store
        self._file = file
        self._finish = finish
        self._hash = hashlib.sha256()
        self._size = 0
        room = store.room()
        self._room = None if room is None else room - ahead

    def write(self, chunk: bytes) -> None:
        """Adds bytes.

        Raises:
            OutOfSpace: The store's bound or the disk is reached.
        """
        if self._room is not None and self._size + len(chunk) > self._room:
            raise OutOfSpace(
                "The blob store is full.",
                given=f"more than {self._room} bytes to add",
                allowed=self._store.bounds,
                hint="Delete finished jobs, shorten IHVP_RETENTION_S, or raise IHVP_MAX_STORE_BYTES.",
            )
        with disk_space():
            self._file.write(chunk)
        self._hash.update(chunk)
        self._size += len(chunk)

    def commit(self, expected: str | None = None) -> BlobInfo:
        """Makes the bytes durable and visible under their digest.

        Raises:
            DigestMismatch: The digest is not the expected one; nothing is stored.
            OutOfSpace: The disk is full.
        """
        digest = f"sha256:{self._hash.hexdigest()}"
        if expected is not None and digest != expected:
            raise DigestMismatch(
                "The bytes do not have the digest they were sent under.",
                given=f"{self._size} bytes with {digest}",
                allowed=expected,
                hint="The upload was cut short or altered, or the digest is of another file: send it again.",
            )
        with disk_space():
            return self._finish(digest, self._size)


class FileBlobGroup:
    """Several blobs as one write: synced side by side, so that the file system commits them together.

    Args:
        store: Where they go.
    """

    def __init__(self, store: FilesystemBlobStore) -> None:
        self._store = store
        self._sealed: dict[str, tuple[BinaryIO, Path]] = {}
        self._files = contextlib.ExitStack()
        self._nbytes = 0

    @contextlib.contextmanager
    def writer(self) -> Iterator[FileBlobWriter]:
        """See ``BlobGroup.writer``."""
        with contextlib.ExitStack() as unless_sealed:
            file, path = unless_sealed.enter_context(self._store.unfinished())

            def seal(digest: str, size: int) -> BlobInfo:
                file.flush()
                if digest not in self._sealed:
                    self._sealed[digest] = file, path
                    self._nbytes += size
                    self._files.push(unless_sealed.pop_all())
                return BlobInfo(digest, size)

            yield FileBlobWriter(self._store, file, seal, ahead=self._nbytes)

    def commit(self) -> dict[str, Exception]:
        """See ``BlobGroup.commit``."""
        # In this order: a name must never stand for bytes that a power cut can still take away.
        faults = _side_by_side(lambda digest: sync_file(self._sealed[digest][0]), self._sealed)
        moved: dict[str, frozenset[Path]] = {}
        for digest in self._sealed.keys() - faults.keys():
            try:
                moved[digest] = self._store.move_in(self._sealed[digest][1], digest)
            except (OSError, OutOfSpace) as error:
                faults[digest] = error
        unsynced = _side_by_side(sync_folder, frozenset[Path]().union(*moved.values()))
        for digest, folders in moved.items():
            broken = [unsynced[folder] for folder in folders if folder in unsynced]
            if broken:
                faults[digest] = broken[0]
            else:
                self._store.settle(folders)
        self.close()
        return faults

    def close(self) -> None:
        """Removes what is not committed."""
        self._files.close()
        self._sealed.clear()
        self._nbytes = 0


def _side_by_side(work: Callable[[T], None], items: Collection[T]) -> dict[T, Exception]:
    """Does the work for each item; returns what went wrong, by the item."""

    def attempt(item: T) -> Exception | None:
        try:
            work(item)
        except Exception as error:
            return error
        return None

    if len(items) < _FEW:
        faults = [attempt(item) for item in items]
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            faults = list(pool.map(attempt, items))
    return {item: fault for item, fault in zip(items, faults, strict=True) if fault is not None}


def sync_file(file: BinaryIO) -> None:
    """Has the bytes of an open file on the disk before it returns.

    Raises:
        OutOfSpace: The disk is full.
    """
    with disk_space():
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on the disk before it returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_space() -> Iterator[None]:
    """Says in our own words that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise OutOfSpace(
            "The disk that holds the blobs is full.", hint="Free space on it, then send the bytes again."
        ) from error
