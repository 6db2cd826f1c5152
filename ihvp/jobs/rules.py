"""What every job store applies in the same way: order of the queue, errors, and the syntax of positions."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from ihvp.errors import (
    Conflict,
    IdempotencyMismatch,
    InvalidInput,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    QueueFull,
    QuotaExceeded,
    StaleAttempt,
)
from ihvp.jobs.record import JobError, ResultSummary
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import JobRequest, Priority
from ihvp.keyvalue.cursors import time_cursor
from ihvp.tenants import DEFAULT_TENANT

if TYPE_CHECKING:
    from ihvp.jobs.store import Once

__all__ = [
    "BATCH",
    "FORGET_WORKER_S",
    "HEAD_START_S",
    "NEAR_DEADLINE_S",
    "SCAN_BOUND",
    "alike",
    "already_finished",
    "canary_pause",
    "event_position",
    "job_exists",
    "job_not_found",
    "kept_result",
    "listing_cursor",
    "not_finished",
    "once_key",
    "other_request",
    "overdue_grace",
    "own_queue_full",
    "quarantine_error",
    "queue_full",
    "request_blobs",
    "result_blobs",
    "result_sizes",
    "stale_attempt",
    "system",
    "worker_lost_error",
]

# The queue is ordered by created time less this. So a low job overtakes every high one that comes twenty minutes
# later: waiting counts, and nothing starves.
HEAD_START_S: Final = {Priority.High: 600.0, Priority.Normal: 0.0, Priority.Low: -600.0}
# Nothing is taken along behind a job whose deadline is nearer than this: it would pay for the others with its time.
NEAR_DEADLINE_S: Final = 60.0
# What the store adds to the time that a worker has to stop a job: the worker's own parent looks after it first.
PARENT_S: Final = 5.0
LONGEST_CANARY_PAUSE_S: Final = 10.0
# Most jobs one call of reclaim or expire takes; the next round takes more.
BATCH: Final = 500
# Most jobs one page of a filtered listing looks at.
SCAN_BOUND: Final = 500
FORGET_WORKER_S: Final = 24 * 3600.0


# A full queue is asked again once about this part of it may have been solved, at the rate of the last minute.
ROOM: Final = 0.01
RATE_WINDOW_S: Final = 60.0
LONGEST_RETRY_S: Final = 60.0
OWN_RETRY_S: Final = 10.0


def queue_full(waiting: int, most: int, solved: int) -> QueueFull:
    """The refusal of a job that finds no room.

    Args:
        waiting: Jobs in the queue.
        most: How many may be.
        solved: Jobs that ended within the last minute.
    """
    seconds = ROOM * most / (solved / RATE_WINDOW_S) if solved else LONGEST_RETRY_S
    return QueueFull(
        "The queue is full.",
        given=f"{waiting} jobs are waiting",
        allowed=f"{most} (IHVP_MAX_QUEUE)",
        hint="Retry after the seconds in Retry-After, or add workers.",
        retry_after_s=min(max(seconds, 1.0), LONGEST_RETRY_S),
    )


def canary_pause(fresh_s: float) -> float:
    """Seconds between two messages that are sent to see whether one is taken: the first may be lost."""
    return min(fresh_s, LONGEST_CANARY_PAUSE_S)


def overdue_grace(stop_grace_s: float) -> float:
    """Seconds after which a running job that was to stop is ended without its worker."""
    return stop_grace_s + PARENT_S


def own_queue_full(waiting: int, most: int) -> QuotaExceeded:
    """The refusal of a job of a tenant that has as many waiting as it may.

    Args:
        waiting: Its jobs in the queue.
        most: How many may be.
    """
    return QuotaExceeded(
        "As many jobs of this tenant wait as may.",
        given=f"{waiting} jobs are waiting",
        allowed=f"{most} (IHVP_TENANT_QUEUE)",
        hint="Retry once some of them have been taken, or cancel some.",
        retry_after_s=OWN_RETRY_S,
    )


def other_request(job_id: str) -> IdempotencyMismatch:
    """The refusal of a key that names another request."""
    return IdempotencyMismatch(
        "This Idempotency-Key was used for another request.",
        given=f"the key of {job_id}, with another body",
        allowed="the very same body again, which answers with that job",
        hint="Use a new key for each new job, a random UUID for example.",
    )


def worker_lost_error(losses: int | str) -> JobError:
    """The error of a job that worker after worker died on."""
    return JobError(
        code="worker_lost",
        message=f"Workers that died while they ran this job: {losses}.",
        hint="Most likely it needs more memory than a worker has: try cg, a smaller data.batch_size, or fewer "
        "right-hand sides.",
    )


def quarantine_error(seconds: int | str) -> JobError:
    """The error of a job whose method has killed worker after worker on its model."""
    return JobError(
        code="model_quarantined",
        message="This method has killed as many workers on this model as a job may; jobs of both wait no longer.",
        allowed=f"another method, another model, or this one again in {seconds} s",
        hint="Most likely it needs more memory than a worker has: try cg, or a smaller data.batch_size. "
        "The operator ends it sooner with 'ihvp quarantine lift'.",
    )


def system(request: JobRequest) -> str:
    """The method and the digest of the model: what a quarantine is of."""
    return f"{request.method.value} {request.model.digest}"


def alike(request: JobRequest, tenant: str) -> str:
    """A digest that a tenant's jobs share which differ only in b and in what is done with x.

    They can be solved as one block. Those of two tenants never are: what is said of a block tells of all in it.
    """
    system = request.model_dump(mode="json", include={"method", "options", "hessian_perturbation", "curvature"})
    # A model's digest covers weights, data, loss, parameters and dtype.
    canonical = json.dumps([tenant, request.model.digest, system], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def once_key(once: Once, tenant: str) -> str:
    """Under what a key is remembered: the same key of another tenant is another one.

    It is a digest: keys may be long, and are nobody else's business.
    """
    # No key has a line break in it.
    text = once.key if tenant == DEFAULT_TENANT else f"{tenant}\n{once.key}"
    return hashlib.sha256(text.encode()).hexdigest()


def request_blobs(request: JobRequest) -> list[str]:
    """The blobs a job needs while it lives, each once."""
    return sorted(set(request.blob_digests()))


def result_blobs(result: ResultSummary | None) -> list[str]:
    """The blobs a result consists of, each once."""
    if result is None:
        return []
    return sorted({digest for digest in (result.digest, result.influence_digest) if digest is not None})


def result_sizes(result: ResultSummary | None) -> dict[str, int]:
    """Bytes of the blobs a result consists of, by their digests."""
    if result is None:
        return {}
    influence = {} if result.influence_digest is None else {result.influence_digest: result.influence_size or 0}
    return {**influence, result.digest: result.size}


def kept_result(state: JobState, result: ResultSummary | None) -> ResultSummary | None:
    """What of a result is kept when a job is stopped in this state: an expired job keeps what it has reached.

    Raises:
        ValueError: No job is stopped in this state.
    """
    if state not in {JobState.Cancelled, JobState.Expired}:
        raise ValueError(f"a job is stopped as cancelled or expired, not as {state.value}")
    return result if state is JobState.Expired else None


def listing_cursor(cursor: str | None) -> int | None:
    """Reads the cursor of a listing: the created time of the last job on the page before.

    Raises:
        InvalidInput: It is none that a listing has given out.
    """
    return time_cursor(cursor, listing="a job listing", newest="the newest job")


def event_position(position: str) -> tuple[int, int]:
    """Reads a position in an event stream: ``<ms>`` or ``<ms>-<n>``.

    Raises:
        InvalidInput: It is written otherwise.
    """
    match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", position, re.ASCII)
    parts = (int(match[1]), int(match[2] or 0)) if match else (1 << 64, 0)
    if max(parts) >= 1 << 64:
        raise InvalidInput(
            "This is not the id of an event.",
            given=position[:100],
            allowed="<milliseconds>-<number>, or 0 for the beginning",
            hint="Send back the id of the last event that was read.",
        )
    return parts


def job_not_found(job_id: str) -> JobNotFound:
    """No job has this id."""
    return JobNotFound("There is no such job.", given=job_id[:100], hint="GET /v1/jobs lists all jobs.")


def job_exists(job_id: str) -> Conflict:
    """The id of a new job belongs to another one."""
    return Conflict("Another job has this id already.", given=job_id[:100], hint="Ids of new jobs must be new.")


def stale_attempt(job_id: str, attempt: int, current: int, state: str) -> StaleAttempt:
    """A write of a worker that no longer runs the job."""
    return StaleAttempt(
        f"Attempt {attempt} is no longer running job {job_id}.",
        given=f"attempt {attempt}",
        allowed=f"none: the job is {state}, its last attempt is {current}",
    )


def already_finished(job_id: str, state: JobState) -> JobAlreadyFinished:
    """A cancellation that came too late."""
    return JobAlreadyFinished(f"Job {job_id} has ended already.", given=f"state {state.value}")


def not_finished(job_id: str, state: JobState) -> JobNotFinished:
    """A deletion that came too early."""
    return JobNotFinished(f"Job {job_id} has not ended.", given=f"state {state.value}", hint="Cancel it first.")
