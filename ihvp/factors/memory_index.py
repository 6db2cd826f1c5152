"""The factor index in plain Python: the readable model of the semantics, and an index for tests without a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["MemoryFactorIndex"]


@dataclass
class _Kept:
    digest: str
    size: int
    used_at: float


class MemoryFactorIndex:
    """``FactorIndex`` within one process; nothing outlives it.

    Args:
        bound: Bytes of all factors together.
        clock: Seconds.
    """

    def __init__(self, bound: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound = bound
        self._clock = clock
        # In the order of their last use.
        self._kept: dict[str, _Kept] = {}

    def find(self, name: str) -> str | None:
        """See ``FactorIndex.find``."""
        kept = self._kept.pop(name, None)
        if kept is None:
            return None
        kept.used_at = self._clock()
        self._kept[name] = kept
        return kept.digest

    def keep(self, name: str, digest: str, size: int) -> bool:
        """See ``FactorIndex.keep``."""
        if size > self._bound:
            return False
        self._kept.pop(name, None)
        while sum(kept.size for kept in self._kept.values()) + size > self._bound:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = _Kept(digest, size, self._clock())
        return True

    def forget(self, name: str) -> None:
        """See ``FactorIndex.forget``."""
        self._kept.pop(name, None)

    def drop_unused(self, unused_s: float) -> int:
        """See ``FactorIndex.drop_unused``."""
        oldest = self._clock() - unused_s
        unused = [name for name, kept in self._kept.items() if kept.used_at < oldest]
        for name in unused:
            del self._kept[name]
        return len(unused)

    def referenced_blobs(self) -> set[str]:
        """See ``FactorIndex.referenced_blobs``."""
        return {kept.digest for kept in self._kept.values()}
