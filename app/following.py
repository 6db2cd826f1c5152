"""Waiting for a job: the long poll, and the stream of its events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from app.etags import matches
from ihvp.errors import JobNotFound, StoreUnavailable
from ihvp.jobs.record import JobEvent
from ihvp.jobs.states import TERMINAL, JobState

if TYPE_CHECKING:
    from app.events import EventHub, Watch
    from app.job_bodies import JobBodies, Sight
    from ihvp.jobs.redis_store import AsyncRedisJobStore

__all__ = ["follow", "wait_for_change", "wait_for_end", "wait_from"]

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
    until = time.monotonic() + wait_s
    with hub.watch(job_id) as watch:
        first = latest = await bodies.look(job_id)

        def differs() -> bool:
            if known is None:
                return latest.standing.revision != first.standing.revision
            return not matches(known, latest.etag)

        while not latest.finished and not differs() and (left := until - time.monotonic()) > 0:
            await watch.wait(left)
            latest = await bodies.look_at_all(job_id)
    return latest


async def wait_for_end(bodies: JobBodies, hub: EventHub, job_id: str, *, wait_s: float) -> Sight:
    """The job once it has ended, or as it stands once the time is over.

    Raises:
        JobNotFound: No job has this id, or no more.
    """
    until = time.monotonic() + wait_s
    with hub.watch(job_id) as watch:
        return await wait_from(bodies, watch, await bodies.look(job_id), wait_s=until - time.monotonic())


async def wait_from(bodies: JobBodies, watch: Watch, seen: Sight, *, wait_s: float) -> Sight:
    """The same for a job of which it is known how it stands.

    Nobody looks at it before its end is announced: that would take the processor from those who bring it about.

    Args:
        bodies: Looks at jobs.
        watch: Of the job, from before it was seen.
        seen: How it stood.
        wait_s: Longest wait.

    Raises:
        JobNotFound: It was deleted meanwhile.
    """
    until, latest = time.monotonic() + wait_s, seen
    while not latest.finished and (left := until - time.monotonic()) > 0:
        await watch.wait_for_end(left)
        latest = await bodies.look_at_all(seen.job_id)
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
