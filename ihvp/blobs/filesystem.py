"""Blobs as files under one folder: written to a temporary name, synced, renamed to their digest."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

from ihvp.blobs.store import BlobInfo
from ihvp.errors import BlobNotFound, DigestMismatch, OutOfSpace
from ihvp.references import parse_digest

__all__ = ["FilesystemBlobStore"]

RESCAN_S: Final = 60.0
"""How long the running total is trusted before the folder is counted again: other processes write too."""


class FilesystemBlobStore:
    """A folder of blobs, ``root/ab/<64 hex>``, that several processes may use at once.

    Args:
        root: The folder; made if missing.
        max_bytes: Bound on all blobs together; None for none.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._unfinished = root / "unfinished"
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._total = 0
        self._counted_at = float("-inf")

    @contextlib.contextmanager
    def writer(self) -> Iterator[FileBlobWriter]:
        """A writer; leaving it without ``commit`` leaves nothing behind."""
        path = self._unfinished / uuid4().hex
        with path.open("xb") as file:
            try:
                yield FileBlobWriter(self, file, path)
            finally:
                path.unlink(missing_ok=True)

    def stat(self, digest: str) -> BlobInfo:
        """Size and age.

        Raises:
            BlobNotFound: No blob has this digest.
        """
        with _found(digest):
            status = self._path(digest).stat()
        return BlobInfo(digest, status.st_size, max(0.0, time.time() - status.st_mtime))

    def open(self, digest: str) -> BinaryIO:
        """The bytes, seekable.

        Raises:
            BlobNotFound: No blob has this digest.
        """
        with _found(digest):
            return self._path(digest).open("rb")

    def local_path(self, digest: str) -> Path:
        """The blob's own file; never to be written to.

        Raises:
            BlobNotFound: No blob has this digest.
        """
        self.stat(digest)
        return self._path(digest)

    def delete(self, digest: str) -> None:
        """Removes the blob, if it is there."""
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self._count(-size)

    def touch(self, digest: str) -> None:
        """Refreshes the age.

        Raises:
            BlobNotFound: No blob has this digest.
        """
        with _found(digest):
            os.utime(self._path(digest))

    def sweep_unfinished(self, older_than_s: float) -> int:
        """Removes what broken-off writes left; says how many."""
        removed = 0
        for path in self._unfinished.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    removed += 1
        return removed

    def __iter__(self) -> Iterator[BlobInfo]:
        """All blobs, in no particular order."""
        for folder in self.root.iterdir():
            if len(folder.name) != 2:
                continue
            for path in folder.iterdir():
                with contextlib.suppress(BlobNotFound):
                    yield self.stat(f"sha256:{path.name}")

    def total_bytes(self) -> int:
        """Bytes of all blobs together, counted at most once a minute and kept up to date in between."""
        with self._lock:
            if time.monotonic() - self._counted_at > RESCAN_S:
                self._total = sum(blob.size for blob in self)
                self._counted_at = time.monotonic()
            return self._total

    def room(self) -> int | None:
        """Bytes that may still be written; None without a bound."""
        return None if self.max_bytes is None else self.max_bytes - self.total_bytes()

    def place(self, unfinished: Path, digest: str, size: int) -> BlobInfo:
        """Moves synced bytes to their digest's name, durably; a blob that is there already gets a new age."""
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return BlobInfo(digest, size, created=False)
        path.parent.mkdir(exist_ok=True)
        # Two writers of the same bytes: the later rename puts the same content over the earlier one.
        unfinished.rename(path)
        _sync_folder(path.parent)
        _sync_folder(self.root)
        self._count(size)
        return BlobInfo(digest, size, created=True)

    def _path(self, digest: str) -> Path:
        name = parse_digest(digest).removeprefix("sha256:")
        return self.root / name[:2] / name

    def _count(self, change: int) -> None:
        with self._lock:
            self._total += change


class FileBlobWriter:
    """Bytes on their way into a :class:`FilesystemBlobStore`."""

    def __init__(self, store: FilesystemBlobStore, file: BinaryIO, path: Path) -> None:
        self._store = store
        self._file = file
        self._path = path
        self._hash = hashlib.sha256()
        self._size = 0
        self._room = store.room()

    def write(self, chunk: bytes) -> None:
        """Adds bytes.

        Raises:
            OutOfSpace: The store's bound or the disk is reached.
        """
        if self._room is not None and self._size + len(chunk) > self._room:
            raise OutOfSpace(
                "The blob store is full.",
                given=f"more than {self._room} bytes to add",
                allowed=f"{self._store.max_bytes} bytes in all",
                hint="Delete finished jobs, shorten IHVP_RETENTION_S, or raise IHVP_MAX_STORE_BYTES.",
            )
        with _disk_space():
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
        with _disk_space():
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._store.place(self._path, digest, self._size)


@contextlib.contextmanager
def _found(digest: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BlobNotFound(
            "No blob has this digest.", given=digest, hint="Upload it with PUT /v1/blobs/<digest>."
        ) from None


@contextlib.contextmanager
def _disk_space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise OutOfSpace(
            "The disk that holds the blobs is full.", hint="Free space on it, then send the bytes again."
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
