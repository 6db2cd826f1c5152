"""A method that kills worker after worker on a model costs no more workers for a while; everything else goes on."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobStore
from ihvp.methods import InversionMethod
from ihvp.settings import Settings
from tests.store.samples import RESULT, job_request, new_id

LONG_S = 3600.0


def queue(store: JobStore, method: InversionMethod = InversionMethod.Cg) -> str:
    return store.create(new_id(), job_request(method=method)).id


def kill(store: JobStore, job_id: str, deaths: int = 3) -> JobRecord:
    """The job, after so many workers died on it."""
    for _ in range(deaths):
        claimed = store.claim("w", LONG_S)
        assert claimed is not None
        assert claimed.id == job_id
        store.reclaim_owner("w", 3)
    return store.get(job_id)


def test_the_next_jobs_on_the_same_system_fail_in_their_turn_and_others_run(store: JobStore) -> None:
    culprit, waiting = queue(store), queue(store)
    other = queue(store, InversionMethod.Minres)
    assert kill(store, culprit).state is JobState.Failed
    later = queue(store)
    claimed = store.claim("w", LONG_S)
    assert claimed is not None
    assert claimed.id == other, "another method on the same model"
    store.succeed(other, 1, RESULT)
    assert store.claim("w", LONG_S) is None
    for job_id in (waiting, later):
        job = store.get(job_id)
        assert (job.state, job.attempt, job.losses) == (JobState.Failed, 0, 0), "no worker was lost for it"
        assert job.error is not None
        assert job.error.code == "model_quarantined"
        seconds = str(job.error.allowed).split()[-2]
        assert 590 <= int(seconds) <= 600
        assert [event.data["state"] for event in store.events(job_id)] == ["queued", "failed"]


def test_it_is_listed_and_lifted(store: JobStore) -> None:
    assert store.quarantined() == []
    culprit = queue(store)
    kill(store, culprit)
    digest = job_request().model.digest
    (found,) = store.quarantined()
    assert (found.method, found.model_digest, found.job_id) == ("cg", digest, culprit)
    assert 590 < found.left_s <= 600
    assert store.end_quarantine("sha256:" + "0" * 64) == []
    assert [each.job_id for each in store.end_quarantine(digest)] == [culprit]
    assert store.quarantined() == []
    after = queue(store)
    claimed = store.claim("w", LONG_S)
    assert claimed is not None
    assert claimed.id == after


def test_fewer_deaths_are_no_reason(store: JobStore) -> None:
    first = queue(store)
    assert kill(store, first, deaths=2).state is JobState.Queued
    assert store.quarantined() == []


def test_nor_are_they_where_a_job_has_succeeded_on_the_system_lately(store: JobStore) -> None:
    """Then it is that job, its many right-hand sides for one, or the machine: the others are not to pay for it."""
    sound = queue(store)
    assert store.claim("w", LONG_S) is not None
    store.succeed(sound, 1, RESULT)
    culprit, other = queue(store), queue(store)
    assert kill(store, culprit).error.code == "worker_lost"  # type: ignore[union-attr]
    assert store.quarantined() == []
    claimed = store.claim("w", LONG_S)
    assert claimed is not None
    assert claimed.id == other


def test_it_can_be_switched_off(valkey: Settings) -> None:

    for store in (
        MemoryJobStore(quarantine_s=0.0),
        RedisJobStore.from_settings(valkey.model_copy(update={"quarantine_s": 0.0})),
    ):
        kill(store, queue(store))
        assert store.quarantined() == []


def test_it_ends_by_itself() -> None:

    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = MemoryJobStore(lambda: now[0])
    kill(store, queue(store))
    now[0] += timedelta(seconds=601)
    assert store.quarantined() == []
    after = queue(store)
    claimed = store.claim("w", LONG_S)
    assert claimed is not None
    assert claimed.id == after


def test_it_ends_by_itself_on_the_servers_clock(valkey: Settings) -> None:

    store = RedisJobStore.from_settings(valkey.model_copy(update={"quarantine_s": 0.05}))
    kill(store, queue(store))
    time.sleep(0.06)
    assert store.quarantined() == []
    after = queue(store)
    claimed = store.claim("w", LONG_S)
    assert claimed is not None
    assert claimed.id == after
