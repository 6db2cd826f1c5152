"""How an attempt at a job ended, and the one write that makes it so."""

from __future__ import annotations

import time
from typing import Final

import structlog

from ihvp.errors import IhvpError, StaleAttempt, StoreUnavailable
from ihvp.jobs.record import JobError, JobRecord, ResultSummary
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore
from workers.lease import Lease
from workers.stop import StopReason, StopSignal

__all__ = ["Ending", "EndingWriter"]

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

    def write(self, store: JobStore, job: JobRecord) -> bool:
        """Makes it visible; returns whether the job went back to the queue."""
        if self.name == "released":
            store.release(job.id, job.attempt)
            return True
        if self.name == "succeeded" and self._result is not None:
            store.succeed(job.id, job.attempt, self._result)
        elif self.name == "failed" and self._error is not None:
            store.fail(job.id, job.attempt, self._error)
        elif self.name == "cancelled":
            store.stop(job.id, job.attempt, JobState.Cancelled)
        elif self.name == "expired":
            store.stop(job.id, job.attempt, JobState.Expired, self._result)
        return False


class EndingWriter:
    """Writes endings; keeps trying while the store is away and the lease may still be held.

    Args:
        store: The job store.
        lease: Of the jobs that will end.
    """

    def __init__(self, store: JobStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease

    def write(self, ending: Ending, job: JobRecord, stop: StopSignal) -> bool:
        """Writes one.

        Returns:
            Whether the job went back to the queue.
        """
        released = self._try(ending, job, stop)
        self._lease.drop(job.id)
        return released

    def _try(self, ending: Ending, job: JobRecord, stop: StopSignal) -> bool:
        while stop.reason is not StopReason.Lost:
            try:
                return ending.write(self._store, job)
            except StaleAttempt as error:
                _log.warning("stale_attempt", error=str(error))
                return False
            except StoreUnavailable as error:
                if self._lease.lapsed(job.id):
                    break
                _log.warning("ending_not_written", error=str(error))
                time.sleep(_RETRY_PAUSE_S)
        _log.warning("job_abandoned", ending=ending.name)
        return False
