"""The jobs of the in-memory store by their states, and how long they are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from ihvp.jobs import rules
from ihvp.jobs.memory_presence import MemoryPresence, atomic
from ihvp.jobs.memory_record import Kept, is_current
from ihvp.jobs.states import JobState
from ihvp.tenants import DEFAULT_TENANT
from ihvp.webhooks.memory_store import MemoryWebhookStore

__all__ = ["MemoryShelf"]


class MemoryShelf(MemoryPresence):
    """Jobs within one process.

    Args:
        clock: The store's time, with a time zone.
        quarantine_s: How long a quarantine lasts.

    Attributes:
        webhooks: What their webhooks are to be told.
    """

    def __init__(self, clock: Callable[[], datetime], quarantine_s: float) -> None:
        super().__init__(clock, quarantine_s)
        self._jobs: dict[str, Kept] = {}
        self._tenant: str | None = None
        self._most_own: int | None = None
        self.webhooks = MemoryWebhookStore(clock)

    @atomic
    def drop_results(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``JobStore.drop_results``."""
        oldest_kept = self._clock() - timedelta(seconds=finished_before_s)
        old = [kept for kept in self._with_results() if kept.job.finished_at and kept.job.finished_at < oldest_kept]
        old.sort(key=lambda kept: kept.job.finished_at or oldest_kept)
        for kept in old[:limit]:
            self._change(kept, result_removed=True)
        return [kept.job.id for kept in old[:limit]]

    @atomic
    def drop_jobs(self, finished_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``JobStore.drop_jobs``."""
        oldest_kept = self._clock() - timedelta(seconds=finished_before_s)
        ended = [(kept.job.finished_at, job_id) for job_id, kept in self._jobs.items() if kept.job.finished_at]
        old = [job_id for at, job_id in sorted(ended) if at < oldest_kept][:limit]
        for job_id in old:
            del self._jobs[job_id]
        return old

    @atomic
    def referenced_blobs(self) -> set[str]:
        """See ``JobStore.referenced_blobs``."""
        needed = Counter(
            digest for kept in [*self._queue(), *self._running()] for digest in rules.request_blobs(kept.job.request)
        )
        needed.update(kept.job.checkpoint for kept in self._jobs.values() if kept.job.checkpoint)
        needed.update(digest for kept in self._with_results() for digest in rules.result_blobs(kept.job.result))
        return set(needed)

    def referenced_among(self, digests: Collection[str]) -> set[str]:
        """See ``JobStore.referenced_among``."""
        return self.referenced_blobs() & set(digests)

    @property
    def _owner(self) -> str:
        """Whose a new job is."""
        return self._tenant or DEFAULT_TENANT

    def _sees(self, job_id: str) -> bool:
        kept = self._jobs.get(job_id)
        return kept is not None and self._tenant in {None, kept.job.tenant}

    def _check_room(self, most_queued: int | None) -> None:
        """Whether one more job may wait, of all and of the tenant's own."""
        queue = self._queue()
        if most_queued and len(queue) >= most_queued:
            since = self._clock() - timedelta(seconds=rules.RATE_WINDOW_S)
            solved = [kept for kept in self._with_results() if kept.job.finished_at and kept.job.finished_at >= since]
            raise rules.queue_full(len(queue), most_queued, len(solved))
        own = sum(kept.job.tenant == self._owner for kept in queue)
        if self._most_own and own >= self._most_own:
            raise rules.own_queue_full(own, self._most_own)

    def _in_state(self, state: JobState) -> Iterator[Kept]:
        return (kept for kept in self._jobs.values() if kept.job.state is state)

    def _queue(self) -> Sequence[Kept]:
        return sorted(self._in_state(JobState.Queued), key=lambda kept: (kept.score, kept.job.id))

    def _running(self) -> Sequence[Kept]:
        return sorted(self._in_state(JobState.Running), key=lambda kept: (kept.lease_until, kept.job.id))

    def _at_work(self, now: datetime) -> set[str]:
        held = [kept.job.owner for kept in self._running() if kept.lease_until is not None and kept.lease_until > now]
        return {owner for owner in held if owner is not None}

    def _find(self, job_id: str) -> Kept:
        if not self._sees(job_id):
            raise rules.job_not_found(job_id)
        return self._jobs[job_id]

    def _held(self, job_id: str, attempt: int) -> Kept:
        kept = self._find(job_id)
        if not is_current(kept.job, attempt):
            raise rules.stale_attempt(job_id, attempt, kept.job.attempt, kept.job.state.value)
        return kept

    def _with_results(self) -> Sequence[Kept]:
        return [kept for kept in self._jobs.values() if kept.job.result is not None and not kept.job.result_removed]

    def _change(self, kept: Kept, **changes: Any) -> None:
        kept.job = kept.job.model_copy(update={"revision": kept.job.revision + 1, **changes})
