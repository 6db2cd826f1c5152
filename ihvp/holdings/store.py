"""The contract of what tenants hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ihvp.errors import QuotaExceeded

__all__ = ["Holdings", "no_room"]


def no_room(size: int, total: int, most: int) -> QuotaExceeded:
    """The refusal of a blob that a tenant has no room for.

    Args:
        size: Bytes of the blob.
        total: Bytes that the tenant has.
        most: Bytes that it may have.
    """
    return QuotaExceeded(
        "This tenant has no room for the blob.",
        given=f"{size} bytes to {total} that are kept",
        allowed=f"{most} bytes in all (IHVP_TENANT_BYTES)",
        hint="Delete finished jobs; a blob that nothing refers to goes after IHVP_ORPHAN_GRACE_S.",
        retry_after_s=60.0,
    )


class Holdings(Protocol):
    """Blobs by tenant, each counted once for every one that holds it; all methods may raise ``StoreUnavailable``."""

    def of(self, tenant: str) -> Holdings:
        """The same for this tenant; without, it is the default one's."""

    def add(self, digest: str, size: int, *, most: int | None = None) -> bool:
        """Lets the tenant see a blob that is stored; says whether it did not before.

        Args:
            digest: The blob.
            size: Its bytes.
            most: How many bytes the tenant may hold; None for no bound.

        Raises:
            QuotaExceeded: There is no room for it.
        """

    def held(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that the tenant may see."""

    def total(self) -> int:
        """Bytes of all blobs that the tenant holds."""

    def forget(self, digests: Collection[str]) -> None:
        """Notes that blobs are gone: no tenant holds them any more."""
