"""Removes what is kept no longer: old results and jobs, blobs that nothing refers to, what broken-off uploads left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.blobs.store import BlobInfo, BlobStore
from ihvp.errors import BlobNotFound
from ihvp.factors.index import FactorIndex
from ihvp.factors.redis_index import RedisFactorIndex
from ihvp.holdings.redis_store import RedisHoldings
from ihvp.holdings.store import Holdings
from ihvp.jobs.store import JobStore
from ihvp.models.redis_store import RedisModelStore
from ihvp.models.store import ModelStore
from ihvp.settings import Settings

__all__ = ["Removed", "Retention"]

T = TypeVar("T")

AT_ONCE: Final = 500
"""What one call to the store removes or looks up: the server does nothing else meanwhile."""
CALLS_A_SWEEP: Final = 20
BLOBS_A_SWEEP: Final = 5000
"""Blobs that one sweep looks at. The next one goes on behind them, however many are kept."""


@dataclass(frozen=True)
class Removed:
    """What one sweep removed.

    Attributes:
        results: Jobs whose result was removed.
        jobs: Jobs that were removed themselves.
        factors: Factors that nobody used any more.
        blobs: Blobs that nothing referred to.
        freed: Bytes of those.
        unfinished: Files that broken-off writes left.
        more: Whether more is due than one sweep removes.
    """

    results: int
    jobs: int
    factors: int
    blobs: int
    freed: int
    unfinished: int
    more: bool = False

    def __bool__(self) -> bool:
        return bool(self.results or self.jobs or self.factors or self.blobs or self.unfinished)


class Retention:
    """Applies the settings ``retention_s``, ``job_retention_s`` and ``orphan_grace_s``.

    Args:
        settings: The service's settings.
        jobs: The job store.
        models: The model registry.
        factors: The factors that workers keep for each other.
        blobs: The blob store.
        holdings: What tenants hold of it.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        models: ModelStore,
        factors: FactorIndex,
        blobs: BlobStore,
        holdings: Holdings,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._models = models
        self._factors = factors
        self._blobs = blobs
        self._holdings = holdings
        self._walk = iter(blobs)

    @classmethod
    def from_settings(cls, settings: Settings, jobs: JobStore) -> Retention:
        """Beside a job store, the other stores that the settings name; they connect when they are first used."""
        return cls(
            settings,
            jobs,
            RedisModelStore.from_settings(settings),
            RedisFactorIndex.from_settings(settings),
            FilesystemBlobStore.from_settings(settings),
            RedisHoldings.from_settings(settings),
        )

    def sweep(self) -> Removed:
        """Removes what is due, up to a bound: what a sweep costs does not depend on how much is kept."""
        results = _drop(self._jobs.drop_results, self._settings.retention_s)
        jobs = _drop(self._jobs.drop_jobs, self._settings.job_retention_s)
        factors = self._factors.drop_unused(self._settings.retention_s)
        orphans = list(self._orphans())
        for blob in orphans:
            self._blobs.delete(blob.digest)
        for some in _stretches(orphans):
            self._holdings.forget([blob.digest for blob in some])
        return Removed(
            results=results,
            jobs=jobs,
            factors=factors,
            blobs=len(orphans),
            freed=sum(blob.size for blob in orphans),
            unfinished=self._blobs.sweep_unfinished(self._settings.orphan_grace_s),
            more=max(results, jobs) == CALLS_A_SWEEP * AT_ONCE,
        )

    def _orphans(self) -> Iterator[BlobInfo]:
        grace_s = self._settings.orphan_grace_s
        seen = list(islice(self._walk, BLOBS_A_SWEEP))
        if len(seen) < BLOBS_A_SWEEP:
            self._walk = iter(self._blobs)
        old = [blob.digest for blob in seen if blob.age_s > grace_s]
        for some in _stretches(old):
            # In this order: a job that is made after the references were read has made its blobs young before.
            referenced = self._referenced(some)
            for digest in some:
                if digest in referenced:
                    continue
                try:
                    now = self._blobs.stat(digest)
                except BlobNotFound:
                    continue
                if now.age_s > grace_s:
                    yield now

    def _referenced(self, digests: Sequence[str]) -> set[str]:
        kept = self._jobs.referenced_among(digests) | self._models.referenced_among(digests)
        # All of them: their number is bounded by IHVP_FACTOR_BYTES.
        return kept | self._factors.referenced_blobs()


def _stretches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items, as many at a time as one call to the store takes."""
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))


def _drop(drop: Callable[[float, int], Sequence[str]], age_s: float) -> int:
    dropped = 0
    for _ in range(CALLS_A_SWEEP):
        count = len(drop(age_s, AT_ONCE))
        dropped += count
        if count < AT_ONCE:
            break
    return dropped
