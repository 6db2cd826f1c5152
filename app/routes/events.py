"""A job's events, streamed as they happen (server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException

from app.answers import documented
from app.dependencies import JobId, ServicesDep
from app.following import follow
from app.problems import ANYWHERE, problems
from ihvp import errors as e

__all__ = ["router"]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

STREAM_EXAMPLE = (
    'event: state\ndata: {"state": "running", "attempt": 1, "revision": 2}\nid: 1767607200004-0\n\n'
    'event: progress\ndata: {"phase": "solving", "iteration": 3}\nid: 1767607200031-0\n\n'
)


async def _position(
    job_id: JobId,
    services: ServicesDep,
    last_event_id: Annotated[
        str,
        Header(
            pattern=r"^(0|[0-9]{1,19}-[0-9]{1,19})$",
            description="Resumes after this event; browsers send it by themselves.",
            examples=["1767607200004-0"],
        ),
    ] = "0",
) -> str:
    # Before the stream begins, a job that is not there can still be answered with 404.
    job = await services.jobs.get(job_id)
    if job.finished and last_event_id != "0" and not await services.jobs.events(job_id, after=last_event_id, limit=1):
        # 204 is how the EventSource of a browser is told not to connect again.
        raise HTTPException(204)
    return last_event_id


@router.get(
    "/{job_id}/events",
    operation_id="streamJobEvents",
    summary="Stream a job's transitions and progress",
    response_class=EventSourceResponse,
    responses={
        **documented(
            200,
            "`state` and `progress` events from the first one on, ended by the one that ends the job. Of a long solve "
            "the oldest points of progress are kept no longer; an event `gap` says where some are missing. "
            "Comments keep the connection alive.",
            content={"text/event-stream": {"example": STREAM_EXAMPLE}},
        ),
        **documented(204, "The job has ended and Last-Event-ID was its last event."),
        **problems(*ANYWHERE, e.JobNotFound),
    },
)
async def stream(
    job_id: JobId, services: ServicesDep, after: Annotated[str, Depends(_position)]
) -> AsyncIterator[ServerSentEvent]:
    """Each event's id is its position: send the last one back as Last-Event-ID, and what is kept follows."""
    async for event in follow(services.jobs, services.hub, job_id, after):
        yield ServerSentEvent(event=event.type, data=event.data, id=event.id)
