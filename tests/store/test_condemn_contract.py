"""A worker that does not stop a job in time: the job ends without it, and its death harms no other job."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ihvp.errors import StaleAttempt
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore, LeaseState
from tests.store.conftest import MakeStore
from tests.store.samples import RESULT, job_request, new_id

LONG_S = 3600.0
SHORT_S = 0.02
PARENT = "worker"


def block(store: JobStore, count: int = 1, **changes: Any) -> list[str]:
    """Jobs that one worker holds, in its first attempt at each."""
    ids = [store.create(new_id(), job_request(**changes)).id for _ in range(count)]
    assert [job.id for job in store.claim_block(PARENT, LONG_S, 1000, 10**6)] == ids
    return ids


def test_a_worker_that_stops_in_time_is_left_alone(store: JobStore) -> None:
    first, second = block(store, 2)
    assert store.condemn(PARENT, 0.0) is None
    store.request_cancel(first)
    assert store.condemn(PARENT, LONG_S) is None
    store.stop(first, 1, JobState.Cancelled)
    assert store.condemn(PARENT, 0.0) is None
    assert store.get(second).state is JobState.Running


def test_a_cancelled_job_ends_although_its_worker_does_not_stop(store: JobStore) -> None:
    (job_id,) = block(store)
    store.request_cancel(job_id)
    time.sleep(SHORT_S)
    assert store.condemn("another", 0.0) is None
    assert store.condemn(PARENT, SHORT_S / 2) == [job_id]
    assert store.get(job_id).state is JobState.Cancelled
    assert store.renew(job_id, 1, LONG_S) is LeaseState.Lost
    with pytest.raises(StaleAttempt):
        store.succeed(job_id, 1, RESULT)
    assert store.get(job_id).result is None


def test_an_overdue_job_ends_in_the_same_way(store: JobStore) -> None:
    (job_id,) = block(store, deadline_s=SHORT_S)
    assert store.condemn(PARENT, 0.0) is None
    time.sleep(2 * SHORT_S)
    assert store.condemn(PARENT, 0.0) == [job_id]
    assert store.get(job_id).state is JobState.Expired


def test_the_kill_is_no_loss_of_its_neighbours(store: JobStore) -> None:
    cancelled, neighbour, other = block(store, 3)
    store.request_cancel(cancelled)
    store.condemn(PARENT, 0.0)
    # With one attempt allowed, a loss that counted would fail them.
    reclaimed = store.reclaim_owner(PARENT, 1)
    assert sorted((job.job_id, job.state) for job in reclaimed) == [
        (job_id, JobState.Queued) for job_id in sorted([neighbour, other])
    ]
    again = store.claim_block(PARENT, LONG_S, 1000, 10**6)
    assert [job.id for job in again] == [neighbour, other], "no loss, so they may share a block again"
    assert [job.attempt for job in again] == [2, 2]


def test_nor_where_the_lease_runs_out_first(store: JobStore) -> None:
    ids = [store.create(new_id(), job_request()).id for _ in range(2)]
    store.claim_block(PARENT, SHORT_S, 1000, 10**6)
    store.request_cancel(ids[0])
    time.sleep(2 * SHORT_S)
    assert store.condemn(PARENT, 0.0) == [ids[0]]
    assert [(job.job_id, job.state) for job in store.reclaim_lapsed(1)] == [(ids[1], JobState.Queued)]


def test_what_a_condemned_worker_still_finishes_counts_but_it_gets_nothing_more(store: JobStore) -> None:
    cancelled, neighbour = block(store, 2)
    waiting = store.create(new_id(), job_request())
    store.request_cancel(cancelled)
    store.condemn(PARENT, 0.0)
    assert store.succeed(neighbour, 1, RESULT).state is JobState.Succeeded
    assert store.claim(PARENT, LONG_S) is None
    assert store.condemn(PARENT, 0.0) == [], "still to be killed"
    assert store.reclaim_owner(PARENT, 3) == []
    assert store.condemn(PARENT, 0.0) is None
    claimed = store.claim(PARENT, LONG_S)
    assert claimed is not None
    assert claimed.id == waiting.id


def test_a_later_death_of_the_same_worker_counts_again(store: JobStore) -> None:
    cancelled, neighbour = block(store, 2)
    store.request_cancel(cancelled)
    store.condemn(PARENT, 0.0)
    store.reclaim_owner(PARENT, 1)
    assert store.claim(PARENT, LONG_S).id == neighbour  # type: ignore[union-attr]
    (reclaimed,) = store.reclaim_owner(PARENT, 1)
    assert reclaimed.state is JobState.Failed


def test_without_a_parent_that_looks_the_reconciler_ends_it_later(make_store: MakeStore) -> None:
    store = make_store(overdue_grace_s=SHORT_S)
    cancelled, neighbour = block(store, 2)
    store.request_cancel(cancelled)
    time.sleep(2 * SHORT_S)
    assert store.expire_overdue() == [cancelled]
    assert store.get(cancelled).state is JobState.Cancelled
    assert store.get(neighbour).state is JobState.Running
    # Its parent may wake up later: the process is still to be killed.
    assert store.condemn(PARENT, LONG_S) == []
    assert [job.state for job in store.reclaim_owner(PARENT, 1)] == [JobState.Queued]
