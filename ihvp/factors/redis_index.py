"""The factor index on Valkey or Redis; only workers and the reconciler use it, so there is no awaiting one."""

from __future__ import annotations

from typing import Any, Final

from ihvp.keyvalue.calls import Call, microseconds
from ihvp.keyvalue.connection import Executor
from ihvp.settings import Settings

__all__ = ["RedisFactorIndex"]

_PACKAGE: Final = "ihvp.factors"
_AT_ONCE: Final = 500
"""Factors that one call drops; the next sweep drops more."""


class RedisFactorIndex:
    """``FactorIndex`` for threads that may block; they can share one.

    Args:
        settings: Has the namespace and the bound in bytes.
        executor: Carries the operations out.
    """

    def __init__(self, settings: Settings, executor: Executor) -> None:
        self._key = f"{{{settings.namespace}}}:factors"
        self._bound = settings.factor_bytes
        self._executor = executor
        self._run = executor.run

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisFactorIndex:
        """The index that the settings name; it connects when it is first used."""
        return cls(settings, Executor(settings, _PACKAGE))

    def close(self) -> None:
        """Closes all connections."""
        self._executor.close()

    def find(self, name: str) -> str | None:
        """See ``FactorIndex.find``."""
        return self._run(Call("find", (name,), _optional_text))

    def keep(self, name: str, digest: str, size: int) -> bool:
        """See ``FactorIndex.keep``."""
        return self._run(Call("keep", (name, digest, size, self._bound), bool))

    def forget(self, name: str) -> None:
        """See ``FactorIndex.forget``."""
        self._run(Call("forget", (name,), int))

    def drop_unused(self, unused_s: float) -> int:
        """See ``FactorIndex.drop_unused``."""
        return self._run(Call("drop_unused", (microseconds(unused_s), _AT_ONCE), int))

    def referenced_blobs(self) -> set[str]:
        """See ``FactorIndex.referenced_blobs``."""
        return self._run(Call("HVALS", (self._key,), _digests))


def _optional_text(answer: Any) -> str | None:
    return None if answer is None else str(answer)


def _digests(answer: Any) -> set[str]:
    return {kept.partition(" ")[2] for kept in answer}
