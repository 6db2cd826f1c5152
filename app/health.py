"""Whether the parts that a job needs are there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio.to_thread

from ihvp.errors import IhvpError
from ihvp.wire import Readiness

if TYPE_CHECKING:
    from app.services import Services

__all__ = ["check_readiness", "live_workers", "scrape"]


async def check_readiness(services: Services) -> Readiness:
    """Asks the store, the broker, and for live workers."""
    (store, workers), broker = await asyncio.gather(_store(services), _broker(services))
    ready = store == "ok" and broker == "ok" and workers > 0
    return Readiness(ready=ready, store=store, broker=broker, workers=workers)


async def scrape(services: Services) -> bytes:
    """The metrics, with the store as it stands now: two round trips at once, however much is kept."""
    try:
        measured, errors = await asyncio.gather(services.jobs.measure(), services.costs.errors())
    except IhvpError:
        return services.metrics.render(None, live_workers=0, prediction_errors={})
    alive = sum(worker.age_s <= services.settings.worker_alive_s for worker in measured.workers)
    return services.metrics.render(measured, live_workers=alive, prediction_errors=errors)


async def _store(services: Services) -> tuple[str, int]:
    try:
        await services.jobs.ping()
        return "ok", await live_workers(services)
    except IhvpError as error:
        return error.message, 0


async def _broker(services: Services) -> str:
    try:
        return await anyio.to_thread.run_sync(services.waker.check)
    except TimeoutError:
        return "does not answer"


async def live_workers(services: Services) -> int:
    """Workers heard of within ``IHVP_WORKER_ALIVE_S``.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    limit = services.settings.worker_alive_s
    return sum(worker.age_s <= limit for worker in await services.jobs.workers())
