"""The outbox on Valkey or Redis, blocking and awaiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ihvp.keyvalue.connection import AsyncExecutor, Executor
from ihvp.settings import Settings
from ihvp.webhooks.calls import WebhookCalls
from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry, Outbox, Secret, ToSend

__all__ = ["AsyncRedisWebhookStore", "RedisWebhookStore"]

_PACKAGE: Final = "ihvp.webhooks"


class RedisWebhookStore:
    """``WebhookStore`` for threads that may block; they can share one.

    Args:
        executor: Carries the operations out.
    """

    def __init__(self, executor: Executor) -> None:
        self._calls = WebhookCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisWebhookStore:
        """The outbox that the settings name; it connects when it is first used."""
        return cls(Executor(settings, _PACKAGE))

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

    def claim(self, *, lease_s: float, most: int, most_of_a_lane: int, most_tries: int) -> Sequence[ToSend]:
        """See ``WebhookStore.claim``."""
        return self._run(self._calls.claim(lease_s, most, most_of_a_lane, most_tries))

    def settle(self, delivery_id: str, done: DeliveryTry, *, state: DeliveryState, pause_s: float = 0.0) -> bool:
        """See ``WebhookStore.settle``."""
        return self._run(self._calls.settle(delivery_id, done, state, pause_s))

    def get(self, tenant: str, delivery_id: str) -> Delivery:
        """See ``WebhookStore.get``."""
        return self._run(self._calls.get(tenant, delivery_id))

    def list(
        self,
        tenant: str,
        *,
        limit: int,
        state: DeliveryState | None = None,
        job_id: str | None = None,
        cursor: str | None = None,
    ) -> tuple[Sequence[Delivery], str | None]:
        """See ``WebhookStore.list``."""
        return self._run(self._calls.list(tenant, limit, state, job_id, cursor))

    def replay(self, tenant: str, delivery_id: str) -> Delivery:
        """See ``WebhookStore.replay``."""
        return self._run(self._calls.replay(tenant, delivery_id))

    def drop(self, ended_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``WebhookStore.drop``."""
        return self._run(self._calls.drop(ended_before_s, limit))

    def overview(self) -> Outbox:
        """See ``WebhookStore.overview``."""
        return self._run(self._calls.overview())

    def secrets(self, tenant: str) -> Sequence[Secret]:
        """See ``WebhookStore.secrets``."""
        return self._run(self._calls.secrets(tenant))

    def create_secret(self, tenant: str) -> Sequence[Secret]:
        """See ``WebhookStore.create_secret``."""
        return self._run(self._calls.create_secret(tenant))

    def rotate_secret(self, tenant: str, old_valid_s: float) -> Sequence[Secret]:
        """See ``WebhookStore.rotate_secret``."""
        return self._run(self._calls.rotate_secret(tenant, old_valid_s))


class AsyncRedisWebhookStore:
    """``WebhookStore``, awaited; belongs to one event loop.

    Args:
        executor: Carries the operations out.
    """

    def __init__(self, executor: AsyncExecutor) -> None:
        self._calls = WebhookCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncRedisWebhookStore:
        """The outbox that the settings name; it connects when it is first used."""
        return cls(AsyncExecutor(settings, _PACKAGE))

    async def close(self) -> None:
        """Closes all connections."""
        await self._executor.close()

    async def claim(self, *, lease_s: float, most: int, most_of_a_lane: int, most_tries: int) -> Sequence[ToSend]:
        """See ``WebhookStore.claim``."""
        return await self._run(self._calls.claim(lease_s, most, most_of_a_lane, most_tries))

    async def settle(self, delivery_id: str, done: DeliveryTry, *, state: DeliveryState, pause_s: float = 0.0) -> bool:
        """See ``WebhookStore.settle``."""
        return await self._run(self._calls.settle(delivery_id, done, state, pause_s))

    async def get(self, tenant: str, delivery_id: str) -> Delivery:
        """See ``WebhookStore.get``."""
        return await self._run(self._calls.get(tenant, delivery_id))

    async def list(
        self,
        tenant: str,
        *,
        limit: int,
        state: DeliveryState | None = None,
        job_id: str | None = None,
        cursor: str | None = None,
    ) -> tuple[Sequence[Delivery], str | None]:
        """See ``WebhookStore.list``."""
        return await self._run(self._calls.list(tenant, limit, state, job_id, cursor))

    async def replay(self, tenant: str, delivery_id: str) -> Delivery:
        """See ``WebhookStore.replay``."""
        return await self._run(self._calls.replay(tenant, delivery_id))

    async def drop(self, ended_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``WebhookStore.drop``."""
        return await self._run(self._calls.drop(ended_before_s, limit))

    async def overview(self) -> Outbox:
        """See ``WebhookStore.overview``."""
        return await self._run(self._calls.overview())

    async def secrets(self, tenant: str) -> Sequence[Secret]:
        """See ``WebhookStore.secrets``."""
        return await self._run(self._calls.secrets(tenant))

    async def create_secret(self, tenant: str) -> Sequence[Secret]:
        """See ``WebhookStore.create_secret``."""
        return await self._run(self._calls.create_secret(tenant))

    async def rotate_secret(self, tenant: str, old_valid_s: float) -> Sequence[Secret]:
        """See ``WebhookStore.rotate_secret``."""
        return await self._run(self._calls.rotate_secret(tenant, old_valid_s))
