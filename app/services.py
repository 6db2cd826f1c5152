"""What the routes work with: the stores, the queue and the event hub of one application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.events import EventHub
    from app.expected_cost import ExpectedCost
    from app.job_bodies import JobBodies
    from app.metrics import Metrics
    from app.queue import WorkerWaker
    from ihvp.blobs.store import BlobStore
    from ihvp.blobs.uploads import FileUploads
    from ihvp.costs.redis_store import AsyncRedisCostStore
    from ihvp.jobs.redis_store import AsyncRedisJobStore
    from ihvp.models.redis_store import AsyncRedisModelStore
    from ihvp.settings import Settings

__all__ = ["Services"]


@dataclass(frozen=True)
class Services:
    """Opened with the application and closed with it."""

    settings: Settings
    jobs: AsyncRedisJobStore
    bodies: JobBodies
    models: AsyncRedisModelStore
    costs: AsyncRedisCostStore
    expected: ExpectedCost
    blobs: BlobStore
    uploads: FileUploads
    waker: WorkerWaker
    hub: EventHub
    metrics: Metrics
