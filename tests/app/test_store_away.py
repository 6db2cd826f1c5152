"""A store that is gone, or that is there and silent: callers are told within a second, and nothing else happens."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.driver import Service, running_api

CALLERS = 100


@pytest.fixture
def alone(own_server: EmbeddedStore, tmp_path: Path) -> Iterator[Service]:
    """A service on a store of its own."""
    settings = Settings(redis_url=own_server.url, namespace="alone", data_dir=tmp_path / "data", log_level="error")
    with (
        running_api(settings) as url,
        httpx.Client(base_url=url, timeout=20, limits=httpx.Limits(max_connections=CALLERS)) as http,
        closing(RedisJobStore.from_settings(settings)) as jobs,
    ):
        yield Service(settings, http, jobs, FilesystemBlobStore(settings.blob_dir, settings.max_store_bytes))


def test_a_silent_store_is_told_to_each_of_many_callers_in_a_moment(alone: Service, own_server: EmbeddedStore) -> None:
    alone.register("line")
    job = alone.submit()["id"]
    body = alone.submission()
    assert own_server._process is not None
    os.kill(own_server._process.pid, signal.SIGSTOP)
    try:

        def ask(number: int) -> tuple[int, str, str | None, float]:
            began = time.monotonic()
            if number % 2:
                answer = alone.http.get(f"/v1/jobs/{job}")
            else:
                answer = alone.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": str(number)})
            took = time.monotonic() - began
            return answer.status_code, answer.json()["code"], answer.headers.get("Retry-After"), took

        with ThreadPoolExecutor(CALLERS) as pool:
            answers = list(pool.map(ask, range(CALLERS)))
    finally:
        os.kill(own_server._process.pid, signal.SIGCONT)
    assert {answer[:3] for answer in answers} == {(503, "store_unavailable", "1")}
    # Each waits at most twice: for a connection, and for an answer. The callers share two cores with the service here.
    assert sorted(seconds for *_, seconds in answers)[CALLERS // 2] < 3.0
    # What was refused was not half done: the same keys make one job each, now that the store answers.
    until = time.monotonic() + 10
    while alone.http.get("/v1/jobs").status_code != 200 and time.monotonic() < until:
        time.sleep(0.05)
    for number in range(0, 10, 2):
        answer = alone.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": str(number)})
        assert answer.status_code in (200, 202)
    assert len(alone.http.get("/v1/jobs", params={"limit": 200}).json()["jobs"]) >= 6


def test_one_caller_waits_less_than_a_second(alone: Service, own_server: EmbeddedStore) -> None:
    assert own_server._process is not None
    os.kill(own_server._process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = alone.http.get("/v1/jobs")
        took = time.monotonic() - began
    finally:
        os.kill(own_server._process.pid, signal.SIGCONT)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert took < 1.0
