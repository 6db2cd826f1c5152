"""Submitting a job again exactly as it was: what its record has pinned, not what its references mean by now."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio.to_thread
import structlog

from app.request_id import JOB, current_request_id
from app.stored_tensors import keep_blobs
from app.submission import Submitted, new_job_id
from ihvp.errors import UnknownBlob
from ihvp.jobs.outlook import Origin
from ihvp.tracing import current_traceparent, valid_traceparent

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.blobs.store import BlobStore
    from ihvp.jobs.store import Once
    from ihvp.jobs.submission import JobRequest

__all__ = ["rerun_job"]

_log = structlog.get_logger("app.jobs")


async def rerun_job(services: Services, job_id: str, once: Once | None, trace: str | None) -> Submitted:
    """Puts a copy of a job into the queue: model, data, right-hand sides, method and options as they were resolved.

    Its webhook is left out, for it was told of the first job's end. Nothing is checked again that was checked then,
    but that the blobs are still there.

    Args:
        services: Of the tenant whose job it is.
        job_id: The job, in whatever state.
        once: Under what the copy is made once, if under anything.
        trace: The ``traceparent`` that was sent.

    Raises:
        JobNotFound: No job has this id, or it was removed.
        UnknownBlob: Weights, data or right-hand sides are gone.
        IdempotencyMismatch: The key was used for another request.
        QueueFull: Too many jobs wait.
        QuotaExceeded: The tenant has had what it may have.
    """
    # Before any check: what was accepted once is not refused because a blob has gone since.
    made = None if once is None else await services.jobs.made_once(once)
    if made is not None:
        JOB.set(made.id)
        place = None if made.finished else (await services.jobs.standing(made.id)).place
        return Submitted(made, place, replayed=True)
    request = (await services.jobs.get(job_id)).request.model_copy(update={"webhook": None})
    await anyio.to_thread.run_sync(_keep, services.blobs, request, job_id)
    await services.numbers.take(services.tenant, math.prod(request.rhs.shape))
    origin = Origin(request_id=current_request_id(), trace=current_traceparent() or valid_traceparent(trace))
    new_id = new_job_id()
    async with services.waker.waking(new_id):
        job, place = await services.jobs.submit(
            new_id, request, once=once, most_queued=services.settings.max_queue, origin=origin
        )
    if job.id == new_id:
        _log.info("job_rerun", job_id=job.id, rerun_of=job_id)
    JOB.set(job.id)
    return Submitted(job, place, replayed=job.id != new_id)


def _keep(blobs: BlobStore, request: JobRequest, job_id: str) -> None:
    try:
        keep_blobs(blobs, request.blob_digests())
    except UnknownBlob as error:
        raise UnknownBlob(
            f"Job {job_id} cannot be run again: a blob that it was made of is gone.",
            given=error.given,
            hint="Upload the same bytes again; their digest is in the result's provenance.",
        ) from None
