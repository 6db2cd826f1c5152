"""The job store's contract: what every adapter does, and what it promises.

Promises, held by one contract suite over all adapters:

* A job moves only along ``ihvp.jobs.states.TRANSITIONS``, each move atomic, each adding one to its revision
  and one ``state`` event to its stream.
* A claim raises the attempt and starts a lease on the store's clock. Every later write of a worker names
  the attempt it was given; once that attempt is no longer the current one the write is refused.
* Jobs that are claimed as one block stay jobs of their own: each has its attempt, its lease and its end.
* To a tenant, the jobs of another do not exist. Only places in the queue, which are numbers, count all that wait.
* A job whose cancellation was asked for ends ``cancelled``, whatever its worker reports afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from ihvp.errors import IhvpError
from ihvp.jobs.counts import Measurements, SignOfLife
from ihvp.jobs.listing import JobFilter, Page
from ihvp.jobs.outlook import Origin, Outlook, Place
from ihvp.jobs.record import JobError, JobEvent, JobRecord, Progress, ResultSummary, named
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, Priority

__all__ = [
    "Chain",
    "Deleted",
    "EventPage",
    "Finish",
    "JobFilter",
    "JobStore",
    "LeaseState",
    "Once",
    "Page",
    "Quarantined",
    "Reclaimed",
    "Standing",
    "WorkerInfo",
]


NOWHERE: Final = Origin()


class LeaseState(str, Enum):
    """What a worker learns when it renews a lease."""

    Held = "held"
    CancelRequested = "cancel_requested"
    DeadlinePassed = "deadline_passed"
    Lost = "lost"


@dataclass(frozen=True)
class EventPage:
    """Events of a job after a position, oldest first.

    Attributes:
        gap: Whether some after the position were dropped for want of room: points of progress, never a transition.
    """

    events: Sequence[JobEvent]
    gap: bool


@dataclass(frozen=True)
class Deleted:
    """What deleting a job has left behind.

    Attributes:
        blobs: Those of its result that no job needs any more.
        ended_s: How long ago the job ended: a blob that is younger was asked to be kept since.
    """

    blobs: Sequence[str]
    ended_s: float


@dataclass(frozen=True)
class Standing:
    """What tells whether a job's record has changed, without the record: two equal ones have equal records.

    Attributes:
        place: Where a queued one stands; None when it is not queued.
    """

    state: JobState
    revision: int
    place: Place | None

    @property
    def queue_position(self) -> int | None:
        """How many jobs stand before a queued one; None when it is not queued."""
        return None if self.place is None else self.place.queue_position


@dataclass(frozen=True)
class Reclaimed:
    """What became of a job whose worker was lost.

    Attributes:
        attempt: The one that was lost.
        request_id: Of the request that submitted the job.
        trace: The ``traceparent`` that it goes on.
    """

    job_id: str
    state: JobState
    attempt: int = field(default=0, compare=False)
    request_id: str | None = field(default=None, compare=False)
    trace: str | None = field(default=None, compare=False)

    @property
    def named(self) -> dict[str, Any]:
        """See ``JobRecord.named``."""
        return named(self.job_id, self.attempt, self.request_id, self.trace)


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that reported itself, and how long ago in seconds."""

    worker_id: str
    age_s: float


@dataclass(frozen=True)
class Chain:
    """Whether messages reach workers.

    Attributes:
        workers: How many live.
        proof_age_s: How long ago one of them is known to have taken a message, or to have worked; None if never.
        asked_age_s: For how long a message that was sent to see has not been taken; None where none is out.
        send: Whether to send one now.
    """

    workers: int
    proof_age_s: float | None
    asked_age_s: float | None
    send: bool


@dataclass(frozen=True)
class Finish:
    """The end of an attempt at a job.

    Attributes:
        state: succeeded with a result, failed with an error, cancelled, or expired with a result or none.
        progress: The last of it: events before the one of the end.
    """

    job_id: str
    attempt: int
    state: JobState
    result: ResultSummary | None = None
    error: JobError | None = None
    progress: Sequence[Progress] = ()


@dataclass(frozen=True)
class Once:
    """That a job is to be made once, however often it is asked for.

    Attributes:
        key: What names the request: the same key is the same request.
        fingerprint: What tells another request under the same key.
        kept_s: For how long the key is remembered.
    """

    key: str
    fingerprint: str
    kept_s: float


@dataclass(frozen=True)
class Quarantined:
    """A method on a model that has killed as many workers as a job may: no job of both runs for a while.

    Attributes:
        method: The method.
        model_digest: The model.
        job_id: The job that it began with.
        left_s: How long it lasts yet.
    """

    method: str
    model_digest: str
    job_id: str
    left_s: float


class JobStore(Protocol):
    """Where jobs live. All times are the store's own; every method may raise ``StoreUnavailable``."""

    def of(self, tenant: str, most_queued: int | None = None) -> JobStore:
        """The same store as one tenant sees it: another's jobs are not found, and what is made is the tenant's.

        Without, all jobs are seen, and those that are made are the default tenant's: so workers see the store.

        Args:
            tenant: Whose jobs.
            most_queued: How many of them may wait; past these ``submit`` raises ``QuotaExceeded``.
        """

    def submit(
        self,
        job_id: str,
        request: JobRequest,
        *,
        once: Once | None = None,
        most_queued: int | None = None,
        origin: Origin = NOWHERE,
    ) -> tuple[JobRecord, Place | None]:
        """Puts a new job into the queue, or finds the one that was made of the same request before.

        Args:
            job_id: Must be new and sort by time (ULID).
            request: Everything resolved.
            once: Under what the job may be asked for again; the record that is returned then has another id.
            most_queued: How many jobs may wait; one that exists already is found however many do.
            origin: Where it comes from. Not part of what is the same: a job that is found keeps its own.

        Returns:
            The job, and where it stands in the queue if it does.

        Raises:
            IdempotencyMismatch: The key was used for another request.
            QueueFull: As many jobs wait as may.
            JobNotFound: The job that was made under the key has been deleted.
        """

    def create(
        self, job_id: str, request: JobRequest, *, once: Once | None = None, most_queued: int | None = None
    ) -> JobRecord:
        """``submit`` for those who do not ask where the job stands."""

    def made_once(self, once: Once) -> JobRecord | None:
        """The job that was made under the key, without making one.

        Raises:
            IdempotencyMismatch: The key was used for another request.
            JobNotFound: It has been deleted.
        """

    def get(self, job_id: str) -> JobRecord:
        """The job.

        Raises:
            JobNotFound: No job has this id.
        """

    def standing(self, job_id: str) -> Standing:
        """Whether the job has changed, at a fraction of the cost of reading it.

        Raises:
            JobNotFound: No job has this id.
        """

    def list(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        """Jobs that pass the filter, newest first."""

    def queue_position(self, job_id: str) -> int | None:
        """How many jobs stand before a queued one; None when it is not queued."""

    def foresee(self, priority: Priority, predicted_s: float | None) -> Outlook:
        """What a job that came now would find: how many wait, and when it would be taken and done."""

    def queue_length(self) -> int:
        """How many jobs wait."""

    def claim(self, owner: str, lease_s: float) -> JobRecord | None:
        """Takes the best waiting job for this owner: by priority, where waiting counts; None if none waits."""

    def claim_block(self, owner: str, lease_s: float, most_rhs: int, most_numbers: int) -> Sequence[JobRecord]:
        """The same, and takes along waiting jobs that can be solved with it, in the order of the queue.

        They have the same model, method, options, λ and curvature, and altogether no more than ``most_rhs``
        right-hand sides with ``most_numbers`` numbers in them. None is taken along past a waiting job that has a
        higher priority or any deadline, nor behind one of the block whose deadline is less than a minute away. A job
        that a worker died on, or that has a checkpoint for it alone, stays alone.
        """

    def renew(self, job_id: str, attempt: int, lease_s: float) -> LeaseState:
        """Prolongs the lease, and tells whether the worker should stop."""

    def report(self, job_id: str, attempt: int, progress: Progress) -> LeaseState:
        """Records progress as an event, and tells whether the worker should stop."""

    def renew_all(self, jobs: Sequence[tuple[str, int]], lease_s: float) -> Sequence[LeaseState]:
        """``renew`` for the jobs of a block, each with its attempt: one round trip, and one sync to disk."""

    def report_all(self, points: Sequence[tuple[str, int, Progress]]) -> Sequence[LeaseState]:
        """``report`` for the jobs of a block, each with its attempt, in the same way."""

    def finish_all(self, endings: Sequence[Finish]) -> Sequence[IhvpError | None]:
        """``succeed``, ``fail`` and ``stop`` for jobs of a block in the same way; what is refused harms no other.

        Returns:
            For each ``StaleAttempt`` or ``JobNotFound`` where it was refused, None where it was not.
        """

    def checkpoint(self, job_id: str, attempt: int, digest: str, *, alone: bool) -> str | None:
        """Notes the blob of what the next attempt goes on from; it is referenced until the job ends.

        Args:
            job_id: The job.
            attempt: The writer's.
            digest: The blob.
            alone: Whether it is of use only where the job is solved alone.

        Returns:
            The blob that it supersedes, where nothing refers to that any more.

        Raises:
            StaleAttempt: The attempt is no longer the current one.
        """

    def succeed(self, job_id: str, attempt: int, result: ResultSummary) -> JobRecord:
        """Ends the job with its result: ``succeeded``, or ``cancelled`` where that was asked for.

        Raises:
            StaleAttempt: The attempt is no longer the current one.
        """

    def fail(self, job_id: str, attempt: int, error: JobError) -> JobRecord:
        """Ends the job with an error: ``failed``, or ``cancelled`` where that was asked for.

        Raises:
            StaleAttempt: The attempt is no longer the current one.
        """

    def stop(self, job_id: str, attempt: int, state: JobState, result: ResultSummary | None = None) -> JobRecord:
        """Ends the job as ``cancelled`` or ``expired``; an expired one may keep what it had reached.

        Raises:
            StaleAttempt: The attempt is no longer the current one.
        """

    def release(self, job_id: str, attempt: int) -> None:
        """Gives a running job back to the queue, without counting the attempt against it (its worker shuts down).

        Raises:
            StaleAttempt: The attempt is no longer the current one.
        """

    def request_cancel(self, job_id: str) -> JobRecord:
        """Ends a queued job as ``cancelled``; marks a running one so that its worker stops.

        Raises:
            JobNotFound: No job has this id.
            JobAlreadyFinished: It ended otherwise. Cancelling a cancelled job again changes nothing.
        """

    def delete(self, job_id: str) -> Deleted:
        """Removes a finished job, and hands out the blobs of its result that no job needs any more.

        Raises:
            JobNotFound: No job has this id.
            JobNotFinished: It has not ended.
        """

    def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[JobEvent]:
        """Events of the job after a position, oldest first."""

    def event_page(self, job_id: str, *, after: str = "0", limit: int = 100) -> EventPage:
        """The same, and whether there are gaps between them."""

    def reclaim_lapsed(self, max_attempts: int) -> Sequence[Reclaimed]:
        """Takes jobs whose lease has run out back into the queue, or fails them as ``worker_lost``."""

    def reclaim_owner(self, owner: str, max_attempts: int) -> Sequence[Reclaimed]:
        """The same at once for every job of an owner that is known to be dead."""

    def expire_overdue(self) -> Sequence[str]:
        """Ends queued jobs past their deadline, and running ones whose worker did not stop in time.

        In time: for its deadline or its cancellation. Such a worker is condemned; see ``condemn``.
        """

    def condemn(self, owner: str, grace_s: float) -> Sequence[str] | None:
        """Ends jobs that an owner did not stop in time, ``cancelled`` or ``expired``, and tells whether to kill it.

        A condemned owner is given no more jobs, and its death is counted against none of those that it still holds,
        until ``reclaim_owner`` says that it is dead.

        Args:
            owner: The worker.
            grace_s: Seconds that it may take to stop a job after its cancellation or its deadline.

        Returns:
            The ids of the jobs that were ended now, none where ``expire_overdue`` ended them before; None where the
            owner is not condemned.
        """

    def drop_results(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """Removes the results of jobs that ended longer ago than this many seconds; the jobs stay."""

    def drop_jobs(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """Deletes jobs that ended longer ago than this many seconds, in the order of their ends."""

    def referenced_blobs(self) -> set[str]:
        """Digests that any job still needs: a scan over all, for those who check the store as a whole."""

    def referenced_among(self, digests: Collection[str]) -> set[str]:
        """Those of the digests that any job still needs, at a cost that depends on their number alone."""

    def worker_alive(self, worker_id: str, sign: SignOfLife | None = None) -> None:
        """Notes that this worker lives, and takes over what it has counted: once a mark."""

    def worker_gone(self, worker_id: str) -> None:
        """Forgets a worker that shuts down."""

    def workers(self) -> Sequence[WorkerInfo]:
        """The workers that reported themselves, most recent first."""

    def measure(self) -> Measurements:
        """The store at this moment, and all that it has counted."""

    def chain(self, alive_s: float, fresh_s: float, pause_s: float) -> Chain:
        """Whether messages reach workers, and whether the caller is the one to send another to see.

        A claim proves it, for it follows a message, and so does a live lease: a worker that solves takes no message.

        Args:
            alive_s: Age from which a worker that did not report itself counts as gone.
            fresh_s: Age from which a proof is old.
            pause_s: Between two messages, however many ask.
        """

    def quarantined(self) -> Sequence[Quarantined]:
        """What is in quarantine: jobs of such a method and model fail as ``model_quarantined`` in their turn."""

    def end_quarantine(self, model_digest: str) -> Sequence[Quarantined]:
        """Lets a model out, for every method that it was in for; returns those."""

    def acquire_leadership(self, name: str, holder: str, ttl_s: float) -> bool:
        """Becomes or stays the only holder of a named role."""

    def ping(self) -> None:
        """Checks that the store answers and that its schema is the one this version writes."""
