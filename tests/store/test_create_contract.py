"""What stores promise of creating jobs: once under a key, and not past the bound of the queue; over every adapter."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ihvp.errors import IdempotencyMismatch, JobNotFound, QueueFull
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore, Once
from tests.store.samples import RESULT, job_request, new_id

if TYPE_CHECKING:
    from tests.store.conftest import MakeStore

LONG_S = 60.0
ONCE = Once("a key", "one request", LONG_S)


class TestOnce:
    def test_the_same_request_again_finds_the_job_it_made(self, store: JobStore) -> None:
        assert store.made_once(ONCE) is None
        made = store.create(new_id(), job_request(), once=ONCE)
        assert store.made_once(ONCE) == made
        # References may resolve to something else the second time: the key decides, not what was resolved.
        again = store.create(new_id(), job_request(method="direct"), once=ONCE)
        assert again == made
        assert store.queue_length() == 1

    def test_it_finds_the_job_in_whatever_state_it_is(self, store: JobStore) -> None:
        made = store.create(new_id(), job_request(), once=ONCE)
        job = store.claim("worker", LONG_S)
        assert job is not None
        store.succeed(made.id, job.attempt, RESULT)
        found = store.create(new_id(), job_request(), once=ONCE)
        assert (found.id, found.state) == (made.id, JobState.Succeeded)

    def test_another_request_under_the_key_is_refused(self, store: JobStore) -> None:
        made = store.create(new_id(), job_request(), once=ONCE)
        other = Once(ONCE.key, "another request", LONG_S)
        for attempt in (lambda: store.create(new_id(), job_request(), once=other), lambda: store.made_once(other)):
            with pytest.raises(IdempotencyMismatch, match=made.id):
                attempt()
        assert store.queue_length() == 1

    def test_keys_do_not_touch_each_other(self, store: JobStore) -> None:
        first = store.create(new_id(), job_request(), once=ONCE)
        second = store.create(new_id(), job_request(), once=Once("another key", ONCE.fingerprint, LONG_S))
        assert first.id != second.id

    def test_a_key_is_forgotten_after_its_time(self, store: JobStore) -> None:
        short = Once("a short key", "one request", 0.05)
        first = store.create(new_id(), job_request(), once=short)
        time.sleep(0.1)
        assert store.made_once(short) is None
        assert store.create(new_id(), job_request(), once=short).id != first.id

    def test_the_key_of_a_deleted_job_makes_no_other(self, store: JobStore) -> None:
        made = store.create(new_id(), job_request(), once=ONCE)
        store.request_cancel(made.id)
        store.delete(made.id)
        with pytest.raises(JobNotFound, match=made.id):
            store.create(new_id(), job_request(), once=ONCE)
        assert store.queue_length() == 0

    def test_many_at_once_make_one_job(self, store: JobStore) -> None:
        if type(store).__name__ == "Awaited":
            pytest.skip("one loop: its calls follow each other")
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: store.create(new_id(), job_request(), once=ONCE).id, range(32)))
        assert len(set(made)) == 1
        assert store.queue_length() == 1


class TestBound:
    def test_a_full_queue_takes_no_further_job_and_says_when_to_come_back(self, store: JobStore) -> None:
        for _ in range(3):
            store.create(new_id(), job_request(), most_queued=3)
        with pytest.raises(QueueFull, match=r"3 jobs are waiting.*IHVP_MAX_QUEUE") as refused:
            store.create(new_id(), job_request(), most_queued=3)
        assert refused.value.retry_after_s == 60.0  # nothing was solved in the last minute
        assert store.queue_length() == 3

    def test_running_jobs_do_not_count(self, store: JobStore) -> None:
        store.create(new_id(), job_request(), most_queued=1)
        store.claim("worker", LONG_S)
        assert store.create(new_id(), job_request(), most_queued=1).state is JobState.Queued

    def test_the_wait_goes_by_what_was_solved_lately(self, store: JobStore) -> None:
        for _ in range(6):
            done = store.create(new_id(), job_request(), most_queued=1)
            job = store.claim("worker", LONG_S)
            assert job is not None
            store.succeed(done.id, job.attempt, RESULT)
        store.create(new_id(), job_request(), most_queued=1)
        with pytest.raises(QueueFull) as refused:
            store.create(new_id(), job_request(), most_queued=1)
        # Six in a minute: a hundredth of a queue of one is there in a tenth of a second, and one second is the least.
        assert refused.value.retry_after_s == 1.0

    def test_what_was_accepted_is_found_in_a_full_queue(self, store: JobStore) -> None:
        made = store.create(new_id(), job_request(), once=ONCE, most_queued=1)
        assert store.create(new_id(), job_request(), once=ONCE, most_queued=1) == made


def test_waiting_counts_more_than_priority_in_the_end(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # Twenty minutes pass between a low job and the high ones that it overtakes; here a twentieth of a second.
    from ihvp.jobs import rules
    from ihvp.jobs.submission import Priority

    monkeypatch.setattr(rules, "HEAD_START_S", {Priority.High: 0.1, Priority.Normal: 0.0, Priority.Low: -0.1})
    store = make_store()
    low = store.create(new_id(), job_request(priority=Priority.Low)).id
    early = store.create(new_id(), job_request(priority=Priority.High)).id
    time.sleep(0.3)
    late = [store.create(new_id(), job_request(priority=Priority.High)).id for _ in range(3)]
    order = [store.claim("worker", LONG_S).id for _ in range(5)]  # type: ignore[union-attr]
    assert order == [early, low, *late]
