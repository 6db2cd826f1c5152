"""A job from its claim to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
import torch

from ihvp.blobs.store import BlobStore
from ihvp.errors import IhvpError, OutOfMemory, StaleAttempt, StoreUnavailable
from ihvp.factors.index import FactorIndex
from ihvp.jobs.record import JobError, JobRecord, ResultSummary
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore
from ihvp.methods import default_rtol
from ihvp.settings import Settings
from workers.lease import Lease
from workers.problem_cache import ProblemCache
from workers.progress import ProgressReporter
from workers.resolvers.model import LoadedModel
from workers.solving import SolveRun
from workers.stop import StopReason, StopSignal

__all__ = ["Executor"]

_log = structlog.get_logger(__name__)

_RETRY_PAUSE_S = 0.5


class Executor:
    """Takes jobs from the store, one at a time, and brings each to an end.

    Args:
        settings: The service's settings.
        store: The job store.
        blobs: Weights, data and results.
        owner: The worker's name.
        shutting_down: Says whether the worker was told to end.
        factors: Factors that workers keep for each other, if they do.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        blobs: BlobStore,
        owner: str,
        shutting_down: Callable[[], bool],
        factors: FactorIndex | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._owner = owner
        self._shutting_down = shutting_down
        self._models: ProblemCache[LoadedModel] = ProblemCache(settings.cache_budget)
        self._factors = factors

    def run_next(self) -> str | None:
        """Claims the best waiting job and executes it; does nothing where none waits.

        Returns:
            The id of the job if it was given back to the queue, since this worker shuts down.

        Raises:
            StoreUnavailable: Nothing could be claimed.
        """
        claimed_at = time.monotonic()
        job = self._store.claim(self._owner, self._settings.lease_s)
        if job is None:
            return None
        with structlog.contextvars.bound_contextvars(job_id=job.id, attempt=job.attempt):
            stop = StopSignal(self._shutting_down)
            lease = Lease(
                self._store,
                job,
                claimed_at,
                stop,
                lease_s=self._settings.lease_s,
                renew_s=self._settings.lease_renew_s,
            )
            with lease:
                ending = self._execute(job, stop)
                released = self._write(ending, job, stop, lease)
            _log.info("job_done", ending=ending.name, seconds=round(time.monotonic() - claimed_at, 4))
            return job.id if released else None

    def _execute(self, job: JobRecord, stop: StopSignal) -> _Ending:
        """Runs the job; every way in which it can go wrong comes back as an ending."""
        _log.info("job_claimed", method=job.request.method.value, model=job.request.model.digest)
        progress = ProgressReporter(
            self._store, job, stop, interval_s=self._settings.progress_interval_s, target=_target(job)
        )
        run = SolveRun(self._settings, self._blobs, job, self._models, self._factors, progress, stop)
        try:
            result = run.execute()
        except IhvpError as error:
            if _is_out_of_memory(error.__cause__):
                # A model that cannot be applied to its inputs for want of memory does fit them.
                return self._unforeseen(error.__cause__, job)
            _log.info("job_refused", code=error.code, error=str(error))
            return _failed(error)
        except Exception as error:  # the boundary: one job's fault must not end the worker
            return self._unforeseen(error, job)
        reason = stop.reason
        # A result that is complete is worth more than the wish to stop before it was.
        if result is not None and run.complete and reason is not StopReason.Deadline:
            return _Ending("succeeded", result=result)
        match reason:
            case StopReason.Deadline:
                return _Ending("expired", result=result)
            case StopReason.Cancelled:
                return _Ending("cancelled")
            case StopReason.Lost:
                return _Ending("lost")
            case _:
                return _Ending("released")

    def _unforeseen(self, error: BaseException | None, job: JobRecord) -> _Ending:
        if _is_out_of_memory(error):
            # Whatever is kept warm may be what filled the memory.
            self._models.clear()
            _log.warning("out_of_memory", error=str(error))
            return _failed(_out_of_memory(job, self._settings))
        self._models.drop(job.request.model.digest)
        _log.exception("internal_error")
        # The text of an unknown exception may hold paths or data: it stays in the log.
        text = f"The worker met an error that it does not know: {type(error).__name__}."
        return _failed(IhvpError(text, hint="The worker's log has the traceback, under this job's id."))

    def _write(self, ending: _Ending, job: JobRecord, stop: StopSignal, lease: Lease) -> bool:
        """Writes the ending; keeps trying while the store is away and the lease may still be held.

        Returns:
            Whether the job went back to the queue.
        """
        while stop.reason is not StopReason.Lost:
            try:
                return ending.write(self._store, job)
            except StaleAttempt as error:
                _log.warning("stale_attempt", error=str(error))
                return False
            except StoreUnavailable as error:
                if lease.lapsed:
                    break
                _log.warning("ending_not_written", error=str(error))
                time.sleep(_RETRY_PAUSE_S)
        _log.warning("job_abandoned", ending=ending.name)
        return False


class _Ending:
    """How an attempt ended, and the one write that makes it so."""

    def __init__(self, name: str, *, result: ResultSummary | None = None, error: JobError | None = None) -> None:
        self.name = name
        self._result = result
        self._error = error

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


def _failed(error: IhvpError) -> _Ending:
    return _Ending("failed", error=JobError(**error.as_dict()))


def _target(job: JobRecord) -> float | None:
    rtol: Any = job.request.options.get("rtol")
    if rtol is None and job.request.method.value == "cg":
        return default_rtol(job.request.model.spec.dtype)
    return rtol if isinstance(rtol, float) else None


def _is_out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator has no exception class of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _out_of_memory(job: JobRecord, settings: Settings) -> OutOfMemory:
    request = job.request
    itemsize = 8 if request.model.spec.dtype == "float64" else 4
    vectors = request.rhs.columns * request.model.num_params * itemsize
    return OutOfMemory(
        "The solve needs more memory than the worker has.",
        given=f"{request.rhs.columns} × {request.model.num_params} numbers, {vectors} bytes each copy of b",
        allowed=f"a memory budget of {settings.memory_budget} bytes beside model and data",
        hint="Send fewer right-hand sides a job, or a smaller data.batch_size.",
    )
