"""Keys on Valkey or Redis, blocking and awaiting."""

from __future__ import annotations

from collections.abc import Sequence

from ihvp.keys.calls import KeyCalls
from ihvp.keys.key import KeyRecord, KeySpec
from ihvp.keys.store import Looked
from ihvp.keyvalue.connection import AsyncExecutor, Executor
from ihvp.settings import Settings

__all__ = ["AsyncRedisKeyStore", "RedisKeyStore"]

_PACKAGE = "ihvp.keys"


class RedisKeyStore:
    """``KeyStore`` for threads that may block; they can share one.

    Args:
        executor: Carries the operations out.
    """

    def __init__(self, executor: Executor) -> None:
        self._calls = KeyCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisKeyStore:
        """The keys of the store that the settings name; it connects when it is first used."""
        return cls(Executor(settings, _PACKAGE))

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

    def create(self, key_id: str, spec: KeySpec, *, expires_s: float | None = None) -> KeyRecord:
        """See ``KeyStore.create``."""
        return self._run(self._calls.create(key_id, spec, expires_s))

    def look(self, key_id: str) -> Looked:
        """See ``KeyStore.look``."""
        return self._run(self._calls.look(key_id))

    def list(self) -> Sequence[KeyRecord]:
        """See ``KeyStore.list``."""
        return self._run(self._calls.list())

    def revoke(self, key_id: str) -> KeyRecord:
        """See ``KeyStore.revoke``."""
        return self._run(self._calls.revoke(key_id))

    def note_use(self, key_id: str) -> None:
        """See ``KeyStore.note_use``."""
        self._run(self._calls.note_use(key_id))


class AsyncRedisKeyStore:
    """``KeyStore``, awaited; belongs to one event loop.

    Args:
        executor: Carries the operations out.
    """

    def __init__(self, executor: AsyncExecutor) -> None:
        self._calls = KeyCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncRedisKeyStore:
        """The keys of the store that the settings name; it connects when it is first used."""
        return cls(AsyncExecutor(settings, _PACKAGE))

    async def close(self) -> None:
        """Closes all connections."""
        await self._executor.close()

    async def create(self, key_id: str, spec: KeySpec, *, expires_s: float | None = None) -> KeyRecord:
        """See ``KeyStore.create``."""
        return await self._run(self._calls.create(key_id, spec, expires_s))

    async def look(self, key_id: str) -> Looked:
        """See ``KeyStore.look``."""
        return await self._run(self._calls.look(key_id))

    async def list(self) -> Sequence[KeyRecord]:
        """See ``KeyStore.list``."""
        return await self._run(self._calls.list())

    async def revoke(self, key_id: str) -> KeyRecord:
        """See ``KeyStore.revoke``."""
        return await self._run(self._calls.revoke(key_id))

    async def note_use(self, key_id: str) -> None:
        """See ``KeyStore.note_use``."""
        await self._run(self._calls.note_use(key_id))
