"""Which jobs a listing shows, and a stretch of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ihvp.jobs.outlook import Place
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.methods import InversionMethod

__all__ = ["JobFilter", "Page"]


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; what is left out does not restrict.

    Attributes:
        tags: All of these must be set on the job.
        model: ``name`` or ``name@version``.
    """

    state: JobState | None = None
    method: InversionMethod | None = None
    model: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None

    def admits(self, job: JobRecord) -> bool:
        """Whether a job is to be listed."""
        request = job.request
        reference = request.model.reference
        return (
            self.state in {None, job.state}
            and self.method in {None, request.method}
            and (self.model is None or reference == self.model or (reference or "").startswith(f"{self.model}@"))
            and self.tags.items() <= request.tags.items()
            and (self.created_after is None or job.created_at > self.created_after)
            and (self.created_before is None or job.created_at < self.created_before)
        )


@dataclass(frozen=True)
class Page:
    """A stretch of a listing, newest first; ``cursor`` continues after it, None at the end.

    Attributes:
        places: Of those of its jobs that wait, by id.
    """

    jobs: Sequence[JobRecord]
    cursor: str | None
    places: Mapping[str, Place] = field(default_factory=dict)
