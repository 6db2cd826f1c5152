"""An upload in parts, as whoever looks at it sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

__all__ = ["CHECKSUMS", "Checksum", "Upload"]

CHECKSUMS: Final = ("sha1", "sha256")
"""Checksums that a part may be sent with."""


@dataclass(frozen=True)
class Checksum:
    """What a part has to hash to.

    Attributes:
        algorithm: One of ``CHECKSUMS``.
    """

    algorithm: str
    value: bytes


@dataclass(frozen=True)
class Upload:
    """An upload as it stands.

    Attributes:
        digest: Of the blob that it will be, ``sha256:<64 hex>``.
        length: Bytes in all.
        offset: Bytes that are there.
        metadata: What its maker told of it, as it was sent.
        expires_at: Until when it may be continued, or, once it is finished, asked for.
    """

    id: str
    digest: str
    length: int
    offset: int
    metadata: str
    expires_at: datetime

    @property
    def finished(self) -> bool:
        """Whether the blob is there."""
        return self.offset == self.length
