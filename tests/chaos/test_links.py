"""The store and the links to it fail under working workers."""

from __future__ import annotations

import json
import time
from datetime import datetime
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis

from ihvp.jobs.states import JobState
from tests.chaos.cluster import Cluster, clock_shift
from tests.chaos.proxy import SilentProxy
from tests.waiting import eventually

pytestmark = pytest.mark.service


def broker(cluster: Cluster) -> redis.Redis:
    return redis.Redis.from_url(cluster.settings.resolved_broker_url)


@pytest.mark.chaos
def test_a_store_killed_under_a_running_solve_costs_not_even_an_attempt(running: Cluster) -> None:
    running.worker()
    job_id = running.submit(**running.problem.slow())
    running.solving(job_id)
    running.restart_store()
    # What it has solved is worth more than the outage: the worker holds on until the store is back.
    job = running.ended(job_id)
    assert (job.state, job.attempt) == (JobState.Succeeded, 1)
    assert running.states(job_id) == ["queued", "running", "succeeded"]
    assert running.ended(running.submit()).state is JobState.Succeeded


def test_a_broker_flushed_under_a_waiting_worker_strands_nobody(running: Cluster) -> None:
    running.worker()
    assert running.ended(running.submit()).state is JobState.Succeeded
    with broker(running) as client:
        eventually(lambda: any(c["cmd"] == "brpop" for c in client.client_list()), what="waiting for messages")
        client.flushdb()
        began = time.monotonic()
        assert running.ended(running.submit()).state is JobState.Succeeded
        print(f"solved {time.monotonic() - began:.2f} s after the flush")


def test_messages_that_are_doubled_and_reordered_change_nothing(running: Cluster) -> None:
    ids = [running.submit() for _ in range(6)]
    first = running.submit(priority="high")
    with broker(running) as client:
        queue = running.settings.queue_name
        messages = eventually(lambda: client.lrange(queue, 0, -1) if client.llen(queue) >= 7 else None)
        # The reconciler is kept from adding its own meanwhile; the order is turned round, and each comes twice.
        client.delete(queue)
        client.rpush(queue, *[message for message in messages for _ in range(2)])
    worker = running.worker(coalesce_rhs=1)
    jobs = [running.ended(job_id) for job_id in [first, *ids]]
    assert {(job.state, job.attempt) for job in jobs} == {(JobState.Succeeded, 1)}
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    claimed = [line["job_id"] for line in lines if line["event"] == "job_claimed"]
    assert claimed == [first, *ids], "the store's order, not the messages'"


@pytest.mark.chaos
def test_a_link_that_goes_silent_costs_one_attempt_and_the_worker_comes_back(running: Cluster) -> None:
    with SilentProxy(running.server.port) as proxy:
        parts = urlsplit(running.server.url)
        through = urlunsplit(parts._replace(netloc=parts.netloc.replace(str(parts.port), str(proxy.port))))
        cut_off = running.worker(redis_url=through)
        job_id = running.submit(**running.problem.slow())
        running.solving(job_id)
        proxy.silence()
        other = running.worker()
        job = running.ended(job_id)
        assert (job.state, job.attempt) == (JobState.Succeeded, 2)
        # Everything that was on its way arrives now, renewals and progress of the lost attempt among it.
        proxy.speak()
        other.kill()
        assert running.ended(running.submit()).state is JobState.Succeeded, "by the worker that was cut off"
        assert cut_off.process.poll() is None
        assert running.store.get(job_id) == job


@pytest.mark.chaos
@pytest.mark.skipif(clock_shift("+1h") is None, reason="faketime is not installed: apt-get install faketime")
@pytest.mark.parametrize("skew", ["-2h", "+2h"])
def test_a_worker_whose_clock_is_wrong_works_like_any_other(running: Cluster, skew: str) -> None:
    worker = running.worker(*(clock_shift(skew) or ()))
    job_id = running.submit(**running.problem.slow(4_000), deadline_s=3600)
    running.solving(job_id)
    # Another looks on meanwhile: it may not think that the lease has run out.
    running.reconciler()
    job = running.ended(job_id)
    assert (job.state, job.attempt) == (JobState.Succeeded, 1)
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at, "all times are the store's"
    stated = [json.loads(line)["timestamp"] for line in worker.log.read_text().splitlines() if line.startswith("{")]
    assert abs(time.time() - _epoch(stated[-1])) > 3600, "or its clock was right"


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
