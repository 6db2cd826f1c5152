"""Removes what is kept no longer: old results and jobs, blobs that nothing refers to, what broken-off uploads left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ihvp.blobs.store import BlobInfo, BlobStore
from ihvp.errors import BlobNotFound
from ihvp.factors.index import FactorIndex
from ihvp.jobs.store import JobStore
from ihvp.models.store import ModelStore
from ihvp.settings import Settings

__all__ = ["Removed", "Retention"]

AT_ONCE: Final = 500


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
    """

    results: int
    jobs: int
    factors: int
    blobs: int
    freed: int
    unfinished: int

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
    """

    def __init__(
        self, settings: Settings, jobs: JobStore, models: ModelStore, factors: FactorIndex, blobs: BlobStore
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._models = models
        self._factors = factors
        self._blobs = blobs

    def sweep(self) -> Removed:
        """Removes all that is due."""
        results = jobs = 0
        while dropped := self._jobs.drop_results(self._settings.retention_s, AT_ONCE):
            results += len(dropped)
        while dropped := self._jobs.drop_jobs(self._settings.job_retention_s, AT_ONCE):
            jobs += len(dropped)
        factors = self._factors.drop_unused(self._settings.retention_s)
        orphans = list(self._orphans())
        for blob in orphans:
            self._blobs.delete(blob.digest)
        return Removed(
            results=results,
            jobs=jobs,
            factors=factors,
            blobs=len(orphans),
            freed=sum(blob.size for blob in orphans),
            unfinished=self._blobs.sweep_unfinished(self._settings.orphan_grace_s),
        )

    def _orphans(self) -> Iterator[BlobInfo]:
        grace_s = self._settings.orphan_grace_s
        old = [blob for blob in self._blobs if blob.age_s > grace_s]
        if not old:
            return
        # In this order: a job that is made after the references were read has made its blobs young before.
        referenced = self._jobs.referenced_blobs() | self._models.referenced_blobs() | self._factors.referenced_blobs()
        for blob in old:
            if blob.digest in referenced:
                continue
            try:
                now = self._blobs.stat(blob.digest)
            except BlobNotFound:
                continue
            if now.age_s > grace_s:
                yield now
