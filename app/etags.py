"""What a caller's conditions say about entity tags (RFC 9110)."""

from __future__ import annotations

__all__ = ["matches"]


def matches(condition: str | None, etag: str) -> bool:
    """Whether an If-None-Match condition names this tag (weakly compared, as the RFC says for it)."""
    if condition is None:
        return False
    if condition.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == etag for tag in condition.split(","))
