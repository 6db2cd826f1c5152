"""What a caller's conditions say about entity tags (RFC 9110)."""

from __future__ import annotations

__all__ = ["matches", "matches_any"]


def matches(condition: str | None, etag: str) -> bool:
    """Whether an If-None-Match condition names this tag (weakly compared, as the RFC says for it)."""
    if condition is None:
        return False
    return matches_any(condition) or any(tag.strip().removeprefix("W/") == etag for tag in condition.split(","))


def matches_any(condition: str | None) -> bool:
    """Whether it names no tag: it holds as soon as there is an answer at all."""
    return condition is not None and condition.strip() == "*"
