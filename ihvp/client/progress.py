"""A job's progress as one live line on the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ihvp.jobs.record import Progress as JobProgress
from ihvp.jobs.states import JobState
from ihvp.live_bar import LiveBar
from ihvp.methods import default_rtol
from ihvp.wire import JobView

__all__ = ["ProgressBar", "fraction_done"]


class ProgressBar(LiveBar):
    """Shows what ``Client.wait`` reports; a context manager.

    Args:
        console: Where to draw; by default standard error, so that standard output stays a program's.
    """

    def __init__(self, console: Console | None = None) -> None:
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
        )
        super().__init__(bar)
        self._task = self._bar.add_task("submitted", total=1.0, detail="")
        self._first_residual: float | None = None

    def show(self, job: JobView) -> None:
        """Draws the job as it stands."""
        progress = job.progress
        worst = _worst_residual(progress)
        if self._first_residual is None:
            self._first_residual = worst
        done = 1.0 if job.state is JobState.Succeeded else fraction_done(self._first_residual, worst, _target(job))
        self._bar.update(self._task, description=_phase(job), completed=done, detail=_detail(job, worst))
        self._bar.start()


def fraction_done(first: float | None, now: float | None, target: float) -> float:
    """How far the residual has come from where it began to where it has to be, on a logarithmic scale."""
    if first is None or now is None or not first > target or now <= 0.0:
        return 0.0
    return min(max(math.log(first / now) / math.log(first / target), 0.0), 1.0)


def _phase(job: JobView) -> str:
    if job.state is JobState.Running and job.progress is not None:
        return job.progress.phase
    if job.state is JobState.Queued and job.queue_position is not None:
        return f"queued, {job.queue_position} before it" if job.queue_position else "queued"
    return job.state.value


def _detail(job: JobView, worst: float | None) -> str:
    if job.progress is None or not job.progress.iteration:
        return ""
    parts = [f"iteration {job.progress.iteration}"]
    if worst is not None:
        parts.append(f"residual {worst:.1e}")
    if job.progress.rate_hvp_s is not None:
        parts.append(f"{job.progress.rate_hvp_s:.0f} Hv/s")
    return " · ".join(parts)


def _worst_residual(progress: JobProgress | None) -> float | None:
    known = [value for value in (progress.relative_residual if progress else []) if value is not None]
    return max(known, default=None)


def _target(job: JobView) -> float:
    asked: Any = job.options.get("rtol")
    return float(asked) if asked else default_rtol("float32")
