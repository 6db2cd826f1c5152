"""The model registry on Valkey or Redis, blocking and awaiting."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ihvp.keyvalue.connection import AsyncExecutor, Executor
from ihvp.models.calls import ModelCalls
from ihvp.models.spec import LayoutEntry, ModelRecord, ModelSpec
from ihvp.models.store import Registration
from ihvp.references import ModelRef
from ihvp.settings import Settings

__all__ = ["AsyncRedisModelStore", "RedisModelStore"]

_PACKAGE = "ihvp.models"


class RedisModelStore:
    """``ModelStore`` for threads that may block; they can share one.

    Args:
        executor: Carries the operations out.
        calls: The operations of one tenant.
    """

    def __init__(self, executor: Executor, calls: ModelCalls | None = None) -> None:
        self._calls = calls or ModelCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisModelStore:
        """The registry that the settings name; it connects when it is first used."""
        return cls(Executor(settings, _PACKAGE))

    def of(self, tenant: str) -> RedisModelStore:
        """See ``ModelStore.of``."""
        return RedisModelStore(self._executor, ModelCalls(tenant))

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

    def register(
        self, name: str, spec: ModelSpec, *, layout: Sequence[LayoutEntry], num_params: int, num_points: int
    ) -> Registration:
        """See ``ModelStore.register``."""
        return self._run(self._calls.register(name, spec, layout=layout, num_params=num_params, num_points=num_points))

    def get(self, reference: ModelRef) -> ModelRecord:
        """See ``ModelStore.get``."""
        return self._run(self._calls.get(reference))

    def name_version(self, name: str, alias: str, version: int) -> ModelRecord:
        """See ``ModelStore.name_version``."""
        return self._run(self._calls.name_version(name, alias, version))

    def drop_alias(self, name: str, alias: str) -> None:
        """See ``ModelStore.drop_alias``."""
        self._run(self._calls.drop_alias(name, alias))

    def aliases(self, name: str) -> dict[str, int]:
        """See ``ModelStore.aliases``."""
        return self._run(self._calls.aliases(name))

    def versions(self, name: str) -> Sequence[ModelRecord]:
        """See ``ModelStore.versions``."""
        return self._run(self._calls.versions(name))

    def list(self, *, limit: int, cursor: str | None = None) -> tuple[Sequence[ModelRecord], str | None]:
        """See ``ModelStore.list``."""
        return self._run(self._calls.list(limit, cursor))

    def referenced_among(self, digests: Collection[str]) -> set[str]:
        """See ``ModelStore.referenced_among``."""
        return self._run(self._calls.referenced_among(digests))

    def referenced_blobs(self) -> set[str]:
        """See ``ModelStore.referenced_blobs``."""
        return self._run(self._calls.referenced_blobs())


class AsyncRedisModelStore:
    """``ModelStore``, awaited; belongs to one event loop.

    Args:
        executor: Carries the operations out.
        calls: The operations of one tenant.
    """

    def __init__(self, executor: AsyncExecutor, calls: ModelCalls | None = None) -> None:
        self._calls = calls or ModelCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncRedisModelStore:
        """The registry that the settings name; it connects when it is first used."""
        return cls(AsyncExecutor(settings, _PACKAGE))

    def of(self, tenant: str) -> AsyncRedisModelStore:
        """See ``ModelStore.of``."""
        return AsyncRedisModelStore(self._executor, ModelCalls(tenant))

    async def close(self) -> None:
        """Closes all connections."""
        await self._executor.close()

    async def register(
        self, name: str, spec: ModelSpec, *, layout: Sequence[LayoutEntry], num_params: int, num_points: int
    ) -> Registration:
        """See ``ModelStore.register``."""
        return await self._run(
            self._calls.register(name, spec, layout=layout, num_params=num_params, num_points=num_points)
        )

    async def get(self, reference: ModelRef) -> ModelRecord:
        """See ``ModelStore.get``."""
        return await self._run(self._calls.get(reference))

    async def name_version(self, name: str, alias: str, version: int) -> ModelRecord:
        """See ``ModelStore.name_version``."""
        return await self._run(self._calls.name_version(name, alias, version))

    async def drop_alias(self, name: str, alias: str) -> None:
        """See ``ModelStore.drop_alias``."""
        await self._run(self._calls.drop_alias(name, alias))

    async def aliases(self, name: str) -> dict[str, int]:
        """See ``ModelStore.aliases``."""
        return await self._run(self._calls.aliases(name))

    async def versions(self, name: str) -> Sequence[ModelRecord]:
        """See ``ModelStore.versions``."""
        return await self._run(self._calls.versions(name))

    async def list(self, *, limit: int, cursor: str | None = None) -> tuple[Sequence[ModelRecord], str | None]:
        """See ``ModelStore.list``."""
        return await self._run(self._calls.list(limit, cursor))

    async def referenced_among(self, digests: Collection[str]) -> set[str]:
        """See ``ModelStore.referenced_among``."""
        return await self._run(self._calls.referenced_among(digests))

    async def referenced_blobs(self) -> set[str]:
        """See ``ModelStore.referenced_blobs``."""
        return await self._run(self._calls.referenced_blobs())
