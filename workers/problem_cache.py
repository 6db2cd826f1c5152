"""Models that a worker keeps warm between jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["ProblemCache"]


class _Weighed(Protocol):
    @property
    def nbytes(self) -> int: ...


ProblemT = TypeVar("ProblemT", bound=_Weighed)


@dataclass
class _Kept(Generic[ProblemT]):
    problem: ProblemT
    seconds: float
    nbytes: int = 0
    uses: int = 0
    credit: float = 0.0


class ProblemCache(Generic[ProblemT]):
    """Problems by the digest of their spec, within a budget of bytes, the least useful out first.

    Usefulness is seconds to make again over bytes held, times uses, and ages as others come in (greedy-dual size
    frequency, Cherkasova 1998). Problems grow as they are solved, so their sizes are read again after each job.
    The one used last stays even where it alone exceeds the budget: the memory was needed anyway, and the next job
    is most likely on it; it makes room before another is loaded. A spec's digest pins weights and data by their
    own digests, so an entry never goes stale. Used by one thread.

    Args:
        budget: Bytes of all of them together.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: dict[str, _Kept[ProblemT]] = {}
        self._age = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held, as they were last read."""
        return sum(kept.nbytes for kept in self._kept.values())

    def get(self, digest: str, make: Callable[[], ProblemT]) -> tuple[ProblemT, bool]:
        """The problem, made if it is not there, and whether it was there."""
        warm = digest in self._kept
        if not warm:
            # Room is made first: two large problems at once may be more than the machine holds.
            self._make_room(None)
            began = time.perf_counter()
            problem = make()
            self._kept[digest] = _Kept(problem, time.perf_counter() - began)
        kept = self._kept[digest]
        kept.uses += 1
        self._rate(kept)
        return kept.problem, warm

    def settle(self, digest: str, set_up_s: float = 0.0) -> None:
        """Reads all sizes again and makes room.

        Args:
            digest: The problem that was just used.
            set_up_s: Seconds spent on what it now keeps.
        """
        if digest in self._kept:
            self._kept[digest].seconds += set_up_s
            self._rate(self._kept[digest])
        for kept in self._kept.values():
            kept.nbytes = kept.problem.nbytes
        self._make_room(digest)

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

    def _make_room(self, spared: str | None) -> None:
        while self.nbytes > self._budget:
            others = [digest for digest in self._kept if digest != spared]
            if not others:
                return
            least = min(others, key=lambda digest: self._kept[digest].credit)
            self._age = max(self._age, self._kept.pop(least).credit)

    def _rate(self, kept: _Kept[ProblemT]) -> None:
        kept.nbytes = kept.problem.nbytes
        kept.credit = self._age + kept.uses * kept.seconds / max(kept.nbytes, 1)
