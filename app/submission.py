"""Submitting a job: every reference resolved, everything checked that can be, then stored and announced."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from ulid import ULID

from app.model_inspection import inspect_model
from app.right_hand_sides import RhsTarget, resolve_rhs
from app.stored_tensors import keep_blobs
from ihvp.errors import HessianTooLarge, InvalidOption, ModelNotFound, UnknownModel
from ihvp.jobs.submission import JobRequest, JobSubmission, ResolvedModel
from ihvp.methods import InversionMethod, default_rtol, dense_hessian_bytes, parse_options
from ihvp.references import ModelRef
from ihvp.wire import JobView

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.models.spec import LayoutEntry, ModelSpec
    from ihvp.settings import Settings

__all__ = ["submit_job"]


@dataclass(frozen=True)
class _Found:
    model: ResolvedModel
    layout: list[LayoutEntry]


async def submit_job(services: Services, submission: JobSubmission) -> JobView:
    """Puts a job into the queue.

    A broker that is away loses nothing: the job is in the store, and the reconciler publishes it.

    Raises:
        InvalidInput: What does not fit, each fault with its own code.
        StoreUnavailable: The job could not be stored.
    """
    method = InversionMethod(submission.method)
    parse_options(method, submission.options)  # the cheapest fault to find comes first
    found = await _find_model(services, submission.model)
    options = _options(method, submission, found.model.spec)
    _check_memory(method, found.model, services.settings)
    rhs = await anyio.to_thread.run_sync(
        partial(
            resolve_rhs,
            submission.rhs,
            services.blobs,
            RhsTarget(found.model, found.layout),
            services.settings,
        )
    )
    request = JobRequest(
        model=found.model,
        rhs=rhs,
        method=method,
        options=options,
        hessian_perturbation=submission.hessian_perturbation,
        curvature=submission.curvature,
        influence=submission.influence,
        priority=submission.priority,
        deadline_s=submission.deadline_s,
        tags=submission.tags,
    )
    await anyio.to_thread.run_sync(keep_blobs, services.blobs, request.blob_digests())
    job = await services.jobs.create(f"job_{ULID()}", request)
    services.waker.wake(job.id)
    services.metrics.count_submission(method.value)
    return JobView.of(job, await services.jobs.queue_position(job.id))


async def _find_model(services: Services, wanted: str | ModelSpec) -> _Found:
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
            reference=record.reference, digest=record.digest, num_params=record.num_params, spec=record.spec
        )
        return _Found(model, record.layout)
    inspected = await anyio.to_thread.run_sync(inspect_model, wanted, services.blobs, services.settings)
    model = ResolvedModel(reference=None, digest=wanted.digest, num_params=inspected.num_params, spec=wanted)
    return _Found(model, inspected.layout)


def _options(method: InversionMethod, submission: JobSubmission, spec: ModelSpec) -> dict[str, Any]:
    """The options after the service's defaults: what a job record shows is what is run."""
    options = parse_options(method, submission.options).model_dump()
    if "rtol" in options and options["rtol"] is None:
        options["rtol"] = default_rtol(spec.dtype)
    if options.get("woodbury") and submission.hessian_perturbation == 0:
        raise InvalidOption(
            "Option 'woodbury' divides by hessian_perturbation.",
            given="hessian_perturbation 0",
            allowed="hessian_perturbation > 0",
            hint="Give a hessian_perturbation, or leave woodbury out.",
        )
    return options


def _check_memory(method: InversionMethod, model: ResolvedModel, settings: Settings) -> None:
    needed = dense_hessian_bytes(model.num_params, model.spec.dtype)
    if method is InversionMethod.Direct and needed > settings.memory_budget:
        raise HessianTooLarge(
            f"A dense Hessian of {model.num_params} parameters and its factorisation need {needed} bytes.",
            given=f"{needed} bytes",
            allowed=f"{settings.memory_budget} bytes",
            hint="Use method 'cg', which needs Hessian-vector products only; or the operator sets IHVP_MEMORY_BUDGET.",
        )
