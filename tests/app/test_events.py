"""The event stream: everything once, in order, resumable, and at its end when the job is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import redis

from tests.app.conftest import MakeService
from tests.app.driver import Service, problem


def read_events(service: Service, job_id: str, after: str | None = None) -> Iterator[dict[str, Any]]:
    headers = {"Last-Event-ID": after} if after else {}
    with service.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name in {"event", "id"}:
                event[name] = value
            elif name == "data":
                event["data"] = json.loads(value)
            elif not line and event:
                yield event
                event = {}


def states(events: list[dict[str, Any]]) -> list[str]:
    return [e["data"]["state"] for e in events if e["event"] == "state"]


def test_a_finished_job_streams_its_whole_story_and_ends(service: Service) -> None:
    job = service.submit()
    claimed = service.claim(job["id"])
    service.report(claimed, 1)
    service.finish(claimed, np.zeros(3, np.float32))
    events = list(read_events(service, job["id"]))
    assert states(events) == ["queued", "running", "succeeded"]
    assert [e["data"]["iteration"] for e in events if e["event"] == "progress"] == [1]
    assert len({e["id"] for e in events}) == len(events)


def test_events_arrive_as_they_happen(service: Service) -> None:
    job = service.submit()
    stream = read_events(service, job["id"])
    assert next(stream)["data"]["state"] == "queued"
    claimed = service.claim(job["id"])
    started = time.monotonic()
    assert next(stream)["data"]["state"] == "running"
    assert time.monotonic() - started < 0.8, "was polled for, not pushed"
    service.report(claimed, 3)
    assert next(stream)["data"]["iteration"] == 3
    service.finish(claimed, np.zeros(3, np.float32))
    assert [e["data"]["state"] for e in stream] == ["succeeded"]


def test_a_stream_resumes_after_the_last_event_without_loss(service: Service) -> None:
    job = service.submit()
    claimed = service.claim(job["id"])
    for i in range(5):
        service.report(claimed, i)
    service.finish(claimed, np.zeros(3, np.float32))
    whole = list(read_events(service, job["id"]))
    for seen in range(1, len(whole)):
        assert list(read_events(service, job["id"], after=whole[seen - 1]["id"])) == whole[seen:]


def test_a_browser_that_has_it_all_is_told_not_to_come_back(service: Service) -> None:
    job = service.finished()
    last = list(read_events(service, job["id"]))[-1]["id"]
    response = service.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last})
    assert response.status_code == 204


def test_who_comes_back_too_late_is_told_of_the_gap(make_service: MakeService) -> None:
    service = make_service(event_limit=10)
    job = service.submit()
    claimed = service.claim(job["id"])
    service.report(claimed, 0)
    whole = read_events(service, job["id"])
    seen = [next(whole) for _ in range(3)][-1]
    assert seen["data"]["iteration"] == 0
    for i in range(1, 50):
        service.report(claimed, i)
    service.finish(claimed, np.zeros(3, np.float32))
    gap, *rest = read_events(service, job["id"], after=seen["id"])
    assert (gap["event"], gap["data"]) == ("gap", {"after": seen["id"], "dropped": "progress"})
    assert gap["id"] == seen["id"], "resuming after it is resuming after the last event that was seen"
    iterations = [e["data"]["iteration"] for e in rest if e["event"] == "progress"]
    assert iterations == list(range(50 - len(iterations), 50))
    assert states(rest) == ["succeeded"]
    # Who was there in time is told of none.
    assert [e["event"] for e in read_events(service, job["id"], after=rest[0]["id"])].count("gap") == 0


def test_a_position_that_is_none(service: Service) -> None:
    job = service.submit()
    for position in ("now", "99999999999999999999999-0", "1-2-3"):
        response = service.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": position})
        problem(response, 422, "validation_error")


def test_no_event_is_lost_between_reading_and_waiting(service: Service) -> None:
    """Many streams on a job that moves as fast as it can: each sees every point."""
    job = service.submit()
    claimed = service.claim(job["id"])
    ready = threading.Barrier(9)

    def follow() -> list[int]:
        ready.wait()
        return [e["data"]["iteration"] for e in read_events(service, job["id"]) if e["event"] == "progress"]

    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(follow) for _ in range(8)]
        ready.wait()
        for i in range(100):
            service.report(claimed, i)
        service.finish(claimed, np.zeros(3, np.float32))
        for stream in streams:
            assert stream.result(20) == list(range(100))


def test_hundreds_of_waiters_cost_no_store_connection_each(make_service: MakeService) -> None:
    service = make_service()
    job = service.submit()
    server = redis.Redis.from_url(service.settings.redis_url)
    before = len(server.client_list())
    limits = httpx.Limits(max_connections=300)
    with (
        httpx.Client(base_url=service.http.base_url, limits=limits, timeout=30) as http,
        ThreadPoolExecutor(200) as pool,
    ):
        held = [pool.submit(http.get, f"/v1/jobs/{job['id']}?wait=14") for _ in range(200)]
        time.sleep(2.5)
        assert not any(h.done() for h in held)
        assert len(server.client_list()) - before <= 40
        service.claim(job["id"])
        assert {h.result(10).json()["state"] for h in held} == {"running"}


def test_a_dropped_subscription_delays_waiters_and_strands_none(service: Service) -> None:
    job = service.submit()
    server = redis.Redis.from_url(service.settings.redis_url)
    with ThreadPoolExecutor() as pool:
        held = pool.submit(service.http.get, f"/v1/jobs/{job['id']}?wait=10")
        time.sleep(0.3)
        server.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        service.claim(job["id"])
        assert held.result(4).json()["state"] == "running"
    # The hub subscribes again: soon, changes are pushed as before.
    time.sleep(1.5)
    other = service.submit()
    with ThreadPoolExecutor() as pool:
        held = pool.submit(service.http.get, f"/v1/jobs/{other['id']}?wait=10")
        time.sleep(0.3)
        started = time.monotonic()
        service.claim(other["id"])
        assert held.result(4).json()["state"] == "running"
        assert time.monotonic() - started < 0.8
