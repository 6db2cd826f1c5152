"""Why a running job should stop, known to every thread of the worker child at once."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from enum import Enum

from ihvp.jobs.store import LeaseState

__all__ = ["ShutdownFlag", "StopReason", "StopSignal"]


class StopReason(str, Enum):
    """What a worker does with a job that it stops early."""

    Cancelled = "cancelled"
    Deadline = "deadline"
    Shutdown = "shutdown"
    Lost = "lost"


_REASONS = {
    LeaseState.CancelRequested: StopReason.Cancelled,
    LeaseState.DeadlinePassed: StopReason.Deadline,
    LeaseState.Lost: StopReason.Lost,
}


class ShutdownFlag:
    """One byte that the worker's parent process sets and its child reads.

    Plain shared memory rather than a ``multiprocessing.Event``: a child that is killed while it holds the
    event's lock would hang the parent's signal handler for ever.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Says that the worker shuts down; safe in a signal handler."""
        self._byte[0] = 1

    def __call__(self) -> bool:
        """Whether it is set."""
        return self._byte[0] == 1


class StopSignal:
    """The reason to stop one job, if any.

    A lost lease stands over every other reason, since nothing may be written after it; among the others
    the first one stays.

    Args:
        shutting_down: Says whether the worker shuts down.
    """

    def __init__(self, shutting_down: Callable[[], bool]) -> None:
        self._shutting_down = shutting_down
        self._lock = threading.Lock()
        self._reason: StopReason | None = None

    def learn(self, state: LeaseState) -> None:
        """Takes in what the store said of the lease."""
        reason = _REASONS.get(state)
        if reason is not None:
            self.request(reason)

    def request(self, reason: StopReason) -> None:
        """Asks the job to stop."""
        with self._lock:
            if self._reason is None or reason is StopReason.Lost:
                self._reason = reason

    @property
    def reason(self) -> StopReason | None:
        """Why to stop now; None to go on."""
        # Read without the lock, since solvers ask in each iteration.
        if self._reason is None and self._shutting_down():
            with self._lock:
                self._reason = self._reason or StopReason.Shutdown
        return self._reason
