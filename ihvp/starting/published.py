"""Who reaches the API."""

from __future__ import annotations

from ihvp.settings import Settings

__all__ = ["published_host"]


def published_host(settings: Settings) -> str:
    """The address at which callers reach the API: what it binds, or where its container's port is published."""
    if settings.publish is None:
        return settings.host
    host = settings.publish.rpartition(":")[0].strip("[]")
    # Docker publishes on all addresses where none is named.
    return host or "0.0.0.0"  # noqa: S104 - said, not bound
