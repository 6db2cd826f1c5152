"""One job of the block that a worker runs: what it alone knows of itself, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import structlog
from torch import Tensor

from ihvp.jobs.record import JobRecord
from ihvp.sources.pin import SourcePin
from workers.checkpoints import JobCheckpoints
from workers.ending import Ended, Ending, EndingWriter
from workers.progress import ProgressReporter
from workers.stop import StopSignal
from workers.tracing import NO_TRACE, NoTrace

__all__ = ["Member", "end_together"]

_log = structlog.get_logger(__name__)

# The solver itself says how long solving took, in its parts: linearise, solve, certify.
_TIMINGS: Final = {"loading": "load", "rhs": "rhs", "influence": "influence"}


class Member:
    """One job of a block.

    Args:
        job: As it was claimed.
        stop: Why to stop it, if so.
        progress: Where its phases and iterations are reported.
        writer: Makes its ending visible.
        trace: Takes what it does into the trace of its request, if anybody traces.

    Attributes:
        b: Its right-hand sides, once they are read: ``[p]`` or ``[k, p]``.
        sources: Files outside the blob store that they were read from.
        timings: Seconds of its own phases.
        checkpoints: Where its state is saved, where it is solved alone by a method that has one to save.
        writer: As given.
        trace: As given.
        ending: How it ended; None while it has not.
        released: Whether it went back to the queue.
    """

    def __init__(
        self,
        job: JobRecord,
        stop: StopSignal,
        progress: ProgressReporter,
        writer: EndingWriter,
        trace: NoTrace = NO_TRACE,
    ) -> None:
        self.job = job
        self.stop = stop
        self.progress = progress
        self.b: Tensor | None = None
        self.sources: dict[str, SourcePin] = {}
        self.timings: dict[str, float] = {}
        self.ending: Ending | None = None
        self.released = False
        self.checkpoints: JobCheckpoints | None = None
        self.writer = writer
        self.trace = trace
        self._began = time.monotonic()

    @property
    def rows(self) -> int:
        """How many right-hand sides it has."""
        return self.job.request.rhs.columns

    def end(self, ending: Ending) -> None:
        """Ends it; what comes after the first ending is not heard."""
        end_together([(self, ending)])

    @contextmanager
    def phase(self, name: str, *, at_once: bool = False) -> Iterator[None]:
        """Reports a phase, times it, and reports its last iteration; see ``ProgressReporter.enter``."""
        self.progress.enter(name, at_once=at_once)
        began = time.perf_counter()
        try:
            with self.trace.phase(name):
                yield
        finally:
            if name in _TIMINGS:
                self.timings[_TIMINGS[name]] = time.perf_counter() - began
            self.progress.flush()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Names the job in every line that is logged meanwhile."""
        with structlog.contextvars.bound_contextvars(**self.job.named):
            yield

    def _ended(self, *, released: bool) -> None:
        self.released = released
        if self.checkpoints is not None and not released:
            self.checkpoints.discard()
        if self.ending is not None:
            self.trace.end(self.ending.name)
            _log.info("job_done", ending=self.ending.name, seconds=round(time.monotonic() - self._began, 4))


def end_together(endings: Sequence[tuple[Member, Ending]]) -> None:
    """Ends jobs of one block, with one sync to disk for all that finish; who has ended already stays as it is."""
    ending_now: list[Member] = []
    for member, ending in endings:
        if member.ending is None:
            member.ending = ending
            ending_now.append(member)
    if not ending_now:
        return
    attempts = [
        Ended(member.job, member.stop, member.ending, member.progress.close())
        for member in ending_now
        if member.ending is not None
    ]
    with ExitStack() as spans:
        for member in ending_now:
            spans.enter_context(member.trace.phase("finishing"))
        released = ending_now[0].writer.write(attempts)
    for member in ending_now:
        with member.speaking():
            member._ended(released=member.job.id in released)
