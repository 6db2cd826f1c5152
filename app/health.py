"""What a scrape shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ihvp.errors import IhvpError

if TYPE_CHECKING:
    from app.services import Services

__all__ = ["scrape"]


async def scrape(services: Services) -> bytes:
    """The metrics, with the store as it stands now: three round trips at once, however much is kept."""
    try:
        measured, errors, outbox = await asyncio.gather(
            services.jobs.measure(), services.costs.errors(), services.webhooks.overview()
        )
    except IhvpError:
        return services.metrics.render(None, live_workers=0, prediction_errors={}, outbox=None)
    alive = sum(worker.age_s <= services.settings.worker_alive_s for worker in measured.workers)
    return services.metrics.render(measured, live_workers=alive, prediction_errors=errors, outbox=outbox)
