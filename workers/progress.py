"""What a solve tells of itself, on its way to the job's event stream."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final

import structlog

from ihvp.errors import StoreUnavailable
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.store import JobStore
from solvers.progress import IterationReport
from workers.spare_threads import SpareThreads, Work
from workers.stop import StopReason, StopSignal

__all__ = ["ProgressReporter", "ProgressWriter", "Trail", "seconds_left"]

_log = structlog.get_logger(__name__)

_HISTORY: Final = 32
"""Progress points that the estimate of the time left looks back on."""
_CLOSING_S: Final = 5.0
"""Longest that what is left is waited for: a store that hangs must not hold up the next job."""

_Point = tuple[JobRecord, StopSignal, Progress]


class ProgressWriter:
    """Takes the progress of a block's jobs to the store, and brings back why they should stop.

    A thread of its own does it, from the first point to ``close``: the store syncs each write to its disk, and the
    solve must not wait for that. What has come while it was busy goes out together.

    Args:
        store: The job store.
        threads: Lend the thread.
    """

    def __init__(self, store: JobStore, threads: SpareThreads | None = None) -> None:
        self._store = store
        self._threads = threads or SpareThreads()
        self._changed = threading.Condition()
        self._waiting: dict[str, list[_Point]] = {}
        self._due = False
        self._latest = math.inf
        self._busy = False
        self._closed = False
        self._gathering = 0
        self._writing: Work | None = None

    def __enter__(self) -> ProgressWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile goes out at the end, on one round trip."""
        with self._changed:
            self._gathering += 1
        try:
            yield
        finally:
            with self._changed:
                self._gathering -= 1
                self._wake()

    def write(self, job: JobRecord, stop: StopSignal, progress: Progress) -> None:
        """Writes one job's progress soon, unless the job is another worker's by then."""
        with self._changed:
            self._waiting.setdefault(job.id, []).append((job, stop, progress))
            self._due = True
            self._wake()

    def keep(self, job: JobRecord, stop: StopSignal, progress: Progress, most_s: float) -> None:
        """The same, but along with the next write: of progress, or of the job's end, which then ``withdraw``s it.

        Args:
            job: The running job.
            stop: Why to stop, if so.
            progress: What is to be written.
            most_s: Seconds after which it is written alone.
        """
        with self._changed:
            self._waiting.setdefault(job.id, []).append((job, stop, progress))
            latest = time.monotonic() + most_s
            if latest < self._latest:
                self._latest = latest
                self._wake()

    def withdraw(self, job_id: str) -> list[Progress]:
        """What is not written yet of a job's progress, for its end to take along; nothing of it is under way then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            own = [progress for _, _, progress in self._waiting.pop(job_id, [])]
            if not self._waiting:
                self._due, self._latest = False, math.inf
            return own

    def wait(self, timeout_s: float) -> None:
        """Until the store has answered to all that is due, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and not self._due, timeout_s)

    def close(self) -> None:
        """Writes what is left and ends the thread."""
        with self._changed:
            self._closed = True
            self._gathering = 0
            self._due = bool(self._waiting)
            self._wake()
        if self._writing is not None:
            self._writing.join(_CLOSING_S)

    def _wake(self) -> None:
        if self._gathering:
            return
        if self._waiting and self._writing is None:
            self._writing = self._threads.run(self._keep_writing, "progress")
        self._changed.notify_all()

    def _keep_writing(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (self._gathering or not self._due):
                    left = self._latest - time.monotonic()
                    if left <= 0 and not self._gathering:
                        break
                    self._changed.wait(None if self._gathering or left == math.inf else left)
                points = [point for own in self._waiting.values() for point in own]
                self._waiting.clear()
                self._due, self._latest = False, math.inf
                if not points and self._closed:
                    return
                self._busy = True
            try:
                self._send([point for point in points if point[1].reason is not StopReason.Lost])
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _send(self, points: Sequence[_Point]) -> None:
        if not points:
            return
        try:
            states = self._store.report_all([(job.id, job.attempt, progress) for job, _, progress in points])
        except Exception as error:  # whatever it is: the thread goes on, or nobody would learn that they should stop
            # Progress may be lost; the heartbeat decides whether the jobs are.
            if isinstance(error, StoreUnavailable):
                _log.warning("progress_not_written", points=len(points), error=str(error))
            else:
                _log.exception("progress_failed", points=len(points))
            return
        for (_, stop, _), state in zip(points, states, strict=True):
            stop.learn(state)


class Trail:
    """The last iterations of a solve, each with the time at which it was done.

    Args:
        count: Right-hand sides.
        clock: Monotonic seconds.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._steps: deque[tuple[float, IterationReport]] = deque(maxlen=_HISTORY)

    def add(self, report: IterationReport) -> float:
        """Notes an iteration; returns when it was done."""
        now = self._clock()
        self._steps.append((now, report))
        return now

    @property
    def last(self) -> IterationReport | None:
        """The last one; None before the first."""
        return self._steps[-1][1] if self._steps else None

    def progress(self, phase: str, since: float, rows: slice, target: float | None) -> Progress:
        """The last iteration as a progress point of those who have these rows; there has to be one.

        Args:
            phase: Name of the phase.
            since: When it began.
            rows: Of the right-hand sides.
            target: Relative residual at which one is done; None if there is none to reach.
        """
        now, report = self._steps[-1]
        elapsed = now - since
        return Progress(
            phase=phase,
            iteration=report.iteration,
            max_iterations=report.max_iterations,
            relative_residual=self._own(report, rows),
            rate_hvp_s=report.hvps / elapsed if elapsed > 0 else None,
            eta_s=seconds_left([(at, _worst(self._own(step, rows))) for at, step in self._steps], target),
        )

    def _own(self, report: IterationReport, rows: slice) -> list[float | None]:
        # Where a method tells of another number of them, it is of the whole block.
        residuals = report.relative_residual
        return residuals[rows] if len(residuals) == self._count else residuals


class ProgressReporter:
    """One job's progress: its phases, and the iterations of the solve that it is part of.

    Args:
        writer: Takes it to the store.
        job: The running job.
        stop: Why to stop, if so.
        interval_s: Least time between two writes; between two events too, but for the first and the last iteration.
        target: Relative residual at which a right-hand side is done; None if there is none to reach.
        clock: Monotonic seconds.

    Attributes:
        interval_s: As given.
    """

    def __init__(
        self,
        writer: ProgressWriter,
        job: JobRecord,
        stop: StopSignal,
        *,
        interval_s: float,
        target: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._job = job
        self._stop = stop
        self.interval_s = interval_s
        self._target = target
        self._clock = clock
        self._phase = ""
        self._phase_began = clock()
        self._written_at = self._phase_began
        # Longer than the pause between two writes, so that one that comes anyhow takes it along.
        self._most_s = 2 * interval_s
        self._trail: Trail | None = None
        self._rows = slice(None)
        self._shown: IterationReport | None = None
        self._closed = False

    def enter(self, phase: str, *, at_once: bool = False) -> None:
        """Begins a phase: loading, rhs, solving, influence, storing.

        Args:
            phase: Its name.
            at_once: Whether it is written even within the interval: it may last. Every event is synced to
                disk by the store, so a job of milliseconds must not write one for each of its phases.
        """
        self._phase = phase
        self._phase_began = self._clock()
        self._trail = None
        if at_once or self._phase_began - self._written_at >= self.interval_s:
            self._write(Progress(phase=phase))

    def follow(self, trail: Trail, rows: slice) -> None:
        """The phase is a solve that leaves this trail; these rows of its right-hand sides are the job's."""
        self._trail, self._rows, self._shown = trail, rows, None

    def show(self, *, at_once: bool = False) -> None:
        """Has the last iteration written.

        Args:
            at_once: Whether it is written even within the interval; else along with what comes next then.
        """
        if self._closed or self._trail is None or self._trail.last is None:
            return
        self._shown = self._trail.last
        progress = self._trail.progress(self._phase, self._phase_began, self._rows, self._target)
        if at_once or self._clock() - self._written_at >= self.interval_s:
            self._write(progress)
        else:
            self._writer.keep(self._job, self._stop, progress, self._most_s)

    def flush(self) -> None:
        """Ends a phase: has its last iteration written."""
        last = None if self._trail is None else self._trail.last
        if last is not None and last is not self._shown and last.iteration:
            self.show()

    def close(self) -> list[Progress]:
        """Writes nothing more; returns what is not written yet, for the job's end to take along."""
        self.flush()
        self._closed = True
        return self._writer.withdraw(self._job.id)

    def _write(self, progress: Progress) -> None:
        if not self._closed:
            self._written_at = self._clock()
            self._writer.write(self._job, self._stop, progress)


def _worst(residuals: Sequence[float | None]) -> float:
    return max((math.inf if r is None else r for r in residuals), default=math.inf)


def seconds_left(history: Sequence[tuple[float, float]], target: float | None) -> float | None:
    """Seconds until the residual reaches its target, if it goes on falling as fast as it did.

    Args:
        history: Pairs of seconds and the largest relative residual, oldest first.
        target: The residual to reach.

    Returns:
        None where there is no target, too little history, or no fall.
    """
    points = [(t, math.log(r)) for t, r in history if 0.0 < r < math.inf]
    if target is None or len(points) < 3:
        return None
    mean_t = sum(t for t, _ in points) / len(points)
    mean_r = sum(r for _, r in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    slope = sum((t - mean_t) * (r - mean_r) for t, r in points) / spread if spread > 0 else 0.0
    if slope >= 0:
        return None
    return max(0.0, (math.log(target) - points[-1][1]) / slope)
