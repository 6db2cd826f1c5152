"""The heartbeat that keeps a running job this worker's own."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import structlog

from ihvp.errors import StoreUnavailable
from ihvp.jobs.record import JobRecord
from ihvp.jobs.store import JobStore
from workers.stop import StopReason, StopSignal

__all__ = ["Lease"]

_log = structlog.get_logger(__name__)


class Lease:
    """Renews a job's lease from a thread of its own while entered.

    It starts before the model is loaded, so a slow load is not taken for a dead worker. While the store does
    not answer it keeps trying until the lease must have run out on the store's clock; from then on another
    worker may have the job, so it counts as lost.

    Args:
        store: The job store.
        job: The claimed job.
        claimed_at: ``time.monotonic()`` from before the claim was sent.
        stop: Learns what the store says of the lease.
        lease_s: Length of a lease.
        renew_s: Pause between two renewals.
    """

    def __init__(
        self,
        store: JobStore,
        job: JobRecord,
        claimed_at: float,
        stop: StopSignal,
        *,
        lease_s: float,
        renew_s: float,
    ) -> None:
        self._store = store
        self._job = job
        self._stop = stop
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._held_since = claimed_at
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job.id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Not waited for without bound: a store that hangs must not hold up the next job.
        self._thread.join(timeout=1.0)

    @property
    def lapsed(self) -> bool:
        """Whether the store may have given the job to another worker by now."""
        return time.monotonic() - self._held_since >= self._lease_s

    def _keep(self) -> None:
        # While the store is away the tries come closer, so that a short outage costs no lease.
        retry_s = min(self._renew_s, 0.5)
        pause = self._renew_s
        while not self._ended.wait(pause):
            sent = time.monotonic()
            try:
                state = self._store.renew(self._job.id, self._job.attempt, self._lease_s)
            except Exception as error:  # whatever it is: a heartbeat that dies in silence loses the lease
                if not isinstance(error, StoreUnavailable):
                    _log.exception("lease_renewal_failed")
                if self.lapsed:
                    _log.warning("lease_lapsed", error=str(error))
                    self._stop.request(StopReason.Lost)
                    return
                pause = retry_s
                continue
            pause = self._renew_s
            self._held_since = sent
            self._stop.learn(state)
            if self._stop.reason is StopReason.Lost:
                return
