"""Strong entity tags, and what a caller's conditions say about them (RFC 9110)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ihvp.jobs.record import JobRecord

__all__ = ["job_etag", "matches"]


def job_etag(job: JobRecord, queue_position: int | None) -> str:
    """Changes exactly when the job's body does: that is made of the record and its place in the queue."""
    place = "" if queue_position is None else f".{queue_position}"
    return f'"r{job.revision}{place}"'


def matches(condition: str | None, etag: str) -> bool:
    """Whether an If-None-Match condition names this tag (weakly compared, as the RFC says for it)."""
    if condition is None:
        return False
    if condition.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == etag for tag in condition.split(","))
