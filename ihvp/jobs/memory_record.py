"""What the in-memory job store knows of one job, and what it asks about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ihvp.jobs import rules
from ihvp.jobs.record import JobEvent, JobRecord
from ihvp.jobs.states import JobState
from ihvp.keyvalue.calls import to_microseconds

__all__ = ["Kept", "is_ahead", "is_alike", "is_current", "is_near_deadline", "is_overdue"]


@dataclass
class Kept:
    """A job, and what no caller sees of it."""

    job: JobRecord
    score: datetime
    lease_until: datetime | None = None
    alike: str = ""
    alone: bool = False
    cancelled_at: datetime | None = None
    predicted_s: float | None = None
    expected: tuple[float | None, float | None] = (None, None)
    block: tuple[int, float | None] | None = None
    events: list[JobEvent] = field(default_factory=list)
    dropped: tuple[int, int] = (0, 0)

    def announce_state(self, now: datetime, limit: int) -> str:
        """Adds the event of the job's state, and returns its id."""
        job = self.job
        data = {"state": job.state.value, "attempt": job.attempt, "revision": job.revision}
        return self.announce(now, "state", data, limit)

    def announce(self, now: datetime, kind: str, data: dict[str, Any], limit: int) -> str:
        """Adds an event, and returns its id; past the limit the oldest point of progress goes."""
        milliseconds, number = to_microseconds(now) // 1000, 0
        if self.events:
            last = rules.event_position(self.events[-1].id)
            if (milliseconds, 0) <= last:
                milliseconds, number = last[0], last[1] + 1
        event_id = f"{milliseconds}-{number}"
        self.events.append(JobEvent(id=event_id, type=kind, data=data))
        if len(self.events) > limit:
            points = (at for at, event in enumerate(self.events) if event.type == "progress")
            oldest = next(points, None)
            if oldest is not None:
                self.dropped = rules.event_position(self.events.pop(oldest).id)
        return event_id

    def is_unstopped(self, since: datetime) -> bool:
        """Whether it runs although it was cancelled, or its deadline passed, before then."""
        cancelled = self.cancelled_at is not None and self.cancelled_at < since
        return self.job.state is JobState.Running and (cancelled or is_overdue(self.job, since))


def is_current(job: JobRecord, attempt: int) -> bool:
    """Whether a worker's attempt is still the job's current one."""
    return job.state is JobState.Running and job.attempt == attempt


def is_overdue(job: JobRecord, now: datetime) -> bool:
    """Whether its deadline has passed."""
    return job.deadline_at is not None and now > job.deadline_at


def is_alike(first: Kept, other: Kept) -> bool:
    """Whether two jobs may be solved as one block."""
    alone = any(kept.job.losses or kept.alone for kept in (first, other))
    return first.alike == other.alike and not alone


def is_near_deadline(job: JobRecord, now: datetime) -> bool:
    """Whether its deadline is too near for it to pay for others with its time."""
    return job.deadline_at is not None and job.deadline_at - now < timedelta(seconds=rules.NEAR_DEADLINE_S)


def is_ahead(waiting: JobRecord, of: JobRecord) -> bool:
    """Whether a job that stands before another may not be overtaken by it."""
    higher = rules.HEAD_START_S[waiting.request.priority] > rules.HEAD_START_S[of.request.priority]
    return higher or waiting.deadline_at is not None
