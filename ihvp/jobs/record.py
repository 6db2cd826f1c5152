"""A job as the store keeps it and as callers see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.jobs.states import TERMINAL, JobState
from ihvp.jobs.submission import JobRequest
from ihvp.methods import TerminationStatus
from ihvp.tenants import DEFAULT_TENANT

__all__ = ["Certificate", "JobChange", "JobError", "JobEvent", "JobRecord", "Progress", "ResultSummary", "named"]


_LAST_STATES: Final = frozenset({*(state.value for state in TERMINAL), "removed"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Progress(_Frozen):
    """How far a running solve is."""

    phase: str = Field(description="loading, rhs, solving, influence, storing", examples=["solving"])
    iteration: int = 0
    max_iterations: int | None = None
    relative_residual: list[float | None] = Field(
        default_factory=list, description="One a right-hand side, from the recurrence."
    )
    rate_hvp_s: float | None = Field(None, description="Hessian-vector products a second.")
    eta_s: float | None = Field(None, description="Seconds left, extrapolated from the residuals.")


class Certificate(_Frozen):
    """What is guaranteed of one solution vector."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: TerminationStatus
    relative_residual: float | None = Field(
        description="‖(H+λI)x−b‖/‖b‖, recomputed after the solve with the true operator; null if not finite."
    )
    iterations: int
    advice: str | None = Field(description="What to do next; null when converged.")


class ResultSummary(_Frozen):
    """Where a finished job's result lies, and what it is worth."""

    digest: str = Field(description="sha256 of the safetensors blob that holds x.")
    size: int = Field(description="Bytes of that blob.")
    shape: list[int]
    dtype: str
    certificate: list[Certificate]
    influence_digest: str | None = Field(None, description="Blob of the scores [k, n].")
    influence_size: int | None = Field(None, description="Bytes of that blob.")
    solve_s: float | None = Field(None, description="Seconds the worker spent on the job.")


class JobError(_Frozen):
    """Why a job failed; the same parts as an HTTP error."""

    code: str
    message: str
    given: Any | None = None
    allowed: Any | None = None
    hint: str | None = None


class JobRecord(_Frozen):
    """A job in the store. Every change adds one to ``revision``.

    Attributes:
        tenant: Whose it is.
        attempt: How often a worker has claimed it; the fence that every write of a worker names.
        owner: The worker that holds the lease, while running.
        result_removed: True once retention has removed the result.
        checkpoint: Blob of what the next attempt goes on from; None once the job has ended.
        request_id: Of the request that submitted it.
        trace: The W3C ``traceparent`` that its work goes on.
        losses: Workers that died on it.
    """

    id: str
    tenant: str = DEFAULT_TENANT
    state: JobState
    revision: int = 1
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    request: JobRequest
    progress: Progress | None = None
    result: ResultSummary | None = None
    error: JobError | None = None
    cancel_requested: bool = False
    owner: str | None = None
    result_removed: bool = False
    checkpoint: str | None = None
    request_id: str | None = None
    trace: str | None = None
    losses: int = 0

    @property
    def named(self) -> dict[str, Any]:
        """What names the job and its attempt on a line of a log, with the request and the trace that it came from."""
        return named(self.id, self.attempt, self.request_id, self.trace)

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.state in TERMINAL


def named(job_id: str, attempt: int, request_id: str | None, trace: str | None) -> dict[str, Any]:
    """``JobRecord.named`` where there is no record."""
    found: dict[str, Any] = {"job_id": job_id, "attempt": attempt}
    if request_id:
        found["request_id"] = request_id
    if trace:
        # Of a W3C traceparent, version-trace-parent-flags, the trace is what all lines of it share.
        found["trace_id"] = trace.split("-")[1]
    return found


class JobEvent(_Frozen):
    """One entry of a job's event stream.

    Attributes:
        id: Position in the stream, ``<ms>-<n>``; give it back to resume after it.
        type: ``state`` for a transition, ``progress`` for a progress point. A stream has ``gap`` besides, where points
            of progress were dropped for want of room.
        data: For ``state``: ``{"state", "attempt", "revision"}``; for ``progress``: the progress; for ``gap``:
            ``{"after", "dropped"}``, the position behind which they are missing.
    """

    id: str
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class JobChange:
    """What is announced of a job that has changed.

    Attributes:
        job_id: The job.
        ended: Whether it has ended, or was removed, or may have: a worker of the version before says no state.
    """

    job_id: str
    ended: bool

    @classmethod
    def read(cls, message: str) -> JobChange:
        """The change that a message of the store's channel tells of: ``<id> <state>``."""
        job_id, _, state = message.partition(" ")
        return cls(job_id, not state or state in _LAST_STATES)
