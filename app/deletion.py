"""Deleting a job: its record at once, and with it the blobs of its result that nobody else has a use for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from ihvp.errors import BlobNotFound

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.services import Services
    from ihvp.blobs.store import BlobStore

__all__ = ["delete_job"]


async def delete_job(services: Services, job_id: str) -> None:
    """Removes a finished job and its result.

    A blob that another job or a model needs stays. So does one that was uploaded, or named in a request, after the
    job had ended: it is somebody else's as well, and goes like any upload once nothing refers to it for long enough.

    Args:
        services: Stores.
        job_id: The job.

    Raises:
        JobNotFound: No job has this id.
        JobNotFinished: It has not ended.
    """
    deleted = await services.jobs.delete(job_id)
    if not deleted.blobs:
        return
    unneeded = set(deleted.blobs) - await services.models.referenced_among(deleted.blobs)
    gone = await anyio.to_thread.run_sync(partial(_delete_old, services.blobs, unneeded, deleted.ended_s))
    await services.holdings.forget(gone)


def _delete_old(blobs: BlobStore, digests: Collection[str], age_s: float) -> list[str]:
    gone = []
    for digest in digests:
        try:
            if blobs.stat(digest).age_s >= age_s:
                blobs.delete(digest)
                gone.append(digest)
        except BlobNotFound:
            continue
    return gone
