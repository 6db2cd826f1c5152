"""The job store on Valkey or Redis, for processes that block (workers) and for those that await (the API)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

from ihvp.errors import IhvpError
from ihvp.jobs.calls import JobCalls, Seen
from ihvp.jobs.outlook import Origin, Outlook, Place
from ihvp.jobs.record import JobChange, JobError, JobEvent, JobRecord, Progress, ResultSummary
from ihvp.jobs.redis_presence import AsyncRedisPresence, RedisPresence
from ihvp.jobs.rules import event_position, kept_result, overdue_grace
from ihvp.jobs.states import JobState
from ihvp.jobs.store import (
    NOWHERE,
    Deleted,
    EventPage,
    Finish,
    JobFilter,
    LeaseState,
    Once,
    Page,
    Reclaimed,
    Standing,
)
from ihvp.jobs.submission import JobRequest, Priority
from ihvp.keyvalue.connection import AsyncExecutor, Executor, all_values
from ihvp.keyvalue.gathered import Gathered
from ihvp.settings import Settings

__all__ = ["AsyncRedisJobStore", "RedisJobStore"]

_PACKAGE = "ihvp.jobs"


class RedisJobStore(RedisPresence):
    """``JobStore`` for threads that may block; they can share one.

    Args:
        calls: The operations.
        executor: Carries them out.
        overdue_grace_s: How long a running job may take to stop after its deadline or its cancellation.
    """

    def __init__(self, calls: JobCalls, executor: Executor, overdue_grace_s: float) -> None:
        super().__init__(calls, executor)
        self._run_all = executor.run_all
        self._executor = executor
        self._overdue_grace_s = overdue_grace_s

    @classmethod
    def from_settings(cls, settings: Settings, overdue_grace_s: float | None = None) -> RedisJobStore:
        """The store that the settings name; it connects when it is first used."""
        grace_s = overdue_grace(settings.stop_grace_s) if overdue_grace_s is None else overdue_grace_s
        return cls(JobCalls(settings), Executor(settings, _PACKAGE), grace_s)

    def of(self, tenant: str, most_queued: int | None = None) -> RedisJobStore:
        """See ``JobStore.of``."""
        return RedisJobStore(self._calls.of(tenant, most_queued), self._executor, self._overdue_grace_s)

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

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
        return self._run(self._calls.submit(job_id, request, once, most_queued, origin))

    def create(
        self, job_id: str, request: JobRequest, *, once: Once | None = None, most_queued: int | None = None
    ) -> JobRecord:
        """See ``JobStore.create``."""
        job, _ = self.submit(job_id, request, once=once, most_queued=most_queued)
        return job

    def made_once(self, once: Once) -> JobRecord | None:
        """See ``JobStore.made_once``."""
        return self._run(self._calls.made_once(once))

    def get(self, job_id: str) -> JobRecord:
        """See ``JobStore.get``."""
        return self._run(self._calls.get(job_id))

    def standing(self, job_id: str) -> Standing:
        """See ``JobStore.standing``."""
        return self._run(self._calls.standing(job_id))

    def list(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        """See ``JobStore.list``."""
        return self._run(self._calls.list(wanted, limit, cursor))

    def queue_position(self, job_id: str) -> int | None:
        """See ``JobStore.queue_position``."""
        return self._run(self._calls.queue_position(job_id))

    def foresee(self, priority: Priority, predicted_s: float | None) -> Outlook:
        """See ``JobStore.foresee``."""
        return self._run(self._calls.foresee(priority, predicted_s))

    def queue_length(self) -> int:
        """See ``JobStore.queue_length``."""
        return self._run(self._calls.queue_length())

    def claim(self, owner: str, lease_s: float) -> JobRecord | None:
        """See ``JobStore.claim``."""
        return self._run(self._calls.claim(owner, lease_s))

    def claim_block(self, owner: str, lease_s: float, most_rhs: int, most_numbers: int) -> Sequence[JobRecord]:
        """See ``JobStore.claim_block``."""
        return self._run(self._calls.claim_block(owner, lease_s, most_rhs, most_numbers))

    def renew(self, job_id: str, attempt: int, lease_s: float) -> LeaseState:
        """See ``JobStore.renew``."""
        return self._run(self._calls.renew(job_id, attempt, lease_s))

    def report(self, job_id: str, attempt: int, progress: Progress) -> LeaseState:
        """See ``JobStore.report``."""
        return self._run(self._calls.report(job_id, attempt, progress))

    def renew_all(self, jobs: Sequence[tuple[str, int]], lease_s: float) -> Sequence[LeaseState]:
        """See ``JobStore.renew_all``."""
        return all_values(self._run_all([self._calls.renew(job_id, attempt, lease_s) for job_id, attempt in jobs]))

    def report_all(self, points: Sequence[tuple[str, int, Progress]]) -> Sequence[LeaseState]:
        """See ``JobStore.report_all``."""
        return all_values(self._run_all([self._calls.report(*point) for point in points]))

    def finish_all(self, endings: Sequence[Finish]) -> Sequence[IhvpError | None]:
        """See ``JobStore.finish_all``."""
        return self._run_all([self._calls.finish_unread(ending) for ending in endings])

    def checkpoint(self, job_id: str, attempt: int, digest: str, *, alone: bool) -> str | None:
        """See ``JobStore.checkpoint``."""
        return self._run(self._calls.checkpoint(job_id, attempt, digest, alone))

    def succeed(self, job_id: str, attempt: int, result: ResultSummary) -> JobRecord:
        """See ``JobStore.succeed``."""
        return self._run(self._calls.finish(Finish(job_id, attempt, JobState.Succeeded, result=result)))

    def fail(self, job_id: str, attempt: int, error: JobError) -> JobRecord:
        """See ``JobStore.fail``."""
        return self._run(self._calls.finish(Finish(job_id, attempt, JobState.Failed, error=error)))

    def stop(self, job_id: str, attempt: int, state: JobState, result: ResultSummary | None = None) -> JobRecord:
        """See ``JobStore.stop``."""
        kept = kept_result(state, result)
        return self._run(self._calls.finish(Finish(job_id, attempt, state, kept)))

    def release(self, job_id: str, attempt: int) -> None:
        """See ``JobStore.release``."""
        self._run(self._calls.release(job_id, attempt))

    def request_cancel(self, job_id: str) -> JobRecord:
        """See ``JobStore.request_cancel``."""
        return self._run(self._calls.request_cancel(job_id))

    def delete(self, job_id: str) -> Deleted:
        """See ``JobStore.delete``."""
        return self._run(self._calls.delete(job_id))

    def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[JobEvent]:
        """See ``JobStore.events``."""
        return self.event_page(job_id, after=after, limit=limit).events

    def event_page(self, job_id: str, *, after: str = "0", limit: int = 100) -> EventPage:
        """See ``JobStore.event_page``."""
        return self._run(self._calls.event_page(self._calls.seen(job_id), after, limit))

    def reclaim_lapsed(self, max_attempts: int) -> Sequence[Reclaimed]:
        """See ``JobStore.reclaim_lapsed``."""
        return self._run(self._calls.reclaim_lapsed(max_attempts))

    def reclaim_owner(self, owner: str, max_attempts: int) -> Sequence[Reclaimed]:
        """See ``JobStore.reclaim_owner``."""
        return self._run(self._calls.reclaim_owner(owner, max_attempts))

    def expire_overdue(self) -> Sequence[str]:
        """See ``JobStore.expire_overdue``."""
        return self._run(self._calls.expire_overdue(self._overdue_grace_s))

    def condemn(self, owner: str, grace_s: float) -> Sequence[str] | None:
        """See ``JobStore.condemn``."""
        return self._run(self._calls.condemn(owner, grace_s))

    def drop_results(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``JobStore.drop_results``."""
        return self._run(self._calls.drop_results(finished_before_s, limit))

    def drop_jobs(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``JobStore.drop_jobs``."""
        return self._run(self._calls.drop_jobs(finished_before_s, limit))

    def referenced_blobs(self) -> set[str]:
        """See ``JobStore.referenced_blobs``."""
        cursor, found = self._run(self._calls.some_referenced_blobs(0))
        while cursor:
            cursor, more = self._run(self._calls.some_referenced_blobs(cursor))
            found |= more
        return found

    def referenced_among(self, digests: Collection[str]) -> set[str]:
        """See ``JobStore.referenced_among``."""
        return self._run(self._calls.referenced_among(list(digests))) if digests else set()


class _Reads:
    """The reads that many callers wait for at a time, of all tenants together."""

    def __init__(self, calls: JobCalls, executor: AsyncExecutor) -> None:
        self._calls = calls
        self._executor = executor
        self.standings = Gathered(self._read_standings, at_once=100)
        self.pages = Gathered(self._read_pages, at_once=16)

    async def _read_standings(self, jobs: Sequence[Seen]) -> Sequence[Standing | IhvpError]:
        return await self._executor.run(self._calls.standings(jobs))

    async def _read_pages(self, wanted: Sequence[tuple[Seen, str, int]]) -> Sequence[EventPage | IhvpError]:
        return await self._executor.run_all([self._calls.event_page(*page) for page in wanted])


class AsyncRedisJobStore(AsyncRedisPresence):
    """``JobStore``, awaited; belongs to one event loop.

    Args:
        calls: The operations.
        executor: Carries them out.
        overdue_grace_s: How long a running job may take to stop after its deadline or its cancellation.
        reads: Where those who ask at the same moment share a round trip; left out: a new one.
    """

    def __init__(
        self, calls: JobCalls, executor: AsyncExecutor, overdue_grace_s: float, reads: _Reads | None = None
    ) -> None:
        super().__init__(calls, executor)
        self._run_all = executor.run_all
        self._executor = executor
        self._overdue_grace_s = overdue_grace_s
        self._reads = reads or _Reads(calls, executor)

    @classmethod
    def from_settings(cls, settings: Settings, overdue_grace_s: float | None = None) -> AsyncRedisJobStore:
        """The store that the settings name; it connects when it is first used."""
        grace_s = overdue_grace(settings.stop_grace_s) if overdue_grace_s is None else overdue_grace_s
        return cls(JobCalls(settings), AsyncExecutor(settings, _PACKAGE), grace_s)

    def of(self, tenant: str, most_queued: int | None = None) -> AsyncRedisJobStore:
        """See ``JobStore.of``."""
        calls = self._calls.of(tenant, most_queued)
        return AsyncRedisJobStore(calls, self._executor, self._overdue_grace_s, self._reads)

    async def close(self) -> None:
        """Closes all connections."""
        await self._executor.close()

    async def changes(self) -> AsyncIterator[JobChange]:
        """Each job that changes from now on; a job may be named more than once for one change.

        Raises:
            StoreUnavailable: The link broke: what changed meanwhile was not heard.
        """
        async for message in self._executor.messages(self._calls.channel):
            yield JobChange.read(message)

    async def submit(
        self,
        job_id: str,
        request: JobRequest,
        *,
        once: Once | None = None,
        most_queued: int | None = None,
        origin: Origin = NOWHERE,
    ) -> tuple[JobRecord, Place | None]:
        """See ``JobStore.submit``."""
        return await self._run(self._calls.submit(job_id, request, once, most_queued, origin))

    async def create(
        self, job_id: str, request: JobRequest, *, once: Once | None = None, most_queued: int | None = None
    ) -> JobRecord:
        """See ``JobStore.create``."""
        job, _ = await self.submit(job_id, request, once=once, most_queued=most_queued)
        return job

    async def made_once(self, once: Once) -> JobRecord | None:
        """See ``JobStore.made_once``."""
        return await self._run(self._calls.made_once(once))

    async def get(self, job_id: str) -> JobRecord:
        """See ``JobStore.get``."""
        return await self._run(self._calls.get(job_id))

    async def standing(self, job_id: str) -> Standing:
        """See ``JobStore.standing``."""
        return await self._reads.standings.answer(self._calls.seen(job_id))

    async def list(self, wanted: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        """See ``JobStore.list``."""
        return await self._run(self._calls.list(wanted, limit, cursor))

    async def queue_position(self, job_id: str) -> int | None:
        """See ``JobStore.queue_position``."""
        return await self._run(self._calls.queue_position(job_id))

    async def foresee(self, priority: Priority, predicted_s: float | None) -> Outlook:
        """See ``JobStore.foresee``."""
        return await self._run(self._calls.foresee(priority, predicted_s))

    async def queue_length(self) -> int:
        """See ``JobStore.queue_length``."""
        return await self._run(self._calls.queue_length())

    async def claim(self, owner: str, lease_s: float) -> JobRecord | None:
        """See ``JobStore.claim``."""
        return await self._run(self._calls.claim(owner, lease_s))

    async def claim_block(self, owner: str, lease_s: float, most_rhs: int, most_numbers: int) -> Sequence[JobRecord]:
        """See ``JobStore.claim_block``."""
        return await self._run(self._calls.claim_block(owner, lease_s, most_rhs, most_numbers))

    async def renew(self, job_id: str, attempt: int, lease_s: float) -> LeaseState:
        """See ``JobStore.renew``."""
        return await self._run(self._calls.renew(job_id, attempt, lease_s))

    async def report(self, job_id: str, attempt: int, progress: Progress) -> LeaseState:
        """See ``JobStore.report``."""
        return await self._run(self._calls.report(job_id, attempt, progress))

    async def renew_all(self, jobs: Sequence[tuple[str, int]], lease_s: float) -> Sequence[LeaseState]:
        """See ``JobStore.renew_all``."""
        return all_values(
            await self._run_all([self._calls.renew(job_id, attempt, lease_s) for job_id, attempt in jobs])
        )

    async def report_all(self, points: Sequence[tuple[str, int, Progress]]) -> Sequence[LeaseState]:
        """See ``JobStore.report_all``."""
        return all_values(await self._run_all([self._calls.report(*point) for point in points]))

    async def finish_all(self, endings: Sequence[Finish]) -> Sequence[IhvpError | None]:
        """See ``JobStore.finish_all``."""
        return await self._run_all([self._calls.finish_unread(ending) for ending in endings])

    async def checkpoint(self, job_id: str, attempt: int, digest: str, *, alone: bool) -> str | None:
        """See ``JobStore.checkpoint``."""
        return await self._run(self._calls.checkpoint(job_id, attempt, digest, alone))

    async def succeed(self, job_id: str, attempt: int, result: ResultSummary) -> JobRecord:
        """See ``JobStore.succeed``."""
        return await self._run(self._calls.finish(Finish(job_id, attempt, JobState.Succeeded, result=result)))

    async def fail(self, job_id: str, attempt: int, error: JobError) -> JobRecord:
        """See ``JobStore.fail``."""
        return await self._run(self._calls.finish(Finish(job_id, attempt, JobState.Failed, error=error)))

    async def stop(self, job_id: str, attempt: int, state: JobState, result: ResultSummary | None = None) -> JobRecord:
        """See ``JobStore.stop``."""
        kept = kept_result(state, result)
        return await self._run(self._calls.finish(Finish(job_id, attempt, state, kept)))

    async def release(self, job_id: str, attempt: int) -> None:
        """See ``JobStore.release``."""
        await self._run(self._calls.release(job_id, attempt))

    async def request_cancel(self, job_id: str) -> JobRecord:
        """See ``JobStore.request_cancel``."""
        return await self._run(self._calls.request_cancel(job_id))

    async def delete(self, job_id: str) -> Deleted:
        """See ``JobStore.delete``."""
        return await self._run(self._calls.delete(job_id))

    async def events(self, job_id: str, *, after: str = "0", limit: int = 100) -> Sequence[JobEvent]:
        """See ``JobStore.events``."""
        return (await self.event_page(job_id, after=after, limit=limit)).events

    async def event_page(self, job_id: str, *, after: str = "0", limit: int = 100) -> EventPage:
        """See ``JobStore.event_page``."""
        event_position(after)  # what cannot be one is nobody else's fault
        return await self._reads.pages.answer((self._calls.seen(job_id), after, limit))

    async def reclaim_lapsed(self, max_attempts: int) -> Sequence[Reclaimed]:
        """See ``JobStore.reclaim_lapsed``."""
        return await self._run(self._calls.reclaim_lapsed(max_attempts))

    async def reclaim_owner(self, owner: str, max_attempts: int) -> Sequence[Reclaimed]:
        """See ``JobStore.reclaim_owner``."""
        return await self._run(self._calls.reclaim_owner(owner, max_attempts))

    async def expire_overdue(self) -> Sequence[str]:
        """See ``JobStore.expire_overdue``."""
        return await self._run(self._calls.expire_overdue(self._overdue_grace_s))

    async def condemn(self, owner: str, grace_s: float) -> Sequence[str] | None:
        """See ``JobStore.condemn``."""
        return await self._run(self._calls.condemn(owner, grace_s))

    async def drop_results(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``JobStore.drop_results``."""
        return await self._run(self._calls.drop_results(finished_before_s, limit))

    async def drop_jobs(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``JobStore.drop_jobs``."""
        return await self._run(self._calls.drop_jobs(finished_before_s, limit))

    async def referenced_blobs(self) -> set[str]:
        """See ``JobStore.referenced_blobs``."""
        cursor, found = await self._run(self._calls.some_referenced_blobs(0))
        while cursor:
            cursor, more = await self._run(self._calls.some_referenced_blobs(cursor))
            found |= more
        return found

    async def referenced_among(self, digests: Collection[str]) -> set[str]:
        """See ``JobStore.referenced_among``."""
        return await self._run(self._calls.referenced_among(list(digests))) if digests else set()
