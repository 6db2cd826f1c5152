"""What a watcher of a job gets to see, and how soon a solver is told to stop."""

from __future__ import annotations

import math

import pytest

from ihvp.errors import StoreUnavailable
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.store import LeaseState
from ihvp.methods import TerminationStatus
from solvers import IterationReport
from workers.progress import ProgressReporter, ProgressWriter, seconds_left
from workers.stop import StopReason, StopSignal


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def report(iteration: int, *residuals: float | None) -> IterationReport:
    return IterationReport("cg", iteration, 1000, list(residuals), hvps=10.0 * iteration)


def written(store: MemoryJobStore, job: JobRecord) -> list[Progress]:
    events = store.events(job.id, limit=10_000)
    return [Progress.model_validate(e.data) for e in events if e.type == "progress"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stop() -> StopSignal:
    return StopSignal(lambda: False)


@pytest.fixture
def reporter(memory_store: MemoryJobStore, claimed: JobRecord, stop: StopSignal, clock: Clock) -> ProgressReporter:
    return ProgressReporter(ProgressWriter(memory_store), claimed, stop, interval_s=0.25, target=1e-6, clock=clock)


def test_a_fast_solver_writes_at_most_four_events_a_second(
    memory_store: MemoryJobStore, claimed: JobRecord, reporter: ProgressReporter, clock: Clock
) -> None:
    reporter.enter("loading", at_once=True)
    reporter.enter("rhs")
    reporter.enter("solving")
    for iteration in range(1, 2001):
        clock.now = iteration * 0.001
        reporter(report(iteration, 0.5))
    reporter.flush()
    iterations = [p.iteration for p in written(memory_store, claimed)]
    assert iterations[:2] == [0, 1], "a phase that may last and the first iteration are shown at once"
    assert iterations[-1] == 2000, "the last iteration is always shown"
    assert 8 <= len(iterations) <= 11


def test_a_point_says_how_far_and_how_fast(
    memory_store: MemoryJobStore, claimed: JobRecord, reporter: ProgressReporter, clock: Clock
) -> None:
    reporter.enter("solving")
    for iteration in range(1, 5):
        clock.now = float(iteration)
        reporter(report(iteration, 10.0**-iteration, None))
    last = written(memory_store, claimed)[-1]
    assert last.phase == "solving"
    assert (last.iteration, last.max_iterations) == (4, 1000)
    assert last.relative_residual == [1e-4, None]
    assert last.rate_hvp_s == pytest.approx(10.0)


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_time_left_follows_the_residuals_fall(slope: float) -> None:
    history = [(float(t), math.exp(-slope * t)) for t in range(10)]
    assert seconds_left(history, math.exp(-slope * 25)) == pytest.approx(25 - 9)


@pytest.mark.parametrize(
    ("history", "target"),
    [
        ([(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)], 1e-3),
        ([(0.0, 1.0), (1.0, 2.0), (2.0, 4.0)], 1e-3),
        ([(0.0, 1.0), (1.0, 0.5)], 1e-3),
        ([(0.0, 1.0), (1.0, 0.5), (2.0, 0.2)], None),
        ([(0.0, math.inf), (1.0, math.inf), (2.0, math.inf)], 1e-3),
    ],
    ids=["flat", "rising", "too-short", "no-target", "unknown"],
)
def test_no_time_left_is_made_up(history: list[tuple[float, float]], target: float | None) -> None:
    assert seconds_left(history, target) is None


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (StopReason.Cancelled, TerminationStatus.Cancelled),
        (StopReason.Deadline, TerminationStatus.Deadline),
        (StopReason.Shutdown, TerminationStatus.Cancelled),
        (StopReason.Lost, TerminationStatus.Cancelled),
    ],
)
def test_a_reason_to_stop_reaches_the_solver_in_the_same_iteration(
    reporter: ProgressReporter, stop: StopSignal, reason: StopReason, status: TerminationStatus
) -> None:
    assert reporter(report(1, 0.5)) is None
    stop.request(reason)
    assert reporter(report(2, 0.4)) is status


def test_a_cancellation_is_learned_from_the_answer_to_a_report(
    memory_store: MemoryJobStore, claimed: JobRecord, reporter: ProgressReporter, clock: Clock
) -> None:
    assert reporter(report(1, 0.5)) is None
    memory_store.request_cancel(claimed.id)
    clock.now = 0.3
    assert reporter(report(2, 0.4)) is TerminationStatus.Cancelled


def test_a_store_that_is_away_does_not_stop_the_solve(
    memory_store: MemoryJobStore,
    claimed: JobRecord,
    reporter: ProgressReporter,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> LeaseState:
        raise StoreUnavailable("The store does not answer.")

    monkeypatch.setattr(memory_store, "report", away)
    assert reporter(report(1, 0.5)) is None
    monkeypatch.undo()
    clock.now = 1.0
    reporter(report(2, 0.25))
    assert written(memory_store, claimed)[-1].iteration == 2


def test_a_lost_attempt_writes_no_more(
    memory_store: MemoryJobStore, claimed: JobRecord, reporter: ProgressReporter, stop: StopSignal
) -> None:
    stop.request(StopReason.Cancelled)
    stop.request(StopReason.Lost)
    stop.request(StopReason.Deadline)
    assert stop.reason is StopReason.Lost
    reporter(report(1, 0.5))
    assert written(memory_store, claimed) == []
