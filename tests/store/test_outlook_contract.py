"""When waiting jobs are expected to start and to end: the same by every adapter, and still while nothing moves."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from ihvp.jobs.outlook import NEAR, Forecast, Origin, Outlook, Pace, Unknown, overdue
from ihvp.jobs.record import Progress
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.store import JobFilter, JobStore
from ihvp.jobs.submission import Priority
from ihvp.settings import Settings
from tests.store.samples import RESULT, job_request, new_id

LONG_S = 3600.0


def submit(store: JobStore, predicted_s: float | None = 1.0, priority: Priority = Priority.Normal) -> str:
    job, _ = store.submit(new_id(), job_request(priority=priority), origin=Origin(predicted_s=predicted_s))
    return job.id


def solve(store: JobStore, predicted_s: float | None = 1.0, owner: str = "w") -> None:
    """A job from submit to success."""
    job_id = submit(store, predicted_s)
    claimed = store.claim(owner, LONG_S)
    assert claimed is not None
    assert claimed.id == job_id
    store.succeed(job_id, claimed.attempt, RESULT)


def duration(outlook: Outlook) -> float:
    assert outlook.starts_in_s is not None
    assert outlook.ends_in_s is not None
    return outlook.ends_in_s - outlook.starts_in_s


def test_nothing_is_known_without_workers_and_before_a_first_job(store: JobStore) -> None:
    found = store.foresee(Priority.Normal, 1.0)
    assert (found.queue_length, found.workers, found.unknown) == (0, 0, Unknown.NoLiveWorker)
    assert (found.starts_in_s, found.ends_in_s) == (None, None)
    store.worker_alive("w")
    found = store.foresee(Priority.Normal, 1.0)
    # That an idle worker takes it at once is known all the same.
    assert (found.starts_in_s, found.ends_in_s, found.unknown) == (0.0, None, Unknown.NothingMeasured)
    submit(store)
    found = store.foresee(Priority.Normal, 1.0)
    assert (found.queue_length, found.starts_in_s, found.unknown) == (1, None, Unknown.NothingMeasured)
    # A job that comes before the one that waits is the next one.
    assert store.foresee(Priority.High, 1.0).starts_in_s == 0.0


def test_predictions_are_scaled_by_what_the_last_jobs_took(store: JobStore) -> None:
    store.worker_alive("w")
    solve(store, predicted_s=1e-4)
    factor = duration(store.foresee(Priority.Normal, 1.0))
    assert factor > 0
    assert duration(store.foresee(Priority.Normal, 7.0)) == pytest.approx(7 * factor, rel=1e-3)
    ids = [submit(store, seconds) for seconds in (10.0, 20.0, 30.0)]
    ahead = store.foresee(Priority.Normal, 1.0)
    assert ahead.starts_in_s == pytest.approx(60 * factor, rel=0.05, abs=1.0)
    times = [store.standing(job_id).place for job_id in ids]
    assert [place.queue_position for place in times if place] == [0, 1, 2]
    starts = [place.eta.starts_at.timestamp() for place in times if place and place.eta.starts_at]
    ends = [place.eta.ends_at.timestamp() for place in times if place and place.eta.ends_at]
    assert starts[1] - starts[0] == pytest.approx(10 * factor, abs=2)
    assert starts[2] - starts[1] == pytest.approx(20 * factor, abs=2)
    assert ends[2] - starts[2] == pytest.approx(30 * factor, abs=2)
    # The listing says the same, in one call.
    places = store.list(JobFilter(), limit=10).places
    assert [places[job_id] for job_id in ids] == times


def test_more_workers_are_sooner_done(store: JobStore) -> None:
    store.worker_alive("w")
    solve(store, predicted_s=1e-4)
    for _ in range(4):
        submit(store, 100.0)
    alone = store.foresee(Priority.Normal, 1.0).starts_in_s
    store.worker_alive("v")
    shared = store.foresee(Priority.Normal, 1.0).starts_in_s
    assert alone is not None
    assert shared is not None
    assert shared == pytest.approx(alone / 2, rel=0.05, abs=1.0)


def test_an_eta_stands_still_while_nothing_moves(store: JobStore) -> None:
    store.worker_alive("w")
    solve(store, predicted_s=1e-4)
    submit(store, 1e6)
    assert store.claim("w", LONG_S) is not None
    waiting = submit(store, 1e6)
    first = store.standing(waiting)
    assert first.place is not None
    assert first.place.eta.ends_at is not None
    time.sleep(0.05)
    assert store.standing(waiting) == first
    submit(store, 1.0)
    assert store.standing(waiting) == first  # who comes behind changes nothing


def test_a_running_job_that_knows_better_moves_those_behind_it(store: JobStore) -> None:
    store.worker_alive("w")
    solve(store, predicted_s=1e-4)
    running = submit(store, 1.0)
    assert store.claim("w", LONG_S) is not None
    waiting = submit(store, 1.0)
    store.report(running, 1, Progress(phase="solving", iteration=1, eta_s=5000.0))
    later = store.standing(waiting)
    store.report(running, 1, Progress(phase="solving", iteration=2, eta_s=4800.0))
    assert store.standing(waiting) == later  # within a quarter it is no news
    store.report(running, 1, Progress(phase="solving", iteration=3, eta_s=500.0))
    sooner = store.standing(waiting)
    assert later.place is not None
    assert sooner.place is not None
    assert later.place.eta.starts_at is not None
    assert sooner.place.eta.starts_at is not None
    assert (later.place.eta.starts_at - sooner.place.eta.starts_at).total_seconds() == pytest.approx(4500, abs=60)


def test_what_was_expected_is_compared_with_what_came(store: JobStore) -> None:
    def errors(of: str) -> float:
        counts = store.measure().counts
        return sum(by for name, by in counts.items() if name.startswith(f"eta_log_error|{of}|"))

    store.worker_alive("w")
    solve(store)  # its start was known, for the worker was idle; its end was not
    assert (errors("start"), errors("end")) == (1, 0)
    solve(store)
    assert (errors("start"), errors("end")) == (2, 1)
    lost = submit(store)
    store.claim("w", LONG_S)
    store.reclaim_owner("w", 3)
    store.claim("w", LONG_S)
    store.succeed(lost, 2, RESULT)
    assert (errors("start"), errors("end")) == (3, 2)  # one start a job, however many attempts
    counts = store.measure().counts
    assert not any(name.startswith("eta_log_error") and name.endswith("sum") for name in counts)


def test_a_block_counts_as_one_and_its_jobs_go_faster_together(store: JobStore) -> None:
    store.worker_alive("w")
    ids = [submit(store, 1.0) for _ in range(5)]
    assert len(store.claim_block("w", LONG_S, 100, 1000)) == 5
    for job_id in ids:
        store.succeed(job_id, 1, RESULT)
    # Five jobs predicted at a second each took one block: a job of a second is expected to take as long as its block.
    whole = duration(store.foresee(Priority.Normal, 1.0))
    for _ in range(10):
        submit(store, 1.0)
    ahead = store.foresee(Priority.Normal, 1.0).starts_in_s
    assert ahead == pytest.approx(2 * whole, rel=0.05, abs=1.5)


def test_what_is_late_is_expected_after_twice_as_long() -> None:
    assert overdue(10.0, 0.0, now=5.0) == 10.0
    assert overdue(10.0, 0.0, now=10.9) == 10.0
    assert overdue(10.0, 0.0, now=11.1) == 20.0
    assert {overdue(10.0, 0.0, now=now) for now in (21.5, 30.0, 39.0)} == {40.0}


class State:
    """A queue in Redis, written as it stands, and the same as a ``Forecast``."""

    def __init__(self, settings: Settings, seed: int) -> None:
        rng = random.Random(seed)
        self.settings = settings
        self.workers = rng.choice([0, 1, 1, 2, 3, 7])
        self.queue = [
            rng.choice([None, rng.uniform(0.001, 50), rng.uniform(0.001, 50)])
            for _ in range(rng.choice([0, 1, 5, NEAR, NEAR + 1, 3 * NEAR]))
        ]
        self.blocks = [
            (rng.uniform(-100, 100), rng.uniform(0.01, 300)) for _ in range(rng.randint(0, self.workers + 1))
        ]
        measured = rng.random() < 0.9
        self.pace = Pace(*(rng.uniform(0.1, 90) for _ in range(5))) if measured else Pace()
        if rng.random() < 0.2:
            self.pace = Pace(self.pace.busy_s, self.pace.jobs, self.pace.blocks)

    def write(self) -> tuple[float, list[tuple[float, float]]]:
        """Puts it into Redis; returns when, and the ends and beginnings of the blocks."""
        prefix = f"{{{self.settings.namespace}}}:"
        with redis.Redis.from_url(self.settings.redis_url) as server:
            seconds, micros = server.time()
            now = seconds + micros / 1e6
            for number in range(self.workers):
                server.zadd(f"{prefix}workers", {f"w{number}": round(now * 1e6)})
            for number, predicted in enumerate(self.queue):
                server.zadd(f"{prefix}queue", {f"j{number:04d}": number})
                if predicted is not None:
                    server.hset(f"{prefix}predicted", f"j{number:04d}", round(predicted * 1e6))
                    server.hincrby(f"{prefix}pace", "waiting", round(predicted * 1e6))
            blocks = []
            for number, (left, ran) in enumerate(self.blocks):
                ends, began = now + left, now + min(left, 0) - ran
                blocks.append((ends, began))
                server.zadd(f"{prefix}ends", {f"b{number}": round(ends * 1e6)})
                server.hset(f"{prefix}job:b{number}", "started", round(began * 1e6))
            values = {
                "busy": self.pace.busy_s * 1e6,
                "jobs": self.pace.jobs,
                "blocks": self.pace.blocks,
                "foreseen_busy": self.pace.foreseen_busy_s * 1e6,
                "foreseen": self.pace.foreseen_s * 1e6,
            }
            if self.pace.blocks:
                server.hset(f"{prefix}pace", mapping={name: repr(value) for name, value in values.items()})
        return now, blocks


@pytest.fixture
def adapter(valkey: Settings) -> Iterator[RedisJobStore]:
    with closing(RedisJobStore.from_settings(valkey)) as store:
        yield store


@pytest.mark.parametrize("seed", range(40))
def test_the_script_works_out_what_the_readable_form_does(valkey: Settings, adapter: RedisJobStore, seed: int) -> None:
    state = State(valkey, seed)
    now, blocks = state.write()
    found = adapter.foresee(Priority.Low, 3.0)  # behind all: their scores lie in the past
    ahead = Forecast(now, now, state.workers, blocks, state.pace, state.queue)
    starts, ends, unknown = ahead.at(len(state.queue), 3.0)
    assert (found.queue_length, found.workers, found.unknown) == (len(state.queue), state.workers, unknown)
    # The script runs a moment later, and what is late may be doubled once more in it.
    for mine, theirs in ((starts, found.starts_in_s), (ends, found.ends_in_s)):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert theirs == pytest.approx(max(0.0, mine - now), abs=0.5)
