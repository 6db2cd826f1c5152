"""What stores promise of removing jobs and results, and of the blobs they need, over every adapter."""

from __future__ import annotations

import time

import pytest

from ihvp.errors import JobNotFinished, JobNotFound
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobFilter, JobStore
from tests.store.samples import INPUTS, RESULT, RHS, SCORES, TARGETS, WEIGHTS, X, job_request, new_id
from tests.store.test_job_contract import LONG_S, SHORT_S, queue, run, wait


class TestRemoval:
    def test_a_finished_job_can_be_deleted(self, store: JobStore) -> None:
        job = run(store)
        store.succeed(job.id, 1, RESULT)
        deleted = store.delete(job.id)
        assert set(deleted.blobs) == {X, SCORES}
        assert 0.0 <= deleted.ended_s < LONG_S
        for read in (store.get, store.events, store.delete):
            with pytest.raises(JobNotFound):
                read(job.id)
        assert store.referenced_blobs() == set()

    def test_an_unfinished_one_cannot(self, store: JobStore) -> None:
        queued = queue(store)
        with pytest.raises(JobNotFinished, match=r"has not ended.*Cancel it first"):
            store.delete(queued)
        assert store.get(queued).state is JobState.Queued

    def test_old_results_go_and_jobs_stay(self, store: JobStore) -> None:
        job = run(store)
        done = store.succeed(job.id, 1, RESULT)
        assert store.drop_results(LONG_S) == []
        wait()
        assert store.drop_results(SHORT_S) == [job.id]
        kept = store.get(job.id)
        assert (kept.result_removed, kept.state, kept.revision) == (True, JobState.Succeeded, done.revision + 1)
        assert store.drop_results(0) == []

    def test_oldest_results_go_first_up_to_the_limit(self, store: JobStore) -> None:
        ids = []
        for _ in range(3):
            job = run(store)
            ids.append(store.succeed(job.id, 1, RESULT).id)
        wait()
        assert store.drop_results(0, limit=2) == ids[:2]
        assert store.drop_results(0, limit=2) == ids[2:]

    def test_old_jobs_go_with_all_that_is_kept_about_them(self, store: JobStore) -> None:
        ids = []
        for _ in range(2):
            job = run(store)
            ids.append(store.succeed(job.id, 1, RESULT).id)
        cancelled = queue(store)
        store.request_cancel(cancelled)
        running, waiting = run(store).id, queue(store)
        assert store.drop_jobs(LONG_S) == []
        wait()
        assert store.drop_jobs(SHORT_S, limit=2) == ids
        assert store.drop_jobs(SHORT_S, limit=2) == [cancelled]
        for gone in [*ids, cancelled]:
            with pytest.raises(JobNotFound):
                store.get(gone)
            with pytest.raises(JobNotFound):
                store.events(gone)
        assert {job.id for job in store.list(JobFilter(), limit=10).jobs} == {running, waiting}
        # What still lives keeps its blobs, and what is gone counts no more.
        assert store.referenced_blobs() == {WEIGHTS, INPUTS, TARGETS, RHS}
        assert store.drop_results(0) == []

    def test_blobs_are_referenced_as_long_as_a_job_needs_them(self, store: JobStore) -> None:
        assert store.referenced_blobs() == set()
        inputs = {WEIGHTS, INPUTS, TARGETS, RHS}
        first, second = run(store), queue(store)
        assert store.referenced_blobs() == inputs
        store.succeed(first.id, 1, RESULT)
        assert store.referenced_blobs() == inputs | {X, SCORES}
        store.request_cancel(second)
        assert store.referenced_blobs() == {X, SCORES}
        time.sleep(0.002)
        store.drop_results(0)
        assert store.referenced_blobs() == set()
        store.delete(first.id)
        assert store.referenced_blobs() == set()

    def test_a_result_that_two_jobs_share_stays_until_both_let_go(self, store: JobStore) -> None:
        first = run(store)
        store.succeed(first.id, 1, RESULT)
        second = run(store)
        store.succeed(second.id, 1, RESULT)
        assert store.delete(first.id).blobs == []
        assert X in store.referenced_blobs()
        assert set(store.delete(second.id).blobs) == {X, SCORES}
        assert X not in store.referenced_blobs()

    def test_a_result_that_a_waiting_job_reads_is_not_handed_out(self, store: JobStore) -> None:
        done = run(store)
        store.succeed(done.id, 1, RESULT)
        request = job_request()
        store.create(new_id(), request.model_copy(update={"rhs": request.rhs.model_copy(update={"blob": X})}))
        assert store.delete(done.id).blobs == [SCORES]

    def test_references_can_be_asked_for_one_by_one(self, store: JobStore) -> None:
        job = run(store)
        unknown = "sha256:" + "0" * 64
        assert store.referenced_among([]) == set()
        assert store.referenced_among([unknown, RHS, X, WEIGHTS]) == {RHS, WEIGHTS}
        store.succeed(job.id, 1, RESULT)
        assert store.referenced_among([unknown, RHS, X, WEIGHTS]) == {X}
