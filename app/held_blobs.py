"""Blobs as one tenant may see them: those that it holds, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ihvp.errors import BlobNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from app.services import Services
    from ihvp.blobs.store import BlobAccess, BlobInfo, BlobWriter

__all__ = ["HeldBlobs", "held_blobs"]


class HeldBlobs:
    """``BlobAccess`` in which only some blobs are found; writing is as in the store itself.

    Args:
        blobs: All blobs.
        held: Digests of those that are found.
    """

    def __init__(self, blobs: BlobAccess, held: set[str]) -> None:
        self._blobs = blobs
        self._held = held

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """See ``BlobAccess.writer``."""
        return self._blobs.writer()

    def stat(self, digest: str) -> BlobInfo:
        """See ``BlobAccess.stat``."""
        return self._of(digest).stat(digest)

    def open(self, digest: str) -> BinaryIO:
        """See ``BlobAccess.open``."""
        return self._of(digest).open(digest)

    def local_path(self, digest: str) -> Path:
        """See ``BlobAccess.local_path``."""
        return self._of(digest).local_path(digest)

    def touch(self, digest: str) -> None:
        """See ``BlobAccess.touch``."""
        self._of(digest).touch(digest)

    def _of(self, digest: str) -> BlobAccess:
        if digest not in self._held:
            raise BlobNotFound("No blob has this digest.", given=digest, hint="Upload it with PUT /v1/blobs/<digest>.")
        return self._blobs


async def held_blobs(services: Services, digests: Iterable[str]) -> HeldBlobs:
    """The blobs among which a request's digests are looked for: those of them that its tenant holds.

    Whatever a caller names by digest is to be found through this. What another tenant holds is then as unknown as
    what was never uploaded.

    Args:
        services: Of the request's tenant.
        digests: Those that the request names.
    """
    return HeldBlobs(services.blobs, await services.holdings.held(set(digests)))
