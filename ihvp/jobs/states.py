"""The life of a job as a table: which state may follow which."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["TERMINAL", "TRANSITIONS", "JobState", "may_follow"]


class JobState(str, Enum):
    """Where a job stands."""

    Queued = "queued"
    Running = "running"
    Succeeded = "succeeded"
    Failed = "failed"
    Cancelled = "cancelled"
    Expired = "expired"


TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.Queued: frozenset({JobState.Running, JobState.Failed, JobState.Cancelled, JobState.Expired}),
    # Back to queued when its worker is lost or shut down.
    JobState.Running: frozenset(
        {JobState.Queued, JobState.Succeeded, JobState.Failed, JobState.Cancelled, JobState.Expired}
    ),
    JobState.Succeeded: frozenset(),
    JobState.Failed: frozenset(),
    JobState.Cancelled: frozenset(),
    JobState.Expired: frozenset(),
}

TERMINAL: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)


def may_follow(state: JobState, following: JobState) -> bool:
    """Whether a job in ``state`` may turn into ``following``."""
    return following in TRANSITIONS[state]
