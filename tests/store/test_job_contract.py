"""What ``ihvp.jobs.store`` promises of the life of a job, over every adapter."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ihvp.errors import (
    Conflict,
    JobAlreadyFinished,
    JobNotFound,
    StaleAttempt,
)
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore, LeaseState, Reclaimed
from ihvp.jobs.submission import Priority
from tests.store.samples import ERROR, PROGRESS, RESULT, X, job_request, new_id

if TYPE_CHECKING:
    from tests.store.conftest import MakeStore

SHORT_S = 0.03
LONG_S = 60.0


def wait() -> None:
    time.sleep(2 * SHORT_S)


def queue(store: JobStore, **changes: object) -> str:
    return store.create(new_id(), job_request(**changes)).id


def run(store: JobStore, lease_s: float = LONG_S, **changes: object) -> JobRecord:
    """A job that a worker holds."""
    job_id = queue(store, **changes)
    job = store.claim("worker", lease_s)
    assert job is not None
    assert job.id == job_id
    return job


def states(store: JobStore, job_id: str) -> list[str]:
    return [event.data["state"] for event in store.events(job_id) if event.type == "state"]


class TestStanding:
    def test_it_tells_every_change_of_the_record_and_of_the_place_in_the_queue(self, store: JobStore) -> None:
        first, second = queue(store), queue(store)
        seen = [store.standing(second)]
        assert (seen[0].state, seen[0].revision, seen[0].queue_position) == (JobState.Queued, 1, 1)
        store.claim("worker", LONG_S)
        seen.append(store.standing(second))
        job = store.claim("worker", LONG_S)
        assert job is not None
        seen.append(store.standing(second))
        store.report(second, job.attempt, PROGRESS)
        seen.append(store.standing(second))
        store.request_cancel(second)
        seen.append(store.standing(second))
        store.fail(second, job.attempt, ERROR)
        seen.append(store.standing(second))
        assert len(set(seen)) == len(seen)
        assert [(s.state, s.queue_position) for s in seen[2:]] == [(JobState.Running, None)] * 3 + [
            (JobState.Cancelled, None)
        ]
        assert store.standing(second) == seen[-1]
        assert store.standing(first).revision == store.get(first).revision

    def test_of_no_job(self, store: JobStore) -> None:
        with pytest.raises(JobNotFound):
            store.standing(new_id())


class TestCreate:
    def test_a_new_job_waits_with_all_that_was_asked_for(self, store: JobStore) -> None:
        request = job_request(
            tags={"run": "42", "ключ": "значение"}, deadline_s=600.5, options={"rtol": 1e-5, "n": None}
        )
        job = store.create(new_id(), request)
        assert job == store.get(job.id)
        assert (job.state, job.revision, job.attempt, job.request) == (JobState.Queued, 1, 0, request)
        assert job.deadline_at == job.created_at + timedelta(seconds=600.5)
        assert abs(job.created_at - datetime.now(UTC)) < timedelta(seconds=10)
        assert (job.started_at, job.finished_at, job.owner, job.result, job.error) == (None,) * 5

    def test_the_same_call_again_makes_no_second_job(self, store: JobStore) -> None:
        request = job_request()
        first = store.create("job_1", request)
        assert store.create("job_1", request) == first
        assert store.queue_length() == 1
        assert states(store, "job_1") == ["queued"]

    def test_the_id_of_another_job_is_refused(self, store: JobStore) -> None:
        store.create("job_1", job_request())
        with pytest.raises(Conflict, match="Another job has this id already"):
            store.create("job_1", job_request(hessian_perturbation=0.5))

    def test_an_unknown_job_is_not_found(self, store: JobStore) -> None:
        # The last one would hit a key of another kind if ids were not kept apart.
        for job_id in ("job_1", "", "x:events", "queue"):
            with pytest.raises(JobNotFound, match="no such job"):
                store.get(job_id)


class TestClaim:
    def test_a_claim_raises_the_attempt_and_names_the_owner(self, store: JobStore) -> None:
        job = run(store)
        assert (job.state, job.attempt, job.owner, job.revision) == (JobState.Running, 1, "worker", 2)
        assert job.started_at is not None
        assert store.get(job.id) == job
        assert store.claim("worker", LONG_S) is None

    def test_jobs_are_taken_in_order(self, store: JobStore) -> None:
        ids = [queue(store) for _ in range(4)]
        assert [store.queue_position(job_id) for job_id in ids] == [0, 1, 2, 3]
        assert [store.claim("worker", LONG_S).id for _ in ids] == ids  # type: ignore[union-attr]
        assert store.queue_position(ids[0]) is None
        assert store.queue_position("job_unknown") is None
        assert store.queue_length() == 0

    def test_a_higher_priority_goes_first(self, store: JobStore) -> None:
        low, normal, high = (queue(store, priority=priority) for priority in Priority)
        assert [store.claim("worker", LONG_S).id for _ in range(3)] == [high, normal, low]  # type: ignore[union-attr]

    def test_a_job_past_its_deadline_is_not_given_out(self, store: JobStore) -> None:
        late = queue(store, deadline_s=SHORT_S)
        good = queue(store)
        wait()
        assert store.claim("worker", LONG_S).id == good  # type: ignore[union-attr]
        assert store.get(late).state is JobState.Expired

    def test_each_job_goes_to_one_of_many_claimants(self, store: JobStore, make_store: MakeStore) -> None:
        if type(store).__name__ == "Awaited":
            pytest.skip("one loop: its claims follow each other")
        ids = {queue(store) for _ in range(30)}
        with ThreadPoolExecutor(8) as pool:
            claimed = list(pool.map(lambda n: store.claim(f"worker-{n}", LONG_S), range(40)))
        assert sorted(job.id for job in claimed if job is not None) == sorted(ids)


class TestLease:
    def test_a_held_lease_can_be_renewed(self, store: JobStore) -> None:
        job = run(store, SHORT_S)
        assert store.renew(job.id, 1, LONG_S) is LeaseState.Held
        wait()
        assert store.reclaim_lapsed(3) == []

    def test_renewing_changes_nothing_that_callers_see(self, store: JobStore) -> None:
        job = run(store)
        store.renew(job.id, 1, LONG_S)
        assert store.get(job.id) == job

    def test_a_lapsed_job_returns_to_the_queue(self, store: JobStore) -> None:
        job = run(store, SHORT_S)
        wait()
        assert store.reclaim_lapsed(3) == [Reclaimed(job.id, JobState.Queued)]
        back = store.get(job.id)
        assert (back.state, back.owner, back.started_at, back.attempt) == (JobState.Queued, None, None, 1)
        assert store.reclaim_lapsed(3) == []

    def test_it_returns_to_its_old_place(self, store: JobStore) -> None:
        job = run(store, SHORT_S)
        later = queue(store)
        wait()
        store.reclaim_lapsed(3)
        assert [store.queue_position(each) for each in (job.id, later)] == [0, 1]

    def test_the_lost_worker_is_told_and_refused(self, store: JobStore) -> None:
        job = run(store, SHORT_S)
        wait()
        store.reclaim_lapsed(3)
        taken = store.claim("another", LONG_S)
        assert taken is not None
        assert taken.attempt == 2
        assert store.renew(job.id, 1, LONG_S) is LeaseState.Lost
        assert store.report(job.id, 1, PROGRESS) is LeaseState.Lost
        for write in (
            lambda: store.succeed(job.id, 1, RESULT),
            lambda: store.fail(job.id, 1, ERROR),
            lambda: store.stop(job.id, 1, JobState.Cancelled),
            lambda: store.release(job.id, 1),
        ):
            with pytest.raises(StaleAttempt, match="Attempt 1 is no longer running"):
                write()
        assert store.get(job.id) == taken

    def test_a_late_worker_that_nobody_replaced_may_still_finish(self, store: JobStore) -> None:
        job = run(store, SHORT_S)
        wait()
        assert store.succeed(job.id, 1, RESULT).state is JobState.Succeeded
        assert store.reclaim_lapsed(3) == []

    def test_worker_after_worker_lost_fails_the_job(self, store: JobStore) -> None:
        job = run(store, SHORT_S)
        for lost in range(1, 4):
            wait()
            (reclaimed,) = store.reclaim_lapsed(3)
            assert reclaimed.state is (JobState.Failed if lost == 3 else JobState.Queued)
            store.claim("worker", SHORT_S)
        failed = store.get(job.id)
        assert failed.error is not None
        assert failed.error.code == "worker_lost"
        assert failed.error.message.endswith("died while they ran this job: 3.")
        assert "memory" in (failed.error.hint or "")

    def test_a_warm_shutdown_counts_as_no_loss(self, store: JobStore) -> None:
        job = run(store)
        for attempt in range(1, 6):
            store.release(job.id, attempt)
            back = store.claim("worker", LONG_S)
            assert back is not None
            assert back.attempt == attempt + 1
        assert store.reclaim_owner("worker", 3) == [Reclaimed(job.id, JobState.Queued)]

    def test_the_jobs_of_a_dead_owner_are_taken_at_once(self, store: JobStore) -> None:
        dead = run(store)
        queue(store)
        alive = store.claim("another", LONG_S)
        assert alive is not None
        assert store.reclaim_owner("worker", 3) == [Reclaimed(dead.id, JobState.Queued)]
        assert store.renew(alive.id, 1, LONG_S) is LeaseState.Held

    def test_a_released_job_waits_again_without_its_progress(self, store: JobStore) -> None:
        job = run(store)
        store.report(job.id, 1, PROGRESS)
        store.release(job.id, 1)
        assert store.get(job.id).progress is None
        assert store.queue_position(job.id) == 0


class TestEnd:
    def test_success_keeps_the_result(self, store: JobStore) -> None:
        job = run(store)
        done = store.succeed(job.id, 1, RESULT)
        assert done == store.get(job.id)
        assert (done.state, done.result, done.error, done.owner) == (JobState.Succeeded, RESULT, None, None)
        assert done.finished_at is not None
        assert done.finished_at >= job.created_at

    def test_failure_keeps_the_error(self, store: JobStore) -> None:
        job = run(store)
        failed = store.fail(job.id, 1, ERROR)
        assert (failed.state, failed.result, failed.error) == (JobState.Failed, None, ERROR)

    def test_an_expired_job_may_keep_what_it_reached(self, store: JobStore) -> None:
        job = run(store)
        assert store.stop(job.id, 1, JobState.Expired, RESULT).result == RESULT

    def test_a_cancelled_one_keeps_nothing(self, store: JobStore) -> None:
        job = run(store)
        stopped = store.stop(job.id, 1, JobState.Cancelled, RESULT)
        assert (stopped.state, stopped.result) == (JobState.Cancelled, None)

    @pytest.mark.parametrize("state", [JobState.Queued, JobState.Succeeded])
    def test_a_job_is_not_stopped_as_anything_else(self, store: JobStore, state: JobState) -> None:
        job = run(store)
        with pytest.raises(ValueError, match="stopped as cancelled or expired"):
            store.stop(job.id, 1, state)

    def test_a_job_ends_once(self, store: JobStore) -> None:
        job = run(store)
        done = store.succeed(job.id, 1, RESULT)
        with pytest.raises(StaleAttempt, match="the job is succeeded"):
            store.fail(job.id, 1, ERROR)
        assert store.get(job.id) == done

    def test_a_queued_job_has_no_attempt_to_write_for(self, store: JobStore) -> None:
        job_id = queue(store)
        with pytest.raises(StaleAttempt):
            store.succeed(job_id, 0, RESULT)

    def test_writing_to_a_job_that_is_gone(self, store: JobStore) -> None:
        assert store.renew("job_gone", 1, LONG_S) is LeaseState.Lost
        assert store.report("job_gone", 1, PROGRESS) is LeaseState.Lost
        with pytest.raises(JobNotFound):
            store.succeed("job_gone", 1, RESULT)


class TestCancel:
    def test_a_queued_job_ends_at_once(self, store: JobStore) -> None:
        job_id = queue(store)
        cancelled = store.request_cancel(job_id)
        assert (cancelled.state, cancelled.cancel_requested) == (JobState.Cancelled, True)
        assert cancelled.finished_at is not None
        assert store.claim("worker", LONG_S) is None

    def test_a_running_job_is_marked_and_its_worker_told(self, store: JobStore) -> None:
        job = run(store)
        marked = store.request_cancel(job.id)
        assert (marked.state, marked.cancel_requested) == (JobState.Running, True)
        assert marked.revision == job.revision + 1
        assert store.renew(job.id, 1, LONG_S) is LeaseState.CancelRequested
        assert store.report(job.id, 1, PROGRESS) is LeaseState.CancelRequested

    @pytest.mark.parametrize("end", ["succeed", "fail", "expired", "release", "reclaim"])
    def test_it_is_final_whatever_the_worker_reports(self, store: JobStore, end: str) -> None:
        job = run(store)
        store.request_cancel(job.id)
        if end == "succeed":
            store.succeed(job.id, 1, RESULT)
        elif end == "fail":
            store.fail(job.id, 1, ERROR)
        elif end == "expired":
            store.stop(job.id, 1, JobState.Expired, RESULT)
        elif end == "release":
            store.release(job.id, 1)
        else:
            store.reclaim_owner("worker", 3)
        ended = store.get(job.id)
        assert (ended.state, ended.result, ended.error) == (JobState.Cancelled, None, None)
        assert X not in store.referenced_blobs()

    def test_again_changes_nothing(self, store: JobStore) -> None:
        running = run(store)
        once = store.request_cancel(running.id)
        assert store.request_cancel(running.id) == once
        ended = store.stop(running.id, 1, JobState.Cancelled)
        assert store.request_cancel(running.id) == ended

    def test_a_job_that_ended_otherwise_is_too_late(self, store: JobStore) -> None:
        job = run(store)
        store.succeed(job.id, 1, RESULT)
        with pytest.raises(JobAlreadyFinished, match="has ended already"):
            store.request_cancel(job.id)
        with pytest.raises(JobNotFound):
            store.request_cancel("job_unknown")


class TestDeadline:
    def test_a_waiting_job_expires(self, store: JobStore) -> None:
        late, patient = queue(store, deadline_s=SHORT_S), queue(store, deadline_s=LONG_S)
        assert store.expire_overdue() == []
        wait()
        assert store.expire_overdue() == [late]
        assert store.get(late).state is JobState.Expired
        assert store.queue_position(patient) == 0

    def test_a_running_worker_is_told_first(self, make_store: MakeStore) -> None:
        store = make_store(overdue_grace_s=LONG_S)
        job = run(store, deadline_s=SHORT_S)
        wait()
        assert store.renew(job.id, 1, LONG_S) is LeaseState.DeadlinePassed
        assert store.report(job.id, 1, PROGRESS) is LeaseState.DeadlinePassed
        assert store.expire_overdue() == []
        assert store.stop(job.id, 1, JobState.Expired, RESULT).result == RESULT

    def test_and_expired_when_it_does_not_stop(self, make_store: MakeStore) -> None:
        store = make_store(overdue_grace_s=SHORT_S)
        job = run(store, deadline_s=SHORT_S)
        time.sleep(3 * SHORT_S)
        assert store.expire_overdue() == [job.id]
        assert store.renew(job.id, 1, LONG_S) is LeaseState.Lost
        with pytest.raises(StaleAttempt):
            store.succeed(job.id, 1, RESULT)


class TestWorkers:
    def test_workers_are_listed_most_recent_first(self, store: JobStore) -> None:
        store.worker_alive("a")
        wait()
        store.worker_alive("b")
        recent, older = store.workers()
        assert (recent.worker_id, older.worker_id) == ("b", "a")
        assert 0 <= recent.age_s < older.age_s
        assert older.age_s >= SHORT_S
        store.worker_gone("b")
        assert [worker.worker_id for worker in store.workers()] == ["a"]

    def test_one_holder_leads_until_its_time_is_over(self, store: JobStore) -> None:
        assert store.acquire_leadership("role", "a", SHORT_S)
        assert store.acquire_leadership("role", "a", SHORT_S)
        assert not store.acquire_leadership("role", "b", SHORT_S)
        assert store.acquire_leadership("another role", "b", SHORT_S)
        wait()
        assert store.acquire_leadership("role", "b", SHORT_S)

    def test_an_answering_store_passes_the_check(self, store: JobStore) -> None:
        store.ping()
