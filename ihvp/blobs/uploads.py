"""Uploads in parts: bytes that may come in several requests, to several processes, and become a blob at the end.

All that is known of an upload lies in files, so that any process goes on with it, also after a crash:

* ``<id>.info``: what was announced (JSON); its age once the upload is finished.
* ``<id>.part``: the bytes so far. Their number is the offset; whoever writes holds a lock on this file, which the
  system takes back from a process that dies. It is gone once the blob is there.
* ``<id>.sure``: how many of the bytes are to be trusted, while a part comes in that has a checksum.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ihvp.blobs.totals import UPLOADS
from ihvp.blobs.upload import CHECKSUMS, Checksum, Upload
from ihvp.blobs.writing import disk_space, sync_file, sync_folder
from ihvp.errors import (
    BodyTooLarge,
    ChecksumMismatch,
    DigestMismatch,
    OffsetMismatch,
    OutOfSpace,
    TooManyUploads,
    UploadExpired,
    UploadLocked,
    UploadNotFound,
)
from ihvp.tenants import DEFAULT_TENANT

if TYPE_CHECKING:
    from ihvp.blobs.filesystem import FilesystemBlobStore

__all__ = ["CHECKSUMS", "Appender", "Checksum", "FileUploads", "Upload"]

ORPHANED_S: Final = 600.0
"""Age from which files without an announcement count as left by a crash."""


@dataclass(frozen=True)
class _Announced:
    digest: str
    length: int
    metadata: str
    lasts_s: float
    tenant: str = DEFAULT_TENANT


class FileUploads:
    """The uploads of a :class:`ihvp.blobs.filesystem.FilesystemBlobStore`; its bounds hold for them, too.

    Args:
        store: Takes the blobs.
        tenant: Whose uploads are found and made; None: all are found, and the default tenant's made.
    """

    def __init__(self, store: FilesystemBlobStore, tenant: str | None = None) -> None:
        self._store = store
        self._tenant = tenant
        self._folder = store.root / "uploads"
        self._folder.mkdir(exist_ok=True)

    def of(self, tenant: str) -> FileUploads:
        """The uploads of one tenant; another's are not found."""
        return FileUploads(self._store, tenant)

    def create(self, digest: str, length: int, *, metadata: str, lasts_s: float, most: int) -> Upload:
        """Makes room for an upload.

        Args:
            digest: What the bytes will hash to.
            length: Their number.
            metadata: Kept, and told with the upload.
            lasts_s: How long it may rest.
            most: How many may be under way.

        Raises:
            TooManyUploads: So many are.
            OutOfSpace: The store has no room for the bytes.
        """
        _check_room(self._store, length)
        under_way = sum(1 for _ in self._folder.glob("*.part"))
        if under_way >= most:
            raise TooManyUploads(
                "Too many uploads are under way.",
                retry_after_s=60.0,
                given=f"{under_way} uploads",
                allowed=f"{most} (IHVP_MAX_UPLOADS)",
                hint="Finish or delete (DELETE) those that are not needed; abandoned ones expire.",
            )
        upload_id = secrets.token_hex(16)
        announced = _Announced(digest, length, metadata, lasts_s, self._tenant or DEFAULT_TENANT)
        with disk_space():
            self._path(upload_id, "part").touch()
            _replace(self._path(upload_id, "info"), asdict(announced))
        if length == 0:
            with self.appending(upload_id, 0) as appender:
                return appender.finish()
        return self.find(upload_id)

    def find(self, upload_id: str) -> Upload:
        """The upload as it stands; asking does not wait for a request that is writing to it.

        Raises:
            UploadNotFound: No upload has this id.
            UploadExpired: It was not continued in time.
        """
        announced, upload = self._read(upload_id)
        if upload.expires_at < datetime.now(UTC):
            raise UploadExpired(
                "The upload was not continued in time.",
                given=f"untouched for more than {announced.lasts_s:g} s",
                hint="Start a new one with POST /v1/uploads.",
            )
        return upload

    @contextlib.contextmanager
    def appending(
        self, upload_id: str, offset: int, *, announced: int = 0, checksum: Checksum | None = None
    ) -> Iterator[Appender]:
        """Writes the next part; leaving it without ``finish`` keeps what came, unless a checksum was to prove it.

        Args:
            upload_id: The upload.
            offset: Where the part begins.
            announced: How many bytes it has, where that is known.
            checksum: What it hashes to.

        Raises:
            UploadNotFound: No upload has this id.
            UploadExpired: It was not continued in time.
            UploadLocked: Another request is writing to it.
            OffsetMismatch: Its bytes end elsewhere.
            BodyTooLarge: The part goes on past the end that was announced for the whole.
            OutOfSpace: The store has no room for the part.
        """
        upload = self.find(upload_id)
        with self._locked(upload_id) as file:
            if file is not None:
                self._mend(upload_id, file)
            upload = self.find(upload_id)
            if offset != upload.offset:
                raise OffsetMismatch(
                    "The part does not begin where the bytes that are there end.",
                    given=f"Upload-Offset: {offset}",
                    allowed=str(upload.offset),
                    hint="HEAD tells the offset to go on from.",
                )
            sure = self._path(upload_id, "sure")
            appender = Appender(self._store, upload, file, checksum, sure)
            appender.check(announced)
            if checksum is not None and file is not None:
                _replace(sure, offset)
            try:
                yield appender
            except DigestMismatch:
                self._remove(upload_id)
                raise
            finally:
                if file is not None and sure.exists():
                    self._mend(upload_id, file)

    def remove(self, upload_id: str) -> None:
        """Forgets an upload and its bytes; a blob that it has become stays.

        Raises:
            UploadNotFound: No upload has this id.
            UploadExpired: It was not continued in time.
            UploadLocked: A request is writing to it.
        """
        self.find(upload_id)
        with self._locked(upload_id):
            self._remove(upload_id)

    def sweep(self) -> int:
        """Removes uploads that have expired and what crashes left of others; says how many."""
        removed = 0
        changes, total = self._store.totals.changes(UPLOADS), self.total_bytes()
        self._store.totals.mend(UPLOADS, changes, total)
        for path in list(self._folder.iterdir()):
            with contextlib.suppress(UploadNotFound, UploadLocked, FileNotFoundError):
                try:
                    expired = self._read(path.stem)[1].expires_at < datetime.now(UTC)
                except UploadNotFound:
                    # No announcement: it is being made just now, or never was.
                    expired = time.time() - path.stat().st_mtime > ORPHANED_S
                if expired:
                    with self._locked(path.stem):
                        removed += self._remove(path.stem)
                    path.unlink(missing_ok=True)
        return removed

    def total_bytes(self) -> int:
        """Bytes of the uploads under way."""
        total = 0
        for path in self._folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _read(self, upload_id: str) -> tuple[_Announced, Upload]:
        try:
            info = self._path(upload_id, "info")
            announced = _Announced(**json.loads(info.read_bytes()))
            if self._tenant not in {None, announced.tenant}:
                raise FileNotFoundError
            try:
                status = self._path(upload_id, "part").stat()
                # All bytes, and no blob yet: the digest is still to be proven, and the last byte comes again for it.
                offset = min(status.st_size, self._sure(upload_id), max(0, announced.length - 1))
            except FileNotFoundError:
                status, offset = info.stat(), announced.length
        except (FileNotFoundError, ValueError, TypeError):
            raise UploadNotFound(
                "No upload has this address.", given=upload_id[:100], hint="POST /v1/uploads starts one."
            ) from None
        expires = datetime.fromtimestamp(status.st_mtime + announced.lasts_s, UTC)
        return announced, Upload(upload_id, announced.digest, announced.length, offset, announced.metadata, expires)

    def _sure(self, upload_id: str) -> int:
        try:
            return int(json.loads(self._path(upload_id, "sure").read_bytes()))
        except FileNotFoundError:
            return sys.maxsize

    @contextlib.contextmanager
    def _locked(self, upload_id: str) -> Iterator[BinaryIO | None]:
        """The bytes, held by nobody else; None where they are a blob already."""
        path = self._path(upload_id, "part")
        try:
            file: BinaryIO = path.open("r+b", buffering=0)
        except FileNotFoundError:
            yield None
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UploadLocked(
                    "Another request is writing to this upload.",
                    hint="Ask with HEAD how far it has come, and go on from there once it has ended.",
                ) from None
            # Whoever held the lock until now may have made a blob of the file.
            yield file if _is_still(path, file) else None

    def _mend(self, upload_id: str, file: BinaryIO) -> None:
        """Cuts off what a process that died has left unproven behind the offset."""
        upload = self._read(upload_id)[1]
        beyond = file.seek(0, os.SEEK_END) - upload.offset
        if beyond > 0:
            file.truncate(upload.offset)
            with self._store.totals.change(UPLOADS) as count:
                count(-beyond)
        self._path(upload_id, "sure").unlink(missing_ok=True)

    def _remove(self, upload_id: str) -> bool:
        # The announcement first: without it the rest is nothing to anybody, and the next sweep takes it.
        there = False
        for kind in ("info", "sure", "part"):
            path = self._path(upload_id, kind)
            with contextlib.suppress(FileNotFoundError), self._store.totals.change(UPLOADS) as count:
                size = path.stat().st_size if kind == "part" else 0
                path.unlink()
                count(-size)
                there = True
        return there

    def _path(self, upload_id: str, kind: str) -> Path:
        return self._folder / f"{upload_id}.{kind}"


class Appender:
    """One part on its way in; the upload is locked meanwhile.

    Args:
        store: Becomes the owner of a whole upload.
        upload: As it stood before.
        file: Its bytes; None where they are a blob already.
        checksum: What the part has to hash to.
        sure: Says that the part is not proven yet, as long as it is there.
    """

    def __init__(
        self, store: FilesystemBlobStore, upload: Upload, file: BinaryIO | None, checksum: Checksum | None, sure: Path
    ) -> None:
        self._store = store
        self._upload = upload
        self._file = file
        self._checksum = checksum
        self._proof: Any = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        # What comes in one go is hashed on its way; otherwise the whole is read once more at its end.
        self._hash = hashlib.sha256() if upload.offset == 0 else None
        self._offset = upload.offset
        self._sure = sure
        if file is not None:
            file.seek(upload.offset)

    def check(self, size: int) -> None:
        """Whether so many bytes more may come.

        Raises:
            BodyTooLarge: They go on past the end that was announced for the whole.
            OutOfSpace: The store has no room for them.
        """
        if self._offset + size > self._upload.length:
            raise BodyTooLarge(
                "The part goes on past the end of the upload.",
                given=f"{size} bytes from {self._offset} on",
                allowed=f"{self._upload.length} bytes in all, as Upload-Length has said",
                hint="Start a new upload where the length was wrong.",
            )
        _check_room(self._store, size)

    def write(self, chunk: bytes) -> None:
        """Adds bytes.

        Raises:
            BodyTooLarge: They go on past the end that was announced for the whole.
            OutOfSpace: The store's bound or the disk is reached.
        """
        self.check(len(chunk))
        if self._file is None or not chunk:
            return
        written = 0
        try:
            with disk_space():
                # A file without a buffer may take less than it was given.
                while written < len(chunk):
                    written += self._file.write(memoryview(chunk)[written:])
        finally:
            with self._store.totals.change(UPLOADS) as count:
                count(written)
        self._offset += len(chunk)
        for each in (self._hash, self._proof):
            if each is not None:
                each.update(chunk)

    def finish(self) -> Upload:
        """Ends the part, and makes a blob of an upload that is whole.

        Raises:
            ChecksumMismatch: The part is not what it was said to be; it is forgotten.
            DigestMismatch: The whole is not what it was said to be; the upload is forgotten.
        """
        if self._checksum is not None and not hmac.compare_digest(self._proof.digest(), self._checksum.value):
            raise ChecksumMismatch(
                "The part does not have the checksum it was sent with.",
                given=f"{self._checksum.algorithm} {self._checksum.value.hex()}",
                allowed=f"{self._proof.hexdigest()}, of the {self._offset - self._upload.offset} bytes that came",
                hint="It was altered on its way: send it again from the same offset.",
            )
        self._sure.unlink(missing_ok=True)
        if self._file is not None and self._offset == self._upload.length:
            self._make_blob(self._file)
        return self._store.uploads.find(self._upload.id)

    def _make_blob(self, file: BinaryIO) -> None:
        sync_file(file)
        digest = f"sha256:{(self._hash or _hash_of(file)).hexdigest()}"
        if digest != self._upload.digest:
            raise DigestMismatch(
                "The bytes do not have the digest they were announced with.",
                given=f"{self._upload.length} bytes with {digest}",
                allowed=self._upload.digest,
                hint="The file has changed meanwhile, or the digest is of another one: start a new upload.",
            )
        path = self._sure.with_suffix(".part")
        os.utime(self._sure.with_suffix(".info"))
        folders = self._store.move_in(path, digest)
        # Where the blob was there already, the bytes still lie here.
        path.unlink(missing_ok=True)
        with self._store.totals.change(UPLOADS) as count:
            count(-self._upload.length)
        for folder in folders:
            sync_folder(folder)
        self._store.settle(folders)


def _check_room(store: FilesystemBlobStore, size: int) -> None:
    room = store.room()
    if room is not None and size > room:
        raise OutOfSpace(
            "The blob store has no room for these bytes.",
            given=f"{size} bytes, where there is room for {max(0, room)}",
            allowed=store.bounds,
            hint="Delete finished jobs, shorten IHVP_RETENTION_S, or raise IHVP_MAX_STORE_BYTES.",
        )


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _hash_of(file: BinaryIO) -> Any:
    file.seek(0)
    return hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]


def _replace(path: Path, document: Any) -> None:
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fresh.write_text(json.dumps(document), encoding="utf-8")
    fresh.rename(path)
