"""What the store counts: each thing once, whatever is repeated, refused or told by several processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from ihvp.errors import StaleAttempt
from ihvp.jobs.counts import FAMILIES, Counts, SignOfLife
from ihvp.jobs.record import Certificate
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Finish, JobStore
from ihvp.jobs.submission import Priority
from ihvp.keyvalue.calls import Scripts
from ihvp.keyvalue.connection import Executor
from ihvp.methods import InversionMethod
from ihvp.settings import Settings
from tests.store.samples import ERROR, RESULT, job_request, new_id

LONG_S = 3600.0


def plain(store: JobStore) -> Mapping[str, float]:
    """The counts without the sums and buckets of what depends on the clock."""
    return {name: by for name, by in store.measure().counts.items() if not name.startswith("queue_wait_seconds")}


def test_a_fresh_store_has_nothing_to_tell(store: JobStore) -> None:
    seen = store.measure()
    assert (seen.queue_length, seen.oldest_queued_s, seen.counts, seen.leaders) == (0, 0.0, {}, {})
    assert set(seen.jobs) == {state.value for state in JobState}
    assert not any(seen.jobs.values())
    assert list(seen.workers) == []


def test_a_job_is_counted_at_each_step_of_its_life(store: JobStore) -> None:
    job = store.create(new_id(), job_request())
    store.create(job.id, job.request)
    assert plain(store) == {"jobs_submitted|cg": 1}
    claimed = store.claim("w", LONG_S)
    assert claimed is not None
    result = RESULT.model_copy(
        update={
            "certificate": [
                *RESULT.certificate,
                Certificate(status="max_iterations", relative_residual=0.5, iterations=9, advice="More."),
                Certificate(status="non_finite", relative_residual=None, iterations=9, advice="Less."),
            ]
        }
    )
    store.succeed(job.id, 1, result)
    with pytest.raises(StaleAttempt):
        store.succeed(job.id, 1, result)
    assert plain(store) == {
        "jobs_submitted|cg": 1,
        "attempts|cg": 1,
        "jobs_finished|cg|succeeded": 1,
        "right_hand_sides|cg|converged": 1,
        "right_hand_sides|cg|max_iterations": 1,
        "right_hand_sides|cg|non_finite": 1,
        "relative_residual|cg|3": 1,
        "relative_residual|cg|10": 1,
        "relative_residual|cg|sum": pytest.approx(0.5 + 1e-7),
        "solve_seconds|cg|3": 1,
        "solve_seconds|cg|sum": pytest.approx(0.5),
    }


def test_the_end_of_a_block_is_counted_job_by_job(store: JobStore) -> None:
    jobs = [store.create(new_id(), job_request()) for _ in range(3)]
    store.claim_block("w", LONG_S, 100, 1000)
    store.request_cancel(jobs[1].id)
    endings = [Finish(job.id, 1, JobState.Succeeded, result=RESULT) for job in jobs[:2]]
    store.finish_all([*endings, Finish(jobs[2].id, 7, JobState.Failed, error=ERROR)])
    counts = plain(store)
    assert (counts["jobs_finished|cg|succeeded"], counts["jobs_finished|cg|cancelled"]) == (1, 1)
    assert "jobs_finished|cg|failed" not in counts
    # A result that nobody gets to see says nothing.
    assert counts["right_hand_sides|cg|converged"] == 1
    assert counts["attempts|cg"] == 3


def test_lost_workers_and_shutdowns_are_told_apart(store: JobStore) -> None:
    store.create(new_id(), job_request())
    # By another method: the first one's is in quarantine once it has failed.
    store.create(new_id(), job_request(method=InversionMethod.Minres))
    first = store.claim("dead", LONG_S)
    store.reclaim_owner("dead", 3)
    store.claim("silent", 0.0)
    store.reclaim_lapsed(1)
    again = store.claim("polite", LONG_S)
    assert first is not None
    assert again is not None
    store.release(again.id, again.attempt)
    counts = plain(store)
    assert counts["lease_losses|worker_died|queued"] == 1
    assert counts["lease_losses|lease_lapsed|failed"] == 1
    assert counts["jobs_released"] == 1
    assert (counts["attempts|cg"], counts["attempts|minres"]) == (2, 1)


def test_the_wait_counts_once_a_job(store: JobStore) -> None:
    store.create(new_id(), job_request(priority=Priority.High))
    store.claim("a", LONG_S)
    store.reclaim_owner("a", 3)
    store.claim("a", LONG_S)
    waits = {name: by for name, by in store.measure().counts.items() if name.startswith("queue_wait_seconds|high|")}
    waited = waits.pop("queue_wait_seconds|high|sum")
    assert sum(waits.values()) == 1
    expected = Counts()
    expected.observe("queue_wait_seconds", "high", value=waited)
    assert set(waits) == set(expected.fields) - {"queue_wait_seconds|high|sum"}


def test_what_a_worker_has_counted_is_taken_over_once_a_mark(store: JobStore) -> None:
    counts = {"hvps|cg": 12.25, "model_cache_requests|miss": 1}
    for mark in ("m1", "m1", "m2"):
        store.worker_alive("w", SignOfLife(mark, counts, {"resident_bytes": 7.0}))
    assert store.measure().counts == {"hvps|cg": 24.5, "model_cache_requests|miss": 2}
    store.worker_alive("w")
    (worker,) = store.measure().workers
    assert (worker.worker_id, worker.gauges) == ("w", {"resident_bytes": 7.0})
    assert worker.age_s < 60
    store.worker_gone("w")
    assert list(store.measure().workers) == []


def test_the_queue_and_the_states_as_they_stand(store: JobStore) -> None:
    for _ in range(3):
        store.create(new_id(), job_request())
    store.claim("w", LONG_S)
    seen = store.measure()
    assert seen.queue_length == 2
    assert 0.0 <= seen.oldest_queued_s < 60
    assert (seen.jobs["queued"], seen.jobs["running"], seen.jobs["succeeded"]) == (2, 1, 0)


def test_leadership_leaves_its_time(store: JobStore) -> None:
    assert store.acquire_leadership("reconciler", "a", LONG_S)
    assert not store.acquire_leadership("reconciler", "b", LONG_S)
    at, held = store.measure().leaders["reconciler"]
    assert held
    assert at > 1.6e9
    assert store.measure().counts == {"reconciler_rounds": 1}


def test_a_repeated_end_counts_once(valkey: Settings) -> None:
    """The client sends a call again where its link broke: the same script with the same mark."""
    store = RedisJobStore.from_settings(valkey)
    job = store.create(new_id(), job_request())
    store.claim("w", LONG_S)
    calls, executor = store._calls, Executor(valkey, "ihvp.jobs")
    for call in (calls.finish(Finish(job.id, 1, JobState.Succeeded, result=RESULT)), calls.claim("w", LONG_S)):
        executor.run(call)
        executor.run(call)
    assert plain(store)["jobs_finished|cg|succeeded"] == 1
    assert plain(store)["right_hand_sides|cg|converged"] == 1
    assert plain(store)["attempts|cg"] == 1
    executor.close()
    store.close()


def test_scripts_know_the_bounds_of_the_buckets() -> None:
    """The scripts have the bounds of what they observe themselves written in them."""
    text = Scripts("ihvp.jobs").source("claim")
    for family in ("queue_wait_seconds", "eta_log_error"):
        bounds = ", ".join(f"{bound:g}" for bound in FAMILIES[family].bounds if bound != math.inf)
        assert f"{family} = {{{bounds}}}" in text


def test_every_family_has_its_help_and_ends_with_infinity() -> None:
    for name, family in FAMILIES.items():
        assert family.text.endswith("."), name
        assert not family.bounds or family.bounds[-1] == math.inf, name
        assert list(family.bounds) == sorted(family.bounds), name
