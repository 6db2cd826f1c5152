"""Every store the contract suites run over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ihvp.holdings.memory_store import MemoryHoldings
from ihvp.holdings.redis_store import AsyncRedisHoldings, RedisHoldings
from ihvp.holdings.store import Holdings
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.redis_store import AsyncRedisJobStore, RedisJobStore
from ihvp.jobs.store import JobStore
from ihvp.models.memory_store import MemoryModelStore
from ihvp.models.redis_store import AsyncRedisModelStore, RedisModelStore
from ihvp.models.store import ModelStore
from ihvp.settings import Settings
from ihvp.webhooks.redis_store import AsyncRedisWebhookStore, RedisWebhookStore
from ihvp.webhooks.store import WebhookStore
from tests.store.awaited import ADAPTERS, Awaited, adapter

MakeStore = Callable[..., JobStore]


@pytest.fixture(params=ADAPTERS)
def make_store(request: pytest.FixtureRequest) -> Iterator[MakeStore]:
    """Makes a store: ``make_store(event_limit=…, overdue_grace_s=…)``; two of Redis share one namespace."""
    with ExitStack() as stack:

        def make(event_limit: int = 1000, **options: Any) -> Any:
            if request.param == "memory":
                return MemoryJobStore(event_limit=event_limit, **options)
            settings: Settings = request.getfixturevalue("valkey").model_copy(update={"event_limit": event_limit})
            if request.param == "redis":
                store = RedisJobStore.from_settings(settings, **options)
                stack.callback(store.close)
                return store
            awaited = Awaited(lambda: AsyncRedisJobStore.from_settings(settings, **options))
            stack.callback(awaited.close)
            return awaited

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> JobStore:
    """A store with the defaults."""
    return make_store()


@pytest.fixture(params=ADAPTERS)
def holdings(request: pytest.FixtureRequest) -> Iterator[Holdings]:
    """What tenants hold."""
    yield from adapter(request, MemoryHoldings, RedisHoldings, AsyncRedisHoldings)


@pytest.fixture(params=ADAPTERS)
def models(request: pytest.FixtureRequest) -> Iterator[ModelStore]:
    """A model registry."""
    yield from adapter(request, MemoryModelStore, RedisModelStore, AsyncRedisModelStore)


@pytest.fixture
def hooks(store: JobStore, request: pytest.FixtureRequest) -> Iterator[WebhookStore]:
    """The outbox beside ``store``."""
    if isinstance(store, MemoryJobStore):
        yield store.webhooks
        return
    settings = request.getfixturevalue("valkey")
    made: Any = (
        RedisWebhookStore.from_settings(settings)
        if isinstance(store, RedisJobStore)
        else Awaited(lambda: AsyncRedisWebhookStore.from_settings(settings))
    )
    yield made
    made.close()
