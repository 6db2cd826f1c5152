"""The heartbeat that keeps running jobs this worker's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import structlog

from ihvp.errors import StoreUnavailable
from ihvp.jobs.record import JobRecord
from ihvp.jobs.store import JobStore
from workers.spare_threads import SpareThreads, Work
from workers.stop import StopReason, StopSignal

__all__ = ["Lease"]

_log = structlog.get_logger(__name__)


@dataclass
class _Held:
    job: JobRecord
    stop: StopSignal
    since: float


class Lease:
    """Renews the leases of a block of jobs from a thread of its own while entered.

    It starts before the model is loaded, so a slow load is not taken for a dead worker. While the store does
    not answer it keeps trying until the leases must have run out on the store's clock; from then on another
    worker may have the jobs, so they count as lost.

    Args:
        store: The job store.
        jobs: The claimed jobs, each with what learns what the store says of its lease.
        claimed_at: ``time.monotonic()`` from before the claim was sent.
        lease_s: Length of a lease.
        renew_s: Pause between two renewals.
        threads: Lend the thread.
    """

    def __init__(
        self,
        store: JobStore,
        jobs: Sequence[tuple[JobRecord, StopSignal]],
        claimed_at: float,
        *,
        lease_s: float,
        renew_s: float,
        threads: SpareThreads | None = None,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._held = {job.id: _Held(job, stop, claimed_at) for job, stop in jobs}
        self._ended = threading.Event()
        self._name = f"lease-{jobs[0][0].id}"
        self._threads = threads or SpareThreads()
        self._keeping: Work | None = None

    def __enter__(self) -> Lease:
        self._keeping = self._threads.run(self._keep, self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Not waited for without bound: a store that hangs must not hold up the next job.
        if self._keeping is not None:
            self._keeping.join(1.0)

    def lapsed(self, job_id: str) -> bool:
        """Whether the store may have given the job to another worker by now."""
        held = self._held.get(job_id)
        return held is None or time.monotonic() - held.since >= self._lease_s

    def drop(self, job_id: str) -> None:
        """Renews it no longer: the job has ended, or is lost."""
        self._held.pop(job_id, None)

    def _keep(self) -> None:
        # While the store is away the tries come closer, so that a short outage costs no lease.
        retry_s = min(self._renew_s, 0.5)
        pause = self._renew_s
        while not self._ended.wait(pause):
            pause = self._renew_s
            error = self._renew(list(self._held.values()))
            if error is not None:
                pause = retry_s
                self._give_up_lapsed(error)

    def _renew(self, block: Sequence[_Held]) -> Exception | None:
        if not block:
            return None
        sent = time.monotonic()
        try:
            states = self._store.renew_all([(held.job.id, held.job.attempt) for held in block], self._lease_s)
        except Exception as error:  # whatever it is: a heartbeat that dies in silence loses the leases
            if not isinstance(error, StoreUnavailable):
                _log.exception("lease_renewal_failed", jobs=len(block), **block[0].job.named)
            return error
        for held, state in zip(block, states, strict=True):
            held.since = sent
            held.stop.learn(state)
            if held.stop.reason is StopReason.Lost:
                self.drop(held.job.id)
        return None

    def _give_up_lapsed(self, error: Exception) -> None:
        for held in list(self._held.values()):
            if self.lapsed(held.job.id):
                _log.warning("lease_lapsed", error=str(error), **held.job.named)
                held.stop.request(StopReason.Lost)
                self.drop(held.job.id)
