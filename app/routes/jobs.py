"""Jobs: submit, look, list, cancel, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from starlette.responses import Response

from app.answers import ETAG, LOCATION, SUBMITTED, documented, json_answer
from app.deletion import delete_job
from app.dependencies import JobId, ServicesDep, services_of
from app.examples import JOB, JOB_PAGE, PREDICTION, SUBMISSIONS
from app.following import wait_for_change, wait_for_end, wait_from
from app.idempotency import once_of
from app.job_bodies import Sight
from app.listing import JobQuery, list_jobs
from app.polls import job_as_seen
from app.prediction import predict_job
from app.preferences import preferred_wait
from app.problems import ANYWHERE, SOURCES, WITH_BODY, problems
from app.rerunning import rerun_job
from app.strict_json import StrictJsonRoute
from app.submission import new_job_id, submit_job
from ihvp import errors as e
from ihvp.jobs.store import Standing
from ihvp.jobs.submission import JobSubmission
from ihvp.wire import JobPage, JobView, PredictionView

__all__ = ["reading", "router"]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictJsonRoute)
# Without a body there is nothing to be strict about.
reading = APIRouter(prefix="/v1/jobs", tags=["jobs"])

REFUSALS: tuple[type[e.IhvpError], ...] = (
    e.UnknownMethod, e.UnknownOption, e.InvalidOption, e.UnknownModel, e.InvalidReference, e.RhsShapeMismatch,
    e.InvalidHeader, e.IdempotencyMismatch, e.InvalidSampleWeights,
    e.NonFiniteRhs, e.UnknownBlob, e.InvalidTensor, e.RowsMismatch, e.DataMismatch, e.TargetsOutOfRange,
    e.LossMismatch, e.EmptyData, e.InvalidIndex, e.WeightsMismatch, e.UnknownArchitecture, e.InvalidArchitecture,
    e.UnknownParameters, e.UnknownLoss, e.InvalidExport, e.ExportsNotAllowed, e.HessianTooLarge, e.SolveTooLarge,
    e.InvalidWebhook, e.AddressNotAllowed, e.WebhookSecretMissing,
    *SOURCES,
)  # fmt: skip


@router.post(
    "",
    operation_id="submitJob",
    summary="Submit a job",
    status_code=202,
    response_model=JobView,
    responses={
        **documented(202, "Accepted: the job is on disk and will end.", example=JOB, headers=LOCATION),
        200: {
            **documented(
                200,
                "With Prefer: wait, the job, ended in time. With an Idempotency-Key that has made a job, that job. "
                "With dry_run: what it would take, by each method.",
                headers=SUBMITTED,
                content={
                    "application/json": {
                        "examples": {"job": {"value": JOB}, "with dry_run": {"value": PREDICTION}},
                    }
                },
            )[200],
            "model": JobView | PredictionView,
        },
        **problems(*ANYWHERE, *WITH_BODY, *REFUSALS, e.OutOfSpace, e.QueueFull, e.QuotaExceeded, e.JobNotFound),
    },
)
async def submit(
    submission: Annotated[JobSubmission, Body(openapi_examples=SUBMISSIONS)],
    services: ServicesDep,
    dry_run: Annotated[
        bool, Query(description="Creates nothing: makes the same checks, and predicts memory and time by each method.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Makes the request safe to repeat: with the same key and body it answers with the job that "
            "it made, with another body 422.",
            examples=["3f0f2c1e-6a2b-4a55-9d9e-0b8e7f1f2b61"],
        ),
    ] = None,
    traceparent: Annotated[
        str | None,
        Header(
            description="W3C trace context: the job's work goes on this trace. What is none is left alone.",
            examples=["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=N` holds the answer up to N seconds (15 at most) for the job to end.",
            examples=["wait=10"],
        ),
    ] = None,
) -> Any:
    """Checks all that can be checked without the model in memory, then queues the solve of (H + λI) x = b."""
    if dry_run:
        return json_answer(await predict_job(services, submission))
    once = once_of(idempotency_key, submission, services.settings.idempotency_s)
    job_id = new_job_id()
    with services.hub.watch(job_id) as watch:
        made = await submit_job(services, submission, job_id, once, traceparent)
        headers = {"Location": f"/v1/jobs/{made.job.id}"}
        if made.replayed:
            headers["Idempotent-Replayed"] = "true"
        wait = preferred_wait(prefer)
        if wait is None:
            return json_answer(JobView.of(made.job, made.place), 200 if made.replayed else 202, headers)
        limit = min(wait, services.settings.max_wait_s)
        if made.replayed:
            sight = await wait_for_end(services.bodies, services.hub, made.job.id, wait_s=limit)
        else:
            seen = Sight(job_id, Standing(made.job.state, made.job.revision, made.place))
            sight = await wait_from(services.bodies, watch, seen, wait_s=limit)
    sight, body = await services.bodies.render(sight)
    headers |= {"Preference-Applied": f"wait={limit:g}", "ETag": sight.etag}
    return Response(body, 200 if sight.finished or made.replayed else 202, headers, "application/json")


@router.get(
    "",
    operation_id="listJobs",
    summary="List jobs, newest first",
    response_model=JobPage,
    responses={
        **documented(200, "A page of jobs.", example=JOB_PAGE),
        **problems(*ANYWHERE, e.UnknownMethod, e.InvalidReference),
    },
)
async def list_(query: Annotated[JobQuery, Query()], services: ServicesDep) -> Any:
    """Filters restrict together; follow `next` until it is null."""
    return json_answer(await list_jobs(services, query))


@reading.get(
    "/{job_id}",
    operation_id="getJob",
    summary="Look at a job, or wait for it to move",
    response_model=JobView,
    responses={
        **documented(200, "The job.", example=JOB, headers=ETAG),
        **documented(304, "It is as If-None-Match says.", headers=ETAG),
        **problems(*ANYWHERE, e.JobNotFound),
    },
)
async def get(
    job_id: JobId,
    request: Request,
    wait: Annotated[
        float,
        Query(
            ge=0,
            allow_inf_nan=False,
            description="Holds the answer up to this many seconds (15 at most), until state or progress change. "
            "With If-None-Match: until the job differs from that tag.",
        ),
    ] = 0,
    if_none_match: Annotated[str | None, Header(description="An ETag of this job.", examples=['"r5"'])] = None,
) -> Any:
    """A finished job is answered at once."""
    # Without a query, app/polls.py gives this answer.
    services = services_of(request)
    if wait:
        limit = min(wait, services.settings.max_wait_s)
        sight = await wait_for_change(services.bodies, services.hub, job_id, known=if_none_match, wait_s=limit)
    else:
        sight = await services.bodies.look(job_id)
    return await job_as_seen(services, sight, if_none_match)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    status_code=202,
    response_model=JobView,
    responses={
        **documented(202, "It is cancelled, or stops at its next iteration.", example=JOB),
        **problems(*ANYWHERE, e.JobNotFound, e.JobAlreadyFinished),
    },
)
async def cancel(job_id: JobId, services: ServicesDep) -> Any:
    """Final: from here on the job never turns succeeded. Cancelling it again changes nothing."""
    return json_answer(JobView.of(await services.jobs.request_cancel(job_id), None), 202)


@router.post(
    "/{job_id}/rerun",
    operation_id="rerunJob",
    summary="Run a job again",
    status_code=202,
    response_model=JobView,
    responses={
        **documented(202, "A new job, the same but for its id and its webhook.", example=JOB, headers=LOCATION),
        200: {
            **documented(
                200, "With an Idempotency-Key that has made a job, that job.", example=JOB, headers=SUBMITTED
            )[200],
            "model": JobView,
        },
        **problems(
            *ANYWHERE, e.JobNotFound, e.UnknownBlob, e.InvalidHeader, e.IdempotencyMismatch, e.QueueFull,
            e.QuotaExceeded,
        ),
    },
)  # fmt: skip
async def rerun(
    job_id: JobId,
    services: ServicesDep,
    idempotency_key: Annotated[
        str | None, Header(description="As for a submission.", examples=["7c5b1a52-54d1-4b3e-8d25-8f0a7a9f3b11"])
    ] = None,
    traceparent: Annotated[
        str | None,
        Header(
            description="As for a submission.", examples=["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
        ),
    ] = None,
) -> Any:
    """Takes what the job's record has pinned: digests, options after defaults, seed; nothing is resolved anew."""
    once = once_of(idempotency_key, f"rerun {job_id}", services.settings.idempotency_s)
    made = await rerun_job(services, job_id, once, traceparent)
    headers = {"Location": f"/v1/jobs/{made.job.id}", **({"Idempotent-Replayed": "true"} if made.replayed else {})}
    return json_answer(JobView.of(made.job, made.place), 200 if made.replayed else 202, headers)


@router.delete(
    "/{job_id}",
    operation_id="deleteJob",
    summary="Remove a finished job and its result",
    status_code=204,
    response_model=None,
    responses={
        **documented(204, "It is gone."),
        **problems(*ANYWHERE, e.JobNotFound, e.JobNotFinished),
    },
)
async def delete(job_id: JobId, services: ServicesDep) -> Response:
    """Cancel a job first that has not ended."""
    await delete_job(services, job_id)
    return Response(status_code=204)
