"""Writes for the jobs of a block at once: each counts as if it had come alone, for the price of one."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
import redis

from ihvp.errors import JobNotFound, StaleAttempt, StoreUnavailable
from ihvp.jobs.calls import JobCalls
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.store import Finish, JobStore, LeaseState
from ihvp.keyvalue.connection import Executor
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.store.samples import ERROR, PROGRESS, RESULT, job_request, new_id

LEASE_S = 3600.0


def running(store: JobStore, count: int) -> list[str]:
    """Jobs that one worker holds, each in its first attempt."""
    for _ in range(count):
        store.create(new_id(), job_request())
    return [job.id for job in store.claim_block("worker", LEASE_S, 1000, 10**6)]


class TestFinishing:
    def test_each_job_ends_in_its_own_way(self, store: JobStore) -> None:
        done, failed, cancelled, late, nothing = running(store, 5)
        endings = [
            Finish(done, 1, JobState.Succeeded, result=RESULT),
            Finish(failed, 1, JobState.Failed, error=ERROR),
            Finish(cancelled, 1, JobState.Cancelled),
            Finish(late, 1, JobState.Expired, result=RESULT),
            Finish(nothing, 1, JobState.Expired),
        ]
        assert store.finish_all(endings) == [None] * 5
        jobs = [store.get(ending.job_id) for ending in endings]
        assert [(job.state, job.result, job.error) for job in jobs] == [
            (ending.state, ending.result, ending.error) for ending in endings
        ]
        assert all(job.owner is None and job.finished_at is not None for job in jobs)
        assert [store.events(job.id)[-1].data["state"] for job in jobs] == [job.state.value for job in jobs]

    def test_what_is_refused_harms_no_other(self, store: JobStore) -> None:
        lost, cancelled, first, last = running(store, 4)
        store.release(lost, 1)
        assert store.claim("another", LEASE_S).attempt == 2  # type: ignore[union-attr]
        store.request_cancel(cancelled)
        ids = [first, lost, "job_unknown", cancelled, last]
        refusals = store.finish_all([Finish(job_id, 1, JobState.Succeeded, result=RESULT) for job_id in ids])
        assert [type(refusal) for refusal in refusals] == [
            type(None),
            StaleAttempt,
            JobNotFound,
            type(None),
            type(None),
        ]
        assert "attempt 1" in str(refusals[1]).lower()
        assert lost in str(refusals[1])
        states = [store.get(job_id).state.value for job_id in (first, lost, cancelled, last)]
        assert states == ["succeeded", "running", "cancelled", "succeeded"]
        assert store.get(cancelled).result is None

    def test_a_job_ends_once(self, store: JobStore) -> None:
        (job_id,) = running(store, 1)
        twice = [Finish(job_id, 1, JobState.Succeeded, result=RESULT), Finish(job_id, 1, JobState.Failed, error=ERROR)]
        assert [type(refusal) for refusal in store.finish_all(twice)] == [type(None), StaleAttempt]
        assert store.get(job_id).state is JobState.Succeeded
        store.delete(job_id)
        assert store.referenced_blobs() == set()

    def test_the_last_of_a_jobs_progress_comes_before_its_end(self, store: JobStore) -> None:
        done, lost = running(store, 2)
        store.release(lost, 1)
        later = PROGRESS.model_copy(update={"iteration": 7})
        endings = [
            Finish(job_id, 1, JobState.Succeeded, result=RESULT, progress=[PROGRESS, later]) for job_id in (lost, done)
        ]
        assert [type(refusal) for refusal in store.finish_all(endings)] == [StaleAttempt, type(None)]
        assert store.get(done).progress == later
        assert [event.type for event in store.events(done)] == ["state", "state", "progress", "progress", "state"]
        assert store.get(lost).progress is None

    def test_nothing_to_end_is_fine(self, store: JobStore) -> None:
        assert store.finish_all([]) == []


class TestHolding:
    def test_each_lease_answers_for_its_own_job(self, store: JobStore) -> None:
        held, cancelled, lost, gone = running(store, 4)
        store.request_cancel(cancelled)
        store.release(lost, 1)
        store.stop(gone, 1, JobState.Cancelled)
        states = store.renew_all([(job_id, 1) for job_id in (held, cancelled, lost, gone)], LEASE_S)
        assert states == [LeaseState.Held, LeaseState.CancelRequested, LeaseState.Lost, LeaseState.Lost]

    def test_all_leases_are_prolonged(self, store: JobStore) -> None:
        ids = running(store, 3)
        store.renew_all([(job_id, 1) for job_id in ids], -1.0)
        assert {taken.job_id for taken in store.reclaim_lapsed(3)} == set(ids)

    def test_each_job_gets_its_own_progress(self, store: JobStore) -> None:
        first, second, lost = running(store, 3)
        store.release(lost, 1)
        other = PROGRESS.model_copy(update={"iteration": 7})
        assert store.report_all([(first, 1, PROGRESS), (lost, 1, PROGRESS), (second, 1, other)]) == [
            LeaseState.Held,
            LeaseState.Lost,
            LeaseState.Held,
        ]
        assert [store.get(job_id).progress for job_id in (first, second, lost)] == [PROGRESS, other, None]
        assert [event.type for event in store.events(second)] == ["state", "state", "progress"]


class TestOnAServer:
    def test_a_group_is_one_round_trip_and_one_transaction(
        self, own_server: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = RedisJobStore.from_settings(Settings(redis_url=own_server.url))
        client = redis.Redis.from_url(own_server.url)
        ids = running(store, 64)
        # How often the server writes says nothing: it answers in as many pieces as the request reaches it in, which
        # are more on a busy machine. What costs a round trip is that the client sends, and then waits.
        sent, send = [], redis.Connection.send_packed_command

        def heard(self: redis.Connection, *args: Any, **named: Any) -> None:
            sent.append(args)
            send(self, *args, **named)

        monkeypatch.setattr(redis.Connection, "send_packed_command", heard)
        ends = [Finish(job_id, 1, JobState.Succeeded, result=RESULT, progress=[PROGRESS]) for job_id in ids]
        for writes in (
            lambda: store.renew_all([(job_id, 1) for job_id in ids], LEASE_S),
            lambda: store.report_all([(job_id, 1, PROGRESS) for job_id in ids]),
            lambda: store.finish_all(ends),
        ):
            writes()  # the first may have to bring its script along
            client.config_resetstat()
            sent.clear()
            assert len(writes()) == 64  # type: ignore[no-untyped-call]
            assert len(sent) == 1
            calls = {name: told["calls"] for name, told in client.info("commandstats").items()}
            assert calls["cmdstat_exec"] == 1
            assert calls["cmdstat_evalsha"] == 64

    def test_scripts_that_the_server_forgot_come_back(self, valkey: Settings) -> None:
        store = RedisJobStore.from_settings(valkey)
        ids = running(store, 3)
        redis.Redis.from_url(valkey.redis_url).script_flush()
        assert store.finish_all([Finish(job_id, 1, JobState.Failed, error=ERROR) for job_id in ids]) == [None] * 3
        assert {store.get(job_id).state for job_id in ids} == {JobState.Failed}

    def test_a_repeated_group_changes_nothing(self, valkey: Settings) -> None:
        """redis-py sends a transaction again when the link broke before the answer came."""
        store, calls, executor = RedisJobStore.from_settings(valkey), JobCalls(valkey), Executor(valkey, "ihvp.jobs")
        ids = running(store, 3)
        reports = [calls.report(job_id, 1, PROGRESS) for job_id in ids]
        assert executor.run_all(reports) == executor.run_all(reports)
        ends = [calls.finish_unread(Finish(job_id, 1, JobState.Succeeded, result=RESULT)) for job_id in ids]
        assert executor.run_all(ends) == executor.run_all(ends) == [None] * 3
        for job_id in ids:
            assert [event.type for event in store.events(job_id)] == ["state", "state", "progress", "state"]
            store.delete(job_id)
        assert store.referenced_blobs() == set()

    def test_a_server_that_is_full_says_so_and_nothing_is_half_done(self, own_server: EmbeddedStore) -> None:
        store = RedisJobStore.from_settings(Settings(redis_url=own_server.url, namespace=secrets.token_hex(4)))
        client = redis.Redis.from_url(own_server.url)
        ends = [Finish(job_id, 1, JobState.Succeeded, result=RESULT) for job_id in running(store, 3)]
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            store.finish_all(ends)
        client.config_set("maxmemory", "0")
        assert {store.get(end.job_id).state for end in ends} == {JobState.Running}
        assert store.finish_all(ends) == [None] * 3

    def test_a_server_that_is_away_is_told(self, own_server: EmbeddedStore) -> None:
        store = RedisJobStore.from_settings(Settings(redis_url=own_server.url))
        ids = running(store, 2)
        own_server.stop()
        with pytest.raises(StoreUnavailable):
            store.renew_all([(job_id, 1) for job_id in ids], LEASE_S)
