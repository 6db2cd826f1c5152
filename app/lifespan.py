"""Opens what the application works with, and closes it in the reverse order."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from app.authentication import Authenticator
from app.events import EventHub
from app.expected_cost import ExpectedCost
from app.job_bodies import JobBodies
from app.limits import HourlyNumbers, RequestLimits
from app.queue import WorkerWaker
from app.readiness import ReadinessCheck
from app.services import Services
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.costs.redis_store import AsyncRedisCostStore
from ihvp.holdings.redis_store import AsyncRedisHoldings
from ihvp.jobs.redis_store import AsyncRedisJobStore
from ihvp.keys.redis_store import AsyncRedisKeyStore
from ihvp.models.redis_store import AsyncRedisModelStore
from ihvp.webhooks.redis_store import AsyncRedisWebhookStore

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["lifespan"]

ANSWER_TIMEOUT_S: Final = 0.7
"""Longest wait for the store, so that a caller is told within a second that it is away; in a crowd, in two."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The services, for as long as the application runs.

    Nothing here asks the store: an API that starts before it says so in ``/readyz``, and serves once it is there.
    """
    settings = app.state.settings
    # A caller is told within a moment that the store is away; a worker has more patience.
    hasty = settings.with_patience(ANSWER_TIMEOUT_S)
    async with AsyncExitStack() as stack:
        if app.state.tracing is not None:
            stack.push_async_callback(anyio.to_thread.run_sync, app.state.tracing.close)
        jobs = AsyncRedisJobStore.from_settings(hasty)
        stack.push_async_callback(jobs.close)
        models = AsyncRedisModelStore.from_settings(hasty)
        stack.push_async_callback(models.close)
        costs = AsyncRedisCostStore.from_settings(hasty)
        stack.push_async_callback(costs.close)
        holdings = AsyncRedisHoldings.from_settings(hasty)
        stack.push_async_callback(holdings.close)
        keys = AsyncRedisKeyStore.from_settings(hasty)
        stack.push_async_callback(keys.close)
        app.state.authenticator = Authenticator(keys)
        app.state.limits = RequestLimits(settings)
        webhooks = AsyncRedisWebhookStore.from_settings(hasty)
        stack.push_async_callback(webhooks.close)
        waker = WorkerWaker(settings)
        stack.push_async_callback(anyio.to_thread.run_sync, waker.close)
        hub = EventHub(jobs.changes)
        blobs = FilesystemBlobStore.from_settings(settings)
        await stack.enter_async_context(hub.running())
        app.state.services = Services(
            settings=settings,
            jobs=jobs,
            bodies=JobBodies(jobs),
            models=models,
            costs=costs,
            expected=ExpectedCost(costs),
            webhooks=webhooks,
            blobs=blobs,
            uploads=blobs.uploads,
            holdings=holdings,
            waker=waker,
            readiness=ReadinessCheck(settings, jobs, waker),
            hub=hub,
            metrics=app.state.metrics,
            numbers=HourlyNumbers(hasty),
        )
        # What is there now stays: the collector need not look through it again and again while requests wait.
        gc.collect()
        gc.freeze()
        yield
