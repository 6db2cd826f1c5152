"""How attempts at jobs ended, and the one write that makes it so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from ihvp.errors import IhvpError, StaleAttempt, StoreUnavailable
from ihvp.jobs.record import JobError, JobRecord, Progress, ResultSummary
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Finish, JobStore
from workers.lease import Lease
from workers.stop import StopReason, StopSignal

__all__ = ["Ended", "Ending", "EndingWriter"]

_log = structlog.get_logger(__name__)

_RETRY_PAUSE_S: Final = 0.5


class Ending:
    """How an attempt ended.

    Args:
        name: succeeded, failed, cancelled, expired; released to the queue, or lost to another worker.
        result: Of a success, or what was reached by the deadline.
        error: Of a failure.
    """

    def __init__(self, name: str, *, result: ResultSummary | None = None, error: JobError | None = None) -> None:
        self.name = name
        self._result = result
        self._error = error

    @classmethod
    def failed(cls, error: IhvpError) -> Ending:
        """A failure for this reason."""
        return cls("failed", error=JobError(**error.as_dict()))

    @classmethod
    def stopped(cls, reason: StopReason, result: ResultSummary | None = None) -> Ending:
        """The end of an attempt that was asked to stop, with what it has reached by then."""
        match reason:
            case StopReason.Deadline:
                return cls("expired", result=result)
            case StopReason.Cancelled:
                return cls("cancelled")
            case StopReason.Lost:
                return cls("lost")
            case StopReason.Shutdown:
                return cls("released")

    @property
    def released(self) -> bool:
        """Whether the job goes back to the queue."""
        return self.name == "released"

    def finish(self, job: JobRecord, progress: Sequence[Progress] = ()) -> Finish | None:
        """What the store is told, with the last of the job's progress; None where the job does not end here."""
        if self.name in {"released", "lost"}:
            return None
        return Finish(job.id, job.attempt, JobState(self.name), self._result, self._error, tuple(progress))


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended.

    Attributes:
        job: The job, as it was claimed.
        stop: Says whether it is still this worker's.
        ending: How.
        progress: What is not written yet of its progress: it comes before the end, on the same round trip.
    """

    job: JobRecord
    stop: StopSignal
    ending: Ending
    progress: Sequence[Progress] = ()


class EndingWriter:
    """Writes endings; keeps trying while the store is away and the leases may still be held.

    Args:
        store: The job store.
        lease: Of the jobs that will end.
    """

    def __init__(self, store: JobStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease

    def write(self, attempts: Sequence[Ended]) -> set[str]:
        """Writes endings; those of jobs that finish with one sync to disk for all of them.

        Returns:
            The ids of the jobs that went back to the queue.
        """
        self._insist(self._finish, [ended for ended in attempts if not ended.ending.released])
        released: set[str] = set()
        for ended in attempts:
            if ended.ending.released and self._insist(self._release, [ended]):
                released.add(ended.job.id)
        for ended in attempts:
            self._lease.drop(ended.job.id)
        return released

    def _finish(self, attempts: Sequence[Ended]) -> bool:
        finishes = [
            (ended.job, finish)
            for ended in attempts
            if (finish := ended.ending.finish(ended.job, ended.progress)) is not None
        ]
        refusals = self._store.finish_all([finish for _, finish in finishes])
        for (job, _), refusal in zip(finishes, refusals, strict=True):
            if refusal is not None:
                _log.warning("stale_attempt", error=str(refusal), **job.named)
        return True

    def _release(self, attempts: Sequence[Ended]) -> bool:
        (ended,) = attempts
        if ended.progress:
            self._store.report_all([(ended.job.id, ended.job.attempt, progress) for progress in ended.progress])
        try:
            self._store.release(ended.job.id, ended.job.attempt)
        except StaleAttempt as error:
            _log.warning("stale_attempt", error=str(error), **ended.job.named)
            return False
        return True

    def _insist(self, write: Callable[[Sequence[Ended]], bool], attempts: Sequence[Ended]) -> bool:
        """Writes as long as it takes, but nothing that another worker may have by now; returns whether it was done."""
        error: StoreUnavailable | None = None
        while True:
            attempts = self._still_own(attempts, after_outage=error is not None)
            if not attempts:
                return False
            try:
                return write(attempts)
            except StoreUnavailable as away:
                error = away
            if not all(self._lease.lapsed(ended.job.id) for ended in attempts):
                _log.warning("ending_not_written", jobs=len(attempts), error=str(error), **attempts[0].job.named)
                time.sleep(_RETRY_PAUSE_S)

    def _still_own(self, attempts: Sequence[Ended], *, after_outage: bool) -> Sequence[Ended]:
        own = []
        for ended in attempts:
            # While the store answers, it says itself whose the job is.
            if ended.stop.reason is StopReason.Lost or (after_outage and self._lease.lapsed(ended.job.id)):
                _log.warning("job_abandoned", ending=ended.ending.name, **ended.job.named)
            else:
                own.append(ended)
        return own
