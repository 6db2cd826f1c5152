"""What tenants hold, on Valkey or Redis, blocking and awaiting."""

from __future__ import annotations

from collections.abc import Collection

from ihvp.holdings.calls import HoldingCalls
from ihvp.keyvalue.connection import AsyncExecutor, Executor
from ihvp.settings import Settings

__all__ = ["AsyncRedisHoldings", "RedisHoldings"]

_PACKAGE = "ihvp.holdings"


class RedisHoldings:
    """``Holdings`` for threads that may block; they can share one.

    Args:
        executor: Carries the operations out.
        calls: The operations of one tenant.
    """

    def __init__(self, executor: Executor, calls: HoldingCalls | None = None) -> None:
        self._calls = calls or HoldingCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisHoldings:
        """What is held in the store that the settings name; it connects when it is first used."""
        return cls(Executor(settings, _PACKAGE))

    def of(self, tenant: str) -> RedisHoldings:
        """See ``Holdings.of``."""
        return RedisHoldings(self._executor, HoldingCalls(tenant))

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

    def add(self, digest: str, size: int, *, most: int | None = None) -> bool:
        """See ``Holdings.add``."""
        return self._run(self._calls.add(digest, size, most))

    def held(self, digests: Collection[str]) -> set[str]:
        """See ``Holdings.held``."""
        return self._run(self._calls.held(digests)) if digests else set()

    def total(self) -> int:
        """See ``Holdings.total``."""
        return self._run(self._calls.total())

    def forget(self, digests: Collection[str]) -> None:
        """See ``Holdings.forget``."""
        if digests:
            self._run(self._calls.forget(digests))


class AsyncRedisHoldings:
    """``Holdings``, awaited; belongs to one event loop.

    Args:
        executor: Carries the operations out.
        calls: The operations of one tenant.
    """

    def __init__(self, executor: AsyncExecutor, calls: HoldingCalls | None = None) -> None:
        self._calls = calls or HoldingCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncRedisHoldings:
        """What is held in the store that the settings name; it connects when it is first used."""
        return cls(AsyncExecutor(settings, _PACKAGE))

    def of(self, tenant: str) -> AsyncRedisHoldings:
        """See ``Holdings.of``."""
        return AsyncRedisHoldings(self._executor, HoldingCalls(tenant))

    async def close(self) -> None:
        """Closes all connections."""
        await self._executor.close()

    async def add(self, digest: str, size: int, *, most: int | None = None) -> bool:
        """See ``Holdings.add``."""
        return await self._run(self._calls.add(digest, size, most))

    async def held(self, digests: Collection[str]) -> set[str]:
        """See ``Holdings.held``."""
        return await self._run(self._calls.held(digests)) if digests else set()

    async def total(self) -> int:
        """See ``Holdings.total``."""
        return await self._run(self._calls.total())

    async def forget(self, digests: Collection[str]) -> None:
        """See ``Holdings.forget``."""
        if digests:
            await self._run(self._calls.forget(digests))
