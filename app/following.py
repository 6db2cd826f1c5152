"""Waiting for a job: the long poll, and the stream of its events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from app.etags import matches
from ihvp.errors import JobNotFound, StoreUnavailable
from ihvp.jobs.record import JobEvent
from ihvp.jobs.states import TERMINAL, JobState

if TYPE_CHECKING:
    from app.events import EventHub
    from app.job_bodies import JobBodies, Sight
    from ihvp.jobs.redis_store import AsyncRedisJobStore

__all__ = ["follow", "wait_for_change", "wait_for_end"]

EVENTS_A_READ: Final = 200
STORE_RETRY_S: Final = 1.0


async def wait_for_change(bodies: JobBodies, hub: EventHub, job_id: str, *, known: str | None, wait_s: float) -> Sight:
    """The job once its state or progress differs from what the caller knows, or once the time is over.

    Args:
        bodies: Looks at jobs.
        hub: Announces changes.
        job_id: The job.
        known: The caller's If-None-Match; None: differs from how the job stands now.
        wait_s: Longest wait.

    Raises:
        JobNotFound: No job has this id, or no more.
    """

    def differs(first: Sight, latest: Sight) -> bool:
        if known is None:
            return latest.standing.revision != first.standing.revision
        return not matches(known, latest.etag)

    return await _wait(bodies, hub, job_id, wait_s, differs)


async def wait_for_end(bodies: JobBodies, hub: EventHub, job_id: str, *, wait_s: float) -> Sight:
    """The job once it has ended, or as it stands once the time is over.

    Raises:
        JobNotFound: It was deleted meanwhile.
    """
    return await _wait(bodies, hub, job_id, wait_s, lambda _, latest: latest.finished)


async def _wait(
    bodies: JobBodies, hub: EventHub, job_id: str, wait_s: float, enough: Callable[[Sight, Sight], bool]
) -> Sight:
    """The job once it is enough, by how it stood at first and stands now; at the latest when it has ended."""
    until = time.monotonic() + wait_s
    with hub.watch(job_id) as watch:
        first = latest = await bodies.look(job_id)
        while not latest.finished and not enough(first, latest) and (left := until - time.monotonic()) > 0:
            await watch.wait(left)
            latest = await bodies.look_at_all(job_id)
    return latest


async def follow(store: AsyncRedisJobStore, hub: EventHub, job_id: str, after: str) -> AsyncIterator[JobEvent]:
    """The job's events after a position, as they happen, up to the one that ends the job.

    Where points of progress were dropped for want of room, an event ``gap`` says so before what is left. A store
    that is away ends nothing: the stream goes on from where it was once the store is back.
    """
    # Events are written with the change of state: one read after the job was seen finished has them all.
    last_read = False
    with hub.watch(job_id) as watch:
        while True:
            try:
                page = await store.event_page(job_id, after=after, limit=EVENTS_A_READ)
                events = page.events
                if last_read and not events:
                    return
                last_read = not events and (await store.standing(job_id)).state in TERMINAL
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_S)
                continue
            except JobNotFound:
                return  # deleted while it was watched
            if page.gap and events:
                yield _gap(after)
            for event in events:
                yield event
                after = event.id
                if event.type == "state" and JobState(event.data["state"]) in TERMINAL:
                    return
            if not events and not last_read:
                await watch.wait(float("inf"))


def _gap(after: str) -> JobEvent:
    # Under the position that the caller has already, so that resuming from it changes nothing.
    return JobEvent(id=after, type="gap", data={"after": after, "dropped": "progress"})
