"""Blobs as files under one folder: written to a temporary name, synced, renamed to their digest."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

from ihvp.blobs.store import BlobInfo
from ihvp.blobs.writing import FileBlobGroup, FileBlobWriter, sync_file, sync_folder
from ihvp.errors import BlobNotFound
from ihvp.references import parse_digest
from ihvp.settings import Settings

__all__ = ["FilesystemBlobStore"]

RECOUNT_S: Final = 60.0
"""How long the running total is trusted before it is read or counted again: other processes write too."""
NOTE_LASTS_S: Final = 600.0
"""How old a count by another process may be. The reconciler counts all blobs each minute anyway."""


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
        self._note = root.parent / f"{root.name}.total"
        self._unfinished = root / "unfinished"
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._total = 0
        self._counted_at = float("-inf")
        self._changes: deque[tuple[float, int]] = deque()
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
        """All blobs, in no particular order; whoever sees them all has counted them for everybody."""
        began, total = time.time(), 0
        for folder in self.root.iterdir():
            if len(folder.name) != 2:
                continue
            for path in folder.iterdir():
                with contextlib.suppress(BlobNotFound):
                    blob = self.stat(f"sha256:{path.name}")
                    total += blob.size
                    yield blob
        self._leave_note(total, began)

    def total_bytes(self) -> int:
        """Bytes of all blobs together, as of the last minute and with what this process has changed since.

        They are counted here only where no other process has left a count: a write does not wait for a walk over
        all blobs that are kept.
        """
        with self._lock:
            if time.monotonic() - self._counted_at > RECOUNT_S:
                noted = self._noted()
                self._total = sum(blob.size for blob in self) if noted is None else noted
                self._counted_at = time.monotonic()
            return self._total

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
        """A file for bytes on their way in, removed at the end if it still has its temporary name."""
        path = self._unfinished / uuid4().hex
        with path.open("xb") as file:
            try:
                yield file, path
            finally:
                path.unlink(missing_ok=True)

    def move_in(self, unfinished: Path, digest: str) -> frozenset[Path]:
        """Gives synced bytes their digest's name; a blob that is there already gets a new age.

        Returns:
            The folders whose sync makes the name durable; none where the blob was there.
        """
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return frozenset()
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
            self._settled.discard(path.parent)
        size = unfinished.stat().st_size
        # Two writers of the same bytes: the later rename puts the same content over the earlier one.
        unfinished.rename(path)
        self._count(size)
        # Whoever made the folder may not have synced its own name yet.
        return frozenset({path.parent} if path.parent in self._settled else {path.parent, self.root})

    def settle(self, folders: Iterable[Path]) -> None:
        """Notes folders that were synced together with the root: their own names last."""
        if self.root in folders:
            self._settled.update(folders)

    def _path(self, digest: str) -> Path:
        name = parse_digest(digest).removeprefix("sha256:")
        return self.root / name[:2] / name

    def _count(self, change: int) -> None:
        now = time.time()
        with self._lock:
            self._total += change
            self._changes.append((now, change))
            while self._changes[0][0] < now - NOTE_LASTS_S:
                self._changes.popleft()

    def _leave_note(self, total: int, began: float) -> None:
        with contextlib.suppress(OSError), self.unfinished() as (file, path):
            file.write(f"{total} {began}".encode())
            file.flush()
            path.rename(self._note)

    def _noted(self) -> int | None:
        """A count that is young enough, with this process's own changes since; None where there is none."""
        with contextlib.suppress(OSError, ValueError):
            total, began = self._note.read_text(encoding="ascii").split()
            if time.time() - float(began) < NOTE_LASTS_S:
                return int(total) + sum(change for at, change in self._changes if at >= float(began))
        return None


@contextlib.contextmanager
def _found(digest: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BlobNotFound(
            "No blob has this digest.", given=digest, hint="Upload it with PUT /v1/blobs/<digest>."
        ) from None
