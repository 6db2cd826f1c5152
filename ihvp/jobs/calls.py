"""Every operation of the job store as a call to the server; the meaning is in the Lua files, the I/O elsewhere."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ihvp import __version__
from ihvp.errors import IhvpError
from ihvp.jobs import rules
from ihvp.jobs.answers import (
    SCHEMA_VERSION,
    check_schema,
    read_chain,
    read_measurements,
    read_outlook,
    read_place,
    read_quarantine,
    read_workers,
    write_origin,
)
from ihvp.jobs.counts import Measurements, SignOfLife, result_counts
from ihvp.jobs.job_answers import (
    job_record,
    read_deleted,
    read_event_page,
    read_position,
    read_reclaimed,
    read_standing,
)
from ihvp.jobs.outlook import Origin, Outlook, Place
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.states import JobState
from ihvp.jobs.store import (
    Chain,
    Deleted,
    EventPage,
    Finish,
    JobFilter,
    LeaseState,
    Once,
    Page,
    Quarantined,
    Reclaimed,
    Standing,
    WorkerInfo,
)
from ihvp.jobs.submission import JobRequest, Priority
from ihvp.keyvalue.calls import Call, microseconds, to_microseconds
from ihvp.settings import Settings
from ihvp.tenants import DEFAULT_TENANT
from ihvp.webhooks.spec import webhook_fields

__all__ = ["SCHEMA_VERSION", "JobCalls", "Seen"]

T = TypeVar("T")
Seen = tuple[str, str]
_LOST: Final = rules.worker_lost_error("{losses}").model_dump_json()
SCANNED_AT_ONCE: Final = 500
"""Blobs that one call looks at: the server does nothing else meanwhile."""


class JobCalls:
    """Builds the calls.

    Args:
        settings: Has the namespace and the number of events kept.
        tenant: Whose jobs they see and make; None: they see all, and make the default tenant's.
        most_queued: How many of the tenant's jobs may wait.
    """

    def __init__(self, settings: Settings, tenant: str | None = None, most_queued: int | None = None) -> None:
        self._settings = settings
        self._tenant = tenant or DEFAULT_TENANT
        self._sees = tenant or ""
        self._most_own = most_queued or 0
        self._prefix = f"{{{settings.namespace}}}"
        self._event_limit = settings.event_limit
        self._quarantine = microseconds(settings.quarantine_s)
        self._silent = microseconds(settings.worker_alive_s)

    def of(self, tenant: str, most_queued: int | None) -> JobCalls:
        """The calls of one tenant."""
        return JobCalls(self._settings, tenant, most_queued)

    @property
    def channel(self) -> str:
        """Where the id of each changed job is published."""
        return f"{self._prefix}:events"

    def submit(
        self, job_id: str, request: JobRequest, once: Once | None, most_queued: int | None, origin: Origin
    ) -> Call[tuple[JobRecord, Place | None]]:
        """``JobStore.submit``."""
        digest, fingerprint, kept_ms = ("", "", 0) if once is None else self._once(once)
        args = (
            job_id,
            request.model_dump_json(),
            request.method.value,
            request.model.reference or "",
            json.dumps(request.tags),
            json.dumps(rules.request_blobs(request)),
            "" if request.deadline_s is None else microseconds(request.deadline_s),
            microseconds(rules.HEAD_START_S[request.priority]),
            self._event_limit,
            request.priority.value,
            rules.alike(request, self._tenant),
            request.rhs.columns,
            math.prod(request.rhs.shape),
            digest,
            fingerprint,
            kept_ms,
            most_queued or 0,
            microseconds(rules.RATE_WINDOW_S),
            write_origin(origin),
            self._silent,
            self._tenant,
            self._most_own,
            *webhook_fields(request.webhook),
            rules.system(request),
        )
        return Call("create", args, _outcome(_placed_record, job_id, most=most_queued or 0))

    def made_once(self, once: Once) -> Call[JobRecord | None]:
        """``JobStore.made_once``."""
        return Call("made_once", self._once(once)[:2], _made_once)

    def _once(self, once: Once) -> tuple[str, str, int]:
        return rules.once_key(once, self._tenant), once.fingerprint, max(1, round(once.kept_s * 1e3))

    def get(self, job_id: str) -> Call[JobRecord]:
        """``JobStore.get``."""
        return Call("get", (job_id, self._sees), _outcome(_record, job_id))

    def standing(self, job_id: str) -> Call[Standing]:
        """``JobStore.standing``."""
        one = self.standings([self.seen(job_id)])

        def parse(answer: Any) -> Standing:
            (found,) = one.parse(answer)
            if isinstance(found, IhvpError):
                raise found
            return found

        return Call(one.name, one.args, parse)

    def seen(self, job_id: str) -> Seen:
        """A job, and whose eyes look at it: what ``standings`` and ``event_page`` of another tenant's calls take."""
        return job_id, self._sees

    def standings(self, jobs: Sequence[Seen]) -> Call[list[Standing | IhvpError]]:
        """``JobStore.standing`` of several jobs, each seen by its own tenant."""
        args: tuple[str | int, ...] = (self._silent, *(part for job in jobs for part in job))
        return Call(
            "standings",
            args,
            lambda answer: [
                read_standing(each) if each else rules.job_not_found(job_id)
                for (job_id, _), each in zip(jobs, answer[1:], strict=True)
            ],
        )

    def list(self, wanted: JobFilter, limit: int, cursor: str | None) -> Call[Page]:
        """``JobStore.list``."""
        before = [at for at in (rules.listing_cursor(cursor), _stamp(wanted.created_before)) if at is not None]
        after = _stamp(wanted.created_after)
        args = (
            limit,
            max(rules.SCAN_BOUND, limit),
            wanted.state.value if wanted.state else "",
            wanted.method.value if wanted.method else "",
            wanted.model or "",
            json.dumps(wanted.tags),
            min(before) if before else "",
            "" if after is None else after,
            self._silent,
            self._sees,
        )
        return Call("list", args, _page)

    def queue_position(self, job_id: str) -> Call[int | None]:
        """``JobStore.queue_position``."""
        return Call("standings", (self._silent, job_id, self._sees), read_position)

    def foresee(self, priority: Priority, predicted_s: float | None) -> Call[Outlook]:
        """``JobStore.foresee``."""
        predicted = "" if predicted_s is None else max(1, microseconds(predicted_s))
        return Call("foresee", (microseconds(rules.HEAD_START_S[priority]), predicted, self._silent), read_outlook)

    def queue_length(self) -> Call[int]:
        """``JobStore.queue_length``."""
        return Call("ZCARD", (f"{self._prefix}:queue",), int)

    def claim(self, owner: str, lease_s: float) -> Call[JobRecord | None]:
        """``JobStore.claim``."""
        return Call("claim", self._claim(owner, lease_s, 0, 0), lambda answer: next(iter(_claimed(answer)), None))

    def claim_block(self, owner: str, lease_s: float, most_rhs: int, most_numbers: int) -> Call[Sequence[JobRecord]]:
        """``JobStore.claim_block``."""
        return Call("claim", self._claim(owner, lease_s, most_rhs, most_numbers), _claimed)

    def _claim(self, owner: str, lease_s: float, most_rhs: int, most_numbers: int) -> tuple[str | int, ...]:
        near = microseconds(rules.NEAR_DEADLINE_S)
        error = rules.quarantine_error("{seconds}").model_dump_json()
        return (owner, microseconds(lease_s), _op(), self._event_limit, near, most_rhs, most_numbers, error)

    def renew(self, job_id: str, attempt: int, lease_s: float) -> Call[LeaseState]:
        """``JobStore.renew``."""
        return Call("renew", (job_id, attempt, microseconds(lease_s)), _lease)

    def report(self, job_id: str, attempt: int, progress: Progress) -> Call[LeaseState]:
        """``JobStore.report``."""
        left = "" if progress.eta_s is None else microseconds(progress.eta_s)
        args = (job_id, attempt, progress.model_dump_json(), _op(), self._event_limit, left)
        return Call("report", args, _lease)

    def checkpoint(self, job_id: str, attempt: int, digest: str, alone: bool) -> Call[str | None]:
        """``JobStore.checkpoint``."""
        return Call("checkpoint", (job_id, attempt, digest, int(alone)), _outcome(_superseded, job_id, attempt))

    def finish(self, ending: Finish) -> Call[JobRecord]:
        """``JobStore.succeed``, ``fail`` and ``stop``."""
        return Call("finish", self._finish(ending), _outcome(_record, ending.job_id, ending.attempt))

    def finish_unread(self, ending: Finish) -> Call[None]:
        """The same for ``JobStore.finish_all``, which does not ask what became of the job."""
        return Call("finish", self._finish(ending), _outcome(_nothing, ending.job_id, ending.attempt))

    def _finish(self, ending: Finish) -> tuple[str | int, ...]:
        result = ending.result
        return (
            ending.job_id,
            ending.attempt,
            ending.state.value,
            result.model_dump_json() if result else "",
            json.dumps(rules.result_blobs(result)) if result else "",
            ending.error.model_dump_json() if ending.error else "",
            _op(),
            self._event_limit,
            json.dumps(result_counts(result)),
            json.dumps(rules.result_sizes(result)),
            *(progress.model_dump_json() for progress in ending.progress),
        )

    def release(self, job_id: str, attempt: int) -> Call[None]:
        """``JobStore.release``."""
        return Call("release", (job_id, attempt, _op(), self._event_limit), _outcome(_nothing, job_id, attempt))

    def request_cancel(self, job_id: str) -> Call[JobRecord]:
        """``JobStore.request_cancel``."""
        return Call("cancel", (job_id, self._event_limit, self._sees), _outcome(_record, job_id))

    def delete(self, job_id: str) -> Call[Deleted]:
        """``JobStore.delete``."""
        return Call("delete", (job_id, self._sees), _outcome(read_deleted, job_id))

    def event_page(self, seen: Seen, after: str, limit: int) -> Call[EventPage]:
        """``JobStore.events`` and ``event_page``."""
        position = rules.event_position(after)
        args = (seen[0], f"{position[0]}-{position[1]}", limit, seen[1])
        return Call("events", args, _outcome(lambda answer: read_event_page(answer, position), seen[0]))

    def reclaim_lapsed(self, max_attempts: int) -> Call[Sequence[Reclaimed]]:
        """``JobStore.reclaim_lapsed``."""
        args = (max_attempts, _LOST, rules.BATCH, self._event_limit, self._quarantine)
        return Call("reclaim_lapsed", args, read_reclaimed)

    def reclaim_owner(self, owner: str, max_attempts: int) -> Call[Sequence[Reclaimed]]:
        """``JobStore.reclaim_owner``."""
        args = (owner, max_attempts, _LOST, self._event_limit, self._quarantine)
        return Call("reclaim_owner", args, read_reclaimed)

    def expire_overdue(self, grace_s: float) -> Call[Sequence[str]]:
        """``JobStore.expire_overdue``."""
        return Call("expire_overdue", (microseconds(grace_s), rules.BATCH, self._event_limit), _rest)

    def condemn(self, owner: str, grace_s: float) -> Call[Sequence[str] | None]:
        """``JobStore.condemn``."""
        return Call("condemn", (owner, microseconds(grace_s), rules.BATCH, self._event_limit), _rest_or_none)

    def drop_results(self, finished_before_s: float, limit: int) -> Call[Sequence[str]]:
        """``JobStore.drop_results``."""
        return Call("drop_results", (microseconds(finished_before_s), limit), _rest)

    def drop_jobs(self, finished_before_s: float, limit: int) -> Call[Sequence[str]]:
        """``JobStore.drop_jobs``."""
        return Call("drop_jobs", (microseconds(finished_before_s), limit), _rest)

    def some_referenced_blobs(self, cursor: int) -> Call[tuple[int, set[str]]]:
        """A stretch of ``JobStore.referenced_blobs``, and the cursor of the next, 0 at the end."""
        args = (f"{self._prefix}:blobs", cursor, "COUNT", SCANNED_AT_ONCE)
        return Call("HSCAN", args, lambda answer: (int(answer[0]), set(answer[1])))

    def referenced_among(self, digests: Sequence[str]) -> Call[set[str]]:
        """``JobStore.referenced_among``, of one digest or more."""

        def parse(answer: Any) -> set[str]:
            return {digest for digest, count in zip(digests, answer, strict=True) if count is not None}

        return Call("HMGET", (f"{self._prefix}:blobs", *digests), parse)

    def worker_alive(self, worker_id: str, sign: SignOfLife | None) -> Call[None]:
        """``JobStore.worker_alive``."""
        told = ("", "", "")
        if sign is not None:
            vitals = {"mark": sign.mark, "gauges": dict(sign.gauges)}
            told = (sign.mark, json.dumps(dict(sign.counts)), json.dumps(vitals))
        return Call("worker_alive", (worker_id, microseconds(rules.FORGET_WORKER_S), *told), _nothing)

    def worker_gone(self, worker_id: str) -> Call[None]:
        """``JobStore.worker_gone``."""
        return Call("worker_gone", (worker_id,), _nothing)

    def workers(self) -> Call[Sequence[WorkerInfo]]:
        """``JobStore.workers``."""
        return Call("workers", (), read_workers)

    def measure(self) -> Call[Measurements]:
        """``JobStore.measure``."""
        return Call("measure", tuple(state.value for state in JobState), read_measurements)

    def chain(self, alive_s: float, fresh_s: float, pause_s: float) -> Call[Chain]:
        """``JobStore.chain``."""
        return Call("chain", tuple(map(microseconds, (alive_s, fresh_s, pause_s))), read_chain)

    def quarantine(self, let_out: str) -> Call[Sequence[Quarantined]]:
        """``JobStore.quarantined`` and ``end_quarantine``."""
        return Call("quarantine", (let_out,), read_quarantine)

    def acquire_leadership(self, name: str, holder: str, ttl_s: float) -> Call[bool]:
        """``JobStore.acquire_leadership``."""
        return Call("lead", (name, holder, max(1, round(ttl_s * 1000))), bool)

    def ping(self) -> Call[None]:
        """``JobStore.ping``."""
        return Call("ping", (__version__,), check_schema)


def _op() -> str:
    """Marks one write of a worker: when a broken link makes the client send it twice, the second changes nothing."""
    return secrets.token_hex(8)


def _stamp(moment: Any) -> int | None:
    return None if moment is None else to_microseconds(moment)


def _made_once(answer: Any) -> JobRecord | None:
    kind, *rest = answer
    return None if kind == "none" else _outcome(_record, rest[0])(answer)


def _outcome(parse: Callable[[Any], T], job_id: str, attempt: int = 0, most: int = 0) -> Callable[[Any], T]:
    def read(answer: Any) -> T:
        kind, *rest = answer
        if kind == "ok":
            return parse(answer)
        if kind == "not_found":
            raise rules.job_not_found(rest[0] if rest else job_id)
        if kind == "other_request":
            raise rules.other_request(rest[0])
        if kind == "queue_full":
            raise rules.queue_full(int(rest[0]), most, int(rest[1]))
        if kind == "own_full":
            raise rules.own_queue_full(int(rest[0]), int(rest[1]))
        if kind == "exists":
            raise rules.job_exists(job_id)
        if kind == "stale":
            raise rules.stale_attempt(job_id, attempt, int(rest[0]), rest[1])
        if kind == "finished":
            raise rules.already_finished(job_id, JobState(rest[0]))
        raise rules.not_finished(job_id, JobState(rest[0]))

    return read


def _record(answer: Any) -> JobRecord:
    _, job_id, flat = answer
    return job_record(job_id, flat)


def _placed_record(answer: Any) -> tuple[JobRecord, Place | None]:
    return _record(answer[:3]), read_place(answer[3])


def _page(answer: Any) -> Page:
    _, cursor, *jobs = answer
    places = {job_id: place for job_id, _, where in jobs if (place := read_place(where)) is not None}
    return Page([job_record(job_id, flat) for job_id, flat, _ in jobs], cursor or None, places)


def _claimed(answer: Any) -> Sequence[JobRecord]:
    return [job_record(job_id, flat) for job_id, flat in answer[1:]]


def _superseded(answer: Any) -> str | None:
    return answer[1] or None


def _lease(answer: Any) -> LeaseState:
    return LeaseState(answer[1])


def _rest(answer: Any) -> Sequence[str]:
    return list(answer[1:])


def _rest_or_none(answer: Any) -> Sequence[str] | None:
    return None if answer[0] == "none" else _rest(answer)


def _nothing(answer: Any) -> None:
    del answer
