"""Tells waiting requests that a job has changed: one subscription a process, however many wait."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from ihvp.jobs.record import JobChange

__all__ = ["EventHub", "Watch"]

POLL_S: Final = 1.0
RECHECK_S: Final = 5.0

Changes = Callable[[], "AsyncIterator[JobChange]"]


class Watch:
    """One waiter for one job."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    def wake(self, *, ended: bool) -> None:
        """Notes a change, and whether it was the job's last one."""
        self._changed.set()
        if ended:
            self._ended.set()

    async def wait(self, timeout_s: float) -> bool:
        """Waits until the job may have changed, or the time is over; says whether a change was announced.

        It returns early now and then, so that a lost announcement delays a waiter and never strands it:
        read the store again after each return.
        """
        return await self._wait_for(self._changed, timeout_s)

    async def wait_for_end(self, timeout_s: float) -> bool:
        """The same, for those who care only whether the job has ended."""
        return await self._wait_for(self._ended, timeout_s)

    async def _wait_for(self, announcement: asyncio.Event, timeout_s: float) -> bool:
        limit = min(timeout_s, RECHECK_S if self._hub.live else POLL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await announcement.wait()
        announced = announcement.is_set()
        announcement.clear()
        return announced


class EventHub:
    """Fans the store's announcements out to waiters.

    Args:
        changes: Opens a subscription; yields each job that changed, and raises when the link drops.
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
        """Registers a waiter. Look after entering, or enter before the job is made, and no change can slip between."""
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
                async for change in self._changes():
                    self.live = True
                    for watch in self._watches.get(change.job_id, ()):
                        watch.wake(ended=change.ended)
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
                watch.wake(ended=True)
