"""A worker's part of traces: what each attempt at a job did, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ihvp.tracing import Tracing, context_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from ihvp.jobs.record import JobRecord
    from solvers.progress import IterationReport

__all__ = ["NO_TRACE", "AttemptTrace", "NoTrace", "trace_attempts"]

SPANS: Final = {
    "loading": "ihvp.load",
    "rhs": "ihvp.rhs",
    "solving": "ihvp.solve",
    "influence": "ihvp.influence",
    "storing": "ihvp.store",
    "finishing": "ihvp.finish",
}
_SHARE: Final = 1 / 32
"""Of a solve's time until then, that a batch of iterations takes at least: a day's solve has hundreds of spans."""


class NoTrace:
    """What an attempt does with its trace where nobody traces: nothing."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of the attempt."""
        del name
        yield

    def iterated(self, report: IterationReport, *, last: bool = False) -> None:
        """The solve has come so far."""

    def failed(self, error: Exception) -> None:
        """Something went wrong."""

    def end(self, how: str) -> None:
        """The attempt has ended."""


NO_TRACE: Final = NoTrace()


class AttemptTrace(NoTrace):
    """The spans of one attempt at a job, in the trace of the request that submitted it.

    Args:
        tracing: Makes the spans.
        job: As it was claimed.
        claim: When the claim was sent and answered, in nanoseconds since 1970.
        block: How many jobs were claimed together.
        linked: Contexts of what was solved along.
    """

    def __init__(
        self, tracing: Tracing, job: JobRecord, claim: tuple[int, int], block: int, linked: Sequence[Context]
    ) -> None:
        from opentelemetry.trace import Link, SpanKind, get_current_span

        self._tracer = tracing.tracer
        parent = context_of(job.trace)
        about: dict[str, Any] = {"ihvp.job_id": job.id, "ihvp.attempt": job.attempt}
        if job.attempt == 1 and job.started_at is not None:
            queued = self._tracer.start_span(
                "ihvp.queue", parent, attributes=about, start_time=_nanoseconds(job.created_at)
            )
            queued.end(_nanoseconds(job.started_at))
        request = {"ihvp.request_id": job.request_id} if job.request_id else {}
        links = [Link(get_current_span(context).get_span_context()) for context in linked]
        self._attempt = self._tracer.start_span(
            "ihvp.attempt",
            parent,
            kind=SpanKind.CONSUMER,
            attributes={
                **about,
                **request,
                "ihvp.method": job.request.method.value,
                "ihvp.model": job.request.model.reference or job.request.model.digest,
                "ihvp.right_hand_sides": job.request.rhs.columns,
                "ihvp.jobs_in_block": block,
            },
            links=links,
            start_time=claim[0],
        )
        self._open: list[Span] = []
        self._began = self._told = 0
        self._iterations = 0
        self._span("ihvp.claim", claim[0]).end(claim[1])

    @property
    def context(self) -> Context:
        """That of the attempt, for others to link to."""
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(self._attempt)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See ``NoTrace.phase``."""
        from opentelemetry.trace import StatusCode

        span = self._span(SPANS.get(name, f"ihvp.{name}"))
        self._open.append(span)
        self._began = self._told = time.time_ns()
        self._iterations = 0
        try:
            yield
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            self._open.remove(span)
            span.end()

    def iterated(self, report: IterationReport, *, last: bool = False) -> None:
        """See ``NoTrace.iterated``: one span a batch of iterations, within that of the solve."""
        now = time.time_ns()
        too_short = now - self._told < _SHARE * (self._told - self._began)
        if report.iteration <= self._iterations or (too_short and not last):
            return
        known = [residual for residual in report.relative_residual if residual is not None]
        span = self._span("ihvp.iterations", self._told)
        span.set_attributes(
            {
                "ihvp.first_iteration": self._iterations + 1,
                "ihvp.last_iteration": report.iteration,
                "ihvp.hvps": report.hvps,
                **({"ihvp.worst_relative_residual": max(known)} if known else {}),
            }
        )
        span.end(now)
        self._told, self._iterations = now, report.iteration

    def failed(self, error: Exception) -> None:
        """See ``NoTrace.failed``."""
        self._attempt.record_exception(error)

    def end(self, how: str) -> None:
        """See ``NoTrace.end``."""
        from opentelemetry.trace import StatusCode

        self._attempt.set_attribute("ihvp.ending", how)
        if how in {"failed", "lost"}:
            self._attempt.set_status(StatusCode.ERROR, how)
        self._attempt.end()

    def _span(self, name: str, start: int | None = None) -> Span:
        from opentelemetry.trace import set_span_in_context

        above = self._open[-1] if self._open else self._attempt
        return self._tracer.start_span(name, set_span_in_context(above), start_time=start)


def trace_attempts(tracing: Tracing | None, jobs: Sequence[JobRecord], claim: tuple[int, int]) -> Sequence[NoTrace]:
    """The traces of a block's jobs: the first one's shows the iterations, and the others' are linked with it.

    Args:
        tracing: Makes spans; None where nobody traces.
        jobs: As they were claimed.
        claim: When the claim was sent and answered, in nanoseconds since 1970.
    """
    if tracing is None:
        return [NO_TRACE] * len(jobs)
    along = [context for job in jobs[1:] if (context := context_of(job.trace)) is not None]
    first = AttemptTrace(tracing, jobs[0], claim, len(jobs), along)
    return [first, *(AttemptTrace(tracing, job, claim, len(jobs), [first.context]) for job in jobs[1:])]


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6) * 1000
