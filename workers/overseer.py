"""What a worker's parent process does about a child that does not stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Final

import structlog

from ihvp.errors import StoreUnavailable
from ihvp.jobs.store import JobStore
from workers.shared_number import SharedNumber

__all__ = ["LOOK_S", "Overseer"]

LOOK_S: Final = 1.0
"""Pause between two looks at the store; the parent serves the broker meanwhile."""
_PAUSE_AFTER_OUTAGE_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Overseer:
    """Kills the child that does not stop a cancelled or overdue job in time.

    It works in the parent, on the event loop's timer. The child cannot do it: a factorisation, a model that is being
    loaded or any call of native code may hold the interpreter, and so shuts out every thread of the child.

    Args:
        store: The job store, with little patience: the parent waits for it.
        owner: The worker's name.
        grace_s: Seconds a job may take to stop.
        child: The process id of the child that takes jobs, 0 while there is none.
        children: The process ids of the pool.
    """

    def __init__(
        self,
        store: JobStore,
        owner: str,
        grace_s: float,
        child: SharedNumber,
        children: Callable[[], Collection[int]],
    ) -> None:
        self._store = store
        self._owner = owner
        self._grace_s = grace_s
        self._child = child
        self._children = children
        self._not_before = float("-inf")

    def look(self) -> None:
        """Ends what should have ended, and kills the child that did not end it."""
        # Read first: a child that comes later has taken its predecessor's jobs back, and is not the one meant.
        child = self._child.value
        if child == 0 or time.monotonic() < self._not_before:
            return
        try:
            ended = self._store.condemn(self._owner, self._grace_s)
        except StoreUnavailable as error:
            _log.warning("overdue_jobs_not_known", error=str(error))
            self._not_before = time.monotonic() + _PAUSE_AFTER_OUTAGE_S
            return
        if ended is None:
            return
        self._child.value = 0
        # One that died meanwhile is gone already, and its number may be another's.
        if child in self._children():
            _log.warning("child_killed", pid=child, grace_s=self._grace_s, jobs=list(ended))
            os.kill(child, signal.SIGKILL)
