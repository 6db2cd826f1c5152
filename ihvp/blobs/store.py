"""The blob store's contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

__all__ = ["BlobAccess", "BlobGroup", "BlobInfo", "BlobStore", "BlobWriter"]


@dataclass(frozen=True)
class BlobInfo:
    """A stored blob.

    Attributes:
        digest: ``sha256:<64 hex>``.
        size: Bytes.
        age_s: Seconds since it was last written or asked to be kept.
        created: Whether the write that returned this made it.
    """

    digest: str
    size: int
    age_s: float = 0.0
    created: bool = False


class BlobWriter(Protocol):
    """Bytes on their way in; nothing is visible before ``commit``."""

    def write(self, chunk: bytes) -> None:
        """Adds bytes.

        Raises:
            OutOfSpace: The store's bound or the disk is reached.
        """

    def commit(self, expected: str | None = None) -> BlobInfo:
        """Makes the bytes durable and visible under their digest.

        Raises:
            DigestMismatch: The digest is not the expected one; nothing is stored.
        """


class BlobGroup(Protocol):
    """Blobs that become durable and visible in one go, for the price of one or two of them."""

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """A writer of one more blob; its ``commit`` says digest and size, and stores nothing yet."""

    def commit(self) -> Mapping[str, Exception]:
        """Makes all blobs that were written durable and visible, each for itself; the group is empty again.

        Returns:
            What kept a blob from it, by the digest: ``OutOfSpace``, or an ``OSError``.
        """


class BlobAccess(Protocol):
    """Bytes by digest, for whoever brings and reads some of them."""

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """A writer; leaving it without ``commit`` leaves nothing behind."""

    def stat(self, digest: str) -> BlobInfo:
        """Size and age.

        Raises:
            BlobNotFound: No blob has this digest.
        """

    def open(self, digest: str) -> BinaryIO:
        """The bytes, seekable.

        Raises:
            BlobNotFound: No blob has this digest.
        """

    def local_path(self, digest: str) -> Path:
        """A file that holds the bytes, for mapping into memory; never to be written to.

        Raises:
            BlobNotFound: No blob has this digest.
        """

    def touch(self, digest: str) -> None:
        """Refreshes the age, so that a sweep in progress does not take a blob that is being referred to.

        Raises:
            BlobNotFound: No blob has this digest.
        """


class BlobStore(BlobAccess, Protocol):
    """All bytes. Writing what is there already is cheap and refreshes its age."""

    def group(self) -> AbstractContextManager[BlobGroup]:
        """A group of writers; leaving it without ``commit`` leaves nothing behind."""

    def delete(self, digest: str) -> None:
        """Removes the blob, if it is there."""

    def sweep_unfinished(self, older_than_s: float) -> int:
        """Removes what broken-off writes left, and uploads that have expired; says how many."""

    def __iter__(self) -> Iterator[BlobInfo]:
        """All blobs."""
