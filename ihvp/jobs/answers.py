"""What scripts answer about the queue, the workers and the counts, read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ihvp import __version__
from ihvp.errors import SetupError
from ihvp.jobs.counts import Measurements, WorkerSeen
from ihvp.jobs.outlook import Eta, Origin, Outlook, Place, Unknown
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Chain, Quarantined, WorkerInfo
from ihvp.keyvalue.calls import hash_fields, microseconds

__all__ = [
    "SCHEMA_VERSION",
    "check_schema",
    "read_chain",
    "read_measurements",
    "read_outlook",
    "read_place",
    "read_quarantine",
    "read_workers",
    "write_origin",
]

SCHEMA_VERSION: Final = 1


def read_place(answer: Any) -> Place | None:
    """Where a waiting job stands."""
    if not answer:
        return None
    position, starts, ends, unknown = answer
    return Place(int(position), Eta.of(_seconds(starts), _seconds(ends), Unknown(unknown) if unknown else None))


def read_outlook(answer: Any) -> Outlook:
    """What a job that came now would find."""
    waiting, workers, now, starts, ends, unknown = answer

    def left(stamp: str) -> float | None:
        return max(0, int(stamp) - int(now)) / 1e6 if stamp else None

    return Outlook(int(waiting), int(workers), left(starts), left(ends), Unknown(unknown) if unknown else None)


def read_workers(answer: Any) -> Sequence[WorkerInfo]:
    """The workers, most recent first."""
    return [WorkerInfo(worker, int(age) / 1e6) for worker, age in hash_fields(answer[1:]).items()]


def read_measurements(answer: Any) -> Measurements:
    """The store at one moment."""
    waiting, oldest, jobs, workers, roles, counts = answer
    return Measurements(
        queue_length=int(waiting),
        oldest_queued_s=int(oldest) / 1e6,
        jobs={state.value: int(number) for state, number in zip(JobState, jobs, strict=True)},
        workers=[
            WorkerSeen(worker, int(age) / 1e6, json.loads(vitals).get("gauges", {}))
            for worker, age, vitals in zip(workers[::3], workers[1::3], workers[2::3], strict=True)
        ],
        leaders={
            role: (int(at) / 1e6, bool(int(held)))
            for role, at, held in zip(roles[::3], roles[1::3], roles[2::3], strict=True)
        },
        counts={name: float(number) for name, number in hash_fields(counts).items()},
    )


def write_origin(origin: Origin) -> str:
    """Where a job comes from, as the script that makes it reads it."""
    predicted = None if origin.predicted_s is None else max(1, microseconds(origin.predicted_s))
    brings = None if origin.brings is None else [origin.brings.digest, origin.brings.size]
    told = {"request_id": origin.request_id, "trace": origin.trace, "predicted": predicted, "brings": brings}
    return json.dumps({name: value for name, value in told.items() if value is not None})


def _seconds(stamp: str) -> float | None:
    return int(stamp) / 1e6 if stamp else None


def read_quarantine(answer: Any) -> Sequence[Quarantined]:
    """The answer of ``quarantine.lua``."""
    found = []
    for system, left, job_id in answer[1:]:
        method, _, digest = system.partition(" ")
        found.append(Quarantined(method, digest, job_id, int(left) / 1e6))
    return sorted(found, key=lambda each: (each.model_digest, each.method))


def read_chain(answer: Any) -> Chain:
    """The answer of ``chain.lua``."""
    _, workers, proof, asked, send = answer
    proof_age, asked_age = (None if age == "" else int(age) / 1e6 for age in (proof, asked))
    return Chain(int(workers), proof_age, asked_age, bool(send))


def check_schema(answer: Any) -> None:
    """Refuses a store that another version has written.

    Raises:
        SetupError: It is in another layout.
    """
    schema, version = answer
    if str(schema) == str(SCHEMA_VERSION):
        return
    try:
        older = int(schema) < SCHEMA_VERSION
    except ValueError:
        older = False
    raise SetupError(
        f"The job store holds data that {'an older' if older else 'another, newer'} version of ihvp has written.",
        given=f"layout {schema}" + (f", that of ihvp {version}" if version else ""),
        allowed=f"layout {SCHEMA_VERSION}, that of ihvp {__version__}",
        hint=(
            "Run the version of ihvp that wrote it until its jobs have ended, or set IHVP_NAMESPACE to begin an empty "
            "store beside it."
            if older
            else "Run the version of ihvp that wrote it, or set IHVP_NAMESPACE to begin an empty store beside it."
        ),
    )
