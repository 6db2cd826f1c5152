"""Submitting a job: every reference resolved, everything checked that can be, then stored and announced."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog
from ulid import ULID

from app.held_blobs import held_blobs
from app.limits import check_room
from app.looking import look
from app.method_checks import check_memory, check_perturbation, check_ranks
from app.model_inspection import inspect_model
from app.referenced_files import ReferencedFiles
from app.request_id import JOB, current_request_id
from app.right_hand_sides import RhsTarget, resolve_rhs
from app.stored_tensors import keep_blobs
from app.webhook_checks import check_webhook
from ihvp.costs.workload import Task, Workload
from ihvp.errors import ModelNotFound, UnknownModel
from ihvp.jobs.outlook import Origin, Place
from ihvp.jobs.submission import JobRequest, JobSubmission, ResolvedModel
from ihvp.methods import InversionMethod, parse_options
from ihvp.perturbation import least
from ihvp.references import ModelRef
from ihvp.sources.sources import Sources
from ihvp.tracing import current_traceparent, valid_traceparent

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.blobs.store import BlobInfo, BlobStore
    from ihvp.jobs.record import JobRecord
    from ihvp.jobs.store import Once
    from ihvp.models.spec import LayoutEntry, ModelSpec

__all__ = ["CheckedJob", "Submitted", "check_job", "new_job_id", "submit_job"]

_log = structlog.get_logger("app.jobs")


@dataclass(frozen=True)
class CheckedJob:
    """A submission that will be accepted.

    Attributes:
        request: Everything resolved.
        layout: The model's parameters.
        workload: What is to be solved, as far as its cost goes.
        task: The method with its options after the service's defaults.
        brings: The blob that was made of inline right-hand sides.
    """

    request: JobRequest
    layout: list[LayoutEntry]
    workload: Workload
    task: Task
    brings: BlobInfo | None


@dataclass(frozen=True)
class Submitted:
    """A job, where it stands in the queue, and whether an earlier request with the same key has made it."""

    job: JobRecord
    place: Place | None
    replayed: bool


@dataclass(frozen=True)
class _Found:
    model: ResolvedModel
    layout: list[LayoutEntry]
    num_points: int


def new_job_id() -> str:
    """An id that no job has."""
    return f"job_{ULID()}"


async def submit_job(
    services: Services, submission: JobSubmission, job_id: str, once: Once | None = None, trace: str | None = None
) -> Submitted:
    """Puts a job into the queue, or finds the one that the same request has made before.

    A broker that is away loses nothing: the job is in the store, and the reconciler publishes it.

    Args:
        services: Stores and settings.
        submission: What was sent.
        job_id: The job's id, unless the same request has made one before.
        once: Under what it is made once, if under anything.
        trace: The ``traceparent`` that was sent with it: what the job goes on where this process makes no spans.

    Raises:
        InvalidInput: What does not fit, each fault with its own code.
        IdempotencyMismatch: The key was used for another request.
        QueueFull: Too many jobs wait.
        QuotaExceeded: The tenant has had what it may have.
        StoreUnavailable: The job could not be stored.
    """
    # Before any check: what was accepted once is not refused because a blob or a model has gone since.
    made = None if once is None else await services.jobs.made_once(once)
    if made is not None:
        JOB.set(made.id)
        return Submitted(made, await _place(services, made), replayed=True)
    checked = await check_job(services, submission, store_rhs=True)
    await check_room(services, checked.brings.size if checked.brings else 0)
    await services.numbers.take(services.tenant, math.prod(checked.request.rhs.shape))
    origin = Origin(
        request_id=current_request_id(),
        trace=current_traceparent() or valid_traceparent(trace),
        predicted_s=await services.expected.seconds(checked.workload, checked.task),
        brings=checked.brings,
    )
    async with services.waker.waking(job_id):
        job, place = await services.jobs.submit(
            job_id, checked.request, once=once, most_queued=services.settings.max_queue, origin=origin
        )
    if job.id == job_id:
        _log.info("job_accepted", job_id=job.id, method=checked.request.method.value)
    JOB.set(job.id)
    return Submitted(job, place, replayed=job.id != job_id)


async def _place(services: Services, job: JobRecord) -> Place | None:
    return None if job.finished else (await services.jobs.standing(job.id)).place


async def check_job(services: Services, submission: JobSubmission, *, store_rhs: bool) -> CheckedJob:
    """Resolves and checks a submission.

    Args:
        services: Stores and settings.
        submission: What was sent.
        store_rhs: Whether inline right-hand sides become a blob; without it, nothing is created.

    Raises:
        InvalidInput: What does not fit, each fault with its own code.
    """
    method = InversionMethod(submission.method)
    parse_options(method, submission.options)  # the cheapest fault to find comes first
    await check_webhook(services, submission.webhook)
    blobs = await held_blobs(services, _named(submission))
    files = ReferencedFiles(blobs, Sources.to_look(services.settings))
    found = await _find_model(services, submission.model, files)
    task = Task.of(method, submission.options, found.model.spec.dtype)
    check_ranks(task, found.model.num_params)
    check_perturbation(task, submission.hessian_perturbation, found.layout)
    workload = _workload(submission, found)
    check_memory(workload, task, services.settings.memory_budget)
    target = RhsTarget(found.model, found.layout)

    def resolve() -> tuple[JobRequest, Workload, BlobInfo | None]:
        rhs = resolve_rhs(submission.rhs, files, target, services.settings, store=store_rhs)
        whole = replace(workload, columns=rhs.columns)
        check_memory(whole, task, services.settings.memory_budget)
        request = JobRequest(
            model=found.model,
            rhs=rhs,
            method=method,
            options=dict(task.options),
            hessian_perturbation=submission.hessian_perturbation,
            curvature=submission.curvature,
            influence=submission.influence,
            priority=submission.priority,
            deadline_s=submission.deadline_s,
            tags=submission.tags,
            webhook=submission.webhook,
        )
        stored = rhs.blob if submission.rhs.inline is not None else None
        return request, whole, _keep(services.blobs, request, stored)

    # In one go: each change of threads costs a submit a good part of a millisecond.
    request, workload, brings = await look(services, resolve, files, submission.rhs.source_uris())
    return CheckedJob(request, found.layout, workload, task, brings)


def _keep(blobs: BlobStore, request: JobRequest, stored: str | None) -> BlobInfo | None:
    """Makes the blobs of a job young, and says of the one that was stored for it how large it is."""
    # Those of a registered model are its tenant's, whoever else has them: all blobs are looked at.
    keep_blobs(blobs, request.blob_digests())
    return None if stored is None else blobs.stat(stored.partition("#")[0])


def _named(submission: JobSubmission) -> list[str]:
    """The blobs that the caller names; those of a registered model were looked for when it was registered."""
    named = [] if isinstance(submission.model, str) else submission.model.blob_digests()
    return [*named, *submission.rhs.blob_digests()]


async def _find_model(services: Services, wanted: str | ModelSpec, files: ReferencedFiles) -> _Found:
    if isinstance(wanted, str):
        try:
            record = await services.models.get(ModelRef.parse(wanted))
        except ModelNotFound as error:
            raise UnknownModel(
                error.message,
                given=wanted[:200],
                allowed=error.allowed,
                hint="GET /v1/models lists the registered models; POST /v1/models registers one.",
            ) from None
        model = ResolvedModel(
            reference=record.reference,
            given=wanted,
            digest=record.digest,
            num_params=record.num_params,
            spec=record.spec,
        )
        return _Found(model, record.layout, record.num_points)
    inspected = await look(
        services, partial(inspect_model, wanted, files, services.settings), files, wanted.source_uris()
    )
    spec = inspected.spec
    model = ResolvedModel(reference=None, digest=spec.digest, num_params=inspected.num_params, spec=spec)
    return _Found(model, inspected.layout, inspected.num_points)


def _workload(submission: JobSubmission, found: _Found) -> Workload:
    """What is to be solved, for one right-hand side as long as it is not known how many there are."""
    spec = found.model.spec
    return Workload(
        model=found.model.digest,
        curvature=submission.curvature,
        architecture=spec.kind,
        dtype=spec.dtype,
        num_points=found.num_points,
        batch_size=spec.data.batch_size,
        shapes=tuple(tuple(entry.shape) for entry in found.layout),
        num_params=found.model.num_params,
        columns=1,
        damping=least(submission.hessian_perturbation),
        influence=submission.influence is not None,
    )
