"""What a solve tells of itself, on its way to the job's event stream."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from ihvp.errors import StoreUnavailable
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.store import JobStore
from ihvp.methods import TerminationStatus
from solvers.progress import IterationReport
from workers.stop import StopReason, StopSignal

__all__ = ["ProgressReporter", "seconds_left"]

_log = structlog.get_logger(__name__)

_HISTORY = 32
"""Progress points that the estimate of the time left looks back on."""


class ProgressReporter:
    """Writes at most one progress event an interval, and tells the solver when to stop.

    The first and the last iteration are always written. The answer to "stop?" costs nothing: it
    is read from memory, where the heartbeat and the answers to these reports leave it.

    Args:
        store: The job store.
        job: The running job.
        stop: Why to stop, if so.
        interval_s: Least time between two events.
        target: Relative residual at which a right-hand side is done; None if there is none to reach.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: JobStore,
        job: JobRecord,
        stop: StopSignal,
        *,
        interval_s: float,
        target: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
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
        if self._stop.reason is StopReason.Lost:
            return
        try:
            self._stop.learn(self._store.report(self._job.id, self._job.attempt, progress))
        except StoreUnavailable as error:
            # Progress may be lost; the heartbeat decides whether the job is.
            _log.warning("progress_not_written", error=str(error))


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
