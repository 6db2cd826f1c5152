"""Whether the parts that a job needs are there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio.to_thread

from ihvp.errors import IhvpError
from ihvp.wire import Readiness

if TYPE_CHECKING:
    from app.services import Services

__all__ = ["check_readiness", "scrape"]


async def check_readiness(services: Services) -> Readiness:
    """Asks the store, the broker, and for live workers."""
    (store, workers), broker = await asyncio.gather(_store(services), _broker(services))
    ready = store == "ok" and broker == "ok" and workers > 0
    return Readiness(ready=ready, store=store, broker=broker, workers=workers)


async def scrape(services: Services) -> bytes:
    """The metrics, with queue and workers as they stand now."""
    try:
        queue_length = await services.jobs.queue_length()
        workers = await _live_workers(services)
    except IhvpError:
        return services.metrics.render(queue_length=None, workers=None)
    return services.metrics.render(queue_length=queue_length, workers=workers)


async def _store(services: Services) -> tuple[str, int]:
    try:
        await services.jobs.ping()
        return "ok", await _live_workers(services)
    except IhvpError as error:
        return error.message, 0


async def _broker(services: Services) -> str:
    try:
        return await anyio.to_thread.run_sync(services.waker.check)
    except TimeoutError:
        return "does not answer"


async def _live_workers(services: Services) -> int:
    limit = services.settings.worker_alive_s
    return sum(worker.age_s <= limit for worker in await services.jobs.workers())
