"""What a watcher of a job gets to see, and how soon a solver is told to stop."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ihvp.errors import StoreUnavailable
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord, Progress
from ihvp.jobs.states import JobState
from ihvp.jobs.store import LeaseState
from ihvp.methods import TerminationStatus
from solvers import IterationReport
from tests.waiting import eventually
from workers.block import Block
from workers.ending import Ending, EndingWriter
from workers.lease import Lease
from workers.member import Member
from workers.progress import ProgressReporter, ProgressWriter, seconds_left
from workers.stop import StopReason, StopSignal

INTERVAL_S = 0.25


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Solve:
    """A job that is solved alone, as its solver and its store see it."""

    def __init__(self, store: MemoryJobStore, job: JobRecord, clock: Clock, interval_s: float) -> None:
        self.store = store
        self.clock = clock
        self.job = job
        self.stop = StopSignal(lambda: False)
        self.writer = ProgressWriter(store)
        self.reporter = ProgressReporter(self.writer, job, self.stop, interval_s=interval_s, target=1e-6, clock=clock)
        lease = Lease(store, [(job, self.stop)], time.monotonic(), lease_s=30.0, renew_s=5.0)
        self.member = Member(job, self.stop, self.reporter, EndingWriter(store, lease))
        self.block = Block([self.member], self.writer, clock=clock)

    def iterate(self, iteration: int, *residuals: float | None, at: float | None = None) -> TerminationStatus | None:
        """One iteration of the solver, and the answer to it."""
        self.clock.now = self.clock.now if at is None else at
        return self.block(IterationReport("cg", iteration, 1000, list(residuals), hvps=10.0 * iteration))

    def written(self) -> list[Progress]:
        """Its progress events, once all that are due are there."""
        self.writer.wait(10.0)
        events = self.store.events(self.job.id, limit=10_000)
        return [Progress.model_validate(e.data) for e in events if e.type == "progress"]


@pytest.fixture
def solve(memory_store: MemoryJobStore, claimed: JobRecord) -> Iterator[Solve]:
    solve = Solve(memory_store, claimed, Clock(), INTERVAL_S)
    with solve.writer:
        yield solve


@pytest.fixture
def short_solve(memory_store: MemoryJobStore, claimed: JobRecord) -> Iterator[Solve]:
    """One that is over before any progress is due, however slow the machine is."""
    solve = Solve(memory_store, claimed, Clock(), 1000.0)
    with solve.writer:
        yield solve


def test_a_fast_solver_writes_at_most_four_events_a_second(solve: Solve) -> None:
    solve.reporter.enter("loading", at_once=True)
    solve.reporter.enter("rhs")
    solve.reporter.enter("solving")
    for iteration in range(1, 2001):
        solve.iterate(iteration, 0.5, at=iteration * 0.001)
    solve.reporter.flush()
    solve.writer.close()
    iterations = [p.iteration for p in solve.written()]
    assert iterations[:2] == [0, 1], "a phase that may last is shown, and so is the first iteration"
    assert iterations[-1] == 2000, "the last iteration is always shown"
    assert 8 <= len(iterations) <= 11


def test_the_first_and_the_last_iteration_of_a_short_solve_come_with_its_end(short_solve: Solve) -> None:
    solve = short_solve
    with solve.member.phase("solving"):
        for iteration in range(1, 12):
            solve.iterate(iteration, 0.5**iteration, at=0.01 * iteration)
    assert solve.written() == []
    solve.member.end(Ending("cancelled"))
    assert [p.iteration for p in solve.written()] == [1, 11]
    assert [event.type for event in solve.store.events(solve.job.id)][-3:] == ["progress", "progress", "state"]
    assert solve.store.get(solve.job.id).state is JobState.Cancelled


def test_the_first_iteration_does_not_wait_for_a_slow_second_one(solve: Solve) -> None:
    solve.iterate(1, 0.5)
    eventually(solve.written)
    assert [p.iteration for p in solve.written()] == [1]


def test_a_point_says_how_far_and_how_fast(solve: Solve) -> None:
    solve.reporter.enter("solving")
    for iteration in range(1, 5):
        solve.iterate(iteration, 10.0**-iteration, None, at=float(iteration))
    last = solve.written()[-1]
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
    solve: Solve, reason: StopReason, status: TerminationStatus
) -> None:
    assert solve.iterate(1, 0.5) is None
    solve.stop.request(reason)
    assert solve.iterate(2, 0.4) is status


def test_a_wish_to_cancel_is_heard_at_the_end_of_a_long_iteration(solve: Solve) -> None:
    assert solve.iterate(1, 0.5) is None
    solve.store.request_cancel(solve.job.id)
    assert solve.iterate(2, 0.4, at=1000.0) is TerminationStatus.Cancelled


def test_a_wish_to_cancel_is_heard_one_short_iteration_after_the_store_has_answered(solve: Solve) -> None:
    assert solve.iterate(1, 0.5) is None
    assert solve.iterate(2, 0.5, at=0.2) is None
    solve.store.request_cancel(solve.job.id)
    solve.iterate(3, 0.5, at=0.3)
    solve.written()
    assert solve.iterate(4, 0.4) is TerminationStatus.Cancelled


def test_a_store_that_hangs_holds_up_no_iteration(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    report_all = solve.store.report_all

    def slow(points: Any) -> Sequence[LeaseState]:
        assert answers.wait(30.0)
        return report_all(points)

    monkeypatch.setattr(solve.store, "report_all", slow)
    # Each of them due, and none of them waited for: they are all done before the store has answered once.
    for iteration in range(1, 6):
        assert solve.iterate(iteration, 0.5, at=0.3 * iteration) is None
    answers.set()
    assert [p.iteration for p in solve.written()] == [1, 2, 3, 4, 5], "what came meanwhile is not lost"


def test_a_store_that_is_away_does_not_stop_the_solve(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> LeaseState:
        raise StoreUnavailable("The store does not answer.")

    monkeypatch.setattr(solve.store, "report", away)
    assert solve.iterate(1, 0.5, at=1.0) is None
    assert solve.written() == []
    monkeypatch.undo()
    assert solve.iterate(2, 0.25, at=2.0) is None
    assert solve.written()[-1].iteration == 2


def test_a_lost_attempt_writes_no_more(solve: Solve) -> None:
    solve.stop.request(StopReason.Cancelled)
    solve.stop.request(StopReason.Lost)
    solve.stop.request(StopReason.Deadline)
    assert solve.stop.reason is StopReason.Lost
    solve.iterate(1, 0.5, at=1.0)
    solve.writer.close()
    assert solve.written() == []
