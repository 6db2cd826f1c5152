"""A block of jobs from its claim to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from ihvp.blobs.store import BlobStore
from ihvp.factors.index import FactorIndex
from ihvp.jobs.record import JobRecord
from ihvp.jobs.store import JobStore
from ihvp.settings import Settings
from ihvp.tracing import Tracing
from workers.ending import EndingWriter
from workers.lease import Lease
from workers.load_limits import LoadWatch
from workers.loading import Loading
from workers.member import Member
from workers.problem_cache import ProblemCache
from workers.progress import ProgressReporter, ProgressWriter
from workers.rates import RateRecorder
from workers.resolvers.model import LoadedModel
from workers.solver_call import target_residual
from workers.solving import Resources, SolveRun
from workers.spare_threads import SpareThreads
from workers.stop import StopSignal
from workers.tally import Tally
from workers.tracing import NoTrace, trace_attempts

__all__ = ["Executor"]

_log = structlog.get_logger(__name__)

_BYTES_A_NUMBER: Final = 64
"""What a solve holds for each number of b: eight vectors of float64. Jobs taken along must not make it too large."""

_REPORTS_FOR_ONE: Final = 8
"""Progress of so many jobs, written together, costs about as much as that of one job alone."""


class Executor:
    """Takes jobs from the store, a block at a time, and brings each to an end.

    Args:
        settings: The service's settings.
        store: The job store.
        blobs: Weights, data and results.
        owner: The worker's name.
        shutting_down: Says whether the worker was told to end.
        factors: Factors that workers keep for each other, if they do.
        rates: Where the cost of each solve is told, if anywhere.
        tally: Where what the worker does is counted.
        tracing: Makes spans of it, if anybody traces.
        loads: Where the worker's parent sees what is loaded, if one is there to hold limits.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        blobs: BlobStore,
        owner: str,
        shutting_down: Callable[[], bool],
        factors: FactorIndex | None = None,
        rates: RateRecorder | None = None,
        tally: Tally | None = None,
        tracing: Tracing | None = None,
        loads: LoadWatch | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._owner = owner
        self._shutting_down = shutting_down
        self._tracing = tracing
        self._threads = SpareThreads()
        models: ProblemCache[LoadedModel] = ProblemCache(settings.cache_budget)
        self.tally = tally or Tally()
        self.told_webhooks = False
        """Whether jobs of the last block have webhooks, which now may have deliveries to be sent."""
        self.found_one = False
        """Whether there was a job the last time."""
        self._resources = Resources(
            settings, store, blobs, models, factors, Loading(settings, loads), rates, self.tally
        )

    def run_next(self) -> Sequence[str]:
        """Claims the best waiting job, with those that can be solved along, and executes them; or does nothing.

        Returns:
            The ids of jobs that were given back to the queue, since this worker shuts down.

        Raises:
            StoreUnavailable: Nothing could be claimed.
        """
        claimed_at, sent = time.monotonic(), time.time_ns()
        most_numbers = self._settings.memory_budget // _BYTES_A_NUMBER
        jobs = self._store.claim_block(self._owner, self._settings.lease_s, self._settings.coalesce_rhs, most_numbers)
        self.found_one = bool(jobs)
        self.told_webhooks = any(job.request.webhook is not None for job in jobs)
        if not jobs:
            return []
        traces = trace_attempts(self._tracing, jobs, (sent, time.time_ns()))
        stops = [StopSignal(self._shutting_down) for _ in jobs]
        lease = Lease(
            self._store,
            list(zip(jobs, stops, strict=True)),
            claimed_at,
            lease_s=self._settings.lease_s,
            renew_s=self._settings.lease_renew_s,
            threads=self._threads,
        )
        writer = EndingWriter(self._store, lease)
        interval_s = self._settings.progress_interval_s * max(1.0, len(jobs) / _REPORTS_FOR_ONE)
        with lease, ProgressWriter(self._store, self._threads) as progress:
            members = [
                self._member(job, stop, writer, progress, interval_s, trace)
                for job, stop, trace in zip(jobs, stops, traces, strict=True)
            ]
            SolveRun(self._resources, members, progress).execute()
        return [member.job.id for member in members if member.released]

    def _member(
        self,
        job: JobRecord,
        stop: StopSignal,
        writer: EndingWriter,
        progress: ProgressWriter,
        interval_s: float,
        trace: NoTrace,
    ) -> Member:
        reporter = ProgressReporter(progress, job, stop, interval_s=interval_s, target=target_residual(job.request))
        member = Member(job, stop, reporter, writer, trace)
        with member.speaking():
            _log.info("job_claimed", method=job.request.method.value, model=job.request.model.digest)
        return member
