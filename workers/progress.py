"""What a solve tells of itself, on its way to the job's event stream."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from ihvp.errors import StoreUnavailable
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.store import JobStore
from ihvp.methods import TerminationStatus
from solvers.progress import IterationReport
from workers.stop import StopReason, StopSignal

__all__ = ["ProgressReporter", "ProgressWriter", "seconds_left"]

_log = structlog.get_logger(__name__)

_HISTORY = 32
"""Progress points that the estimate of the time left looks back on."""


class ProgressWriter:
    """Takes the progress of a block's jobs to the store, and brings back why they should stop.

    Args:
        store: The job store.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._held: list[tuple[JobRecord, StopSignal, Progress]] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile goes out at the end, on one round trip."""
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._send(held)

    def write(self, job: JobRecord, stop: StopSignal, progress: Progress) -> None:
        """Writes one job's progress, unless it is another worker's by now."""
        if self._held is None:
            self._send([(job, stop, progress)])
        else:
            self._held.append((job, stop, progress))

    def _send(self, points: Sequence[tuple[JobRecord, StopSignal, Progress]]) -> None:
        own = [point for point in points if point[1].reason is not StopReason.Lost]
        if not own:
            return
        try:
            states = self._store.report_all([(job.id, job.attempt, progress) for job, _, progress in own])
        except StoreUnavailable as error:
            # Progress may be lost; the heartbeat decides whether the jobs are.
            _log.warning("progress_not_written", jobs=len(own), error=str(error))
            return
        for (_, stop, _), state in zip(own, states, strict=True):
            stop.learn(state)


class ProgressReporter:
    """Writes at most one progress event an interval, and tells the solver when to stop.

    The first and the last iteration are always written. The answer to "stop?" costs nothing: it
    is read from memory, where the heartbeat and the answers to these reports leave it.

    Args:
        writer: Takes it to the store.
        job: The running job.
        stop: Why to stop, if so.
        interval_s: Least time between two events.
        target: Relative residual at which a right-hand side is done; None if there is none to reach.
        clock: Monotonic seconds.
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
        self._interval_s = interval_s
        self._target = target
        self._clock = clock
        self._phase = ""
        self._phase_began = clock()
        self._written_at = self._phase_began
        self._unwritten: Progress | None = None
        self._history: deque[tuple[float, float]] = deque(maxlen=_HISTORY)

    def enter(self, phase: str, *, at_once: bool = False) -> None:
        """Begins a phase: loading, rhs, solving, influence, storing.

        Args:
            phase: Its name.
            at_once: Whether it is written even within the interval: it may last. Every event is synced to
                disk by the store, so a job of milliseconds must not write one for each of its phases.
        """
        self._phase = phase
        self._phase_began = self._clock()
        self._history.clear()
        begun = Progress(phase=phase)
        if at_once or self._phase_began - self._written_at >= self._interval_s:
            self._write(begun)
        else:
            self._unwritten = begun

    def __call__(self, report: IterationReport) -> TerminationStatus | None:
        """Takes one iteration of the solver; returns why to stop, at once, or None to go on."""
        now = self._clock()
        residuals = report.relative_residual
        worst = max((math.inf if r is None else r for r in residuals), default=math.inf)
        self._history.append((now, worst))
        elapsed = now - self._phase_began
        progress = Progress(
            phase=self._phase,
            iteration=report.iteration,
            max_iterations=report.max_iterations,
            relative_residual=residuals,
            rate_hvp_s=report.hvps / elapsed if elapsed > 0 else None,
            eta_s=seconds_left(list(self._history), self._target),
        )
        # The very first iteration goes out at once, so that a watcher sees that the solve has begun.
        if len(self._history) == 1 or now - self._written_at >= self._interval_s:
            self._write(progress)
        else:
            self._unwritten = progress
        reason = self._stop.reason
        if reason is None:
            return None
        return TerminationStatus.Deadline if reason is StopReason.Deadline else TerminationStatus.Cancelled

    def flush(self) -> None:
        """Writes the last iteration, if it is not written yet."""
        if self._unwritten is not None and self._unwritten.iteration:
            self._write(self._unwritten)

    def _write(self, progress: Progress) -> None:
        self._unwritten = None
        self._written_at = self._clock()
        self._writer.write(self._job, self._stop, progress)


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
