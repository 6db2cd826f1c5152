"""When a waiting job will be taken and be done: worked out of what the store knows, where the queue is.

The readable form of what ``ihvp/jobs/lua/prelude_forecast.lua`` does; both adapters are held to each other.

A worker is free when its block is expected to end; what waits ahead is spread over the workers as they become free.
Predicted seconds are calibrated: by what the last blocks took, over what was predicted for all of their jobs, so that
solving several jobs together counts too. Times move only when something else does: the queue, a worker, or a block
that is revised or outlives what was expected of it, which is then expected to take twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ihvp.blobs.store import BlobInfo

__all__ = ["NEAR", "Eta", "Forecast", "Origin", "Outlook", "Pace", "Place", "Unknown", "overdue"]

NEAR: Final = 32
"""Jobs at the head of the queue that are looked at one by one; of those behind, the mean counts."""
DECAY: Final = 0.9
"""What each block leaves of the weight of those before it: the last ten or so decide."""
GRACE_S: Final = 1.0
"""How late something may be before it is expected later."""
REVISED: Final = 0.25
"""Share of the time left by which a block's end has to move before it is told."""


class Unknown(str, Enum):
    """Why nothing is known."""

    NoLiveWorker = "no_live_worker"
    NothingMeasured = "nothing_measured"


@dataclass(frozen=True)
class Eta:
    """When a waiting job is expected to start and to end.

    Attributes:
        starts_at: To the second; None if unknown.
        ends_at: The same.
        unknown: Why one of them, or both, is None.
    """

    starts_at: datetime | None = None
    ends_at: datetime | None = None
    unknown: Unknown | None = None

    @classmethod
    def of(cls, starts_s: float | None, ends_s: float | None, unknown: Unknown | None) -> Eta:
        """From seconds since 1970."""
        return cls(_to_the_second(starts_s), _to_the_second(ends_s), unknown)


@dataclass(frozen=True)
class Place:
    """Where a waiting job stands: how many jobs before it, and until when."""

    queue_position: int
    eta: Eta


@dataclass(frozen=True)
class Outlook:
    """What a job that came now would find.

    Attributes:
        queue_length: All that wait.
        workers: Live ones.
        starts_in_s: Seconds until it would be taken; None if unknown.
        ends_in_s: Seconds until it would be done; None if unknown.
        unknown: Why one of them, or both, is None.
    """

    queue_length: int
    workers: int
    starts_in_s: float | None
    ends_in_s: float | None
    unknown: Unknown | None


@dataclass(frozen=True)
class Origin:
    """Where a job came from, and what was expected of it then; none of it changes what is solved.

    Attributes:
        request_id: Of the request that submitted it.
        trace: The W3C ``traceparent`` that it goes on.
        predicted_s: Seconds it was predicted to take; None if nobody tried.
        brings: A blob that was stored for it: the tenant whose job it is holds it.
    """

    request_id: str | None = None
    trace: str | None = None
    predicted_s: float | None = None
    brings: BlobInfo | None = None


@dataclass(frozen=True)
class Pace:
    """What the last blocks of jobs took, older ones counting less.

    Attributes:
        busy_s: Seconds of workers.
        jobs: Jobs in these blocks.
        blocks: The blocks.
        foreseen_busy_s: Seconds of the blocks all of whose jobs had been predicted.
        foreseen_s: What was predicted for these jobs.
    """

    busy_s: float = 0.0
    jobs: float = 0.0
    blocks: float = 0.0
    foreseen_busy_s: float = 0.0
    foreseen_s: float = 0.0

    def after(self, seconds: float, jobs: int, predicted_s: float | None) -> Pace:
        """With one more block."""
        found = replace(
            self, busy_s=DECAY * self.busy_s + seconds, jobs=DECAY * self.jobs + jobs, blocks=DECAY * self.blocks + 1
        )
        if not predicted_s:
            return found
        return replace(
            found,
            foreseen_busy_s=DECAY * self.foreseen_busy_s + seconds,
            foreseen_s=DECAY * self.foreseen_s + predicted_s,
        )

    @property
    def mean_s(self) -> float:
        """Seconds a job."""
        return self.busy_s / self.jobs if self.jobs else 0.0

    @property
    def factor(self) -> float:
        """Seconds for each that was predicted."""
        return self.foreseen_busy_s / self.foreseen_s if self.foreseen_s else 1.0

    @property
    def together(self) -> float:
        """Jobs in a block."""
        return self.jobs / self.blocks if self.blocks else 1.0

    def seconds(self, predicted_s: float | None) -> float:
        """What a job adds to the work ahead."""
        return self.mean_s if predicted_s is None else predicted_s * self.factor


def overdue(at: float, since: float, now: float) -> float:
    """When something is expected that should have come at some time: after twice as long, and twice as long again."""
    if at + GRACE_S >= now:
        return at
    span = max(at - since, GRACE_S)
    while since + span <= now:
        span *= 2
    return since + span


@dataclass(frozen=True)
class Forecast:
    """The state of the queue at one moment; all times in seconds since 1970.

    Attributes:
        now: The moment.
        moved: When the queue last changed.
        workers: Live ones.
        ends: Of each block that runs, when it is expected to end and when it began.
        pace: What the last blocks took.
        queue: Predicted seconds of the waiting jobs in their order, None where there is no prediction.
    """

    now: float
    moved: float
    workers: int
    ends: Sequence[tuple[float, float]]
    pace: Pace
    queue: Sequence[float | None]

    def at(self, place: int, predicted_s: float | None) -> tuple[float | None, float | None, Unknown | None]:
        """When a job is taken and done that has so many before it."""
        if not self.workers:
            return None, None, Unknown.NoLiveWorker
        if not self.pace.blocks:
            idle = place == 0 and len(self.ends) < self.workers
            return (self._idle() if idle else None), None, Unknown.NothingMeasured
        starts = self._level(self._ahead(place))
        return starts, starts + self.pace.seconds(predicted_s) * self.pace.together, None

    def _idle(self) -> float:
        return overdue(self.moved, self.moved, self.now)

    def _ahead(self, place: int) -> float:
        seconds = [self.pace.seconds(predicted) for predicted in self.queue]
        near, far = seconds[:NEAR], seconds[NEAR:]
        if place <= NEAR:
            return sum(near[:place])
        return sum(near) + sum(far) * (place - NEAR) / len(far)

    def _level(self, work: float) -> float:
        """When so much work is done that workers begin as they become free."""
        ends = [overdue(at, since, self.now) for at, since in self.ends]
        free = sorted(sorted(ends)[: self.workers] + [self._idle()] * (self.workers - len(ends)))
        level, left = free[0], work
        for number, following in enumerate([*free[1:], float("inf")], start=1):
            if left <= (following - level) * number:
                return level + left / number
            left -= (following - level) * number
            level = following
        return level


def _to_the_second(stamp: float | None) -> datetime | None:
    return None if stamp is None else datetime.fromtimestamp(int(stamp + 0.5), UTC)
