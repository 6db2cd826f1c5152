"""The factor index's contract."""

from __future__ import annotations

from typing import Protocol

__all__ = ["FactorIndex"]


class FactorIndex(Protocol):
    """Names of factors and the blobs that hold them, within a bound of bytes; those used least recently go first.

    A factor is never needed, only cheaper than a new one. Every method may raise ``StoreUnavailable``.
    """

    def find(self, name: str) -> str | None:
        """Digest of the factor's blob, which counts as used now; None where none is kept under the name."""

    def keep(self, name: str, digest: str, size: int) -> bool:
        """Notes that a blob of so many bytes holds the factor; False where the bound has no room for it."""

    def forget(self, name: str) -> None:
        """Drops a factor, if it is there."""

    def drop_unused(self, unused_s: float) -> int:
        """Drops factors that nobody has used for so many seconds; says how many."""

    def referenced_blobs(self) -> set[str]:
        """Digests of all factors' blobs."""
