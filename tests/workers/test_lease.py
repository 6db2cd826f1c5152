"""The heartbeat: keeps a job, hears that it should stop, and gives up in time when the store is away."""

from __future__ import annotations

import time

import pytest

from ihvp.errors import StoreUnavailable
from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.store import LeaseState
from tests.waiting import eventually
from workers.lease import Lease
from workers.stop import StopReason, StopSignal

LEASE_S = 0.4


@pytest.fixture
def stop() -> StopSignal:
    return StopSignal(lambda: False)


def lease(store: MemoryJobStore, job: JobRecord, stop: StopSignal) -> Lease:
    return Lease(store, [(job, stop)], time.monotonic(), lease_s=LEASE_S, renew_s=0.05)


def claim(store: MemoryJobStore) -> JobRecord:
    job = store.claim("worker", LEASE_S)
    assert job is not None
    return job


def test_a_job_stays_its_workers_for_longer_than_a_lease(
    memory_store: MemoryJobStore, queued: JobRecord, stop: StopSignal
) -> None:
    job = claim(memory_store)
    with lease(memory_store, job, stop):
        time.sleep(2 * LEASE_S)
        assert not memory_store.reclaim_lapsed(3)
    assert stop.reason is None
    eventually(lambda: bool(memory_store.reclaim_lapsed(3)), 3 * LEASE_S)
    assert memory_store.get(job.id).state is JobState.Queued


def test_a_cancellation_is_heard_between_two_iterations(
    memory_store: MemoryJobStore, queued: JobRecord, stop: StopSignal
) -> None:
    job = claim(memory_store)
    with lease(memory_store, job, stop):
        memory_store.request_cancel(job.id)
        eventually(lambda: stop.reason is StopReason.Cancelled)


def test_a_job_that_another_worker_took_is_lost(
    memory_store: MemoryJobStore, queued: JobRecord, stop: StopSignal
) -> None:
    job = claim(memory_store)
    memory_store.reclaim_owner("worker", 3)
    assert memory_store.claim("another", 30.0) is not None
    with lease(memory_store, job, stop):
        eventually(lambda: stop.reason is StopReason.Lost)


def test_a_short_outage_of_the_store_loses_nothing(
    memory_store: MemoryJobStore, queued: JobRecord, stop: StopSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = claim(memory_store)
    with lease(memory_store, job, stop) as held:
        monkeypatch.setattr(memory_store, "renew", _away)
        time.sleep(LEASE_S / 2)
        monkeypatch.undo()
        time.sleep(LEASE_S)
        assert not held.lapsed(job.id)
    assert stop.reason is None


def test_an_outage_as_long_as_the_lease_loses_the_job(
    memory_store: MemoryJobStore, queued: JobRecord, stop: StopSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = claim(memory_store)
    began = time.monotonic()
    monkeypatch.setattr(memory_store, "renew", _away)
    with lease(memory_store, job, stop) as held:
        eventually(lambda: stop.reason is StopReason.Lost)
        assert held.lapsed(job.id)
    assert time.monotonic() - began >= LEASE_S, "it must not give up while the job is still its own"


def test_a_fault_in_the_store_does_not_end_the_heartbeat(
    memory_store: MemoryJobStore, queued: JobRecord, stop: StopSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = claim(memory_store)

    def broken(*_: object) -> LeaseState:
        raise TypeError("a bug")

    with lease(memory_store, job, stop):
        monkeypatch.setattr(memory_store, "renew", broken)
        time.sleep(LEASE_S / 4)
        monkeypatch.undo()
        memory_store.request_cancel(job.id)
        eventually(lambda: stop.reason is StopReason.Cancelled)


def _away(*_: object) -> LeaseState:
    raise StoreUnavailable("The store does not answer.")
