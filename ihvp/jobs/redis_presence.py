"""What the job store on Valkey or Redis knows of processes: workers that live and hear, who leads, and counts."""

from __future__ import annotations

from collections.abc import Sequence

from ihvp.jobs.calls import JobCalls
from ihvp.jobs.counts import Measurements, SignOfLife
from ihvp.jobs.store import Chain, Quarantined, WorkerInfo
from ihvp.keyvalue.connection import AsyncExecutor, Executor

__all__ = ["AsyncRedisPresence", "RedisPresence"]


class RedisPresence:
    """That part of ``RedisJobStore``.

    Args:
        calls: The operations.
        executor: Carries them out.
    """

    def __init__(self, calls: JobCalls, executor: Executor) -> None:
        self._calls = calls
        self._run = executor.run

    def worker_alive(self, worker_id: str, sign: SignOfLife | None = None) -> None:
        """See ``JobStore.worker_alive``."""
        self._run(self._calls.worker_alive(worker_id, sign))

    def worker_gone(self, worker_id: str) -> None:
        """See ``JobStore.worker_gone``."""
        self._run(self._calls.worker_gone(worker_id))

    def workers(self) -> Sequence[WorkerInfo]:
        """See ``JobStore.workers``."""
        return self._run(self._calls.workers())

    def measure(self) -> Measurements:
        """See ``JobStore.measure``."""
        return self._run(self._calls.measure())

    def chain(self, alive_s: float, fresh_s: float, pause_s: float) -> Chain:
        """See ``JobStore.chain``."""
        return self._run(self._calls.chain(alive_s, fresh_s, pause_s))

    def quarantined(self) -> Sequence[Quarantined]:
        """See ``JobStore.quarantined``."""
        return self._run(self._calls.quarantine(""))

    def end_quarantine(self, model_digest: str) -> Sequence[Quarantined]:
        """See ``JobStore.end_quarantine``."""
        return self._run(self._calls.quarantine(model_digest))

    def acquire_leadership(self, name: str, holder: str, ttl_s: float) -> bool:
        """See ``JobStore.acquire_leadership``."""
        return self._run(self._calls.acquire_leadership(name, holder, ttl_s))

    def ping(self) -> None:
        """See ``JobStore.ping``."""
        self._run(self._calls.ping())


class AsyncRedisPresence:
    """The same, awaited.

    Args:
        calls: The operations.
        executor: Carries them out.
    """

    def __init__(self, calls: JobCalls, executor: AsyncExecutor) -> None:
        self._calls = calls
        self._run = executor.run

    async def worker_alive(self, worker_id: str, sign: SignOfLife | None = None) -> None:
        """See ``JobStore.worker_alive``."""
        await self._run(self._calls.worker_alive(worker_id, sign))

    async def worker_gone(self, worker_id: str) -> None:
        """See ``JobStore.worker_gone``."""
        await self._run(self._calls.worker_gone(worker_id))

    async def workers(self) -> Sequence[WorkerInfo]:
        """See ``JobStore.workers``."""
        return await self._run(self._calls.workers())

    async def measure(self) -> Measurements:
        """See ``JobStore.measure``."""
        return await self._run(self._calls.measure())

    async def chain(self, alive_s: float, fresh_s: float, pause_s: float) -> Chain:
        """See ``JobStore.chain``."""
        return await self._run(self._calls.chain(alive_s, fresh_s, pause_s))

    async def quarantined(self) -> Sequence[Quarantined]:
        """See ``JobStore.quarantined``."""
        return await self._run(self._calls.quarantine(""))

    async def end_quarantine(self, model_digest: str) -> Sequence[Quarantined]:
        """See ``JobStore.end_quarantine``."""
        return await self._run(self._calls.quarantine(model_digest))

    async def acquire_leadership(self, name: str, holder: str, ttl_s: float) -> bool:
        """See ``JobStore.acquire_leadership``."""
        return await self._run(self._calls.acquire_leadership(name, holder, ttl_s))

    async def ping(self) -> None:
        """See ``JobStore.ping``."""
        await self._run(self._calls.ping())
