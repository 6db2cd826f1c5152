"""What scripts answer about jobs, read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ihvp.jobs import rules
from ihvp.jobs.answers import read_place
from ihvp.jobs.record import JobError, JobEvent, JobRecord, Progress, ResultSummary
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Deleted, EventPage, Reclaimed, Standing
from ihvp.jobs.submission import JobRequest
from ihvp.keyvalue.calls import from_microseconds, hash_fields
from ihvp.keyvalue.documents import read_document
from ihvp.tenants import DEFAULT_TENANT

__all__ = [
    "job_record",
    "read_deleted",
    "read_event_page",
    "read_position",
    "read_reclaimed",
    "read_standing",
]


def job_record(job_id: str, flat: list[str]) -> JobRecord:
    """The record of a job's hash as Lua returns it."""
    fields = hash_fields(flat)

    def moment(name: str) -> Any:
        return from_microseconds(int(fields[name])) if name in fields else None

    def document(name: str, model: Any) -> Any:
        return model.model_validate_json(fields[name]) if name in fields else None

    return JobRecord(
        id=job_id,
        tenant=fields.get("tenant", DEFAULT_TENANT),
        state=JobState(fields["state"]),
        revision=int(fields["revision"]),
        attempt=int(fields["attempt"]),
        created_at=moment("created"),
        started_at=moment("started"),
        finished_at=moment("finished"),
        deadline_at=moment("deadline"),
        request=read_document(JobRequest, fields["request"]),
        progress=document("progress", Progress),
        result=document("result", ResultSummary),
        error=document("error", JobError),
        cancel_requested="cancel" in fields,
        owner=fields.get("owner"),
        result_removed="removed" in fields,
        checkpoint=fields.get("checkpoint"),
        request_id=fields.get("request_id"),
        trace=fields.get("trace"),
        losses=int(fields["losses"]),
    )


def read_standing(answer: Any) -> Standing:
    """One of what ``standings`` answers."""
    state, revision, place = answer
    return Standing(JobState(state), int(revision), read_place(place))


def read_position(answer: Any) -> int | None:
    """The place of a single job in the queue; None where it does not wait."""
    place = read_place(answer[1][2]) if answer[1] else None
    return None if place is None else place.queue_position


def read_event_page(answer: Any, after: tuple[int, int]) -> EventPage:
    """Events after a position."""
    events = []
    for position, flat in answer[1]:
        fields = hash_fields(flat)
        events.append(JobEvent(id=position, type=fields["type"], data=json.loads(fields["data"])))
    return EventPage(events, gap=rules.event_position(answer[2]) > after)


def read_deleted(answer: Any) -> Deleted:
    """What a deletion leaves to be removed."""
    return Deleted(list(answer[2:]), int(answer[1]) / 1e6)


def read_reclaimed(answer: Any) -> Sequence[Reclaimed]:
    """Jobs that were taken from their workers."""
    return [
        Reclaimed(job_id, JobState(state), int(attempt), request_id or None, trace or None)
        for job_id, state, attempt, request_id, trace in answer[1:]
    ]
