"""What the routes work with: the stores, the queue and the event hub of one application."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from anyio import CapacityLimiter

from ihvp.tenants import DEFAULT_TENANT

if TYPE_CHECKING:
    from app.events import EventHub
    from app.expected_cost import ExpectedCost
    from app.job_bodies import JobBodies
    from app.limits import HourlyNumbers
    from app.metrics import Metrics
    from app.queue import WorkerWaker
    from app.readiness import ReadinessCheck
    from ihvp.blobs.store import BlobStore
    from ihvp.blobs.uploads import FileUploads
    from ihvp.costs.redis_store import AsyncRedisCostStore
    from ihvp.holdings.redis_store import AsyncRedisHoldings
    from ihvp.jobs.redis_store import AsyncRedisJobStore
    from ihvp.models.redis_store import AsyncRedisModelStore
    from ihvp.settings import Settings
    from ihvp.webhooks.redis_store import AsyncRedisWebhookStore

__all__ = ["Services"]

TENANTS_KEPT: Final = 1000


@dataclass(frozen=True)
class Services:
    """Opened with the application and closed with it.

    Those of a request are those ``of`` its tenant: what is another tenant's is not found through them. All blobs are
    in ``blobs``; those that a caller names are to be looked for with ``app.held_blobs``.
    """

    settings: Settings
    jobs: AsyncRedisJobStore
    bodies: JobBodies
    models: AsyncRedisModelStore
    costs: AsyncRedisCostStore
    expected: ExpectedCost
    webhooks: AsyncRedisWebhookStore
    blobs: BlobStore
    uploads: FileUploads
    holdings: AsyncRedisHoldings
    waker: WorkerWaker
    readiness: ReadinessCheck
    hub: EventHub
    metrics: Metrics
    numbers: HourlyNumbers
    lookers: CapacityLimiter = field(default_factory=partial(CapacityLimiter, 32))
    """Bounds the threads that look at files outside the blob store."""
    projectors: CapacityLimiter = field(default_factory=partial(CapacityLimiter, 2))
    """Bounds the threads that multiply: each holds some megabytes of numbers."""
    tenant: str = DEFAULT_TENANT
    views: dict[str, Services] = field(default_factory=dict)
    """Those of the tenants of late."""

    def of(self, tenant: str) -> Services:
        """The same for one tenant."""
        view = self.views.get(tenant)
        if view is None:
            if len(self.views) >= TENANTS_KEPT:
                self.views.clear()
            jobs = self.jobs.of(tenant, self.settings.tenant_queue)
            view = replace(
                self,
                tenant=tenant,
                jobs=jobs,
                bodies=self.bodies.of(jobs),
                models=self.models.of(tenant),
                holdings=self.holdings.of(tenant),
                uploads=self.uploads.of(tenant),
            )
            self.views[tenant] = view
        return view
