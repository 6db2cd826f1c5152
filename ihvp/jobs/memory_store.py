"""The job store in plain Python: the readable model of the semantics, and a store for tests without a server."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from ihvp.errors import IhvpError, JobNotFound, StaleAttempt
from ihvp.jobs import rules
from ihvp.jobs.counts import Measurements, result_counts
from ihvp.jobs.memory_outlook import MemoryOutlook
from ihvp.jobs.memory_presence import atomic, utc_now
from ihvp.jobs.memory_record import Kept, is_ahead, is_alike, is_current, is_near_deadline, is_overdue
from ihvp.jobs.memory_shelf import MemoryShelf
from ihvp.jobs.outlook import Origin, Outlook, Place
from ihvp.jobs.record import JobError, JobEvent, JobRecord, Progress, ResultSummary
from ihvp.jobs.states import TERMINAL, JobState, may_follow
from ihvp.jobs.store import NOWHERE, Deleted, EventPage, Finish, JobFilter, LeaseState, Once, Page, Reclaimed, Standing
from ihvp.jobs.submission import JobRequest, Priority
from ihvp.keyvalue.calls import MICROSECOND, to_microseconds

__all__ = ["MemoryJobStore"]


class MemoryJobStore(MemoryShelf):
    """``JobStore`` within one process; nothing outlives it. Threads may share it.

    Args:
        clock: The store's time, with a time zone.
        event_limit: Events kept for a job.
        overdue_grace_s: How long a running job may take to stop after its deadline or its cancellation.
        worker_alive_s: For how long a worker counts as live after a sign of life.
        quarantine_s: For how long nothing runs on a system that has killed as many workers as a job may.
    """

    def __init__(
        self,
        clock: Callable[[], datetime] = utc_now,
        *,
        event_limit: int = 1000,
        overdue_grace_s: float = 15.0,
        worker_alive_s: float = 15.0,
        quarantine_s: float = 600.0,
    ) -> None:
        super().__init__(clock, quarantine_s)
        self._event_limit = event_limit
        self._grace = timedelta(seconds=overdue_grace_s)
        self._outlook = MemoryOutlook(self._counts, self._queue, lambda: self._live_workers(worker_alive_s))
        self._once: dict[str, tuple[str, str, datetime]] = {}

    def of(self, tenant: str, most_queued: int | None = None) -> MemoryJobStore:
        """See ``JobStore.of``."""
        view = copy.copy(self)
        view._tenant, view._most_own = tenant, most_queued
        return view

    @atomic
    def submit(
        self,
        job_id: str,
        request: JobRequest,
        *,
        once: Once | None = None,
        most_queued: int | None = None,
        origin: Origin = NOWHERE,
    ) -> tuple[JobRecord, Place | None]:
        """See ``JobStore.submit``."""
        job = self._create(job_id, request, once, most_queued, origin)
        return job, self._outlook.place(job.id, self._clock())

    def create(
        self, job_id: str, request: JobRequest, *, once: Once | None = None, most_queued: int | None = None
    ) -> JobRecord:
        """See ``JobStore.create``."""
        return self.submit(job_id, request, once=once, most_queued=most_queued)[0]

    def _create(
        self, job_id: str, request: JobRequest, once: Once | None, most_queued: int | None, origin: Origin
    ) -> JobRecord:
        if job_id in self._jobs:
            if self._jobs[job_id].job.request == request and self._jobs[job_id].job.tenant == self._owner:
                return self._jobs[job_id].job
            raise rules.job_exists(job_id)
        made = None if once is None else self.made_once(once)
        if made is not None:
            return made
        self._check_room(most_queued)
        # No two jobs share their created time, so that it alone orders them.
        taken = {kept.job.created_at for kept in self._jobs.values()}
        now = self._clock()
        created = max([now, *(at + MICROSECOND for at in taken)])
        deadline = None if request.deadline_s is None else created + timedelta(seconds=request.deadline_s)
        job = JobRecord(
            id=job_id,
            tenant=self._owner,
            state=JobState.Queued,
            created_at=created,
            deadline_at=deadline,
            request=request,
            request_id=origin.request_id,
            trace=origin.trace,
        )
        score = created - timedelta(seconds=rules.HEAD_START_S[request.priority])
        self._jobs[job_id] = Kept(job, score, alike=rules.alike(request, self._owner), predicted_s=origin.predicted_s)
        self._announce_state(self._jobs[job_id])
        self._counts.add("jobs_submitted", request.method.value)
        if once is not None:
            self._once[rules.once_key(once, self._owner)] = (
                job_id,
                once.fingerprint,
                now + timedelta(seconds=once.kept_s),
            )
        self._outlook.accepted(self._jobs[job_id], now)
        return job

    @atomic
    def made_once(self, once: Once) -> JobRecord | None:
        """See ``JobStore.made_once``."""
        job_id, fingerprint, until = self._once.get(rules.once_key(once, self._owner), ("", "", self._clock()))
        if until <= self._clock():
            return None
        if fingerprint != once.fingerprint:
            raise rules.other_request(job_id)
        return self._find(job_id).job

    @atomic
    def get(self, job_id: str) -> JobRecord:
        """See ``JobStore.get``."""
        return self._find(job_id).job

    @atomic
    def standing(self, job_id: str) -> Standing:
        """See ``JobStore.standing``."""
        job = self._find(job_id).job
        return Standing(job.state, job.revision, self._outlook.place(job_id, self._clock()))

    @atomic
    def list(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        """See ``JobStore.list``."""
        before = rules.listing_cursor(cursor)
        mine = (kept.job for kept in self._jobs.values() if self._sees(kept.job.id))
        newest_first = sorted(mine, key=lambda job: job.created_at, reverse=True)
        passing = [
            job
            for job in newest_first
            if (before is None or to_microseconds(job.created_at) < before) and wanted.admits(job)
        ]
        page = passing[:limit]
        more = len(passing) > limit and page
        now = self._clock()
        places = {job.id: place for job in page if (place := self._outlook.place(job.id, now)) is not None}
        return Page(page, str(to_microseconds(page[-1].created_at)) if more else None, places)

    @atomic
    def queue_position(self, job_id: str) -> int | None:
        """See ``JobStore.queue_position``."""
        if not self._sees(job_id):
            return None
        waiting = [kept.job.id for kept in self._queue()]
        return waiting.index(job_id) if job_id in waiting else None

    @atomic
    def foresee(self, priority: Priority, predicted_s: float | None) -> Outlook:
        """See ``JobStore.foresee``."""
        return self._outlook.foresee(priority, predicted_s, self._clock())

    @atomic
    def queue_length(self) -> int:
        """See ``JobStore.queue_length``."""
        return len(self._queue())

    def claim(self, owner: str, lease_s: float) -> JobRecord | None:
        """See ``JobStore.claim``."""
        return next(iter(self.claim_block(owner, lease_s, 0, 0)), None)

    @atomic
    def claim_block(self, owner: str, lease_s: float, most_rhs: int, most_numbers: int) -> Sequence[JobRecord]:
        """See ``JobStore.claim_block``."""
        now = self._clock()
        self._prove(owner)
        if owner in self._condemned:
            return []
        block: list[Kept] = []
        passed: list[Kept] = []
        rows = numbers = 0
        for kept in self._queue():
            if block and not is_alike(block[0], kept):
                passed.append(kept)
                continue
            if block and (rows >= most_rhs or is_near_deadline(block[-1].job, now)):
                break
            if is_overdue(kept.job, now):
                self._move(kept, JobState.Expired)
                continue
            refusal = None if block else self._refusal_of(rules.system(kept.job.request), now)
            if refusal is not None:
                self._move(kept, JobState.Failed, error=refusal)
                continue
            rows += kept.job.request.rhs.columns
            numbers += math.prod(kept.job.request.rhs.shape)
            too_large = rows > most_rhs or numbers > most_numbers
            if block and (too_large or any(is_ahead(other.job, kept.job) for other in passed)):
                break
            block.append(kept)
        for kept in block:
            kept.lease_until = now + timedelta(seconds=lease_s)
            self._move(kept, JobState.Running, attempt=kept.job.attempt + 1, owner=owner, started_at=now)
        self._outlook.began(block, now)
        return [kept.job for kept in block]

    @atomic
    def renew(self, job_id: str, attempt: int, lease_s: float) -> LeaseState:
        """See ``JobStore.renew``."""
        kept = self._jobs.get(job_id)
        if kept is None or not is_current(kept.job, attempt):
            return LeaseState.Lost
        kept.lease_until = self._clock() + timedelta(seconds=lease_s)
        return self._advice(kept.job)

    @atomic
    def report(self, job_id: str, attempt: int, progress: Progress) -> LeaseState:
        """See ``JobStore.report``."""
        kept = self._jobs.get(job_id)
        if kept is None or not is_current(kept.job, attempt):
            return LeaseState.Lost
        self._change(kept, progress=progress)
        self._outlook.reported(kept, progress.eta_s, self._clock())
        self._announce(kept, "progress", progress.model_dump(mode="json"))
        return self._advice(kept.job)

    @atomic
    def renew_all(self, jobs: Sequence[tuple[str, int]], lease_s: float) -> Sequence[LeaseState]:
        """See ``JobStore.renew_all``."""
        return [self.renew(job_id, attempt, lease_s) for job_id, attempt in jobs]

    @atomic
    def report_all(self, points: Sequence[tuple[str, int, Progress]]) -> Sequence[LeaseState]:
        """See ``JobStore.report_all``."""
        return [self.report(*point) for point in points]

    @atomic
    def finish_all(self, endings: Sequence[Finish]) -> Sequence[IhvpError | None]:
        """See ``JobStore.finish_all``."""
        return [_refusal(self._finish, ending) for ending in endings]

    @atomic
    def checkpoint(self, job_id: str, attempt: int, digest: str, *, alone: bool) -> str | None:
        """See ``JobStore.checkpoint``."""
        kept = self._held(job_id, attempt)
        before = kept.job.checkpoint
        if before == digest:
            return None
        self._change(kept, checkpoint=digest)
        kept.alone = alone
        return None if before in self.referenced_blobs() else before

    def succeed(self, job_id: str, attempt: int, result: ResultSummary) -> JobRecord:
        """See ``JobStore.succeed``."""
        return self._finish(Finish(job_id, attempt, JobState.Succeeded, result=result))

    def fail(self, job_id: str, attempt: int, error: JobError) -> JobRecord:
        """See ``JobStore.fail``."""
        return self._finish(Finish(job_id, attempt, JobState.Failed, error=error))

    def stop(self, job_id: str, attempt: int, state: JobState, result: ResultSummary | None = None) -> JobRecord:
        """See ``JobStore.stop``."""
        return self._finish(Finish(job_id, attempt, state, rules.kept_result(state, result)))

    @atomic
    def release(self, job_id: str, attempt: int) -> None:
        """See ``JobStore.release``."""
        kept = self._held(job_id, attempt)
        self._counts.add("jobs_released")
        self._move(kept, JobState.Cancelled if kept.job.cancel_requested else JobState.Queued)

    @atomic
    def request_cancel(self, job_id: str) -> JobRecord:
        """See ``JobStore.request_cancel``."""
        kept = self._find(job_id)
        state = kept.job.state
        if state is JobState.Queued:
            return self._move(kept, JobState.Cancelled, cancel_requested=True)
        if state is JobState.Running and not kept.job.cancel_requested:
            kept.cancelled_at = self._clock()
            self._change(kept, cancel_requested=True)
        elif state in TERMINAL and state is not JobState.Cancelled:
            raise rules.already_finished(job_id, state)
        return kept.job

    @atomic
    def delete(self, job_id: str) -> Deleted:
        """See ``JobStore.delete``."""
        job = self._find(job_id).job
        if job.finished_at is None:
            raise rules.not_finished(job_id, job.state)
        del self._jobs[job_id]
        yielded = rules.result_blobs(job.result)
        return Deleted(
            [digest for digest in yielded if digest not in self.referenced_blobs()],
            (self._clock() - job.finished_at).total_seconds(),
        )

    def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[JobEvent]:
        """See ``JobStore.events``."""
        return self.event_page(job_id, after=after, limit=limit).events

    @atomic
    def event_page(self, job_id: str, *, after: str = "0", limit: int = 100) -> EventPage:
        """See ``JobStore.event_page``."""
        position, kept = rules.event_position(after), self._find(job_id)
        later = [event for event in kept.events if rules.event_position(event.id) > position]
        return EventPage(later[:limit], gap=kept.dropped > position)

    @atomic
    def reclaim_lapsed(self, max_attempts: int) -> Sequence[Reclaimed]:
        """See ``JobStore.reclaim_lapsed``."""
        now = self._clock()
        lapsed = [kept for kept in self._running() if kept.lease_until is not None and kept.lease_until <= now]
        lapsed.sort(key=lambda kept: kept.lease_until or now)
        return [self._reclaim(kept, max_attempts, "lease_lapsed") for kept in lapsed]

    @atomic
    def reclaim_owner(self, owner: str, max_attempts: int) -> Sequence[Reclaimed]:
        """See ``JobStore.reclaim_owner``."""
        held = [kept for kept in self._running() if kept.job.owner == owner]
        reclaimed = [self._reclaim(kept, max_attempts, "worker_died") for kept in held]
        self._condemned.discard(owner)
        return reclaimed

    @atomic
    def expire_overdue(self) -> Sequence[str]:
        """See ``JobStore.expire_overdue``."""
        now = self._clock()
        overdue = [kept for kept in self._queue() if is_overdue(kept.job, now)]
        for kept in overdue:
            self._move(kept, JobState.Expired)
        unstopped = [kept for kept in self._running() if kept.is_unstopped(now - self._grace)]
        for kept in unstopped:
            self._give_up_on(kept)
        return [kept.job.id for kept in [*overdue, *unstopped]]

    @atomic
    def condemn(self, owner: str, grace_s: float) -> Sequence[str] | None:
        """See ``JobStore.condemn``."""
        since = self._clock() - timedelta(seconds=grace_s)
        unstopped = [kept for kept in self._running() if kept.job.owner == owner and kept.is_unstopped(since)]
        for kept in unstopped:
            self._give_up_on(kept)
        return [kept.job.id for kept in unstopped] if owner in self._condemned else None

    @atomic
    def measure(self) -> Measurements:
        """See ``JobStore.measure``."""
        queue, now = self._queue(), self._clock()
        oldest = min((kept.job.created_at for kept in queue), default=now)
        return Measurements(
            queue_length=len(queue),
            oldest_queued_s=max(0.0, (now - oldest).total_seconds()),
            jobs={state.value: len(list(self._in_state(state))) for state in JobState},
            workers=self._workers_seen(),
            leaders=self._roles(),
            counts=dict(self._counts.fields),
        )

    def ping(self) -> None:
        """See ``JobStore.ping``."""

    def _advice(self, job: JobRecord) -> LeaseState:
        if job.cancel_requested:
            return LeaseState.CancelRequested
        return LeaseState.DeadlinePassed if is_overdue(job, self._clock()) else LeaseState.Held

    @atomic
    def _finish(self, ending: Finish) -> JobRecord:
        kept = self._held(ending.job_id, ending.attempt)
        outcome: dict[str, Any] = {}
        if not kept.job.cancel_requested:
            outcome = {"result": ending.result, "error": ending.error}
            self._counts.merge(result_counts(ending.result), kept.job.request.method.value)
        for progress in ending.progress:
            self._announce(kept, "progress", progress.model_dump(mode="json"))
            outcome["progress"] = progress
        ended = self._move(kept, JobState.Cancelled if kept.job.cancel_requested else ending.state, **outcome)
        if ended.state is JobState.Succeeded:
            self._sound[rules.system(ended.request)] = self._clock()
        return ended

    def _give_up_on(self, kept: Kept) -> None:
        if kept.job.owner is not None:
            self._condemned.add(kept.job.owner)
        self._move(kept, JobState.Cancelled if kept.job.cancel_requested else JobState.Expired)

    def _reclaim(self, kept: Kept, max_attempts: int, cause: str) -> Reclaimed:
        counted = kept.job.owner not in self._condemned
        losses = kept.job.losses + counted
        kept.job = kept.job.model_copy(update={"losses": losses})
        if kept.job.cancel_requested:
            self._move(kept, JobState.Cancelled)
        elif counted and losses >= max_attempts:
            self._move(kept, JobState.Failed, error=rules.worker_lost_error(losses))
            self._begin_quarantine(rules.system(kept.job.request), kept.job.id)
        else:
            self._move(kept, JobState.Queued)
        self._counts.add("lease_losses", cause if counted else "child_killed", kept.job.state.value)
        job = kept.job
        return Reclaimed(job.id, job.state, job.attempt, job.request_id, job.trace)

    def _move(self, kept: Kept, state: JobState, **changes: Any) -> JobRecord:
        assert may_follow(kept.job.state, state), (kept.job.state, state)  # noqa: S101 - the model checks itself
        now = self._clock()
        if JobState.Queued in (state, kept.job.state):
            self._outlook.moved(now)
        if kept.job.state is JobState.Running:
            self._outlook.stopped(kept, now, succeeded=state is JobState.Succeeded)
        if state is not JobState.Running:
            kept.lease_until = None
            changes["owner"] = None
        if state is JobState.Queued:
            changes |= {"started_at": None, "progress": None}
        elif state in TERMINAL:
            changes |= {"finished_at": now, "checkpoint": None}
            self._counts.add("jobs_finished", kept.job.request.method.value, state.value)
        self._change(kept, state=state, **changes)
        self._announce_state(kept)
        return kept.job

    def _announce_state(self, kept: Kept) -> None:
        self.webhooks.tell(kept.job, kept.announce_state(self._clock(), self._event_limit))

    def _announce(self, kept: Kept, kind: str, data: dict[str, Any]) -> None:
        kept.announce(self._clock(), kind, data, self._event_limit)


def _refusal(finish: Callable[[Finish], object], ending: Finish) -> IhvpError | None:
    try:
        finish(ending)
    except (StaleAttempt, JobNotFound) as error:
        return error
    return None
