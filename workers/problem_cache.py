"""Models that a worker keeps warm between jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["ProblemCache"]

ProblemT = TypeVar("ProblemT")


class ProblemCache(Generic[ProblemT]):
    """The most recently used problems, by the digest of their spec.

    A spec's digest pins weights and data by their own digests, so an entry never goes stale. Used by one
    thread.

    Args:
        capacity: How many to keep.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[str, ProblemT] = OrderedDict()

    def get(self, digest: str, make: Callable[[], ProblemT]) -> tuple[ProblemT, bool]:
        """The problem, made if it is not there, and whether it was there."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest], True
        # Room is made first: two large problems at once may be more than the machine holds.
        while len(self._kept) >= self._capacity:
            self._kept.popitem(last=False)
        problem = make()
        self._kept[digest] = problem
        return problem, False

    def drop(self, digest: str) -> None:
        """Forgets a problem, if it is there."""
        self._kept.pop(digest, None)

    def clear(self) -> None:
        """Forgets all of them."""
        self._kept.clear()

    def __contains__(self, digest: str) -> bool:
        return digest in self._kept

    def __len__(self) -> int:
        return len(self._kept)
