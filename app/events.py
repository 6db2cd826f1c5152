"""Tells waiting requests that a job has changed: one subscription a process, however many wait."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Final

import structlog

__all__ = ["EventHub", "Watch"]

POLL_S: Final = 1.0
RECHECK_S: Final = 5.0

Changes = Callable[[], AsyncIterator[str]]


class Watch:
    """One waiter for one job."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Notes a change."""
        self._changed.set()

    async def wait(self, timeout_s: float) -> bool:
        """Waits until the job may have changed, or the time is over; says whether a change was announced.

        It returns early now and then, so that a lost announcement delays a waiter and never strands it:
        read the store again after each return.
        """
        limit = min(timeout_s, RECHECK_S if self._hub.live else POLL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._changed.wait()
        announced = self._changed.is_set()
        self._changed.clear()
        return announced


class EventHub:
    """Fans the store's announcements out to waiters.

    Args:
        changes: Opens a subscription; yields the id of each job that changed, and raises when the link drops.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._log = structlog.get_logger("app.events")
        self.live = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventHub]:
        """Keeps the subscription while the context is open."""
        task = asyncio.create_task(self._listen(), name="event-hub")
        async with AsyncExitStack() as stack:
            stack.callback(self._wake_all)
            try:
                yield self
            finally:
                # Again and again: a timeout that runs out in the same moment swallows a cancellation.
                while not task.done():
                    task.cancel()
                    await asyncio.wait({task}, timeout=POLL_S)

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """Registers a waiter. Read the store after entering, and no change can slip between."""
        watch = Watch(self)
        self._watches[job_id].add(watch)
        try:
            yield watch
        finally:
            waiting = self._watches[job_id]
            waiting.discard(watch)
            if not waiting:
                del self._watches[job_id]

    async def _listen(self) -> None:
        while True:
            try:
                async for job_id in self._changes():
                    self.live = True
                    for watch in self._watches.get(job_id, ()):
                        watch.wake()
            except Exception as error:
                if self.live:
                    self._log.warning("subscription lost, waiters poll", reason=str(error))
            self.live = False
            # Whatever was announced meanwhile is lost; all have to look for themselves.
            self._wake_all()
            await asyncio.sleep(POLL_S)

    def _wake_all(self) -> None:
        for waiting in self._watches.values():
            for watch in waiting:
                watch.wake()
