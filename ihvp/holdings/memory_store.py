"""What tenants hold, in plain Python: the readable model of the semantics."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection

from ihvp.holdings.store import no_room
from ihvp.tenants import DEFAULT_TENANT

__all__ = ["MemoryHoldings"]


class MemoryHoldings:
    """``Holdings`` within one process; nothing outlives it. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenant = DEFAULT_TENANT
        self._blobs: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def of(self, tenant: str) -> MemoryHoldings:
        """See ``Holdings.of``."""
        view = MemoryHoldings()
        view._lock, view._blobs, view._tenant = self._lock, self._blobs, tenant
        return view

    def add(self, digest: str, size: int, *, most: int | None = None) -> bool:
        """See ``Holdings.add``."""
        with self._lock:
            mine = self._blobs[self._tenant]
            if digest in mine:
                return False
            total = sum(mine.values())
            if most and total + size > most:
                raise no_room(size, total, most)
            mine[digest] = size
            return True

    def held(self, digests: Collection[str]) -> set[str]:
        """See ``Holdings.held``."""
        with self._lock:
            return self._blobs[self._tenant].keys() & set(digests)

    def total(self) -> int:
        """See ``Holdings.total``."""
        with self._lock:
            return sum(self._blobs[self._tenant].values())

    def forget(self, digests: Collection[str]) -> None:
        """See ``Holdings.forget``."""
        with self._lock:
            for held in self._blobs.values():
                for digest in digests:
                    held.pop(digest, None)
