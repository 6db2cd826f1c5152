"""The store of observations on Valkey or Redis, blocking and awaiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ihvp.costs.calls import CostCalls
from ihvp.costs.observation import Known, Observation
from ihvp.keyvalue.connection import AsyncExecutor, Executor
from ihvp.methods import Curvature, InversionMethod
from ihvp.settings import Settings

__all__ = ["AsyncRedisCostStore", "RedisCostStore"]

_PACKAGE = "ihvp.costs"


class RedisCostStore:
    """``CostStore`` for threads that may block; they can share one.

    Args:
        executor: Carries the operations out.
    """

    def __init__(self, executor: Executor) -> None:
        self._calls = CostCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisCostStore:
        """The store that the settings name; it connects when it is first used."""
        return cls(Executor(settings, _PACKAGE))

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

    def record(self, observation: Observation, log_error: float | None) -> None:
        """See ``CostStore.record``."""
        self._run(self._calls.record(observation, log_error))

    def known(self, model: str, curvature: Curvature) -> Known:
        """See ``CostStore.known``."""
        return self._run(self._calls.known(model, curvature))

    def errors(self) -> Mapping[InversionMethod, Sequence[int]]:
        """See ``CostStore.errors``."""
        return self._run(self._calls.errors())


class AsyncRedisCostStore:
    """``CostStore``, awaited; belongs to one event loop.

    Args:
        executor: Carries the operations out.
    """

    def __init__(self, executor: AsyncExecutor) -> None:
        self._calls = CostCalls()
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> AsyncRedisCostStore:
        """The store that the settings name; it connects when it is first used."""
        return cls(AsyncExecutor(settings, _PACKAGE))

    async def close(self) -> None:
        """Closes all connections."""
        await self._executor.close()

    async def record(self, observation: Observation, log_error: float | None) -> None:
        """See ``CostStore.record``."""
        await self._run(self._calls.record(observation, log_error))

    async def known(self, model: str, curvature: Curvature) -> Known:
        """See ``CostStore.known``."""
        return await self._run(self._calls.known(model, curvature))

    async def errors(self) -> Mapping[InversionMethod, Sequence[int]]:
        """See ``CostStore.errors``."""
        return await self._run(self._calls.errors())
