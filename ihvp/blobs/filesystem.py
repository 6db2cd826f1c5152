"""Blobs as files under one folder: written to a temporary name, synced, renamed to their digest."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from ihvp.blobs.store import BlobInfo
from ihvp.blobs.totals import FOLDERS, UPLOADS, FolderTotals
from ihvp.blobs.uploads import FileUploads
from ihvp.blobs.writing import FileBlobGroup, FileBlobWriter, disk_space, sync_file, sync_folder
from ihvp.errors import BlobNotFound
from ihvp.references import parse_digest
from ihvp.settings import Settings

__all__ = ["FilesystemBlobStore"]


class FilesystemBlobStore:
    """A folder of blobs, ``root/ab/<64 hex>``, that several processes may use at once.

    Args:
        root: The folder; made if missing.
        max_bytes: Bound on all blobs together; None for none.
        keep_free: Bytes of the disk that blobs leave to others: a store whose log cannot grow stops.
    """

    def __init__(self, root: Path, max_bytes: int | None = None, keep_free: int = 0) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.keep_free = keep_free
        self._unfinished = root / "unfinished"
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self.uploads = FileUploads(self)
        self.totals = FolderTotals(root / "totals", self._count_all)
        self._settled: set[Path] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> FilesystemBlobStore:
        """The store that the settings describe."""
        return cls(settings.blob_dir, settings.max_store_bytes, settings.keep_free_bytes)

    @contextlib.contextmanager
    def writer(self) -> Iterator[FileBlobWriter]:
        """A writer; leaving it without ``commit`` leaves nothing behind."""
        with self.unfinished() as (file, path):

            def place(digest: str, size: int) -> BlobInfo:
                sync_file(file)
                folders = self.move_in(path, digest)
                for folder in folders:
                    sync_folder(folder)
                self.settle(folders)
                return BlobInfo(digest, size, created=bool(folders))

            yield FileBlobWriter(self, file, place)

    @contextlib.contextmanager
    def group(self) -> Iterator[FileBlobGroup]:
        """Several blobs as one write; leaving it without ``commit`` leaves nothing behind."""
        group = FileBlobGroup(self)
        try:
            yield group
        finally:
            group.close()

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
        with contextlib.suppress(FileNotFoundError), self.totals.change(_number(path.parent)) as count:
            size = path.stat().st_size
            path.unlink()
            count(-size)

    def touch(self, digest: str) -> None:
        """Refreshes the age.

        Raises:
            BlobNotFound: No blob has this digest.
        """
        with _found(digest):
            os.utime(self._path(digest))

    def sweep_unfinished(self, older_than_s: float) -> int:
        """Removes what broken-off writes left, and uploads that have expired; says how many."""
        removed = self.uploads.sweep()
        for path in self._unfinished.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    removed += 1
        return removed

    def __iter__(self) -> Iterator[BlobInfo]:
        """All blobs, in no particular order, those that come or go meanwhile perhaps.

        It may be paused between any two. Each folder that was not changed while it was walked over has its record of
        bytes mended, if a crash has left that wrong.
        """
        for folder in self._folders():
            changes, total = self.totals.changes(_number(folder)), 0
            for blob in _blobs_in(folder):
                total += blob.size
                yield blob
            self.totals.mend(_number(folder), changes, total)

    def total_bytes(self) -> int:
        """Bytes of all blobs and uploads under way, whichever process wrote them; no blob is looked at for it."""
        return self.totals.total()

    def room(self) -> int | None:
        """Bytes that may still be written; None without a bound."""
        rooms = [] if self.max_bytes is None else [self.max_bytes - self.total_bytes()]
        if self.keep_free:
            rooms.append(shutil.disk_usage(self.root).free - self.keep_free)
        return min(rooms, default=None)

    @property
    def bounds(self) -> str:
        """What ``room`` keeps to, in words."""
        in_all = [] if self.max_bytes is None else [f"{self.max_bytes} bytes in all"]
        free = [f"{self.keep_free} bytes of the disk left free (IHVP_KEEP_FREE_BYTES)"] if self.keep_free else []
        return ", ".join([*in_all, *free])

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A file for bytes on their way in, removed at the end if it still has its temporary name.

        Raises:
            OutOfSpace: The disk has no room for another file.
        """
        path = self._unfinished / uuid4().hex
        with disk_space():
            file = path.open("xb")
        try:
            yield file, path
        finally:
            # On a full disk closing fails once more, in words of its own; whoever needed the bytes has synced them.
            with contextlib.suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)

    def move_in(self, unfinished: Path, digest: str) -> frozenset[Path]:
        """Gives synced bytes their digest's name; a blob that is there already gets a new age.

        Returns:
            The folders whose sync makes the name durable; none where the blob was there.

        Raises:
            OutOfSpace: The disk has no room for its name.
        """
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return frozenset()
        with contextlib.suppress(FileExistsError), disk_space():
            path.parent.mkdir()
            self._settled.discard(path.parent)
        size = unfinished.stat().st_size
        with self.totals.change(_number(path.parent)) as count:
            # Two writers of the same bytes: the later rename puts the same content over the earlier one.
            there = path.exists()
            with disk_space():
                unfinished.rename(path)
            count(0 if there else size)
        # Whoever made the folder may not have synced its own name yet.
        return frozenset({path.parent} if path.parent in self._settled else {path.parent, self.root})

    def settle(self, folders: Iterable[Path]) -> None:
        """Notes folders that were synced together with the root: their own names last."""
        if self.root in folders:
            self._settled.update(folders)

    def _path(self, digest: str) -> Path:
        name = parse_digest(digest).removeprefix("sha256:")
        return self.root / name[:2] / name

    def _folders(self) -> Iterator[Path]:
        return (path for number in range(FOLDERS) if (path := self.root / f"{number:02x}").is_dir())

    def _count_all(self) -> dict[int, int]:
        found = {_number(folder): sum(blob.size for blob in _blobs_in(folder)) for folder in self._folders()}
        return {**found, UPLOADS: self.uploads.total_bytes()}


def _number(folder: Path) -> int:
    return int(folder.name, 16)


def _blobs_in(folder: Path) -> Iterator[BlobInfo]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                age_s = max(0.0, time.time() - status.st_mtime)
                yield BlobInfo(f"sha256:{entry.name}", status.st_size, age_s)


@contextlib.contextmanager
def _found(digest: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BlobNotFound(
            "No blob has this digest.", given=digest, hint="Upload it with PUT /v1/blobs/<digest>."
        ) from None
